//! `meta.json`: what a reader needs to know of a block before opening its file.

use serde::{Deserialize, Serialize};

use super::schema::FORMAT_VERSION;
use crate::error::{Error, ErrorKind, Result};

/// Name of the data file in a block's folder.
pub const SPANS_FILE: &str = "spans.parquet";
/// Name of the description; written last, removed first.
pub const META_FILE: &str = "meta.json";
/// Name of the mark of a block that is to be removed.
pub const DELETION_MARK_FILE: &str = "deletion-mark.json";

/// A block's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMeta {
    /// Of the format; readers refuse newer ones.
    pub version: u32,
    /// The block's name.
    pub ulid: String,
    /// Whose spans.
    pub tenant: String,
    /// The process that compacts and deletes it.
    pub writer_id: String,
    /// Start of the aligned window that all its spans start in, Unix milliseconds.
    pub window_start_ms: i64,
    /// Length of the window.
    pub window_ms: i64,
    /// First start of a span, Unix nanoseconds.
    pub min_start_unix_nano: u64,
    /// Last start of a span.
    pub max_start_unix_nano: u64,
    /// Last end of a span.
    pub max_end_unix_nano: u64,
    /// Number of spans.
    pub spans: u64,
    /// Number of traces.
    pub traces: u64,
    /// Bytes of the data file.
    pub size_bytes: u64,
    /// Where bloom filters, page indexes and the footer begin: one read from here to the end opens the block.
    pub tail_offset: u64,
    /// How often its spans were merged: 0 as flushed.
    pub level: u32,
    /// Blocks whose spans it holds, if it was merged from them: they count no longer.
    pub sources: Vec<String>,
    /// CRC32 of each 64 KiB of the data file, eight hex digits each.
    pub checksums: String,
}

impl BlockMeta {
    /// Reads a description.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let v: Version = crate::sealed::from_json(json)?;
        if v.version > FORMAT_VERSION {
            let text = format!("a block of format {}; this version reads up to {FORMAT_VERSION}", v.version);
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        crate::sealed::from_json(json)
    }
    /// The description as it is written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        crate::sealed::to_json(self)
    }
    /// Sums of the data file.
    pub fn sums(&self) -> Result<Vec<u32>> {
        let chunks = self.checksums.as_bytes().chunks(8);
        let parse = |c: &[u8]| std::str::from_utf8(c).ok().filter(|s| s.len() == 8).and_then(|s| u32::from_str_radix(s, 16).ok());
        chunks.map(|c| parse(c).ok_or_else(|| Error::corrupt(format!("damaged checksums in {META_FILE}")))).collect()
    }
    /// Whether a span could lie in the inclusive range of Unix nanoseconds.
    pub fn overlaps(&self, min: u64, max: u64) -> bool {
        self.min_start_unix_nano <= max && self.max_end_unix_nano.max(self.max_start_unix_nano) >= min
    }
}

/// Sums as `meta.json` holds them.
pub fn sums_to_text(sums: &[u32]) -> String {
    sums.iter().map(|s| format!("{s:08x}")).collect()
}
