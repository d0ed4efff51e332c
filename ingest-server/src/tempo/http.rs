//! What all handlers share: the small calls, content types, threads for queries.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use strandline_storage::read::SpanSource;

use super::watched::{Patience, Watched};
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

/// The type of JSON answers.
pub const JSON: &str = "application/json";

/// A JSON answer.
pub fn json_response(v: &Value) -> Response<Body> {
    respond(JSON, v.to_string().into_bytes())
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

/// Waits for a query's turn and runs it on a thread where it may block, until its time is over or its client is gone.
pub async fn blocking<T: Send + 'static>(
    state: &TempoState,
    headers: &HeaderMap,
    f: impl FnOnce(&dyn SpanSource) -> Result<T, TempoError> + Send + 'static,
) -> Result<T, TempoError> {
    let source = (state.source)(headers)?;
    let tenant = headers.get("x-scope-orgid").and_then(|v| v.to_str().ok()).unwrap_or("");
    let (patience, _waiting) = Patience::new(state.timeout);
    let entered = tokio::time::timeout(state.timeout, state.gate.enter(tenant)).await;
    let permit = entered.map_err(|_| {
        let message = format!("the query waited for its turn longer than {:?} (query.timeout)", state.timeout);
        TempoError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let run = move |source: &dyn SpanSource| {
        let done = f(source);
        drop(permit);
        done
    };
    on_a_thread(Watched { source, patience }, run).await
}

/// As [`blocking`] for what is little work: it waits for nobody.
pub async fn at_once<T: Send + 'static>(
    state: &TempoState,
    headers: &HeaderMap,
    f: impl FnOnce(&dyn SpanSource) -> Result<T, TempoError> + Send + 'static,
) -> Result<T, TempoError> {
    let source = (state.source)(headers)?;
    let (patience, _waiting) = Patience::new(state.timeout);
    on_a_thread(Watched { source, patience }, f).await
}

async fn on_a_thread<T: Send + 'static>(
    source: Watched,
    f: impl FnOnce(&dyn SpanSource) -> Result<T, TempoError> + Send + 'static,
) -> Result<T, TempoError> {
    let done = tokio::task::spawn_blocking(move || f(&source)).await;
    done.unwrap_or_else(|_| Err(TempoError::new(StatusCode::INTERNAL_SERVER_ERROR, "the query was aborted")))
}
