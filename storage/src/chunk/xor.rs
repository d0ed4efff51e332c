//! Encoding 1: Gorilla XOR.

use super::{cut_short, num_samples, xor_value};
use crate::codec::{BitWriter, Reader, Words, put_uvarint, put_varint};
use crate::error::Result;
use crate::model::TimeRange;
use crate::read::SampleBuf;

/// The state of an open XOR chunk. The number of samples at the start of the bytes is put there when they are asked for:
/// an append touches their end alone.
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
    pub fn bytes(&mut self) -> &[u8] {
        if let Some(count) = self.buf.first_chunk_mut() {
            *count = self.n.to_be_bytes();
        }
        &self.buf
    }
    /// Length of [`XorAppender::bytes`].
    pub fn size_bytes(&self) -> usize {
        self.buf.len()
    }
    /// The time of the first sample.
    pub fn first_time(&self) -> Option<i64> {
        Reader::new(self.buf.get(2..)?).varint().ok()
    }
    /// The last byte, which the next sample is written to.
    pub(crate) fn edge(&self) -> u8 {
        self.buf.last().copied().unwrap_or(0)
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
        self.bytes();
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
    // A sample takes two bits at least: a count that the bytes can't hold reserves nothing.
    let room = n.min(data.len() * 4 + 2);
    let from = out.t.len();
    out.t.resize(from + room, 0);
    out.v.resize(from + room, 0.0);
    let mut at = from;
    // Each sample is written where the next one belongs, and counts only if it lies in the range.
    let (times, values) = (&mut out.t[..], &mut out.v[..]);
    let done = each(&data[2..], n, range.max_ms, |t, v| {
        if let (Some(x), Some(y)) = (times.get_mut(at), values.get_mut(at)) {
            (*x, *y) = (t, f64::from_bits(v));
            at += (t >= range.min_ms) as usize;
        }
    });
    out.t.truncate(at);
    out.v.truncate(at);
    if !out.st.is_empty() {
        out.st.resize(at, 0);
    }
    if !out.h.is_empty() {
        out.h.resize(at, None);
    }
    done.ok_or_else(|| cut_short("XOR"))
}

/// The last sample of an XOR chunk at or before `max_ms`, and whether it is the chunk's last.
pub fn last_of_xor(data: &[u8], max_ms: i64) -> Result<Option<(i64, f64, bool)>> {
    let n = num_samples(data);
    if n == 0 {
        return Ok(None);
    }
    let (mut last, mut seen) = ((0, 0), 0);
    each(&data[2..], n, max_ms, |t, v| {
        last = (t, v);
        seen += 1;
    })
    .ok_or_else(|| cut_short("XOR"))?;
    Ok((seen > 0).then_some((last.0, f64::from_bits(last.1), seen == n)))
}

/// Calls `f` with each sample up to `max_ms`; `None` if the bytes end before.
#[inline(always)]
fn each(data: &[u8], n: usize, max_ms: i64, mut f: impl FnMut(i64, u64)) -> Option<()> {
    let mut r = Reader::new(data);
    let mut t = r.varint().ok()?;
    let mut v = r.be_u64().ok()?;
    if t > max_ms {
        return Some(());
    }
    f(t, v);
    if n == 1 {
        return Some(());
    }
    let mut delta = r.uvarint().ok()? as i64;
    let mut bits = Words::new(data, r.position());
    let mut window = Window::default();
    let mut w = bits.peek();
    for left in (1..n).rev() {
        t = t.wrapping_add(delta);
        // At most 24 of the 57 bits at hand are used: the value's control bits and window are there too.
        if w >> 63 == 0 {
            bits.skip(1);
        } else {
            bits.skip(if w >> 62 == 0b10 { 2 } else { window.set(w)? });
            v ^= window.take(&mut bits)?;
        }
        if t > max_ms {
            break;
        }
        f(t, v);
        if left == 1 {
            break;
        }
        w = bits.peek();
        if w >> 63 == 0 {
            bits.skip(1);
            w <<= 1;
        } else if w >> 62 == 0b10 {
            // What comes a few milliseconds early or late.
            bits.skip(16);
            delta = delta.wrapping_add(signed(w << 2 >> 50, 14));
            w <<= 16;
        } else {
            delta = delta.wrapping_add(large_dod(&mut bits, w));
            w = bits.peek();
        }
    }
    bits.inside()
}

/// Values above half the range are negative.
#[inline(always)]
fn signed(raw: u64, width: u32) -> i64 {
    raw.wrapping_sub(((raw > 1 << (width - 1)) as u64) << width) as i64
}

/// Takes a dod of more than 14 bits.
#[cold]
fn large_dod(bits: &mut Words<'_>, w: u64) -> i64 {
    let (dod, used) = match w >> 60 {
        0b1100 | 0b1101 => (signed(w << 3 >> 47, 17), 20),
        0b1110 => (signed(w << 4 >> 44, 20), 24),
        _ => {
            bits.skip(4);
            (bits.take(64) as i64, 0)
        }
    };
    bits.skip(used);
    dod
}

/// Where the bits of a value that changed lie.
#[derive(Default)]
struct Window {
    /// 0: none known yet.
    len: u32,
    trail: u32,
}

impl Window {
    /// Reads a new one from behind the two control bits; how many bits that are in all.
    #[inline(always)]
    fn set(&mut self, w: u64) -> Option<u32> {
        let h = (w << 2 >> 53) as u32;
        let (lead, len) = (h >> 6, h & 63);
        self.len = if len == 0 { 64 } else { len };
        // A window that does not fit in 64 bits is damage.
        self.trail = 64u32.checked_sub(lead + self.len)?;
        Some(13)
    }

    #[inline(always)]
    fn take(&self, bits: &mut Words<'_>) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        Some(bits.take(self.len) << self.trail)
    }
}
