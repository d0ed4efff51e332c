//! Blocks: Prometheus TSDB blocks with Thanos' metadata.

pub mod chunks;
mod endings;
pub mod index;
mod meta;
mod reader;
mod source;
mod tombstones;
mod writer;

pub(crate) use endings::{Ending, Endings};
pub use meta::{BlockMeta, BlockStats, Compaction, ParentBlock, StrandlineMeta, ThanosFile, ThanosMeta};
pub use reader::{Block, BlockSelection};
pub use source::{LocalSource, RangeRead};
pub use tombstones::{Tombstones, decode as decode_tombstones, encode as encode_tombstones};
pub use writer::BlockWriter;

/// File names in a block.
pub const META: &str = "meta.json";
/// The index.
pub const INDEX: &str = "index";
/// The folder of chunk segments.
pub const CHUNKS: &str = "chunks";
/// Deletes that are not applied yet.
pub const TOMBSTONES: &str = "tombstones";

/// Takes deleted stretches out of the samples from the `from`th on.
pub(crate) fn remove_ranges(out: &mut crate::read::SampleBuf, from: usize, gone: &[crate::model::TimeRange]) {
    if !gone.is_empty() {
        reader::remove(out, from, gone);
    }
}
