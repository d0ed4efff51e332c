//! Endpoints that change things: flush, deletes, snapshots.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use strandline_query::promql;
use strandline_storage::model::TimeRange;

use crate::app::App;
use crate::auth::Right;
use crate::refusal::{Reason, Refusal};

/// The admin routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/api/v1/admin/flush", post(flush).put(flush))
        .route("/api/v1/admin/tsdb/delete_series", post(delete_series).put(delete_series))
        .route("/api/v1/admin/tsdb/clean_tombstones", post(clean_tombstones).put(clean_tombstones))
        .route("/api/v1/admin/tsdb/snapshot", post(snapshot).put(snapshot))
        .with_state(app)
}

fn json_error(r: &Refusal) -> Response {
    let kind = match r.reason {
        Reason::Invalid => "bad_data",
        Reason::Overloaded | Reason::Unavailable => "unavailable",
        _ => "internal",
    };
    let v = serde_json::json!({ "status": "error", "errorType": kind, "error": r.message });
    (r.status(), r.headers(), [(header::CONTENT_TYPE, "application/json")], v.to_string()).into_response()
}

/// Runs work on a thread of its own for the engine of whoever asks.
async fn run<T: Send + 'static>(
    app: Arc<App>,
    headers: HeaderMap,
    work: impl FnOnce(strandline_storage::Engine) -> strandline_storage::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    app.same_origin(&headers)?;
    tokio::task::spawn_blocking(move || {
        let engine = app.engine(&headers, Right::Admin)?;
        Ok(work(engine)?)
    })
    .await
    .map_err(|e| Refusal::new(Reason::Unavailable, format!("the work ended early: {e}")))?
}

async fn flush(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match run(app, headers, |e| e.flush()).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(r) => json_error(&r),
    }
}

async fn clean_tombstones(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match run(app, headers, |e| e.metrics().clean_tombstones()).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(r) => json_error(&r),
    }
}

async fn snapshot(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match run(app, headers, |e| e.metrics().snapshot()).await {
        Ok(name) => {
            let v = serde_json::json!({ "status": "success", "data": { "name": name } });
            ([(header::CONTENT_TYPE, "application/json")], v.to_string()).into_response()
        }
        Err(r) => json_error(&r),
    }
}

const MAX_FORM: u64 = 2 << 20;

/// `match[]` (at least one), `start`, `end` from query and form alike.
async fn delete_series(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut raw = parts.uri.query().unwrap_or("").to_owned();
    // A form that does not come whole may hold the range: without it more would be deleted than was asked for.
    let form = match crate::body::read(body, MAX_FORM).await {
        Ok(form) => form,
        Err(r) => return json_error(&r),
    };
    if parts.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/x-www-form-urlencoded")) {
        raw.push('&');
        raw.push_str(&String::from_utf8_lossy(&form));
    }
    let done = async {
        let d = parse_delete(&raw)?;
        run(app, parts.headers, move |e| {
            for m in d.sets {
                e.metrics().delete(d.range, m)?;
            }
            Ok(())
        })
        .await
    };
    match done.await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(r) => json_error(&r),
    }
}

struct DeleteRequest {
    sets: Vec<Vec<strandline_storage::model::Matcher>>,
    range: TimeRange,
}

fn parse_delete(raw: &str) -> Result<DeleteRequest, Refusal> {
    let invalid = |e: String| Refusal::new(Reason::Invalid, e);
    let mut d = DeleteRequest { sets: Vec::new(), range: TimeRange::all() };
    for (k, v) in crate::params::pairs(raw) {
        match k.as_str() {
            "match[]" => {
                let s = promql::parse_selector(&v).map_err(|e| invalid(format!("match[]: {e}")))?;
                d.sets.push(s.matchers);
            }
            "start" => d.range.min_ms = crate::params::time_ms(&v).map_err(invalid)?,
            "end" => d.range.max_ms = crate::params::time_ms(&v).map_err(invalid)?,
            _ => {}
        }
    }
    if d.sets.is_empty() {
        return Err(invalid("no match[] parameter provided".into()));
    }
    if d.range.min_ms > d.range.max_ms {
        return Err(invalid("end is before start".into()));
    }
    Ok(d)
}
