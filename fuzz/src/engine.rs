//! Operations on an engine against a model of what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, Span, SpanId, TimeRange, TraceId};
use strandline_storage::read::{SampleBuf, ScanRequest, SelectRequest, SeriesSource, SpanSource};
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_storage::{Engine, EngineOptions, Result};
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, Fs, SimFs};

use super::Input;

/// Aligned to two hours.
pub const T0: i64 = 1_700_006_400_000;

/// A disk and a clock.
pub struct World {
    pub fs: SimFs,
    clock: ManualClock,
}

impl World {
    /// An empty disk.
    pub fn new(now_ms: i64) -> Self {
        World { fs: SimFs::new(), clock: ManualClock::new(now_ms) }
    }
    /// The engine on it, without threads.
    pub fn open(&self) -> Result<Engine> {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let clock = Arc::new(self.clock.clone());
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket")?);
        let wal = WalOptions { background: false, segment_size_bytes: 2048, ..WalOptions::default() };
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), "/data");
        metrics.bucket = Some(bucket.clone());
        metrics.wal = wal.clone();
        metrics.spill_bytes = 1000;
        let mut traces = TraceStoreOptions::new(fs, clock, "/data", bucket);
        traces.wal = wal;
        Engine::open(EngineOptions { metrics, traces, background: false })
    }
}

/// All samples by series; histograms as their debug text.
pub fn everything(s: &MetricStore) -> BTreeMap<Labels, Vec<(i64, u64, String)>> {
    let any = Matcher::new(MatchOp::Regex, "__name__", ".*").unwrap();
    let selection = s.select(&SelectRequest::new(vec![any], TimeRange::all())).unwrap();
    let mut out = BTreeMap::new();
    let mut buf = SampleBuf::default();
    for i in 0..selection.len() {
        selection.read(i, TimeRange::all(), &mut buf).unwrap();
        assert!(buf.t.is_sorted_by(|a, b| a < b), "samples out of order");
        let text = |k: usize| {
            let h = buf.histogram(k)?;
            // What is known of a reset depends on what lies before it in its chunk.
            Some(format!("{} {} {:?} {:?}", h.count, h.sum, h.positive_spans, h.positive_buckets))
        };
        let samples: Vec<_> = (0..buf.len()).map(|k| (buf.t[k], buf.v[k].to_bits(), text(k).unwrap_or_default())).collect();
        if !samples.is_empty() {
            assert!(out.insert(selection.labels(i), samples).is_none(), "a series twice");
        }
    }
    out
}

/// All spans by trace, as debug text.
pub fn all_spans(s: &TraceStore) -> BTreeMap<[u8; 16], String> {
    let mut ids = BTreeSet::new();
    let mut request = ScanRequest::new(0, u64::MAX);
    request.whole_traces = true;
    s.scan(&request, &mut |batch| {
        ids.extend((0..batch.traces().len().saturating_sub(1)).map(|i| batch.trace_id(i).0));
        Ok(std::ops::ControlFlow::Continue(0))
    })
    .unwrap();
    ids.into_iter().map(|id| (id, format!("{:?}", s.trace(TraceId(id)).unwrap()))).collect()
}

/// What the store may answer: of each series and time the values that were acknowledged (the store settles which), and
/// those of writes whose outcome nobody was told.
#[derive(Default)]
struct Model {
    acked: BTreeMap<u8, BTreeMap<i64, BTreeSet<u64>>>,
    open: BTreeMap<u8, BTreeMap<i64, BTreeSet<u64>>>,
    spans: BTreeSet<u8>,
}

fn series(i: u8) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())])
}

