//! Engines by tenant: opened when first asked for, closed when nobody asks any more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strandline_storage::bucket::{Bucket, LocalBucket, ObjectBucket, S3Settings};
use strandline_storage::clock::{Clock, SystemClock};
use strandline_storage::metrics::{MetricOptions, ReplayProgress};
use strandline_storage::traces::TraceStoreOptions;
use strandline_storage::{Engine, EngineOptions, Error, ErrorKind, Result};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, IoMode, OverlayFs, RealFs};

use crate::config::Config;

/// A tenant's engine is closed after so long without a request.
const IDLE: Duration = Duration::from_secs(900);

struct Open {
    engine: Engine,
    used: Instant,
}

/// The engines of all tenants.
pub struct Tenants {
    config: Arc<Config>,
    fs: Arc<dyn Fs>,
    clock: Arc<dyn Clock>,
    bucket: Arc<dyn Bucket>,
    memory_limit: u64,
    open: Mutex<HashMap<String, Open>>,
}

impl Tenants {
    /// Nothing open yet. Checks the bucket's settings, not the bucket.
    pub fn new(config: Arc<Config>, memory_limit: u64) -> Result<Self> {
        let mode = if config.io == "pread" { IoMode::Pread } else { IoMode::Mmap };
        let fs: Arc<dyn Fs> = Arc::new(RealFs::new(mode));
        let bucket = open_bucket(&config, &fs)?;
        Ok(Tenants { config, fs, clock: Arc::new(SystemClock), bucket, memory_limit, open: Mutex::default() })
    }

    /// The bucket.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// The folder of a tenant: the default one's is the data folder itself.
    fn dir(&self, tenant: &str) -> PathBuf {
        if tenant == self.config.default_tenant { self.config.data_dir.clone() } else { self.config.data_dir.join("tenants").join(tenant) }
    }

    /// The engine of a tenant, opened if need be.
    pub fn get(&self, tenant: &str) -> Result<Engine> {
        self.get_with(tenant, &mut |_| {})
    }

    /// As [`Tenants::get`], with the progress of replay.
    pub fn get_with(&self, tenant: &str, progress: &mut dyn FnMut(ReplayProgress)) -> Result<Engine> {
        let mut open = self.open.lock();
        if let Some(o) = open.get_mut(tenant) {
            o.used = Instant::now();
            return Ok(o.engine.clone());
        }
        if open.len() as u64 >= self.config.max_tenants {
            let text = format!("{} tenants are open, the most that tenants.max allows", open.len());
            return Err(Error::new(ErrorKind::LimitExceeded, text));
        }
        let engine = Engine::open_with(self.options(tenant)?, progress)?;
        open.insert(tenant.to_owned(), Open { engine: engine.clone(), used: Instant::now() });
        Ok(engine)
    }

    /// A tenant's data as it is now, beside a server that may be writing it.
    pub fn open_read_only(config: Config, tenant: &str) -> Result<Engine> {
        let below: Arc<dyn Fs> = Arc::new(RealFs::default());
        // A bucket folder that is not there is not made.
        let bucket = open_bucket(&config, &(Arc::new(OverlayFs::new(below.clone())) as Arc<dyn Fs>))?;
        let memory_limit = crate::memory::default_limit_bytes();
        let config = Arc::new(config);
        let t = Tenants { config, fs: below, clock: Arc::new(SystemClock), bucket, memory_limit, open: Mutex::default() };
        Engine::open_read_only(t.options(tenant)?)
    }

    /// All that are open.
    pub fn all(&self) -> Vec<(String, Engine)> {
        self.open.lock().iter().map(|(n, o)| (n.clone(), o.engine.clone())).collect()
    }

    /// Closes those that nobody used for a while; the default tenant stays.
    pub fn close_idle(&self) {
        let mut open = self.open.lock();
        let idle: Vec<String> =
            open.iter().filter(|(n, o)| **n != self.config.default_tenant && o.used.elapsed() > IDLE).map(|(n, _)| n.clone()).collect();
        for n in idle {
            if let Some(o) = open.remove(&n)
                && let Err(e) = o.engine.close()
            {
                tracing::warn!(tenant = n, error = %e, "closing an idle tenant failed");
            }
        }
    }

