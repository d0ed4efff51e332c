//! Pages of a column chunk as they lie in a file: a header in Thrift's compact protocol, then what it tells of,
//! compressed by zstd or plain.
//!
//! The general reader makes a compressor and a decompressor for every column chunk, which costs more than a small one
//! itself; here a thread keeps one.

use std::cell::RefCell;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};

use crate::codec::{unzigzag, uvarint_at};

/// Structs in structs of a header that is well-formed: statistics in a data page's header.
const MAX_DEPTH: u32 = 8;

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Distinct values.
    Dictionary,
    /// Levels and values.
    Data,
    /// An index, or what this store does not write.
    Other,
}

/// A page, decompressed.
pub struct Page {
    /// What it holds.
    pub kind: Kind,
    /// Number of values; entries, where some are absent.
    pub values: usize,
    /// How they are written; none: not known here.
    pub encoding: Option<Encoding>,
    /// Levels and values.
    pub body: Bytes,
}

#[derive(Clone, Copy, Default)]
struct Header {
    kind: i64,
    uncompressed: i64,
    compressed: i64,
    values: i64,
    encoding: i64,
}

/// Takes the page that `buf` begins with off it. None if it is cut short or damaged.
pub fn take(buf: &mut Bytes, compression: Compression) -> Option<Page> {
    let (header, len) = Header::read(buf)?;
    let size = usize::try_from(header.compressed).ok()?;
    let end = len.checked_add(size).filter(|e| *e <= buf.len())?;
    let body = buf.slice(len..end);
    *buf = buf.slice(end..);
    let uncompressed = usize::try_from(i32::try_from(header.uncompressed).ok()?).ok()?;
    let kind = match header.kind {
        0 => Kind::Data,
        2 => Kind::Dictionary,
        _ => return Some(Page { kind: Kind::Other, values: 0, encoding: None, body: Bytes::new() }),
    };
    let body = match compression {
        Compression::UNCOMPRESSED => body,
        Compression::ZSTD(_) => decompress(&body, uncompressed)?,
        _ => return None,
    };
    #[allow(deprecated)]
    let encoding = match header.encoding {
        0 => Some(Encoding::PLAIN),
        2 => Some(Encoding::PLAIN_DICTIONARY),
        8 => Some(Encoding::RLE_DICTIONARY),
        3 => Some(Encoding::RLE),
        9 => Some(Encoding::BYTE_STREAM_SPLIT),
        _ => None,
    };
    let whole = body.len() == uncompressed;
    whole.then_some(Page { kind, values: usize::try_from(i32::try_from(header.values).ok()?).ok()?, encoding, body })
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn decompress(body: &[u8], len: usize) -> Option<Bytes> {
    // A block of zstd gives 128 KiB from no less than four bytes: what claims more asks for memory it does not fill.
    if len >> 15 > body.len() {
        return None;
    }
    DECOMPRESSOR.with_borrow_mut(|d| {
        let d = match d {
            Some(d) => d,
            None => d.insert(zstd::bulk::Decompressor::new().ok()?),
        };
        d.decompress(body, len).ok().map(Bytes::from)
    })
}

impl Header {
    /// A header and its length.
    fn read(buf: &[u8]) -> Option<(Header, usize)> {
        let mut c = Thrift { buf, pos: 0 };
        let mut h = Header::default();
        c.fields(0, &mut |c, id, ty| {
            match (id, ty) {
                (1, 5) => h.kind = c.int()?,
                (2, 5) => h.uncompressed = c.int()?,
                (3, 5) => h.compressed = c.int()?,
                // Of a data page and of a dictionary page: the number of values and their encoding come first.
                (5 | 7, 12) => c.fields(1, &mut |c, id, ty| {
                    match (id, ty) {
                        (1, 5) => h.values = c.int()?,
                        (2, 5) => h.encoding = c.int()?,
                        _ => c.skip(ty, 2)?,
                    }
                    Some(())
                })?,
                _ => c.skip(ty, 1)?,
            }
            Some(())
        })?;
        Some((h, c.pos))
    }
}

/// Thrift's compact protocol.
struct Thrift<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let b = *self.buf.get(self.pos)?;
        self.pos += 1;
        Some(b)
    }
    fn varint(&mut self) -> Option<u64> {
        uvarint_at(self.buf, &mut self.pos)
    }
    fn int(&mut self) -> Option<i64> {
        self.varint().map(unzigzag)
    }
    fn advance(&mut self, n: u64) -> Option<()> {
        let end = self.pos.checked_add(usize::try_from(n).ok()?).filter(|e| *e <= self.buf.len())?;
        self.pos = end;
        Some(())
    }

    /// Calls `f` with each field's number and type, up to the struct's end.
    fn fields(&mut self, depth: u32, f: &mut dyn FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut id = 0i64;
        loop {
            let b = self.byte()?;
            if b == 0 {
                return Some(());
            }
            id = match b >> 4 {
                0 => self.int()?,
                delta => id.checked_add(i64::from(delta))?,
            };
            f(self, id, b & 15)?;
        }
    }

    fn skip(&mut self, ty: u8, depth: u32) -> Option<()> {
        match ty {
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let n = self.varint()?;
                self.advance(n)
            }
            12 => self.fields(depth, &mut |c, _, ty| c.skip(ty, depth + 1)),
            // Headers hold neither lists nor maps.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(header: &[u8], body: &[u8]) -> Bytes {
        [header, body].concat().into()
    }

    #[test]
    fn a_header_with_statistics_is_read() {
        // Type data, 5 bytes plain and 5 as stored, a checksum; data: 3 values, plain, levels by runs, statistics with a
        // text and a count.
        let header = [
            0x15, 0x00, 0x15, 0x0a, 0x15, 0x0a, 0x15, 0x02, 0x1c, 0x15, 0x06, 0x15, 0x00, 0x15, 0x06, 0x15, 0x06, 0x1c, 0x18, 0x02, b'h',
            b'i', 0x26, 0x04, 0x00, 0x00, 0x00,
        ];
        let mut buf = page(&header, b"12345rest");
        let p = take(&mut buf, Compression::UNCOMPRESSED).unwrap();
        assert_eq!(
            (p.kind, p.values, p.encoding, &p.body[..], &buf[..]),
            (Kind::Data, 3, Some(Encoding::PLAIN), &b"12345"[..], &b"rest"[..])
        );
        for cut in 0..header.len() + 5 {
            assert!(take(&mut page(&header, b"12345").slice(..cut), Compression::UNCOMPRESSED).is_none(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), nested in 0usize..50) {
            let deep: Vec<u8> = std::iter::repeat_n(0x1c, nested).chain(noise.iter().copied()).collect();
            for bytes in [noise, deep] {
                for c in [Compression::UNCOMPRESSED, Compression::ZSTD(Default::default())] {
                    let _ = take(&mut Bytes::from(bytes.clone()), c);
                }
            }
        }
    }
}
