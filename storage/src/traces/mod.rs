//! The span store: WAL, live spans, Parquet blocks.

pub mod block;
pub mod otlp;
