//! Imports from a bucket beside one another, and after one that was killed.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use strandline_storage::Result;
use strandline_storage::bucket::{Bucket, LocalBucket, ObjectInfo};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{Imported, MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::fs::{Fs, SimFs};

const T0: i64 = 1_700_006_400_000;

/// A bucket in which something happens once, before an index is fetched: its block is copied half by then.
struct Slow {
    inner: LocalBucket,
    happens: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Bucket for Slow {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, key: &str, content: Bytes) -> Result<()> {
        self.inner.put(key, content)
    }
    fn put_file(&self, key: &str, path: &Path) -> Result<()> {
        self.inner.put_file(key, path)
    }
    fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
        self.inner.put_if_absent(key, content)
    }
    fn get(&self, key: &str) -> Result<Bytes> {
        self.inner.get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes> {
        self.inner.get_range(key, offset, len)
    }
    fn size(&self, key: &str) -> Result<u64> {
        let happens = self.happens.lock().unwrap().take_if(|_| key.ends_with("index"));
        happens.into_iter().for_each(|what| what());
        self.inner.size(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }
    fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.list_folders(prefix)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key)
    }
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
    let slow = Slow { inner: theirs.clone(), happens: Mutex::new(Some(Box::new(meanwhile))) };
    taken(ours.import_from(&slow, &one, &[]));
    assert_eq!((count(&ours, "one"), count(&ours, "other"), copies(&fs)), (100, 70, 0));

    // Of one block twice at once the second is known.
    let third = block(&fs, &theirs, "third", 30);
    let (store, bucket, prefix) = (ours.clone(), theirs.clone(), third.clone());
    let meanwhile = move || taken(store.import_from(&bucket, &prefix, &[]));
    let slow = Slow { inner: theirs, happens: Mutex::new(Some(Box::new(meanwhile))) };
    assert_eq!(ours.import_from(&slow, &third, &[]).unwrap(), Imported::Known);
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
