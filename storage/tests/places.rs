//! Samples that lie in several places at once, head and overlapping blocks, against a model that knows no places:
//! late samples, the same time in two places, staleness markers, histograms, deletes, compaction, restarts.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{AnyHistogram, BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{BucketSpan, Histogram, Labels, MatchOp, Matcher, TimeRange, stale_nan};
use strandline_storage::read::{Newest, SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

/// The end of an aligned range, so that data crosses it.
const T0: i64 = 1_700_006_400_000 - 1_800_000;
const STEP: i64 = 15_000;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// So many scrapes of the series whose bit is set, each ending in a marker if asked.
    Scrape {
        series: u16,
        times: u8,
        ends: bool,
    },
    /// One sample so many half steps before now.
    Late {
        series: u8,
        before: u16,
        kind: u8,
    },
    /// Time passes in which nobody is scraped.
    Pause(u8),
    Flush,
    Delete {
        series: u8,
        from: u8,
        steps: u8,
    },
    Compact,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u16>(), 1u8..40, prop::bool::weighted(0.2)).prop_map(|(series, times, ends)| Op::Scrape { series, times, ends }),
        6 => (0u8..16, prop_oneof![0u16..4, 0u16..500], any::<u8>()).prop_map(|(series, before, kind)| Op::Late { series, before, kind }),
        2 => (1u8..60).prop_map(Op::Pause),
        5 => Just(Op::Flush),
        1 => (0u8..16, any::<u8>(), 1u8..30).prop_map(|(series, from, steps)| Op::Delete { series, from, steps }),
        1 => Just(Op::Compact),
        1 => Just(Op::Restart),
    ]
}

/// Every other of 16 series has labels that its neighbour has not, and names that begin alike.
fn labels(series: u8) -> Labels {
    let mut pairs = vec![("__name__", ["m", "mm"][series as usize % 2].to_owned()), ("i", format!("{series:x}"))];
    if series % 4 < 2 {
        pairs.push(("extra", (series % 3).to_string()));
    }
    if series.is_multiple_of(5) {
        pairs.push(("zone", "z".to_owned()));
    }
    Labels::from_pairs(pairs)
}

/// Floats that rise and fall back, staleness markers, histograms for some series.
fn value(series: u8, kind: u8) -> Value {
    match (series % 6, kind) {
        (_, k) if k % 11 == 0 => Value::Float(stale_nan()),
        (5, k) if k % 3 > 0 => Value::Histogram(AnyHistogram::Int(Arc::new(Histogram {
            schema: 1,
            count: u64::from(k) + 1,
            zero_count: 1,
            sum: f64::from(k),
            positive_spans: vec![BucketSpan { offset: 1, length: 1 }],
            positive_buckets: vec![k.into()],
            ..Histogram::default()
        }))),
        (_, k) => Value::Float(f64::from(k % 50)),
    }
}

/// What a sample is, in the order in which those of one time displace one another.
fn seen(v: &Value) -> (u8, u64) {
    match v {
        Value::Histogram(AnyHistogram::Int(h)) => (2, h.sum.to_bits()),
        Value::Float(v) if v.to_bits() == stale_nan().to_bits() => (0, 0),
        Value::Float(v) => (1, v.to_bits()),
        _ => unreachable!(),
    }
}

fn seen_newest(n: &Newest) -> (i64, (u8, u64)) {
    let what = match &n.h {
        Some(h) => (2, h.sum.to_bits()),
        None if n.is_stale() => (0, 0),
        None => (1, n.v.to_bits()),
    };
    (n.t, what)
}

type Samples = BTreeMap<i64, (u8, u64)>;

struct World {
    fs: Arc<dyn Fs>,
    clock: ManualClock,
    now: i64,
    store: MetricStore,
    model: BTreeMap<Labels, Samples>,
}

