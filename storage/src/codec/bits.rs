//! Bit streams, most significant bit first.

/// Appends bits to a byte vector. `free` (bits unused in the last byte) is the caller's to keep, so that a
/// series' open chunk costs a byte and not a struct.
pub struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    free: &'a mut u8,
}

/// Open chunks grow by 8 bytes while they are small, then to the sizes that allocators give anyway, 8 and a multiple of
/// 16, then four a doubling: slack stays below a quarter over millions of series, and few steps copy.
#[inline]
fn reserve(buf: &mut Vec<u8>, more: usize) {
    if buf.capacity() - buf.len() < more {
        grow(buf, more);
    }
}

#[cold]
fn grow(buf: &mut Vec<u8>, more: usize) {
    let need = buf.len() + more;
    let size = match need {
        ..=56 => need.next_multiple_of(8),
        57..=120 => (need + 8).next_multiple_of(16) - 8,
        _ => need.next_multiple_of((need - 1).next_power_of_two() / 8),
    };
    buf.reserve_exact(size - buf.len());
}

impl<'a> BitWriter<'a> {
    /// Goes on where `out` ends with `free` unused bits.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, free: &'a mut u8) -> Self {
        BitWriter { out, free }
    }

    /// The low `n` bits of `v`, `n` in 0..=64.
    #[inline]
    pub fn bits(&mut self, v: u64, n: u32) {
        if n == 0 {
            return;
        }
        let free = *self.free as u32;
        let v = if n == 64 { v } else { v & ((1 << n) - 1) };
        let mut n = n;
        if free > 0
            && let Some(last) = self.out.last_mut()
        {
            if n <= free {
                *last |= (v << (free - n)) as u8;
                *self.free = (free - n) as u8;
                return;
            }
            n -= free;
            *last |= (v >> n) as u8;
        }
        // What is left begins a byte; the shift drops the bits that are written already.
        let bytes = n.div_ceil(8);
        reserve(self.out, bytes as usize);
        let word = (v << (64 - n)).to_be_bytes();
        // Copies of a length known beforehand are a store or two.
        match bytes {
            1 => self.out.push(word[0]),
            2 => self.out.extend_from_slice(&word[..2]),
            3 => self.out.extend_from_slice(&word[..3]),
            4 => self.out.extend_from_slice(&word[..4]),
            more => self.out.extend_from_slice(&word[..more as usize]),
        }
        *self.free = (bytes * 8 - n) as u8;
    }

    /// One bit.
    #[inline]
    pub fn bit(&mut self, b: bool) {
        self.bits(b as u64, 1);
    }

    /// Signed integer in Prometheus' varbit code (1 bit to 9 bytes).
    pub fn varbit_int(&mut self, v: i64) {
        let u = v as u64;
        match v {
            0 => self.bits(0, 1),
            -3..=4 => self.bits(0b10 << 3 | (u & 0x7), 5),
            -31..=32 => self.bits(0b110 << 6 | (u & 0x3f), 9),
            -255..=256 => self.bits(0b1110 << 9 | (u & 0x1ff), 13),
            -2047..=2048 => self.bits(0b11110 << 12 | (u & 0xfff), 17),
            -131_071..=131_072 => self.bits(0b111110 << 18 | (u & 0x3ffff), 24),
            -16_777_215..=16_777_216 => self.bits(0b1111110 << 25 | (u & 0x1ff_ffff), 32),
            -36_028_797_018_963_967..=36_028_797_018_963_968 => self.bits(0b11111110 << 56 | (u & 0xff_ffff_ffff_ffff), 64),
            _ => {
                self.bits(0xff, 8);
                self.bits(u, 64);
            }
        }
    }

    /// Unsigned integer in the same buckets.
    pub fn varbit_uint(&mut self, v: u64) {
        match v {
            0 => self.bits(0, 1),
            1..=0x7 => self.bits(0b10 << 3 | v, 5),
            0x8..=0x3f => self.bits(0b110 << 6 | v, 9),
            0x40..=0x1ff => self.bits(0b1110 << 9 | v, 13),
            0x200..=0xfff => self.bits(0b11110 << 12 | v, 17),
            0x1000..=0x3ffff => self.bits(0b111110 << 18 | v, 24),
            0x40000..=0x1ff_ffff => self.bits(0b1111110 << 25 | v, 32),
            0x200_0000..=0xff_ffff_ffff_ffff => self.bits(0b11111110 << 56 | v, 64),
            _ => {
                self.bits(0xff, 8);
                self.bits(v, 64);
            }
        }
    }
}

