//! Engines by tenant: opened when first asked for, closed when nobody asks any more, and looked after in between.

mod visits;

pub use visits::{ROUND, Visits};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strandline_storage::bucket::{Bucket, LocalBucket, ObjectBucket, S3Settings};
use strandline_storage::clock::{Clock, SteadyClock};
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
    state: Mutex<State>,
}

/// Never held over a call to a disk or a bucket: a tenant whose opening takes long keeps nobody else waiting.
#[derive(Default)]
struct State {
    open: HashMap<String, Open>,
    /// Held by whoever is opening or closing a tenant; others who want it wait there.
    turns: HashMap<String, Arc<Mutex<()>>>,
    /// Open for a visit and for nothing else: it takes nobody's place.
    visiting: Option<String>,
    /// Nothing is opened any more.
    closed: bool,
}

impl State {
    fn is_known(&self, tenant: &str) -> bool {
        self.open.contains_key(tenant) || self.turns.contains_key(tenant)
    }

    /// How many are open or about to be, but for the one that is visited.
    fn places_taken(&self) -> u64 {
        let visited = self.visiting.as_deref().is_some_and(|v| self.is_known(v));
        (self.open.len() + self.turns.len()) as u64 - u64::from(visited)
    }
}

impl Tenants {
    /// Nothing open yet. Checks the bucket's settings, not the bucket.
    pub fn new(config: Arc<Config>, memory_limit: u64) -> Result<Self> {
        let mode = if config.io == "pread" { IoMode::Pread } else { IoMode::Mmap };
        let fs: Arc<dyn Fs> = Arc::new(RealFs::new(mode));
        let bucket = open_bucket(&config, &fs)?;
        Ok(Tenants { config, fs, clock: Arc::new(SteadyClock::of_a_service()), bucket, memory_limit, state: Mutex::default() })
    }

    /// The bucket.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// The time by which they go.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
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
        self.open(tenant, false, progress)
    }

    fn open(&self, tenant: &str, visit: bool, progress: &mut dyn FnMut(ReplayProgress)) -> Result<Engine> {
        loop {
            let turn = {
                let mut s = self.state.lock();
                if s.closed {
                    return Err(Error::new(ErrorKind::Closed, "the server is ending"));
                }
                // From now on it is open for others too.
                if !visit && s.visiting.as_deref() == Some(tenant) {
                    s.visiting = None;
                }
                if let Some(o) = s.open.get_mut(tenant) {
                    o.used = Instant::now();
                    return Ok(o.engine.clone());
                }
                let many = s.places_taken();
                if !s.turns.contains_key(tenant) && many >= self.config.max_tenants + u64::from(visit) {
                    let text = format!("{many} tenants are open, the most that tenants.max allows");
                    return Err(Error::new(ErrorKind::LimitExceeded, text));
                }
                s.turns.entry(tenant.to_owned()).or_default().clone()
            };
            let _mine = turn.lock();
            // Whoever had the turn before has opened it, or failed, or closed it.
            if !self.state.lock().turns.get(tenant).is_some_and(|t| Arc::ptr_eq(t, &turn)) {
                continue;
            }
            let opened = self.options(tenant).and_then(|o| Engine::open_with(o, progress));
            let mut s = self.state.lock();
            s.turns.remove(tenant);
            let engine = opened?;
            s.open.insert(tenant.to_owned(), Open { engine: engine.clone(), used: Instant::now() });
            return Ok(engine);
        }
    }

    /// A tenant's engine without threads of its own, for a command beside which no server runs.
    pub fn open_alone(config: Config, tenant: &str) -> Result<Engine> {
        let t = Tenants::new(Arc::new(config), crate::memory::default_limit_bytes())?;
        Engine::open(EngineOptions { background: false, ..t.options(tenant)? })
    }

    /// A tenant's data as it is now, beside a server that may be writing it.
    pub fn open_read_only(config: Config, tenant: &str) -> Result<Engine> {
        let below: Arc<dyn Fs> = Arc::new(RealFs::default());
        // A bucket folder that is not there is not made.
        let bucket = open_bucket(&config, &(Arc::new(OverlayFs::new(below.clone())) as Arc<dyn Fs>))?;
        let memory_limit = crate::memory::default_limit_bytes();
        let config = Arc::new(config);
        let t = Tenants { config, fs: below, clock: Arc::new(SteadyClock::of_a_service()), bucket, memory_limit, state: Mutex::default() };
        Engine::open_read_only(t.options(tenant)?)
    }

    /// All that are open.
    pub fn all(&self) -> Vec<(String, Engine)> {
        self.state.lock().open.iter().map(|(n, o)| (n.clone(), o.engine.clone())).collect()
    }

    /// Closes those that nobody used for a while; the default tenant stays. What they hold goes into the bucket first: closed,
    /// nobody would take it there. While it can't go they stay.
    pub fn close_idle(&self) {
        let is_idle = |n: &str, o: &Open| n != self.config.default_tenant && o.used.elapsed() > IDLE;
        let idle: Vec<(String, Engine)> =
            self.state.lock().open.iter().filter(|(n, o)| is_idle(n, o)).map(|(n, o)| (n.clone(), o.engine.clone())).collect();
        for (n, engine) in idle {
            if let Err(e) = engine.flush() {
                tracing::warn!(tenant = n, error = %e, "an idle tenant stays open: what it holds can't be put into the bucket");
                continue;
            }
            self.close_if(&n, |s| s.open.get(&n).is_some_and(|o| is_idle(&n, o)));
        }
    }

    /// Closes one, if that is still right once nobody else can open it.
    fn close_if(&self, tenant: &str, still: impl FnOnce(&State) -> bool) {
        let turn = Arc::new(Mutex::new(()));
        let _mine = turn.lock();
        let engine = {
            let mut s = self.state.lock();
            if !still(&s) {
                return;
            }
            let Some(o) = s.open.remove(tenant) else { return };
            s.turns.insert(tenant.to_owned(), turn.clone());
            o.engine
        };
        if let Err(e) = engine.close() {
            tracing::warn!(tenant, error = %e, "closing an idle tenant failed");
        }
        self.state.lock().turns.remove(tenant);
    }

    /// Closes all.
    pub fn close(&self) -> Result<()> {
        let open = {
            let mut s = self.state.lock();
            s.closed = true;
            std::mem::take(&mut s.open)
        };
        // All of them, whatever becomes of one.
        let done: Vec<Result<()>> = open.into_values().map(|o| o.engine.close()).collect();
        done.into_iter().collect()
    }

    fn options(&self, tenant: &str) -> Result<EngineOptions> {
        let c = self.config.of_tenant(tenant);
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
        m.limits.max_series = c.max_series.min(crate::memory::max_series(self.memory_limit)) as usize;
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
        // One cache for all: each with its own would take of memory and disk that many times what is allowed.
        m.cache = self.state.lock().open.get(&c.default_tenant).map(|o| o.engine.metrics().cache().clone());
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
        // Large spans fill a row group before its rows are many, and a merge holds several times as much.
        let row_group = ((self.memory_limit / 24) as usize).max(1 << 20);
        for w in [&mut t.flush_write, &mut t.compact_write] {
            w.row_group_bytes = w.row_group_bytes.min(row_group);
        }
        // Read whole and written as JSON a span takes less than 2 KiB.
        t.max_trace_spans = (self.memory_limit / 4 / 2048).max(10_000) as usize;
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

#[cfg(test)]
mod tests;
