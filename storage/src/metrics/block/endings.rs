//! How series of a block end, as far as reads have met it.
//!
//! Whether a series is there at a time is told by the times of its chunks, but for one thing: its last sample may be
//! a staleness marker. A block never changes, so what one read saw spares the next one the decoding; and of a block that
//! was just flushed the head knew.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// The kind of a series' last sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    #[default]
    Unknown = 0,
    Value = 1,
    Stale = 2,
}

/// Two bits for each place an entry may lie at: a sixty-fourth of the index.
pub(super) struct Endings {
    index_bytes: u64,
    bits: OnceLock<Box<[AtomicU8]>>,
}

impl Endings {
    pub fn new(index_bytes: u64) -> Self {
        Endings { index_bytes, bits: OnceLock::new() }
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
        let bits = self.bits.get_or_init(|| (0..self.index_bytes / 64 + 1).map(|_| AtomicU8::new(0)).collect());
        if let Some(byte) = bits.get(reference as usize / 4) {
            byte.fetch_or((ending as u8) << (reference % 4 * 2), Ordering::Relaxed);
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bits.get().map_or(0, |b| b.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_do_not_touch_their_neighbours() {
        let e = Endings::new(64 * 4);
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
