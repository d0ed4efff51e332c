//! Spans: arrival, flush to Parquet, lookups and TraceQL scans. Throughput is spans.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{T0, World};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use strandline::storage::Engine;
use strandline::storage::model::TraceId;
use strandline::traceql::{self, MetricsOptions, Root, SearchOptions};
use strandline_testkit::spans;

const REQUESTS: u64 = 40;
const TRACES_A_REQUEST: u64 = 50;
const SPANS: u64 = REQUESTS * TRACES_A_REQUEST * spans::SPANS_A_TRACE as u64;

fn requests() -> Vec<Bytes> {
    (0..REQUESTS).map(|i| spans::request(i * TRACES_A_REQUEST, TRACES_A_REQUEST, T0).into()).collect()
}

fn open() -> Engine {
    World::new(T0 + 1_800_000).open()
}

fn ingest(e: &Engine, requests: &[Bytes]) {
    for r in requests {
        let a = e.traces().append_otlp(r.clone()).unwrap();
        assert_eq!(a.rejected, 0);
        a.ticket.wait().unwrap();
    }
}

fn arrival(c: &mut Criterion) {
    let requests = requests();
    let mut g = c.benchmark_group("spans");
    g.sample_size(10);
    g.throughput(Throughput::Elements(SPANS));
    g.bench_function("ingest", |b| b.iter_batched_ref(open, |e| ingest(e, &requests), BatchSize::PerIteration));
    let live = || {
        let e = open();
        ingest(&e, &requests);
        e
    };
    g.bench_function("flush", |b| b.iter_batched_ref(live, |e| e.traces().flush().unwrap(), BatchSize::PerIteration));
    g.finish();
}

fn scans(c: &mut Criterion) {
    let e = open();
    ingest(&e, &requests());
    let s = e.traces();
    for place in ["live", "block"] {
        if place == "block" {
            s.flush().unwrap();
        }
        let mut g = c.benchmark_group(format!("traceql_{place}"));
        g.sample_size(10);
        g.bench_function("trace_by_id", |b| b.iter(|| s.trace(TraceId(spans::trace_id(777))).unwrap().unwrap()));
        g.throughput(Throughput::Elements(SPANS));
        for (name, text) in [
            ("filter", "{ span.http.route = `/cart` && duration > 10ms }"),
            ("structural", "{ resource.service.name = `web` } >> { status = error }"),
            ("aggregate", "{ kind = client } | by(resource.service.name) | avg(duration) > 20ms"),
        ] {
            let query = traceql::parse(text).unwrap();
            let Root::Spansets(pipeline) = &query.root else { unreachable!("it selects") };
            g.bench_function(name, |b| b.iter(|| traceql::search(s, pipeline, &SearchOptions::default()).unwrap()));
        }
        let options = MetricsOptions::new(T0 as u64 * 1_000_000, (T0 as u64 + 1_800_000) * 1_000_000);
        for (name, text) in [
            ("rate", "{ } | rate() by (resource.service.name)"),
            ("quantiles", "{ kind = server } | quantile_over_time(duration, .5, .99) by (span.http.route)"),
        ] {
            let query = traceql::parse(text).unwrap();
            g.bench_function(name, |b| b.iter(|| traceql::query_range(s, &query, &options).unwrap()));
        }
        g.finish();
    }
}

criterion_group!(benches, arrival, scans);
criterion_main!(benches);
