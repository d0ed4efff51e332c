//! The span store: WAL, live spans, Parquet blocks.

pub mod block;
mod blocks;
mod compact;
mod flush;
mod keys;
pub mod limits;
mod live;
mod live_batch;
mod maintain;
mod manifest;
mod merged;
mod options;
pub mod otlp;
pub mod record;
mod scan;
mod shared;
mod store;
mod together;

pub use blocks::BlockHandle;
pub use limits::SpanLimits;
pub use options::TraceStoreOptions;
pub use store::{AppendTicket, SpanAppend, TraceStore};

#[cfg(test)]
mod tests;
