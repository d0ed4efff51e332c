//! Deletes that retention has passed are forgotten, on every node of a bucket, and no sooner.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{SelectRequest, SeriesSource};
use strandline_wal::fs::{Fs, SimFs};

const HOUR: i64 = 3_600_000;
const T0: i64 = 1_700_006_400_000;
const RETENTION: i64 = 48 * HOUR;

struct World {
    fs: SimFs,
    clock: ManualClock,
}

impl World {
    fn new() -> World {
        World { fs: SimFs::new(), clock: ManualClock::new(T0 + HOUR) }
    }

    fn open(&self, dir: &str, retention_ms: i64, with_bucket: bool) -> MetricStore {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let mut o = MetricOptions::new(fs.clone(), Arc::new(self.clock.clone()), dir);
        (o.wal.background, o.retention_ms) = (false, retention_ms);
        o.bucket = with_bucket.then(|| -> Arc<dyn Bucket> { Arc::new(LocalBucket::open(fs, "/bucket").unwrap()) });
        MetricStore::open(o).unwrap()
    }

    /// Files of deletes.
    fn deletes(&self, prefix: &str) -> usize {
        self.fs.files().iter().filter(|(p, _)| p.starts_with(prefix) && p.to_string_lossy().contains("/deletes/")).count()
    }
}

fn append(s: &MetricStore, t: i64) {
    let mut b = BatchBuilder::default();
    for i in 0..2 {
        let k = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]));
        b.push(k, t, 0, Value::Float(1.0));
    }
    s.append(&b.finish()).unwrap().commit.wait().unwrap();
}

fn delete(s: &MetricStore, min_ms: i64, max_ms: i64) {
    s.delete(TimeRange::new(min_ms, max_ms), vec![Matcher::equal("i", "1")]).unwrap();
}

fn is_seen(s: &MetricStore, range: TimeRange) -> bool {
    let sel = s.select(&SelectRequest::new(vec![Matcher::equal("i", "1")], range)).unwrap();
    !sel.is_empty()
}

#[test]
fn a_delete_that_retention_has_passed_is_forgotten_by_every_node() {
    let w = World::new();
    let a = w.open("/a", RETENTION, true);
    append(&a, T0);
    a.flush().unwrap();
    a.upload().unwrap();
    let b = w.open("/b", RETENTION, true);
    delete(&a, T0, T0 + 1000);
    let deleted = TimeRange::new(T0, T0 + 1000);
    for hour in 0..100 {
        w.clock.advance(HOUR);
        for s in [&a, &b] {
            s.maintain().unwrap();
            assert!(!is_seen(s, deleted), "{hour}");
        }
        // Each is kept twice on a disk. The oldest block that may hold its range is 18 hours wide.
        let there = (w.deletes("/a"), w.deletes("/b"), w.deletes("/bucket"));
        match hour {
            0..64 => assert_eq!(there, (2, 2, 1), "{hour}"),
            66.. => assert_eq!(there, (0, 0, 0), "{hour}"),
            _ => {}
        }
    }
    // What is deleted now stays deleted.
    let now = T0 + 101 * HOUR;
    append(&a, now);
    delete(&a, now - HOUR, now);
    a.maintain().unwrap();
    drop((a, b));
    let a = w.open("/a", RETENTION, true);
    a.maintain().unwrap();
    assert!(!is_seen(&a, TimeRange::all()) && w.deletes("/a") == 2);
}

#[test]
fn a_node_with_a_longer_retention_keeps_the_delete() {
    let w = World::new();
    let a = w.open("/a", RETENTION, true);
    let b = w.open("/b", 3 * RETENTION, true);
    append(&b, T0);
    delete(&a, T0 - HOUR, T0);
    for _ in 0..90 {
        w.clock.advance(HOUR);
        a.maintain().unwrap();
        b.maintain().unwrap();
    }
    // It has put it there again, for those that come later, and the other neither takes it on nor removes it once more.
    assert_eq!((w.deletes("/a"), w.deletes("/b"), w.deletes("/bucket")), (0, 2, 1));
    assert!(!is_seen(&b, TimeRange::all()));
    assert!(!is_seen(&w.open("/c", 3 * RETENTION, true), TimeRange::all()));
}

#[test]
fn a_delete_is_kept_without_retention_and_forgotten_without_a_bucket() {
    for (retention_ms, kept) in [(0, 2), (RETENTION, 0)] {
        let w = World::new();
        let s = w.open("/a", retention_ms, false);
        append(&s, T0);
        delete(&s, T0, T0 + 1000);
        for _ in 0..100 {
            w.clock.advance(HOUR);
            s.maintain().unwrap();
            assert!(!is_seen(&s, TimeRange::all()));
        }
        assert_eq!(w.deletes("/a"), kept);
    }
}
