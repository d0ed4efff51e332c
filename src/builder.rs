//! How a database is opened.

use std::path::PathBuf;
use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::{Clock, SteadyClock};
use strandline_storage::metrics::MetricOptions;
use strandline_storage::{Engine, EngineOptions, Result};
use strandline_wal::fs::{Fs, OverlayFs, RealFs, SimFs};
use strandline_wal::{SyncMode, WalOptions};

use crate::Db;

type Adjust = Arc<dyn Fn(&mut MetricOptions) + Send + Sync>;

/// Options of a [`Db`]. What is not set has the default of the server.
#[derive(Clone)]
pub struct Builder {
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    bucket: Option<Arc<dyn Bucket>>,
    sync: SyncMode,
    background: bool,
    retention_ms: i64,
    adjust: Option<Adjust>,
}

impl Builder {
    /// A database in a folder on disk.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Builder {
            dir: dir.into(),
            fs: Arc::new(RealFs::default()),
            clock: Arc::new(SteadyClock::new()),
            bucket: None,
            sync: SyncMode::Always,
            background: true,
            retention_ms: 0,
            adjust: None,
        }
    }

    /// A database in memory: nothing touches the disk, nothing survives.
    pub fn in_memory() -> Self {
        Builder { fs: Arc::new(SimFs::new()), ..Builder::new("/memory") }
    }

    /// Another file system.
    pub fn fs(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = fs;
        self
    }

    /// Another clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where blocks go, instead of a folder below the database's.
    pub fn bucket(mut self, bucket: Arc<dyn Bucket>) -> Self {
        self.bucket = Some(bucket);
        self
    }

    /// When a commit counts as done; [`SyncMode::Always`] by default.
    pub fn sync(mut self, sync: SyncMode) -> Self {
        self.sync = sync;
        self
    }

    /// No threads of the database's own: call [`Db::maintain`] now and then.
    pub fn without_background(mut self) -> Self {
        self.background = false;
        self
    }

    /// Blocks older than this go. 0, the default, keeps them.
    pub fn retention_ms(mut self, retention_ms: i64) -> Self {
        self.retention_ms = retention_ms;
        self
    }

    /// Changes any other option of the metric store.
    pub fn metrics(mut self, adjust: impl Fn(&mut MetricOptions) + Send + Sync + 'static) -> Self {
        self.adjust = Some(Arc::new(adjust));
        self
    }

    /// Opens it: takes the folder's lock and replays the log.
    pub fn open(self) -> Result<Db> {
        let options = self.options()?;
        Ok(Db::from_engine(Engine::open(options)?, self.clock))
    }

    /// Opens it to be read, beside a process that may be writing it: the state of this moment. Costs a replay of the
    /// log; touches nothing. Appends, flushes and deletes are refused.
    pub fn open_read_only(mut self) -> Result<Db> {
        let below = self.fs.clone();
        // The default bucket is a folder that is made where it is missing: not here.
        self.fs = Arc::new(OverlayFs::new(below.clone()));
        let mut options = self.options()?;
        options.metrics.fs = below;
        Ok(Db::from_engine(Engine::open_read_only(options)?, self.clock))
    }

    fn options(&self) -> Result<EngineOptions> {
        let bucket: Arc<dyn Bucket> = match &self.bucket {
            Some(b) => b.clone(),
            None => Arc::new(LocalBucket::open(self.fs.clone(), self.dir.join("bucket"))?),
        };
        let wal = WalOptions { sync: self.sync, background: self.background, ..WalOptions::default() };
        let mut metrics = MetricOptions::new(self.fs.clone(), self.clock.clone(), &self.dir);
        metrics.bucket = Some(bucket.clone());
        metrics.wal = wal.clone();
        metrics.retention_ms = self.retention_ms;
        if let Some(adjust) = &self.adjust {
            adjust(&mut metrics);
        }
        #[cfg(feature = "traces")]
        let traces = {
            let mut t = strandline_storage::traces::TraceStoreOptions::new(self.fs.clone(), self.clock.clone(), &self.dir, bucket);
            t.wal = wal;
            t.retention_ms = self.retention_ms;
            t
        };
        Ok(EngineOptions {
            metrics,
            #[cfg(feature = "traces")]
            traces,
            background: self.background,
        })
    }
}
