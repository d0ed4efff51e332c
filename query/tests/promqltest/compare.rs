//! Comparing answers with expectations.

use std::collections::BTreeMap;

use strandline_query::promql::{MatrixSeries, QueryResult, SampleRef, SampleValue, Value, format_float, histograms};
use strandline_storage::model::{FloatHistogram, Labels, is_stale};

use super::script::{Expect, Pattern, When};
use super::values::{Described, Item};

const EPSILON: f64 = 1e-6;

pub fn almost(a: f64, b: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, diff) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return diff < EPSILON * f64::MIN_POSITIVE;
    }
    diff / sum.min(f64::MAX) < EPSILON
}

fn same_histogram(want: &FloatHistogram, got: &FloatHistogram, hint: bool) -> bool {
    let (mut a, mut b) = (want.clone(), got.clone());
    histograms::compact(&mut a);
    histograms::compact(&mut b);
    let all = |x: &[f64], y: &[f64]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| almost(*x, *y));
    (!hint || want.counter_reset == got.counter_reset)
        && a.schema == b.schema
        && almost(a.count, b.count)
        && almost(a.sum, b.sum)
        && (!a.uses_custom_buckets() || a.custom_values == b.custom_values)
        && a.zero_threshold == b.zero_threshold
        && almost(a.zero_count, b.zero_count)
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && all(&a.positive_buckets, &b.positive_buckets)
        && all(&a.negative_buckets, &b.negative_buckets)
}

/// A point of an answer.
#[derive(Clone, Debug)]
pub enum Point {
    F(f64),
    H(FloatHistogram),
}

fn matches(want: &Item, got: Option<&Point>) -> bool {
    match (want, got) {
        (Item::Blank, None) => true,
        (Item::Float(a), Some(Point::F(b))) => almost(*a, *b),
        (Item::Histogram(a, hint), Some(Point::H(b))) => same_histogram(a, b, *hint),
        _ => false,
    }
}

pub type Points = BTreeMap<i64, Point>;

pub fn matrix_points(m: &[MatrixSeries]) -> Vec<(Labels, Points)> {
    m.iter()
        .map(|s| {
            let points = s
                .samples()
                .map(|(t, v)| match v {
                    SampleRef::Float(v) => (t, Point::F(v)),
                    SampleRef::Histogram(h) => (t, Point::H((**h).clone())),
                })
                .collect();
            (s.labels.clone(), points)
        })
        .collect()
}

/// Whether the value is what the script says; otherwise the wrong part of it.
pub fn value(e: &Expect, when: When, v: &Value) -> Result<(), String> {
    if let Some(s) = &e.string {
        return match v {
            Value::String { s: got, .. } if got == s => Ok(()),
            other => Err(show(other)),
        };
    }
    if let Some(x) = e.scalar {
        return match v {
            Value::Scalar { v: got, .. } if almost(x, *got) => Ok(()),
            other => Err(show(other)),
        };
    }
    match v {
        Value::Vector(samples) => {
            let got: Vec<(Labels, Point)> = samples
                .iter()
                .map(|s| {
                    let p = match &s.value {
                        SampleValue::Float(v) => Point::F(*v),
                        SampleValue::Histogram(h) => Point::H((**h).clone()),
                    };
                    (s.labels.clone(), p)
                })
                .collect();
            vector(e, &got)
        }
        Value::Matrix(m) => {
            let (from, _, step) = match (e.matrix, when) {
                (Some(x), _) => x,
                (None, When::Range(a, b, s)) => (a, b, s),
                (None, When::Instant(_)) if m.is_empty() && e.series.is_empty() => return Ok(()),
                (None, When::Instant(_)) => return Err(show(v)),
            };
            matrix(&e.series, &matrix_points(m), from, step)
        }
        other if e.series.is_empty() => Err(format!("a {}, expected nothing", show(other))),
        other => Err(show(other)),
    }
}

pub fn vector(e: &Expect, got: &[(Labels, Point)]) -> Result<(), String> {
    let bad = || Err(show_points(got));
    if got.len() != e.series.len() {
        return bad();
    }
    for (i, (labels, p)) in got.iter().enumerate() {
        let Some(at) = e.series.iter().position(|d| d.labels == *labels) else { return bad() };
        if e.ordered && at != i {
            return bad();
        }
        if e.series[at].items.first().is_none_or(|w| !matches(w, Some(p))) {
            return bad();
        }
    }
    Ok(())
}

