//! The query APIs over the tenants' stores.

use std::sync::Arc;

use axum::Router;

use crate::app::App;

/// Prometheus' and Tempo's query APIs.
pub fn router(app: &Arc<App>) -> Router {
    let _ = app;
    Router::new()
}
