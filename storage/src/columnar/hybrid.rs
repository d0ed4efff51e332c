//! Parquet's hybrid of run-length and bit-packed integers: levels and dictionary indices.

use crate::codec::uvarint_at;

/// Appends `count` integers of `width` bits. None if the bytes end early, or a width is impossible.
pub fn decode<T: Copy + Narrow>(buf: &[u8], width: u32, count: usize, out: &mut Vec<T>) -> Option<()> {
    if width == 0 {
        out.resize(out.len() + count, T::narrow(0));
        return Some(());
    }
    if width > 32 {
        return None;
    }
    let end = out.len() + count;
    let mut pos = 0;
    while out.len() < end {
        let header = uvarint_at(buf, &mut pos)?;
        if header & 1 == 0 {
            let run = usize::try_from(header >> 1).ok()?.min(end - out.len());
            let bytes = width.div_ceil(8) as usize;
            let mut v = [0; 4];
            v[..bytes].copy_from_slice(buf.get(pos..pos + bytes)?);
            pos += bytes;
            out.resize(out.len() + run, T::narrow(u32::from_le_bytes(v)));
        } else {
            let groups = usize::try_from(header >> 1).ok()?;
            let bytes = groups.checked_mul(width as usize)?;
            // The last group of a page may be cut off where its padding would begin.
            let packed = buf.get(pos..)?;
            let packed = &packed[..bytes.min(packed.len())];
            pos += bytes;
            unpack(packed, width, (groups.checked_mul(8)?).min(end - out.len()), out)?;
        }
    }
    Some(())
}

fn unpack<T: Copy + Narrow>(packed: &[u8], width: u32, count: usize, out: &mut Vec<T>) -> Option<()> {
    if (count * width as usize).div_ceil(8) > packed.len() {
        return None;
    }
    let mask = if width == 32 { u64::from(u32::MAX) } else { (1u64 << width) - 1 };
    out.reserve(count);
    let word = |at: usize| packed.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let (mut bit, mut i) = (0usize, 0);
    // A group of eight lies in one word, or in two halves.
    if width <= 16 {
        let half = 4 * width as usize;
        while i + 8 <= count {
            let at = bit / 8;
            let (Some(first), Some(second)) = (word(at), word(at + half / 8)) else { break };
            let second = second >> (half % 8);
            let four = |word: u64| [0, 1, 2, 3].map(|k| T::narrow(((word >> (k * width)) & mask) as u32));
            out.extend_from_slice(&four(first));
            out.extend_from_slice(&four(second));
            bit += 2 * half;
            i += 8;
        }
    }
    // Eight bytes at a time hold any value of up to 32 bits at any of the eight bit positions.
    while i < count {
        let Some(word) = word(bit / 8) else { break };
        out.push(T::narrow(((word >> (bit % 8)) & mask) as u32));
        bit += width as usize;
        i += 1;
    }
    while i < count {
        let mut word = [0u8; 8];
        let tail = packed.get(bit / 8..)?;
        let n = tail.len().min(8);
        word[..n].copy_from_slice(&tail[..n]);
        out.push(T::narrow(((u64::from_le_bytes(word) >> (bit % 8)) & mask) as u32));
        bit += width as usize;
        i += 1;
    }
    Some(())
}

/// Integers that values are narrowed to: levels fit a byte.
pub trait Narrow {
    /// The low bits.
    fn narrow(v: u32) -> Self;
}

impl Narrow for u8 {
    fn narrow(v: u32) -> u8 {
        v as u8
    }
}

impl Narrow for u32 {
    fn narrow(v: u32) -> u32 {
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_packed_groups() {
        // A run of five 7s, then eight values packed in three bits each.
        let mut buf = vec![5 << 1, 7, 1 << 1 | 1];
        buf.extend_from_slice(&[0b1000_1000, 0b1100_0110, 0b1111_1010]);
        let mut out: Vec<u32> = Vec::new();
        decode(&buf, 3, 13, &mut out).unwrap();
        assert_eq!(out, [7, 7, 7, 7, 7, 0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn short_bytes_are_told() {
        let mut out: Vec<u8> = Vec::new();
        assert_eq!(decode(&[3], 3, 8, &mut out), None);
        assert_eq!(decode(&[], 1, 1, &mut out), None);
        assert_eq!(decode(&[0xff; 12], 1, 1, &mut out), None);
    }
}
