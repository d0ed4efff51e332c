#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use strandline_storage::bucket::{BucketCall, SimBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::model::Labels;
use strandline_wal::fs::SimFs;

use super::*;

pub(super) const NOW_MS: i64 = 1_700_000_000_000;

pub(super) struct Rig {
    pub(super) tenants: Arc<Tenants>,
    /// Its listings of the tenant `slow` wait until they may go on.
    pub(super) bucket: Arc<SimBucket>,
    /// It takes nothing while it is full.
    pub(super) full: Arc<AtomicBool>,
    pub(super) clock: ManualClock,
    pub(super) reached: mpsc::Receiver<()>,
    pub(super) go_on: mpsc::Sender<()>,
}

fn tenants(fs: Arc<dyn Fs>, clock: &ManualClock, bucket: &Arc<SimBucket>, config: Config) -> Arc<Tenants> {
    let (config, clock) = (Arc::new(config), Arc::new(clock.clone()));
    Arc::new(Tenants { config, fs, clock, bucket: bucket.clone(), memory_limit: 1 << 30, state: Mutex::default() })
}

pub(super) fn rig() -> Rig {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let ((reached, is_reached), (go_on, may_go_on)) = (mpsc::sync_channel(1), mpsc::channel());
    let (full, may_go_on) = (Arc::<AtomicBool>::default(), Mutex::new(may_go_on));
    let is_full = full.clone();
    let bucket = SimBucket::over(LocalBucket::open(fs.clone(), "/bucket").unwrap()).before(move |call| match call {
        BucketCall::List(prefix) if prefix.contains("slow") => {
            let _ = reached.try_send(());
            // Ends too when the test lets go of its end.
            let _ = may_go_on.lock().recv();
            Ok(())
        }
        BucketCall::Put(_) | BucketCall::PutFile(..) | BucketCall::PutIfAbsent(_) | BucketCall::PutIfMatch(_)
            if is_full.load(Ordering::SeqCst) =>
        {
            Err(Error::new(ErrorKind::Unavailable, "injected: full"))
        }
        _ => Ok(()),
    });
    let (bucket, clock) = (Arc::new(bucket), ManualClock::new(NOW_MS));
    Rig { tenants: tenants(fs, &clock, &bucket, config()), bucket, full, clock, reached: is_reached, go_on }
}

/// The defaults, and a data folder.
pub(super) fn config() -> Config {
    Config { data_dir: "/data".into(), ..Config::default() }
}

/// The process ended and started again.
pub(super) fn restarted(r: Rig, config: Config) -> Rig {
    r.tenants.close().unwrap();
    Rig { tenants: tenants(r.tenants.fs.clone(), &r.clock, &r.bucket, config), ..r }
}

/// Acknowledges one sample.
pub(super) fn append(engine: &Engine, t_ms: i64) {
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", "m")]));
    b.push(k, t_ms, 0, Value::Float(1.0));
    engine.metrics().append(&b.finish()).unwrap().commit.wait().unwrap();
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
    append(&engine, NOW_MS);
    let grow_old = || {
        let mut s = r.tenants.state.lock();
        let o = s.open.get_mut("t").unwrap();
        o.used = o.used.checked_sub(2 * IDLE).unwrap();
    };
    grow_old();
    r.full.store(true, Ordering::SeqCst);
    r.tenants.close_idle();
    assert_eq!(r.tenants.all().len(), 1);
    r.full.store(false, Ordering::SeqCst);
    r.tenants.close_idle();
    assert_eq!(r.tenants.all().len(), 0);
    let keys: Vec<String> = r.bucket.inner().list("metrics/t/").unwrap().into_iter().map(|o| o.key).collect();
    assert!(keys.iter().any(|k| k.ends_with("/meta.json")), "{keys:?}");
    r.tenants.get("t").unwrap();
}
