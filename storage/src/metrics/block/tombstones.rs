//! The tombstones file of a block: deleted stretches by series.

use std::collections::BTreeMap;

use crate::codec::{Reader, crc32c, put_be_u32, put_uvarint, put_varint};
use crate::error::{Error, Result};
use crate::model::TimeRange;

const MAGIC: u32 = 0x0130_ba30;
const VERSION: u8 = 1;

/// Deleted stretches by series reference.
pub type Tombstones = BTreeMap<u64, Vec<TimeRange>>;

/// The file's bytes. The checksum covers the entries alone, without magic and version.
pub fn encode(t: &Tombstones) -> Vec<u8> {
    let mut out = Vec::new();
    put_be_u32(&mut out, MAGIC);
    out.push(VERSION);
    let mut body = Vec::new();
    for (reference, ranges) in t {
        for r in ranges {
            put_uvarint(&mut body, *reference);
            put_varint(&mut body, r.min_ms);
            put_varint(&mut body, r.max_ms);
        }
    }
    let crc = crc32c(&body);
    out.extend_from_slice(&body);
    put_be_u32(&mut out, crc);
    out
}

/// Reads a tombstones file.
pub fn decode(bytes: &[u8]) -> Result<Tombstones> {
    let mut head = Reader::new(bytes);
    if head.be_u32()? != MAGIC {
        return Err(Error::corrupt("not a tombstones file: the magic number is wrong"));
    }
    if head.u8()? != VERSION {
        return Err(Error::invalid("tombstones of an unknown version"));
    }
    let body_len = head.remaining().checked_sub(4).ok_or_else(|| Error::corrupt("the tombstones file is cut short"))?;
    let body = head.bytes(body_len)?;
    if head.be_u32()? != crc32c(body) {
        return Err(Error::corrupt("the tombstones' checksum does not match"));
    }
    let mut out = Tombstones::new();
    let mut r = Reader::new(body);
    while !r.is_empty() {
        let reference = r.uvarint()?;
        let range = TimeRange::new(r.varint()?, r.varint()?);
        out.entry(reference).or_default().push(range);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let t: Tombstones = [(3, vec![TimeRange::new(-5, 10), TimeRange::new(20, 30)]), (99, vec![TimeRange::new(0, 0)])].into();
        let b = encode(&t);
        assert_eq!(decode(&b).unwrap(), t);
        for i in 0..b.len() {
            let mut bad = b.clone();
            bad[i] ^= 1;
            assert!(decode(&bad).is_err());
            assert!(decode(&b[..i]).is_err());
        }
    }
}
