//! The metric store: head, blocks, compaction.
//!
//! [`MetricStore`] is the door. Readers hold one [`version::Version`]: the head as of a flush, and a list of blocks,
//! swapped together, so that no flush or compaction shows a gap or a double.

pub mod block;
pub mod compact;
mod deletes;
mod flush;
pub mod head;
mod import;
mod join;
mod manifest;
mod mend;
mod merge;
mod options;
mod record;
mod remote;
mod selection;
mod store;
mod upkeep;
mod version;
mod writer;

pub use deletes::{Delete, DeleteSpec};
pub use import::Imported;
pub use options::MetricOptions;
pub use selection::MetricSelection;
pub use store::{MetricStore, ReplayProgress, StoreStats};
pub use version::{BlockEntry, Place};
