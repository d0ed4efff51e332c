//! The metric store as a whole, over the simulated disk, against a model of what was acknowledged.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Refusal, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_storage::{ErrorKind, Result};
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, FaultKind, Fs, SimFs};

const HOUR: i64 = 3_600_000;
const T0: i64 = 1_700_000_000_000 / (2 * HOUR) * (2 * HOUR);

type Model = BTreeMap<Labels, BTreeMap<i64, u64>>;

struct World {
    fs: SimFs,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        World { fs: SimFs::new(), clock: ManualClock::new(T0) }
    }

    fn options(&self) -> MetricOptions {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let mut o = MetricOptions::new(fs, Arc::new(self.clock.clone()), "/data");
        o.wal = WalOptions { background: false, segment_size_bytes: 4096, ..WalOptions::default() };
        o.spill_bytes = 2000;
        o
    }

    fn open(&self) -> Result<MetricStore> {
        let mut o = self.options();
        o.bucket = Some(Arc::new(LocalBucket::open(o.fs.clone(), "/data/bucket")?));
        MetricStore::open(o)
    }
}

fn labels(name: &str, i: u32) -> Labels {
    Labels::from_pairs([("__name__", name.to_owned()), ("i", format!("{i:03}")), ("job", format!("j{}", i % 3))])
}

fn append(s: &MetricStore, items: &[(Labels, i64, f64)]) -> Result<Vec<Refusal>> {
    let mut b = BatchBuilder::default();
    for (l, t, v) in items {
        let k = b.series(l);
        b.push(k, *t, 0, Value::Float(*v));
    }
    let a = s.append(&b.finish())?;
    let refused = a.rejected.iter().map(|r| r.why).collect();
    a.commit.wait()?;
    Ok(refused)
}

fn note(m: &mut Model, items: &[(Labels, i64, f64)]) {
    for (l, t, v) in items {
        m.entry(l.clone()).or_default().insert(*t, v.to_bits());
    }
}

fn everything(s: &MetricStore) -> Model {
    read(s, vec![Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap()], TimeRange::all())
}

fn read(s: &MetricStore, matchers: Vec<Matcher>, range: TimeRange) -> Model {
    let sel = s.select(&SelectRequest::new(matchers, range)).unwrap();
    let mut out = Model::new();
    let mut buf = SampleBuf::default();
    let mut before = None;
    for i in 0..sel.len() {
        let l = sel.labels(i);
        assert!(before.as_ref().is_none_or(|b| *b < l), "sorted and unique");
        sel.read(i, range, &mut buf).unwrap();
        assert!(buf.t.is_sorted_by(|a, b| a < b));
        if !buf.is_empty() {
            out.insert(l.clone(), buf.t.iter().copied().zip(buf.v.iter().map(|v| v.to_bits())).collect());
            let newest = sel.newest(i, range, &mut SampleBuf::default()).unwrap().unwrap();
            assert_eq!((newest.t, newest.v.to_bits()), (*buf.t.last().unwrap(), buf.v.last().unwrap().to_bits()));
        }
        before = Some(l);
    }
    out
}

fn batch(n: u32, t: i64) -> Vec<(Labels, i64, f64)> {
    (0..n).map(|i| (labels("m", i), t + i as i64 % 7, (t / 1000 + i as i64) as f64)).collect()
}

