//! What an append gives: a promise to be told when it is durable.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::WalError;
use crate::log::Shared;

/// A commit under way. Wait for it on a thread, or poll it as a future; dropping it forgets nothing.
#[must_use = "an append counts once its ticket resolves"]
pub struct Ticket {
    shared: Arc<Shared>,
    first: u64,
    last: u64,
}

impl Ticket {
    pub(crate) fn new(shared: Arc<Shared>, first: u64, last: u64) -> Self {
        Ticket { shared, first, last }
    }

    /// The sequence number of the record, of the last one if it is for several.
    pub fn seq(&self) -> u64 {
        self.last
    }

    /// Blocks until the record is durable (as the sync mode has it) or its commit failed.
    /// The first to wait commits for all that are queued.
    pub fn wait(self) -> Result<(), WalError> {
        self.shared.wait(self.first, self.last)
    }

    /// The outcome, if it is known.
    pub fn try_get(&self) -> Option<Result<(), WalError>> {
        self.shared.outcome(self.first, self.last)
    }
}

impl Future for Ticket {
    type Output = Result<(), WalError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.shared.poll(self.first, self.last, cx.waker()) {
            Some(r) => Poll::Ready(r),
            None => Poll::Pending,
        }
    }
}
