//! Joining the samples of one series from several places, the same way for queries and compaction.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::model::{CounterReset, FloatHistogram, is_stale};
use crate::read::SampleBuf;

/// Makes times rise strictly. Of samples of the same time one stays, and always the same one, whatever the order
/// they came in: a histogram before a float, a value before a staleness marker, and of two values the one whose bits
/// are larger as a number (of histograms: those of the sum, then of the count, and so on).
pub fn settle(buf: &mut SampleBuf) {
    if buf.t.is_sorted_by(|a, b| a < b) {
        return;
    }
    let mut order: Vec<usize> = (0..buf.len()).collect();
    order.sort_by(|a, b| buf.t[*a].cmp(&buf.t[*b]).then_with(|| compare(buf, *b, *a)));
    order.dedup_by_key(|i| buf.t[*i]);
    let mut out = SampleBuf::default();
    let mut before = None;
    for i in order {
        match buf.histogram(i) {
            Some(h) => out.push_histogram(buf.t[i], hinted(h, before.is_some() && before == i.checked_sub(1)), buf.start(i)),
            None => out.push(buf.t[i], buf.v[i], buf.start(i)),
        }
        before = Some(i);
    }
    *buf = out;
}

/// What a chunk says of a reset, it says of the sample that stood before in the chunk.
fn hinted(h: &Arc<FloatHistogram>, same_before: bool) -> Arc<FloatHistogram> {
    match h.counter_reset {
        CounterReset::Reset | CounterReset::NotReset if !same_before => {
            Arc::new(FloatHistogram { counter_reset: CounterReset::Unknown, ..(**h).clone() })
        }
        _ => h.clone(),
    }
}

/// The histogram at `at`, if there is one, no longer says whether it follows a reset: what stands before it is another
/// sample than the one its chunk knew.
pub fn forget_hint(buf: &mut SampleBuf, at: usize) {
    if let Some(Some(h)) = buf.h.get_mut(at) {
        *h = hinted(h, false);
    }
}

fn compare(buf: &SampleBuf, a: usize, b: usize) -> Ordering {
    let rank = |i: usize| match buf.histogram(i) {
        Some(_) => (2, 0),
        None if is_stale(buf.v[i]) => (0, 0),
        None => (1, buf.v[i].to_bits()),
    };
    let both = buf.histogram(a).zip(buf.histogram(b));
    let histograms = || both.map_or(Ordering::Equal, |(x, y)| x.content().cmp(y.content()));
    rank(a).cmp(&rank(b)).then_with(histograms).then_with(|| buf.start(a).cmp(&buf.start(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hint_holds_for_the_sample_it_was_made_for_alone() {
        let h = |count: f64, counter_reset| Arc::new(FloatHistogram { count, counter_reset, ..FloatHistogram::default() });
        let chunk = |out: &mut SampleBuf| (1..5).for_each(|t| out.push_histogram(t * 10, h(t as f64, CounterReset::NotReset), 0));
        let hints = |b: &SampleBuf| -> Vec<_> { (0..b.len()).map(|i| b.histogram(i).unwrap().counter_reset).collect() };
        use CounterReset::{NotReset, Unknown};
        let mut b = SampleBuf::default();
        chunk(&mut b);
        b.push_histogram(25, h(9.0, Unknown), 0);
        settle(&mut b);
        assert_eq!(hints(&b), [Unknown, NotReset, Unknown, Unknown, NotReset]);
        b.clear();
        chunk(&mut b);
        crate::metrics::block::remove_ranges(&mut b, 0, &[crate::model::TimeRange::new(20, 29)]);
        assert_eq!(hints(&b), [NotReset, Unknown, NotReset]);
    }

    proptest! {
        #[test]
        fn order_of_arrival_does_not_matter(items in prop::collection::vec((0i64..20, 0u8..8), 0..40), seed in any::<u64>()) {
            use crate::model::BucketSpan;
            // These two differ in their buckets alone.
            let h = |n: u8| FloatHistogram {
                sum: 1.0,
                count: 3.0,
                positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
                positive_buckets: vec![f64::from(n - 5), f64::from(8 - n)],
                ..FloatHistogram::default()
            };
            let fill = |items: &[(i64, u8)]| {
                let mut b = SampleBuf::default();
                items.iter().for_each(|(t, v)| match v {
                    5.. => b.push_histogram(*t, Arc::new(h(*v)), 0),
                    3 => b.push(*t, crate::model::stale_nan(), 0),
                    v => b.push(*t, *v as f64, 0),
                });
                settle(&mut b);
                b
            };
            let a = fill(&items);
            let mut other = items.clone();
            let n = other.len().max(1);
            other.rotate_left(seed as usize % n);
            other.reverse();
            let b = fill(&other);
            prop_assert_eq!(&a.t, &b.t);
            let histograms = |b: &SampleBuf| (0..b.len()).map(|i| b.histogram(i).cloned()).collect::<Vec<_>>();
            prop_assert_eq!(histograms(&a), histograms(&b));
            prop_assert_eq!(a.v.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), b.v.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            prop_assert!(a.t.is_sorted_by(|x, y| x < y));
        }
    }
}
