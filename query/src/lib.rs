//! PromQL and TraceQL over the read traits of Strandline's storage.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

#[cfg(feature = "promql")]
pub mod promql;
#[cfg(feature = "traceql")]
pub mod traceql;
