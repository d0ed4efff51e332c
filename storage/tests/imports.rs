//! Imports from a bucket beside one another, and after one that was killed.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use strandline_storage::Result;
use strandline_storage::bucket::{Bucket, BucketCall, LocalBucket, SimBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{Imported, MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::fs::{Fs, SimFs};

const T0: i64 = 1_700_006_400_000;

/// The bucket, in which something happens once, before an index is fetched: its block is copied half by then.
fn meddling(bucket: &LocalBucket, meanwhile: impl FnOnce() + Send + 'static) -> SimBucket {
    let happens = Mutex::new(Some(meanwhile));
    SimBucket::over(bucket.clone()).before(move |call| {
        let due = matches!(call, BucketCall::Size(key) if key.ends_with("index"));
        let happens = happens.lock().unwrap().take_if(|_| due);
        happens.into_iter().for_each(|what| what());
        Ok(())
    })
}

fn open(fs: &SimFs, dir: &str, tenant: &str, bucket: Option<Arc<dyn Bucket>>) -> MetricStore {
    let mut o = MetricOptions::new(Arc::new(fs.clone()), Arc::new(ManualClock::new(T0 + 3_600_000)), dir);
    (o.wal.background, o.bucket, o.tenant) = (false, bucket, tenant.to_owned());
    MetricStore::open(o).unwrap()
}

/// Puts a block with `n` samples of a metric into a bucket; gives its prefix.
fn block(fs: &SimFs, bucket: &LocalBucket, metric: &str, n: i64) -> String {
    let s = open(fs, &format!("/{metric}"), metric, Some(Arc::new(bucket.clone())));
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", metric)]));
    (0..n).for_each(|j| b.push(k, T0 + j * 1000, 0, Value::Float(j as f64)));
    s.append(&b.finish()).unwrap().commit.wait().unwrap();
    s.flush().unwrap();
    s.upload().unwrap();
    format!("metrics/{metric}/{}/", s.blocks()[0].meta.ulid)
}

fn count(s: &MetricStore, metric: &str) -> usize {
    let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", metric)], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    (0..sel.len()).map(|i| sel.read(i, TimeRange::all(), &mut buf).map(|_| buf.len()).unwrap()).sum()
}

fn copies(fs: &SimFs) -> usize {
    fs.files().iter().filter(|(p, _)| p.starts_with("/ours/import")).count()
}

#[test]
fn imports_at_once_do_not_meddle() {
    let fs = SimFs::new();
    let theirs = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
    let (one, other) = (block(&fs, &theirs, "one", 100), block(&fs, &theirs, "other", 70));
    let ours = open(&fs, "/ours", "ours", None);
    let taken = |r: Result<Imported>| assert!(matches!(r.unwrap(), Imported::Taken { .. }));

    let (store, bucket, prefix) = (ours.clone(), theirs.clone(), other.clone());
    let meanwhile = move || taken(store.import_from(&bucket, &prefix, &[]));
    taken(ours.import_from(&meddling(&theirs, meanwhile), &one, &[]));
    assert_eq!((count(&ours, "one"), count(&ours, "other"), copies(&fs)), (100, 70, 0));

    // Of one block twice at once the second is known.
    let third = block(&fs, &theirs, "third", 30);
    let (store, bucket, prefix) = (ours.clone(), theirs.clone(), third.clone());
    let meanwhile = move || taken(store.import_from(&bucket, &prefix, &[]));
    assert_eq!(ours.import_from(&meddling(&theirs, meanwhile), &third, &[]).unwrap(), Imported::Known);
    assert_eq!((count(&ours, "third"), ours.blocks().len()), (30, 3));
}

#[test]
fn what_a_killed_import_had_copied_is_gone_after_the_next_start() {
    let fs = SimFs::new();
    drop(open(&fs, "/ours", "ours", None));
    for left in ["/ours/import/index", "/ours/import/01HF8B9V802R0N4EDTRBPDG001/chunks/000001"] {
        fs.create(Path::new(left)).unwrap().write_all(b"half").unwrap();
    }
    let ours = open(&fs, "/ours", "ours", None);
    assert_eq!(copies(&fs), 0);
    let theirs = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
    let prefix = block(&fs, &theirs, "one", 100);
    ours.import_from(&theirs, &prefix, &[]).unwrap();
    assert_eq!((count(&ours, "one"), copies(&fs)), (100, 0));
}
