//! Two engines on one bucket, each with a disk of its own, under a seeded run of appends, upkeep, deletes, kills and a
//! shaky bucket: both answer the same, nothing that is needed goes, and nothing stays that is not.
//! `TWO_WRITERS_SEEDS=first..last` runs other seeds.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(feature = "traces")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_storage::bucket::{Bucket, LocalBucket, SimBucket};
use strandline_storage::clock::{Clock, ManualClock};
use strandline_storage::metrics::MetricOptions;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::model::{Labels, Matcher, Span, SpanId, TimeRange, TraceId};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_storage::traces::TraceStoreOptions;
use strandline_storage::{Engine, EngineOptions, ErrorKind, Result};
use strandline_testkit::Random;
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, Fs, SimFs};

use common::shaky;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const T0: i64 = 1_700_006_400_000;
const SERIES: u64 = 8;

struct Node {
    name: String,
    fs: SimFs,
    engine: Option<Engine>,
    /// Acknowledged by it.
    samples: BTreeSet<(u64, i64)>,
    spans: BTreeSet<u64>,
}

struct World {
    seed: u64,
    clock: ManualClock,
    bucket: SimBucket,
    /// It fails so many calls of a thousand.
    failing: Arc<AtomicU64>,
    rng: Random,
    nodes: Vec<Node>,
    /// What every node was seen to answer.
    common: BTreeSet<(u64, i64)>,
    sent: BTreeSet<(u64, i64)>,
    deleted: Vec<(u64, TimeRange)>,
    common_spans: BTreeSet<u64>,
    next_span: u64,
    /// When each span came; the first bears number 1.
    span_at: Vec<i64>,
    /// Everybody removes what is older; 0: nothing.
    retention_ms: i64,
    fresh: u64,
}

fn bits(series: u64, t: i64) -> u64 {
    (((t / 1000) as u64).wrapping_mul(2654435761) ^ series).wrapping_rem(1000)
}

impl World {
    fn new(seed: u64) -> Self {
        let (bucket, failing) = shaky(LocalBucket::open(Arc::new(SimFs::new()), "/bucket").unwrap(), seed);
        let mut w = World {
            seed,
            clock: ManualClock::new(T0),
            bucket,
            failing,
            rng: Random::new(seed),
            nodes: Vec::new(),
            common: BTreeSet::new(),
            sent: BTreeSet::new(),
            deleted: Vec::new(),
            common_spans: BTreeSet::new(),
            next_span: 1,
            span_at: vec![0],
            retention_ms: if seed % 4 == 3 { 20 * HOUR } else { 0 },
            fresh: 0,
        };
        (0..2).for_each(|n| w.add(&format!("n{n}")));
        w
    }

    fn add(&mut self, name: &str) {
        let fs = SimFs::new();
        self.nodes.push(Node { name: name.to_owned(), fs, engine: None, samples: BTreeSet::new(), spans: BTreeSet::new() });
    }

    fn now(&self) -> i64 {
        self.clock.now_ms()
    }

