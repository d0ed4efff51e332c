//! A database: an engine with its query languages attached.

use std::path::PathBuf;
use std::sync::Arc;

use strandline_storage::clock::Clock;
use strandline_storage::metrics::MetricStore;
use strandline_storage::{Engine, Result};

use crate::{Batch, Builder};

/// An open database. Clones are handles to the same one.
#[derive(Clone)]
pub struct Db {
    engine: Engine,
    clock: Arc<dyn Clock>,
    #[cfg(feature = "promql")]
    promql: Arc<strandline_query::promql::Engine>,
}

impl Db {
    /// Opens (or creates) a database in a folder, with defaults.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Db> {
        Builder::new(dir).open()
    }

    /// Options first.
    pub fn builder(dir: impl Into<PathBuf>) -> Builder {
        Builder::new(dir)
    }

    pub(crate) fn from_engine(engine: Engine, clock: Arc<dyn Clock>) -> Db {
        Db {
            engine,
            clock,
            #[cfg(feature = "promql")]
            promql: Arc::new(strandline_query::promql::Engine::new(strandline_query::promql::EngineOptions::default())),
        }
    }

    /// Unix milliseconds by the database's clock.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// A batch of samples to commit together.
    pub fn batch(&self) -> Batch {
        Batch::new(self.engine.metrics().clone())
    }

    /// The metric store: handles, batches with per-item results, tickets, `SeriesSource`.
    pub fn metrics(&self) -> &MetricStore {
        self.engine.metrics()
    }

    /// The span store.
    #[cfg(feature = "traces")]
    pub fn traces(&self) -> &strandline_storage::traces::TraceStore {
        self.engine.traces()
    }

    /// Evaluates PromQL at one time. Costs what the query reads; blocks the thread.
    #[cfg(feature = "promql")]
    pub fn query(&self, query: &str, time_ms: i64) -> Result<strandline_query::promql::QueryResult, strandline_query::promql::Error> {
        self.promql.instant(self.metrics(), query, time_ms, &Default::default())
    }

    /// Evaluates PromQL at every step from `start_ms` to `end_ms`.
    #[cfg(feature = "promql")]
    pub fn query_range(
        &self,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
    ) -> Result<strandline_query::promql::QueryResult, strandline_query::promql::Error> {
        self.promql.range(self.metrics(), query, start_ms, end_ms, step_ms, &Default::default())
    }

    /// Cuts everything in memory to blocks and puts them into the bucket.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    /// One turn of upkeep, for databases without background threads.
    pub fn maintain(&self) -> Result<()> {
        self.engine.maintain()
    }

    /// Makes everything durable and lets go of the folder. Never waits for the network.
    pub fn close(self) -> Result<()> {
        self.engine.close()
    }
}
