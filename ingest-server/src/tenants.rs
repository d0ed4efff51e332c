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
    state: Mutex<State>,
}

/// Never held over a call to a disk or a bucket: a tenant whose opening takes long keeps nobody else waiting.
#[derive(Default)]
struct State {
    open: HashMap<String, Open>,
    /// Held by whoever is opening or closing a tenant; others who want it wait there.
    turns: HashMap<String, Arc<Mutex<()>>>,
}

impl Tenants {
    /// Nothing open yet. Checks the bucket's settings, not the bucket.
    pub fn new(config: Arc<Config>, memory_limit: u64) -> Result<Self> {
        let mode = if config.io == "pread" { IoMode::Pread } else { IoMode::Mmap };
        let fs: Arc<dyn Fs> = Arc::new(RealFs::new(mode));
        let bucket = open_bucket(&config, &fs)?;
        Ok(Tenants { config, fs, clock: Arc::new(SystemClock), bucket, memory_limit, state: Mutex::default() })
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
        loop {
            let turn = {
                let mut s = self.state.lock();
                if let Some(o) = s.open.get_mut(tenant) {
                    o.used = Instant::now();
                    return Ok(o.engine.clone());
                }
                let many = s.open.len() + s.turns.len();
                if !s.turns.contains_key(tenant) && many as u64 >= self.config.max_tenants {
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

    /// A tenant's data as it is now, beside a server that may be writing it.
    pub fn open_read_only(config: Config, tenant: &str) -> Result<Engine> {
        let below: Arc<dyn Fs> = Arc::new(RealFs::default());
        // A bucket folder that is not there is not made.
        let bucket = open_bucket(&config, &(Arc::new(OverlayFs::new(below.clone())) as Arc<dyn Fs>))?;
        let memory_limit = crate::memory::default_limit_bytes();
        let config = Arc::new(config);
        let t = Tenants { config, fs: below, clock: Arc::new(SystemClock), bucket, memory_limit, state: Mutex::default() };
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
            let turn = Arc::new(Mutex::new(()));
            let _mine = turn.lock();
            {
                let mut s = self.state.lock();
                if s.open.get(&n).is_none_or(|o| !is_idle(&n, o)) {
                    continue;
                }
                s.open.remove(&n);
                s.turns.insert(n.clone(), turn.clone());
            }
            if let Err(e) = engine.close() {
                tracing::warn!(tenant = n, error = %e, "closing an idle tenant failed");
            }
            self.state.lock().turns.remove(&n);
        }
    }

    /// Closes all.
    pub fn close(&self) -> Result<()> {
        let open = std::mem::take(&mut self.state.lock().open);
        // All of them, whatever becomes of one.
        let done: Vec<Result<()>> = open.into_values().map(|o| o.engine.close()).collect();
        done.into_iter().collect()
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use bytes::Bytes;
    use strandline_storage::bucket::ObjectInfo;
    use strandline_storage::clock::ManualClock;
    use strandline_storage::metrics::head::{BatchBuilder, Value};
    use strandline_storage::model::Labels;
    use strandline_wal::fs::SimFs;

    use super::*;

    /// A bucket whose listings of one tenant wait until they may go on, and that takes nothing while it is full.
    struct Slow {
        inner: LocalBucket,
        tenant: &'static str,
        reached: mpsc::SyncSender<()>,
        go_on: Mutex<mpsc::Receiver<()>>,
        full: AtomicBool,
    }

    impl Slow {
        fn wait(&self, prefix: &str) {
            if prefix.contains(self.tenant) {
                let _ = self.reached.try_send(());
                // Ends too when the test lets go of its end.
                let _ = self.go_on.lock().recv();
            }
        }
        fn check(&self) -> Result<()> {
            let full = self.full.load(Ordering::SeqCst);
            if full { Err(Error::new(ErrorKind::Unavailable, "injected: full")) } else { Ok(()) }
        }
    }

    impl Bucket for Slow {
        fn name(&self) -> String {
            "slow".into()
        }
        fn put(&self, key: &str, content: Bytes) -> Result<()> {
            self.check().and_then(|()| self.inner.put(key, content))
        }
        fn put_file(&self, key: &str, path: &std::path::Path) -> Result<()> {
            self.check().and_then(|()| self.inner.put_file(key, path))
        }
        fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
            self.check().and_then(|()| self.inner.put_if_absent(key, content))
        }
        fn get(&self, key: &str) -> Result<Bytes> {
            self.inner.get(key)
        }
        fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes> {
            self.inner.get_range(key, offset, len)
        }
        fn size(&self, key: &str) -> Result<u64> {
            self.inner.size(key)
        }
        fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
            self.wait(prefix);
            self.inner.list(prefix)
        }
        fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
            self.wait(prefix);
            self.inner.list_folders(prefix)
        }
        fn delete(&self, key: &str) -> Result<()> {
            self.inner.delete(key)
        }
    }

    struct Rig {
        tenants: Arc<Tenants>,
        bucket: Arc<Slow>,
        reached: mpsc::Receiver<()>,
        go_on: mpsc::Sender<()>,
    }

    fn rig() -> Rig {
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
        let ((reached, is_reached), (go_on, may_go_on)) = (mpsc::sync_channel(1), mpsc::channel());
        let bucket = Arc::new(Slow {
            inner: LocalBucket::open(fs.clone(), "/bucket").unwrap(),
            tenant: "slow",
            reached,
            go_on: Mutex::new(may_go_on),
            full: AtomicBool::new(false),
        });
        let config = Arc::new(Config { data_dir: "/data".into(), ..Config::default() });
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let tenants = Tenants { config, fs, clock, bucket: bucket.clone(), memory_limit: 1 << 30, state: Mutex::default() };
        Rig { tenants: Arc::new(tenants), bucket, reached: is_reached, go_on }
    }

    #[test]
    fn a_tenant_that_opens_slowly_keeps_nobody_waiting() {
        let r = rig();
        let default = r.tenants.config.default_tenant.clone();
        r.tenants.get(&default).unwrap();
        let opening: Vec<_> = (0..3)
            .map(|_| {
                let tenants = r.tenants.clone();
                std::thread::spawn(move || tenants.get("slow").map(|_| ()))
            })
            .collect();
        r.reached.recv().unwrap();
        // All of this would wait for ever.
        r.tenants.get(&default).unwrap();
        r.tenants.get("other").unwrap();
        assert_eq!(r.tenants.all().len(), 2);
        r.tenants.close_idle();
        drop(r.go_on);
        opening.into_iter().for_each(|t| t.join().unwrap().unwrap());
        assert_eq!(r.tenants.all().len(), 3, "opened once");
    }

    #[test]
    fn tenants_share_the_cache_and_its_bounds() {
        let r = rig();
        let default = r.tenants.get(&r.tenants.config.default_tenant).unwrap();
        for n in 0..3 {
            let other = r.tenants.get(&format!("t{n}")).unwrap();
            assert!(Arc::ptr_eq(default.metrics().cache(), other.metrics().cache()));
            assert!(other.metrics().options().cache.is_some(), "counted by the default tenant's");
        }
        assert!(default.metrics().options().cache.is_none());
    }

    #[test]
    fn an_idle_tenant_is_closed_once_the_bucket_has_all_of_it() {
        let r = rig();
        let engine = r.tenants.get("t").unwrap();
        let mut b = BatchBuilder::default();
        let k = b.series(&Labels::from_pairs([("__name__", "m")]));
        b.push(k, 1_700_000_000_000, 0, Value::Float(1.0));
        engine.metrics().append(&b.finish()).unwrap().commit.wait().unwrap();
        let grow_old = || {
            let mut s = r.tenants.state.lock();
            let o = s.open.get_mut("t").unwrap();
            o.used = o.used.checked_sub(2 * IDLE).unwrap();
        };
        grow_old();
        r.bucket.full.store(true, Ordering::SeqCst);
        r.tenants.close_idle();
        assert_eq!(r.tenants.all().len(), 1);
        r.bucket.full.store(false, Ordering::SeqCst);
        r.tenants.close_idle();
        assert_eq!(r.tenants.all().len(), 0);
        let keys: Vec<String> = r.bucket.inner.list("metrics/t/").unwrap().into_iter().map(|o| o.key).collect();
        assert!(keys.iter().any(|k| k.ends_with("/meta.json")), "{keys:?}");
        r.tenants.get("t").unwrap();
    }
}
