//! OTLP: decoding, translation, and the two transports.

pub(crate) mod attributes;
pub(crate) mod grpc;
mod grpc_snappy;
pub(crate) mod http;
pub(crate) mod ingest;
pub mod json;
pub mod metrics;
pub mod names;
#[cfg(test)]
mod tests;
pub(crate) mod writers;

pub use metrics::Translation;
