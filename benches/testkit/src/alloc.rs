//! An allocator that counts: bytes alive, their peak, and calls.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};

use mimalloc::MiMalloc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The allocator of the server, counted. Install it with `#[global_allocator]` in a bench or test.
pub struct CountingAllocator;

static STOPPED: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// What was counted since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// Bytes alive now.
    pub live_bytes: u64,
    /// The most that were alive since [`Allocations::reset_peak`].
    pub peak_bytes: u64,
    /// Calls that gave memory.
    pub calls: u64,
    /// Bytes given in all.
    pub total_bytes: u64,
}

impl Allocations {
    /// The counts now.
    pub fn now() -> Self {
        Allocations {
            live_bytes: LIVE.load(Relaxed),
            peak_bytes: PEAK.load(Relaxed),
            calls: CALLS.load(Relaxed),
            total_bytes: TOTAL.load(Relaxed),
        }
    }
    /// Lets the peak start anew from what is alive.
    pub fn reset_peak() {
        PEAK.store(LIVE.load(Relaxed), Relaxed);
    }
}

impl CountingAllocator {
    /// Ends counting for good, so that it costs nothing where time is measured. Counts mean nothing from here on.
    pub fn stop() {
        STOPPED.store(true, Relaxed);
    }
}

fn grown(bytes: usize) {
    if STOPPED.load(Relaxed) {
        return;
    }
    let live = LIVE.fetch_add(bytes as u64, Relaxed) + bytes as u64;
    PEAK.fetch_max(live, Relaxed);
    CALLS.fetch_add(1, Relaxed);
    TOTAL.fetch_add(bytes as u64, Relaxed);
}

fn shrunk(bytes: usize) {
    if STOPPED.load(Relaxed) {
        return;
    }
    LIVE.fetch_sub(bytes as u64, Relaxed);
}

// SAFETY: every call goes to `MiMalloc` with the caller's own layout and pointer; only counters are added.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { MiMalloc.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { MiMalloc.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        grown(new_size);
        shrunk(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { MiMalloc.realloc(ptr, layout, new_size) }
    }
}