fn open(fs: &Arc<dyn Fs>, clock: &ManualClock) -> MetricStore {
    let mut o = MetricOptions::new(fs.clone(), Arc::new(clock.clone()), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    o.series_idle_ms = 600_000;
    o.spill_bytes = 500;
    MetricStore::open(o).unwrap()
}

impl World {
    fn new() -> Self {
        let (fs, clock): (Arc<dyn Fs>, _) = (Arc::new(SimFs::new()), ManualClock::new(T0));
        World { store: open(&fs, &clock), fs, clock, now: T0, model: BTreeMap::new() }
    }

    fn append(&mut self, series: u8, t: i64, v: Value) {
        let l = labels(series);
        let mut b = BatchBuilder::default();
        let key = b.series(&l);
        b.push(key, t, 0, v.clone());
        let a = self.store.append(&b.finish()).unwrap();
        if a.rejected.is_empty() {
            let known = self.model.entry(l).or_default().entry(t).or_insert((0, 0));
            *known = seen(&v).max(*known);
        }
        a.commit.wait().unwrap();
    }

    fn pass(&mut self, ms: i64) {
        self.now += ms;
        self.clock.set(self.now);
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Scrape { series, times, ends } => {
                for k in 0..times {
                    self.pass(STEP);
                    for i in (0..16u8).filter(|i| series >> i & 1 == 1) {
                        let stale = ends && k + 1 == times;
                        self.append(i, self.now + i64::from(i), if stale { Value::Float(stale_nan()) } else { value(i, k + 1) });
                    }
                }
            }
            Op::Late { series, before, kind } => {
                // Scrapes of a series come at these times too: some are met again with another value.
                let t = self.now - i64::from(before) * STEP / 2 + i64::from(series);
                self.append(series, t, value(series, kind));
            }
            Op::Pause(steps) => self.pass(i64::from(steps) * STEP),
            Op::Flush => self.store.flush().unwrap(),
            Op::Delete { series, from, steps } => {
                let min_ms = self.now - i64::from(from) * STEP;
                let l = labels(series);
                // It concerns what is there, also where that lies a little ahead.
                let newest = self.model.get(&l).and_then(|s| s.keys().next_back()).map_or(self.now, |t| self.now.max(*t));
                let max_ms = newest.min(min_ms + i64::from(steps) * STEP);
                if max_ms < min_ms {
                    return;
                }
                let range = TimeRange::new(min_ms, max_ms);
                self.store.delete(range, l.iter().map(|(n, v)| Matcher::equal(n, v)).collect()).unwrap();
                // What comes later for that time stays.
                let covered = self.model.iter_mut().filter(|(of, _)| l.iter().all(|(n, v)| of.value(n) == v));
                covered.for_each(|(_, s)| s.retain(|t, _| !range.contains(*t)));
            }
            Op::Compact => drop(self.store.compact(10).unwrap()),
            Op::Restart => {
                self.store.close().unwrap();
                self.store = open(&self.fs, &self.clock);
            }
        }
    }

    /// What is to be seen of a series.
    fn expected(&self, l: &Labels, range: TimeRange) -> Vec<(i64, (u8, u64))> {
        let all = self.model.get(l).into_iter().flatten();
        all.filter(|(t, _)| range.contains(**t)).map(|(t, v)| (*t, *v)).collect()
    }

    /// Reads all series over `selected` and, in it, over `range`, the short ways before the long one.
    fn check(&self, selected: TimeRange, range: TimeRange, sorted: bool) {
        let every = Matcher::new(MatchOp::Regex, "__name__", "m+").unwrap();
        let request = SelectRequest { sorted, ..SelectRequest::new(vec![every], selected) };
        let sel = self.store.select(&request).unwrap();
        let (mut buf, mut scratch) = (SampleBuf::default(), SampleBuf::default());
        let (mut strings, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        let mut met: Vec<Labels> = Vec::new();
        for i in 0..sel.len() {
            let l = sel.labels(i);
            let want = self.expected(&l, range);
            assert_eq!(sel.is_live(i, range, &mut scratch).unwrap(), want.last().is_some_and(|(_, v)| v.0 > 0), "{l}");
            let newest = sel.newest(i, range, &mut scratch).unwrap();
            assert_eq!(newest.as_ref().map(seen_newest), want.last().copied(), "{l}");
            sel.read(i, range, &mut buf).unwrap();
            let one = |k: usize| Newest { t: buf.t[k], v: buf.v[k], st: 0, h: buf.histogram(k).cloned() };
            assert_eq!((0..buf.len()).map(|k| seen_newest(&one(k))).collect::<Vec<_>>(), want, "{l}");
            let (mut text, mut ids) = (Vec::new(), Vec::new());
            sel.visit_labels(i, &mut |n, v| text.extend([n.to_owned(), v.to_owned()]));
            assert_eq!(l, Labels::from_pairs(text.chunks(2).map(|p| (p[0].clone(), p[1].clone()))));
            assert!(sel.visit_symbols(i, &mut |n, v| ids.extend([n, v])));
            assert_eq!(text.len(), ids.len());
            for (s, n) in text.into_iter().zip(ids) {
                assert_eq!(*strings.entry(n).or_insert_with(|| s.clone()), s);
                assert_eq!(*numbers.entry(s).or_insert(n), n);
            }
            met.push(l);
        }
        if sorted {
            assert!(met.is_sorted_by(|a, b| a < b));
        }
        met.sort();
        assert!(met.is_sorted_by(|a, b| a < b), "a series is there twice");
        for l in self.model.keys().filter(|l| !self.expected(l, selected).is_empty()) {
            assert!(met.binary_search(l).is_ok(), "{l} is missing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn where_samples_lie_changes_no_answer(
        ops in prop::collection::vec(op(), 1..40),
        looks in prop::collection::vec((0i64..400, 0i64..400, 0i64..400, any::<bool>()), 8),
        edges in prop::collection::vec((any::<prop::sample::Index>(), -STEP..STEP, any::<bool>()), 8),
    ) {
        let mut w = World::new();
        for op in ops {
            w.act(op);
        }
        w.check(TimeRange::all(), TimeRange::all(), true);
        for (end, width, inner, sorted) in looks {
            let end = w.now - end * STEP / 4 + 9;
            let selected = TimeRange::new(end - width * STEP / 2, end);
            w.check(selected, selected, sorted);
            w.check(selected, TimeRange::new(end - width.min(inner) * STEP / 2, end), sorted);
            w.check(selected, TimeRange::new(selected.min_ms, end - width.min(inner) * STEP / 2), sorted);
        }
        // Ranges that begin and end with a sample: the last of all, the last of a series, any.
        let mut times: Vec<i64> = w.model.values().flat_map(|s| s.keys().copied()).collect();
        times.sort();
        let ends: Vec<i64> = w.model.values().filter_map(|s| s.keys().last().copied()).chain(times.last().copied()).collect();
        for (at, more, last) in edges {
            let among = if last { &ends } else { &times };
            if !among.is_empty() {
                let t = *at.get(among);
                let range = TimeRange::new(t.min(t + more), t.max(t + more));
                w.check(range, range, true);
            }
        }
    }
}
