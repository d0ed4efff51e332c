//! The page at `/`, and answers to requests for unknown paths and methods: where things are.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::app::App;
use crate::prometheus::answer::ApiError;
use crate::suggest::did_you_mean;

/// Paths to suggest: a similar one was probably meant.
const PATHS: [&str; 18] = [
    "/v1/traces",
    "/v1/metrics",
    "/v1/logs",
    "/api/v1/otlp/v1/metrics",
    "/api/v1/write",
    "/api/v1/read",
    "/api/v1/query",
    "/api/v1/query_range",
    "/api/v1/labels",
    "/api/v1/series",
    "/federate",
    "/api/search",
    "/api/traces/TRACE_ID",
    "/api/metrics/query",
    "/api/metrics/query_range",
    "/metrics",
    "/-/healthy",
    "/-/ready",
];

/// Where senders of other protocols post to, whose these are, and what to use instead.
const FOREIGN: [(&str, &str, &str); 9] = [
    ("/api/v1/spans", "Zipkin", "OTLP to /v1/traces"),
    ("/api/v2/spans", "Zipkin", "OTLP to /v1/traces"),
    ("/api/traces", "Jaeger", "OTLP to /v1/traces"),
    ("/write", "InfluxDB", "OTLP to /v1/metrics, or remote write to /api/v1/write"),
    ("/api/v2/write", "InfluxDB", "OTLP to /v1/metrics, or remote write to /api/v1/write"),
    ("/api/v2/series", "Datadog", "OTLP to /v1/metrics, or remote write to /api/v1/write"),
    ("/api/v1/import", "VictoriaMetrics", "remote write to /api/v1/write"),
    ("/metrics/job", "a Pushgateway", "OTLP to /v1/metrics, or a Pushgateway that a [[scrape]] job reads"),
    ("/loki/api/v1/push", "Loki", "something else for logs, which are not stored here"),
];

/// Longer paths get no suggestion: comparing costs time that grows with their length.
const MAX_COMPARED: usize = 100;

/// gRPC's status code for an unknown method.
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");

/// Adds `/`, and answers in words to requests that no route takes.
pub fn with_landing(router: Router, app: &Arc<App>) -> Router {
    let landing = Router::new().route("/", get(landing)).with_state(app.clone());
    router.merge(landing).fallback(unknown).method_not_allowed_fallback(wrong_method)
}

async fn landing(State(app): State<Arc<App>>) -> String {
    let mut page = String::from("This is Strandline.\n\n");
    let mut line = |what: &str, text: &str| {
        // Writing to a string can't fail.
        let _ = writeln!(page, "{what:<24} {text}");
    };
    line("Grafana", "a Prometheus and a Tempo data source, both with the URL of this page");
    for (what, address) in [("OTLP over gRPC", &app.config.otlp_grpc), ("OTLP over HTTP", &app.config.otlp_http)] {
        if !address.is_empty() {
            line(what, address);
        }
    }
    line("OTLP over HTTP, here too", "/v1/metrics, /v1/traces");
    line("Prometheus remote write", "/api/v1/write");
    line("state", "/-/ready, /metrics, and `strandline doctor` in a shell");
    page
}

async fn unknown(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path();
    if is_grpc(&headers) {
        return (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
                (header::HeaderName::from_static("grpc-status"), UNIMPLEMENTED),
                (header::HeaderName::from_static("grpc-message"), HeaderValue::from_static("no such gRPC method on this port")),
            ],
            "",
        )
            .into_response();
    }
    let near = match foreign(path).filter(|_| method != Method::GET) {
        Some((_, whose, instead)) => format!(": it is {whose}'s; use {instead}"),
        None if path.len() <= MAX_COMPARED => did_you_mean(path, PATHS.iter().map(|p| p.to_string())),
        None => String::new(),
    };
    // Most of those who read it expect the shape of Prometheus' errors, and Grafana looks for the first three words.
    ApiError::not_found(format!("page not found: nothing is served at {method} {}{near} (GET / tells where things are)", shown(path)))
        .into_response()
}

fn foreign(path: &str) -> Option<&'static (&'static str, &'static str, &'static str)> {
    FOREIGN.iter().find(|(start, ..)| path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let path = shown(uri.path());
    ApiError::wrong_method(format!("{path} does not take {method}; the header Allow names what it takes")).into_response()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

fn shown(path: &str) -> &str {
    let end = path.char_indices().map(|(i, _)| i).nth(MAX_COMPARED).unwrap_or(path.len());
    &path[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    #[tokio::test]
    async fn unknown_paths_are_told_the_way() {
        let data_dir = std::env::temp_dir().join(format!("strandline-landing-{}", std::process::id()));
        let app = App::new(Config { data_dir: data_dir.clone(), ..Config::default() }, 64 << 20, None, 0).unwrap();
        let routes = crate::serve::main_router(&app);
        let ask = |method: &str, path: &str, kind: &str| {
            let r = Request::builder().method(method).uri(path).header("content-type", kind).body(axum::body::Body::empty()).unwrap();
            let routes = routes.clone();
            async move {
                let r = routes.oneshot(r).await.unwrap();
                let (head, body) = r.into_parts();
                let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
                (head, String::from_utf8(body.to_vec()).unwrap())
            }
        };
        let (head, page) = ask("GET", "/", "").await;
        assert_eq!(head.status, StatusCode::OK);
        assert!(page.contains("127.0.0.1:4317") && page.contains("/api/v1/write"), "{page}");

        let (head, page) = ask("POST", "/v1/trace", "application/json").await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        assert!(page.contains("page not found: nothing is served at POST /v1/trace; did you mean /v1/traces?"), "{page}");
        let (head, page) = ask("GET", "/prometheus/api/v1/nothing_like_it", "").await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        assert!(page.contains("/prometheus/api/v1/nothing_like_it (GET / tells"), "{page}");
        for (path, told) in [
            ("/api/v2/spans", "POST /api/v2/spans: it is Zipkin's; use OTLP to /v1/traces"),
            ("/api/v2/write?bucket=b", "it is InfluxDB's; use OTLP"),
            ("/metrics/job/backup/instance/a", "it is a Pushgateway's; use OTLP"),
        ] {
            let (head, page) = ask("POST", path, "").await;
            assert!(head.status == StatusCode::NOT_FOUND && page.contains(told), "{page}");
        }
        let (_, page) = ask("GET", &format!("/{}", "x".repeat(50_000)), "").await;
        assert!(page.len() < 300, "{} bytes", page.len());

        let (head, page) = ask("GET", "/v1/traces", "").await;
        assert_eq!((head.status, head.headers["allow"].to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
        assert!(page.contains("/v1/traces does not take GET"), "{page}");

        let (head, _) = ask("POST", "/opentelemetry.proto.collector.profiles.v1.ProfilesService/Export", "application/grpc+proto").await;
        assert_eq!((head.status, head.headers["grpc-status"].to_str().unwrap()), (StatusCode::OK, "12"));
        let _ = std::fs::remove_dir_all(data_dir);
    }
}
