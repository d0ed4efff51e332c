//! Metrics of spans.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Response};
use serde_json::{Map, Value, json};
use strandline_query::traceql::{self, MetricsOptions, MetricsResult, Series};
use strandline_storage::read::SpanSource;

use super::http::{JSON, blocking, respond};
use super::json::{double, key_values, object, partial, u64_field, write_list};
use super::params::Params;
use super::search::metrics_json;
use super::{TempoError, TempoState};

/// Exemplars of a query at most.
const MAX_EXEMPLARS: u64 = 100;
const DEFAULT_SINCE_NANO: u64 = 3_600_000_000_000;

/// What a metrics call asks for.
pub struct MetricsCall {
    /// TraceQL.
    pub query: String,
    /// How.
    pub options: MetricsOptions,
}

fn call(p: &Params, state: &TempoState, instant: bool) -> Result<MetricsCall, TempoError> {
    let query = p.get("q").or_else(|| p.get("query")).ok_or_else(|| TempoError::bad_request("missing query: parameter q"))?;
    let now = state.clock.now_ms().max(0) as u64 * 1_000_000;
    let end = p.time("end")?.unwrap_or(now);
    let since = p.duration("since")?.unwrap_or(DEFAULT_SINCE_NANO);
    // An end to come is no reason to begin later.
    let start = p.time("start")?.unwrap_or_else(|| end.min(now).saturating_sub(since));
    let mut options = MetricsOptions::new(start, end);
    options.step_nano = p.duration("step")?.unwrap_or(0);
    options.exemplars = p.number("exemplars")?.unwrap_or(0).min(MAX_EXEMPLARS) as usize;
    options.instant = instant;
    options.max_series = state.max_series;
    options.max_cells = state.max_cells;
    options.max_trace_nano = state.max_trace_nano;
    options.partial = p.partial();
    if end <= start {
        return Err(TempoError::bad_request("invalid range: end must be after start"));
    }
    Ok(MetricsCall { query: query.to_owned(), options })
}

/// Runs a metrics query.
pub fn run(call: &MetricsCall, source: &dyn SpanSource) -> Result<MetricsResult, TempoError> {
    let query = traceql::parse(&call.query)?;
    if !matches!(query.root, traceql::Root::Metrics(_)) {
        return Err(TempoError::bad_request("this query selects traces: ask /api/search"));
    }
    Ok(traceql::query_range(source, &query, &call.options)?)
}

/// A zero is left out, as proto3 JSON has it.
fn sample(m: &mut Map<String, Value>, v: f64) {
    if v != 0.0 {
        m.insert("value".into(), double(v));
    }
}

/// Samples with their times; slots without a value are left out.
pub fn samples<'a>(s: &'a Series, timestamps_ms: &'a [i64]) -> impl Iterator<Item = (i64, f64)> + 'a {
    timestamps_ms.iter().copied().zip(s.values.iter().copied()).filter(|(_, v)| !v.is_nan())
}

fn series_json(s: &Series, timestamps_ms: &[i64]) -> Value {
    let points = samples(s, timestamps_ms).map(|(t, v)| {
        let mut m = Map::new();
        u64_field(&mut m, "timestampMs", t.max(0) as u64);
        sample(&mut m, v);
        Value::Object(m)
    });
    let mut m = Map::new();
    m.insert("labels".into(), Value::Array(key_values(&s.labels)));
    m.insert("samples".into(), points.collect());
    if !s.exemplars.is_empty() {
        let exemplars = s.exemplars.iter().map(|e| {
            let mut m = Map::new();
            m.insert("labels".into(), json!([{ "key": "trace:id", "value": { "stringValue": e.trace_id.to_string() } }]));
            sample(&mut m, e.value);
            u64_field(&mut m, "timestampMs", e.timestamp_ms.max(0) as u64);
            Value::Object(m)
        });
        m.insert("exemplars".into(), exemplars.collect());
    }
    Value::Object(m)
}

/// The answer, with what `json` makes of each series. What is written is let go of.
fn answer(r: MetricsResult, json: impl Fn(&Series, &[i64]) -> Value) -> Vec<u8> {
    let mut m = Map::new();
    m.insert("metrics".into(), metrics_json(&r.stats));
    partial(&mut m, &r.stats.warnings);
    object(m, "series", |out| write_list(out, r.series.into_iter().map(|s| json(&s, &r.timestamps_ms))))
}

/// A series of one value.
fn point_json(s: &Series, _: &[i64]) -> Value {
    let mut m = Map::new();
    m.insert("labels".into(), Value::Array(key_values(&s.labels)));
    sample(&mut m, s.values.first().copied().unwrap_or(0.0));
    Value::Object(m)
}

/// `/api/metrics/query_range`.
pub async fn query_range(
    State(state): State<TempoState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let call = call(&Params::parse(query.as_deref()), &state, false)?;
    let body = blocking(&state, &headers, move |source| Ok(answer(run(&call, source)?, series_json))).await?;
    Ok(respond(JSON, body))
}

/// `/api/metrics/query`: one value a series.
pub async fn query(State(state): State<TempoState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response<Body>, TempoError> {
    let call = call(&Params::parse(query.as_deref()), &state, true)?;
    let body = blocking(&state, &headers, move |source| Ok(answer(run(&call, source)?, point_json))).await?;
    Ok(respond(JSON, body))
}