const VARBIT_WIDTH: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

/// Reads bits; `None` once the stream is exhausted.
#[derive(Clone)]
pub struct BitReader<'a> {
    data: &'a [u8],
    at: usize,
    /// Unread bits, left-aligned.
    acc: u64,
    have: u32,
}

impl<'a> BitReader<'a> {
    /// From the first bit of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        BitReader { data, at: 0, acc: 0, have: 0 }
    }

    #[inline]
    fn refill(&mut self) {
        if let Some(b) = self.data.get(self.at..self.at + 8) {
            let mut x = [0; 8];
            x.copy_from_slice(b);
            self.acc |= u64::from_be_bytes(x) >> self.have;
            let taken = (63 - self.have) >> 3;
            self.at += taken as usize;
            self.have += taken * 8;
            // Bits past `have` are part of bytes that the next refill reads again.
            self.acc &= !0 << (64 - self.have);
        } else {
            while self.have <= 56
                && let Some(b) = self.data.get(self.at)
            {
                self.acc |= (*b as u64) << (56 - self.have);
                self.at += 1;
                self.have += 8;
            }
        }
    }

    /// `n` bits, `n` in 1..=64.
    #[inline]
    pub fn bits(&mut self, n: u32) -> Option<u64> {
        if n > 56 {
            let hi = self.bits(n - 32)?;
            return Some(hi << 32 | self.bits(32)?);
        }
        if self.have < n {
            self.refill();
            if self.have < n {
                return None;
            }
        }
        let v = self.acc >> (64 - n);
        self.acc <<= n;
        self.have -= n;
        Some(v)
    }

    /// One bit.
    #[inline]
    pub fn bit(&mut self) -> Option<bool> {
        if self.have == 0 {
            self.refill();
            if self.have == 0 {
                return None;
            }
        }
        let b = self.acc >> 63 != 0;
        self.acc <<= 1;
        self.have -= 1;
        Some(b)
    }

    /// Number of leading one bits, at most `max`; the ending zero bit is taken too unless `max` was reached.
    #[inline]
    pub fn ones(&mut self, max: u32) -> Option<u32> {
        if self.have < max + 1 {
            self.refill();
        }
        let n = self.acc.leading_ones().min(max);
        let used = if n == max { n } else { n + 1 };
        if used > self.have {
            return None;
        }
        self.acc <<= used;
        self.have -= used;
        Some(n)
    }

    /// A signed number of `n` bits in the convention of Prometheus' dod fields:
    /// values above 2^(n-1) are negative.
    #[inline]
    pub fn dod(&mut self, n: u32) -> Option<i64> {
        let v = self.bits(n)?;
        if n < 64 && v > 1 << (n - 1) { Some(v.wrapping_sub(1 << n) as i64) } else { Some(v as i64) }
    }

    /// Inverse of [`BitWriter::varbit_int`].
    pub fn varbit_int(&mut self) -> Option<i64> {
        let k = self.ones(8)?;
        if k == 0 { Some(0) } else { self.dod(VARBIT_WIDTH[k as usize]) }
    }

    /// Inverse of [`BitWriter::varbit_uint`].
    pub fn varbit_uint(&mut self) -> Option<u64> {
        let k = self.ones(8)?;
        if k == 0 { Some(0) } else { self.bits(VARBIT_WIDTH[k as usize]) }
    }

    /// Unsigned LEB128 out of the bit stream.
    pub fn uvarint(&mut self) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.bits(8)?;
            v |= (b & 0x7f) << shift;
            if b < 0x80 {
                return Some(v);
            }
        }
        None
    }

    /// Zigzag LEB128 out of the bit stream.
    pub fn varint(&mut self) -> Option<i64> {
        self.uvarint().map(super::unzigzag)
    }
}

