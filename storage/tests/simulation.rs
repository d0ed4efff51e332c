//! The whole engine under a seeded run of appends, upkeep, deletes, clock jumps, crashes, disk and bucket faults,
//! against a model of what was acknowledged. `SIMULATION_SEEDS=first..last` runs other seeds, `SIMULATION_STEPS` longer
//! ones; a failure names its seed, and the same seed gives the same run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(feature = "traces")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_storage::bucket::{LocalBucket, SimBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::MetricOptions;
use strandline_storage::metrics::head::{AnyHistogram, BatchBuilder, Value};
use strandline_storage::model::{
    BucketSpan, Exemplar, Histogram, Labels, MatchOp, Matcher, MetricMetadata, Span, SpanId, TimeRange, TraceId,
};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSelection, SeriesSource};
use strandline_storage::traces::TraceStoreOptions;
use strandline_storage::{Engine, EngineOptions, ErrorKind, Result};
use strandline_testkit::Random;
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, FaultKind, Fs, SimFs};

use common::shaky;

const HOUR: i64 = 3_600_000;
const T0: i64 = 1_700_006_400_000;
const SERIES: u64 = 12;
/// Series of increases, numbered behind the others: the store keeps their sums.
const SUMS: u64 = 3;

/// What may be answered: acknowledged samples must, samples of failed appends may.
#[derive(Default)]
struct Model {
    acked: BTreeMap<(u64, i64), u64>,
    maybe: BTreeSet<(u64, i64)>,
    spans: BTreeMap<u64, i64>,
    maybe_spans: BTreeSet<u64>,
    sums: [SumModel; SUMS as usize],
    exemplars: BTreeSet<(u64, i64)>,
    metadata: BTreeSet<u64>,
}

/// Increases of one each, sent in the order of time.
#[derive(Default)]
struct SumModel {
    acked: BTreeSet<i64>,
    sent: u64,
    last_t: i64,
}

impl SumModel {
    fn check(&self, got: &BTreeMap<i64, u64>, what: &str) {
        assert!(self.acked.iter().all(|t| got.contains_key(t)), "{what}: {:?} without {got:?}", self.acked);
        let (mut total, mut before) = (0, (i64::MIN, 0));
        for (t, v) in got {
            // A sum that was idle for two hours begins anew; clocks are set back by minutes.
            let anew = *v <= before.1;
            assert!(!anew || t - before.0 > HOUR, "{what}: falls from {} at {} to {v} at {t}", before.1, before.0);
            total += if anew { *v } else { v - before.1 };
            before = (*t, *v);
        }
        assert!(
            (self.acked.len() as u64..=self.sent).contains(&total),
            "{what}: {total} of {} sent, {} acked",
            self.sent,
            self.acked.len()
        );
    }
}

struct World {
    fs: SimFs,
    clock: ManualClock,
    bucket: SimBucket,
    /// The bucket fails so many calls of a thousand.
    failing: Arc<AtomicU64>,
    far: bool,
    rng: Random,
    model: Model,
    engine: Option<Engine>,
    /// A reader that takes its time, and what it has read already.
    held: Option<(Box<dyn SeriesSelection>, Samples)>,
    /// What happened, in numbers that do not depend on random names.
    log: Vec<(u8, u64, u64)>,
    next_span: u64,
    last_t: [i64; SERIES as usize],
}

fn labels(series: u64) -> Labels {
    Labels::from_pairs([("__name__", format!("m{}", series % 4)), ("i", format!("{series:02}"))])
}

type Samples = BTreeMap<(u64, i64), u64>;

fn select(e: &Engine) -> Result<Box<dyn SeriesSelection>> {
    e.metrics().select(&SelectRequest::new(vec![Matcher::new(MatchOp::Regex, "__name__", "m.*").unwrap()], TimeRange::all()))
}

fn read(selection: &dyn SeriesSelection, what: &str) -> Result<Samples> {
    let mut got = Samples::new();
    for i in 0..selection.len() {
        let series: u64 = selection.labels(i).get("i").and_then(|i| i.parse().ok()).unwrap();
        let mut buf = SampleBuf::default();
        selection.read(i, TimeRange::all(), &mut buf)?;
        for k in 0..buf.len() {
            let v = buf.histogram(k).map_or(buf.v[k], |h| h.sum);
            assert!(got.insert((series, buf.t[k]), v as u64).is_none(), "{what}: series {series} has time {} twice", buf.t[k]);
        }
    }
    Ok(got)
}

