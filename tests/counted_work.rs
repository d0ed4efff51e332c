//! What the engine's work costs in things that can be counted: allocations, bytes of them, fsyncs, requests to the
//! bucket. `benches/counted_work.toml` says what it was; more than a little above it fails, on any machine, without a
//! clock. New values are accepted with `COUNTED_WORK=write cargo test --test counted_work`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(all(feature = "promql", feature = "traceql"))]

#[path = "counted_work/meter.rs"]
mod meter;

use strandline::promql::{Engine as PromQl, EngineOptions};
use strandline::storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline::storage::metrics::{MetricStore, Place};
use strandline::storage::model::{Labels, MatchOp, Matcher, TimeRange, TraceId};
use strandline::storage::read::{SampleBuf, SelectRequest, SeriesSource, SpanSource};
use strandline::traceql::{self, MetricsOptions, Root, SearchOptions};
use strandline_testkit::metrics::{Series, host};
use strandline_testkit::{CountingAllocator, Random, spans};

use meter::{Meter, World};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Aligned to two hours.
const T0: i64 = 1_700_006_400_000;
const HOSTS: usize = 20;

fn labels(s: &Series) -> Labels {
    Labels::from_pairs(s.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

struct Fleet {
    series: Vec<(Labels, Series)>,
    random: Random,
    t: i64,
}

impl Fleet {
    fn new(hosts: usize) -> Self {
        let series = (0..hosts).flat_map(host).map(|s| (labels(&s), s)).collect();
        Fleet { series, random: Random::new(1), t: T0 }
    }
    fn next_scrape(&mut self) -> Batch {
        let mut b = BatchBuilder::default();
        for (l, s) in &mut self.series {
            let k = b.series(l);
            b.push(k, self.t, 0, Value::Float(s.step(&mut self.random)));
        }
        self.t += 15_000;
        b.finish()
    }
}

#[test]
fn work_is_what_it_was() {
    let mut m = Meter::new();
    wal(&mut m);
    metrics(&mut m);
    traces(&mut m);
    m.settle();
}

fn wal(m: &mut Meter) {
    let w = World::new(T0);
    let wal = w.wal();
    let record = [7u8; 1000];
    wal.append(&record).unwrap().wait().unwrap();
    m.count("wal_commit_1000_bytes", 100, &w, || {
        for _ in 0..100 {
            wal.append(&record).unwrap().wait().unwrap();
        }
    });
    m.count("wal_group_of_100_records", 100, &w, || {
        let tickets: Vec<_> = (0..100).map(|_| wal.append(&record).unwrap()).collect();
        tickets.into_iter().for_each(|t| t.wait().unwrap());
    });
}

fn append(s: &MetricStore, b: &Batch) {
    let a = s.append(b).unwrap();
    assert!(a.rejected.is_empty(), "{:?}", a.rejected[0]);
    a.commit.wait().unwrap();
}

fn metrics(m: &mut Meter) {
    let w = World::new(T0 + 3_600_000);
    let engine = w.open();
    let s = engine.metrics().clone();
    let mut fleet = Fleet::new(HOSTS);
    let n = fleet.series.len() as u64;
    let first = fleet.next_scrape();
    m.count("append_new_series", n, &w, || append(&s, &first));
    let batches: Vec<Batch> = (0..100).map(|_| fleet.next_scrape()).collect();
    m.count("append_known_series", n * 100, &w, || batches.iter().for_each(|b| append(&s, b)));
    let handles: Vec<_> = fleet.series.iter().map(|(l, _)| s.handle(l).unwrap()).collect();
    let mut b = BatchBuilder::default();
    for h in handles {
        let k = b.handle(h);
        b.push(k, fleet.t, 0, Value::Float(1.0));
    }
    let by_handle = b.finish();
    m.count("append_by_handle", n, &w, || append(&s, &by_handle));
    drop(batches);
    queries(m, "head", &w, &s, fleet.t);
    m.count("flush_a_sample", n * 102, &w, || s.flush().unwrap());
    queries(m, "block", &w, &s, fleet.t);
    m.count("upload_a_block", 1, &w, || s.upload().unwrap());
    // Three more blocks of the same range, and the range is over: one merge.
    for _ in 0..3 {
        for _ in 0..10 {
            let b = fleet.next_scrape();
            append(&s, &b);
        }
        s.flush().unwrap();
    }
    w.clock.set(T0 + 20 * 3_600_000);
    m.count("compact_a_sample", n * 132, &w, || assert_eq!(s.compact(1).unwrap(), 1));
    s.upload().unwrap();
    engine.close().unwrap();
    drop((engine, s));
    far_metrics(m, &w, fleet.t);
}

/// A machine with an empty disk and the bucket.
fn far_metrics(m: &mut Meter, w: &World, end: i64) {
    let far = World { clock: w.clock.clone(), bucket: w.bucket.clone(), ..World::new(T0) };
    let mut engine = None;
    m.count("open_with_far_bucket", 1, &far, || engine = Some(far.open()));
    let engine = engine.unwrap();
    let s = engine.metrics();
    let blocks = s.blocks();
    let blocks: Vec<_> = blocks.iter().filter(|b| matches!(b.place, Place::Bucket(_))).collect();
    m.count("open_far_block", blocks.len() as u64, &far, || blocks.iter().for_each(|b| drop(b.open().unwrap())));
    queries(m, "far", &far, s, end);
}

fn queries(m: &mut Meter, place: &str, w: &World, s: &MetricStore, end: i64) {
    let one = [Matcher::equal("__name__", "up"), Matcher::equal("instance", "10.0.0.3:9100")];
    let regex = [Matcher::equal("__name__", "node_cpu_seconds_total"), Matcher::new(MatchOp::Regex, "mode", "idle|user").unwrap()];
    for (name, matchers) in [("select_one", one.to_vec()), ("select_regex", regex.to_vec())] {
        let request = SelectRequest::new(matchers, TimeRange::new(T0, end));
        let n = s.select(&request).unwrap().len() as u64;
        assert!(n > 0);
        m.count(&format!("{place}_{name}"), n, w, || {
            let selection = s.select(&request).unwrap();
            let mut buf = SampleBuf::default();
            for i in 0..selection.len() {
                selection.read(i, TimeRange::new(T0, end), &mut buf).unwrap();
                buf.clear();
            }
        });
    }
    let engine = PromQl::new(EngineOptions { threads: 1, ..EngineOptions::default() });
    let series = (HOSTS * 100) as u64;
    let at = end - 15_000;
    for (name, units, text) in [
        ("count", series, "count({__name__!=\"\"})"),
        ("sum_rate", series, "sum by (job) (rate({__name__=~\".+\"}[5m]))"),
        ("quantile", HOSTS as u64 * 30, "histogram_quantile(0.99, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))"),
        ("topk", HOSTS as u64 * 20, "topk(3, rate(node_cpu_seconds_total[5m]))"),
        ("binop", HOSTS as u64 * 20, "node_cpu_seconds_total / on (instance) group_left up"),
        ("subquery", HOSTS as u64, "max_over_time(rate(up[1m])[5m:1m])"),
    ] {
        let run = || drop(engine.range(s, text, at - 600_000, at, 60_000, &Default::default()).unwrap());
        run();
        m.count(&format!("{place}_query_{name}"), units, w, run);
    }
}

fn traces(m: &mut Meter) {
    let w = World::new(T0 + 600_000);
    let engine = w.open();
    let s = engine.traces();
    const TRACES: u64 = 50;
    let n = 10 * TRACES * spans::SPANS_A_TRACE as u64;
    let requests: Vec<_> = (0..10).map(|i| spans::request(i * TRACES, TRACES, T0).into()).collect();
    m.count("append_spans", n, &w, || {
        for r in &requests {
            let a: bytes::Bytes = Clone::clone(r);
            s.append_otlp(a).unwrap().ticket.wait().unwrap();
        }
    });
    assert_eq!(s.live_spans(), n);
    trace_queries(m, "live", &w, s, n);
    m.count("flush_a_span", n, &w, || s.flush().unwrap());
    trace_queries(m, "block", &w, s, n);
    engine.close().unwrap();
    drop(engine);
    let far = World { clock: w.clock.clone(), bucket: w.bucket.clone(), ..World::new(T0) };
    let engine = far.open();
    engine.traces().maintain().unwrap();
    trace_queries(m, "far", &far, engine.traces(), n);
}

fn trace_queries(m: &mut Meter, place: &str, w: &World, s: &strandline::storage::traces::TraceStore, spans: u64) {
    m.count(&format!("{place}_trace_by_id"), 1, w, || assert!(s.trace(TraceId(spans::trace_id(77))).unwrap().is_some()));
    let source: &dyn SpanSource = s;
    let filter = traceql::parse("{ span.http.route = `/cart` && duration > 10ms }").unwrap();
    let Root::Spansets(pipeline) = &filter.root else { unreachable!("it selects") };
    let found = || assert!(!traceql::search(source, pipeline, &SearchOptions::default()).unwrap().traces.is_empty());
    found();
    m.count(&format!("{place}_traceql_search"), spans, w, found);
    let rate = traceql::parse("{ } | rate() by (resource.service.name)").unwrap();
    let options = MetricsOptions::new(T0 as u64 * 1_000_000, (T0 as u64 + 600_000) * 1_000_000);
    m.count(&format!("{place}_traceql_rate"), spans, w, || {
        assert_eq!(traceql::query_range(source, &rate, &options).unwrap().series.len(), 6)
    });
}