/// A bit stream read a word at a time, for decoders that know how far they look: nothing is checked on the way,
/// what lies behind the end reads as zeros, and [`Words::inside`] tells in the end.
#[derive(Clone)]
pub struct Words<'a> {
    data: &'a [u8],
    bit: usize,
}

impl<'a> Words<'a> {
    /// From the first bit of byte `at`.
    pub fn new(data: &'a [u8], at: usize) -> Self {
        Words { data, bit: at * 8 }
    }

    /// The next bits, left-aligned; at least 57 of them are meant.
    #[inline(always)]
    pub fn peek(&self) -> u64 {
        let at = self.bit >> 3;
        let word = match self.data.get(at..at + 8).and_then(|d| d.first_chunk::<8>()) {
            Some(b) => u64::from_be_bytes(*b),
            None => tail(self.data, at),
        };
        word << (self.bit & 7)
    }

    /// Moves on by `n` bits.
    #[inline(always)]
    pub fn skip(&mut self, n: u32) {
        self.bit += n as usize;
    }

    /// `n` bits, `n` in 1..=64.
    #[inline(always)]
    pub fn take(&mut self, n: u32) -> u64 {
        let v = if n > 57 { self.wide(n) } else { self.peek() >> (64 - n) };
        self.bit += n as usize;
        v
    }

    /// The next `n` bits, more than a peek shows.
    #[cold]
    fn wide(&self, n: u32) -> u64 {
        let high = self.peek() >> 32;
        let low = Words { data: self.data, bit: self.bit + 32 }.peek() >> (96 - n);
        high << (n - 32) | low
    }

    /// `None` if more was read than there is.
    #[inline]
    pub fn inside(&self) -> Option<()> {
        (self.bit <= self.data.len() * 8).then_some(())
    }
}

#[cold]
fn tail(data: &[u8], at: usize) -> u64 {
    let mut last = [0; 8];
    let rest = data.get(at..).unwrap_or(&[]);
    last[..rest.len().min(8)].copy_from_slice(&rest[..rest.len().min(8)]);
    u64::from_be_bytes(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_round_trip(items in prop::collection::vec((any::<u64>(), 1u32..=64), 0..200)) {
            let (mut out, mut free) = (Vec::new(), 0u8);
            for (v, n) in &items {
                BitWriter::new(&mut out, &mut free).bits(*v, *n);
            }
            let mut r = BitReader::new(&out);
            for (v, n) in &items {
                let want = if *n == 64 { *v } else { v & ((1 << n) - 1) };
                prop_assert_eq!(r.bits(*n), Some(want));
            }
            prop_assert!(r.bits(8).is_none());
        }

        #[test]
        fn words_round_trip(items in prop::collection::vec((any::<u64>(), 1u32..=64), 0..200)) {
            let (mut out, mut free) = (Vec::new(), 0u8);
            for (v, n) in &items {
                BitWriter::new(&mut out, &mut free).bits(*v, *n);
            }
            let mut r = Words::new(&out, 0);
            for (v, n) in &items {
                let want = if *n == 64 { *v } else { v & ((1 << n) - 1) };
                prop_assert_eq!(r.peek() >> 32, r.clone().take(32));
                prop_assert_eq!(r.take(*n), want);
            }
            prop_assert!(r.inside().is_some());
            r.skip(free as u32 + 1);
            prop_assert!(r.inside().is_none());
        }

        #[test]
        fn varbits_round_trip(items in prop::collection::vec((any::<i64>(), 0u32..64), 0..200)) {
            let (mut out, mut free) = (Vec::new(), 0u8);
            for (v, s) in &items {
                let mut w = BitWriter::new(&mut out, &mut free);
                w.varbit_int(v >> s);
                w.varbit_uint((*v as u64) >> s);
            }
            let mut r = BitReader::new(&out);
            for (v, s) in &items {
                prop_assert_eq!(r.varbit_int(), Some(v >> s));
                prop_assert_eq!(r.varbit_uint(), Some((*v as u64) >> s));
            }
        }
    }
}
