//! What benches and counted-work tests share: an engine on a simulated disk with a far bucket, and a fleet to scrape.
// Each of those who include this uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline::storage::bucket::{LocalBucket, SimBucket};
use strandline::storage::clock::ManualClock;
use strandline::storage::metrics::MetricOptions;
use strandline::storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline::storage::model::Labels;
use strandline::storage::traces::TraceStoreOptions;
use strandline::storage::{Engine, EngineOptions};
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

/// A disk, a clock, and a bucket that is far away: no file of it can be opened, and every call is a request.
pub struct World {
    pub fs: SimFs,
    pub bucket: Arc<SimBucket>,
    /// To the bucket so far.
    pub requests: Arc<AtomicU64>,
    pub clock: ManualClock,
}

impl World {
    pub fn new(now_ms: i64) -> Self {
        let (fs, requests) = (SimFs::new(), Arc::<AtomicU64>::default());
        let far = LocalBucket::open(Arc::new(SimFs::new()), "/far").unwrap();
        let counter = requests.clone();
        let bucket = SimBucket::over(far).uploading_from(fs.clone()).before(move |call| {
            counter.fetch_add(call.requests(), Ordering::Relaxed);
            Ok(())
        });
        World { fs, bucket: Arc::new(bucket), requests, clock: ManualClock::new(now_ms) }
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