/// A value is told by series and time, so that the same sample always says the same.
fn bits(series: u64, t: i64) -> u64 {
    (((t / 1000) as u64).wrapping_mul(2654435761) ^ series).wrapping_rem(1000)
}

fn is_histogram(series: u64) -> bool {
    series.is_multiple_of(5)
}

fn value(series: u64, t: i64) -> Value {
    let n = bits(series, t);
    if !is_histogram(series) {
        return Value::Float(n as f64);
    }
    Value::Histogram(AnyHistogram::Int(Arc::new(Histogram {
        schema: 1,
        zero_threshold: 0.001,
        count: n + 1,
        zero_count: 1,
        sum: n as f64,
        positive_spans: vec![BucketSpan { offset: (n % 3) as i32, length: 1 }],
        positive_buckets: vec![n as i64],
        ..Histogram::default()
    })))
}

impl World {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new();
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        // Names of blocks are made of the writer's, and what is done first goes by names.
        shared.create_dir_all(Path::new("/data/metrics")).unwrap();
        shared.write_atomic(Path::new("/data/metrics/writer.json"), br#"{"id": "01HF7YAT00000000000000000Z"}"#).unwrap();
        shared.sync_dir(Path::new("/data")).unwrap();
        let mut rng = Random::new(seed);
        let far = rng.chance(0.5);
        let (bucket, failing) = shaky(LocalBucket::open(shared, "/bucket").unwrap(), seed);
        let bucket = bucket.near(!far);
        let clock = ManualClock::new(T0);
        World {
            fs,
            clock,
            bucket,
            failing,
            far,
            rng,
            model: Model::default(),
            engine: None,
            held: None,
            log: Vec::new(),
            next_span: 1,
            last_t: [T0; SERIES as usize],
        }
    }

