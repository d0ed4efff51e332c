//! Chunk segments: `chunks/000001` and so on.

mod reader;
mod writer;

pub use reader::ChunkReader;
pub use writer::ChunkWriter;

/// First four bytes of a segment.
pub const MAGIC: u32 = 0x85bd_40dd;
/// Version byte.
pub const VERSION: u8 = 1;
/// Magic, version, padding.
pub const HEADER_BYTES: usize = 8;
/// A segment is closed before it grows beyond this.
pub const SEGMENT_BYTES: u64 = 512 << 20;

/// `000001` for the first.
pub fn segment_name(i: usize) -> String {
    format!("{:06}", i + 1)
}
