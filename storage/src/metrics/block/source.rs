//! Bytes of a block's file by range, wherever it lies.

use std::sync::Arc;

use bytes::Bytes;
use strandline_wal::fs::FileRead;

use crate::error::{Error, Result};

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
