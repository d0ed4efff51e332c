//! The head: appending, and finding series.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fleet, T0, World};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strandline::storage::metrics::MetricStore;
use strandline::storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline::storage::model::{MatchOp, Matcher, TimeRange};
use strandline::storage::read::{SelectRequest, SeriesSource};

const HOSTS: usize = 100;

fn append(s: &MetricStore, b: &Batch) {
    let a = s.append(b).unwrap();
    assert!(a.rejected.is_empty());
    a.commit.wait().unwrap();
}

fn appends(c: &mut Criterion) {
    let mut g = c.benchmark_group("append");
    let n = HOSTS as u64 * 100;
    g.throughput(Throughput::Elements(n));
    g.sample_size(20);
    let day = || World::new(T0 + 24 * 3_600_000);
    let first = Fleet::new(HOSTS).next_scrape();
    g.bench_function("new_series", |b| {
        b.iter_batched_ref(|| day().open(), |e| append(e.metrics(), &first), BatchSize::LargeInput);
    });
    let engine = day().open();
    let s = engine.metrics();
    let mut fleet = Fleet::new(HOSTS);
    g.bench_function("known_series", |b| b.iter_batched(|| fleet.next_scrape(), |batch| append(s, &batch), BatchSize::LargeInput));
    let handles: Vec<_> = fleet.series.iter().map(|(l, _)| s.handle(l).unwrap()).collect();
    let mut t = fleet.t;
    let mut next = || {
        let mut b = BatchBuilder::default();
        for h in &handles {
            let k = b.handle(*h);
            b.push(k, t, 0, Value::Float(t as f64));
        }
        t += 1000;
        b.finish()
    };
    g.bench_function("by_handle", |b| b.iter_batched(&mut next, |batch| append(s, &batch), BatchSize::LargeInput));
    g.finish();
}

fn selection(c: &mut Criterion) {
    let engine = World::new(T0 + 3_600_000).open();
    let s = engine.metrics();
    append(s, &Fleet::new(HOSTS).next_scrape());
    let m = |op, name: &str, value: &str| Matcher::new(op, name, value).unwrap();
    let mut g = c.benchmark_group("select");
    for (name, matchers) in [
        ("one", vec![m(MatchOp::Equal, "__name__", "up"), m(MatchOp::Equal, "instance", "10.0.0.7:9100")]),
        ("name", vec![m(MatchOp::Equal, "__name__", "node_cpu_seconds_total")]),
        ("regex", vec![m(MatchOp::Regex, "instance", "10\\.0\\.0\\.1.*"), m(MatchOp::Equal, "job", "node")]),
        ("negated", vec![m(MatchOp::Equal, "job", "api"), m(MatchOp::NotEqual, "code", "200")]),
        ("everything", vec![m(MatchOp::Regex, "__name__", ".+")]),
    ] {
        let request = SelectRequest::new(matchers, TimeRange::new(T0, T0 + 60_000));
        g.throughput(Throughput::Elements(s.select(&request).unwrap().len() as u64));
        g.bench_function(name, |b| b.iter(|| s.select(&request).unwrap().len()));
    }
    g.finish();
}

criterion_group!(benches, appends, selection);
criterion_main!(benches);
