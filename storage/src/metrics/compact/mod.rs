//! Compaction and retention: planned by pure functions, acted out by others.

pub mod plan;
mod run;

pub use plan::{PlanBlock, Ranges, Step, compaction, retention};
pub(in crate::metrics) use run::Source;
