//! The engine as a whole: ranges against instants, threads against one, limits, cancellation.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::prelude::*;
use strandline_query::promql::{
    Engine, EngineOptions, Error, Limit, MemSource, QueryOptions, SampleRef, SampleValue, Value, histograms, parse, pretty, selector_ranges,
};
use strandline_storage::model::{BucketSpan, FloatHistogram, Labels, TimeRange, stale_nan};

type Answer = BTreeMap<Labels, BTreeMap<i64, String>>;

fn show(v: &SampleRef<'_>) -> String {
    match v {
        // Twelve digits: the order of a sum is no promise.
        SampleRef::Float(v) => format!("{v:.12e}"),
        SampleRef::Histogram(h) => histograms::to_text(h),
    }
}

fn range(e: &Engine, s: &MemSource, q: &str, a: i64, b: i64, step: i64) -> Result<Answer, String> {
    let r = e.range(s, q, a, b, step, &QueryOptions::default()).map_err(|e| e.to_string())?;
    let Value::Matrix(m) = r.value else { return Err("no matrix".into()) };
    Ok(m.iter().map(|x| (x.labels.clone(), x.samples().map(|(t, v)| (t, show(&v))).collect())).collect())
}

fn instants(e: &Engine, s: &MemSource, q: &str, a: i64, b: i64, step: i64) -> Result<Answer, String> {
    let mut out = Answer::new();
    let mut t = a;
    while t <= b {
        match e.instant(s, q, t, &QueryOptions::default()).map_err(|e| e.to_string())?.value {
            Value::Vector(v) => {
                for x in v {
                    let text = match &x.value {
                        SampleValue::Float(v) => show(&SampleRef::Float(*v)),
                        SampleValue::Histogram(h) => show(&SampleRef::Histogram(h)),
                    };
                    out.entry(x.labels).or_default().insert(t, text);
                }
            }
            Value::Scalar { v, .. } => {
                out.entry(Labels::empty()).or_default().insert(t, show(&SampleRef::Float(v)));
            }
            _ => return Err("unexpected value".into()),
        }
        t += step;
    }
    Ok(out)
}

fn histogram(n: u32) -> FloatHistogram {
    FloatHistogram {
        count: f64::from(n) * 3.0,
        sum: f64::from(n),
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
        positive_buckets: vec![f64::from(n), f64::from(n) * 2.0],
        ..Default::default()
    }
}

#[derive(Clone, Debug)]
enum Point {
    Gap,
    Float(u32),
    Stale,
    Hist(u32),
}

fn source(series: &[Vec<Point>]) -> MemSource {
    let mut s = MemSource::new();
    for (i, points) in series.iter().enumerate() {
        let name = if i % 2 == 0 { "m_total" } else { "n_total" };
        let l = Labels::from_pairs([("__name__", name), ("a", ["x", "y", "z"][i % 3]), ("b", ["1", "2", "3", "4"][i % 4])]);
        for (k, p) in points.iter().enumerate() {
            let t = k as i64 * 15_000;
            match p {
                Point::Gap => {}
                Point::Float(v) => s.push(&l, t, f64::from(*v)),
                Point::Stale => s.push(&l, t, stale_nan()),
                Point::Hist(n) => s.push_histogram(&l, t, histogram(*n), 0),
            }
        }
    }
    s
}

fn points(hist: bool) -> impl Strategy<Value = Vec<Point>> {
    let p = prop_oneof![
        3 => Just(Point::Gap),
        20 => (0u32..50).prop_map(Point::Float),
        1 => Just(Point::Stale),
        2 => (1u32..9).prop_map(move |n| if hist { Point::Hist(n) } else { Point::Float(n) }),
    ];
    prop::collection::vec(p, 0..60)
}

