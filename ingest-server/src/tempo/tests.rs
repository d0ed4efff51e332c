//! The contract: what Grafana's Tempo data source and Traces Drilldown send, and what they are strict about.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use prost::Message;
use serde_json::Value;
use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::model::{AttributeValue, Resource, Scope, Span, SpanEvent, SpanId, Trace, TraceId};
use strandline_storage::read::SpanSource;
use strandline_storage::traces::otlp::encode_trace;
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, SimFs};
use tower::ServiceExt;

use super::*;

const NOW_S: u64 = 1_700_000_000;
const ID: &str = "00000000000000000000000000000abc";

fn span(id: u8, parent: u8, start_ms: u64, duration_ms: u64, name: &str, service: &str) -> Span {
    let start = NOW_S * 1_000_000_000 + start_ms * 1_000_000;
    let resource =
        Resource { attributes: vec![("service.name".into(), service.into())], schema_url: "https://schema".into(), ..Resource::default() };
    Span {
        trace_id: TraceId::parse(ID).unwrap(),
        span_id: SpanId([id; 8]),
        parent_span_id: (parent > 0).then_some(SpanId([parent; 8])),
        start_unix_nano: start,
        end_unix_nano: start + duration_ms * 1_000_000,
        name: name.into(),
        kind: 2,
        resource: Arc::new(resource),
        scope: Arc::new(Scope { name: "lib".into(), ..Scope::default() }),
        ..Span::default()
    }
}

fn spans() -> Vec<Span> {
    let mut root = span(1, 0, 0, 250, "GET /cart", "web");
    root.attributes = vec![
        ("http.response.status_code".into(), AttributeValue::Int(500)),
        ("list".into(), vec![AttributeValue::Int(1), "x".into()].into()),
        ("raw".into(), vec![0u8, 255].into()),
        ("weird key".into(), true.into()),
    ];
    root.status_code = 2;
    let mut child = span(2, 1, 10, 100, "query", "db");
    child.events = vec![SpanEvent { time_unix_nano: 5, name: "e".into(), ..SpanEvent::default() }];
    child.kind = 3;
    vec![root, child]
}

fn state() -> (TempoState, TraceStore) {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    fs.create_dir_all(Path::new("/d")).unwrap();
    let clock = Arc::new(ManualClock::new(NOW_S as i64 * 1000 + 60_000));
    let bucket = Arc::new(LocalBucket::open(fs.clone(), "/d/bucket").unwrap());
    let mut o = TraceStoreOptions::new(fs, clock.clone(), "/d", bucket);
    o.wal.background = false;
    let store = TraceStore::open(o).unwrap();
    let all = spans();
    store.append(&all[..1]).unwrap().ticket.wait().unwrap();
    store.flush().unwrap();
    store.append(&all[1..]).unwrap().ticket.wait().unwrap();
    let of = store.clone();
    let source: SourceOf = Arc::new(move |headers: &HeaderMap| match headers.get("x-scope-orgid") {
        Some(t) if t == "nobody" => Err(TempoError::new(StatusCode::UNAUTHORIZED, "no such tenant")),
        _ => Ok(Arc::new(of.clone()) as Arc<dyn SpanSource>),
    });
    let state = TempoState::new(source, clock);
    (state, store)
}

fn routes() -> (Router, TraceStore) {
    let (state, store) = state();
    (router(state.clone()).merge(streaming_routes(state)), store)
}

