//! `h </ x` and `h >/ x`: the observations below or above a value.

use strandline_storage::model::FloatHistogram;

use super::{Bucket, compact, negative, positive, zero_bucket};

/// Keeps what lies below (`upper`) or above `at`. Sum and count are estimated anew only if something went.
pub(crate) fn trim(h: &FloatHistogram, at: f64, upper: bool) -> FloatHistogram {
    let mut out = h.clone();
    let custom = h.uses_custom_buckets();
    let (mut count, mut sum, mut cut) = (0.0, 0.0, false);
    let mut seen = [false, false];
    for (side, is_positive, buckets) in [(0, true, positive(h)), (1, false, negative(h))] {
        for (i, b) in buckets.iter().enumerate() {
            if b.count == 0.0 {
                continue;
            }
            seen[side] = true;
            let (inside, touched) = if upper { (b.upper <= at, b.lower < at) } else { (b.lower >= at, b.upper > at) };
            let (keep, mid) = if inside {
                (b.count, midpoint(b.lower, b.upper, is_positive, custom))
            } else if touched {
                split(b, at, upper, is_positive, custom)
            } else {
                (0.0, 0.0)
            };
            count += keep;
            if keep != 0.0 {
                sum += mid * keep;
            }
            if keep != b.count {
                cut = true;
                let counts = if is_positive { &mut out.positive_buckets } else { &mut out.negative_buckets };
                counts[i] = keep;
            }
        }
    }
    if h.zero_count > 0.0 {
        let (keep, mid) = split_zero(&zero_bucket(h), at, upper, seen);
        cut |= keep != h.zero_count;
        out.zero_count = keep;
        sum += mid * keep;
        count += keep;
    }
    if cut {
        out.count = count;
        out.sum = sum;
        compact(&mut out);
    }
    out
}

/// What stays of the bucket that `at` cuts, and the value that stands for it.
fn split(b: &Bucket, at: f64, upper: bool, is_positive: bool, custom: bool) -> (f64, f64) {
    if b.lower == f64::NEG_INFINITY || b.upper == f64::INFINITY {
        return split_infinite(b, at, upper);
    }
    let share = if custom {
        (at - b.lower) / (b.upper - b.lower)
    } else {
        let (lo, hi, x) = (b.lower.abs().log2(), b.upper.abs().log2(), at.abs().log2());
        if is_positive { (x - lo) / (hi - lo) } else { 1.0 - (x - hi) / (lo - hi) }
    };
    let below = b.count * share;
    if upper { (below, midpoint(b.lower, at, is_positive, custom)) } else { (b.count - below, midpoint(at, b.upper, is_positive, custom)) }
}

/// Nothing is known of how observations lie in a bucket of infinite width, so it goes as a whole or stays,
/// save that a first bucket with a positive bound is taken to start at zero where it is cut above zero.
fn split_infinite(b: &Bucket, at: f64, upper: bool) -> (f64, f64) {
    if b.lower == f64::NEG_INFINITY {
        let from_zero = b.upper > 0.0 && b.upper != f64::INFINITY;
        return match upper {
            true if at >= b.upper => (b.count, 0.0),
            true if at > 0.0 && from_zero => (b.count * at / b.upper, at / 2.0),
            true if b.upper <= 0.0 => (b.count, at),
            false if at >= 0.0 && b.upper > at && from_zero => (b.count * (1.0 - at / b.upper), (at + b.upper) / 2.0),
            _ => (0.0, 0.0),
        };
    }
    if !upper && at >= b.lower { (b.count, at) } else { (0.0, 0.0) }
}

fn split_zero(z: &Bucket, at: f64, upper: bool, [has_positive, has_negative]: [bool; 2]) -> (f64, f64) {
    let lo = if has_positive && !has_negative { 0.0 } else { z.lower };
    let hi = if has_negative && !has_positive { 0.0 } else { z.upper };
    let all = (z.count, (lo + hi) / 2.0);
    match upper {
        true if at <= lo => (0.0, 0.0),
        true if at >= hi => all,
        true => (z.count * (at - lo) / (hi - lo), (lo + at) / 2.0),
        false if at <= lo => all,
        false if at >= hi => (0.0, 0.0),
        false => (z.count * (hi - at) / (hi - lo), (at + hi) / 2.0),
    }
}

fn midpoint(lo: f64, hi: f64, is_positive: bool, linear: bool) -> f64 {
    match (lo.is_infinite(), hi.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if hi > 0.0 => hi / 2.0,
        (true, false) => hi,
        (false, true) => lo,
        _ if linear => (lo + hi) / 2.0,
        _ => {
            let m = (lo * hi).abs().sqrt();
            if is_positive { m } else { -m }
        }
    }
}
