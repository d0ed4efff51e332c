//! Samples of every kind for the golden metric folders, and what is read of a store as text.
#![allow(clippy::unwrap_used, dead_code)]

use std::sync::Arc;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{AnyHistogram, BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{
    BucketSpan, CUSTOM_BUCKETS_SCHEMA, Exemplar, FloatHistogram, Histogram, Labels, Matcher, MetricKind, MetricMetadata, TimeRange,
    stale_nan,
};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::fs::Fs;

pub const T0: i64 = 1_700_006_400_000;
pub const KINDS: [&str; 8] = ["int", "decimal", "odd", "histogram", "float_histogram", "custom", "delta", "delta_histogram"];

pub fn open(fs: Arc<dyn Fs>, dir: &str, xor2: bool) -> MetricStore {
    let mut o = MetricOptions::new(fs.clone(), Arc::new(ManualClock::new(T0 + 1_200_000)), dir);
    o.bucket = Some(Arc::new(LocalBucket::open(fs, format!("{dir}/bucket")).unwrap()));
    o.wal.background = false;
    o.rules.xor2 = xor2;
    o.rules.start_timestamps = xor2;
    MetricStore::open(o).unwrap()
}

fn histogram(k: i64, custom: bool) -> Histogram {
    let base = Histogram {
        sum: k as f64 * 1.5,
        count: (10 + 3 * k) as u64,
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
        positive_buckets: vec![4 + k, 0],
        ..Histogram::default()
    };
    match custom {
        true => Histogram { schema: CUSTOM_BUCKETS_SCHEMA, custom_values: [0.5, 1.0, 2.5].into(), count: (8 + 2 * k) as u64, ..base },
        false => Histogram {
            schema: 3,
            zero_threshold: 0.001,
            zero_count: 1,
            negative_spans: vec![BucketSpan { offset: -2, length: 1 }],
            negative_buckets: vec![1 + k],
            ..base
        },
    }
}

fn value(kind: usize, k: i64) -> Value {
    let odd = [-0.0, f64::INFINITY, f64::from_bits(0x7ff8_0000_0000_0001), stale_nan(), 1e-300, 0.1 + 0.2];
    match kind {
        0 => Value::Float((k * k) as f64),
        1 => Value::Float(k as f64 / 100.0),
        2 => Value::Float(odd[k as usize % odd.len()]),
        3 => Value::Histogram(AnyHistogram::Int(Arc::new(histogram(k, false)))),
        4 => Value::Histogram(AnyHistogram::Float(Arc::new(FloatHistogram { zero_count: 0.25, ..histogram(k, false).to_float() }))),
        5 => Value::Histogram(AnyHistogram::Int(Arc::new(histogram(k, true)))),
        6 => Value::Delta(1.0 + k as f64 / 4.0),
        _ => Value::DeltaHistogram(Arc::new(histogram(1, false))),
    }
}

/// Appends steps, with a late sample, an exemplar and metadata.
pub fn fill(store: &MetricStore, steps: std::ops::Range<i64>) {
    for k in steps {
        let mut b = BatchBuilder::default();
        for (kind, name) in KINDS.iter().enumerate() {
            let s =
                b.series(&Labels::from_pairs([("__name__", (*name).to_owned()), ("kind", kind.to_string()), ("text", "é\"\\\n".into())]));
            b.push(s, T0 + k * 15_000, T0 - 1000, value(kind, k));
            if kind == 0 && k % 7 == 6 {
                b.push(s, T0 + k * 15_000 - 31_000, T0 - 1000, Value::Float(-1.0));
            }
            if kind == 0 {
                b.exemplar(
                    s,
                    Exemplar { labels: Labels::from_pairs([("trace_id", format!("{k:032x}"))]), v: k as f64, t: T0 + k * 15_000 },
                );
            }
        }
        b.metadata("int".into(), MetricMetadata { kind: MetricKind::Counter, help: "squares".into(), unit: "1".into() });
        store.append(&b.finish()).unwrap().commit.wait().unwrap();
    }
}

/// All samples, a line each.
pub fn samples(store: &MetricStore) -> String {
    let mut out = String::new();
    for (kind, name) in KINDS.iter().enumerate() {
        let sel = store.select(&SelectRequest::new(vec![Matcher::equal("__name__", *name)], TimeRange::all())).unwrap();
        assert_eq!(sel.len(), 1, "{name}");
        let mut buf = SampleBuf::default();
        sel.read(0, TimeRange::all(), &mut buf).unwrap();
        for i in 0..buf.len() {
            let v = match buf.histogram(i) {
                Some(h) => format!(
                    "schema {} count {} sum {} zero {} {} positive {:?} {:?} negative {:?} {:?} custom {:?}",
                    h.schema,
                    h.count,
                    h.sum,
                    h.zero_threshold,
                    h.zero_count,
                    h.positive_spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>(),
                    h.positive_buckets,
                    h.negative_spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>(),
                    h.negative_buckets,
                    h.custom_values
                ),
                None => format!("{:016x}", buf.v[i].to_bits()),
            };
            out.push_str(&format!("{kind} {} {v}\n", buf.t[i]));
        }
    }
    out
}
