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
use crate::params::{Plus, percent_decode};

/// Without a range the last hours are listed.
const DEFAULT_RANGE_MS: i64 = 6 * 3_600_000;

/// Range and limit of a listing.
pub fn options(range: Option<(u64, u64)>, limit: u64, state: &TempoState) -> TagOptions {
    let now_ms = state.clock.now_ms().max(0);
    let recent = || ((now_ms - DEFAULT_RANGE_MS).max(0) as u64 * 1_000_000, (now_ms as u64 + 3_600_000) * 1_000_000);
    let (start_nano, end_nano) = range.unwrap_or_else(recent);
    TagOptions { start_nano, end_nano, limit: usize::try_from(limit).unwrap_or(0), partial: false }
}

fn pipeline(query: Option<&traceql::Query>) -> Option<&traceql::ast::Pipeline> {
    match &query?.root {
        Root::Spansets(p) => Some(p),
        _ => None,
    }
}

/// Names by scope, of spans that a filter selects.
pub fn names(
    source: &dyn SpanSource,
    scope: Option<&str>,
    filter: Option<&str>,
    o: &TagOptions,
) -> Result<Vec<(String, Vec<String>)>, TempoError> {
    if let Some(s) = scope
        && !["", "none", "intrinsic", "span", "resource", "event", "link", "instrumentation"].contains(&s)
    {
        return Err(TempoError::bad_request(format!("invalid scope: {s}")));
    }
    let query = filter.and_then(traceql::parse_unfinished);
    Ok(traceql::tag_names(source, scope, pipeline(query.as_ref()), o)?)
}

/// Names alone, as the first API has them: intrinsics if they are asked for.
pub fn flat(scope: &str, scopes: Vec<(String, Vec<String>)>) -> Vec<String> {
    let mut all: Vec<String> = scopes.into_iter().filter(|s| s.0 != "intrinsic" || scope == "intrinsic").flat_map(|s| s.1).collect();
    all.sort();
    all.dedup();
    all
}

/// Refuses what is no attribute of TraceQL: the second API takes no bare names.
pub fn identifier(tag: &str) -> Result<(), TempoError> {
    match traceql::parse_tag(tag) {
        traceql::ast::Attr::Attribute { scope: traceql::Scope::Any, key, .. } if key == tag => {
            Err(TempoError::bad_request(format!("please provide a valid tagName: {tag:?} has no scope and is no intrinsic")))
        }
        _ => Ok(()),
    }
}

/// Values of a tag. Of a filter that is being typed, what is complete counts.
pub fn values(source: &dyn SpanSource, tag: &str, filter: Option<&str>, o: &TagOptions) -> Result<Vec<TagValue>, TempoError> {
    let query = filter.and_then(traceql::parse_unfinished);
    Ok(traceql::tag_values(source, &traceql::parse_tag(tag), pipeline(query.as_ref()), o)?)
}

async fn list_names(state: TempoState, headers: HeaderMap, p: Params) -> Result<Vec<(String, Vec<String>)>, TempoError> {
    let o = options(p.open_range()?, p.number("limit")?.unwrap_or(0), &state);
    blocking(&state, &headers, move |source| names(source, p.get("scope"), p.get("q"), &o)).await
}

/// `/api/search/tags`: names alone.
pub async fn names_v1(
    State(state): State<TempoState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let p = Params::parse(query.as_deref());
    let scope = p.get("scope").unwrap_or("").to_owned();
    let all = flat(&scope, list_names(state, headers, p).await?);
    Ok(json_response(&json!({ "tagNames": all, "metrics": {} })))
}

/// `/api/v2/search/tags`: names by scope.
pub async fn names_v2(
    State(state): State<TempoState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let scopes = list_names(state, headers, Params::parse(query.as_deref())).await?;
    let scopes: Vec<Value> = scopes.iter().map(|(name, tags)| json!({ "name": name, "tags": tags })).collect();
    Ok(json_response(&json!({ "scopes": scopes, "metrics": {} })))
}

/// Some callers send the tag as a parameter too, with a placeholder in the path; Grafana encodes it twice or thrice.
fn tag_of(path: String, p: &Params) -> String {
    let mut tag = p.get("tag").map_or(path, str::to_owned);
    for _ in 0..2 {
        if tag.contains('%') {
            tag = percent_decode(&tag, Plus::IsPlus);
        }
    }
    tag
}

async fn list_values(state: TempoState, headers: HeaderMap, tag: String, p: Params) -> Result<Vec<TagValue>, TempoError> {
    let o = options(p.open_range()?, p.number("limit")?.unwrap_or(0), &state);
    blocking(&state, &headers, move |source| values(source, &tag, p.get("q"), &o)).await
}

/// `/api/search/tag/{tag}/values`: values alone.
pub async fn values_v1(
    State(state): State<TempoState>,
    Path(tag): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, TempoError> {
    let p = Params::parse(query.as_deref());
    let found = list_values(state, headers, tag_of(tag, &p), p).await?;
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
    let p = Params::parse(query.as_deref());
    let tag = tag_of(tag, &p);
    identifier(&tag)?;
    let found = list_values(state, headers, tag, p).await?;
    let all: Vec<Value> = found.iter().map(|v| json!({ "type": v.kind, "value": v.value })).collect();
    Ok(json_response(&json!({ "tagValues": all, "metrics": {} })))
}
