//! Encoding 1: Gorilla XOR.

use super::{cut_short, num_samples, xor_value};
use crate::codec::{BitReader, BitWriter, put_uvarint, put_varint};
use crate::error::Result;
use crate::model::TimeRange;
use crate::read::SampleBuf;

/// The state of an open XOR chunk; the bytes are always a valid chunk.
#[derive(Clone, Debug)]
pub struct XorAppender {
    buf: Vec<u8>,
    t: i64,
    delta: i64,
    v: u64,
    n: u16,
    lead: u8,
    trail: u8,
    free: u8,
}

impl Default for XorAppender {
    fn default() -> Self {
        XorAppender { buf: Vec::new(), t: 0, delta: 0, v: 0, n: 0, lead: xor_value::NO_WINDOW, trail: 0, free: 0 }
    }
}

impl XorAppender {
    /// Appends a sample; `t` is later than the last.
    #[inline]
    pub fn append(&mut self, t: i64, v: f64) {
        let bits = v.to_bits();
        if self.n < 2 {
            self.first_two(t, bits);
        } else {
            let delta = t.wrapping_sub(self.t);
            let dod = delta.wrapping_sub(self.delta);
            let same = bits == self.v;
            let mut w = BitWriter::new(&mut self.buf, &mut self.free);
            if dod == 0 && same {
                w.bits(0, 2);
            } else {
                write_dod(&mut w, dod);
                xor_value::write(&mut w, bits, self.v, &mut self.lead, &mut self.trail);
            }
            self.delta = delta;
        }
        self.t = t;
        self.v = bits;
        self.n += 1;
        self.buf[..2].copy_from_slice(&self.n.to_be_bytes());
    }

    fn first_two(&mut self, t: i64, bits: u64) {
        if self.n == 0 {
            self.buf = Vec::with_capacity(24);
            self.buf.extend_from_slice(&[0, 0]);
            put_varint(&mut self.buf, t);
            self.buf.extend_from_slice(&bits.to_be_bytes());
        } else {
            let delta = t.wrapping_sub(self.t);
            self.buf.reserve_exact(6);
            put_uvarint(&mut self.buf, delta as u64);
            let mut w = BitWriter::new(&mut self.buf, &mut self.free);
            xor_value::write(&mut w, bits, self.v, &mut self.lead, &mut self.trail);
            self.delta = delta;
        }
    }

    /// The chunk so far.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }
    /// Number of samples.
    pub fn len(&self) -> u16 {
        self.n
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
    /// The last sample.
    pub fn last(&self) -> (i64, f64) {
        (self.t, f64::from_bits(self.v))
    }
    /// Heap bytes of the buffer.
    pub fn capacity_bytes(&self) -> usize {
        self.buf.capacity()
    }
    /// Takes the bytes, leaving an empty chunk that still knows the last sample.
    pub fn take(&mut self) -> Vec<u8> {
        let kept = XorAppender { t: self.t, v: self.v, ..XorAppender::default() };
        std::mem::replace(self, kept).buf
    }
}

#[inline]
fn write_dod(w: &mut BitWriter<'_>, dod: i64) {
    match dod {
        0 => w.bit(false),
        -8191..=8192 => w.bits(0b10 << 14 | (dod as u64 & 0x3fff), 16),
        -65535..=65536 => w.bits(0b110 << 17 | (dod as u64 & 0x1ffff), 20),
        -524_287..=524_288 => w.bits(0b1110 << 20 | (dod as u64 & 0xfffff), 24),
        _ => {
            w.bits(0b1111, 4);
            w.bits(dod as u64, 64);
        }
    }
}

/// Appends to `out` the samples of an XOR chunk that lie in `range`.
pub fn decode_xor(data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    let n = num_samples(data);
    if n == 0 {
        return Ok(());
    }
    read_all(&data[2..], n, range, out).ok_or_else(|| cut_short("XOR"))
}

#[inline]
fn read_all(data: &[u8], n: usize, range: TimeRange, out: &mut SampleBuf) -> Option<()> {
    let mut r = BitReader::new(data);
    let mut t = r.varint()?;
    let mut v = r.bits(64)?;
    let (mut delta, mut lead, mut trail) = (0i64, xor_value::NO_WINDOW, 0u8);
    out.t.reserve(n.min(1024));
    out.v.reserve(n.min(1024));
    for i in 0..n {
        if i == 1 {
            delta = r.uvarint()? as i64;
        } else if i > 1 {
            let dod = match r.ones(4)? {
                0 => 0,
                1 => r.dod(14)?,
                2 => r.dod(17)?,
                3 => r.dod(20)?,
                _ => r.bits(64)? as i64,
            };
            delta = delta.wrapping_add(dod);
        }
        if i > 0 {
            t = t.wrapping_add(delta);
            v = xor_value::read(&mut r, v, &mut lead, &mut trail)?;
        }
        if t > range.max_ms {
            return Some(());
        }
        if t >= range.min_ms {
            out.push(t, f64::from_bits(v), 0);
        }
    }
    Some(())
}
