//! A trace by its id.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, json};
use strandline_query::traceql::ast::{Pipeline, SetExpr, Stage};
use strandline_query::traceql::{self, Root};
use strandline_storage::codec::protobuf::Writer;
use strandline_storage::model::{Trace, TraceId};
use strandline_storage::read::Warnings;
use strandline_storage::traces::otlp::encode_trace;

use super::http::{JSON, at_once, respond, wants_protobuf};
use super::json::{object, partial, write_resource_spans};
use super::params::Params;
use super::{TempoError, TempoState};

/// The trace, and what could not be read of it if `partial_response=true` asks for the rest all the same.
async fn find(state: &TempoState, headers: &HeaderMap, id: &str, query: Option<&str>) -> Result<(Option<Trace>, Warnings), TempoError> {
    let id = TraceId::parse(id.trim()).ok_or_else(|| TempoError::bad_request("trace IDs can only contain hex characters, at most 32"))?;
    // Start and end narrow the search in Tempo; here they are checked, and the trace is whole whatever they say.
    let params = Params::parse(query);
    if let (Some(start @ 1..), Some(end @ 1..)) = (params.number("start")?, params.number("end")?)
        && end <= start
    {
        return Err(TempoError::bad_request(format!("http parameter start must be before end. received start={start} end={end}")));
    }
    at_once(state, headers, move |source| match params.partial() {
        true => Ok(source.trace_partial(id)?),
        false => Ok((source.trace(id)?, Warnings::new())),
    })
    .await
}

/// `/api/traces/{id}`: the trace alone. There is no place in it to say that it is not whole: such a one is refused.
pub async fn v1(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let (trace, warnings) = find(&state, &headers, &id, query.as_deref()).await?;
    if !warnings.is_empty() {
        let text = format!("{}; /api/v2/traces can tell what is missing beside the rest", warnings.join("; "));
        return Err(TempoError::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    let Some(trace) = trace else {
        return Err(TempoError::new(StatusCode::NOT_FOUND, "trace not found"));
    };
    if wants_protobuf(&headers) {
        return Ok(respond("application/protobuf", encode_trace(&trace)));
    }
    Ok(respond(JSON, object(Map::new(), "batches", |out| write_resource_spans(out, &trace))))
}

/// The filter that narrows a trace to some spans: `{…}` and nothing more.
fn filter(params: &Params) -> Result<Option<Pipeline>, TempoError> {
    let Some(q) = params.get("q") else { return Ok(None) };
    match traceql::parse(q)?.root {
        Root::Spansets(p) if matches!(p.stages.as_slice(), [Stage::Set(SetExpr::Filter(_))]) => Ok(Some(p)),
        _ => Err(TempoError::bad_request("invalid q: it must be a single filter in braces")),
    }
}

/// `/api/v2/traces/{id}`: the trace in an envelope; one that is not there is present and empty. `q` narrows it to the
/// spans that a filter selects, with those above them unless `keep_hierarchy=false`.
pub async fn v2(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let params = Params::parse(query.as_deref());
    let filter = filter(&params)?;
    let (mut trace, warnings) = find(&state, &headers, &id, query.as_deref()).await?;
    if let Some(f) = filter
        && let Some(t) = trace.take()
    {
        let ancestors = params.get("keep_hierarchy") != Some("false");
        let kept = traceql::narrowed(t, &f, ancestors)?;
        trace = (!kept.spans.is_empty()).then_some(kept);
    }
    if wants_protobuf(&headers) {
        let mut w = Writer::default();
        w.bytes_always(1, &trace.map(|t| encode_trace(&t)).unwrap_or_default());
        if !warnings.is_empty() {
            w.int(3, 1);
            w.bytes(4, warnings.join("; ").as_bytes());
        }
        return Ok(respond("application/protobuf", w.buf));
    }
    let mut m = Map::from_iter([("metrics".to_owned(), json!({}))]);
    partial(&mut m, &warnings);
    let body = object(m, "trace", |out| match trace {
        None => out.extend_from_slice(b"{}"),
        Some(t) => out.extend(object(Map::new(), "resourceSpans", |out| write_resource_spans(out, &t))),
    });
    Ok(respond(JSON, body))
}
