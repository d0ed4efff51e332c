//! Exponential histograms of more buckets than are stored, made coarser as Prometheus does with what it is sent.

use super::{BucketSpan, FloatHistogram, Histogram};

/// The finest schema that is stored.
const FINEST: i32 = 8;
/// The finest that is known: senders may come to it.
const FINEST_KNOWN: i32 = 52;

/// The bucket of a schema `by` lower that holds this one.
pub(super) fn holder(index: i64, by: i32) -> i64 {
    ((index - 1) >> by.clamp(0, 62)) + 1
}

/// Buckets of a schema `by` lower: two to the power of `by` become one.
fn coarser<C: Copy>(spans: &[BucketSpan], counts: &[C], by: i32, add: impl Fn(C, C) -> C) -> (Vec<BucketSpan>, Vec<C>) {
    let (mut out_spans, mut out): (Vec<BucketSpan>, Vec<C>) = (Vec::new(), Vec::new());
    let (mut index, mut next) = (0i64, 0i64);
    let mut counts = counts.iter();
    for s in spans {
        index += i64::from(s.offset);
        for c in counts.by_ref().take(s.length as usize) {
            let to = holder(index, by);
            index += 1;
            match (out.last_mut(), out_spans.last_mut()) {
                (Some(last), _) if to + 1 == next => {
                    *last = add(*last, *c);
                    continue;
                }
                (_, Some(span)) if to == next => span.length += 1,
                _ => out_spans.push(BucketSpan { offset: (to - next) as i32, length: 1 }),
            }
            out.push(*c);
            next = to + 1;
        }
    }
    (out_spans, out)
}

fn coarser_deltas(spans: &[BucketSpan], deltas: &[i64], by: i32) -> (Vec<BucketSpan>, Vec<i64>) {
    let absolute: Vec<i64> = deltas
        .iter()
        .scan(0i64, |sum, d| {
            *sum = sum.saturating_add(*d);
            Some(*sum)
        })
        .collect();
    // Sums beyond 63 bits no longer agree with the count, which refuses them.
    let (spans, mut counts) = coarser(spans, &absolute, by, i64::saturating_add);
    for i in (1..counts.len()).rev() {
        counts[i] -= counts[i - 1];
    }
    (spans, counts)
}

/// How many schemas down it goes; none where there is nothing to do.
fn too_fine(schema: i32) -> Option<i32> {
    (FINEST + 1..=FINEST_KNOWN).contains(&schema).then(|| schema - FINEST)
}

impl Histogram {
    /// Makes a schema of 9 to 52 one of 8. What contradicts itself is left as it is, to be refused.
    pub fn reduce_resolution(&mut self) {
        let Some(by) = too_fine(self.schema) else { return };
        self.schema = FINEST;
        if self.validate().is_err() {
            self.schema += by;
            return;
        }
        (self.positive_spans, self.positive_buckets) = coarser_deltas(&self.positive_spans, &self.positive_buckets, by);
        (self.negative_spans, self.negative_buckets) = coarser_deltas(&self.negative_spans, &self.negative_buckets, by);
    }
}

impl FloatHistogram {
    /// As [`Histogram::reduce_resolution`].
    pub fn reduce_resolution(&mut self) {
        let Some(by) = too_fine(self.schema) else { return };
        self.schema = FINEST;
        if self.validate().is_err() {
            self.schema += by;
            return;
        }
        for (spans, counts) in
            [(&mut self.positive_spans, &mut self.positive_buckets), (&mut self.negative_spans, &mut self.negative_buckets)]
        {
            (*spans, *counts) = coarser(spans, counts, by, |a, b| a + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(all: &[(i32, u32)]) -> Vec<BucketSpan> {
        all.iter().map(|(offset, length)| BucketSpan { offset: *offset, length: *length }).collect()
    }

    #[test]
    fn finer_buckets_than_are_stored_are_joined() {
        // Buckets -3..=2 and 7 of schema 9: of schema 8 they are -1, 0, 1 and 4.
        let mut h = Histogram {
            schema: 9,
            count: 28,
            positive_spans: spans(&[(-3, 6), (4, 1)]),
            positive_buckets: vec![1, 1, 1, 1, 1, 1, 1],
            negative_spans: spans(&[(1, 2)]),
            negative_buckets: vec![0, 0],
            ..Histogram::default()
        };
        let mut f = h.to_float();
        h.reduce_resolution();
        f.reduce_resolution();
        assert_eq!((h.schema, &h.positive_spans, &h.negative_spans), (8, &spans(&[(-1, 3), (2, 1)]), &spans(&[(1, 1)])));
        assert_eq!(h.to_float(), f);
        assert_eq!(f.positive_buckets, [3.0, 7.0, 11.0, 7.0]);
        h.validate().unwrap();
        for (schema, stays) in [(8, true), (-4, true), (53, true), (-53, true), (i32::MIN, true), (i32::MAX, true), (52, false)] {
            let mut x = Histogram { schema, count: 1, positive_spans: spans(&[(5, 1)]), positive_buckets: vec![1], ..Histogram::default() };
            let mut float = x.to_float();
            x.reduce_resolution();
            float.reduce_resolution();
            assert_eq!((x.schema == schema, float.schema == schema), (stays, stays), "{schema}");
        }
        let mut wrong = Histogram { schema: 20, positive_spans: spans(&[(0, 3)]), positive_buckets: vec![1], ..Histogram::default() };
        wrong.reduce_resolution();
        assert_eq!(wrong.schema, 20);
        assert!(wrong.validate().is_err());
    }
}
