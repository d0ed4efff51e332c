//! Immutable files in a folder or a bucket, whose every read is checked against sums kept apart from the file.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use strandline_wal::fs::FileRead;

use crate::bucket::CachedBucket;
use crate::error::{Error, Result};

/// A sum covers so many bytes.
pub const SUM_BYTES: usize = 64 << 10;

/// CRC32 of each [`SUM_BYTES`] of a file, fed as it is written.
#[derive(Default)]
pub struct Sums {
    done: Vec<u32>,
    hasher: crc32fast::Hasher,
    filled: usize,
}

impl Sums {
    /// Takes further bytes.
    pub fn update(&mut self, mut buf: &[u8]) {
        while !buf.is_empty() {
            let n = (SUM_BYTES - self.filled).min(buf.len());
            self.hasher.update(&buf[..n]);
            self.filled += n;
            buf = &buf[n..];
            if self.filled == SUM_BYTES {
                self.done.push(std::mem::take(&mut self.hasher).finalize());
                self.filled = 0;
            }
        }
    }
    /// The sums of all bytes.
    pub fn finish(mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.done.push(self.hasher.finalize());
        }
        self.done
    }
}

/// Where the bytes are.
pub enum Source {
    /// A local file.
    Local(Arc<dyn FileRead>),
    /// An object.
    Bucket(CachedBucket, String),
}

/// A file with its sums.
pub struct CheckedFile {
    source: Source,
    name: PathBuf,
    len: u64,
    sums: Vec<u32>,
    /// A bit for each part that was found sound: mapped files are checked once.
    sound: Vec<AtomicU64>,
}

impl CheckedFile {
    /// A file of `len` bytes.
    pub fn new(source: Source, name: PathBuf, len: u64, sums: Vec<u32>) -> Result<Self> {
        if sums.len() as u64 != len.div_ceil(SUM_BYTES as u64) {
            return Err(Error::corrupt("the number of checksums does not fit the file's length").at(name));
        }
        if let Source::Local(f) = &source
            && f.len() != len
        {
            return Err(Error::corrupt(format!("the file has {} bytes where {len} were written", f.len())).at(name));
        }
        let sound = (0..sums.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(CheckedFile { source, name, len, sums, sound })
    }
    /// Bytes.
    pub fn size_bytes(&self) -> u64 {
        self.len
    }
    /// What it is called in errors.
    pub fn name(&self) -> &PathBuf {
        &self.name
    }
    /// Whether reads cost a request.
    pub fn is_remote(&self) -> bool {
        matches!(self.source, Source::Bucket(..))
    }

    /// Says what will be read soon, so that waits overlap: for the network, or for the disk while something else is
    /// computed. Failures show when the data is read.
    pub fn prefetch(&self, ranges: &[(u64, usize)]) {
        match &self.source {
            Source::Local(f) => ranges.iter().for_each(|(o, n)| f.will_read(*o, *n)),
            Source::Bucket(b, key) => b.prefetch(key, self.len, ranges),
        }
    }

    fn fetch(&self, offset: u64, len: usize) -> Result<Bytes> {
        match &self.source {
            Source::Local(f) => f.read_at(offset, len).map_err(|e| Error::io("reading a block", &self.name, e).offset(offset)),
            Source::Bucket(b, key) => b.read(key, self.len, offset, len),
        }
    }

    /// Exactly `len` bytes from `offset`, found sound.
    pub fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.checked_add(len as u64).filter(|e| *e <= self.len);
        let Some(end) = end else {
            return Err(Error::corrupt(format!("{len} bytes asked of a file of {}", self.len)).at(&self.name).offset(offset));
        };
        let (first, last) = (offset as usize / SUM_BYTES, (end as usize).div_ceil(SUM_BYTES));
        if (first..last).all(|i| self.sound[i / 64].load(Ordering::Relaxed) >> (i % 64) & 1 == 1) && !self.is_remote() {
            return self.fetch(offset, len);
        }
        let start = (first * SUM_BYTES) as u64;
        let mut whole = self.fetch(start, ((last * SUM_BYTES) as u64).min(self.len).saturating_sub(start) as usize)?;
        let mut checked = self.check(first, &whole);
        if let (Err(_), Source::Bucket(b, key)) = (&checked, &self.source) {
            // What the cache keeps of it may be damaged alone.
            whole = b.read_anew(key, self.len, start, whole.len())?;
            checked = self.check(first, &whole);
        }
        checked?;
        let from = (offset - start) as usize;
        Ok(whole.slice(from..from + len))
    }

