//! Reads chunks by reference, checking each one's checksum.

use std::sync::Arc;

use bytes::Bytes;

use super::super::source::{RangeRead, Read, sound};
use super::{HEADER_BYTES, MAGIC};
use crate::chunk::Encoding;
use crate::codec::{Reader, crc32c};
use crate::error::{Error, Result};

/// The segments of a block.
#[derive(Clone)]
pub struct ChunkReader {
    segments: Vec<Arc<dyn RangeRead>>,
}

/// No chunk that we or Prometheus wrote is larger.
const MAX_CHUNK_BYTES: usize = 8 << 20;

impl ChunkReader {
    /// Over open segments, in order.
    pub fn new(segments: Vec<Arc<dyn RangeRead>>) -> Self {
        ChunkReader { segments }
    }

    /// Checks the headers of all segments.
    pub fn check_headers(&self) -> Result<()> {
        for s in &self.segments {
            sound(&**s, |read| match Reader::new(&read(0, HEADER_BYTES)?).be_u32()? {
                MAGIC => Ok(()),
                _ => Err(Error::corrupt("not a chunk segment: the magic number is wrong").at(s.name())),
            })?;
        }
        Ok(())
    }

    fn segment(&self, reference: u64) -> Result<(&Arc<dyn RangeRead>, u64)> {
        let i = (reference >> 32) as usize;
        let s = self
            .segments
            .get(i)
            .ok_or_else(|| Error::corrupt(format!("chunk reference to segment {} of {}", i + 1, self.segments.len())))?;
        Ok((s, reference & 0xffff_ffff))
    }

    /// Calls `f` with the encoding and data of a chunk; `hint` is about its size in bytes.
    pub fn with<R>(&self, reference: u64, hint: usize, f: impl FnOnce(Encoding, &[u8]) -> Result<R>) -> Result<R> {
        let (s, offset) = self.segment(reference)?;
        let damaged = |what: &str| Error::corrupt(format!("chunk: {what}")).at(s.name()).offset(offset);
        let left = s.len().saturating_sub(offset);
        if let Some(all) = s.mapped() {
            let tail = all.get(offset as usize..).ok_or_else(|| damaged("reference behind the end"))?;
            let (encoding, data) = parse(tail).map_err(|e| e.at(s.name()).offset(offset))?;
            return f(encoding, data);
        }
        let (encoding, data) = sound(&**s, |read| {
            let first = read(offset, (hint.clamp(64, MAX_CHUNK_BYTES) as u64).min(left) as usize)?;
            let bytes = whole(read, offset, left, first)?;
            let (encoding, data) = parse(&bytes)?;
            Ok((encoding, bytes.slice_ref(data)))
        })
        .map_err(|e| e.at(s.name()).offset(offset))?;
        f(encoding, &data)
    }

    /// Whether all segments are memory already.
    pub fn is_mapped(&self) -> bool {
        self.segments.iter().all(|s| s.mapped().is_some())
    }

    /// The ranges to fetch for references with size hints, grouped by segment, near ones joined.
    pub fn prefetch(&self, mut wanted: Vec<(u64, usize)>) {
        wanted.sort_unstable();
        let mut i = 0;
        while i < wanted.len() {
            let segment = wanted[i].0 >> 32;
            let mut ranges = Vec::new();
            while i < wanted.len() && wanted[i].0 >> 32 == segment {
                ranges.push((wanted[i].0 & 0xffff_ffff, wanted[i].1));
                i += 1;
            }
            if let Some(s) = self.segments.get(segment as usize) {
                s.prefetch(&ranges);
            }
        }
    }

    /// Bytes of each segment.
    pub fn sizes(&self) -> Vec<u64> {
        self.segments.iter().map(|s| s.len()).collect()
    }

    /// Bytes over all segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len()).sum()
    }
}

/// Makes sure that `first` reaches to the chunk's end.
fn whole(read: &Read<'_>, offset: u64, left: u64, first: Bytes) -> Result<Bytes> {
    let mut r = Reader::new(&first);
    let n = r.uvarint()? as usize;
    let need = n.saturating_add(r.position() + 5);
    if need > MAX_CHUNK_BYTES || need as u64 > left {
        return Err(Error::corrupt(format!("a chunk says it has {n} bytes")));
    }
    if need <= first.len() { Ok(first) } else { read(offset, need) }
}

fn parse(bytes: &[u8]) -> Result<(Encoding, &[u8])> {
    let mut r = Reader::new(bytes);
    let n = r.uvarint()? as usize;
    if n > MAX_CHUNK_BYTES {
        return Err(Error::corrupt(format!("a chunk says it has {n} bytes")));
    }
    let body = r.bytes(n + 1)?;
    if r.be_u32()? != crc32c(body) {
        return Err(Error::corrupt("a chunk's checksum does not match"));
    }
    Ok((Encoding::from_byte(body[0])?, &body[1..]))
}
