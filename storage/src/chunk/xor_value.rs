//! Gorilla's XOR code of values, shared by every encoding.

use crate::codec::{BitReader, BitWriter};

/// No window known yet.
pub(super) const NO_WINDOW: u8 = 0xff;

#[inline]
fn window(x: u64) -> (u8, u8) {
    ((x.leading_zeros() as u8).min(31), x.trailing_zeros() as u8)
}

/// Writes `v` against `prev`: `0`, or `10` and the window's bits, or `11`, 5 bits of leading zeros, 6 bits of length.
#[inline]
pub(super) fn write(w: &mut BitWriter<'_>, v: u64, prev: u64, lead: &mut u8, trail: &mut u8) {
    match v ^ prev {
        0 => w.bit(false),
        x => put(w, true, x, lead, trail),
    }
}

/// The part behind the "changed" bit; `x` is not 0.
#[inline]
pub(super) fn write_changed(w: &mut BitWriter<'_>, x: u64, lead: &mut u8, trail: &mut u8) {
    put(w, false, x, lead, trail);
}

/// Writes what tells of `x`, behind the "changed" bit or with it: at once if 64 bits hold it.
#[inline]
fn put(w: &mut BitWriter<'_>, with_changed_bit: bool, x: u64, lead: &mut u8, trail: &mut u8) {
    let (l, t) = window(x);
    let before = with_changed_bit as u64;
    let (head, head_bits) = if *lead != NO_WINDOW && l >= *lead && t >= *trail {
        (before << 1, 1 + before as u32)
    } else {
        (*lead, *trail) = (l, t);
        let n = 64 - l as u64 - t as u64;
        (before << 12 | 1 << 11 | (l as u64) << 6 | (n & 63), 12 + before as u32)
    };
    let n = 64 - *lead as u32 - *trail as u32;
    if head_bits + n <= 64 {
        w.bits(head << n | x >> *trail, head_bits + n);
    } else {
        w.bits(head, head_bits);
        w.bits(x >> *trail, n);
    }
}

#[inline]
pub(super) fn read(r: &mut BitReader<'_>, prev: u64, lead: &mut u8, trail: &mut u8) -> Option<u64> {
    if !r.bit()? { Some(prev) } else { read_changed(r, prev, lead, trail) }
}

#[inline]
pub(super) fn read_changed(r: &mut BitReader<'_>, prev: u64, lead: &mut u8, trail: &mut u8) -> Option<u64> {
    if r.bit()? {
        let h = r.bits(11)?;
        *lead = (h >> 6) as u8;
        let n = (h & 63) as u8;
        let n = if n == 0 { 64 } else { n };
        // A window that does not fit in 64 bits is damage.
        *trail = 64u8.checked_sub(*lead)?.checked_sub(n)?;
    } else if *lead == NO_WINDOW {
        return None;
    }
    let n = 64 - *lead as u32 - *trail as u32;
    Some(prev ^ (r.bits(n)? << *trail))
}
