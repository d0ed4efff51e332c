//! Bytes: varints as Go's encoding/binary has them, big-endian integers, a checked cursor.

use super::{unzigzag, zigzag};
use crate::error::{Error, Result};

/// Unsigned LEB128.
#[inline]
pub fn put_uvarint(out: &mut Vec<u8>, v: u64) {
    if v < 0x80 { out.push(v as u8) } else { put_long_uvarint(out, v) }
}

fn put_long_uvarint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push((v as u8) | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Zigzag, then LEB128.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, v: i64) {
    put_uvarint(out, zigzag(v));
}

/// Reads unsigned LEB128 at `at` and steps over it; none if it is cut short or longer than ten bytes.
#[inline]
pub fn uvarint_at(buf: &[u8], at: &mut usize) -> Option<u64> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let b = *buf.get(*at)?;
        *at += 1;
        v |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Some(v);
        }
    }
    None
}

/// Big-endian u32.
pub fn put_be_u32(out: &mut Vec<u8>, v: u32) {
    out.extend_from_slice(&v.to_be_bytes());
}

/// Big-endian u64.
pub fn put_be_u64(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_be_bytes());
}

/// A cursor over bytes from outside; every step is checked.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the start of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Reader { data, at: 0 }
    }
    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }
    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.data.len() - self.at
    }
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }
    #[cold]
    fn short(&self, what: &str) -> Error {
        Error::corrupt(format!("{what} is cut short")).offset(self.at as u64)
    }
    /// The next `n` bytes.
    #[inline]
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.at.checked_add(n).and_then(|end| self.data.get(self.at..end)) {
            Some(b) => {
                self.at += n;
                Ok(b)
            }
            None => Err(self.short("a byte string")),
        }
    }
    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }
    /// Big-endian u32.
    pub fn be_u32(&mut self) -> Result<u32> {
        let mut x = [0; 4];
        x.copy_from_slice(self.bytes(4)?);
        Ok(u32::from_be_bytes(x))
    }
    /// Big-endian u64.
    pub fn be_u64(&mut self) -> Result<u64> {
        let mut x = [0; 8];
        x.copy_from_slice(self.bytes(8)?);
        Ok(u64::from_be_bytes(x))
    }
    /// Little-endian f64.
    #[inline]
    pub fn le_f64(&mut self) -> Result<f64> {
        let mut x = [0; 8];
        x.copy_from_slice(self.bytes(8)?);
        Ok(f64::from_le_bytes(x))
    }
    /// Unsigned LEB128.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u64> {
        match self.data.get(self.at) {
            Some(b) if *b < 0x80 => {
                self.at += 1;
                Ok(*b as u64)
            }
            _ => self.long_uvarint(),
        }
    }
    fn long_uvarint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(b) = self.data.get(self.at) else { return Err(self.short("a varint")) };
            self.at += 1;
            v |= ((b & 0x7f) as u64) << shift;
            if *b < 0x80 {
                return Ok(v);
            }
        }
        Err(Error::corrupt("a varint is longer than ten bytes").offset(self.at as u64))
    }
    /// Zigzag LEB128.
    #[inline]
    pub fn varint(&mut self) -> Result<i64> {
        self.uvarint().map(unzigzag)
    }
    /// A length (uvarint) that must fit in what is left.
    #[inline]
    pub fn len(&mut self) -> Result<usize> {
        let n = self.uvarint()?;
        usize::try_from(n).ok().filter(|n| *n <= self.remaining()).ok_or_else(|| self.short("a length-prefixed field"))
    }
    /// uvarint length and that many bytes.
    #[inline]
    pub fn prefixed(&mut self) -> Result<&'a [u8]> {
        let n = self.len()?;
        self.bytes(n)
    }
    /// uvarint length and UTF-8.
    pub fn string(&mut self) -> Result<&'a str> {
        let at = self.at;
        std::str::from_utf8(self.prefixed()?).map_err(|_| Error::corrupt("a string is not UTF-8").offset(at as u64))
    }
}
