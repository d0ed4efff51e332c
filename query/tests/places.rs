//! PromQL over a store whose samples lie in the head and in several blocks says what it says of the same samples in one
//! list: counters that reset between two places, markers, histograms, samples that come late.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use strandline_query::promql::{Engine, EngineOptions, MemSource, QueryOptions, SampleRef, Value, histograms};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{AnyHistogram, BatchBuilder, Value as Item};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{BucketSpan, Histogram, Labels, stale_nan};
use strandline_storage::read::SeriesSource;
use strandline_wal::WalOptions;
use strandline_wal::fs::SimFs;

/// The end of an aligned range comes in between.
const T0: i64 = 1_700_006_400_000 - 600_000;
const STEP: i64 = 15_000;

const QUERIES: [&str; 12] = [
    "count({__name__=~\"m_total|n\"})",
    "count by (__name__, a) ({__name__=~\"m_total|n\"})",
    "m_total",
    "timestamp(n)",
    "sum by (a) (rate(m_total[2m]))",
    "increase(m_total[5m])",
    "topk(2, sum by (b) (irate(m_total[1m])))",
    "max by (b) (max_over_time(n[3m]))",
    "histogram_count(sum(rate(h[2m])))",
    "m_total / on (a, b) n",
    "max_over_time(sum(rate(m_total[1m]))[5m:30s])",
    "count_over_time(n[4m] offset 1m)",
];

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A scrape of the series whose bit is set; one of them may start anew, or end.
    Scrape {
        series: u16,
        reset: u8,
        end: u8,
    },
    /// A sample that should have come some steps ago.
    Late {
        series: u8,
        steps: u8,
    },
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (prop_oneof![Just(u16::MAX), any::<u16>()], 0u8..60, 0u8..100).prop_map(|(series, reset, end)| Op::Scrape { series, reset, end }),
        2 => (0u8..12, 1u8..40).prop_map(|(series, steps)| Op::Late { series, steps }),
        1 => Just(Op::Flush),
    ]
}

fn labels(series: u8) -> Labels {
    let name = ["m_total", "n", "h"][series as usize % 3];
    Labels::from_pairs([("__name__", name.to_owned()), ("a", (series / 3 % 2).to_string()), ("b", (series / 3).to_string())])
}

fn histogram(n: u32) -> Histogram {
    let buckets = vec![n.into(), n.into()];
    let spans = vec![BucketSpan { offset: 0, length: 2 }];
    Histogram { count: u64::from(n) * 3, sum: n.into(), positive_spans: spans, positive_buckets: buckets, ..Histogram::default() }
}

struct World {
    clock: ManualClock,
    now: i64,
    store: MetricStore,
    /// The same by series and time.
    model: BTreeMap<(u8, i64), Item>,
    counts: [u32; 12],
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new(T0);
        let mut o = MetricOptions::new(Arc::new(SimFs::new()), Arc::new(clock.clone()), "/data");
        o.wal = WalOptions { background: false, ..WalOptions::default() };
        World { clock, now: T0, store: MetricStore::open(o).unwrap(), model: BTreeMap::new(), counts: [0; 12] }
    }

    fn append(&mut self, series: u8, t: i64, v: Item) {
        let mut b = BatchBuilder::default();
        let key = b.series(&labels(series));
        b.push(key, t, 0, v.clone());
        let a = self.store.append(&b.finish()).unwrap();
        if a.rejected.is_empty() {
            self.model.insert((series, t), v);
        }
        a.commit.wait().unwrap();
    }

    fn item(&self, series: u8) -> Item {
        let n = self.counts[series as usize];
        if series % 3 == 2 { Item::Histogram(AnyHistogram::Int(Arc::new(histogram(n)))) } else { Item::Float(n.into()) }
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Scrape { series, reset, end } => {
                self.now += STEP;
                self.clock.set(self.now);
                for i in (0..12u8).filter(|i| series >> i & 1 == 1) {
                    let n = &mut self.counts[i as usize];
                    *n = if i == reset { 1 } else { *n + u32::from(i) + 1 };
                    let v = if i == end { Item::Float(stale_nan()) } else { self.item(i) };
                    self.append(i, self.now + i64::from(i), v);
                }
            }
            Op::Late { series, steps } => self.append(series, self.now - i64::from(steps) * STEP + 5000, self.item(series)),
            Op::Flush => self.store.flush().unwrap(),
        }
    }

    fn in_one_list(&self) -> MemSource {
        let mut s = MemSource::new();
        for ((series, t), v) in &self.model {
            match v {
                Item::Float(v) => s.push(&labels(*series), *t, *v),
                Item::Histogram(AnyHistogram::Int(h)) => s.push_histogram(&labels(*series), *t, h.to_float(), 0),
                _ => unreachable!(),
            }
        }
        s
    }
}

fn show(v: &SampleRef<'_>) -> String {
    match v {
        // Twelve digits: the order of a sum is no promise.
        SampleRef::Float(v) => format!("{v:.12e}"),
        SampleRef::Histogram(h) => histograms::to_text(h),
    }
}

fn ask(source: &dyn SeriesSource, query: &str, from: i64, to: i64) -> Result<BTreeMap<(Labels, i64), String>, String> {
    let e = Engine::new(EngineOptions::default());
    let range = e.range(source, query, from, to, 2 * STEP, &QueryOptions::default()).map_err(|e| e.to_string())?;
    let Value::Matrix(range) = range.value else { return Err("no matrix".into()) };
    let mut out: BTreeMap<_, _> = range.iter().flat_map(|s| s.samples().map(|(t, v)| ((s.labels.clone(), t), show(&v)))).collect();
    // A time alone takes other ways.
    let once = e.range(source, query, to, to, 1, &QueryOptions::default()).map_err(|e| e.to_string())?;
    let Value::Matrix(once) = once.value else { return Err("no matrix".into()) };
    out.extend(once.iter().flat_map(|s| s.samples().map(|(_, v)| ((s.labels.clone(), i64::MAX), show(&v)))));
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn where_samples_lie_changes_no_query(ops in prop::collection::vec(op(), 1..120), ends in prop::collection::vec(0i64..240, 3)) {
        let mut w = World::new();
        for op in ops {
            w.act(op);
        }
        let one = w.in_one_list();
        for end in ends {
            let to = w.now - end * STEP / 2 + 20;
            for q in QUERIES {
                let (got, want) = (ask(&w.store, q, to - 60 * STEP, to), ask(&one, q, to - 60 * STEP, to));
                prop_assert_eq!(got, want, "{} at {}", q, to);
            }
        }
    }
}