    fn options(&self, dir: &str) -> EngineOptions {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let clock = Arc::new(self.clock.clone());
        let wal = WalOptions { background: false, segment_size_bytes: 4096, ..WalOptions::default() };
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), dir);
        metrics.bucket = Some(Arc::new(self.bucket.clone()));
        metrics.wal = wal.clone();
        metrics.spill_bytes = 2000;
        metrics.series_idle_ms = HOUR;
        metrics.local_retention_ms = 4 * HOUR;
        metrics.disk_cache_bytes = 16 << 20;
        let mut traces = TraceStoreOptions::new(fs, clock, dir, Arc::new(self.bucket.clone()));
        traces.wal = wal;
        EngineOptions { metrics, traces, background: false }
    }

    /// Opens the engine; disk faults may make that fail, and then it is tried without them.
    fn open(&mut self) {
        if self.engine.is_some() {
            return;
        }
        for attempt in 0.. {
            match Engine::open(self.options("/data")) {
                Ok(e) => {
                    self.engine = Some(e);
                    return;
                }
                Err(e) => {
                    assert!(attempt < 2, "the store does not open: {e}");
                    if self.fs.is_down() {
                        self.fs.restart(CrashStyle::LoseUnsynced, 1);
                    }
                    self.fs.set_failing(None);
                }
            }
        }
    }

    fn append(&mut self, e: &Engine) -> Result<()> {
        let now = self.now();
        let mut b = BatchBuilder::default();
        let mut items = Vec::new();
        for series in 0..SERIES {
            if self.rng.chance(0.5) {
                continue;
            }
            let s = b.series(&labels(series));
            let mut t = match self.rng.below(10) {
                0 => self.last_t[series as usize] - self.rng.below(3 * HOUR as u64) as i64,
                1 => now - self.rng.below(25 * HOUR as u64) as i64,
                2 => now + self.rng.below(HOUR as u64) as i64,
                _ => now - self.rng.below(5000) as i64,
            };
            for _ in 0..self.rng.below(4) + 1 {
                b.push(s, t, 0, value(series, t));
                items.push((series, t));
                t += 1 + self.rng.below(20_000) as i64;
            }
        }
        self.model.maybe.extend(items.iter().copied());
        let first_sum = items.len();
        let sums = self.increases(&mut b, now);
        let extras = self.extras(&mut b, now);
        let a = e.metrics().append(&b.finish())?;
        let rejected: BTreeSet<u32> = a.rejected.iter().map(|r| r.item).collect();
        a.commit.wait()?;
        self.model.exemplars.extend(extras.0);
        self.model.metadata.extend(extras.1);
        for (i, (k, t)) in sums.into_iter().enumerate() {
            if !rejected.contains(&((first_sum + i) as u32)) {
                self.model.sums[k].acked.insert(t);
            }
        }
        for (i, (series, t)) in items.into_iter().enumerate() {
            if !rejected.contains(&(i as u32)) {
                if from_env("SIMULATION_WATCH").is_some_and(|x| x == format!("{series}@{t}")) {
                    eprintln!("acked {series}@{t} (last was {})", self.last_t[series as usize]);
                }
                self.model.acked.insert((series, t), bits(series, t));
                self.last_t[series as usize] = self.last_t[series as usize].max(t);
            }
        }
        Ok(())
    }

    /// An increase of some sums, later than all before.
    fn increases(&mut self, b: &mut BatchBuilder, now: i64) -> Vec<(usize, i64)> {
        let chosen: Vec<usize> = (0..SUMS as usize).filter(|_| self.rng.chance(0.5)).collect();
        chosen
            .into_iter()
            .map(|k| {
                let sum = &mut self.model.sums[k];
                let t = now.max(sum.last_t + 1);
                (sum.last_t, sum.sent) = (t, sum.sent + 1);
                let s = b.series(&labels(SERIES + k as u64));
                b.push(s, t, 0, Value::Delta(1.0));
                (k, t)
            })
            .collect()
    }

    /// Now and then an exemplar, and a help text.
    fn extras(&mut self, b: &mut BatchBuilder, now: i64) -> (Option<(u64, i64)>, Option<u64>) {
        let exemplar = self.rng.chance(0.3).then(|| {
            let series = self.rng.below(SERIES + SUMS);
            let s = b.series(&labels(series));
            b.exemplar(s, Exemplar { labels: Labels::default(), t: now, v: 1.0 });
            (series, now)
        });
        let help = self.rng.chance(0.1).then(|| self.rng.below(9));
        if let Some(n) = help {
            b.metadata("m0".into(), MetricMetadata { help: n.to_string(), ..MetricMetadata::default() });
        }
        (exemplar, help)
    }

    fn append_spans(&mut self, e: &Engine) -> Result<()> {
        let now = self.now();
        let mut spans = Vec::new();
        for _ in 0..self.rng.below(5) + 1 {
            let resend = self.rng.chance(0.1) && !self.model.spans.is_empty();
            let id = if resend { 1 + self.rng.below(self.next_span - 1) } else { self.next_span };
            let t = match self.model.spans.get(&id) {
                Some(t) => *t,
                None if resend => continue,
                None => now - self.rng.below(2 * HOUR as u64) as i64,
            };
            self.next_span = self.next_span.max(id + 1);
            spans.push((id, t));
        }
        let of = |(id, t): &(u64, i64)| Span {
            trace_id: TraceId(u128::from(id / 3 + 1).to_be_bytes()),
            span_id: SpanId(id.to_be_bytes()),
            start_unix_nano: *t as u64 * 1_000_000,
            end_unix_nano: (*t as u64 + id % 50) * 1_000_000,
            name: format!("op {}", id % 7),
            ..Span::default()
        };
        self.model.maybe_spans.extend(spans.iter().map(|s| s.0));
        e.traces().append(&spans.iter().map(of).collect::<Vec<_>>())?.ticket.wait()?;
        self.model.spans.extend(spans);
        Ok(())
    }

    fn now(&self) -> i64 {
        use strandline_storage::clock::Clock;
        self.clock.now_ms()
    }

    /// Compares all answers of an engine with the model.
    fn check(&self, e: &Engine, what: &str, others_see: bool) {
        let selection = select(e).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut got = read(&*selection, what).unwrap_or_else(|e| panic!("{what}: {e}"));
        let sums = got.split_off(&(SERIES, i64::MIN));
        for ((series, t), v) in &got {
            assert!(self.model.maybe.contains(&(*series, *t)), "{what}: series {series} at {t} was never sent");
            assert_eq!(*v, bits(*series, *t), "{what}: series {series} at {t}");
        }
        if others_see {
            return;
        }
        for (series, t) in self.model.acked.keys() {
            assert!(got.contains_key(&(*series, *t)), "{what}: series {series} at {t} is missing");
        }
        for (k, sum) in self.model.sums.iter().enumerate() {
            let series = SERIES + k as u64;
            let own = sums.range((series, i64::MIN)..(series + 1, i64::MIN)).map(|((_, t), v)| (*t, *v)).collect();
            sum.check(&own, &format!("{what}: sum {k}"));
        }
        let mut traces: BTreeMap<u64, usize> = BTreeMap::new();
        for id in self.model.spans.keys() {
            *traces.entry(id / 3 + 1).or_default() += 1;
        }
        for (trace, n) in traces {
            let found = e.traces().trace(TraceId(u128::from(trace).to_be_bytes())).unwrap_or_else(|e| panic!("{what}: {e}"));
            let ids: Vec<u64> = found.iter().flat_map(|t| &t.spans).map(|s| u64::from_be_bytes(s.span_id.0)).collect();
            let unique: BTreeSet<u64> = ids.iter().copied().collect();
            assert_eq!(ids.len(), unique.len(), "{what}: trace {trace} has a span twice");
            assert!(unique.iter().all(|s| self.model.maybe_spans.contains(s)), "{what}: trace {trace}");
            let acked = unique.iter().filter(|s| self.model.spans.contains_key(s)).count();
            assert_eq!(acked, n, "{what}: trace {trace}");
        }
    }

    /// What the head alone holds.
    fn check_extras(&self, e: &Engine, what: &str) {
        let all = [vec![Matcher::new(MatchOp::Regex, "__name__", "m.*").unwrap()]];
        let found = e.metrics().exemplars(&all, TimeRange::all()).unwrap();
        let of = |l: &Labels| l.get("i").and_then(|i| i.parse().ok()).unwrap();
        let exemplars: BTreeSet<(u64, i64)> = found.iter().flat_map(|s| s.exemplars.iter().map(|e| (of(&s.labels), e.t))).collect();
        assert!(exemplars.is_superset(&self.model.exemplars), "{what}: {:?} but {exemplars:?}", self.model.exemplars);
        let found = e.metrics().metadata(Some("m0")).unwrap();
        let metadata: BTreeSet<u64> = found.iter().flat_map(|(_, m)| m).map(|m| m.help.parse().unwrap()).collect();
        assert!(metadata.is_superset(&self.model.metadata), "{what}: {:?} but {metadata:?}", self.model.metadata);
    }

    /// Whether a sample, written as `series@time`, is answered now.
    fn sees(&self, e: &Engine, watched: &str) -> Option<bool> {
        let (series, t) = watched.split_once('@')?;
        let (series, t): (u64, i64) = (series.parse().ok()?, t.parse().ok()?);
        let request = SelectRequest::new(vec![Matcher::equal("i", format!("{series:02}"))], TimeRange::new(t, t));
        let selection = e.metrics().select(&request).ok()?;
        let mut buf = SampleBuf::default();
        for i in 0..selection.len() {
            selection.read(i, TimeRange::new(t, t), &mut buf).ok()?;
        }
        Some(buf.len() == 1)
    }

    fn delete(&mut self, e: &Engine) -> Result<()> {
        let series = self.rng.below(SERIES);
        let end = self.now() - self.rng.below(30 * HOUR as u64) as i64;
        let range = TimeRange::new(end - self.rng.below(5 * HOUR as u64) as i64, end);
        // From the moment it is asked for, it may be done: a failed delete may still have been recorded.
        let done = e.metrics().delete(range, vec![Matcher::equal("i", format!("{series:02}"))]);
        let concerned: Vec<(u64, i64)> = self.model.acked.range((series, range.min_ms)..=(series, range.max_ms)).map(|(k, _)| *k).collect();
        for k in concerned {
            self.model.acked.remove(&k);
            if done.is_ok() {
                self.model.maybe.remove(&k);
            }
        }
        done
    }

    /// Whatever became of the blocks and of the head meanwhile, a reader reads on what it has seen.
    fn look_again(&mut self, e: &Engine) {
        if self.fs.is_down() || self.failing.load(Ordering::SeqCst) > 0 || !self.rng.chance(0.2) {
            return;
        }
        match self.held.take() {
            None => self.held = select(e).and_then(|s| read(&*s, "then").map(|then| (s, then))).ok(),
            Some((s, then)) => match read(&*s, "again") {
                Ok(now) => assert!(then.iter().all(|(k, v)| now.get(k) == Some(v)), "a reader saw {then:?}, and then {now:?}"),
                // It took longer than blocks stay in a bucket.
                Err(e) => assert!(self.far && e.kind == ErrorKind::NotFound, "{e}"),
            },
        }
    }

    fn step(&mut self) {
        let fault = self.rng.below(40);
        if fault == 0 {
            self.fs.crash_at_sync(self.fs.syncs() + 1 + self.rng.below(12));
        } else if fault == 1 {
            let kind = if self.rng.chance(0.5) { FaultKind::Enospc } else { FaultKind::Eio };
            self.fs.fail_call(self.fs.calls() + 1 + self.rng.below(30), kind);
        } else if fault == 2 {
            self.fs.set_failing(Some(FaultKind::Enospc));
        } else if fault < 6 {
            self.fs.set_failing(None);
            self.failing.store([0, 0, 50, 1000][self.rng.below(4) as usize], Ordering::SeqCst);
        }
        self.open();
        let e = self.engine.clone().unwrap();
        self.look_again(&e);
        let op = self.rng.below(20) as u8;
        let done = match op {
            0..=7 => self.append(&e),
            8..=10 => self.append_spans(&e),
            11 => e.flush(),
            12 | 13 => e.maintain(),
            14 => e.metrics().compact(3).map(|_| ()),
            15 if self.rng.chance(0.3) => self.delete(&e),
            15 => e.metrics().clean_tombstones(),
            16 => e.close(),
            _ => {
                let ahead = [1000, 15_000, 60_000, 600_000, HOUR, 3 * HOUR][self.rng.below(6) as usize];
                // Now and then the clock is set back, as after a sleep or by hand.
                self.clock.advance(if self.rng.chance(0.05) { -ahead.min(600_000) } else { ahead });
                Ok(())
            }
        };
        if from_env("SIMULATION_TRACE").is_some() {
            // Looking changes what is cached, and with it the run.
            let watched = from_env("SIMULATION_LOOK").and_then(|w| self.sees(&e, &w));
            for b in e.metrics().blocks() {
                eprintln!(
                    "   block {} L{} {}..{} {} samples {:?}",
                    b.meta.ulid, b.meta.compaction.level, b.meta.min_time, b.meta.max_time, b.meta.stats.num_samples, b.place
                );
            }
            eprintln!("fault {fault} op {op} at {}: {:?} {watched:?}", self.now(), done.as_ref().err().map(ToString::to_string));
        }
        self.log.push((op, done.is_ok() as u64, self.fs.syncs()));
        if op == 16 || self.fs.is_down() {
            drop(e);
            (self.engine, self.held) = (None, None);
            let styles = [CrashStyle::LoseUnsynced, CrashStyle::Torn, CrashStyle::Reordered, CrashStyle::KeepAll];
            let style = styles[self.rng.below(4) as usize];
            let seed = self.rng.bits();
            self.fs.restart(style, seed);
        }
    }

    /// Calm: faults end, and all that was acknowledged must be there.
    fn settle(&mut self, what: &str) {
        self.fs.calm();
        let failing = self.failing.swap(0, Ordering::SeqCst);
        if self.fs.is_down() {
            (self.engine, self.held) = (None, None);
            self.fs.restart(CrashStyle::LoseUnsynced, 3);
        }
        self.open();
        let e = self.engine.clone().unwrap();
        // What the bucket holds may not be known yet after an outage.
        self.clock.advance(301_000);
        e.maintain().unwrap_or_else(|e| panic!("{what}: upkeep fails without faults: {e}"));
        self.check(&e, what, false);
        self.check_extras(&e, what);
        self.failing.store(failing, Ordering::SeqCst);
    }
}

