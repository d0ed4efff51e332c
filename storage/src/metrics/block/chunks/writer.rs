//! Writes chunks one behind another and tells their references.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::fs::{FileWrite, Fs};

use super::{HEADER_BYTES, MAGIC, SEGMENT_BYTES, VERSION, segment_name};
use crate::chunk::Encoding;
use crate::codec::{crc32c_of, put_be_u32, put_uvarint};
use crate::error::{Error, Result};

/// Segments under construction.
pub struct ChunkWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: Option<Box<dyn FileWrite>>,
    buf: Vec<u8>,
    segment: usize,
    offset: u64,
    segment_bytes: u64,
    sizes: Vec<(String, u64)>,
}

const BUFFER: usize = 256 << 10;

impl ChunkWriter {
    /// Writes into the folder `dir`, which exists.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path) -> Self {
        ChunkWriter {
            fs,
            dir: dir.to_owned(),
            file: None,
            buf: Vec::new(),
            segment: 0,
            offset: 0,
            segment_bytes: SEGMENT_BYTES,
            sizes: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(segment_name(self.segment))
    }

    /// Appends a chunk; gives its reference.
    pub fn write(&mut self, encoding: Encoding, data: &[u8]) -> Result<u64> {
        let need = data.len() as u64 + 16;
        if self.file.is_some() && self.offset + need > self.segment_bytes {
            self.close_segment()?;
            self.segment += 1;
        }
        if self.file.is_none() {
            let path = self.path();
            self.file = Some(self.fs.create(&path).map_err(|e| Error::io("creating a chunk segment", &path, e))?);
            put_be_u32(&mut self.buf, MAGIC);
            self.buf.extend_from_slice(&[VERSION, 0, 0, 0]);
            self.offset = HEADER_BYTES as u64;
        }
        let before = self.buf.len();
        put_uvarint(&mut self.buf, data.len() as u64);
        self.buf.push(encoding as u8);
        self.buf.extend_from_slice(data);
        let crc = crc32c_of(&[encoding as u8], data);
        put_be_u32(&mut self.buf, crc);
        let reference = (self.segment as u64) << 32 | self.offset;
        self.offset += (self.buf.len() - before) as u64;
        if self.buf.len() >= BUFFER {
            self.write_out()?;
        }
        Ok(reference)
    }

    fn write_out(&mut self) -> Result<()> {
        let path = self.path();
        if let Some(f) = &mut self.file {
            f.write_all(&self.buf).map_err(|e| Error::io("writing a chunk segment", &path, e))?;
        }
        self.buf.clear();
        Ok(())
    }

    fn close_segment(&mut self) -> Result<()> {
        self.write_out()?;
        let path = self.path();
        if let Some(mut f) = self.file.take() {
            f.sync().map_err(|e| Error::io("syncing a chunk segment", &path, e))?;
            self.sizes.push((segment_name(self.segment), self.offset));
        }
        Ok(())
    }

    /// Syncs everything; gives names and sizes of the segments.
    pub fn finish(mut self) -> Result<Vec<(String, u64)>> {
        self.close_segment()?;
        self.fs.sync_dir(&self.dir).map_err(|e| Error::io("syncing the chunk folder", &self.dir, e))?;
        Ok(self.sizes)
    }
}
