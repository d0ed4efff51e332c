//! Names and values of tags.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Response};
use serde_json::{Value, json};
use strandline_query::traceql::{self, Root, TagOptions, TagValue};
use strandline_storage::read::SpanSource;

use super::http::{blocking, json_response};
use super::params::Params;
use super::{TempoError, TempoState};

/// Without a range the last hours are listed.
const DEFAULT_RANGE_MS: i64 = 6 * 3_600_000;

/// Range and limit of a listing.
pub fn options(range: Option<(u64, u64)>, limit: u64, state: &TempoState) -> TagOptions {
    let now_ms = state.clock.now_ms().max(0);
    let recent = || ((now_ms - DEFAULT_RANGE_MS).max(0) as u64 * 1_000_000, (now_ms as u64 + 3_600_000) * 1_000_000);
    let (start_nano, end_nano) = range.unwrap_or_else(recent);
    TagOptions { start_nano, end_nano, limit: usize::try_from(limit).unwrap_or(0), partial: false }
}

/// Names by scope.
pub fn names(source: &dyn SpanSource, scope: Option<&str>, o: &TagOptions) -> Result<Vec<(String, Vec<String>)>, TempoError> {
    if let Some(s) = scope
        && !["", "none", "intrinsic", "span", "resource", "event", "link", "instrumentation"].contains(&s)
    {
        return Err(TempoError::bad_request(format!("invalid scope: {s}")));
    }
    Ok(traceql::tag_names(source, scope, o)?)
}

/// Values of a tag. A filter that does not parse yet, as while it is being typed, is no filter.
pub fn values(source: &dyn SpanSource, tag: &str, filter: Option<&str>, o: &TagOptions) -> Result<Vec<TagValue>, TempoError> {
    let query = filter.and_then(|q| traceql::parse(q).ok());
    let pipeline = query.as_ref().and_then(|q| match &q.root {
        Root::Spansets(p) => Some(p),
        _ => None,
    });
    Ok(traceql::tag_values(source, &traceql::parse_tag(tag)?, pipeline, o)?)
}

async fn list_names(state: TempoState, headers: HeaderMap, query: Option<String>) -> Result<Vec<(String, Vec<String>)>, TempoError> {
    let p = Params::parse(query.as_deref());
    let o = options(p.range()?, p.number("limit")?.unwrap_or(0), &state);
    let scope = p.get("scope").map(str::to_owned);
    blocking(&state, &headers, move |source| names(source, scope.as_deref(), &o)).await
}

/// `/api/search/tags`: names alone.
pub async fn names_v1(
    State(state): State<TempoState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let scopes = list_names(state, headers, query).await?;
    let mut all: Vec<String> = scopes.into_iter().flat_map(|s| s.1).collect();
    all.sort();
    all.dedup();
    Ok(json_response(&json!({ "tagNames": all, "metrics": {} })))
}

/// `/api/v2/search/tags`: names by scope.
pub async fn names_v2(
    State(state): State<TempoState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let scopes = list_names(state, headers, query).await?;
    let scopes: Vec<Value> = scopes.iter().map(|(name, tags)| json!({ "name": name, "tags": tags })).collect();
    Ok(json_response(&json!({ "scopes": scopes, "metrics": {} })))
}

async fn list_values(state: TempoState, headers: HeaderMap, tag: String, query: Option<String>) -> Result<Vec<TagValue>, TempoError> {
    let p = Params::parse(query.as_deref());
    let o = options(p.range()?, p.number("limit")?.unwrap_or(0), &state);
    let filter = p.get("q").map(str::to_owned);
    // Some callers send the tag as a parameter too, with a placeholder in the path.
    let tag = p.get("tag").map(str::to_owned).unwrap_or(tag);
    blocking(&state, &headers, move |source| values(source, &tag, filter.as_deref(), &o)).await
}

/// `/api/search/tag/{tag}/values`: values alone.
pub async fn values_v1(
    State(state): State<TempoState>,
    Path(tag): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let found = list_values(state, headers, tag, query).await?;
    let mut all: Vec<String> = found.into_iter().map(|v| v.value).collect();
    all.sort();
    all.dedup();
    Ok(json_response(&json!({ "tagValues": all, "metrics": {} })))
}

/// `/api/v2/search/tag/{tag}/values`: values with their types.
pub async fn values_v2(
    State(state): State<TempoState>,
    Path(tag): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let found = list_values(state, headers, tag, query).await?;
    let all: Vec<Value> = found.iter().map(|v| json!({ "type": v.kind, "value": v.value })).collect();
    Ok(json_response(&json!({ "tagValues": all, "metrics": {} })))
}
