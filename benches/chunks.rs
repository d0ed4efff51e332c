//! Chunks: appending and decoding floats and histograms.
#![allow(clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strandline::storage::chunk::{Encoding, FloatHistogramAppender, HistogramAppender, Xor2Appender, XorAppender, decode};
use strandline::storage::model::{BucketSpan, CounterReset, FloatHistogram, Histogram, TimeRange};
use strandline::storage::read::SampleBuf;
use strandline_testkit::Random;
use strandline_testkit::metrics::host;

const T0: i64 = 1_700_006_400_000;
const SAMPLES: i64 = 120;

/// Values of every kind of series of a host.
fn values() -> Vec<Vec<f64>> {
    let mut r = Random::new(3);
    let series = host(1).into_iter().map(|mut s| (0..SAMPLES).map(|_| s.step(&mut r)).collect());
    series.collect()
}

fn xor(v: &[f64]) -> Vec<u8> {
    let mut a = XorAppender::default();
    for (i, v) in v.iter().enumerate() {
        a.append(T0 + i as i64 * 15_000, *v);
    }
    a.take()
}

fn xor2(v: &[f64]) -> Vec<u8> {
    let mut a = Xor2Appender::default();
    for (i, v) in v.iter().enumerate() {
        a.append(T0 + i as i64 * 15_000, *v, 0);
    }
    a.take()
}

fn histograms() -> Vec<Histogram> {
    let mut counts = [1u64; 8];
    let mut r = Random::new(5);
    let mut one = |k: u64| {
        counts.iter_mut().for_each(|c| *c += r.below(9));
        let deltas = (0..8).map(|i| counts[i] as i64 - if i == 0 { 0 } else { counts[i - 1] as i64 });
        Histogram {
            schema: 2,
            zero_threshold: 0.001,
            count: counts.iter().sum(),
            sum: k as f64 * 1.5,
            positive_spans: vec![BucketSpan { offset: -2, length: 5 }, BucketSpan { offset: 2, length: 3 }],
            positive_buckets: deltas.collect(),
            ..Histogram::default()
        }
    };
    (0..SAMPLES as u64).map(&mut one).collect()
}

fn histogram_chunk(all: &[Histogram]) -> Vec<u8> {
    let mut a = HistogramAppender::new(T0, &all[0], CounterReset::Unknown);
    for (i, h) in all.iter().enumerate().skip(1) {
        a.append(T0 + i as i64 * 15_000, h).unwrap();
    }
    a.bytes().to_vec()
}

fn float_histogram_chunk(all: &[FloatHistogram]) -> Vec<u8> {
    let mut a = FloatHistogramAppender::new(T0, &all[0], CounterReset::Unknown);
    for (i, h) in all.iter().enumerate().skip(1) {
        a.append(T0 + i as i64 * 15_000, h).unwrap();
    }
    a.bytes().to_vec()
}

fn chunks(c: &mut Criterion) {
    let values = values();
    let ints = histograms();
    let floats: Vec<FloatHistogram> = ints.iter().map(Histogram::to_float).collect();
    let mut g = c.benchmark_group("chunks");
    g.throughput(Throughput::Elements(values.len() as u64 * SAMPLES as u64));
    g.bench_function("xor_encode", |b| b.iter(|| values.iter().map(|v| xor(v).len()).sum::<usize>()));
    g.bench_function("xor2_encode", |b| b.iter(|| values.iter().map(|v| xor2(v).len()).sum::<usize>()));
    for (name, encoding, data) in [
        ("xor_decode", Encoding::Xor, values.iter().map(|v| xor(v)).collect::<Vec<_>>()),
        ("xor2_decode", Encoding::Xor2, values.iter().map(|v| xor2(v)).collect()),
    ] {
        let mut out = SampleBuf::default();
        g.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                data.iter().for_each(|d| decode(encoding, d, TimeRange::all(), &mut out).unwrap());
                out.len()
            });
        });
    }
    g.throughput(Throughput::Elements(SAMPLES as u64));
    g.bench_function("histogram_encode", |b| b.iter(|| histogram_chunk(&ints).len()));
    g.bench_function("float_histogram_encode", |b| b.iter(|| float_histogram_chunk(&floats).len()));
    for (name, encoding, data) in [
        ("histogram_decode", Encoding::Histogram, histogram_chunk(&ints)),
        ("float_histogram_decode", Encoding::FloatHistogram, float_histogram_chunk(&floats)),
    ] {
        let mut out = SampleBuf::default();
        g.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                decode(encoding, &data, TimeRange::all(), &mut out).unwrap();
            });
        });
    }
    g.finish();
}

criterion_group!(benches, chunks);
criterion_main!(benches);
