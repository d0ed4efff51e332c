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
    seq: u64,
}

impl Ticket {
    pub(crate) fn new(shared: Arc<Shared>, seq: u64) -> Self {
        Ticket { shared, seq }
    }

    /// The record's sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Blocks until the record is durable (as the sync mode has it) or its commit failed.
    /// The first to wait commits for all that are queued.
    pub fn wait(self) -> Result<(), WalError> {
        self.shared.wait(self.seq)
    }

    /// The outcome, if it is known.
    pub fn try_get(&self) -> Option<Result<(), WalError>> {
        self.shared.outcome(self.seq)
    }
}

impl Future for Ticket {
    type Output = Result<(), WalError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.shared.poll(self.seq, cx.waker()) {
            Some(r) => Poll::Ready(r),
            None => Poll::Pending,
        }
    }
}
