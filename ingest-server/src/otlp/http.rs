//! OTLP over HTTP: protobuf and JSON, gzip and zstd.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use strandline_storage::codec::protobuf::Writer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::ingest::{self, Outcome};
use super::json::{Signal, to_protobuf};
use crate::app::App;
use crate::auth::Right;
use crate::body;
use crate::refusal::{Reason, Refusal};

/// How long a browser may remember what it was told.
const CORS_MAX_AGE: Duration = Duration::from_secs(7200);

/// The routes of OTLP over HTTP.
pub fn router(app: Arc<App>) -> Router {
    let origins = app.config.otlp_cors_origins.clone();
    let of = |signal: Signal| {
        let send = post(move |s, r| export(s, r, signal));
        // Answered by the layer: without a method of its own the page of unknown methods would be.
        if origins.is_empty() { send } else { send.options(StatusCode::NO_CONTENT).layer(cors(&origins)) }
    };
    Router::new()
        .route("/v1/metrics", of(Signal::Metrics))
        .route("/v1/traces", of(Signal::Traces))
        .route("/v1/logs", of(Signal::Logs))
        .with_state(app)
}

/// Lets the pages of some origins send from browsers, with whatever headers: nobody's cookies count here.
fn cors(origins: &[String]) -> CorsLayer {
    let layer = CorsLayer::new().allow_methods([Method::POST]).allow_headers(AllowHeaders::mirror_request()).max_age(CORS_MAX_AGE);
    if origins.iter().any(|o| o == "*") {
        return layer.allow_origin(AllowOrigin::any());
    }
    layer.allow_origin(AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok())))
}

/// Handles one export; also used for Prometheus' and Mimir's paths.
pub async fn export(State(app): State<Arc<App>>, request: Request, signal: Signal) -> Response {
    let (parts, body) = request.into_parts();
    let json = is_of(content_type(&parts.headers), "application/json");
    let answer = serve(&app, &parts.headers, body, signal, json).await;
    let code = answer.as_ref().map_or_else(|r| r.status().as_u16(), |_| 200);
    app.counters.request("otlp_http", code);
    match answer {
        Ok(o) => success(&o, signal, json),
        Err(r) => {
            app.counters.refuse("otlp_http_requests", r.word(), 1);
            failure(&r, json)
        }
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// Types are compared whatever their case; parameters may follow.
fn is_of(content_type: &str, kind: &str) -> bool {
    content_type.get(..kind.len()).is_some_and(|t| t.eq_ignore_ascii_case(kind))
}

async fn serve(app: &Arc<App>, headers: &HeaderMap, body: Body, signal: Signal, json: bool) -> Result<Outcome, Refusal> {
    let content = content_type(headers);
    if !json && !is_of(content, "application/x-protobuf") && !is_of(content, "application/protobuf") {
        return Err(Refusal::new(
            Reason::Unsupported,
            format!("content type {content:?} is not OTLP (application/x-protobuf or application/json)"),
        ));
    }
    // Who will be refused is told so without a byte of the body being kept.
    let may = app.identify(headers, Right::Write).and_then(|_| if signal == Signal::Logs { Ok(()) } else { app.admit_write() });
    if let Err(r) = may {
        body::discard(headers, body).await;
        return Err(r);
    }
    let max = app.max_body_bytes();
    let mut room = app.room();
    let packed = body::read_into(&mut room, body, max).await?;
    crate::counters::Counters::add(&app.counters.received_bytes, packed.len() as u64);
    let mut bytes: Bytes = body::unpack(headers, packed, max, &mut room)?;
    if json {
        bytes = to_protobuf(&bytes, signal).map_err(|e| Refusal::new(Reason::Invalid, format!("not OTLP/JSON: {e}")))?.into();
    }
    if signal == Signal::Logs {
        return ingest::logs(app, &bytes);
    }
    let engine = app.engine(headers, Right::Write)?;
    match signal {
        Signal::Metrics => ingest::metrics(app, engine, bytes, room).await,
        _ => ingest::traces(app, engine, bytes, room).await,
    }
}

/// The answer's protobuf: empty unless something was refused.
pub fn response(o: &Outcome) -> Vec<u8> {
    let mut w = Writer::default();
    if o.rejected > 0 || !o.message.is_empty() {
        let mut partial = Writer::default();
        partial.int(1, o.rejected);
        partial.bytes(2, o.message.as_bytes());
        w.bytes(1, &partial.buf);
    }
    w.buf
}

fn success(o: &Outcome, signal: Signal, json: bool) -> Response {
    if !json {
        return ([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))], response(o)).into_response();
    }
    let what = match signal {
        Signal::Metrics => "rejectedDataPoints",
        Signal::Traces => "rejectedSpans",
        Signal::Logs => "rejectedLogRecords",
    };
    let v = if o.rejected > 0 || !o.message.is_empty() {
        serde_json::json!({ "partialSuccess": { what: o.rejected.to_string(), "errorMessage": o.message } })
    } else {
        serde_json::json!({})
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], v.to_string()).into_response()
}

/// A google.rpc.Status, as the OTLP specification asks.
fn failure(r: &Refusal, json: bool) -> Response {
    let status: StatusCode = r.status();
    if json {
        let v = serde_json::json!({ "code": r.grpc_code(), "message": r.message });
        return (status, r.headers(), [(header::CONTENT_TYPE, "application/json")], v.to_string()).into_response();
    }
    let mut w = Writer::default();
    w.int(1, r.grpc_code() as u64);
    w.bytes(2, r.message.as_bytes());
    (status, r.headers(), [(header::CONTENT_TYPE, "application/x-protobuf")], w.buf).into_response()
}
