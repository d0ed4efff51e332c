//! Metrics and spans in one engine: a mixed workload crashed at every sync, and upkeep that flushes by size and by time.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "traces")]

use std::sync::Arc;

use strandline_storage::bucket::{Bucket, BucketCall, LocalBucket, SimBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, Span, SpanId, TimeRange, TraceId};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_storage::traces::TraceStoreOptions;
use strandline_storage::{Engine, EngineOptions, Result};
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, Fs, SimFs};

const T0: i64 = 1_700_006_400_000;

fn open(fs: &SimFs, clock: &ManualClock, adjust: impl FnOnce(&mut EngineOptions)) -> Result<Engine> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let clock = Arc::new(clock.clone());
    let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket")?);
    let wal = WalOptions { background: false, segment_size_bytes: 2048, ..WalOptions::default() };
    let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), "/data");
    metrics.bucket = Some(bucket.clone());
    metrics.wal = wal.clone();
    let mut traces = TraceStoreOptions::new(fs, clock, "/data", bucket);
    traces.wal = wal;
    let mut o = EngineOptions { metrics, traces, background: false };
    adjust(&mut o);
    Engine::open(o)
}

fn sample(e: &Engine, t: i64, v: f64) -> Result<()> {
    let mut b = BatchBuilder::default();
    let s = b.series(&Labels::from_pairs([("__name__", "m")]));
    b.push(s, t, 0, Value::Float(v));
    e.metrics().append(&b.finish())?.commit.wait()
}

fn span(e: &Engine, n: u8, t: i64) -> Result<()> {
    let s = Span {
        trace_id: TraceId([n; 16]),
        span_id: SpanId([1; 8]),
        start_unix_nano: t as u64 * 1_000_000,
        end_unix_nano: (t as u64 + 5) * 1_000_000,
        name: format!("op {n}"),
        ..Span::default()
    };
    e.traces().append(&[s])?.ticket.wait()
}

fn samples(e: &Engine) -> Vec<(i64, f64)> {
    let sel = e.metrics().select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    if sel.len() == 1 {
        sel.read(0, TimeRange::all(), &mut buf).unwrap();
    }
    buf.t.iter().copied().zip(buf.v.iter().copied()).collect()
}

#[test]
fn a_mixed_workload_crashed_at_every_sync_loses_nothing_acknowledged() {
    for style in [CrashStyle::LoseUnsynced, CrashStyle::Torn] {
        for crash_at in 1.. {
            let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
            fs.crash_at_sync(crash_at);
            let (mut acked_samples, mut acked_spans) = (Vec::new(), Vec::new());
            let run = (|| -> Result<()> {
                let e = open(&fs, &clock, |_| {})?;
                for i in 1..=12u8 {
                    let t = T0 + i as i64 * 600_000;
                    clock.set(t);
                    sample(&e, t, i as f64)?;
                    acked_samples.push((t, i as f64));
                    span(&e, i, t)?;
                    acked_spans.push(i);
                    match i {
                        4 | 8 => e.flush()?,
                        10 => e.maintain()?,
                        _ => {}
                    }
                }
                e.close()
            })();
            fs.restart(style, crash_at);
            let e = open(&fs, &clock, |_| {}).unwrap_or_else(|e| panic!("{style:?} at sync {crash_at}: {e}"));
            let got = samples(&e);
            assert!(acked_samples.iter().all(|s| got.contains(s)), "{style:?} at sync {crash_at}: samples");
            for n in &acked_spans {
                let t = e.traces().trace(TraceId([*n; 16])).unwrap();
                assert_eq!(t.map(|t| t.spans.len()), Some(1), "{style:?} at sync {crash_at}: span {n}");
            }
            if run.is_ok() {
                assert!(crash_at > 40, "the workload syncs often, not {crash_at} times");
                break;
            }
        }
    }
}

