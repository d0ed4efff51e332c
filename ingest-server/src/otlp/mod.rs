//! OTLP: decoding, translation, and the two transports.

pub mod attributes;
pub mod grpc;
pub mod http;
pub(crate) mod ingest;
pub mod json;
pub mod metrics;
pub mod names;
#[cfg(test)]
mod tests;
pub mod writers;

pub use ingest::{Outcome, logs, metrics as ingest_metrics, traces};
pub use metrics::Translation;
