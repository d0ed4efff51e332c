//! A close while something is being written: the folder is another's only after that.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::Labels;
use strandline_wal::fs::{DirEntry, FileRead, FileWrite, Fs, SimFs};

const T0: i64 = 1_700_006_400_000;
const HOUR: i64 = 3_600_000;

type Happening = Box<dyn FnOnce() + Send>;

/// A disk on which something happens once, before a name that contains a text is given to a file or folder.
#[derive(Clone)]
struct Slow {
    inner: SimFs,
    happens: Arc<Mutex<Option<(&'static str, Happening)>>>,
}

impl Fs for Slow {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>> {
        self.inner.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileRead>> {
        self.inner.open(path)
    }
    fn read_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let happens = self.happens.lock().unwrap().take_if(|(name, _)| to.to_string_lossy().contains(&**name));
        happens.into_iter().for_each(|(_, what)| what());
        self.inner.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.inner.truncate(path, len)
    }
    fn exists(&self, path: &Path) -> bool {
        self.inner.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }
}

fn open(fs: &Slow, clock: &ManualClock, dir: &str) -> MetricStore {
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

/// Runs `errand`, and a close from the moment on at which the errand names `at`; gives whether the close waited for it.
fn closed_in_the_midst(fs: &Slow, s: &MetricStore, at: &'static str, errand: impl FnOnce()) -> bool {
    let (tell, told) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let store = s.clone();
    let close = Box::new(move || {
        std::thread::spawn(move || ended.send(store.close()).unwrap());
        // One that does not wait is through long before.
        let early = end.recv_timeout(Duration::from_millis(500));
        tell.send((early.is_err(), end)).unwrap();
    });
    *fs.happens.lock().unwrap() = Some((at, close));
    errand();
    let (waited, end) = told.try_recv().unwrap();
    if waited {
        end.recv().unwrap().unwrap();
    }
    waited
}

#[test]
fn a_close_waits_for_a_flush_and_no_block_is_left_that_nobody_names() {
    let fs = Slow { inner: SimFs::new(), happens: Arc::default() };
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
    let fs = Slow { inner: SimFs::new(), happens: Arc::default() };
    let clock = ManualClock::new(T0 + HOUR);
    let (s, other) = (open(&fs, &clock, "/data"), open(&fs, &clock, "/other"));
    append(&other, T0);
    other.flush().unwrap();
    other.upload().unwrap();
    clock.advance(HOUR);
    assert!(closed_in_the_midst(&fs, &s, "/data/metrics/bucket-blocks.json", || drop(s.tend())));
}
