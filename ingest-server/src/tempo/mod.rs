//! The Tempo HTTP and gRPC API, as Grafana's Tempo data source and Traces Drilldown speak it.

mod error;
mod grpc;
mod http;
mod json;
mod metrics;
mod params;
mod proto;
pub mod search;
mod tags;
mod trace;
mod watched;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use strandline_storage::clock::Clock;
use strandline_storage::read::SpanSource;

use crate::gate::Gate;

pub use error::TempoError;
pub use grpc::streaming_routes;

/// Gives the span store that a request's headers (the tenant among them) lead to.
pub type SourceOf = Arc<dyn Fn(&HeaderMap) -> Result<Arc<dyn SpanSource>, TempoError> + Send + Sync>;

/// What the API needs of the server. Cheap to clone.
#[derive(Clone)]
pub struct TempoState {
    /// The span store of a request.
    pub source: SourceOf,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How long a trace may last: so far beyond a query's range its spans are looked for.
    pub max_trace_nano: u64,
    /// Series of a metrics query at most.
    pub max_series: usize,
    /// Samples of all its series at most.
    pub max_cells: usize,
    /// What the traces that a search shows may take in memory.
    pub max_search_bytes: usize,
    /// How long a query may take, its wait for its turn included.
    pub timeout: Duration,
    /// How many queries run at once.
    pub gate: Arc<Gate>,
    /// Version told by `/api/status/buildinfo`.
    pub version: &'static str,
}

impl TempoState {
    /// With default limits.
    pub fn new(source: SourceOf, clock: Arc<dyn Clock>) -> Self {
        TempoState {
            source,
            clock,
            max_trace_nano: 3_600_000_000_000,
            max_series: 10_000,
            max_cells: 10_000_000,
            max_search_bytes: 256 << 20,
            timeout: Duration::from_secs(120),
            gate: Gate::new(16),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// The HTTP routes, to be merged into the server's. gRPC comes by [`streaming_routes`].
pub fn router(state: TempoState) -> Router {
    Router::new()
        .route("/api/echo", get(http::echo))
        .route("/api/status/buildinfo", get(http::build_info))
        .route("/api/traces/{id}", get(trace::v1))
        .route("/api/v2/traces/{id}", get(trace::v2))
        .route("/api/search", get(search::search))
        .route("/api/search/tags", get(tags::names_v1))
        .route("/api/v2/search/tags", get(tags::names_v2))
        .route("/api/search/tag/{tag}/values", get(tags::values_v1))
        .route("/api/v2/search/tag/{tag}/values", get(tags::values_v2))
        .route("/api/metrics/query_range", get(metrics::query_range))
        .route("/api/metrics/query", get(metrics::query))
        .with_state(state)
}
