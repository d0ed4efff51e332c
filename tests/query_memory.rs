//! What a query takes stays within its limit of memory, whatever it is made of: those that need more are refused before
//! they have it. Counted by the allocator.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "promql")]

use strandline::promql::{Engine, EngineOptions, Error, Limit, MemSource, QueryOptions};
use strandline::storage::model::{BucketSpan, FloatHistogram, Labels};
use strandline_testkit::{Allocations, CountingAllocator};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SAMPLES: i64 = 300;
const EVERY_MS: i64 = 15_000;
const LIMIT: u64 = 12 << 20;

/// Counters and gauges whose values hardly repeat, classic buckets, native histograms.
fn source() -> MemSource {
    let mut s = MemSource::new();
    for i in 0..1000i64 {
        let who = [("instance", format!("10.0.{}.{}:9100", i / 250, i % 250)), ("job", format!("job-{}", i % 20))];
        let named = |name: &str, more: Option<(&str, String)>| {
            let pairs = who.iter().cloned().chain([("__name__", name.to_owned())]).chain(more);
            Labels::from_pairs(pairs.map(|(n, v)| (n.to_owned(), v)))
        };
        let (gauge, native) = (named("gauge", None), named("native", None));
        let buckets: Vec<Labels> = ["0.1", "1", "+Inf"].map(|le| named("h_bucket", Some(("le", le.to_owned())))).to_vec();
        for k in 0..SAMPLES {
            let t = k * EVERY_MS;
            s.push(&gauge, t, (i * SAMPLES + k) as f64 * 0.37);
            if i % 10 == 0 {
                buckets.iter().enumerate().for_each(|(b, l)| s.push(l, t, (k * (b as i64 + 1)) as f64));
                s.push_histogram(&native, t, histogram(k as f64 + 1.0), 0);
            }
        }
    }
    s
}

fn histogram(n: f64) -> FloatHistogram {
    FloatHistogram {
        schema: 3,
        count: 60.0 * n,
        sum: n,
        positive_spans: vec![BucketSpan { offset: 0, length: 60 }],
        positive_buckets: vec![n; 60],
        ..FloatHistogram::default()
    }
}

#[test]
fn no_query_takes_much_more_than_its_limit() {
    let s = source();
    let engine = Engine::new(EngineOptions { max_bytes: LIMIT, threads: 2, ..EngineOptions::default() });
    let (mut refused, mut over) = (Vec::new(), Vec::new());
    for q in [
        "gauge",
        "gauge[75m]",
        "rate(gauge[5m])",
        "sort(gauge)",
        "topk(100000, gauge)",
        "topk by (instance) (3, gauge)",
        "limitk(100000, gauge)",
        "limit_ratio(1, gauge)",
        "quantile(0.5, gauge)",
        "quantile by (instance) (0.5, gauge)",
        "sum by (instance) (gauge)",
        "count_values(\"v\", gauge)",
        "count_values(\"v\", gauge{job=\"job-1\"})",
        "gauge + gauge",
        "gauge * on (instance) group_left (job) gauge",
        "gauge or (gauge * 2)",
        "label_replace(gauge, \"x\", \"$1$1$1$1$1$1$1$1\", \"instance\", \"(.*)\")",
        "label_join(gauge, \"x\", \"-\", \"instance\", \"instance\", \"instance\", \"instance\")",
        "absent(gauge)",
        "max_over_time(gauge[30m:1s])",
        "max_over_time(max_over_time(gauge[10m:1s])[10m:1s])",
        "histogram_quantile(0.9, h_bucket)",
        "histogram_quantiles(h_bucket, \"q\", time() / 10000, time() / 20000)",
        "histogram_quantiles(native, \"q\", time() / 10000, time() / 20000)",
        "native",
        "native[75m]",
        "rate(native[5m])",
        "native * 2",
        "native + native",
        "sum by (instance) (native)",
        "sum by (instance) (rate(native[5m]))",
        "avg_over_time(native[10m])",
        "histogram_quantile(0.9, native)",
        "last_over_time(native[10m])",
        "info(gauge)",
    ] {
        for (step_ms, end_ms) in [(0, 4_000_000), (15_000, 4_400_000), (1000, 4_400_000)] {
            let before = Allocations::now().live_bytes;
            Allocations::reset_peak();
            let options = QueryOptions::default();
            let answer = match step_ms {
                0 => engine.instant(&s, q, end_ms, &options),
                _ if q.ends_with(']') => continue,
                step => engine.range(&s, q, 0, end_ms, step, &options),
            };
            let peak = Allocations::now().peak_bytes - before;
            match answer {
                Ok(_) => {}
                Err(Error::LimitExceeded { limit: Limit::Bytes, .. }) => refused.push(q),
                Err(e) => panic!("{q}: {e}"),
            }
            if peak > 2 * LIMIT {
                over.push(format!("{q} every {step_ms} ms: {:.1} MiB", peak as f64 / f64::from(1 << 20)));
            }
        }
    }
    assert!(over.is_empty(), "these took more than twice the limit of {} MiB:\n{}", LIMIT >> 20, over.join("\n"));
    // Both happens.
    assert!(refused.contains(&"topk(100000, gauge)") && !refused.contains(&"absent(gauge)"), "{refused:?}");
}
