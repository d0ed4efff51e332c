//! What benches and counted-work tests share: an engine on a simulated disk with a far bucket, and a fleet to scrape.
// Each of those who include this uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use strandline::storage::bucket::{Bucket, LocalBucket, ObjectInfo};
use strandline::storage::clock::ManualClock;
use strandline::storage::metrics::MetricOptions;
use strandline::storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline::storage::model::Labels;
use strandline::storage::traces::TraceStoreOptions;
use strandline::storage::{Engine, EngineOptions, Result};
use strandline_testkit::Random;
use strandline_testkit::metrics::{Series, host};
use strandline_wal::fs::{Fs, SimFs};
use strandline_wal::{Wal, WalOptions};

/// Aligned to two hours.
pub const T0: i64 = 1_700_006_400_000;

pub fn labels(s: &Series) -> Labels {
    Labels::from_pairs(s.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

pub struct Fleet {
    pub series: Vec<(Labels, Series)>,
    random: Random,
    pub t: i64,
}

impl Fleet {
    pub fn new(hosts: usize) -> Self {
        let series = (0..hosts).flat_map(host).map(|s| (labels(&s), s)).collect();
        Fleet { series, random: Random::new(1), t: T0 }
    }
    pub fn next_scrape(&mut self) -> Batch {
        let mut b = BatchBuilder::default();
        for (l, s) in &mut self.series {
            let k = b.series(l);
            b.push(k, self.t, 0, Value::Float(s.step(&mut self.random)));
        }
        self.t += 15_000;
        b.finish()
    }
}

/// A bucket that is far away: no file of it can be opened, and every call is a request.
pub struct FarBucket {
    inner: LocalBucket,
    /// Where files to upload lie.
    local: SimFs,
    requests: AtomicU64,
}

impl FarBucket {
    /// Calls so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn request(&self) -> &LocalBucket {
        self.requests.fetch_add(1, Ordering::Relaxed);
        &self.inner
    }
}

impl Bucket for FarBucket {
    fn name(&self) -> String {
        "far".into()
    }
    fn put(&self, key: &str, content: Bytes) -> Result<()> {
        self.request().put(key, content)
    }
    fn put_file(&self, key: &str, path: &Path) -> Result<()> {
        let content = self.local.read(path).map_err(|e| strandline::Error::io("reading a file to upload", path, e))?;
        self.request().put(key, content)
    }
    fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
        self.request().put_if_absent(key, content)
    }
    fn put_if_match(&self, key: &str, content: Bytes, tag: Option<&str>) -> Result<Option<String>> {
        self.request().put_if_match(key, content, tag)
    }
    fn get_tagged(&self, key: &str) -> Result<(Bytes, String)> {
        self.request().get_tagged(key)
    }
    fn get(&self, key: &str) -> Result<Bytes> {
        self.request().get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes> {
        self.request().get_range(key, offset, len)
    }
    fn size(&self, key: &str) -> Result<u64> {
        self.request().size(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.request().list(prefix)
    }
    fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.request().list_folders(prefix)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.request().delete(key)
    }
}

/// A disk, a bucket and a clock of its own.
pub struct World {
    pub fs: SimFs,
    pub bucket: Arc<FarBucket>,
    pub clock: ManualClock,
}

impl World {
    pub fn new(now_ms: i64) -> Self {
        let (fs, remote) = (SimFs::new(), Arc::new(SimFs::new()));
        let inner = LocalBucket::open(remote, "/far").unwrap();
        let bucket = Arc::new(FarBucket { inner, local: fs.clone(), requests: AtomicU64::new(0) });
        World { fs, bucket, clock: ManualClock::new(now_ms) }
    }

    fn wal_options() -> WalOptions {
        WalOptions { background: false, ..WalOptions::default() }
    }

    pub fn wal(&self) -> Wal {
        Wal::open(Arc::new(self.fs.clone()), Path::new("/log"), Self::wal_options(), &mut |_, _| Ok(())).unwrap().0
    }

    pub fn open(&self) -> Engine {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let clock = Arc::new(self.clock.clone());
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), "/data");
        metrics.bucket = Some(self.bucket.clone());
        metrics.wal = Self::wal_options();
        let mut traces = TraceStoreOptions::new(fs, clock, "/data", self.bucket.clone());
        traces.wal = Self::wal_options();
        Engine::open(EngineOptions { metrics, traces, background: false }).unwrap()
    }
}