#[test]
fn flush_compaction_and_restart_change_no_answer() {
    let w = World::new();
    let s = w.open().unwrap();
    let mut model = Model::new();
    for step in 0..2400i64 {
        let t = T0 + step * 15_000;
        w.clock.set(t);
        let items = batch(5 + (step as u32 / 600), t);
        assert!(append(&s, &items).unwrap().is_empty());
        note(&mut model, &items);
        if step % 37 == 0 {
            s.maintain().unwrap();
        }
        if step % 500 == 499 {
            assert_eq!(everything(&s), model, "step {step}");
        }
    }
    assert!(s.blocks().len() >= 2, "upkeep flushed by itself");
    s.flush().unwrap();
    assert_eq!(everything(&s), model);
    s.upload().unwrap();
    assert_eq!(everything(&s), model);
    w.clock.advance(20 * HOUR);
    let before = s.blocks().len();
    while s.compact(10).unwrap() > 0 {}
    assert!(s.blocks().len() < before);
    assert_eq!(everything(&s), model);
    for b in s.blocks() {
        b.open().unwrap().verify().unwrap();
    }
    s.close().unwrap();
    drop(s);
    let s = w.open().unwrap();
    assert_eq!(everything(&s), model);
    // Another folder, the same bucket: all that was flushed is there.
    s.upload().unwrap();
    let mut o = w.options();
    o.dir = "/elsewhere".into();
    o.bucket = Some(Arc::new(LocalBucket::open(o.fs.clone(), "/data/bucket").unwrap()));
    let other = MetricStore::open(o).unwrap();
    assert_eq!(everything(&other), model);
    // And it leaves alone what it did not write.
    assert_eq!(other.compact(10).unwrap(), 0);
}

#[test]
fn crash_at_every_sync_loses_nothing_acknowledged() {
    for style in [CrashStyle::LoseUnsynced, CrashStyle::Torn, CrashStyle::Reordered] {
        let mut crash_at = 1;
        loop {
            let w = World::new();
            w.fs.crash_at_sync(crash_at);
            let (mut acked, mut sent) = (Model::new(), Model::new());
            let finished = workload(&w, &mut acked, &mut sent).is_ok();
            w.fs.restart(style, crash_at);
            let s = w.open().unwrap_or_else(|e| panic!("{style:?} at sync {crash_at}: {e}"));
            assert!(s.recovery().damage.is_empty());
            check(&everything(&s), &acked, &sent, &format!("{style:?} at sync {crash_at}"));
            // And it goes on: another batch, a flush, a compaction, a restart.
            w.clock.advance(30 * HOUR);
            let more = batch(3, T0 + 40 * HOUR);
            w.clock.set(T0 + 40 * HOUR);
            append(&s, &more).unwrap();
            note(&mut acked, &more);
            note(&mut sent, &more);
            s.flush().unwrap();
            s.compact(10).unwrap();
            check(&everything(&s), &acked, &sent, &format!("{style:?} at sync {crash_at}, after compaction"));
            if finished {
                assert!(crash_at > 60, "the workload syncs often, not {crash_at} times");
                break;
            }
            // Every sync in turn; a stride for the two other styles keeps this within seconds.
            crash_at += if style == CrashStyle::LoseUnsynced { 1 } else { 3 };
        }
    }
}

fn check(got: &Model, acked: &Model, sent: &Model, at: &str) {
    for (l, samples) in acked {
        for (t, v) in samples {
            assert_eq!(got.get(l).and_then(|g| g.get(t)), Some(v), "{at}: {l} at {t} was acknowledged");
        }
    }
    for (l, samples) in got {
        for (t, v) in samples {
            assert_eq!(sent.get(l).and_then(|g| g.get(t)), Some(v), "{at}: {l} at {t} was never sent");
        }
    }
}

fn workload(w: &World, acked: &mut Model, sent: &mut Model) -> Result<()> {
    let s = w.open()?;
    for step in 0..24i64 {
        let t = T0 + step * 20 * 60_000;
        w.clock.set(t);
        let items = batch(4 + step as u32 / 8, t);
        note(sent, &items);
        append(&s, &items)?;
        note(acked, &items);
        match step {
            7 | 15 => s.flush()?,
            8 | 16 => s.upload()?,
            17 => {
                w.clock.advance(10 * HOUR);
                s.compact(4)?;
            }
            18 => s.maintain()?,
            _ => {}
        }
    }
    s.close()
}

