//! Adding integer histograms, for series that come as increases; and giving integer counts back their type.

use std::collections::BTreeMap;

use super::histogram_resolution::holder;
use super::{BucketSpan, FloatHistogram, Histogram};

type Buckets = BTreeMap<i32, i64>;

fn absolute(spans: &[BucketSpan], deltas: &[i64]) -> Buckets {
    let (mut out, mut index, mut count) = (Buckets::new(), 0i64, 0i64);
    let mut deltas = deltas.iter();
    for s in spans {
        index += s.offset as i64;
        for d in deltas.by_ref().take(s.length as usize) {
            count = count.saturating_add(*d);
            if count != 0 {
                out.insert(index.clamp(i32::MIN as i64, i32::MAX as i64) as i32, count);
            }
            index += 1;
        }
    }
    out
}

fn packed(buckets: &Buckets) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas): (Vec<BucketSpan>, Vec<i64>) = (Vec::new(), Vec::new());
    let (mut next, mut before) = (0i64, 0i64);
    for (index, count) in buckets {
        let gap = *index as i64 - next;
        match spans.last_mut() {
            Some(s) if gap == 0 => s.length += 1,
            _ => spans.push(BucketSpan { offset: gap as i32, length: 1 }),
        }
        deltas.push(count - before);
        (next, before) = (*index as i64 + 1, *count);
    }
    (spans, deltas)
}

/// Buckets of a coarser schema: `by` times two become one.
fn coarser(buckets: Buckets, by: i32) -> Buckets {
    let mut out = Buckets::new();
    for (index, count) in buckets {
        let c = out.entry(holder(i64::from(index), by) as i32).or_insert(0);
        *c = c.saturating_add(count);
    }
    out
}

/// Upper bound of an exponential bucket; bucket `i` reaches from bound `i - 1` to bound `i`.
fn bound(index: i32, schema: i32) -> f64 {
    (index as f64 * (-(schema as f64)).exp2()).exp2()
}

struct Parts {
    schema: i32,
    threshold: f64,
    zero: u64,
    sides: [Buckets; 2],
}

impl Parts {
    fn of(h: &Histogram) -> Self {
        let sides = [absolute(&h.positive_spans, &h.positive_buckets), absolute(&h.negative_spans, &h.negative_buckets)];
        // A threshold that is no number would never be reached.
        Parts { schema: h.schema, threshold: h.zero_threshold.max(0.0), zero: h.zero_count, sides }
    }

    fn reduce(&mut self, schema: i32) {
        let by = self.schema - schema;
        if by > 0 {
            self.sides = std::mem::take(&mut self.sides).map(|s| coarser(s, by));
            self.schema = schema;
        }
    }

    /// Widens the zero bucket to `threshold`, or to the end of a bucket that it would cut.
    fn widen(&mut self, threshold: f64) {
        if threshold <= self.threshold {
            return;
        }
        self.threshold = threshold;
        loop {
            let mut reach = self.threshold;
            for side in &mut self.sides {
                while let Some((index, count)) = side.first_key_value().map(|(i, c)| (*i, *c)) {
                    if bound(index - 1, self.schema) >= self.threshold {
                        break;
                    }
                    side.remove(&index);
                    self.zero = self.zero.saturating_add(count.max(0) as u64);
                    reach = reach.max(bound(index, self.schema));
                }
            }
            if reach == self.threshold {
                return;
            }
            self.threshold = reach;
        }
    }
}

impl Histogram {
    /// Adds another's observations, at the coarser resolution and the wider zero bucket of both. False, and nothing
    /// changed, if their bounds do not go together.
    pub fn merge(&mut self, other: &Histogram) -> bool {
        if self.uses_custom_buckets() != other.uses_custom_buckets()
            || (self.uses_custom_buckets() && self.custom_values != other.custom_values)
        {
            return false;
        }
        let (mut a, mut b) = (Parts::of(self), Parts::of(other));
        if !self.uses_custom_buckets() {
            let schema = a.schema.min(b.schema);
            a.reduce(schema);
            b.reduce(schema);
            // Each may have to go beyond the other's: a few rounds at most, the zero bucket only grows.
            while a.threshold != b.threshold {
                a.widen(b.threshold);
                b.widen(a.threshold);
            }
        }
        for (mine, theirs) in a.sides.iter_mut().zip(b.sides) {
            for (index, count) in theirs {
                let c = mine.entry(index).or_insert(0);
                *c = c.saturating_add(count);
            }
        }
        (self.positive_spans, self.positive_buckets) = packed(&a.sides[0]);
        (self.negative_spans, self.negative_buckets) = packed(&a.sides[1]);
        self.schema = a.schema;
        self.zero_threshold = a.threshold;
        self.zero_count = a.zero.saturating_add(b.zero);
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        true
    }
}

