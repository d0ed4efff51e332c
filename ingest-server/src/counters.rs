//! Counts of what comes in and what is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Counters of the server, for `/metrics`.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub samples: AtomicU64,
    pub exemplars: AtomicU64,
    pub spans: AtomicU64,
    pub received_bytes: AtomicU64,
    pub dropped_samples: AtomicU64,
    pub log_records_refused: AtomicU64,
    pub early_flushes: AtomicU64,
    refused: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Counters {
    /// Counts items of a protocol refused for a reason.
    pub fn refuse(&self, protocol: &'static str, reason: &'static str, n: u64) {
        if n > 0 {
            *self.refused.lock().entry((protocol, reason)).or_default() += n;
        }
    }
    /// Counts a request of a protocol by its answer.
    pub fn request(&self, protocol: &'static str, code: u16) {
        *self.requests.lock().entry((protocol, code)).or_default() += 1;
    }
    /// Refusals by protocol and reason.
    pub fn refused(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.refused.lock().clone()
    }
    /// Requests by protocol and code.
    pub fn requests(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.requests.lock().clone()
    }
    /// Adds to a counter.
    pub fn add(c: &AtomicU64, n: u64) {
        c.fetch_add(n, Ordering::Relaxed);
    }
}