#[test]
fn disk_faults_refuse_and_pass() {
    for fault in [FaultKind::Enospc, FaultKind::Eio] {
        let w = World::new();
        let s = w.open().unwrap();
        let mut model = Model::new();
        let one = batch(4, T0);
        append(&s, &one).unwrap();
        note(&mut model, &one);
        w.fs.set_failing(Some(fault));
        for k in 1..4 {
            let e = append(&s, &batch(6, T0 + k * 1000)).unwrap_err();
            assert!(e.is_retryable() && e.kind == ErrorKind::Unavailable, "{e}");
            assert_eq!(everything(&s), model, "reads go on, and show nothing that was refused");
            assert!(s.flush().is_err());
        }
        w.fs.set_failing(None);
        // The same batch again, new series among it: stored, and still there after a crash.
        let two = batch(6, T0 + 3000);
        append(&s, &two).unwrap();
        note(&mut model, &two);
        assert_eq!(everything(&s), model);
        s.flush().unwrap();
        let three = batch(6, T0 + 9000);
        append(&s, &three).unwrap();
        note(&mut model, &three);
        drop(s);
        w.fs.restart(CrashStyle::LoseUnsynced, 3);
        assert_eq!(everything(&w.open().unwrap()), model);
    }
}

#[test]
fn a_fault_on_any_call_loses_nothing() {
    for at in (1..400).step_by(3) {
        let w = World::new();
        w.fs.fail_call(at, if at % 2 == 0 { FaultKind::Enospc } else { FaultKind::Eio });
        let Ok(s) = w.open() else { continue };
        let (mut acked, mut sent) = (Model::new(), Model::new());
        for step in 0..12i64 {
            let t = T0 + step * 30 * 60_000;
            w.clock.set(t);
            let items = batch(3, t);
            note(&mut sent, &items);
            if append(&s, &items).is_ok() {
                note(&mut acked, &items);
            }
            if step % 4 == 3 {
                let _ = s.flush();
                let _ = s.upload();
                let _ = s.compact(2);
            }
        }
        check(&everything(&s), &acked, &sent, &format!("call {at}"));
        drop(s);
        w.fs.restart(CrashStyle::LoseUnsynced, at);
        check(&everything(&w.open().unwrap()), &acked, &sent, &format!("call {at}, after restart"));
    }
}

#[test]
fn lateness_is_a_series_own_matter() {
    let w = World::new();
    let s = w.open().unwrap();
    let (a, b) = (labels("m", 1), labels("m", 2));
    append(&s, &[(a.clone(), T0, 1.0), (b.clone(), T0, 1.0)]).unwrap();
    // `a` goes on for three hours while `b` is down; then `b` sends what it kept.
    let mut model = Model::new();
    note(&mut model, &[(a.clone(), T0, 1.0), (b.clone(), T0, 1.0)]);
    for k in 1..=720 {
        w.clock.set(T0 + k * 15_000);
        let items = [(a.clone(), T0 + k * 15_000, k as f64)];
        append(&s, &items).unwrap();
        note(&mut model, &items);
    }
    for k in 1..=720 {
        let items = [(b.clone(), T0 + k * 15_000, k as f64)];
        assert_eq!(append(&s, &items).unwrap(), []);
        note(&mut model, &items);
    }
    assert_eq!(everything(&s), model);
    // Late within the window: taken; the same again: taken silently; another value: refused.
    let late = [(a.clone(), T0 + 3 * HOUR - 7_000, 5.0)];
    assert_eq!(append(&s, &late).unwrap(), []);
    assert_eq!(append(&s, &late).unwrap(), []);
    assert_eq!(append(&s, &[(a.clone(), T0 + 3 * HOUR - 7_000, 6.0)]).unwrap(), [Refusal::Duplicate]);
    assert_eq!(append(&s, &[(a.clone(), T0 + 3 * HOUR, 6.0)]).unwrap(), [Refusal::Duplicate]);
    assert_eq!(append(&s, &[(a.clone(), T0 + 1, 6.0)]).unwrap(), [Refusal::OutOfOrder]);
    assert_eq!(append(&s, &[(a.clone(), T0 + 4 * HOUR, 6.0), (b.clone(), T0 + 3 * HOUR + 1, 7.0)]).unwrap(), [Refusal::TooFarInFuture]);
    note(&mut model, &late);
    note(&mut model, &[(b.clone(), T0 + 3 * HOUR + 1, 7.0)]);
    assert_eq!(everything(&s), model);
    s.flush().unwrap();
    // Late for a range that is flushed: kept, and merged.
    let later = [(a.clone(), T0 + 3 * HOUR - 8_000, 8.0)];
    assert_eq!(append(&s, &later).unwrap(), []);
    note(&mut model, &later);
    assert_eq!(everything(&s), model);
    s.flush().unwrap();
    w.clock.advance(24 * HOUR);
    while s.compact(5).unwrap() > 0 {}
    assert_eq!(everything(&s), model);
    assert_eq!(append(&s, &[(labels("new", 1), T0, 1.0)]).unwrap(), [Refusal::TooOld]);
}