async fn raw(routes: &Router, path: &str, accept: &str) -> (StatusCode, String, Vec<u8>) {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    let r = routes.clone().oneshot(request).await.unwrap();
    let kind = r.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    (r.status(), kind, r.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn json(routes: &Router, path: &str) -> Value {
    let (status, kind, body) = raw(routes, path, "application/json").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"), "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn refused(routes: &Router, path: &str, status: StatusCode, part: &str) {
    let (got, kind, body) = raw(routes, path, "*/*").await;
    let text = String::from_utf8(body).unwrap();
    assert_eq!(got, status, "{path}: {text}");
    assert!(kind.starts_with("text/plain") && text.contains(part), "{path}: {kind} {text}");
}

fn keys(v: &Value) -> BTreeSet<&str> {
    v.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The strict readers know these and fail on others.
fn check_metrics(v: &Value) {
    let known = ["inspectedTraces", "inspectedBytes", "totalBlocks", "completedJobs", "totalJobs", "totalBlockBytes", "inspectedSpans"];
    for (k, v) in v.as_object().unwrap() {
        assert!(known.contains(&k.as_str()), "{k}");
        let text = ["inspectedBytes", "totalBlockBytes", "inspectedSpans"].contains(&k.as_str());
        assert_eq!(v.is_string(), text, "{k} {v}");
    }
}

fn range() -> String {
    format!("start={}&end={}", NOW_S - 600, NOW_S + 600)
}

#[tokio::test]
async fn health_and_build() {
    let (r, _) = routes();
    assert_eq!(raw(&r, "/api/echo", "*/*").await.2, b"echo");
    assert_eq!(
        keys(&json(&r, "/api/status/buildinfo").await),
        ["branch", "buildDate", "buildUser", "goVersion", "revision", "version"].into()
    );
}

#[tokio::test]
async fn traces_by_id_in_json_and_protobuf() {
    let (r, _) = routes();
    let want = encode_trace(&Trace::new(TraceId::parse(ID).unwrap(), spans()));
    let path = format!("/api/traces/{ID}?{}", range());
    assert_eq!(raw(&r, &path, "application/protobuf").await, (StatusCode::OK, "application/protobuf".into(), want.clone()));
    let (_, _, body) = raw(&r, &format!("/api/v2/traces/abc?{}", range()), "application/protobuf").await;
    let mut envelope = strandline_storage::codec::protobuf::Writer::default();
    envelope.bytes_always(1, &want);
    assert_eq!(body, envelope.buf);

    let v1 = json(&r, &path).await;
    let v2 = json(&r, &format!("/api/v2/traces/{ID}")).await;
    assert_eq!(v1["batches"], v2["trace"]["resourceSpans"]);
    let web = v1["batches"].as_array().unwrap().iter().find(|b| b["resource"]["attributes"][0]["value"]["stringValue"] == "web").unwrap();
    assert_eq!(web["schemaUrl"], "https://schema");
    let s = &web["scopeSpans"][0]["spans"][0];
    assert_eq!(s["traceId"], "AAAAAAAAAAAAAAAAAAAKvA==");
    assert_eq!(s["spanId"], "AQEBAQEBAQE=");
    assert_eq!(s["kind"], "SPAN_KIND_SERVER");
    assert_eq!(s["startTimeUnixNano"], "1700000000000000000");
    assert_eq!(s["status"]["code"], "STATUS_CODE_ERROR");
    assert_eq!(s["attributes"][0]["value"]["intValue"], "500");
    assert_eq!(s["attributes"][1]["value"]["arrayValue"]["values"][1]["stringValue"], "x");
    assert_eq!(s["attributes"][2]["value"]["bytesValue"], "AP8=");
    assert!(s.get("parentSpanId").is_none() && s.get("flags").is_none() && s.get("events").is_none(), "zero values are left out: {s}");
}

#[tokio::test]
async fn what_is_not_there() {
    let (r, _) = routes();
    refused(&r, "/api/traces/1234", StatusCode::NOT_FOUND, "not found").await;
    assert_eq!(json(&r, "/api/v2/traces/1234").await["trace"], serde_json::json!({}));
    let (status, _, body) = raw(&r, "/api/v2/traces/1234", "application/protobuf").await;
    assert_eq!((status, body), (StatusCode::OK, vec![0x0a, 0]), "an empty trace, and present");
    refused(&r, "/api/traces/xyz", StatusCode::BAD_REQUEST, "hex").await;
    let request = Request::get(format!("/api/traces/{ID}")).header("X-Scope-OrgID", "nobody").body(Body::empty()).unwrap();
    assert_eq!(r.clone().oneshot(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn search_as_the_strict_reader_wants_it() {
    let (r, _) = routes();
    let q = "q=%7B%20span.http.response.status_code%20%3E%3D%20500%20%7D";
    let found = json(&r, &format!("/api/search?{q}&limit=20&spss=10&{}", range())).await;
    assert_eq!(keys(&found), ["metrics", "traces"].into());
    check_metrics(&found["metrics"]);
    let t = &found["traces"][0];
    assert_eq!(
        keys(t),
        ["durationMs", "rootServiceName", "rootTraceName", "serviceStats", "spanSet", "spanSets", "startTimeUnixNano", "traceID"].into()
    );
    assert_eq!(t["traceID"], "abc", "leading zeros are trimmed");
    assert_eq!((t["rootServiceName"].as_str(), t["rootTraceName"].as_str()), (Some("web"), Some("GET /cart")));
    assert_eq!((&t["startTimeUnixNano"], &t["durationMs"]), (&"1700000000000000000".into(), &250.into()));
    assert_eq!(t["spanSet"], t["spanSets"][0]);
    assert_eq!(t["serviceStats"], serde_json::json!({ "db": { "spanCount": 1 }, "web": { "spanCount": 1, "errorCount": 1 } }));
    let s = &t["spanSet"]["spans"][0];
    assert_eq!((&s["spanID"], &s["durationNanos"]), (&"0101010101010101".into(), &"250000000".into()));
    assert_eq!(s["attributes"], serde_json::json!([{ "key": "http.response.status_code", "value": { "intValue": "500" } }]));
    assert_eq!(t["spanSet"]["matched"], 1);

    // Without parameters: everything; by tags, as older versions ask.
    assert_eq!(json(&r, "/api/search").await["traces"].as_array().unwrap().len(), 1);
    let tags = json(&r, "/api/search?tags=service.name%3Ddb%20name%3Dquery&minDuration=100ms&maxDuration=1s").await;
    assert_eq!(tags["traces"][0]["spanSet"]["spans"][0]["name"], "query");
    assert_eq!(json(&r, "/api/search?tags=service.name%3Dnone").await["traces"], serde_json::json!([]));
    for (path, part) in [
        ("/api/search?q=%7B%20.a%20%3D%20%7D", "1:8"),
        ("/api/search?q=%7B%20name%20%7D", "invalid query at 1:3"),
        ("/api/search?limit=0", "limit"),
        ("/api/search?limit=x", "limit"),
        ("/api/search?spss=101", "spss"),
        ("/api/search?q=%7B%7D&tags=a%3Db", "tags and q"),
        ("/api/search?start=20&end=10", "start"),
        ("/api/search?start=20", "start"),
        ("/api/search?start=1700000000000&end=1700000001000", "seconds"),
        ("/api/search?spss=0", "spss"),
        ("/api/search?tags=a%3D1%20a%3D2", "twice"),
        ("/api/search?minDuration=5q", "minDuration"),
        ("/api/search?q=%7B%7D%20%7C%20rate()", "query_range"),
    ] {
        refused(&r, path, StatusCode::BAD_REQUEST, part).await;
    }
}

/// Traces Drilldown: structure with unions, roots by nested sets.
#[tokio::test]
async fn drilldown_queries() {
    let (r, _) = routes();
    let q = "(%7B%20%7D%20%26%3E%3E%20%7B%20kind%20%3D%20client%20%7D)%20%7C%7C%20(%7B%20%7D)%20%7C%20select(status%2C%20resource.service.name%2C%20name%2C%20nestedSetParent%2C%20nestedSetLeft%2C%20nestedSetRight)";
    let found = json(&r, &format!("/api/search?q={q}&spss=10&{}", range())).await;
    let spans = found["traces"][0]["spanSet"]["spans"].as_array().unwrap();
    let value = |s: &Value, k: &str| s["attributes"].as_array().unwrap().iter().find(|a| a["key"] == k).unwrap()["value"].clone();
    assert_eq!(spans.len(), 2);
    assert_eq!(value(&spans[0], "nestedSetParent"), serde_json::json!({ "intValue": "-1" }));
    assert_eq!(value(&spans[1], "nestedSetParent"), serde_json::json!({ "intValue": "1" }));
    assert_eq!(value(&spans[0], "status"), serde_json::json!({ "stringValue": "error" }));
    assert_eq!(value(&spans[1], "service.name"), serde_json::json!({ "stringValue": "db" }));
    let q = "%7BnestedSetParent%3C0%7D%20%7C%20rate()%20by%20(resource.service.name)";
    let m = json(&r, &format!("/api/metrics/query_range?q={q}&{}&step=60s", range())).await;
    assert_eq!(m["series"][0]["labels"], serde_json::json!([{ "key": "resource.service.name", "value": { "stringValue": "web" } }]));
    let q = "%7B%7D%20%7C%20compare(%7Bstatus%3Derror%7D)";
    let m = json(&r, &format!("/api/metrics/query_range?q={q}&{}&step=1200", range())).await;
    let kinds: BTreeSet<&str> =
        m["series"].as_array().unwrap().iter().map(|s| s["labels"][0]["value"]["stringValue"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["baseline", "baseline_total", "selection", "selection_total"].into());
}

#[tokio::test]
async fn metrics_over_time_and_at_once() {
    let (r, _) = routes();
    let q = "q=%7B%7D%20%7C%20count_over_time()";
    let m = json(&r, &format!("/api/metrics/query_range?{q}&{}&step=1m&exemplars=5", range())).await;
    check_metrics(&m["metrics"]);
    let s = &m["series"][0];
    assert_eq!(keys(s), ["exemplars", "labels", "samples"].into());
    let samples = s["samples"].as_array().unwrap();
    let full: Vec<&Value> = samples.iter().filter(|s| s.get("value").is_some()).collect();
    assert_eq!(full, [&serde_json::json!({ "timestampMs": "1700000040000", "value": 2.0 })], "zero values are left out");
    assert!(samples.len() >= 20 && samples.iter().all(|s| s["timestampMs"].is_string()));
    assert_eq!(s["exemplars"][0]["labels"], serde_json::json!([{ "key": "trace:id", "value": { "stringValue": ID } }]));
    let m = json(&r, &format!("/api/metrics/query?{q}&{}", range())).await;
    assert_eq!(
        m["series"][0],
        serde_json::json!({ "labels": [{ "key": "__name__", "value": { "stringValue": "count_over_time" } }], "value": 2.0 })
    );
    let m = json(&r, "/api/metrics/query?query=%7B%7D%20%7C%20rate()&since=10m").await;
    assert_eq!(m["series"].as_array().unwrap().len(), 1);
    refused(&r, "/api/metrics/query_range?q=%7B%7D", StatusCode::BAD_REQUEST, "api/search").await;
    refused(&r, "/api/metrics/query_range", StatusCode::BAD_REQUEST, "missing").await;
    refused(&r, &format!("/api/metrics/query_range?{q}&start=1&end=1700000000&step=1"), StatusCode::UNPROCESSABLE_ENTITY, "step").await;
}

#[tokio::test]
async fn tags_and_values() {
    let (r, _) = routes();
    let v2 = json(&r, &format!("/api/v2/search/tags?limit=500&{}", range())).await;
    let scope = |name: &str| v2["scopes"].as_array().unwrap().iter().find(|s| s["name"] == name).map(|s| s["tags"].clone());
    assert_eq!(scope("span"), Some(serde_json::json!(["http.response.status_code", "list", "raw", "weird key"])));
    assert_eq!(scope("resource"), Some(serde_json::json!(["service.name"])));
    assert!(scope("intrinsic").unwrap().as_array().unwrap().contains(&"traceDuration".into()));
    assert!(json(&r, "/api/search/tags").await["tagNames"].as_array().unwrap().contains(&"service.name".into()));
    refused(&r, "/api/v2/search/tags?scope=nowhere", StatusCode::BAD_REQUEST, "scope").await;
    for (path, want) in [
        (
            "/api/v2/search/tag/resource.service.name/values",
            serde_json::json!([{ "type": "string", "value": "db" }, { "type": "string", "value": "web" }]),
        ),
        (
            "/api/v2/search/tag/.service.name/values?q=%7B%20status%20%3D%20error%20%7D",
            serde_json::json!([{ "type": "string", "value": "web" }]),
        ),
        ("/api/v2/search/tag/span.weird%20key/values", serde_json::json!([{ "type": "bool", "value": "true" }])),
        ("/api/v2/search/tag/x/values?tag=span.http.response.status_code", serde_json::json!([{ "type": "int", "value": "500" }])),
        (
            "/api/v2/search/tag/name/values?q=%7B%20typing",
            serde_json::json!([{ "type": "string", "value": "GET /cart" }, { "type": "string", "value": "query" }]),
        ),
        ("/api/v2/search/tag/span.nowhere/values", serde_json::json!([])),
        // Encoded twice, as Grafana sends them, in the path or beside it.
        ("/api/v2/search/tag/event%253Aname/values", serde_json::json!([{ "type": "string", "value": "e" }])),
        ("/api/v2/search/tag/x/values?tag=event%253Aname", serde_json::json!([{ "type": "string", "value": "e" }])),
        ("/api/v2/search/tag/span.weird%2520key/values", serde_json::json!([{ "type": "bool", "value": "true" }])),
        ("/api/v2/search/tag/span.%22weird%20key%22/values", serde_json::json!([{ "type": "bool", "value": "true" }])),
    ] {
        assert_eq!(json(&r, path).await["tagValues"], want, "{path}");
    }
    let status = json(&r, "/api/v2/search/tag/status/values").await;
    assert_eq!(status["tagValues"][0], serde_json::json!({ "type": "keyword", "value": "error" }));
    assert_eq!(json(&r, "/api/search/tag/service.name/values").await["tagValues"], serde_json::json!(["db", "web"]));
}

#[tokio::test]
async fn ways_of_older_and_of_other_callers() {
    let (r, _) = routes();
    let names = |found: Value| -> Vec<String> {
        let traces = found["traces"].as_array().unwrap().clone();
        traces.iter().map(|t| t["spanSet"]["spans"][0]["name"].as_str().unwrap().to_owned()).collect()
    };
    // Tags as parameters of their own, an end alone, an answer in protobuf.
    assert_eq!(names(json(&r, "/api/search?service.name=db&limit=5").await), ["query"]);
    assert!(names(json(&r, "/api/search?service.name=none").await).is_empty());
    assert_eq!(names(json(&r, &format!("/api/search?end={}", NOW_S + 600)).await), ["GET /cart"]);
    let (status, kind, body) = raw(&r, "/api/search?q=%7B%7D", "application/protobuf").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/protobuf"));
    let found = proto::SearchResponse::decode(body.as_slice()).unwrap();
    assert_eq!((found.traces[0].trace_id.as_str(), found.metrics.is_some()), ("abc", true));
    // A trace may be asked for from a time on.
    for range in [format!("start={NOW_S}"), format!("end={NOW_S}000"), "start=0&end=0".to_owned()] {
        assert_eq!(raw(&r, &format!("/api/traces/{ID}?{range}"), "*/*").await.0, StatusCode::OK, "{range}");
    }
    refused(&r, &format!("/api/v2/traces/{ID}?start=20&end=10"), StatusCode::BAD_REQUEST, "start").await;
    // A trace narrowed to some spans, with those above them or without.
    let narrowed = |q: &'static str| {
        let r = r.clone();
        async move {
            let v = json(&r, &format!("/api/v2/traces/{ID}?{q}")).await;
            let spans = |s: &Value| s["scopeSpans"][0]["spans"].as_array().unwrap().len();
            v["trace"]["resourceSpans"].as_array().map_or(0, |r| r.iter().map(spans).sum::<usize>())
        }
    };
    let child = "q=%7B%20kind%20%3D%20client%20%7D";
    assert_eq!(narrowed(child).await, 2);
    assert_eq!(narrowed("q=%7B%20kind%20%3D%20client%20%7D&keep_hierarchy=false").await, 1);
    assert_eq!((narrowed("q=%7B%20kind%20%3D%20server%20%7D").await, narrowed("q=%7B%7D").await), (1, 2));
    assert_eq!(narrowed("q=%7B%20false%20%7D").await, 0);
    for q in ["%7B%7D%20%7C%20rate()", "%7B%7D%20%3E%20%7B%7D", "%7B%7D%20%7C%20%7B%7D", "%7B"] {
        refused(&r, &format!("/api/v2/traces/{ID}?q={q}"), StatusCode::BAD_REQUEST, "").await;
    }
    // An end to come does not move the start.
    let q = "/api/metrics/query?q=%7B%7D%20%7C%20count_over_time()&since=10m";
    assert_eq!(json(&r, &format!("{q}&end={}", NOW_S + 3600)).await["series"][0]["value"], 2.0);
}

#[tokio::test]
async fn names_and_values_among_what_a_filter_selects() {
    let (r, _) = routes();
    let tags = |v: &Value, name: &str| v["scopes"].as_array().unwrap().iter().find(|s| s["name"] == name).map(|s| s["tags"].clone());
    let v2 = json(&r, "/api/v2/search/tags?q=%7B%20name%20%3D%20%22query%22%20%7D").await;
    assert_eq!((tags(&v2, "span"), tags(&v2, "resource")), (None, Some(serde_json::json!(["service.name"]))));
    let v2 = json(&r, "/api/v2/search/tags?scope=span&q=%7B%20status%20%3D%20error%20%26%26%20span.x%20%3D%20%7D").await;
    assert_eq!(tags(&v2, "span").unwrap().as_array().unwrap().len(), 4);
    assert_eq!(tags(&v2, "resource"), None);
    let intrinsics = tags(&json(&r, "/api/v2/search/tags?scope=intrinsic").await, "intrinsic").unwrap();
    assert!(
        !intrinsics.as_array().unwrap().contains(&"nestedSetLeft".into()) && intrinsics.as_array().unwrap().contains(&"span:name".into())
    );
    // The first API lists intrinsics only if they are asked for.
    let has_kind = |v: Value| v["tagNames"].as_array().unwrap().contains(&"kind".into());
    assert!(!has_kind(json(&r, "/api/search/tags").await) && has_kind(json(&r, "/api/search/tags?scope=intrinsic").await));
    // Of a filter that is being typed, what is complete counts.
    for (q, want) in [
        ("{ status = error && span.foo = }", vec!["web"]),
        ("{ resource.service.name = && kind = client", vec!["db"]),
        ("{ name = \"a && b\" && kind = }", vec![]),
        ("{ kind =", vec!["db", "web"]),
        ("nonsense", vec!["db", "web"]),
    ] {
        let q: String = q.bytes().map(|b| format!("%{b:02X}")).collect();
        let found = json(&r, &format!("/api/v2/search/tag/resource.service.name/values?q={q}")).await;
        let found: Vec<&str> = found["tagValues"].as_array().unwrap().iter().map(|v| v["value"].as_str().unwrap()).collect();
        assert_eq!(found, want, "{q}");
    }
    refused(&r, "/api/v2/search/tag/service.name/values", StatusCode::BAD_REQUEST, "valid tagName").await;
    let request = proto::SearchTagValuesRequest { tag_name: "bare".into(), ..Default::default() };
    assert_eq!(grpc::<proto::SearchTagValuesV2Response>(&r, "SearchTagValuesV2", &request).await.0, "3");
    let request = proto::SearchTagsRequest { query: "{ name = \"query\" }".into(), ..Default::default() };
    let (_, out) = grpc::<proto::SearchTagsResponse>(&r, "SearchTags", &request).await;
    assert_eq!(out[0].tag_names, ["service.name"]);
    let request = proto::SearchRequest { query: "{}".into(), start: 20, end: 10, ..Default::default() };
    assert_eq!(grpc::<proto::SearchResponse>(&r, "Search", &request).await.0, "3");
}

async fn grpc<A: Message + Default>(routes: &Router, method: &str, request: &impl Message) -> (String, Vec<A>) {
    let body = request.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    let r = Request::post(format!("/tempopb.StreamingQuerier/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(frame))
        .unwrap();
    let r = routes.clone().oneshot(r).await.unwrap();
    let status = |h: &HeaderMap| h.get("grpc-status").map(|v| v.to_str().unwrap().to_owned());
    let early = status(r.headers());
    let collected = r.into_body().collect().await.unwrap();
    let code = early.or_else(|| collected.trailers().and_then(status)).unwrap_or_default();
    let mut bytes = collected.to_bytes();
    let mut out = Vec::new();
    while bytes.len() >= 5 {
        let n = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        out.push(A::decode(&bytes[5..5 + n]).unwrap());
        bytes = bytes.split_off(5 + n);
    }
    (code, out)
}

#[tokio::test]
async fn streaming_by_grpc() {
    let (r, _) = routes();
    let request = proto::SearchRequest { query: "{ status = error }".into(), limit: 5, ..Default::default() };
    let (code, out) = grpc::<proto::SearchResponse>(&r, "Search", &request).await;
    assert_eq!((code.as_str(), out.len()), ("0", 1));
    assert_eq!((out[0].traces[0].trace_id.as_str(), out[0].traces[0].span_sets.len()), ("abc", 1));
    assert_eq!(out[0].metrics.as_ref().unwrap().completed_jobs, 1);
    let request = proto::SearchRequest { query: "{ nonsense".into(), ..Default::default() };
    assert_eq!(grpc::<proto::SearchResponse>(&r, "Search", &request).await.0, "3");
    let nanos = 1_000_000_000;
    let request = proto::QueryRangeRequest {
        query: "{} | rate() by (name)".into(),
        start: (NOW_S - 60) * nanos,
        end: (NOW_S + 60) * nanos,
        step: 60 * nanos,
        ..Default::default()
    };
    let (_, out) = grpc::<proto::QueryRangeResponse>(&r, "MetricsQueryRange", &request).await;
    assert_eq!((out[0].series.len(), out[0].status), (2, 0));
    let (_, cut) = grpc::<proto::QueryRangeResponse>(&r, "MetricsQueryRange", &proto::QueryRangeRequest { max_series: 1, ..request }).await;
    assert_eq!((&cut[0].series[..], cut[0].status), (&out[0].series[..1], 1));
    assert!(cut[0].message.contains("1 of 2 series"), "{}", cut[0].message);
    let request = proto::QueryInstantRequest { query: "{} | count_over_time()".into(), ..Default::default() };
    let (_, out) = grpc::<proto::QueryInstantResponse>(&r, "MetricsQueryInstant", &request).await;
    assert_eq!(out[0].series[0].value, 2.0);
    let (_, out) = grpc::<proto::SearchTagsV2Response>(&r, "SearchTagsV2", &proto::SearchTagsRequest::default()).await;
    assert!(out[0].scopes.iter().any(|s| s.name == "resource"));
    let request = proto::SearchTagValuesRequest { tag_name: "resource.service.name".into(), ..Default::default() };
    let (_, out) = grpc::<proto::SearchTagValuesV2Response>(&r, "SearchTagValuesV2", &request).await;
    assert_eq!(out[0].tag_values.len(), 2);
    assert_eq!(grpc::<proto::SearchResponse>(&r, "Nothing", &request).await.0, "12");
}

#[tokio::test]
async fn queries_end_and_what_they_answer_is_bounded() {
    let (mut small, _store) = state();
    (small.max_search_bytes, small.max_cells) = (100, 50);
    let r = router(small);
    refused(&r, "/api/search?q=%7B%7D", StatusCode::UNPROCESSABLE_ENTITY, "ask for fewer of them").await;
    let range = format!("start={}&end={}&step=10s", NOW_S - 60, NOW_S + 60);
    let compared = format!("/api/metrics/query_range?q=%7B%7D%7Ccompare(%7Bstatus%3Derror%7D)&{range}");
    refused(&r, &compared, StatusCode::UNPROCESSABLE_ENTITY, "fewer values of each attribute").await;
    let counted =
        |step: &str| format!("/api/metrics/query_range?q=%7B%7D%7Cquantile_over_time(duration,.5)&{}", range.replace("10s", step));
    refused(&r, &counted("10s"), StatusCode::UNPROCESSABLE_ENTITY, "take a larger step").await;
    json(&r, &counted("60s")).await;

    let (mut hasty, _store) = state();
    hasty.timeout = std::time::Duration::ZERO;
    let r = router(hasty);
    refused(&r, "/api/search?q=%7B%7D", StatusCode::GATEWAY_TIMEOUT, "query.timeout").await;
    refused(&r, &format!("/api/traces/{ID}"), StatusCode::GATEWAY_TIMEOUT, "query.timeout").await;

    let (mut busy, _store) = state();
    busy.gate = Gate::new(1);
    busy.timeout = std::time::Duration::from_millis(20);
    let permit = busy.gate.enter("another").await;
    let r = router(busy);
    refused(&r, "/api/search?q=%7B%7D", StatusCode::SERVICE_UNAVAILABLE, "waited for its turn").await;
    // A trace by its id waits for nobody.
    json(&r, &format!("/api/traces/{ID}")).await;
    drop(permit);
    json(&r, "/api/search?q=%7B%7D").await;
}

#[test]
fn a_query_ends_when_its_client_is_gone() {
    let (_, store) = state();
    let (patience, waiting) = watched::Patience::new(std::time::Duration::from_secs(60));
    let source = watched::Watched { source: Arc::new(store), patience };
    let scan = || source.scan(&strandline_storage::read::ScanRequest::new(0, u64::MAX), &mut |_| Ok(std::ops::ControlFlow::Continue(0)));
    assert!(scan().unwrap().spans > 0);
    drop(waiting);
    assert!(scan().unwrap_err().to_string().contains("went away"));
}
