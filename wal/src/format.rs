//! Bytes of segment headers and frames; `docs/format/wal.md` draws them.

use crc32fast::Hasher;

pub const SEGMENT_MAGIC: [u8; 8] = *b"STRDWAL1";
pub const SEGMENT_HEADER_BYTES: usize = 40;
/// Begins every frame, so that a reader can find the next one behind damage.
pub const FRAME_MAGIC: [u8; 4] = *b"\xf5SLF";
pub const FRAME_HEADER_BYTES: usize = 40;
/// No frame, stored or unpacked, is larger.
pub const MAX_FRAME_BYTES: usize = 256 << 20;
/// Shorter payloads are not worth packing.
const MIN_PACK_BYTES: usize = 64;

/// Start of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub number: u64,
    /// Sequence of the first record that may stand here.
    pub first_seq: u64,
    /// How much of the segment before is good: what stands behind it was never acknowledged.
    pub previous_len: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut b = [0; SEGMENT_HEADER_BYTES];
        b[..8].copy_from_slice(&SEGMENT_MAGIC);
        b[8..16].copy_from_slice(&self.number.to_le_bytes());
        b[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        b[24..32].copy_from_slice(&self.previous_len.to_le_bytes());
        let crc = crc32fast::hash(&b[..32]);
        b[32..36].copy_from_slice(&crc.to_le_bytes());
        b
    }
    pub fn decode(b: &[u8]) -> Option<Self> {
        if b.len() < SEGMENT_HEADER_BYTES || b[..8] != SEGMENT_MAGIC || u32_at(b, 32) != crc32fast::hash(&b[..32]) {
            return None;
        }
        Some(SegmentHeader { number: u64_at(b, 8), first_seq: u64_at(b, 16), previous_len: u64_at(b, 24) })
    }
}

/// Start of a frame: one commit of one or more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub crc: u32,
    /// Bytes of the payload as stored.
    pub stored_len: u32,
    /// Bytes of the payload unpacked; equal to `stored_len` if it is not packed.
    pub raw_len: u32,
    pub count: u32,
    pub first_seq: u64,
    /// Offset in this segment known durable when the frame was written.
    pub durable: u64,
}

impl FrameHeader {
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut b = [0; FRAME_HEADER_BYTES];
        b[..4].copy_from_slice(&FRAME_MAGIC);
        b[4..8].copy_from_slice(&self.crc.to_le_bytes());
        b[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        b[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        b[16..20].copy_from_slice(&self.count.to_le_bytes());
        b[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        b[32..40].copy_from_slice(&self.durable.to_le_bytes());
        b
    }
    pub fn decode(b: &[u8]) -> Option<Self> {
        if b.len() < FRAME_HEADER_BYTES || b[..4] != FRAME_MAGIC {
            return None;
        }
        let h = FrameHeader {
            crc: u32_at(b, 4),
            stored_len: u32_at(b, 8),
            raw_len: u32_at(b, 12),
            count: u32_at(b, 16),
            first_seq: u64_at(b, 24),
            durable: u64_at(b, 32),
        };
        let fits = h.stored_len as usize <= MAX_FRAME_BYTES && h.raw_len as usize <= MAX_FRAME_BYTES && h.stored_len <= h.raw_len;
        fits.then_some(h)
    }
    /// The checksum covers the segment's number too, so that a frame of another life of the file can't pass.
    pub fn checksum(&self, segment: u64, payload: &[u8]) -> u32 {
        let mut h = Hasher::new();
        h.update(&segment.to_le_bytes());
        h.update(&self.encode()[8..]);
        h.update(payload);
        h.finalize()
    }
    pub fn packed(&self) -> bool {
        self.stored_len != self.raw_len
    }
}

/// Appends a whole frame to `out`; returns its length.
pub fn put_frame(out: &mut Vec<u8>, segment: u64, first_seq: u64, count: u32, durable: u64, raw: &[u8]) -> usize {
    let start = out.len();
    out.resize(start + FRAME_HEADER_BYTES, 0);
    let mut stored = raw.len();
    if raw.len() >= MIN_PACK_BYTES {
        let at = out.len();
        out.resize(at + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
        // The buffer has the size that compress_into asks for; a refusal only means "store it plain".
        let n = lz4_flex::block::compress_into(raw, &mut out[at..]).unwrap_or(raw.len());
        if n < raw.len() - raw.len() / 16 {
            stored = n;
            out.truncate(at + n);
        } else {
            out.truncate(at);
            out.extend_from_slice(raw);
        }
    } else {
        out.extend_from_slice(raw);
    }
    let mut h = FrameHeader { crc: 0, stored_len: stored as u32, raw_len: raw.len() as u32, count, first_seq, durable };
    h.crc = h.checksum(segment, &out[start + FRAME_HEADER_BYTES..]);
    out[start..start + FRAME_HEADER_BYTES].copy_from_slice(&h.encode());
    out.len() - start
}

/// Splits a payload into its records.
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Option<&'a [u8]>;
    /// `Some(None)` where the payload contradicts itself.
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((n, used)) = read_uvarint(self.0) else {
            self.0 = &[];
            return Some(None);
        };
        let body = usize::try_from(n).ok().and_then(|n| self.0.get(used..used.checked_add(n)?));
        match body {
            Some(b) => {
                self.0 = &self.0[used + b.len()..];
                Some(Some(b))
            }
            None => {
                self.0 = &[];
                Some(None)
            }
        }
    }
}

pub fn put_uvarint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn read_uvarint(b: &[u8]) -> Option<(u64, usize)> {
    let mut v = 0u64;
    for (i, x) in b.iter().enumerate().take(10) {
        v |= ((x & 0x7f) as u64) << (7 * i);
        if *x < 0x80 {
            return Some((v, i + 1));
        }
    }
    None
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    let mut x = [0; 4];
    x.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(x)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut x = [0; 8];
    x.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(x)
}

/// `00000012.wal`
pub fn file_name(number: u64) -> String {
    format!("{number:08}.wal")
}

pub fn parse_file_name(name: &str) -> Option<u64> {
    name.strip_suffix(".wal").filter(|n| n.len() >= 8).and_then(|n| n.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_frame() {
        // Byte for byte: a change of the format must change the version in the magic.
        let mut out = Vec::new();
        put_frame(&mut out, 7, 42, 1, 40, b"\x05hello");
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "f5534c46a412819a060000000600000001000000000000002a0000000000000028000000000000000568656c6c6f");
    }

    #[test]
    fn headers_round_trip_and_reject_flips() {
        let h = SegmentHeader { number: 3, first_seq: 9, previous_len: 77 };
        assert_eq!(SegmentHeader::decode(&h.encode()), Some(h));
        for i in 0..36 * 8 {
            let mut b = h.encode();
            b[i / 8] ^= 1 << (i % 8);
            assert_eq!(SegmentHeader::decode(&b), None);
        }
    }
}
