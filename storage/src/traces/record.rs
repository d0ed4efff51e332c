//! WAL records of spans: the OTLP bytes as they came, and which of their spans were refused.
//!
//! ```text
//! version u8 = 1 | refused count varint | gaps between refused ordinals, varint each | OTLP request to the end
//! ```

use crate::codec::{put_uvarint, uvarint_at};
use crate::error::{Error, Result};

const VERSION: u8 = 1;

/// What a record has before its request; `refused` are ordinals of its spans, rising.
pub fn head(refused: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + refused.len() * 2);
    out.push(VERSION);
    put_uvarint(&mut out, refused.len() as u64);
    let mut last = 0;
    for r in refused {
        put_uvarint(&mut out, u64::from(r - last));
        last = *r;
    }
    out
}

/// The refused ordinals and the request of a record.
pub fn decode(record: &[u8]) -> Result<(Vec<u32>, &[u8])> {
    let short = || Error::corrupt("a truncated record of spans");
    match record.first() {
        Some(&VERSION) => {}
        Some(v) => return Err(Error::corrupt(format!("a record of spans of version {v}; this version reads {VERSION}"))),
        None => return Err(short()),
    }
    let mut pos = 1;
    let n = uvarint_at(record, &mut pos).ok_or_else(short)?;
    let mut refused = Vec::new();
    let mut last = 0u32;
    for _ in 0..n {
        let gap = uvarint_at(record, &mut pos).and_then(|g| u32::try_from(g).ok()).ok_or_else(short)?;
        last = last.checked_add(gap).ok_or_else(short)?;
        refused.push(last);
    }
    Ok((refused, &record[pos..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back(body in proptest::collection::vec(any::<u8>(), 0..50), refused in proptest::collection::btree_set(any::<u32>(), 0..9)) {
            let refused: Vec<u32> = refused.into_iter().collect();
            let r = [head(&refused), body.clone()].concat();
            prop_assert_eq!(decode(&r).unwrap(), (refused, body.as_slice()));
        }
        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = decode(&b);
        }
    }
}