impl FloatHistogram {
    /// The same with integer counts, if all counts are.
    pub fn to_int(&self) -> Option<Histogram> {
        const EXACT: f64 = (1u64 << 53) as f64;
        let whole = |c: &f64| *c >= 0.0 && *c <= EXACT && c.fract() == 0.0;
        let all = [self.count, self.zero_count];
        if !all.iter().chain(&self.positive_buckets).chain(&self.negative_buckets).all(whole) {
            return None;
        }
        let deltas = |b: &[f64]| {
            let mut before = 0i64;
            b.iter().map(|c| (*c as i64) - std::mem::replace(&mut before, *c as i64)).collect()
        };
        let h = Histogram {
            schema: self.schema,
            counter_reset: self.counter_reset,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count as u64,
            count: self.count as u64,
            sum: self.sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            positive_buckets: deltas(&self.positive_buckets),
            negative_buckets: deltas(&self.negative_buckets),
            custom_values: self.custom_values.clone(),
        };
        h.validate().is_ok().then_some(h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A histogram of given observations, as a client would make it.
    fn observed(values: &[f64], schema: i32, threshold: f64) -> Histogram {
        let mut sides = [Buckets::new(), Buckets::new()];
        let mut h = Histogram { schema, zero_threshold: threshold, ..Histogram::default() };
        for v in values {
            h.count += 1;
            h.sum += v;
            if v.abs() <= threshold {
                h.zero_count += 1;
                continue;
            }
            let index = (v.abs().log2() * (schema as f64).exp2()).ceil() as i32;
            *sides[(*v < 0.0) as usize].entry(index).or_insert(0) += 1;
        }
        (h.positive_spans, h.positive_buckets) = packed(&sides[0]);
        (h.negative_spans, h.negative_buckets) = packed(&sides[1]);
        h
    }

    proptest! {
        #[test]
        fn merging_is_observing_all(
            a in prop::collection::vec(-50i32..50, 0..40),
            b in prop::collection::vec(-50i32..50, 0..40),
            schemas in (-1i32..4, -1i32..4),
        ) {
            // Odd tenths, so that no observation lies on a bound.
            let of = |v: &[i32]| v.iter().map(|v| *v as f64 / 10.0 + 0.03).collect::<Vec<f64>>();
            let (a, b) = (of(&a), of(&b));
            let mut sum = observed(&a, schemas.0, 0.001);
            prop_assert!(sum.merge(&observed(&b, schemas.1, 0.001)));
            let all: Vec<f64> = a.iter().chain(&b).copied().collect();
            let want = observed(&all, schemas.0.min(schemas.1), 0.001);
            prop_assert!((sum.sum - want.sum).abs() < 1e-9);
            sum.sum = want.sum;
            prop_assert_eq!(&sum, &want);
            prop_assert_eq!(sum.to_float().to_int(), Some(sum));
        }

        #[test]
        fn zero_buckets_of_different_width_lose_nothing(
            a in prop::collection::vec(-50i32..50, 0..40),
            b in prop::collection::vec(-50i32..50, 0..40),
            thresholds in (1u32..40, 1u32..40),
        ) {
            let of = |v: &[i32]| v.iter().map(|v| *v as f64 / 10.0 + 0.03).collect::<Vec<f64>>();
            let mut sum = observed(&of(&a), 2, thresholds.0 as f64 / 10.0);
            let other = observed(&of(&b), 2, thresholds.1 as f64 / 10.0);
            prop_assert!(sum.merge(&other));
            prop_assert_eq!(sum.count as usize, a.len() + b.len());
            sum.validate().unwrap();
            prop_assert!(sum.zero_threshold >= other.zero_threshold);
        }
    }

    #[test]
    fn a_zero_threshold_that_is_no_number_is_refused_and_holds_up_nobody() {
        for threshold in [f64::NAN, -1.0] {
            let odd = Histogram { zero_threshold: threshold, ..observed(&[1.03, 2.03], 2, 0.001) };
            assert!(matches!(odd.validate(), Err(crate::model::HistogramError::ZeroThreshold(_))));
            assert!(odd.to_float().validate().is_err());
            let mut sum = observed(&[3.03], 2, 0.001);
            assert!(sum.merge(&odd));
            assert_eq!((sum.count, sum.zero_threshold), (3, 0.001));
        }
        let mut sum = observed(&[3.03], 2, 0.001);
        assert!(sum.merge(&Histogram { zero_threshold: f64::INFINITY, ..observed(&[1.03], 2, 0.001) }));
        assert_eq!((sum.count, sum.zero_count), (2, 1));
    }

    #[test]
    fn bounds_that_do_not_go_together_are_left() {
        let custom = |v: &[f64]| Histogram { schema: super::super::CUSTOM_BUCKETS_SCHEMA, custom_values: v.into(), ..Histogram::default() };
        let mut a = custom(&[1.0, 2.0]);
        assert!(a.merge(&custom(&[1.0, 2.0])));
        assert!(!a.merge(&custom(&[1.0])));
        assert!(!a.merge(&Histogram::default()));
        let half = FloatHistogram { count: 0.5, ..FloatHistogram::default() };
        assert_eq!(half.to_int(), None);
    }
}