const QUERIES: &[&str] = &[
    "m_total",
    "m_total offset 1m",
    "m_total{a!=\"x\"} + 1",
    "rate(m_total[2m])",
    "increase(m_total[1m] anchored)",
    "delta(m_total[1m] smoothed)",
    "m_total smoothed",
    "irate(m_total[2m])",
    "sum by (a) (rate(m_total[2m]))",
    "avg without (b) (m_total)",
    "count({__name__=~\".+_total\"})",
    "min by (b) (m_total) or max by (b) (n_total)",
    "stddev(m_total)",
    "topk(2, m_total)",
    "bottomk by (a) (1, m_total)",
    "limitk(3, m_total)",
    "limit_ratio(0.5, m_total)",
    "quantile by (a) (0.9, m_total)",
    "count_values(\"v\", m_total)",
    "sum_over_time(m_total[3m])",
    "avg_over_time(m_total[13m])",
    "max_over_time(m_total[20m])",
    "quantile_over_time(0.3, m_total[5m])",
    "last_over_time(m_total[1m])",
    "changes(m_total[4m]) + resets(m_total[4m])",
    "deriv(m_total[5m])",
    "predict_linear(m_total[5m], 60)",
    "absent(m_total{a=\"x\"})",
    "absent_over_time(m_total[1m])",
    "m_total / on (a, b) n_total",
    "m_total * on (a) group_left sum by (a) (n_total)",
    "m_total > on (b) group_right avg by (b) (n_total)",
    "m_total + on (a, b) fill(0) n_total",
    "m_total and on (a) n_total",
    "m_total unless on (a) n_total > 20",
    "max_over_time(sum by (a) (rate(m_total[1m]))[5m:30s])",
    "rate(m_total[2m:15s])",
    "sum(m_total @ 120) + time()",
    "label_replace(m_total, \"c\", \"$1\", \"a\", \"(.)\")",
    "histogram_count(m_total)",
    "histogram_quantile(0.5, sum by (a) (m_total))",
    "scalar(sum(n_total)) * m_total",
    "clamp(m_total, 10, 20) % 7",
    "timestamp(m_total)",
    "-m_total",
    "m_total == bool 7",
    "round(m_total / 3, 0.5)",
    "time() - 5",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Sliding over steps and evaluating each step by itself give the same answer.
    #[test]
    fn a_range_is_its_instants(series in prop::collection::vec(points(true), 1..8), start in 0i64..400_000, step in prop::sample::select(vec![7_000i64, 15_000, 60_000, 333_000]), q in prop::sample::select(QUERIES)) {
        let s = source(&series);
        let e = Engine::new(EngineOptions { threads: 1, ..EngineOptions::default() });
        let end = start + 12 * step;
        match (range(&e, &s, q, start, end, step), instants(&e, &s, q, start, end, step)) {
            (Ok(a), Ok(b)) => prop_assert_eq!(a, b, "{}", q),
            // Two series may share labels at one step only where the other form sees it too.
            (Err(_), Err(_)) => {}
            (a, b) => prop_assert!(false, "{}: range {:?}, instants {:?}", q, a.err(), b.err()),
        }
    }
}

#[test]
fn threads_change_no_answer() {
    let mut s = MemSource::new();
    // Enough for three threads.
    for i in 0..16_500u32 {
        let l = Labels::from_pairs([("__name__", "m_total".to_owned()), ("i", i.to_string()), ("g", (i % 7).to_string())]);
        for k in 0..20i64 {
            s.push(&l, k * 15_000, f64::from(i % 97) * k as f64 + f64::from(i) * 0.1);
        }
    }
    let one = Engine::new(EngineOptions { threads: 1, ..EngineOptions::default() });
    let four = Engine::new(EngineOptions { threads: 4, ..EngineOptions::default() });
    for q in [
        "sum by (g) (rate(m_total[1m]))",
        "avg(m_total)",
        "count by (g) (m_total > 100)",
        "min(m_total)",
        "max by (g) (m_total)",
        "stdvar by (g) (m_total)",
        "quantile by (g) (0.9, m_total)",
        "topk by (g) (3, m_total)",
        "bottomk(5, m_total)",
        "limitk by (g) (2, m_total)",
        "limit_ratio(0.1, m_total)",
        "sum(m_total * 2)",
        "m_total offset 1m",
        "group by (g) (m_total)",
    ] {
        let a = range(&one, &s, q, 60_000, 285_000, 15_000).unwrap();
        let b = range(&four, &s, q, 60_000, 285_000, 15_000).unwrap();
        assert!(!a.is_empty(), "{q}");
        assert_eq!(a, b, "{q}");
    }
}