fn run(seed: u64, steps: u64) -> Vec<(u8, u64, u64)> {
    let mut w = World::new(seed);
    for step in 0..steps {
        w.step();
        if step % 40 == 39 {
            w.settle(&format!("seed {seed} step {step}"));
        }
    }
    w.settle(&format!("seed {seed} at the end"));
    // Everything to the bucket: a machine with an empty disk answers the same.
    let e = w.engine.clone().unwrap();
    w.failing.store(0, Ordering::SeqCst);
    e.flush().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    w.check(&e, &format!("seed {seed} flushed"), false);
    let fresh = Engine::open(w.options("/other")).unwrap();
    w.check(&fresh, &format!("seed {seed} from the bucket"), false);
    w.log
}

fn from_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn a_seeded_run_answers_what_was_acknowledged() {
    let steps = from_env("SIMULATION_STEPS").map_or(300, |s| s.parse().unwrap());
    let (first, last) = match from_env("SIMULATION_SEEDS") {
        Some(s) => s.split_once("..").map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap(),
        None => (1, 16),
    };
    for seed in first..last {
        let outcome = std::panic::catch_unwind(|| run(seed, steps));
        assert!(outcome.is_ok(), "seed {seed}: repeat with SIMULATION_SEEDS={seed}..{} SIMULATION_STEPS={steps}", seed + 1);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4, 9, 15] {
        assert_eq!(run(seed, 150), run(seed, 150));
    }
}