#[test]
fn churn_snapshots_and_replay_never_mix_series() {
    let w = World::new();
    let s = w.open().unwrap();
    let mut model = Model::new();
    let mut held = Vec::new();
    for round in 0..12u32 {
        let t = T0 + round as i64 * HOUR;
        w.clock.set(t);
        let items: Vec<_> = (0..40).map(|i| (labels(&format!("r{round}"), i), t, (round * 1000 + i) as f64)).collect();
        append(&s, &items).unwrap();
        note(&mut model, &items);
        let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", format!("r{round}"))], TimeRange::all())).unwrap();
        held.push((round, sel));
        w.clock.advance(HOUR / 2);
        s.flush().unwrap();
        s.maintain().unwrap();
        // Old selections still answer for their own series, whoever has the slots now.
        for (r, sel) in &held {
            assert_eq!(sel.len(), 40);
            let mut buf = SampleBuf::default();
            for i in 0..40 {
                assert_eq!(sel.labels(i), labels(&format!("r{r}"), i as u32));
                sel.read(i, TimeRange::all(), &mut buf).unwrap();
                assert_eq!(buf.v, [(r * 1000 + i as u32) as f64]);
            }
        }
        if round % 3 == 2 {
            held.clear();
            s.maintain().unwrap();
            s.maintain().unwrap();
            assert!(s.head().stats().series <= 80, "{} series stay", s.head().stats().series);
            assert!(s.head().with_registry(|r| r.slots()) <= 200);
        }
        assert_eq!(everything(&s), model);
    }
    drop(s);
    w.fs.restart(CrashStyle::LoseUnsynced, 1);
    assert_eq!(everything(&w.open().unwrap()), model);
}

#[test]
fn deletes_hide_at_once_and_compaction_removes() {
    let w = World::new();
    let s = w.open().unwrap();
    let mut model = Model::new();
    for k in 0..100 {
        let t = T0 + k * 60_000;
        w.clock.set(t);
        let items = batch(6, t);
        append(&s, &items).unwrap();
        note(&mut model, &items);
        if k == 50 {
            s.flush().unwrap();
            s.upload().unwrap();
        }
    }
    let gone = TimeRange::new(T0 + 40 * 60_000, T0 + 60 * 60_000);
    s.delete(gone, vec![Matcher::equal("job", "j1")]).unwrap();
    for (l, samples) in &mut model {
        if l.value("job") == "j1" {
            samples.retain(|t, _| !gone.contains(*t));
        }
    }
    assert_eq!(everything(&s), model);
    s.clean_tombstones().unwrap();
    assert_eq!(everything(&s), model);
    drop(s);
    let s = w.open().unwrap();
    assert_eq!(everything(&s), model);
    assert!(s.delete(gone, vec![]).is_err());
    let name = s.snapshot().unwrap();
    assert!(w.fs.exists(&Path::new("/data/snapshots").join(name)));
}