fn few() -> MemSource {
    let mut s = MemSource::new();
    for i in 0..50u32 {
        let l = Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]);
        for k in 0..100i64 {
            s.push(&l, k * 1000, k as f64);
        }
    }
    s
}

#[test]
fn limits_say_what_was_needed() {
    let s = few();
    let run = |o: EngineOptions, q: &str| Engine::new(o).range(&s, q, 0, 99_000, 1000, &QueryOptions::default());
    let d = EngineOptions::default;
    match run(EngineOptions { max_samples: 1000, ..d() }, "m") {
        Err(Error::LimitExceeded { limit: Limit::Samples, allowed: 1000, needed }) => assert!(needed > 1000),
        other => panic!("{other:?}"),
    }
    match run(EngineOptions { max_series: 10, ..d() }, "sum(m)") {
        Err(Error::LimitExceeded { limit: Limit::Series, allowed: 10, needed: 50 }) => {}
        other => panic!("{other:?}"),
    }
    match run(EngineOptions { max_bytes: 1000, ..d() }, "m") {
        Err(e @ Error::LimitExceeded { limit: Limit::Bytes, .. }) => assert!(e.to_string().contains("1000") && !e.is_retryable()),
        other => panic!("{other:?}"),
    }
    match run(EngineOptions { max_steps: 99, ..d() }, "m") {
        Err(Error::LimitExceeded { limit: Limit::Steps, needed: 100, .. }) => {}
        other => panic!("{other:?}"),
    }
    // An aggregation holds its groups only, not its input.
    assert!(run(EngineOptions { max_samples: 2000, ..d() }, "sum(rate(m[10s]))").is_ok());
    let range = |q: &str, a, b, step| Engine::default().range(&s, q, a, b, step, &QueryOptions::default()).unwrap_err().to_string();
    assert!(range("m", 0, 1, 0).contains("step"));
    assert!(range("m", 1, 0, 1).contains("end timestamp"));
    assert!(range("m[5m]", 0, 1, 1).contains("range vector"));
    // What can't be worked out of a duration is the query's mistake, as everything that is wrong with its text.
    for q in ["rate(m[5m - 10m])", "m offset (1s / step())", "rate(m[5m ^ 200])"] {
        let e = Engine::default().instant(&s, q, 99_000, &QueryOptions::default()).unwrap_err();
        assert!(matches!(e, Error::Invalid(_)), "{q}: {e:?}");
    }
}

