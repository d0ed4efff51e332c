//! The hash by which series are found: over the label set as remote write 1.0 encodes it, so that the bytes of a
//! request can be hashed as they lie, without decoding a string.

use std::hash::{BuildHasher, Hasher};

use crate::model::Labels;

/// Hashes canonical label bytes; seeded anew in every process.
#[derive(Clone, Debug, Default)]
pub struct LabelHasher(foldhash::quality::RandomState);

impl LabelHasher {
    /// 32 bits are enough to find a bucket; equality is settled by comparing.
    #[inline]
    pub fn hash(&self, canonical: &[u8]) -> u32 {
        let mut h = self.0.build_hasher();
        h.write(canonical);
        h.finish() as u32
    }
}

/// Spreads 32 bits over the 64 that a hash table looks at.
#[inline]
pub fn widen(h: u32) -> u64 {
    (h as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes a label set canonically into `out` (cleared first): for each label, sorted by name, the protobuf field
/// `labels = 1 { name = 1, value = 2 }`.
pub fn canonical<S: AsRef<[u8]>>(pairs: impl Iterator<Item = (S, S)>, out: &mut Vec<u8>) {
    out.clear();
    for (n, v) in pairs {
        put_canonical(n.as_ref(), v.as_ref(), out);
    }
}

/// Appends one label as [`canonical`] writes it.
#[inline]
pub fn put_canonical(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let short = 4 + name.len() + value.len();
    if short >= 0x80 {
        return put_long(name, value, out);
    }
    // Every length is one byte.
    out.reserve(2 + short);
    out.extend_from_slice(&[0x0a, short as u8, 0x0a, name.len() as u8]);
    out.extend_from_slice(name);
    out.extend_from_slice(&[0x12, value.len() as u8]);
    out.extend_from_slice(value);
}

#[cold]
fn put_long(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let inner = 2 + varint_len(name.len()) + name.len() + varint_len(value.len()) + value.len();
    out.push(0x0a);
    crate::codec::put_uvarint(out, inner as u64);
    out.push(0x0a);
    crate::codec::put_uvarint(out, name.len() as u64);
    out.extend_from_slice(name);
    out.push(0x12);
    crate::codec::put_uvarint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint_len(n: usize) -> usize {
    if n < 0x80 { 1 } else { (n.ilog2() as usize) / 7 + 1 }
}

/// Walks canonical bytes; `None` as an item where they are not canonical.
#[derive(Clone)]
pub struct RawLabels<'a>(pub &'a [u8]);

#[inline]
fn short_len(b: &[u8], at: usize) -> Option<(usize, usize)> {
    let x = *b.get(at)?;
    if x < 0x80 {
        return Some((x as usize, at + 1));
    }
    let mut n = (x & 0x7f) as usize;
    for (i, x) in b.get(at + 1..)?.iter().enumerate().take(4) {
        n |= ((x & 0x7f) as usize) << (7 * (i + 1));
        if *x < 0x80 {
            return Some((n, at + i + 2));
        }
    }
    None
}

impl<'a> RawLabels<'a> {
    #[inline]
    fn field(&self, at: usize, tag: u8) -> Option<(&'a [u8], usize)> {
        if *self.0.get(at)? != tag {
            return None;
        }
        let (n, at) = short_len(self.0, at + 1)?;
        Some((self.0.get(at..at.checked_add(n)?)?, at + n))
    }
}

impl<'a> Iterator for RawLabels<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let pair = (|| {
            let (_, end) = self.field(0, 0x0a)?;
            let (_, inner) = short_len(self.0, 1)?;
            let (name, at) = self.field(inner, 0x0a)?;
            let (value, at) = self.field(at, 0x12)?;
            (at == end).then_some((name, value, end))
        })();
        match pair {
            Some((n, v, end)) => {
                self.0 = &self.0[end..];
                Some(Some((n, v)))
            }
            None => {
                self.0 = &[];
                Some(None)
            }
        }
    }
}

impl Labels {
    /// The canonical bytes that [`LabelHasher`] hashes.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        canonical(self.iter(), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_bytes_walk_back() {
        let long = "v".repeat(300);
        let (most, over) = ("m".repeat(0x7f - 4 - 1), "o".repeat(0x80 - 4 - 1));
        let l = Labels::from_pairs([("__name__", "up"), ("a", &long), ("job", "x"), ("m", &most), ("o", &over)]);
        let raw = l.canonical_bytes();
        let back: Vec<_> = RawLabels(&raw).map(|p| p.unwrap()).collect();
        let want: Vec<_> = l.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        assert_eq!(back, want);
        assert!(RawLabels(&raw[..raw.len() - 1]).any(|p| p.is_none()));
    }
}
