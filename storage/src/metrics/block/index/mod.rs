//! The index file, version 2. Source: tsdb/docs/format/index.md of Prometheus.

mod reader;
mod writer;

pub use reader::{ChunkMeta, IndexReader, SeriesEntry};
pub use writer::{IndexWriter, SymbolTable};

pub(crate) const MAGIC: u32 = 0xbaaa_d700;
pub(crate) const VERSION: u8 = 2;
pub(crate) const TOC_BYTES: usize = 6 * 8 + 4;
