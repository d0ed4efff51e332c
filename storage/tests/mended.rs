//! Blocks whose descriptions were damaged and made anew, and deletes: what was deleted stays away, and what came after a delete
//! stays, where anything is left that tells them apart.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::fs::{Fs, SimFs};

const MINUTE: i64 = 60_000;
const T0: i64 = 1_700_006_400_000;

struct World {
    fs: SimFs,
    clock: ManualClock,
    with_bucket: bool,
}

impl World {
    fn open(&self, dir: &str) -> MetricStore {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let mut o = MetricOptions::new(fs.clone(), Arc::new(self.clock.clone()), dir);
        o.wal.background = false;
        o.bucket = self.with_bucket.then(|| -> Arc<dyn Bucket> { Arc::new(LocalBucket::open(fs, "/bucket").unwrap()) });
        MetricStore::open(o).unwrap()
    }

    /// A block before a delete, one that is made of it, and one with samples that were sent after it, for the same time.
    fn fill(&self) {
        let s = self.open("/a");
        append(&s, T0, 10);
        s.flush().unwrap();
        s.delete(TimeRange::new(T0, T0 + 30 * MINUTE), vec![Matcher::equal("i", "1")]).unwrap();
        append(&s, T0 + 10 * MINUTE, 3);
        s.flush().unwrap();
        if self.with_bucket {
            s.upload().unwrap();
        }
        assert_eq!(counts(&s), [13, 3]);
        s.close().unwrap();
    }

    fn damage_descriptions(&self) {
        let all: Vec<_> = self.fs.files().into_iter().filter(|(p, _)| p.file_name() == Some("meta.json".as_ref())).collect();
        assert_eq!(all.len(), 2);
        all.iter().for_each(|(p, len)| self.fs.flip_bit(p, len / 2, 1));
    }
}

fn append(s: &MetricStore, from: i64, n: i64) {
    let mut b = BatchBuilder::default();
    for i in 0..2 {
        let k = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]));
        (0..n).for_each(|j| b.push(k, from + j * 1000, 0, Value::Float(j as f64)));
    }
    s.append(&b.finish()).unwrap().commit.wait().unwrap();
}

/// Samples of each series.
fn counts(s: &MetricStore) -> [usize; 2] {
    ["0", "1"].map(|i| {
        let sel = s.select(&SelectRequest::new(vec![Matcher::equal("i", i)], TimeRange::all())).unwrap();
        let mut buf = SampleBuf::default();
        (0..sel.len()).for_each(|k| sel.read(k, TimeRange::all(), &mut buf).unwrap());
        buf.len()
    })
}

#[test]
fn a_description_made_anew_knows_which_deletes_lie_behind_its_block() {
    for with_bucket in [false, true] {
        let w = World { fs: SimFs::new(), clock: ManualClock::new(T0 + 20 * MINUTE), with_bucket };
        w.fill();
        w.damage_descriptions();
        let s = w.open("/a");
        assert_eq!(counts(&s), [13, 3], "with bucket: {with_bucket}");
        s.close().unwrap();
        // What was mended is there for good, and a merge goes by it.
        let s = w.open("/a");
        s.clean_tombstones().unwrap();
        assert_eq!(counts(&s), [13, 3], "with bucket: {with_bucket}");
    }
}

#[test]
fn what_was_deleted_does_not_come_back_where_nothing_tells_what_came_after() {
    let w = World { fs: SimFs::new(), clock: ManualClock::new(T0 + 20 * MINUTE), with_bucket: true };
    w.fill();
    w.damage_descriptions();
    // A machine that has never seen the bucket.
    let s = w.open("/b");
    assert_eq!(counts(&s), [13, 0]);
    assert!(w.fs.exists(Path::new("/b/metrics/bucket-blocks.json")));
}