#[test]
fn deltas_add_up_once() {
    let w = World::new();
    let s = w.open().unwrap();
    let l = labels("d", 1);
    let delta = |s: &MetricStore, t: i64, v: f64| {
        let mut b = BatchBuilder::default();
        let k = b.series(&l);
        b.push(k, t, 0, Value::Delta(v));
        s.append(&b.finish()).unwrap().commit.wait().unwrap();
    };
    for k in 1..=5 {
        delta(&s, T0 + k * 1000, 2.0);
        delta(&s, T0 + k * 1000, 2.0); // a retry
    }
    let want = |n: i64| (1..=n).map(|k| (T0 + k * 1000, (2.0 * k as f64).to_bits())).collect::<BTreeMap<_, _>>();
    assert_eq!(everything(&s)[&l], want(5));
    s.flush().unwrap();
    delta(&s, T0 + 6000, 2.0);
    drop(s);
    w.fs.restart(CrashStyle::LoseUnsynced, 1);
    let s = w.open().unwrap();
    delta(&s, T0 + 6000, 2.0);
    delta(&s, T0 + 7000, 2.0);
    assert_eq!(everything(&s)[&l], want(7));
}

#[test]
fn histograms_of_increases_add_up_once_and_the_limit_of_sums_holds() {
    use strandline_storage::model::{BucketSpan, Histogram};
    let w = World::new();
    let mut o = w.options();
    o.limits.max_delta_series = 16;
    let open = || MetricStore::open(o.clone()).unwrap();
    let delta = |s: &MetricStore, l: &Labels, t: i64, schema: i32, n: i64| {
        let spans = vec![BucketSpan { offset: 1, length: 2 }];
        let h = Histogram {
            schema,
            count: 2 * n as u64,
            sum: n as f64,
            positive_spans: spans,
            positive_buckets: vec![n, 0],
            ..Histogram::default()
        };
        let mut b = BatchBuilder::default();
        let k = b.series(l);
        b.push(k, t, 0, Value::DeltaHistogram(Arc::new(h)));
        let a = s.append(&b.finish()).unwrap();
        a.commit.wait().unwrap();
        a.rejected.first().map(|r| r.why)
    };
    let counts = |s: &MetricStore, l: &Labels| {
        let sel = s.select(&SelectRequest::new(vec![Matcher::equal("i", l.get("i").unwrap())], TimeRange::all())).unwrap();
        let mut buf = SampleBuf::default();
        sel.read(0, TimeRange::all(), &mut buf).unwrap();
        (0..buf.len()).map(|i| buf.histogram(i).map(|h| (h.count, h.sum, h.schema)).unwrap()).collect::<Vec<_>>()
    };
    let (s, l) = (open(), labels("h", 1));
    for k in 1..=3 {
        assert_eq!(delta(&s, &l, T0 + k * 1000, 2, 5), None);
        assert_eq!(delta(&s, &l, T0 + k * 1000, 2, 5), None, "a retry");
    }
    s.flush().unwrap();
    // A client that has grown coarser meanwhile.
    delta(&s, &l, T0 + 4000, 1, 5);
    drop(s);
    w.fs.restart(CrashStyle::LoseUnsynced, 1);
    let s = open();
    delta(&s, &l, T0 + 4000, 1, 5);
    delta(&s, &l, T0 + 5000, 1, 5);
    let want: Vec<_> = (1..=5).map(|k| (10.0 * k as f64, 5.0 * k as f64, if k < 4 { 2 } else { 1 })).collect();
    assert_eq!(counts(&s, &l), want);
    s.flush().unwrap();
    assert_eq!(counts(&s, &l), want);
    // New sums are refused where the state is full; those there go on.
    let refused: Vec<_> = (0..200).filter_map(|i| delta(&s, &labels("more", 100 + i), T0 + 6000, 2, 1)).collect();
    assert!(!refused.is_empty() && refused.iter().all(|r| *r == Refusal::DeltaLimit), "{refused:?}");
    assert_eq!(delta(&s, &l, T0 + 7000, 1, 5), None);
}

