//! Encoding 4: XOR2, floats with joint control bits and optional start timestamps.
//!
//! Behind the sample count stands one byte: the top bit says that the first sample's start timestamp is known, the
//! low seven give the index from which on every sample carries one.

use super::{cut_short, num_samples, xor_value};
use crate::codec::{BitReader, BitWriter, put_uvarint, put_varint};
use crate::error::Result;
use crate::model::{STALE_NAN, TimeRange};
use crate::read::SampleBuf;

/// The last index at which per-sample start timestamps can begin.
const LAST_CHANGE: u16 = 0x7f;

/// The state of an open XOR2 chunk; the bytes are always a valid chunk.
#[derive(Clone, Debug)]
pub struct Xor2Appender {
    buf: Vec<u8>,
    t: i64,
    delta: i64,
    /// The last value that was not a staleness marker.
    base: u64,
    last: u64,
    st: i64,
    st_diff: i64,
    n: u16,
    change_on: u8,
    lead: u8,
    trail: u8,
    free: u8,
}

impl Default for Xor2Appender {
    fn default() -> Self {
        Xor2Appender {
            buf: Vec::new(),
            t: 0,
            delta: 0,
            base: 0,
            last: 0,
            st: 0,
            st_diff: 0,
            n: 0,
            change_on: 0,
            lead: xor_value::NO_WINDOW,
            trail: 0,
            free: 0,
        }
    }
}

impl Xor2Appender {
    /// Appends a sample; `t` is later than the last, `st` is 0 if unknown.
    pub fn append(&mut self, t: i64, v: f64, st: i64) {
        let bits = v.to_bits();
        if self.n == 0 {
            self.buf = Vec::with_capacity(24);
            self.buf.extend_from_slice(&[0, 0, 0]);
            put_varint(&mut self.buf, t);
            self.buf.extend_from_slice(&bits.to_be_bytes());
            if st != 0 {
                put_varint(&mut self.buf, t.wrapping_sub(st));
                self.buf[2] = 0x80;
            }
        } else {
            self.next(t, bits, st);
        }
        self.st = st;
        self.t = t;
        self.last = bits;
        if bits != STALE_NAN {
            self.base = bits;
        }
        self.n += 1;
        self.buf[..2].copy_from_slice(&self.n.to_be_bytes());
    }

