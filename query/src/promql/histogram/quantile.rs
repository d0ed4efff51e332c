//! Quantiles and fractions of native and classic histograms.

use strandline_storage::model::FloatHistogram;

use super::{Bucket, all_buckets};

/// What NaN observations did to a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NanNote {
    /// None there.
    None,
    /// The quantile lies among them.
    Result,
    /// They push the quantile up, or are in no fraction.
    Skew,
}

/// Quantile `q` of a native histogram.
pub(crate) fn native_quantile(q: f64, h: &FloatHistogram) -> (f64, NanNote) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, NanNote::None);
    }
    if q > 1.0 {
        return (f64::INFINITY, NanNote::None);
    }
    if h.count == 0.0 || q.is_nan() {
        return (f64::NAN, NanNote::None);
    }
    // NaN observations are in the count but in no bucket, so ranks hold only from below.
    let forward = h.sum.is_nan() || q < 0.5;
    let mut buckets = all_buckets(h);
    let mut rank = if forward { q * h.count } else { (1.0 - q) * h.count };
    if !forward {
        buckets.reverse();
    }
    let mut b = Bucket { lower: 0.0, upper: 0.0, count: 0.0, lower_inclusive: false, upper_inclusive: false };
    let mut count = 0.0;
    for x in buckets {
        b = x;
        if b.count == 0.0 {
            continue;
        }
        count += b.count;
        if count >= rank {
            break;
        }
    }
    let custom = h.uses_custom_buckets();
    if !custom && b.lower < 0.0 && b.upper > 0.0 {
        // With buckets on one side only, the zero bucket holds that side's observations.
        if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
            b.lower = 0.0;
        } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
            b.upper = 0.0;
        }
    } else if custom {
        if b.lower == f64::NEG_INFINITY {
            if b.upper <= 0.0 {
                return (b.upper, NanNote::None);
            }
            b.lower = 0.0;
        } else if b.upper == f64::INFINITY {
            return (b.lower, NanNote::None);
        }
    }
    count = count.min(h.count);
    if count < rank {
        if h.sum.is_nan() {
            return (f64::NAN, NanNote::Result);
        }
        return (b.upper, NanNote::None);
    }
    rank = if forward { rank - (count - b.count) } else { count - rank };
    let note = if h.sum.is_nan() { NanNote::Skew } else { NanNote::None };
    let fraction = rank / b.count;
    if custom || (b.lower <= 0.0 && b.upper >= 0.0) {
        return (b.lower + (b.upper - b.lower) * fraction, note);
    }
    let (lo, hi) = (b.lower.abs().log2(), b.upper.abs().log2());
    if b.lower > 0.0 {
        return ((lo + (hi - lo) * fraction).exp2(), note);
    }
    (-(hi + (lo - hi) * (1.0 - fraction)).exp2(), note)
}

/// Share of observations between the bounds.
pub(crate) fn native_fraction(lower: f64, upper: f64, h: &FloatHistogram) -> (f64, NanNote) {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, NanNote::None);
    }
    let note = if h.sum.is_nan() { NanNote::Skew } else { NanNote::None };
    if lower >= upper {
        return (0.0, note);
    }
    let custom = h.uses_custom_buckets();
    let (mut rank, mut lower_rank, mut upper_rank) = (0.0, None, None);
    let buckets = all_buckets(h);
    // Beyond the last bucket all real observations lie below; NaN ones never do.
    let top = if h.sum.is_nan() { buckets.iter().map(|b| b.count).sum() } else { h.count };
    for mut b in buckets {
        let mut zero = false;
        if custom {
            if b.lower == f64::NEG_INFINITY && b.upper > 0.0 {
                b.lower = 0.0;
            }
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            zero = true;
            if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
                b.lower = 0.0;
            } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
                b.upper = 0.0;
            }
        }
        let rank_at = |v: f64| {
            if custom || zero {
                // A bucket of infinite width can't be interpolated: from -Inf all of it counts, to +Inf nothing.
                if b.lower == f64::NEG_INFINITY {
                    return rank + b.count;
                }
                return rank + b.count * (v - b.lower) / (b.upper - b.lower);
            }
            let (lo, hi, x) = (b.lower.abs().log2(), b.upper.abs().log2(), v.abs().log2());
            rank + b.count * if v > 0.0 { (x - lo) / (hi - lo) } else { 1.0 - (x - hi) / (lo - hi) }
        };
        for (bound, slot) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if slot.is_none() && b.lower >= bound {
                *slot = Some(rank);
            }
            if slot.is_none() && b.lower < bound && b.upper > bound {
                *slot = Some(rank_at(bound));
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank += b.count;
    }
    let cap = |r: Option<f64>| r.filter(|r| *r <= top).unwrap_or(top);
    ((cap(upper_rank) - cap(lower_rank)) / h.count, note)
}

/// A classic bucket: upper bound and cumulative count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Classic {
    pub upper: f64,
    pub count: f64,
}

/// How far counts had to be raised to make them monotonic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forced {
    pub min_bucket: f64,
    pub max_bucket: f64,
    pub max_diff: f64,
}