#[test]
fn what_a_new_folder_below_a_new_one_acknowledges_outlives_a_power_loss() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
    let open = || open(&fs, &clock, |o| (o.metrics.dir, o.traces.dir) = ("/data/tenants/x".into(), "/data/tenants/x".into())).unwrap();
    let e = open();
    sample(&e, T0, 1.0).unwrap();
    span(&e, 1, T0).unwrap();
    fs.restart(CrashStyle::LoseUnsynced, 1);
    drop(e);
    let e = open();
    assert_eq!(samples(&e), [(T0, 1.0)]);
    assert!(e.traces().trace(TraceId([1; 16])).unwrap().is_some());
}

#[test]
fn upkeep_flushes_by_size_and_by_time() {
    for by_size in [true, false] {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
        let e = open(&fs, &clock, |o| {
            if by_size {
                o.metrics.head_max_bytes = 1;
                o.traces.flush_bytes = 1;
            }
        })
        .unwrap();
        sample(&e, T0, 1.0).unwrap();
        span(&e, 1, T0).unwrap();
        if !by_size {
            e.maintain().unwrap();
            assert_eq!((e.metrics().blocks().len(), e.traces().block_spans()), (0, 0), "nothing is due yet");
            clock.advance(3 * 3_600_000);
            sample(&e, T0 + 3 * 3_600_000, 2.0).unwrap();
        }
        e.maintain().unwrap();
        assert!(!e.metrics().blocks().is_empty(), "by size: {by_size}");
        assert_eq!((e.traces().block_spans(), e.traces().live_spans()), (1, 0), "by size: {by_size}");
    }
}

fn options(fs: Arc<dyn Fs>, clock: &ManualClock) -> Result<EngineOptions> {
    let clock = Arc::new(clock.clone());
    let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket")?);
    let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), "/data");
    metrics.bucket = Some(bucket.clone());
    let traces = TraceStoreOptions::new(fs, clock, "/data", bucket);
    Ok(EngineOptions { metrics, traces, background: false })
}

#[test]
fn a_reader_beside_a_live_writer_misses_nothing_acknowledged_and_changes_nothing() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
    let acked = Arc::new(AtomicU64::new(0));
    let e = open(&fs, &clock, |_| {}).unwrap();
    let writer = std::thread::spawn({
        let (acked, clock, e) = (acked.clone(), clock.clone(), e.clone());
        move || {
            for i in 1..=150u64 {
                let t = T0 + i as i64 * 60_000;
                clock.set(t);
                sample(&e, t, i as f64).unwrap();
                span(&e, i as u8, t).unwrap();
                acked.store(i, Ordering::SeqCst);
                if i.is_multiple_of(3) {
                    e.flush().unwrap();
                }
                if i.is_multiple_of(7) {
                    e.maintain().unwrap();
                }
            }
        }
    });
    let mut opened = 0;
    while !writer.is_finished() || opened == 0 {
        let at_least = acked.load(Ordering::SeqCst);
        if at_least == 0 {
            std::thread::yield_now();
            continue;
        }
        let r = Engine::open_read_only(options(Arc::new(fs.clone()), &clock).unwrap()).unwrap();
        let got = samples(&r);
        let want: Vec<(i64, f64)> = (1..=got.len() as i64).map(|i| (T0 + i * 60_000, i as f64)).collect();
        assert_eq!(got, want);
        assert!(got.len() as u64 >= at_least, "{} of {at_least}", got.len());
        let newest = r.traces().trace(TraceId([at_least as u8; 16])).unwrap();
        assert_eq!(newest.map(|t| t.spans.len()), Some(1), "span {at_least}");
        opened += 1;
    }
    writer.join().unwrap();
    e.flush().unwrap();
    let before = fs.files();
    let r = Engine::open_read_only(options(Arc::new(fs.clone()), &clock).unwrap()).unwrap();
    assert_eq!(samples(&r).len(), 150);
    for refused in [sample(&r, T0, 1.0), span(&r, 1, T0), r.flush(), r.maintain(), r.metrics().compact(1).map(|_| ())] {
        assert!(refused.unwrap_err().to_string().contains("read-only"));
    }
    r.close().unwrap();
    assert_eq!(fs.files(), before, "a reader writes nothing");
    let nowhere = Engine::open_read_only(options(Arc::new(SimFs::new()), &clock).unwrap()).err().unwrap();
    assert!(nowhere.to_string().contains("no data folder"), "{nowhere}");
}

