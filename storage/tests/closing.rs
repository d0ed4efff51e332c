//! A close while something is being written: the folder is another's only after that.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::Labels;
use strandline_wal::fs::{Fs, FsCall, SimFs};

const T0: i64 = 1_700_006_400_000;
const HOUR: i64 = 3_600_000;

fn open(fs: &SimFs, clock: &ManualClock, dir: &str) -> MetricStore {
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut o = MetricOptions::new(shared.clone(), Arc::new(clock.clone()), dir);
    (o.wal.background, o.compaction) = (false, false);
    o.bucket = Some(Arc::new(LocalBucket::open(shared, "/b").unwrap()));
    MetricStore::open(o).unwrap()
}

fn append(s: &MetricStore, t: i64) {
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", "m")]));
    b.push(k, t, 0, Value::Float(1.0));
    s.append(&b.finish()).unwrap().commit.wait().unwrap();
}

/// Runs `errand`, and a close from the moment on at which the errand renames something to a name that contains `at`; gives
/// whether the close waited for it.
fn closed_in_the_midst(fs: &SimFs, s: &MetricStore, at: &'static str, errand: impl FnOnce()) -> bool {
    let (tell, told) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let store = s.clone();
    let close = move || {
        std::thread::spawn(move || ended.send(store.close()).unwrap());
        // One that does not wait is through long before.
        let early = end.recv_timeout(Duration::from_millis(500));
        tell.send((early.is_err(), end)).unwrap();
    };
    let close = Mutex::new(Some(close));
    fs.watch(move |call| {
        let due = matches!(call, FsCall::Rename(to) if to.to_string_lossy().contains(at));
        let close = close.lock().unwrap().take_if(|_| due);
        close.into_iter().for_each(|close| close());
        Ok(())
    });
    errand();
    let (waited, end) = told.try_recv().unwrap();
    if waited {
        end.recv().unwrap().unwrap();
    }
    waited
}

#[test]
fn a_close_waits_for_a_flush_and_no_block_is_left_that_nobody_names() {
    let fs = SimFs::new();
    let clock = ManualClock::new(T0 + HOUR);
    let s = open(&fs, &clock, "/data");
    append(&s, T0);
    assert!(closed_in_the_midst(&fs, &s, "/metrics/blocks/", || s.flush().unwrap()));
    let folders = fs.read_dir(Path::new("/data/metrics/blocks")).unwrap().len();
    let next = open(&fs, &clock, "/data");
    assert_eq!((folders, next.blocks().len(), next.head().stats().min_t > next.head().stats().max_t), (1, 1, true));
}

#[test]
fn a_close_waits_for_the_list_of_the_buckets_blocks() {
    let fs = SimFs::new();
    let clock = ManualClock::new(T0 + HOUR);
    let (s, other) = (open(&fs, &clock, "/data"), open(&fs, &clock, "/other"));
    append(&other, T0);
    other.flush().unwrap();
    other.upload().unwrap();
    clock.advance(HOUR);
    assert!(closed_in_the_midst(&fs, &s, "/data/metrics/bucket-blocks.json", || drop(s.tend())));
}