fn sort_and_coalesce(buckets: &mut Vec<Classic>) {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    let mut n = 0;
    for i in 0..buckets.len() {
        if n > 0 && buckets[n - 1].upper == buckets[i].upper {
            buckets[n - 1].count += buckets[i].count;
        } else {
            buckets[n] = buckets[i];
            n += 1;
        }
    }
    buckets.truncate(n);
}

/// Relative differences below this are rounding, not decreases.
const SMALL_DELTA: f64 = 1e-12;

fn ensure_monotonic(buckets: &mut [Classic]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut prev = buckets[0].count;
    for b in &mut buckets[1..] {
        let cur = b.count;
        if cur == prev {
            continue;
        }
        if almost_equal(prev, cur, SMALL_DELTA) {
            b.count = prev;
            continue;
        }
        if cur < prev {
            b.count = prev;
            let diff = prev - cur;
            let f = forced.get_or_insert(Forced { min_bucket: b.upper, max_bucket: b.upper, max_diff: diff });
            f.max_bucket = b.upper;
            f.max_diff = f.max_diff.max(diff);
            continue;
        }
        prev = cur;
    }
    forced
}

fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let sum = a.abs() + b.abs();
    let diff = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return diff < epsilon * f64::MIN_POSITIVE;
    }
    diff / sum.min(f64::MAX) < epsilon
}

/// Quantile of a classic histogram.
pub(crate) fn classic_quantile(q: f64, buckets: &mut Vec<Classic>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    sort_and_coalesce(buckets);
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return (f64::NAN, None);
    }
    let forced = ensure_monotonic(buckets);
    let n = buckets.len();
    if n < 2 {
        return (f64::NAN, None);
    }
    let total = buckets[n - 1].count;
    if total == 0.0 {
        return (f64::NAN, None);
    }
    let rank = q * total;
    let b = buckets[..n - 1].partition_point(|b| b.count.is_nan() || rank.is_nan() || b.count < rank);
    if b == n - 1 {
        return (buckets[n - 2].upper, forced);
    }
    if b == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let (start, below) = if b > 0 { (buckets[b - 1].upper, buckets[b - 1].count) } else { (0.0, 0.0) };
    (start + (buckets[b].upper - start) * ((rank - below) / (buckets[b].count - below)), forced)
}

/// Share of a classic histogram's observations between the bounds.
pub(crate) fn classic_fraction(lower: f64, upper: f64, buckets: &mut Vec<Classic>) -> f64 {
    sort_and_coalesce(buckets);
    let Some(last) = buckets.last().copied().filter(|b| b.upper == f64::INFINITY) else { return f64::NAN };
    if last.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let (mut rank, mut lower_rank, mut upper_rank) = (0.0, None, None);
    let mut low = f64::NEG_INFINITY;
    for (i, b) in buckets.iter().enumerate() {
        if i == 0 && b.upper > 0.0 {
            low = 0.0;
        }
        let rank_at = |v: f64| {
            if low == f64::NEG_INFINITY { b.count } else { rank + (b.count - rank) * (v - low) / (b.upper - low) }
        };
        for (bound, slot) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if slot.is_none() && low >= bound {
                *slot = Some(rank);
            }
            if slot.is_none() && low < bound && b.upper > bound {
                *slot = Some(rank_at(bound));
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank = b.count;
        low = b.upper;
    }
    let cap = |r: Option<f64>| r.filter(|r| *r <= last.count).unwrap_or(last.count);
    (cap(upper_rank) - cap(lower_rank)) / last.count
}

/// Variance of the observations, each taken at the middle of its bucket.
pub(crate) fn variance(h: &FloatHistogram) -> f64 {
    let mean = h.sum / h.count;
    let (mut sum, mut c) = (0.0, 0.0);
    for b in all_buckets(h) {
        if b.count == 0.0 {
            continue;
        }
        let value = if h.uses_custom_buckets() {
            (b.upper + b.lower) / 2.0
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            0.0
        } else {
            let m = (b.upper * b.lower).sqrt();
            if b.upper < 0.0 { -m } else { m }
        };
        let d = value - mean;
        (sum, c) = super::arith::kahan(b.count * d * d, sum, c);
    }
    (sum + c) / h.count
}

/// So few values are sorted faster than parted.
const FEW: usize = 20;

/// Quantile of plain values, which get sorted. NaN counts as the smallest.
pub(crate) fn of_values(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let n = values.len();
    let rank = q * (n - 1) as f64;
    let lo = rank.floor() as usize;
    let hi = (lo + 1).min(n - 1);
    let weight = rank - rank.floor();
    // NaN sorts first of all, below negative infinity: without one the bits tell the order.
    let cmp = match values.iter().fold(false, |any, v| any | v.is_nan()) {
        true => |a: &f64, b: &f64| b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(b)),
        false => f64::total_cmp,
    };
    let (at_lo, at_hi) = if n <= FEW {
        values.sort_unstable_by(cmp);
        (values[lo], values[hi])
    } else {
        let (_, at_lo, above) = values.select_nth_unstable_by(lo, cmp);
        (*at_lo, above.iter().copied().min_by(cmp).unwrap_or(*at_lo))
    };
    at_lo * (1.0 - weight) + at_hi * weight
}
