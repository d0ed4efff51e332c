//! Native histograms for callers: buckets to show, sums to build.

use strandline_storage::model::FloatHistogram;

use super::{all_buckets, arith};

/// A bucket as Prometheus' API shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HistogramBucket {
    /// 0: `(lo, hi]`, 1: `[lo, hi)`, 2: `(lo, hi)`, 3: `[lo, hi]`.
    pub rule: u8,
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Observations in it.
    pub count: f64,
}

/// The buckets that hold something, from the lowest to the highest, cut off where the zero bucket begins. That one is shown with a
/// positive count only.
pub fn buckets(h: &FloatHistogram) -> Vec<HistogramBucket> {
    all_buckets(h)
        .into_iter()
        .filter(|b| b.count != 0.0)
        .map(|b| {
            let rule = match (b.lower_inclusive, b.upper_inclusive) {
                (true, true) => 3,
                (true, false) => 1,
                (false, true) => 0,
                (false, false) => 2,
            };
            HistogramBucket { rule, lower: b.lower, upper: b.upper, count: b.count }
        })
        .collect()
}

/// `a += b`; false if one has custom buckets and the other exponential ones.
pub fn add(a: &mut FloatHistogram, b: &FloatHistogram) -> bool {
    arith::add(a, b).is_ok()
}

/// `a -= b`; false if one has custom buckets and the other exponential ones.
pub fn subtract(a: &mut FloatHistogram, b: &FloatHistogram) -> bool {
    arith::sub(a, b).is_ok()
}

/// Drops empty buckets.
pub fn compact(h: &mut FloatHistogram) {
    super::compact(h);
}

/// The histogram as text, e.g. `{count:2, sum:3, (1,2]:2}`.
pub fn to_text(h: &FloatHistogram) -> String {
    super::to_text(h)
}
