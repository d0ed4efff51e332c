//! From a request to an answer written on a blocking thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use strandline_query::promql::QueryOptions;
use strandline_storage::read::SeriesSource;
use tokio::sync::oneshot;

use super::PromState;
use super::answer::{ApiError, Out, Packing};
use super::params::Params;
use crate::body;

/// A request being answered.
pub struct Call {
    /// The API.
    pub state: PromState,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its parameters.
    pub params: Params,
    /// Its body, unless it is a form.
    pub body: Bytes,
    /// Set once the client is gone.
    pub cancel: Arc<AtomicBool>,
    /// When it came.
    pub came: Instant,
    /// How long it waited for its turn.
    pub waited: Duration,
}

impl Call {
    /// The store of whoever asks.
    pub fn source(&self) -> Result<Arc<dyn SeriesSource>, ApiError> {
        Ok(self.state.options().stores.source(&self.headers)?)
    }

    /// What is left of the time the query may take, and its other settings.
    pub fn query_options(&self) -> Result<QueryOptions, ApiError> {
        let whole = self.params.timeout()?.map_or(self.state.timeout(), |t| t.min(self.state.timeout()));
        let mut o = QueryOptions::default();
        o.lookback_ms = self.params.lookback_ms()?;
        o.timeout = Some(whole.saturating_sub(self.waited));
        o.cancel = Some(self.cancel.clone());
        o.partial = self.params.partial();
        o.count_steps = self.params.get("stats").is_some_and(|s| !s.is_empty());
        Ok(o)
    }

    /// Ends work for a client that is gone.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(ApiError::of_query(strandline_query::promql::Error::Canceled, "query"));
        }
        if self.came.elapsed() > self.state.timeout() {
            return Err(ApiError::timeout("the request took longer than queries may"));
        }
        Ok(())
    }
}

/// How a request is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// At once.
    Light,
    /// After waiting at the gate.
    Heavy,
    /// After waiting at the gate; errors are plain text.
    HeavyPlain,
}

/// Tells the evaluation when the future that waits for it is dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads the request and lets `work` write the answer.
pub async fn run<F>(state: PromState, request: Request, manner: Manner, work: F) -> Response
where
    F: FnOnce(&Call, &mut Out) -> Result<(), ApiError> + Send + 'static,
{
    let said = move |e: ApiError| if manner == Manner::HeavyPlain { e.into_plain() } else { e.into_response() };
    match begin(state, request, manner, work, said).await {
        Ok(r) => r,
        Err(e) => said(e),
    }
}

async fn begin<F>(
    state: PromState,
    request: Request,
    manner: Manner,
    work: F,
    said: impl Fn(ApiError) -> Response + Send + 'static,
) -> Result<Response, ApiError>
where
    F: FnOnce(&Call, &mut Out) -> Result<(), ApiError> + Send + 'static,
{
    let came = Instant::now();
    let (parts, raw) = request.into_parts();
    let body = body::read(raw, state.options().max_body_bytes).await?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let is_form = kind.starts_with("application/x-www-form-urlencoded");
    let form = if is_form { String::from_utf8_lossy(&body).into_owned() } else { String::new() };
    let params = Params::new(&form, parts.uri.query().unwrap_or(""));
    let permit = if manner == Manner::Light {
        None
    } else {
        let tenant = parts.headers.get("x-scope-orgid").and_then(|v| v.to_str().ok()).unwrap_or("");
        let patience = params.timeout()?.map_or(state.timeout(), |t| t.min(state.timeout()));
        let entered = tokio::time::timeout(patience, state.0.gate.enter(tenant)).await;
        Some(entered.map_err(|_| ApiError::timeout("query timed out in query queue"))?)
    };
    let cancel = Arc::new(AtomicBool::new(false));
    let gone = OnDrop(cancel.clone());
    let (begun, response) = oneshot::channel();
    let mut out = Out::new(Packing::accepted(&parts.headers), "application/json", begun);
    let call = Call { state, headers: parts.headers, params, body, cancel, came, waited: came.elapsed() };
    tokio::task::spawn_blocking(move || {
        match work(&call, &mut out) {
            // A client that left while the body was written needs no answer.
            Ok(()) => drop(out.finish()),
            Err(e) => out.fail(said(e)),
        }
        drop(permit);
    });
    let response = response.await.map_err(|_| ApiError::internal("the evaluation ended without an answer"))?;
    if response.body().size_hint().exact().is_some() {
        return Ok(response);
    }
    // The rest is still being written: the client is there as long as the body is.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _kept = &gone;
            frame
        }))
    }))
}