#[test]
fn a_damaged_block_fails_the_query_or_warns() {
    let w = World::new();
    let s = w.open().unwrap();
    append(&s, &batch(4, T0)).unwrap();
    s.flush().unwrap();
    s.upload().unwrap();
    drop(s);
    let (path, size) = w.fs.files().into_iter().find(|(p, _)| p.ends_with("chunks/000001")).unwrap();
    w.fs.flip_bit(&path, size - 6, 2);
    let s = w.open().unwrap();
    let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    let errors: Vec<_> = (0..sel.len()).filter_map(|i| sel.read(i, TimeRange::all(), &mut buf).err()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].kind, ErrorKind::Corrupt);
    assert!(errors[0].to_string().contains("000001"), "{}", errors[0]);
    let (index, _) = w.fs.files().into_iter().find(|(p, _)| p.ends_with("index")).unwrap();
    w.fs.flip_bit(&index, 10, 2);
    let s2 = {
        drop(s);
        w.open().unwrap()
    };
    let request = SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all());
    assert_eq!(s2.select(&request).err().unwrap().kind, ErrorKind::Corrupt);
    let partial = s2.select(&SelectRequest { partial: true, ..request }).unwrap();
    assert_eq!((partial.len(), partial.warnings().len()), (0, 1));
    assert!(LocalBucket::open(Arc::new(w.fs.clone()), "/data/bucket").unwrap().list("").unwrap().len() >= 3);
}

#[test]
fn a_large_log_is_replayed_by_several_threads_to_the_same_state() {
    let w = World::new();
    let s = w.open().unwrap();
    let mut model = Model::new();
    for step in 0..260i64 {
        let t = T0 + step * 15_000;
        w.clock.set(t);
        // Series join as it goes, and every third step repeats an older sample late.
        let mut items = batch(600 + 4 * step as u32, t);
        if step % 3 == 2 {
            items.extend((0..50).map(|i| (labels("m", i), t - 7_000 + i as i64, step as f64)));
        }
        assert!(append(&s, &items).unwrap().is_empty());
        note(&mut model, &items);
    }
    assert!(model.values().map(|m| m.len()).sum::<usize>() > 250_000);
    let before = s.head().stats();
    assert_eq!(everything(&s), model);
    drop(s);
    w.fs.restart(CrashStyle::LoseUnsynced, 1);
    let s = w.open().unwrap();
    assert_eq!(everything(&s), model);
    assert_eq!(s.head().stats(), before);
    // And appends go on in every series, old and new.
    let items = batch(1700, T0 + 260 * 15_000);
    assert!(append(&s, &items).unwrap().is_empty());
    note(&mut model, &items);
    assert_eq!(everything(&s), model);
}

#[test]
fn compaction_goes_on_beside_a_damaged_block() {
    let w = World::new();
    let s = w.open().unwrap();
    for i in 0..6 {
        w.clock.set(T0 + i * HOUR);
        append(&s, &batch(3, T0 + i * HOUR)).unwrap();
        s.flush().unwrap();
    }
    s.upload().unwrap();
    assert_eq!(s.blocks().len(), 6);
    let damaged = s.blocks()[0].meta.ulid.clone();
    drop(s);
    let (path, size) =
        w.fs.files().into_iter().find(|(p, _)| p.ends_with("chunks/000001") && p.to_string_lossy().contains(&damaged)).unwrap();
    w.fs.flip_bit(&path, size - 6, 2);
    w.clock.set(T0 + 48 * HOUR);
    let s = w.open().unwrap();
    let e = s.compact(100).unwrap_err();
    assert!(e.kind == ErrorKind::Corrupt && e.to_string().contains(&damaged), "{e}");
    assert!(s.compact(100).unwrap() >= 2);
    assert!(s.blocks().len() <= 3 && s.blocks().iter().any(|b| b.meta.ulid == damaged));
}

/// A machine without a clock of its own starts at the same time again: blocks must not take the names of older ones.
#[test]
fn a_clock_that_stands_still_over_a_restart_overwrites_no_block() {
    let w = World::new();
    let mut model = Model::new();
    for i in 0..4 {
        let s = w.open().unwrap();
        let items = batch(3, T0 - 100_000 + i * 20_000);
        assert!(append(&s, &items).unwrap().is_empty());
        note(&mut model, &items);
        s.flush().unwrap();
        assert_eq!((everything(&s), s.blocks().len()), (model.clone(), i as usize + 1));
        s.close().unwrap();
    }
}
