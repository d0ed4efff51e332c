//! Pages about the server. Those about rules and alerts are empty: the server has none, but Grafana and
//! Prometheus' UI ask for them.

use std::collections::BTreeSet;
use std::io::Write;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use strandline_query::promql;

use super::PromState;
use super::answer::{ApiError, Notes, success};
use super::json;
use super::params::Params;
use super::run::{Manner, run};
use crate::scrape::ScrapeTarget;

/// The Prometheus whose API this is; Grafana reads from it what it may ask for.
const VERSION: &str = "3.14.0";

fn fixed(data: &str) -> Response {
    let body = format!("{{\"status\":\"success\",\"data\":{data}}}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An object with the given members.
fn object(members: &[(&str, String)]) -> Response {
    let mut b = br#"{"status":"success","data":{"#.to_vec();
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            b.push(b',');
        }
        json::string(&mut b, name);
        b.push(b':');
        b.extend_from_slice(value.as_bytes());
    }
    b.extend_from_slice(b"}}");
    ([(header::CONTENT_TYPE, "application/json")], b).into_response()
}

fn text(s: &str) -> String {
    let mut b = Vec::new();
    json::string(&mut b, s);
    String::from_utf8_lossy(&b).into_owned()
}

/// These pages tell of hosts, users and paths: they are for who may read.
#[allow(clippy::result_large_err)]
fn admit(state: &PromState, headers: &HeaderMap) -> Result<(), Response> {
    state.options().stores.admit(headers).map_err(|r| ApiError::from(r).into_response())
}