    fn open(&mut self, n: usize) -> Engine {
        if let Some(e) = &self.nodes[n].engine {
            return e.clone();
        }
        let bucket: Arc<dyn Bucket> = Arc::new(self.bucket.clone().uploading_from(self.nodes[n].fs.clone()));
        let fs: Arc<dyn Fs> = Arc::new(self.nodes[n].fs.clone());
        let clock = Arc::new(self.clock.clone());
        let dir = format!("/{}", self.nodes[n].name);
        let wal = WalOptions { background: false, segment_size_bytes: 4096, ..WalOptions::default() };
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), &dir);
        metrics.bucket = Some(bucket.clone());
        metrics.wal = wal.clone();
        metrics.local_retention_ms = 4 * HOUR;
        metrics.retention_ms = self.retention_ms;
        metrics.disk_cache_bytes = 16 << 20;
        let mut traces = TraceStoreOptions::new(fs, clock, &dir, bucket);
        traces.wal = wal;
        traces.retention_ms = self.retention_ms;
        let e = Engine::open(EngineOptions { metrics, traces, background: false }).unwrap();
        self.nodes[n].engine = Some(e.clone());
        e
    }

    fn append(&mut self, n: usize, e: &Engine) -> Result<()> {
        let mut b = BatchBuilder::default();
        let mut items = Vec::new();
        for series in 0..SERIES {
            if self.rng.chance(0.5) {
                continue;
            }
            let s = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", series.to_string())]));
            let back = if self.rng.chance(0.2) { 2 * HOUR } else { 15_000 };
            // A pair of senders says the same at the same time.
            let t = (self.now() - self.rng.below(back as u64) as i64) / 5000 * 5000;
            if !self.deleted.iter().any(|(s, r)| *s == series && r.contains(t)) {
                b.push(s, t, 0, Value::Float(bits(series, t) as f64));
                items.push((series, t));
            }
        }
        self.sent.extend(items.iter().copied());
        let a = e.metrics().append(&b.finish())?;
        let rejected: BTreeSet<u32> = a.rejected.iter().map(|r| r.item).collect();
        a.commit.wait()?;
        let acked = items.into_iter().enumerate().filter(|(i, _)| !rejected.contains(&(*i as u32))).map(|(_, x)| x);
        self.nodes[n].samples.extend(acked);
        Ok(())
    }

    fn append_spans(&mut self, n: usize, e: &Engine) -> Result<()> {
        let now = self.now();
        let ids: Vec<u64> = (0..self.rng.below(5) + 1).map(|i| self.next_span + i).collect();
        self.next_span += ids.len() as u64;
        self.span_at.extend(ids.iter().map(|_| now));
        let of = |id: &u64| Span {
            trace_id: TraceId(u128::from(id / 3 + 1).to_be_bytes()),
            span_id: SpanId(id.to_be_bytes()),
            start_unix_nano: now as u64 * 1_000_000,
            end_unix_nano: (now as u64 + id % 50) * 1_000_000,
            name: format!("op {}", id % 7),
            ..Span::default()
        };
        e.traces().append(&ids.iter().map(of).collect::<Vec<_>>())?.ticket.wait()?;
        self.nodes[n].spans.extend(ids);
        Ok(())
    }

    fn delete(&mut self, e: &Engine) -> Result<()> {
        let series = self.rng.below(SERIES);
        let end = self.now() - 5 * HOUR - self.rng.below(20 * HOUR as u64) as i64;
        let range = TimeRange::new(end - self.rng.below(3 * HOUR as u64) as i64, end);
        // From the moment it is asked for, it may be done.
        self.deleted.push((series, range));
        e.metrics().delete(range, vec![Matcher::equal("i", series.to_string())])
    }

    fn samples(e: &Engine) -> Result<BTreeMap<(u64, i64), u64>> {
        let selection = e.metrics().select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all()))?;
        let mut got = BTreeMap::new();
        for i in 0..selection.len() {
            let mut series = 0;
            selection.visit_labels(i, &mut |n, v| {
                if n == "i" {
                    series = v.parse().unwrap();
                }
            });
            let mut buf = SampleBuf::default();
            selection.read(i, TimeRange::all(), &mut buf)?;
            for k in 0..buf.len() {
                assert!(got.insert((series, buf.t[k]), buf.v[k] as u64).is_none(), "a time twice");
            }
        }
        Ok(got)
    }

    fn spans(&self, e: &Engine) -> Result<BTreeSet<u64>> {
        let mut out = BTreeSet::new();
        for trace in 1..=self.next_span / 3 + 1 {
            if let Some(t) = e.traces().trace(TraceId(u128::from(trace).to_be_bytes()))? {
                for s in &t.spans {
                    assert!(out.insert(u64::from_be_bytes(s.span_id.0)), "a span twice");
                }
            }
        }
        Ok(out)
    }

    /// Whether what came at `t` may have been removed for its age.
    fn is_old(&self, t: i64) -> bool {
        self.retention_ms > 0 && t < self.now() - self.retention_ms
    }

    /// A node answers what it acknowledged and what all have answered before. What was deleted may be hidden already, or, at
    /// another node, not yet.
    fn check(&self, n: usize, e: &Engine, what: &str, settled: bool) -> Result<()> {
        let got = Self::samples(e)?;
        let gone = |(s, t): &(u64, i64)| self.deleted.iter().any(|(d, r)| d == s && r.contains(*t));
        for ((s, t), v) in &got {
            assert!(self.sent.contains(&(*s, *t)) && *v == bits(*s, *t), "{what}: {s}@{t} was never sent so");
            assert!(!settled || !gone(&(*s, *t)), "{what}: {s}@{t} was deleted");
        }
        for x in self.common.iter().chain(&self.nodes[n].samples).filter(|x| !gone(x) && !self.is_old(x.1)) {
            assert!(got.contains_key(x), "{what}: {x:?} is missing (acked here: {})", self.nodes[n].samples.contains(x));
        }
        let spans = self.spans(e)?;
        for x in self.common_spans.iter().chain(&self.nodes[n].spans).filter(|x| !self.is_old(self.span_at[**x as usize])) {
            assert!(spans.contains(x), "{what}: span {x} is missing");
        }
        Ok(())
    }

    fn step(&mut self, what: &str) {
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        if self.rng.chance(0.08) {
            self.failing.store([0, 0, 60, 1000][self.rng.below(4) as usize], Ordering::SeqCst);
        }
        let e = self.open(n);
        let op = self.rng.below(24);
        // Whatever fails is tried again, or was never acknowledged.
        let _ = match op {
            0..=6 => self.append(n, &e),
            7 | 8 => self.append_spans(n, &e),
            9 | 10 => e.flush(),
            11..=13 => e.maintain(),
            14 => e.metrics().compact(3).map(|_| ()),
            15 if self.rng.chance(0.4) => self.delete(&e),
            15 => e.metrics().clean_tombstones(),
            16 | 17 => {
                let sync = self.nodes[n].fs.syncs() + 1 + self.rng.below(12);
                self.nodes[n].fs.crash_at_sync(sync);
                let _ = if op == 16 { e.flush() } else { e.maintain() };
                drop(e);
                self.nodes[n].engine = None;
                let styles = [CrashStyle::LoseUnsynced, CrashStyle::Torn, CrashStyle::Reordered, CrashStyle::KeepAll];
                let style = styles[self.rng.below(4) as usize];
                let seed = self.rng.bits();
                self.nodes[n].fs.calm();
                self.nodes[n].fs.restart(style, seed);
                return;
            }
            _ => {
                self.clock.advance([15_000, MINUTE, MINUTE, 10 * MINUTE, HOUR, 3 * HOUR][self.rng.below(6) as usize]);
                Ok(())
            }
        };
        if self.rng.chance(0.2)
            && let Err(err) = self.check(n, &e, what, false)
        {
            // It has not looked for longer than removed blocks stay.
            assert!(
                self.failing.load(Ordering::SeqCst) > 0 || matches!(err.kind, ErrorKind::Unavailable | ErrorKind::NotFound),
                "{what}: {err}"
            );
        }
    }

    /// Two looks at the bucket by everybody, nothing failing.
    fn look(&mut self, what: &str) {
        for turn in 0..2 {
            self.clock.advance(301_000);
            for n in 0..self.nodes.len() {
                let done = self.open(n).maintain();
                // The first may know of blocks that have gone since it looked last.
                let fine = done.as_ref().map_or_else(|e| turn == 0 && e.kind == ErrorKind::NotFound, |()| true);
                assert!(fine, "{what}: {done:?}");
            }
        }
    }

    fn settle(&mut self, what: &str) {
        let failing = self.failing.swap(0, Ordering::SeqCst);
        for n in 0..self.nodes.len() {
            self.open(n);
        }
        self.clock.advance(301_000);
        for n in 0..self.nodes.len() {
            self.open(n).flush().unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        self.look(what);
        for n in &self.nodes {
            self.common.extend(&n.samples);
            self.common_spans.extend(&n.spans);
        }
        let mut all = Vec::new();
        for n in 0..self.nodes.len() {
            let e = self.open(n);
            self.check(n, &e, &format!("{what}, {}", self.nodes[n].name), true).unwrap();
            let got = Self::samples(&e).unwrap();
            all.push(got.into_iter().filter(|((_, t), _)| !self.is_old(*t)).collect::<BTreeMap<_, _>>());
        }
        assert!(all.windows(2).all(|w| w[0] == w[1]), "{what}: two answers");
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// An empty disk on the same bucket.
    fn check_bucket(&mut self, what: &str) -> Engine {
        self.fresh += 1;
        self.add(&format!("fresh{}", self.fresh));
        let n = self.nodes.len() - 1;
        let e = self.open(n);
        self.check(n, &e, what, true).unwrap();
        self.nodes.pop();
        e
    }

    /// Long after the last word nothing lies about that no answer needs.
    fn nothing_stays(&mut self, what: &str) {
        for ahead in [7 * HOUR, 20 * HOUR, 7 * HOUR, 7 * HOUR, 2 * HOUR, 5 * HOUR, 7 * HOUR, 7 * HOUR] {
            self.clock.advance(ahead);
            (0..4).for_each(|_| self.look(what));
        }
        let e = self.check_bucket(what);
        if self.retention_ms > 0 {
            assert_eq!((e.metrics().blocks().len(), e.traces().blocks().len()), (0, 0), "{what}: all is old");
        }
        let mut read: BTreeSet<String> = e.metrics().blocks().iter().map(|b| b.meta.ulid.clone()).collect();
        read.extend(e.traces().blocks().iter().map(|b| b.meta.ulid.clone()));
        let in_bucket = self.bucket.inner().list("").unwrap();
        let of = |key: &str| key.split('/').nth(2).map(str::to_owned);
        let needed = |k: &str| ["deletes", "leases"].iter().any(|p| k.starts_with(p)) || of(k).is_some_and(|b| read.contains(&b));
        let strange: Vec<&String> = in_bucket.iter().map(|o| &o.key).filter(|k| !needed(k)).collect();
        assert_eq!(strange, Vec::<&String>::new(), "{what}");
        for n in &self.nodes {
            let dir = format!("/{}/metrics/blocks", n.name);
            let local: Vec<String> = n.fs.read_dir(Path::new(&dir)).unwrap().iter().map(|d| d.name().to_owned()).collect();
            assert_eq!(local, Vec::<String>::new(), "{what}: {}", n.name);
        }
    }
}

fn run(seed: u64) {
    let mut w = World::new(seed);
    for step in 0..240 {
        w.step(&format!("seed {seed} step {step}"));
        if step % 40 == 39 {
            w.settle(&format!("seed {seed} step {step}"));
        }
    }
    w.settle(&format!("seed {seed} at the end"));
    w.failing.store(0, Ordering::SeqCst);
    w.check_bucket(&format!("seed {seed}, an empty disk"));
    if w.seed.is_multiple_of(2) {
        // One machine is lost at any moment.
        let gone = w.nodes.pop().unwrap();
        let fs = gone.fs.clone();
        fs.crash_at_sync(fs.syncs() + 1 + w.rng.below(20));
        if let Some(e) = gone.engine {
            w.clock.advance(3 * HOUR);
            let _ = e.metrics().compact(9);
            let _ = e.maintain();
        }
    }
    w.nothing_stays(&format!("seed {seed}, in the end"));
}

#[test]
fn two_writers_answer_the_same_and_leave_nothing_lying() {
    let (first, last) = match std::env::var("TWO_WRITERS_SEEDS") {
        Ok(s) => s.split_once("..").map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap(),
        Err(_) => (1, 8),
    };
    let mut failed = Vec::new();
    for seed in first..last {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            failed.push(seed);
        }
    }
    assert_eq!(failed, Vec::<u64>::new(), "repeat with TWO_WRITERS_SEEDS=first..last");
}
