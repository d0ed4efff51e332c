//! Bytes of a block's file by range, wherever it lies.

use std::sync::Arc;

use bytes::Bytes;
use strandline_wal::fs::FileRead;

use crate::error::{Error, ErrorKind, Result};

/// Gives exactly so many bytes from an offset.
pub type Read<'a> = dyn Fn(u64, usize) -> Result<Bytes> + 'a;

/// A file that is read by ranges.
pub trait RangeRead: Send + Sync {
    /// Bytes in all.
    fn len(&self) -> u64;
    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Exactly `len` bytes from `offset`.
    fn read(&self, offset: u64, len: usize) -> Result<Bytes>;
    /// Whether a cache lies between.
    fn is_cached(&self) -> bool {
        false
    }
    /// The same past the cache, which keeps what comes now.
    fn read_anew(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.read(offset, len)
    }
    /// The whole file as memory, if it is mapped.
    fn mapped(&self) -> Option<&[u8]> {
        None
    }
    /// These ranges are about to be read; fetch them together if that helps.
    fn prefetch(&self, ranges: &[(u64, usize)]) {
        let _ = ranges;
    }
    /// A name for errors.
    fn name(&self) -> String;
}

/// What `parse` makes of the bytes that it reads of a file. If it finds them damaged and they lie in a cache, they are read from
/// where they come from: what is kept of them may be damaged alone.
pub fn sound<T>(source: &dyn RangeRead, mut parse: impl FnMut(&Read<'_>) -> Result<T>) -> Result<T> {
    match parse(&|offset, len| source.read(offset, len)) {
        Err(e) if e.kind == ErrorKind::Corrupt && source.is_cached() => parse(&|offset, len| source.read_anew(offset, len)),
        found => found,
    }
}

/// A local file.
pub struct LocalSource {
    file: Arc<dyn FileRead>,
    name: String,
}

impl LocalSource {
    /// Wraps an open file.
    pub fn new(file: Arc<dyn FileRead>, name: String) -> Self {
        LocalSource { file, name }
    }
}

impl RangeRead for LocalSource {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.file.read_at(offset, len).map_err(|e| Error::io("reading a block", &self.name, e).offset(offset))
    }
    fn mapped(&self) -> Option<&[u8]> {
        self.file.mapped()
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}