/// `rules`.
pub async fn rules() -> Response {
    fixed(r#"{"groups":[]}"#)
}

/// `alerts`.
pub async fn alerts() -> Response {
    fixed(r#"{"alerts":[]}"#)
}

/// `targets`.
pub async fn targets(State(state): State<PromState>, request: Request) -> Response {
    let pool = Params::new("", request.uri().query().unwrap_or("")).get("scrapePool").unwrap_or("").to_owned();
    if let Err(refused) = admit(&state, request.headers()) {
        return refused;
    }
    let mut all = state.options().stores.targets();
    all.retain(|t| pool.is_empty() || t.job == pool);
    let active: Vec<serde_json::Value> = all.iter().map(target).collect();
    fixed(&serde_json::json!({ "activeTargets": active, "droppedTargets": [], "droppedTargetCounts": {} }).to_string())
}

/// The jobs that are scraped, by name.
pub async fn scrape_pools(State(state): State<PromState>, request: Request) -> Response {
    if let Err(refused) = admit(&state, request.headers()) {
        return refused;
    }
    let jobs: BTreeSet<String> = state.options().stores.targets().into_iter().map(|t| t.job).collect();
    fixed(&serde_json::json!({ "scrapePools": jobs }).to_string())
}

fn target(t: &ScrapeTarget) -> serde_json::Value {
    let labels = |pairs: &[(String, String)]| pairs.iter().map(|(n, v)| (n.clone(), v.as_str().into())).collect::<serde_json::Map<_, _>>();
    let found = [("__address__", &t.address), ("__metrics_path__", &t.path), ("__scheme__", &t.scheme), ("job", &t.job)];
    let health = match (t.last_scrape_ms, t.last_error.is_empty()) {
        (0, _) => "unknown",
        (_, true) => "up",
        _ => "down",
    };
    serde_json::json!({
        "discoveredLabels": labels(&found.map(|(n, v)| (n.to_owned(), v.clone()))),
        "labels": labels(&t.labels),
        "scrapePool": t.job,
        "scrapeUrl": format!("{}://{}{}", t.scheme, t.address, t.path),
        "globalUrl": format!("{}://{}{}", t.scheme, t.address, t.path),
        "lastError": t.last_error,
        "lastScrape": rfc3339(t.last_scrape_ms),
        "lastScrapeDuration": t.last_duration_s,
        "health": health,
        "scrapeInterval": format!("{}ms", t.interval_ms),
        "scrapeTimeout": format!("{}ms", t.timeout_ms),
    })
}

/// `alertmanagers`.
pub async fn alertmanagers() -> Response {
    fixed(r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#)
}

/// An empty list.
pub async fn nothing() -> Response {
    fixed("[]")
}

/// Nothing to tell.
pub async fn no_content() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// `status/tsdb/blocks`.
pub async fn blocks() -> Response {
    fixed(r#"{"blocks":[]}"#)
}

/// `features`: what of the API and of the language there is.
pub async fn features() -> Response {
    let on = |names: &mut dyn Iterator<Item = &str>| {
        let list: Vec<String> = names.map(|n| format!("{}:true", text(n))).collect();
        format!("{{{}}}", list.join(","))
    };
    let api = [
        "exclude_alerts",
        "label_values_match",
        "lifecycle",
        "otlp_write_receiver",
        "query_stats",
        "query_warnings",
        "remote_write_receiver",
    ];
    let language = [
        "anchored",
        "at_modifier",
        "bool",
        "by",
        "delayed_name_removal",
        "duration_expr",
        "fill",
        "group_left",
        "group_right",
        "ignoring",
        "negative_offset",
        "offset",
        "on",
        "per_query_lookback_delta",
        "smoothed",
        "subqueries",
        "type_and_unit_labels",
        "without",
    ];
    let functions = on(&mut promql::all_functions().iter().map(|f| f.name));
    object(&[("api", on(&mut api.into_iter())), ("promql", on(&mut language.into_iter())), ("promql_functions", functions)])
}

/// `status/buildinfo`.
pub async fn build() -> Response {
    object(&[
        ("version", text(VERSION)),
        ("revision", text(concat!("strandline-", env!("CARGO_PKG_VERSION")))),
        ("branch", text("HEAD")),
        ("buildUser", text("strandline")),
        ("buildDate", text("")),
        ("goVersion", text("")),
    ])
}

/// `status/config`.
pub async fn config(State(state): State<PromState>, headers: HeaderMap) -> Response {
    if let Err(refused) = admit(&state, &headers) {
        return refused;
    }
    object(&[("yaml", text(&state.options().config))])
}

/// `status/flags`.
pub async fn flags(State(state): State<PromState>, headers: HeaderMap) -> Response {
    if let Err(refused) = admit(&state, &headers) {
        return refused;
    }
    let members: Vec<(&str, String)> = state.options().flags.iter().map(|(n, v)| (n.as_str(), text(v))).collect();
    object(&members)
}

/// `status/runtimeinfo`.
pub async fn runtime(State(state): State<PromState>, headers: HeaderMap) -> Response {
    if let Err(refused) = admit(&state, &headers) {
        return refused;
    }
    let o = state.options();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    object(&[
        ("startTime", text(&rfc3339(o.started_ms))),
        ("CWD", text("")),
        ("hostname", text("")),
        ("serverTime", text(&rfc3339(o.clock.now_ms()))),
        ("reloadConfigSuccess", "true".to_owned()),
        ("lastConfigTime", text(&rfc3339(o.started_ms))),
        ("corruptionCount", "0".to_owned()),
        ("goroutineCount", threads.to_string()),
        ("GOMAXPROCS", threads.to_string()),
        ("GOMEMLIMIT", i64::MAX.to_string()),
        ("GOGC", text("")),
        ("GODEBUG", text("")),
        ("storageRetention", text(&o.retention)),
    ])
}

/// `status/walreplay`.
pub async fn replay() -> Response {
    fixed(r#"{"min":0,"max":0,"current":0}"#)
}

/// `status/tsdb`.
pub async fn store(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Light, |call, out| {
        let top = match call.params.get("limit").map(str::parse) {
            None => 10,
            Some(Ok(n)) if n > 0 => n,
            Some(_) => return Err(ApiError::bad_data("limit must be a positive number")),
        };
        let n = call.state.options().stores.numbers(&call.headers, top)?;
        success(out, &Notes::default(), |out| {
            write!(
                out.buf,
                "{{\"headStats\":{{\"numSeries\":{},\"numLabelPairs\":{},\"chunkCount\":{},\"minTime\":{},\"maxTime\":{}}}",
                n.series, n.label_pairs, n.chunks, n.min_time_ms, n.max_time_ms
            )?;
            for (name, list) in [
                ("seriesCountByMetricName", &n.series_by_metric),
                ("labelValueCountByLabelName", &n.values_by_label),
                ("memoryInBytesByLabelName", &n.bytes_by_label),
                ("seriesCountByLabelValuePair", &n.series_by_pair),
            ] {
                write!(out.buf, ",\"{name}\":[")?;
                for (i, (name, value)) in list.iter().enumerate() {
                    out.buf.extend_from_slice(if i > 0 { b",{\"name\":" } else { b"{\"name\":" });
                    json::string(&mut out.buf, name);
                    write!(out.buf, ",\"value\":{value}}}")?;
                }
                out.buf.push(b']');
            }
            out.buf.push(b'}');
            Ok(())
        })
    })
    .await
}

/// Unix milliseconds as RFC 3339 in UTC.
fn rfc3339(ms: i64) -> String {
    let t = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
    t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
#[test]
fn times_in_words() {
    assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(rfc3339(1_709_164_800_250), "2024-02-29T00:00:00.250Z");
    assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
}
