//! Joining the samples of one series from several places, the same way for queries and compaction.

use std::sync::Arc;

use crate::model::{CounterReset, FloatHistogram, is_stale};
use crate::read::SampleBuf;

/// Makes times rise strictly. Of samples of the same time one stays, and always the same one, whatever the order
/// they came in: a histogram before a float, a value before a staleness marker, and of two values the one whose bits
/// are larger as a number.
pub fn settle(buf: &mut SampleBuf) {
    if buf.t.is_sorted_by(|a, b| a < b) {
        return;
    }
    let mut order: Vec<usize> = (0..buf.len()).collect();
    order.sort_by(|a, b| buf.t[*a].cmp(&buf.t[*b]).then_with(|| rank(buf, *b).cmp(&rank(buf, *a))));
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

fn rank(buf: &SampleBuf, i: usize) -> (u8, u64, i64) {
    match buf.histogram(i) {
        Some(h) => (2, h.sum.to_bits(), h.count.to_bits() as i64),
        None if is_stale(buf.v[i]) => (0, 0, buf.start(i)),
        None => (1, buf.v[i].to_bits(), buf.start(i)),
    }
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
        fn order_of_arrival_does_not_matter(items in prop::collection::vec((0i64..20, 0u8..4), 0..40), seed in any::<u64>()) {
            let fill = |items: &[(i64, u8)]| {
                let mut b = SampleBuf::default();
                items.iter().for_each(|(t, v)| b.push(*t, if *v == 3 { crate::model::stale_nan() } else { *v as f64 }, 0));
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
            prop_assert_eq!(a.v.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), b.v.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            prop_assert!(a.t.is_sorted_by(|x, y| x < y));
        }
    }
}