    /// Compares bytes with their sums, from the `first`th on.
    fn check(&self, first: usize, whole: &[u8]) -> Result<()> {
        for (i, part) in (first..).zip(whole.chunks(SUM_BYTES)) {
            if crc32fast::hash(part) != self.sums[i] {
                let what = "the block is damaged: its bytes do not fit their checksum";
                return Err(Error::corrupt(what).at(&self.name).offset((i * SUM_BYTES) as u64));
            }
            self.sound[i / 64].fetch_or(1 << (i % 64), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A part of a file in memory, addressed by the file's offsets.
#[derive(Clone)]
pub struct Part {
    /// Offset of its first byte.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Bytes,
    /// Length of the whole file.
    pub file_len: u64,
}

impl Part {
    /// Bytes from an offset of the file; to the end of the part, if no length is given.
    pub fn slice(&self, start: u64, len: Option<usize>) -> std::result::Result<Bytes, ParquetError> {
        let from = start.checked_sub(self.offset).map(|f| f as usize).filter(|f| *f <= self.bytes.len());
        let end = |from: usize| len.map_or(Some(self.bytes.len()), |n| from.checked_add(n)).filter(|e| *e <= self.bytes.len());
        match from.and_then(|f| end(f).map(|e| f..e)) {
            Some(r) => Ok(self.bytes.slice(r)),
            None => Err(ParquetError::EOF(format!("offset {start} lies outside the part that was read"))),
        }
    }
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.file_len
    }
}

impl ChunkReader for Part {
    type T = PartReader;
    fn get_read(&self, start: u64) -> std::result::Result<PartReader, ParquetError> {
        Ok(PartReader(self.slice(start, None)?))
    }
    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        self.slice(start, Some(length))
    }
}

/// Reads a [`Part`] from front to back.
pub struct PartReader(Bytes);

impl Read for PartReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.remaining().min(buf.len());
        self.0.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use strandline_wal::fs::{Fs, SimFs};

    #[test]
    fn a_flipped_bit_is_found_where_it_is_read() {
        let fs = SimFs::new();
        let path = Path::new("/f");
        let content: Vec<u8> = (0..3 * SUM_BYTES + 5).map(|i| (i * 7) as u8).collect();
        let mut sums = Sums::default();
        content.chunks(1000).for_each(|c| sums.update(c));
        let sums = sums.finish();
        assert_eq!(sums.len(), 4);
        fs.create(path).unwrap().write_all(&content).unwrap();
        let open = || CheckedFile::new(Source::Local(fs.open(path).unwrap()), path.into(), content.len() as u64, sums.clone()).unwrap();
        assert_eq!(open().read(SUM_BYTES as u64 - 3, 10).unwrap(), content[SUM_BYTES - 3..SUM_BYTES + 7]);
        fs.flip_bit(path, 2 * SUM_BYTES as u64 + 9, 3);
        let f = open();
        assert!(f.read(0, 2 * SUM_BYTES).is_ok());
        let e = f.read(2 * SUM_BYTES as u64, 1).unwrap_err();
        assert!(e.to_string().contains("damaged") && e.kind == crate::ErrorKind::Corrupt, "{e}");
        assert!(f.read(3 * SUM_BYTES as u64, 6).is_err(), "beyond the end");
    }
}