#[test]
fn strings_are_shown_as_text() {
    let s = few();
    for (q, want) in [(r#""a\xffb""#, "a\u{fffd}b"), (r#""\xc3\xa4""#, "ä"), ("`raw\\n`", "raw\\n"), (r"'it\'s'", "it's")] {
        let Value::String { s, .. } = Engine::default().instant(&s, q, 0, &QueryOptions::default()).unwrap().value else { panic!("{q}") };
        assert_eq!(s, want, "{q}");
    }
    let refused = parse(r#"{"a\xffb"="c"}"#).unwrap_err().to_string();
    assert_eq!(refused, r#"1:2: parse error: invalid label name "a\xffb""#);
}

#[test]
fn statistics_count_what_each_step_looks_at() {
    // 50 series, one sample a second up to 99 s, and one of histograms that weigh 12 floats.
    let mut s = few();
    let h = Labels::from_pairs([("__name__", "h")]);
    (0..100i64).for_each(|k| s.push_histogram(&h, k * 1000, histogram(k as u32 + 1), 0));
    let o = QueryOptions { count_steps: true, ..QueryOptions::default() };
    let e = Engine::default();
    let steps = |q: &str| -> Vec<u64> {
        let r = e.range(&s, q, 20_000, 40_000, 10_000, &o).unwrap();
        let (t, n): (Vec<i64>, Vec<u64>) = r.stats.samples_by_step.into_iter().unzip();
        assert_eq!(t, [20_000, 30_000, 40_000], "{q}");
        n
    };
    for (q, n) in [
        ("m", 50),
        ("count(m)", 50),
        ("m{i=\"1\"} + m{i=\"2\"}", 2),
        // A sample counts in each window that holds it.
        ("sum(rate(m{i=\"1\"}[15s]))", 15),
        // Evaluated once, counted for every step.
        ("m{i=\"1\"} @ 5", 1),
        ("sum_over_time(m{i=\"1\"}[10s] @ 50)", 10),
        // Of a subquery its results count, not what it looked at.
        ("max_over_time(sum_over_time(m{i=\"1\"}[10s])[6s:2s])", 3),
        ("h", 12),
        ("rate(h[5s])", 60),
        ("1 + 1", 0),
    ] {
        assert_eq!(steps(q), [n; 3], "{q}");
    }
    let r = e.instant(&s, "m{i=\"1\"}[10s]", 50_000, &o).unwrap();
    assert_eq!(r.stats.samples_by_step, [(50_000, 10)]);
    assert!(e.instant(&s, "m", 50_000, &QueryOptions::default()).unwrap().stats.samples_by_step.is_empty());
}

#[test]
fn deadline_and_cancellation() {
    let s = few();
    let e = Engine::default();
    let late = QueryOptions { timeout: Some(Duration::ZERO), ..QueryOptions::default() };
    assert!(matches!(e.instant(&s, "sum(m)", 5000, &late), Err(Error::Timeout(_))));
    let cancel = Arc::new(AtomicBool::new(true));
    let gone = QueryOptions { cancel: Some(cancel), ..QueryOptions::default() };
    assert!(matches!(e.instant(&s, "sum(m)", 5000, &gone), Err(Error::Canceled)));
}

#[test]
fn high_trees_evaluate() {
    let s = few();
    let e = Engine::default();
    let chain = vec!["sum(m)"; 900].join(" + ");
    let r = e.instant(&s, &chain, 5000, &QueryOptions::default()).unwrap();
    match r.value {
        Value::Vector(v) => assert!(matches!(v[0].value, SampleValue::Float(x) if x == 900.0 * 250.0)),
        other => panic!("{other:?}"),
    }
    let nested = format!("{}m{}", "(".repeat(95), ")".repeat(95));
    assert!(e.range(&s, &nested, 0, 5000, 1000, &QueryOptions::default()).is_ok());
    let scalars = vec!["1"; 1500].join(" + ");
    assert!(matches!(e.instant(&s, &scalars, 0, &QueryOptions::default()).unwrap().value, Value::Scalar { v: 1500.0, .. }));
}

#[test]
fn lookback_may_be_set_for_a_query() {
    let s = few();
    let e = Engine::default();
    let at = |lookback| {
        let o = QueryOptions { lookback_ms: lookback, ..QueryOptions::default() };
        match e.instant(&s, "count(m)", 130_000, &o).unwrap().value {
            Value::Vector(v) => v.len(),
            _ => 0,
        }
    };
    assert_eq!(at(None), 1);
    assert_eq!(at(Some(10_000)), 0);
}

#[test]
fn pretty_printing_splits_long_lines() {
    let q = "sum by (job) (rate(http_requests_total{job=\"api\",handler=\"/a\"}[5m])) / sum by (job) (rate(http_requests_total{job=\"api\"}[5m]))";
    let text = pretty(&parse(q).unwrap());
    assert_eq!(
        text,
        "  sum by (job) (rate(http_requests_total{handler=\"/a\",job=\"api\"}[5m]))\n/\n  sum by (job) (rate(http_requests_total{job=\"api\"}[5m]))"
    );
}

#[test]
fn selectors_and_their_times() {
    let e = parse("rate(a[5m] offset 1m) + b @ 100 + max_over_time(c[10m:1m])").unwrap();
    let got = selector_ranges(&e, 1_000_000, 2_000_000, 1000, &EngineOptions::default()).unwrap();
    let ranges: Vec<TimeRange> = got.iter().map(|r| r.range).collect();
    assert_eq!(
        ranges,
        [
            TimeRange::new(1_000_000 - 360_000 + 1, 1_940_000),
            TimeRange::new(100_000 - 299_999, 100_000),
            TimeRange::new(1_000_000 - 600_000 + 1 - 299_999, 2_000_000),
        ]
    );
}