    /// Closes all.
    pub fn close(&self) -> Result<()> {
        let mut open = self.open.lock();
        let mut done = Ok(());
        for (_, o) in open.drain() {
            done = done.and(o.engine.close());
        }
        done
    }

    fn options(&self, tenant: &str) -> Result<EngineOptions> {
        let c = &self.config;
        let sync = crate::config::parse_sync(&c.wal_sync).map_err(|e| Error::new(ErrorKind::Invalid, format!("wal.sync: {e}")))?;
        let wal = WalOptions { sync, segment_size_bytes: c.wal_segment_bytes.max(1 << 20), ..WalOptions::default() };
        let mut m = MetricOptions::new(self.fs.clone(), self.clock.clone(), self.dir(tenant));
        m.tenant = tenant.to_owned();
        m.bucket = Some(self.bucket.clone());
        m.wal = wal.clone();
        m.rules.out_of_order_window_ms = c.out_of_order_window_ms;
        m.rules.max_sample_age_ms = c.max_sample_age_ms;
        m.rules.xor2 = c.chunk_encoding == "xor2";
        m.rules.start_timestamps = c.start_timestamps;
        m.limits.max_series = c.max_series as usize;
        m.limits.max_labels = c.max_labels as usize;
        m.limits.max_label_value_bytes = c.max_label_value_bytes as usize;
        m.limits.max_label_name_bytes = c.max_label_name_bytes as usize;
        m.limits.max_exemplars = c.max_exemplars as usize;
        m.external_labels = c.external_labels.clone();
        m.retention_ms = c.metrics_retention_ms;
        m.retention_bytes = c.metrics_retention_bytes;
        m.local_retention_ms = c.local_retention_ms;
        m.compaction = c.compaction;
        m.head_max_bytes = (self.memory_limit / 2) as usize;
        m.cache_bytes = c.bucket_cache_bytes.min(self.memory_limit / 8);
        m.disk_cache_bytes = c.bucket_disk_cache_bytes;
        let mut t = TraceStoreOptions::new(self.fs.clone(), self.clock.clone(), self.dir(tenant), self.bucket.clone());
        t.tenant = tenant.to_owned();
        t.wal = wal;
        t.limits.max_span_bytes = c.max_span_bytes as usize;
        t.limits.max_attributes = c.max_span_attributes as usize;
        t.limits.max_attribute_bytes = c.max_span_attribute_bytes as usize;
        t.limits.max_list_items = c.max_span_events as usize;
        t.retention_ms = c.traces_retention_ms;
        t.retention_bytes = c.traces_retention_bytes;
        t.flush_age_ms = c.traces_flush_age_ms;
        t.compaction = c.compaction;
        // Being written to a block takes about as much again, and meanwhile more comes.
        let live = if c.traces_max_live_bytes > 0 { c.traces_max_live_bytes } else { self.memory_limit / 12 };
        t.flush_bytes = live as usize;
        t.max_live_bytes = (live * 3).min(self.memory_limit / 2).max(live) as usize;
        Ok(EngineOptions { metrics: m, traces: t, background: true })
    }
}

/// The bucket that the configuration names.
pub fn open_bucket(c: &Config, fs: &Arc<dyn Fs>) -> Result<Arc<dyn Bucket>> {
    open_bucket_at(c, &c.bucket_url, fs)
}

/// A bucket at `url`, spoken to as the configuration says.
pub fn open_bucket_at(c: &Config, url: &str, fs: &Arc<dyn Fs>) -> Result<Arc<dyn Bucket>> {
    if url.starts_with("s3://") {
        let settings = S3Settings {
            url: url.to_owned(),
            endpoint: c.bucket_endpoint.clone(),
            region: c.bucket_region.clone(),
            access_key_id: c.bucket_access_key_id.clone(),
            secret_access_key: c.bucket_secret_access_key.clone(),
            session_token: c.bucket_session_token.clone(),
            instance_metadata: c.bucket_instance_metadata,
            ca_file: c.bucket_ca_file.clone(),
            timeout_ms: c.bucket_timeout_ms as u64,
        };
        return Ok(Arc::new(ObjectBucket::s3(&settings, fs.clone())?));
    }
    let dir = match url.strip_prefix("file://") {
        Some(p) => PathBuf::from(p),
        None => c.data_dir.join("bucket"),
    };
    Ok(Arc::new(LocalBucket::open(fs.clone(), dir)?))
}
