//! A trace by its id.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use strandline_storage::model::{Trace, TraceId};
use strandline_storage::traces::otlp::{Writer, encode_trace};

use super::http::{blocking, json_response, respond, wants_protobuf};
use super::json::resource_spans;
use super::params::Params;
use super::{TempoError, TempoState};

async fn find(state: &TempoState, headers: &HeaderMap, id: &str, query: Option<&str>) -> Result<Option<Trace>, TempoError> {
    let id = TraceId::parse(id.trim()).ok_or_else(|| TempoError::bad_request("trace IDs can only contain hex characters, at most 32"))?;
    // Start and end narrow the search in Tempo; here they are checked, and the trace is whole whatever they say.
    Params::parse(query).range()?;
    blocking(state, headers, move |source| Ok(source.trace(id)?)).await
}

/// `/api/traces/{id}`: the trace alone.
pub async fn v1(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let Some(trace) = find(&state, &headers, &id, query.as_deref()).await? else {
        return Err(TempoError::new(StatusCode::NOT_FOUND, "trace not found"));
    };
    if wants_protobuf(&headers) {
        return Ok(respond("application/protobuf", encode_trace(&trace)));
    }
    Ok(json_response(&json!({ "batches": resource_spans(&trace) })))
}

/// `/api/v2/traces/{id}`: the trace in an envelope; one that is not there is present and empty.
pub async fn v2(
    State(state): State<TempoState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let trace = find(&state, &headers, &id, query.as_deref()).await?;
    if wants_protobuf(&headers) {
        let mut w = Writer::default();
        w.bytes_always(1, &trace.map(|t| encode_trace(&t)).unwrap_or_default());
        return Ok(respond("application/protobuf", w.buf));
    }
    let trace = trace.map_or_else(|| json!({}), |t| json!({ "resourceSpans": resource_spans(&t) }));
    Ok(json_response(&json!({ "trace": trace, "metrics": {} })))
}