#[test]
fn a_new_machine_adopts_the_blocks_of_one_that_is_gone_and_two_live_ones_do_no_harm() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
    let open_at = |dir: &str| {
        let mut o = options(Arc::new(fs.clone()), &clock).unwrap();
        (o.metrics.dir, o.traces.dir) = (dir.into(), dir.into());
        (o.metrics.retention_ms, o.traces.retention_ms) = (48 * 3_600_000, 48 * 3_600_000);
        Engine::open(o).unwrap()
    };
    let (a, b) = (open_at("/a"), open_at("/b"));
    for i in 1..=6u8 {
        let t = T0 + i as i64 * 600_000;
        clock.set(t);
        sample(&a, t, i as f64).unwrap();
        span(&a, i, t).unwrap();
        a.flush().unwrap();
        b.maintain().unwrap();
    }
    let in_bucket = || -> [usize; 2] {
        let files = fs.files();
        ["/data/bucket/metrics/anonymous/", "/data/bucket/traces/anonymous/"].map(|p| {
            files.iter().filter(|(f, _)| f.starts_with(p) && f.ends_with("meta.json") && !f.starts_with(format!("{p}markers"))).count()
        })
    };
    let whole = |e: &Engine, what: &str| {
        assert_eq!(samples(e), (1..=6).map(|i| (T0 + i * 600_000, i as f64)).collect::<Vec<_>>(), "{what}");
        for i in 1..=6u8 {
            assert_eq!(e.traces().trace(TraceId([i; 16])).unwrap().map(|t| t.spans.len()), Some(1), "{what}: span {i}");
        }
    };
    assert_eq!(in_bucket(), [6, 6]);
    clock.advance(61_000);
    b.maintain().unwrap();
    whole(&b, "the other process sees what was uploaded");
    // Fresh blocks are their writer's to merge, even hours after their range.
    clock.advance(3 * 3_600_000);
    b.maintain().unwrap();
    b.maintain().unwrap();
    assert_eq!(in_bucket(), [6, 6]);
    // Both at work on what was left: either may merge, and both answer the same all the while.
    clock.advance(4 * 3_600_000);
    for turn in 0..8 {
        b.maintain().unwrap();
        whole(&b, "b");
        if turn >= 2 {
            a.maintain().unwrap();
            whole(&a, "a");
        }
        clock.advance(61_000);
    }
    drop(a);
    // Deleted after the delay, a block for the two hours of samples and one for each hour of spans are left, and in
    // time they expire.
    for _ in 0..4 {
        clock.advance(13 * 3_600_000 / 4);
        b.maintain().unwrap();
        b.maintain().unwrap();
    }
    assert_eq!(in_bucket(), [1, 2]);
    whole(&b, "after the removal");
    for _ in 0..20 {
        clock.advance(6 * 3_600_000);
        b.maintain().unwrap();
    }
    assert_eq!(in_bucket(), [0, 0]);
    assert!(samples(&b).is_empty());
}

/// A bucket in which storing never ends until it is let go.
struct Stuck {
    reached: std::sync::atomic::AtomicBool,
    open: (std::sync::Mutex<bool>, std::sync::Condvar),
}

