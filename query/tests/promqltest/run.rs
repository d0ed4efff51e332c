//! Running commands over a store.

use std::collections::BTreeMap;

use strandline_query::promql::{At, Engine, EngineOptions, Expr, ExprKind, QueryOptions, QueryResult, Value, parse};
use strandline_storage::model::{BucketSpan, CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Labels, LabelsBuilder};

use strandline_storage::read::SeriesSource;

use super::compare::{self, Point, matrix_points};
use super::script::{Eval, Kind, Load, When, parse as parse_script};
use super::store::Store;
use super::values::Item;

#[derive(Debug)]
pub struct Failure {
    pub line: usize,
    pub expr: String,
    pub expected: String,
    pub got: String,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub passed: usize,
    pub failures: Vec<Failure>,
}

pub fn run(text: &str) -> Outcome {
    let mut out = Outcome::default();
    let engine = Engine::new(EngineOptions { threads: 2, ..EngineOptions::default() });
    let mut store = Store::new();
    for c in parse_script(text) {
        match c.kind {
            Kind::Clear => store = Store::new(),
            Kind::Load(l) => {
                if let Err(why) = store.load(&l) {
                    out.failures.push(Failure { line: c.line, expr: "load".into(), expected: "samples taken".into(), got: why });
                }
            }
            Kind::Broken(why) => {
                out.failures.push(Failure { line: c.line, expr: String::new(), expected: "a command".into(), got: why });
            }
            Kind::Eval(e) => {
                match store.sources().into_iter().try_for_each(|(name, s)| eval(&engine, s, &e).map_err(|m| format!("[{name}] {m}"))) {
                    Ok(()) => out.passed += 1,
                    Err(got) => {
                        out.failures.push(Failure { line: c.line, expr: e.expr.clone(), expected: compare::describe(&e.expect), got })
                    }
                }
            }
        }
    }
    out
}

#[derive(Default)]
struct Classic {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// Classic histograms of the load as histograms with custom buckets, under the name without its ending.
pub fn custom_bucket_histograms(l: &Load) -> Vec<(Labels, i64, FloatHistogram)> {
    let mut all: BTreeMap<(Labels, i64), Classic> = BTreeMap::new();
    for (d, _) in &l.series {
        let name = d.labels.metric_name().to_owned();
        let le = d.labels.get("le").map(str::to_owned);
        let (base, part) = match (&le, name.rsplit_once('_')) {
            (Some(_), Some((b, "bucket"))) => (b, 0),
            (_, Some((b, "count"))) => (b, 1),
            (_, Some((b, "sum"))) => (b, 2),
            _ => continue,
        };
        let mut b: LabelsBuilder = d.labels.to_builder();
        b.set("__name__", base);
        b.remove("le");
        let labels = b.build();
        for (i, item) in d.items.iter().enumerate() {
            let Item::Float(v) = item else { continue };
            let c = all.entry((labels.clone(), i as i64 * l.step)).or_default();
            match part {
                0 => {
                    let bound = le.as_deref().unwrap_or("").trim_start_matches('+').parse().unwrap_or(f64::NAN);
                    if !c.buckets.iter().any(|(b, _)| *b == bound) {
                        c.buckets.push((bound, *v));
                    }
                }
                1 => c.count = Some(*v),
                _ => c.sum = *v,
            }
        }
    }
    let mut out = Vec::new();
    for ((labels, t), mut c) in all {
        if c.buckets.is_empty() {
            continue;
        }
        c.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = c.count.unwrap_or_else(|| c.buckets.last().map_or(0.0, |b| b.1));
        if c.buckets.last().is_none_or(|b| b.0 != f64::INFINITY) {
            c.buckets.push((f64::INFINITY, count));
        }
        if c.buckets.windows(2).any(|w| w[1].1 < w[0].1) {
            continue;
        }
        let mut below = 0.0;
        let counts: Vec<f64> = c
            .buckets
            .iter()
            .map(|(_, n)| {
                let own = n - below;
                below = *n;
                own
            })
            .collect();
        let bounds: Vec<f64> = c.buckets.iter().map(|b| b.0).filter(|b| b.is_finite()).collect();
        let h = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: c.sum,
            positive_spans: vec![BucketSpan { offset: 0, length: counts.len() as u32 }],
            positive_buckets: counts,
            custom_values: bounds.into(),
            ..FloatHistogram::default()
        };
        out.push((labels, t, h));
    }
    out
}

fn check_failure(e: &Eval, message: &str) -> Result<(), String> {
    match &e.expect.fail {
        None => Err(format!("error: {message}")),
        Some(patterns) if patterns.iter().all(|p| p.matches(message)) => Ok(()),
        Some(_) => Err(format!("error: {message}")),
    }
}

