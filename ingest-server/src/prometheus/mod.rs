//! Prometheus' HTTP API over the tenants' stores: queries, metadata, remote read, federation, and the pages that
//! Grafana and Prometheus' own UI look for.
//!
//! A query waits at a gate for its turn, runs on a blocking thread, and stops when its client goes away. Its answer is
//! written straight into bytes and leaves in pieces.

pub(crate) mod answer;
mod escaping;
mod federate;
mod federate_proto;
mod json;
mod metadata;
mod params;
mod query;
mod remote_read;
mod run;
mod status;
mod stores;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use strandline_query::promql::Engine;
use strandline_storage::clock::Clock;
use strandline_storage::read::SeriesSource;

use crate::gate::Gate;
use crate::refusal::Refusal;
use crate::scrape::ScrapeTarget;
pub use stores::state_of;

/// Whose data a request is about.
pub trait Stores: Send + Sync + 'static {
    /// The store of whoever asks. May block, and may refuse.
    fn source(&self, headers: &HeaderMap) -> Result<Arc<dyn SeriesSource>, Refusal>;

    /// Numbers about that store; the longest `top` of each list.
    fn numbers(&self, headers: &HeaderMap, top: usize) -> Result<StoreNumbers, Refusal> {
        let _ = (headers, top);
        Ok(StoreNumbers::default())
    }

    /// Whether who asks may read.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let _ = headers;
        Ok(())
    }

    /// What is scraped.
    fn targets(&self) -> Vec<ScrapeTarget> {
        Vec::new()
    }
}

/// What `status/tsdb` shows; lists with the largest first.
#[derive(Clone, Debug, Default)]
pub struct StoreNumbers {
    /// Series in memory.
    pub series: u64,
    /// Different label pairs.
    pub label_pairs: u64,
    /// Chunks in memory.
    pub chunks: u64,
    /// Time of the oldest sample in memory, Unix milliseconds.
    pub min_time_ms: i64,
    /// Time of the newest.
    pub max_time_ms: i64,
    /// Series by metric name.
    pub series_by_metric: Vec<(String, u64)>,
    /// Values by label name.
    pub values_by_label: Vec<(String, u64)>,
    /// Bytes of a label's values, counted once a series.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Series by `name=value`.
    pub series_by_pair: Vec<(String, u64)>,
}

/// What the API needs around it.
pub struct PromOptions {
    /// Where data is.
    pub stores: Arc<dyn Stores>,
    /// Evaluates queries.
    pub engine: Engine,
    /// What is now.
    pub clock: Arc<dyn Clock>,
    /// Queries that run at once.
    pub concurrency: usize,
    /// When the process began, Unix milliseconds.
    pub started_ms: i64,
    /// The configuration in use, as `status/config` shows it.
    pub config: String,
    /// Options and their values, as `status/flags` shows them.
    pub flags: Vec<(String, String)>,
    /// How long samples are kept, in words.
    pub retention: String,
    /// Largest body of a request.
    pub max_body_bytes: u64,
}

/// The API's state; cheap to clone.
#[derive(Clone)]
pub struct PromState(Arc<Inner>);

struct Inner {
    options: PromOptions,
    gate: Arc<Gate>,
}

impl PromState {
    /// State over its surroundings.
    pub fn new(options: PromOptions) -> Self {
        let gate = Gate::new(options.concurrency);
        PromState(Arc::new(Inner { options, gate }))
    }

    fn options(&self) -> &PromOptions {
        &self.0.options
    }

    fn timeout(&self) -> Duration {
        self.0.options.engine.options().timeout
    }
}

/// All endpoints below `/api/v1` that read, and `/federate`.
pub fn router(state: PromState) -> Router {
    let api = Router::new()
        .route("/query", get(query::instant).post(query::instant))
        .route("/query_range", get(query::range).post(query::range))
        .route("/query_exemplars", get(metadata::exemplars).post(metadata::exemplars))
        .route("/format_query", get(query::format).post(query::format))
        .route("/parse_query", get(query::tree).post(query::tree))
        .route("/series", get(metadata::series).post(metadata::series))
        .route("/labels", get(metadata::label_names).post(metadata::label_names))
        .route("/label/{name}/values", get(metadata::label_values))
        .route("/metadata", get(metadata::families))
        .route("/read", post(remote_read::read))
        .route("/rules", get(status::rules))
        .route("/alerts", get(status::alerts))
        .route("/targets", get(status::targets))
        .route("/scrape_pools", get(status::scrape_pools))
        .route("/targets/metadata", get(status::nothing))
        .route("/alertmanagers", get(status::alertmanagers))
        .route("/notifications", get(status::nothing))
        .route("/notifications/live", get(status::no_content))
        .route("/features", get(status::features))
        .route("/status/buildinfo", get(status::build))
        .route("/status/config", get(status::config))
        .route("/status/flags", get(status::flags))
        .route("/status/runtimeinfo", get(status::runtime))
        .route("/status/walreplay", get(status::replay))
        .route("/status/tsdb", get(status::store))
        .route("/status/tsdb/blocks", get(status::blocks));
    Router::new().nest("/api/v1", api).route("/federate", get(federate::federate)).with_state(state)
}
