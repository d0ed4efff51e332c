//! Blocks in a bucket that has no local paths.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::bucket::{BucketCall, SimBucket};

/// A bucket that lies far away, whose reads are counted and meet one another.
fn far(fs: Arc<dyn Fs>, reads: &Arc<AtomicUsize>, meeting: &Arc<Meeting>) -> Arc<SimBucket> {
    let (reads, meeting) = (reads.clone(), meeting.clone());
    let bucket = SimBucket::over(LocalBucket::open(fs, "/data/bucket").unwrap()).before(move |call| {
        if let BucketCall::Ranges(_, n) = call {
            reads.fetch_add(n, Ordering::SeqCst);
            meeting.attend();
        }
        Ok(())
    });
    Arc::new(bucket)
}

/// Reads wait here until so many are there, if any are wanted; in vain, if they come one after the other.
#[derive(Default)]
struct Meeting {
    wanted: AtomicUsize,
    there: std::sync::Mutex<usize>,
    came: std::sync::Condvar,
}

impl Meeting {
    fn attend(&self) {
        let wanted = self.wanted.load(Ordering::SeqCst);
        let mut there = self.there.lock().unwrap();
        *there += 1;
        self.came.notify_all();
        let _ = self.came.wait_timeout_while(there, std::time::Duration::from_secs(20), |n| *n < wanted).map(|(_, t)| {
            assert!(!t.timed_out(), "reads of far blocks wait for one another");
        });
    }
}

#[test]
fn a_far_trace_costs_one_tail_read_a_block_and_one_more_where_it_lies() {
    let rig = Rig::new();
    let reads = Arc::new(AtomicUsize::new(0));
    let mut o = rig.options().unwrap();
    o.bucket = far(o.fs.clone(), &reads, &Arc::default());
    let store = TraceStore::open(o).unwrap();
    for block in 0..12u8 {
        // Ids on both sides, so that first and last id do not tell.
        let mut spans = vec![span(1, block + 1, NOW_MS), span(250, block + 1, NOW_MS)];
        if block < 2 {
            spans.push(span(100, block + 1, NOW_MS + i64::from(block)));
        }
        put(&store, &spans);
        store.flush().unwrap();
    }
    let taken = |n: &Arc<AtomicUsize>| n.swap(0, Ordering::SeqCst);
    taken(&reads);
    let id = TraceId([100; 16]);
    assert_eq!(store.trace(id).unwrap().unwrap().spans.len(), 2);
    let cold = taken(&reads);
    assert!(cold <= 12 + 3 * 2, "{cold} reads");
    assert_eq!(store.trace(id).unwrap().unwrap().spans.len(), 2);
    let warm = taken(&reads);
    assert!(warm <= 3 * 2, "{warm} reads once filters are there");
    assert_eq!(count(&store, true), 26, "far blocks are searched where they lie");
}

#[test]
fn far_blocks_are_waited_for_together() {
    let rig = Rig::new();
    let open = |meeting: &Arc<Meeting>| {
        let mut o = rig.options().unwrap();
        o.bucket = far(o.fs.clone(), &Arc::default(), meeting);
        TraceStore::open(o).unwrap()
    };
    let store = open(&Arc::default());
    for block in 0..8u8 {
        put(&store, &[span(1, block + 1, NOW_MS), span(block + 2, 100, NOW_MS), span(250, block + 1, NOW_MS)]);
        store.flush().unwrap();
    }
    drop(store);
    // The tails of eight blocks at once, each of which stands for a round trip.
    let meeting = Arc::new(Meeting::default());
    let store = open(&meeting);
    meeting.wanted.store(8, Ordering::SeqCst);
    assert_eq!(count(&store, true), 24);
    drop(store);
    let meeting = Arc::new(Meeting::default());
    let store = open(&meeting);
    meeting.wanted.store(8, Ordering::SeqCst);
    assert_eq!(store.trace(TraceId([1; 16])).unwrap().unwrap().spans.len(), 8);
}