fn eval(engine: &Engine, store: &dyn SeriesSource, e: &Eval) -> Result<(), String> {
    let options = QueryOptions::default();
    match e.when {
        When::Range(from, to, step) => match engine.range(store, &e.expr, from, to, step, &options) {
            Err(err) => check_failure(e, &err.to_string()),
            Ok(_) if e.expect.fail.is_some() => Err("no failure".into()),
            Ok(r) => {
                compare::annotations(&e.expect, &r)?;
                compare::value(&e.expect, e.when, &r.value)
            }
        },
        When::Instant(t) => {
            instant(engine, store, e, &e.expr, t)?;
            for (expr, at) in shifted(&e.expr, t) {
                instant(engine, store, e, &expr, at).map_err(|m| format!("as {expr} at {at}: {m}"))?;
            }
            Ok(())
        }
    }
}

fn instant(engine: &Engine, store: &dyn SeriesSource, e: &Eval, expr: &str, t: i64) -> Result<(), String> {
    let options = QueryOptions::default();
    let r: QueryResult = match engine.instant(store, expr, t, &options) {
        Err(err) => return check_failure(e, &err.to_string()),
        Ok(_) if e.expect.fail.is_some() => return Err("no failure".into()),
        Ok(r) => r,
    };
    compare::annotations(&e.expect, &r)?;
    compare::value(&e.expect, e.when, &r.value)?;
    let scalar = matches!(r.value, Value::Scalar { .. });
    let times = ["start(", "end(", "range(", "step("];
    if e.expect.ordered || !(scalar || matches!(r.value, Value::Vector(_))) || times.iter().any(|w| expr.to_lowercase().contains(w)) {
        return Ok(());
    }
    // The middle of a range query must give the same.
    let m = engine.range(store, expr, t - 60_000, t + 60_000, 60_000, &options).map_err(|e| format!("as range query: error: {e}"))?;
    let Value::Matrix(m) = m.value else { return Err("as range query: no matrix".into()) };
    let sorted = m.windows(2).all(|w| w[0].labels < w[1].labels);
    if !sorted {
        return Err("as range query: series are not sorted by labels".into());
    }
    let points: Vec<(Labels, Point)> = matrix_points(&m).into_iter().filter_map(|(l, mut p)| p.remove(&t).map(|p| (l, p))).collect();
    if scalar {
        return match (points.first(), e.expect.scalar) {
            (Some((_, Point::F(v))), Some(x)) if compare::almost(*v, x) => Ok(()),
            other => Err(format!("as range query: {other:?}")),
        };
    }
    compare::vector(&e.expect, &points).map_err(|m| format!("as range query: {m}"))
}

const UNSAFE: [&str; 15] = [
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "end",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "range",
    "start",
    "step",
    "time",
    "timestamp",
];

/// The expression with all selectors pinned to `t`, to be evaluated at other times with the same result.
fn shifted(expr: &str, t: i64) -> Vec<(String, i64)> {
    let Ok(mut e) = parse(expr) else { return Vec::new() };
    let mut safe = true;
    pin(&mut e, t, &mut safe);
    if !safe {
        return Vec::new();
    }
    let text = e.to_string();
    let times = if t == 0 { vec![-1000, 0, 1000] } else { vec![-10 * t, 0, t / 5, t, 10 * t] };
    times.into_iter().map(|t| (text.clone(), t)).collect()
}

fn pin(e: &mut Expr, t: i64, safe: &mut bool) {
    match &mut e.kind {
        ExprKind::Vector(v) => {
            v.at.get_or_insert(At::Time(t));
        }
        ExprKind::Matrix(m) => {
            m.selector.at.get_or_insert(At::Time(t));
        }
        // What a subquery evaluates follows from where it stands.
        ExprKind::Subquery(s) => {
            s.at.get_or_insert(At::Time(t));
        }
        ExprKind::Paren(e) | ExprKind::Unary(_, e) => pin(e, t, safe),
        ExprKind::Binary(b) => {
            pin(&mut b.lhs, t, safe);
            pin(&mut b.rhs, t, safe);
        }
        ExprKind::Call(c) => {
            *safe &= !UNSAFE.contains(&c.func.name);
            let info = c.func.name == "info";
            for (i, a) in c.args.iter_mut().enumerate() {
                if !(info && i == 1) {
                    pin(a, t, safe);
                }
            }
        }
        ExprKind::Aggregate(a) => {
            if let Some(p) = &mut a.param {
                pin(p, t, safe);
            }
            pin(&mut a.expr, t, safe);
        }
        ExprKind::Number(_) | ExprKind::String(_) => {}
    }
}
