//! What all handlers share: the small calls, content types, threads for queries.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use strandline_storage::read::SpanSource;

use super::{TempoError, TempoState};

/// The health check of the data source.
pub async fn echo() -> &'static str {
    "echo"
}

/// What the data source asks to know which features there are.
pub async fn build_info(State(state): State<TempoState>) -> Response<Body> {
    json_response(&json!({
        "version": state.version,
        "revision": "",
        "branch": "",
        "buildDate": "",
        "buildUser": "",
        "goVersion": "",
    }))
}

/// A JSON answer.
pub fn json_response(v: &Value) -> Response<Body> {
    respond("application/json", v.to_string().into_bytes())
}

/// An answer of a type.
pub fn respond(content_type: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut r = Response::new(Body::from(body));
    *r.status_mut() = StatusCode::OK;
    r.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    r
}

/// Whether the caller wants protobuf.
pub fn wants_protobuf(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("application/protobuf")))
}

/// Runs a query on a thread where it may block.
pub async fn blocking<T: Send + 'static>(
    state: &TempoState,
    headers: &HeaderMap,
    f: impl FnOnce(&dyn SpanSource) -> Result<T, TempoError> + Send + 'static,
) -> Result<T, TempoError> {
    let source: Arc<dyn SpanSource> = (state.source)(headers)?;
    let done = tokio::task::spawn_blocking(move || f(&*source)).await;
    done.unwrap_or_else(|_| Err(TempoError::new(StatusCode::INTERNAL_SERVER_ERROR, "the query was aborted")))
}
