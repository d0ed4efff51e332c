//! Strandline: one engine for metrics and traces, to embed.
//!
//! A [`Db`] is a folder: an append-only log, a compact head in memory, immutable blocks in a bucket (a folder below
//! it, unless told otherwise). What an append acknowledged survives a crash at any byte.
//!
//! ```
//! # #[cfg(feature = "promql")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use strandline::{Db, Labels};
//!
//! let dir = std::env::temp_dir().join(format!("strandline-doc-{}", std::process::id()));
//! let db = Db::open(&dir)?;
//! let now_ms = db.now_ms();
//! let series = Labels::from_pairs([("__name__", "requests_total"), ("job", "shop")]);
//! let mut batch = db.batch();
//! for i in 0..=60 {
//!     batch.sample(&series, now_ms - (60 - i) * 1_000, (10 * i) as f64);
//! }
//! batch.commit()?; // on disk from here on
//! let result = db.query("rate(requests_total[1m])", now_ms)?;
//! assert_eq!(result.value.len(), 1);
//! db.close()?;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "promql"))]
//! # fn main() {}
//! ```
//!
//! Everything blocks the calling thread, works inside and outside of any runtime, and takes nothing from the process:
//! no logger, allocator, signal handler or environment variable.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod batch;
mod builder;
mod db;

pub use batch::{Batch, Committed};
pub use builder::Builder;
pub use db::Db;

#[cfg(feature = "promql")]
pub use strandline_query::promql;
#[cfg(feature = "traceql")]
pub use strandline_query::traceql;
pub use strandline_storage as storage;
pub use strandline_storage::model::{Labels, LabelsBuilder, MatchOp, Matcher, Sample, TimeRange};
pub use strandline_storage::{Error, ErrorKind, Result};