    fn next(&mut self, t: i64, bits: u64, st: i64) {
        let delta = t.wrapping_sub(self.t);
        if self.n == 1 {
            self.buf.reserve_exact(6);
            put_uvarint(&mut self.buf, delta as u64);
        }
        let mut w = BitWriter::new(&mut self.buf, &mut self.free);
        if self.n == 1 {
            write_value(&mut w, bits, self.base, &mut self.lead, &mut self.trail);
        } else {
            let dod = delta.wrapping_sub(self.delta);
            write_joint(&mut w, dod, bits, self.base, &mut self.lead, &mut self.trail);
        }
        self.delta = delta;
        let diff = self.t.wrapping_sub(st);
        if self.change_on > 0 {
            w.varbit_int(diff.wrapping_sub(self.st_diff));
            self.st_diff = diff;
        } else if st != self.st || self.n == LAST_CHANGE {
            w.varbit_int(diff);
            self.change_on = self.n as u8;
            self.buf[2] |= self.change_on;
            self.st_diff = diff;
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
        (self.t, f64::from_bits(self.last))
    }
    /// The last start timestamp.
    pub fn last_start(&self) -> i64 {
        self.st
    }
    /// Heap bytes of the buffer.
    pub fn capacity_bytes(&self) -> usize {
        self.buf.capacity()
    }
    /// Takes the bytes, leaving an empty chunk that still knows the last sample.
    pub fn take(&mut self) -> Vec<u8> {
        let kept = Xor2Appender { t: self.t, last: self.last, ..Xor2Appender::default() };
        std::mem::replace(self, kept).buf
    }
    /// Whether the sample can still go into this chunk: a start timestamp that first changes beyond index 127 can't.
    pub fn takes(&self, st: i64) -> bool {
        self.change_on > 0 || self.n <= LAST_CHANGE || st == self.st
    }
}

fn write_value(w: &mut BitWriter<'_>, bits: u64, base: u64, lead: &mut u8, trail: &mut u8) {
    if bits == STALE_NAN {
        w.bits(0b111, 3);
    } else if bits == base {
        w.bit(false);
    } else {
        // `10` reuses the window, `110` opens a new one: a one bit before the common code with an inverted look.
        w.bit(true);
        let x = bits ^ base;
        let (l, t) = ((x.leading_zeros() as u8).min(31), x.trailing_zeros() as u8);
        if *lead != xor_value::NO_WINDOW && l >= *lead && t >= *trail {
            w.bit(false);
            w.bits(x >> *trail, 64 - *lead as u32 - *trail as u32);
        } else {
            (*lead, *trail) = (l, t);
            let n = 64 - l as u32 - t as u32;
            w.bits(0b10 << 11 | (l as u64) << 6 | (n as u64 & 63), 13);
            w.bits(x >> t, n);
        }
    }
}

fn write_joint(w: &mut BitWriter<'_>, dod: i64, bits: u64, base: u64, lead: &mut u8, trail: &mut u8) {
    if dod == 0 {
        if bits == STALE_NAN {
            w.bits(0b11111, 5);
        } else if bits == base {
            w.bit(false);
        } else {
            w.bits(0b10, 2);
            xor_value::write_changed(w, bits ^ base, lead, trail);
        }
        return;
    }
    match dod {
        -4096..=4095 => w.bits(0b110 << 13 | (dod as u64 & 0x1fff), 16),
        -524_288..=524_287 => w.bits(0b1110 << 20 | (dod as u64 & 0xf_ffff), 24),
        _ => {
            w.bits(0b11110, 5);
            w.bits(dod as u64, 64);
        }
    }
    write_value(w, bits, base, lead, trail);
}

/// Appends to `out` the samples of an XOR2 chunk that lie in `range`.
pub fn decode_xor2(data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    let n = num_samples(data);
    if n == 0 {
        return Ok(());
    }
    let Some((head, rest)) = data.get(2..).and_then(|d| d.split_first()) else { return Err(cut_short("XOR2")) };
    read_all(*head, rest, n, range, out).ok_or_else(|| cut_short("XOR2"))
}

fn signed(v: u64, n: u32) -> i64 {
    ((v << (64 - n)) as i64) >> (64 - n)
}

fn read_value(r: &mut BitReader<'_>, base: u64, lead: &mut u8, trail: &mut u8) -> Option<u64> {
    match r.ones(3)? {
        0 => Some(base),
        1 => read_window(r, base, *lead, *trail),
        2 => {
            let h = r.bits(11)?;
            open_window(h, lead, trail)?;
            read_window(r, base, *lead, *trail)
        }
        _ => Some(STALE_NAN),
    }
}

fn open_window(h: u64, lead: &mut u8, trail: &mut u8) -> Option<()> {
    *lead = (h >> 6) as u8;
    let n = if h & 63 == 0 { 64 } else { (h & 63) as u8 };
    *trail = 64u8.checked_sub(*lead)?.checked_sub(n)?;
    Some(())
}

fn read_window(r: &mut BitReader<'_>, base: u64, lead: u8, trail: u8) -> Option<u64> {
    if lead == xor_value::NO_WINDOW {
        return None;
    }
    Some(base ^ (r.bits(64 - lead as u32 - trail as u32)? << trail))
}

fn read_all(head: u8, data: &[u8], n: usize, range: TimeRange, out: &mut SampleBuf) -> Option<()> {
    let mut r = BitReader::new(data);
    let change_on = (head & 0x7f) as usize;
    let (mut t, mut delta, mut base) = (0i64, 0i64, 0u64);
    let (mut lead, mut trail) = (xor_value::NO_WINDOW, 0u8);
    let (mut st, mut st_diff) = (0i64, 0i64);
    for i in 0..n {
        let before = t;
        let v = match i {
            0 => {
                t = r.varint()?;
                let v = r.bits(64)?;
                if head & 0x80 != 0 {
                    st = t.wrapping_sub(r.varint()?);
                }
                v
            }
            1 => {
                delta = r.uvarint()? as i64;
                t = t.wrapping_add(delta);
                read_value(&mut r, base, &mut lead, &mut trail)?
            }
            _ => {
                let k = r.ones(5)?;
                let dod = match k {
                    2 => signed(r.bits(13)?, 13),
                    3 => signed(r.bits(20)?, 20),
                    4 => r.bits(64)? as i64,
                    _ => 0,
                };
                delta = delta.wrapping_add(dod);
                t = t.wrapping_add(delta);
                match k {
                    0 => base,
                    1 => xor_value::read_changed(&mut r, base, &mut lead, &mut trail)?,
                    5 => STALE_NAN,
                    _ => read_value(&mut r, base, &mut lead, &mut trail)?,
                }
            }
        };
        if v != STALE_NAN {
            base = v;
        }
        if change_on > 0 && i >= change_on {
            let x = r.varbit_int()?;
            st_diff = if i == change_on { x } else { st_diff.wrapping_add(x) };
            st = before.wrapping_sub(st_diff);
        }
        if t > range.max_ms {
            return Some(());
        }
        if t >= range.min_ms {
            out.push(t, f64::from_bits(v), st);
        }
    }
    Some(())
}
