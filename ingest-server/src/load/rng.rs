//! Random numbers that are the same on every machine: SplitMix64.

/// A stream of numbers from a seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of one part of a run; parts don't overlap for practical purposes.
    pub fn of(seed: u64, part: u64) -> Self {
        let mut r = Rng(seed ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        r.next();
        r
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An id that is not zero, as the specification asks of ids.
    pub fn id(&mut self) -> u64 {
        self.next() | 1
    }
}
