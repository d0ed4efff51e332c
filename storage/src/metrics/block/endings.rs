//! How series of a block end, as far as reads have met it.
//!
//! Whether a series is there at a time is told by the times of its chunks, but for one thing: its last sample may be
//! a staleness marker. A block never changes, so what one read saw spares the next one the decoding; and of a block that
//! was just flushed the head knew.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use super::index::IndexReader;
use crate::error::Result;

/// The kind of a series' last sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    #[default]
    Unknown = 0,
    Value = 1,
    Stale = 2,
}

/// Two bits for each place an entry may lie at: a sixty-fourth of the index. The copies of a block share them.
#[derive(Default)]
pub(crate) struct Endings {
    /// What the writer knew, series by series, until the index says where they lie.
    in_order: Mutex<Vec<Ending>>,
    index_bytes: OnceLock<u64>,
    bits: OnceLock<Box<[AtomicU8]>>,
}

impl Endings {
    /// With what the writer of the block knew, in the order of its series.
    pub fn known(in_order: Vec<Ending>) -> Self {
        Endings { in_order: Mutex::new(in_order), ..Endings::default() }
    }

    /// Takes note of the index.
    pub fn opened(&self, index: &IndexReader) -> Result<()> {
        let _ = self.index_bytes.set(index.size_bytes());
        let known = std::mem::take(&mut *self.in_order.lock());
        if known.is_empty() {
            return Ok(());
        }
        let all = index.all()?;
        if all.len() == known.len() as u64 {
            all.iter().zip(known).for_each(|(reference, e)| self.set(reference, e));
        }
        Ok(())
    }

    pub fn get(&self, reference: u32) -> Ending {
        let Some(byte) = self.bits.get().and_then(|b| b.get(reference as usize / 4)) else { return Ending::Unknown };
        match byte.load(Ordering::Relaxed) >> (reference % 4 * 2) & 3 {
            1 => Ending::Value,
            2 => Ending::Stale,
            _ => Ending::Unknown,
        }
    }

    pub fn set(&self, reference: u32, ending: Ending) {
        let bytes = self.index_bytes.get().copied().unwrap_or(0);
        let bits = self.bits.get_or_init(|| (0..bytes / 64 + 1).map(|_| AtomicU8::new(0)).collect());
        if let Some(byte) = bits.get(reference as usize / 4) {
            byte.fetch_or((ending as u8) << (reference % 4 * 2), Ordering::Relaxed);
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bits.get().map_or(0, |b| b.len()) + self.in_order.lock().capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_do_not_touch_their_neighbours() {
        let e = Endings { index_bytes: OnceLock::from(64 * 4), ..Endings::default() };
        assert_eq!(e.get(3), Ending::Unknown);
        for r in 0..16u32 {
            e.set(r, if r % 3 == 0 { Ending::Stale } else { Ending::Value });
        }
        e.set(3, Ending::Stale);
        for r in 0..16u32 {
            assert_eq!(e.get(r), if r % 3 == 0 { Ending::Stale } else { Ending::Value }, "{r}");
        }
        e.set(1000, Ending::Value);
        assert_eq!((e.get(1000), e.memory_bytes()), (Ending::Unknown, 5));
    }
}
