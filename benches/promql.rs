//! PromQL by class of query, over the head and over a block. Throughput is series looked at.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fleet, T0, World};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strandline::promql::{Engine, EngineOptions, parse};

const HOSTS: usize = 50;

const QUERIES: [(&str, usize, &str); 9] = [
    ("count", 100, "count({__name__!=\"\"})"),
    ("one_series", 1, "up{instance=\"10.0.0.3:9100\"}"),
    ("sum_rate", 100, "sum by (job) (rate({__name__=~\".+\"}[5m]))"),
    ("quantile", 30, "histogram_quantile(0.99, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))"),
    ("topk", 20, "topk(3, rate(node_cpu_seconds_total[5m]))"),
    ("binop", 20, "node_cpu_seconds_total / on (instance) group_left up"),
    ("max_over_time", 5, "max_over_time(node_memory_bytes[10m])"),
    ("subquery", 1, "max_over_time(rate(up[1m])[5m:1m])"),
    ("label_replace", 20, "label_replace(node_cpu_seconds_total, \"host\", \"$1\", \"instance\", \"(.*):.*\")"),
];

fn queries(c: &mut Criterion) {
    let w = World::new(T0 + 7_200_000);
    let e = w.open();
    let mut fleet = Fleet::new(HOSTS);
    for _ in 0..120 {
        e.metrics().append(&fleet.next_scrape()).unwrap().commit.wait().unwrap();
    }
    let end = fleet.t - 15_000;
    let engine = Engine::new(EngineOptions { threads: 1, ..EngineOptions::default() });
    for place in ["head", "block"] {
        if place == "block" {
            e.metrics().flush().unwrap();
        }
        let mut g = c.benchmark_group(format!("promql_{place}"));
        g.sample_size(20);
        for (name, series_a_host, text) in QUERIES {
            g.throughput(Throughput::Elements((series_a_host * if name == "one_series" { 1 } else { HOSTS }) as u64));
            g.bench_function(format!("{name}_instant"), |b| {
                b.iter(|| engine.instant(e.metrics(), text, end, &Default::default()).unwrap())
            });
            let range = || engine.range(e.metrics(), text, end - 900_000, end, 60_000, &Default::default()).unwrap();
            g.bench_function(format!("{name}_range"), |b| b.iter(range));
        }
        g.finish();
    }
    let mut g = c.benchmark_group("promql");
    g.throughput(Throughput::Bytes(QUERIES.iter().map(|q| q.2.len() as u64).sum()));
    g.bench_function("parse", |b| b.iter(|| QUERIES.iter().for_each(|q| drop(parse(q.2).unwrap()))));
    g.finish();
}

criterion_group!(benches, queries);
criterion_main!(benches);
