//! Blocks in a bucket that has no local paths.

use super::*;

/// A bucket that lies far away: no local paths, reads counted.
pub(super) struct Far {
    pub inner: LocalBucket,
    pub reads: Arc<std::sync::atomic::AtomicUsize>,
    pub meeting: Arc<Meeting>,
    /// Asked before a file is put; an error is the answer.
    pub before_file: Box<BeforeFile>,
}

type BeforeFile = dyn Fn(&str, &Path) -> crate::Result<()> + Send + Sync;

/// Reads wait here until so many are there, if any are wanted; in vain, if they come one after the other.
#[derive(Default)]
pub(super) struct Meeting {
    wanted: std::sync::atomic::AtomicUsize,
    there: std::sync::Mutex<usize>,
    came: std::sync::Condvar,
}

impl Meeting {
    fn attend(&self) {
        let wanted = self.wanted.load(std::sync::atomic::Ordering::SeqCst);
        let mut there = self.there.lock().unwrap();
        *there += 1;
        self.came.notify_all();
        let _ = self.came.wait_timeout_while(there, std::time::Duration::from_secs(20), |n| *n < wanted).map(|(_, t)| {
            assert!(!t.timed_out(), "reads of far blocks wait for one another");
        });
    }
}

impl Bucket for Far {
    fn name(&self) -> String {
        "far".into()
    }
    fn put(&self, key: &str, content: bytes::Bytes) -> crate::Result<()> {
        self.inner.put(key, content)
    }
    fn put_file(&self, key: &str, path: &Path) -> crate::Result<()> {
        (self.before_file)(key, path)?;
        self.inner.put_file(key, path)
    }
    fn put_if_absent(&self, key: &str, content: bytes::Bytes) -> crate::Result<bool> {
        self.inner.put_if_absent(key, content)
    }
    fn get(&self, key: &str) -> crate::Result<bytes::Bytes> {
        self.inner.get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> crate::Result<bytes::Bytes> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.meeting.attend();
        self.inner.get_range(key, offset, len)
    }
    fn size(&self, key: &str) -> crate::Result<u64> {
        self.inner.size(key)
    }
    fn list(&self, prefix: &str) -> crate::Result<Vec<crate::bucket::ObjectInfo>> {
        self.inner.list(prefix)
    }
    fn list_folders(&self, prefix: &str) -> crate::Result<Vec<String>> {
        self.inner.list_folders(prefix)
    }
    fn delete(&self, key: &str) -> crate::Result<()> {
        self.inner.delete(key)
    }
}

#[test]
fn a_far_trace_costs_one_tail_read_a_block_and_one_more_where_it_lies() {
    let rig = Rig::new();
    let reads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut o = rig.options().unwrap();
    o.bucket = Arc::new(Far {
        inner: LocalBucket::open(o.fs.clone(), "/data/bucket").unwrap(),
        reads: reads.clone(),
        meeting: Arc::default(),
        before_file: Box::new(|_, _| Ok(())),
    });
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
    let taken = |n: &Arc<std::sync::atomic::AtomicUsize>| n.swap(0, std::sync::atomic::Ordering::SeqCst);
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
        let inner = LocalBucket::open(o.fs.clone(), "/data/bucket").unwrap();
        o.bucket = Arc::new(Far { inner, reads: Arc::default(), meeting: meeting.clone(), before_file: Box::new(|_, _| Ok(())) });
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
    meeting.wanted.store(8, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(count(&store, true), 24);
    drop(store);
    let meeting = Arc::new(Meeting::default());
    let store = open(&meeting);
    meeting.wanted.store(8, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(store.trace(TraceId([1; 16])).unwrap().unwrap().spans.len(), 8);
}
