//! The query APIs over the tenants' stores.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use strandline_storage::clock::SystemClock;
use strandline_storage::read::SpanSource;

use crate::app::App;
use crate::auth::Right;
use crate::prometheus;
use crate::tempo::{self, TempoError, TempoState};

/// Prometheus' and Tempo's query APIs.
pub fn router(app: &Arc<App>) -> Router {
    let tempo = tempo_state(app.clone());
    let prometheus = prometheus::router(prometheus::state_of(app));
    Router::new().merge(prometheus).merge(tempo::streaming_routes(tempo.clone())).merge(tempo::router(tempo))
}

fn tempo_state(app: Arc<App>) -> TempoState {
    let source = move |headers: &HeaderMap| -> Result<Arc<dyn SpanSource>, TempoError> {
        let engine = app.engine(headers, Right::Read).map_err(|r| TempoError::new(r.status(), r.message))?;
        Ok(Arc::new(engine.traces().clone()))
    };
    TempoState::new(Arc::new(source), Arc::new(SystemClock))
}
