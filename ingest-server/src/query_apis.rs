//! The query APIs over the tenants' stores.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use strandline_storage::clock::SystemClock;
use strandline_storage::read::SpanSource;

use crate::app::App;
use crate::auth::Right;
use crate::gate::Gate;
use crate::prometheus;
use crate::tempo::{self, TempoError, TempoState};

/// Prometheus' and Tempo's query APIs.
pub fn router(app: &Arc<App>) -> Router {
    let tempo = tempo_state(app.clone());
    let prometheus = prometheus::router(prometheus::state_of(app));
    Router::new().merge(prometheus).merge(tempo::streaming_routes(tempo.clone())).merge(tempo::router(tempo))
}

/// Memory that a query over spans may need, what it answers included: no more of them run at once than this goes into
/// `memory_limit`.
const TRACEQL_BYTES: u64 = 96 << 20;

fn tempo_state(app: Arc<App>) -> TempoState {
    let (limit, at_most) = (app.memory_limit, app.config.query_concurrency);
    let timeout = Duration::from_millis(app.config.query_timeout_ms.max(1) as u64);
    let source = move |headers: &HeaderMap| -> Result<Arc<dyn SpanSource>, TempoError> {
        let engine = app.engine(headers, Right::Read).map_err(|r| TempoError::new(r.status(), r.message))?;
        Ok(Arc::new(engine.traces().clone()))
    };
    let mut state = TempoState::new(Arc::new(source), Arc::new(SystemClock));
    state.timeout = timeout;
    state.gate = Gate::new(at_most.min(limit / TRACEQL_BYTES) as usize);
    // A sample takes some 45 bytes as JSON.
    state.max_cells = (limit / 4 / 48).clamp(500_000, 10_000_000) as usize;
    state.max_search_bytes = (limit / 8).clamp(8 << 20, 256 << 20) as usize;
    state
}