impl Stuck {
    fn over(fs: &Arc<dyn Fs>) -> (Arc<Self>, Arc<SimBucket>) {
        let stuck = Arc::new(Stuck { reached: Default::default(), open: Default::default() });
        let bucket = SimBucket::over(LocalBucket::open(fs.clone(), "/data/stuck").unwrap());
        let hook = stuck.clone();
        let bucket = bucket.before(move |call| {
            if matches!(call, BucketCall::Put(_) | BucketCall::PutFile(..)) {
                hook.wait();
            }
            Ok(())
        });
        (stuck, Arc::new(bucket))
    }
    fn is_reached(&self) -> bool {
        self.reached.load(std::sync::atomic::Ordering::SeqCst)
    }
    fn wait(&self) {
        self.reached.store(true, std::sync::atomic::Ordering::SeqCst);
        let mut open = self.open.0.lock().unwrap();
        while !*open {
            open = self.open.1.wait(open).unwrap();
        }
    }
    fn let_go(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

/// Fails if it does not come to that within a minute.
fn wait_for(what: &str, done: &dyn Fn() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < until, "{what}");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_stuck_upload_of_one_store_does_not_keep_the_other_from_its_upkeep() {
    for metrics_stuck in [true, false] {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
        let as_dyn: Arc<dyn Fs> = Arc::new(fs.clone());
        let (stuck, bucket) = Stuck::over(&as_dyn);
        let mut o = options(as_dyn, &clock).unwrap();
        (o.metrics.head_max_bytes, o.traces.flush_bytes) = (1, 1);
        match metrics_stuck {
            true => o.metrics.bucket = Some(bucket.clone()),
            false => o.traces.bucket = bucket.clone(),
        }
        o.background = true;
        let e = Engine::open(o).unwrap();
        sample(&e, T0, 1.0).unwrap();
        span(&e, 1, T0).unwrap();
        let wait_for = |what: &str, done: &dyn Fn() -> bool| wait_for(&format!("{what}, metrics stuck: {metrics_stuck}"), done);
        wait_for("the upload is reached", &|| stuck.is_reached());
        // What comes after is flushed by both stores all the same.
        span(&e, 2, T0).unwrap();
        sample(&e, T0 + 1000, 2.0).unwrap();
        wait_for("spans in blocks", &|| e.traces().block_spans() == 2 && e.traces().live_spans() == 0);
        wait_for("samples in blocks", &|| e.metrics().blocks().iter().map(|b| b.meta.stats.num_samples).sum::<u64>() == 2);
        stuck.let_go();
        e.close().unwrap();
    }
}

/// A bucket that never answers an upload: spans are flushed all the same, by hand and by upkeep, and the end does not wait
/// for it; the upload that comes back behind the end leaves the folder as the next one to open it finds it.
#[test]
fn a_stuck_bucket_holds_back_neither_flushes_of_spans_nor_the_end() {
    for background in [true, false] {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
        let as_dyn: Arc<dyn Fs> = Arc::new(fs.clone());
        let (stuck, bucket) = Stuck::over(&as_dyn);
        let mut o = options(as_dyn.clone(), &clock).unwrap();
        o.traces.flush_bytes = 1;
        o.traces.bucket = bucket.clone();
        o.background = background;
        let e = Engine::open(o).unwrap();
        span(&e, 1, T0).unwrap();
        let of_the_upload = (!background).then(|| {
            let e = e.clone();
            std::thread::spawn(move || e.maintain())
        });
        let wait_for = |what: &str, done: &dyn Fn() -> bool| wait_for(&format!("{what}, background: {background}"), done);
        wait_for("the upload is reached", &|| stuck.is_reached());
        for n in 2..5 {
            span(&e, n, T0).unwrap();
            if !background {
                e.traces().flush_local().unwrap();
            }
            wait_for("spans in blocks", &|| e.traces().block_spans() == u64::from(n) && e.traces().live_spans() == 0);
        }
        e.close().unwrap();
        let manifest = || as_dyn.read(std::path::Path::new("/data/traces/manifest.json")).unwrap();
        let left = manifest();
        let handles = Arc::strong_count(&bucket);
        drop(e);
        stuck.let_go();
        match of_the_upload {
            Some(t) => assert!(t.join().unwrap().is_err(), "it came back to a closed store"),
            None => wait_for("the upload's end", &|| Arc::strong_count(&bucket) < handles),
        }
        assert_eq!(manifest(), left);
        let mut o = options(as_dyn, &clock).unwrap();
        o.traces.bucket = bucket;
        let e = Engine::open(o).unwrap();
        for round in 0..2 {
            for n in 1..5 {
                assert_eq!(e.traces().trace(TraceId([n; 16])).unwrap().map(|t| t.spans.len()), Some(1), "round {round}: span {n}");
            }
            e.flush().unwrap();
        }
    }
}

/// The same of samples.
#[test]
fn a_stuck_bucket_holds_back_neither_flushes_of_samples_nor_the_end() {
    for background in [true, false] {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
        let as_dyn: Arc<dyn Fs> = Arc::new(fs.clone());
        let (stuck, bucket) = Stuck::over(&as_dyn);
        let mut o = options(as_dyn.clone(), &clock).unwrap();
        o.metrics.head_max_bytes = 1;
        o.metrics.bucket = Some(bucket.clone());
        o.background = background;
        let e = Engine::open(o).unwrap();
        sample(&e, T0, 1.0).unwrap();
        let of_the_upload = (!background).then(|| {
            let e = e.clone();
            std::thread::spawn(move || e.maintain())
        });
        let wait_for = |what: &str, done: &dyn Fn() -> bool| wait_for(&format!("{what}, background: {background}"), done);
        wait_for("the upload is reached", &|| stuck.is_reached());
        for n in 2..5 {
            sample(&e, T0 + n * 1000, n as f64).unwrap();
            if !background {
                e.metrics().flush().unwrap();
            }
            let flushed = || e.metrics().blocks().iter().map(|b| b.meta.stats.num_samples).sum::<u64>();
            wait_for("samples in blocks", &|| flushed() == n as u64);
        }
        e.close().unwrap();
        let manifest = || as_dyn.read(std::path::Path::new("/data/metrics/manifest.json")).unwrap();
        let left = manifest();
        let handles = Arc::strong_count(&bucket);
        drop(e);
        stuck.let_go();
        match of_the_upload {
            // The bucket's trouble is told elsewhere; what counts is that nothing was written.
            Some(t) => drop(t.join().unwrap()),
            None => wait_for("the upload's end", &|| Arc::strong_count(&bucket) < handles),
        }
        assert_eq!(manifest(), left);
        let mut o = options(as_dyn, &clock).unwrap();
        o.metrics.bucket = Some(bucket);
        let e = Engine::open(o).unwrap();
        for round in 0..2 {
            assert_eq!(samples(&e).len(), 4, "round {round}");
            e.flush().unwrap();
        }
    }
}

/// How far a replay is: bytes of the log's files, up to all of them.
#[test]
fn a_replay_tells_how_far_it_is() {
    let fs = SimFs::new();
    let clock = ManualClock::new(1_700_000_000_000);
    let options = || {
        let mut o = MetricOptions::new(Arc::new(fs.clone()), Arc::new(clock.clone()), "/data");
        o.wal = WalOptions { background: false, segment_size_bytes: 4096, ..WalOptions::default() };
        o
    };
    let s = MetricStore::open(options()).unwrap();
    for k in 0..300i64 {
        let mut b = BatchBuilder::default();
        let series = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", k.to_string())]));
        b.push(series, 1_700_000_000_000 + k, 0, Value::Float(k as f64));
        s.append(&b.finish()).unwrap().commit.wait().unwrap();
    }
    drop(s);
    let files = fs.read_dir(std::path::Path::new("/data/wal/metrics")).unwrap();
    assert!(files.len() > 3, "several segments");
    let lens: Vec<u64> = files.iter().map(|f| fs.open(&f.path).unwrap().len()).collect();
    let mut told = Vec::new();
    MetricStore::open_with(options(), &mut |at| told.push(at)).unwrap();
    assert!(told.windows(2).all(|w| w[0].done_bytes <= w[1].done_bytes && w[0].samples <= w[1].samples));
    assert!(told.iter().all(|at| at.all_bytes == told[0].all_bytes && at.done_bytes <= at.all_bytes), "{told:?}");
    assert!(told[0].done_bytes < told[0].all_bytes / 50);
    let last = told.last().unwrap();
    assert_eq!((last.samples, last.all_bytes), (300, lens.iter().sum()));
    // Behind the last frame there is room for more.
    assert!(last.done_bytes > lens[..lens.len() - 1].iter().sum());
}
