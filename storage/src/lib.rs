//! Metric and span storage of Strandline.
//!
//! One write path (WAL, then head, then immutable blocks in a bucket) and one read contract ([`read`]).
#![warn(missing_docs)]

pub mod bucket;
pub mod chunk;
pub mod clock;
pub mod codec;
#[cfg(feature = "traces")]
pub mod columnar;
pub mod engine;
pub mod error;
pub mod index;
pub mod metrics;
pub mod model;
pub mod read;
mod sealed;
#[cfg(feature = "traces")]
pub mod traces;

pub use engine::{Engine, EngineOptions};
pub use error::{Error, ErrorKind, Result};