fn matrix(want: &[Described], got: &[(Labels, Points)], from: i64, step: i64) -> Result<(), String> {
    let mut seen = 0;
    let bad = |why: String| {
        let all: Vec<String> = got
            .iter()
            .map(|(l, p)| {
                let ps: Vec<String> = p.iter().map(|(t, p)| format!("{}@{t}", show_point(p))).collect();
                format!("{l} {}", ps.join(" "))
            })
            .collect();
        Err(format!("{why}; all: {}", all.join(" | ")))
    };
    for d in want {
        let got = got.iter().find(|(l, _)| *l == d.labels).map(|(_, p)| p);
        let empty = Points::new();
        let points = got.unwrap_or(&empty);
        let mut counted = 0;
        for (i, w) in d.items.iter().enumerate() {
            let p = points.get(&(from + i as i64 * step));
            counted += usize::from(p.is_some());
            if !matches(w, p) {
                return bad(format!("{} at step {i}: {}", d.labels, p.map_or("nothing".into(), show_point)));
            }
        }
        if counted != points.len() {
            return bad(format!("{} has {} points, {counted} expected", d.labels, points.len()));
        }
        seen += usize::from(got.is_some());
    }
    if seen != got.len() {
        return bad(format!("{} series, {} expected", got.len(), want.len()));
    }
    Ok(())
}

/// Whether warnings and infos are as expected.
pub fn annotations(e: &Expect, r: &QueryResult) -> Result<(), String> {
    for (kind, want, none, got) in [("warnings", &e.warn, e.no_warn, &r.warnings), ("infos", &e.info, e.no_info, &r.infos)] {
        if none && !got.is_empty() {
            return Err(format!("{kind}: {got:?}"));
        }
        if want.is_empty() {
            continue;
        }
        if got.is_empty() {
            return Err(format!("no {kind}"));
        }
        let unmet = want.iter().any(|w| !got.iter().any(|g| w.matches(g)));
        let unasked = got.iter().any(|g| !want.iter().any(|w: &Pattern| w.matches(g)));
        if unmet || unasked {
            return Err(format!("{kind}: {got:?}"));
        }
    }
    Ok(())
}

fn show_point(p: &Point) -> String {
    match p {
        Point::F(v) => format_float(*v),
        Point::H(h) => format!(
            "{} schema:{} zt:{} hint:{:?} custom:{:?} {:?}",
            histograms::to_text(h),
            h.schema,
            h.zero_threshold,
            h.counter_reset,
            h.custom_values,
            h.positive_spans
        ),
    }
}

fn show_points(got: &[(Labels, Point)]) -> String {
    let all: Vec<String> = got.iter().map(|(l, p)| format!("{l} {}", show_point(p))).collect();
    if all.is_empty() { "nothing".into() } else { all.join(" | ") }
}

fn show(v: &Value) -> String {
    match v {
        Value::Scalar { v, .. } => format!("scalar {}", format_float(*v)),
        Value::String { s, .. } => format!("string {s:?}"),
        Value::Vector(s) => format!("vector of {}", s.len()),
        Value::Matrix(m) => format!("matrix {:?}", matrix_points(m)),
        other => format!("{other:?}"),
    }
}

/// What the script expects, in short.
pub fn describe(e: &Expect) -> String {
    let mut parts = Vec::new();
    if let Some(f) = &e.fail {
        parts.push(format!("failure {f:?}"));
    }
    for (n, p) in [("warning", &e.warn), ("info", &e.info)] {
        parts.extend(p.iter().map(|p| format!("{n} {p:?}")));
    }
    if e.no_warn {
        parts.push("no warning".into());
    }
    if e.no_info {
        parts.push("no info".into());
    }
    if let Some(v) = e.scalar {
        parts.push(format!("scalar {}", format_float(v)));
    }
    if let Some(s) = &e.string {
        parts.push(format!("string {s:?}"));
    }
    for d in &e.series {
        let items: Vec<String> = d
            .items
            .iter()
            .map(|i| match i {
                Item::Blank => "_".into(),
                Item::Float(v) => format_float(*v),
                Item::Histogram(h, _) => show_point(&Point::H((**h).clone())),
            })
            .collect();
        parts.push(format!("{} {}", d.labels, items.join(" ")));
    }
    if parts.is_empty() { "nothing".into() } else { parts.join(" | ") }
}