impl Model {
    /// Checks all answers; what was open and is there now counts as acknowledged from here on.
    fn check(&mut self, e: &Engine, doing: &str) {
        let got = everything(e.metrics());
        for (i, samples) in &self.acked {
            let have: BTreeMap<i64, u64> = got.get(&series(*i)).into_iter().flatten().map(|s| (s.0, s.1)).collect();
            for (t, values) in samples {
                let allowed = |v: &u64| values.contains(v) || self.open.get(i).and_then(|s| s.get(t)).is_some_and(|o| o.contains(v));
                assert!(have.get(t).is_some_and(allowed), "{doing}: series {i} at {t}: {:?}, not {values:?}", have.get(t));
            }
        }
        for (labels, samples) in got {
            let i: u8 = labels.get("i").and_then(|i| i.parse().ok()).expect("a series nobody wrote");
            for (t, v, _) in samples {
                let known =
                    |m: &BTreeMap<u8, BTreeMap<i64, BTreeSet<u64>>>| m.get(&i).and_then(|s| s.get(&t)).is_some_and(|o| o.contains(&v));
                assert!(known(&self.acked) || known(&self.open), "{doing}: series {i} at {t} has {v}, which nobody wrote");
                self.acked.entry(i).or_default().entry(t).or_default().insert(v);
            }
        }
        for n in &self.spans {
            assert!(e.traces().trace(TraceId([*n; 16])).unwrap().is_some(), "{doing}: trace {n} is gone");
        }
    }

    fn append(&mut self, e: &Engine, i: u8, times: &[i64], value: f64) {
        let mut b = BatchBuilder::default();
        let s = b.series(&series(i));
        for t in times {
            b.push(s, *t, 0, Value::Float(value));
        }
        let Ok(a) = e.metrics().append(&b.finish()) else { return };
        let refused: BTreeSet<u32> = a.rejected.iter().map(|r| r.item).collect();
        let taken = times.iter().enumerate().filter(|(k, _)| !refused.contains(&(*k as u32)));
        let into = if a.commit.wait().is_ok() { &mut self.acked } else { &mut self.open };
        for (_, t) in taken {
            into.entry(i).or_default().entry(*t).or_default().insert(value.to_bits());
        }
    }

    fn span(&mut self, e: &Engine, n: u8, t: i64) {
        let start_unix_nano = t as u64 * 1_000_000;
        let s = Span {
            trace_id: TraceId([n; 16]),
            span_id: SpanId([1; 8]),
            start_unix_nano,
            end_unix_nano: start_unix_nano + 5,
            name: format!("op {n}"),
            ..Span::default()
        };
        if let Ok(a) = e.traces().append(&[s])
            && a.accepted == 1
            && a.ticket.wait().is_ok()
        {
            self.spans.insert(n);
        }
    }
}

/// A run of operations: appends in and out of order, flushes, merges, upkeep, restarts, crashes at a sync to come.
pub fn engine_ops(data: &[u8]) {
    let mut input = Input(data);
    let w = World::new(T0);
    let mut e = w.open().unwrap();
    let mut m = Model::default();
    let mut now = T0;
    for step in 0..64u32 {
        if input.is_empty() {
            break;
        }
        let op = input.byte();
        match op % 12 {
            0..=4 => {
                let (i, late) = (input.byte() % 4, i64::from(input.byte()));
                let first = now - if op & 0x80 == 0 { 0 } else { late * 60_000 };
                let n = i64::from(op >> 4 & 7) * 20 + 1;
                let times: Vec<i64> = (0..n).map(|k| first + k * 15_000 - n * 15_000).collect();
                m.append(&e, i, &times, f64::from(step));
            }
            5 => m.span(&e, input.byte().max(1), now),
            6 => {
                now += i64::from(input.short()) * 1000;
                w.clock.set(now);
            }
            7 => drop(e.flush()),
            8 => drop(e.metrics().compact(3)),
            9 => drop(e.maintain()),
            10 => w.fs.crash_at_sync(w.fs.syncs() + 1 + u64::from(input.byte() % 32)),
            _ => {
                if !w.fs.is_down() {
                    e.close().unwrap();
                }
            }
        }
        if w.fs.is_down() || op % 12 == 11 {
            drop(e);
            let style =
                [CrashStyle::LoseUnsynced, CrashStyle::Torn, CrashStyle::Reordered, CrashStyle::KeepAll][usize::from(input.byte()) % 4];
            w.fs.restart(style, u64::from(step) + 1);
            e = w.open().unwrap_or_else(|e| panic!("step {step}: the store does not open: {e}"));
            m.check(&e, &format!("after a restart in step {step}"));
        }
        if (7..10).contains(&(op % 12)) {
            m.check(&e, &format!("after step {step}"));
        }
    }
    m.check(&e, "at the end");
    e.close().unwrap();
}
