//! Round trips, golden bytes, and bytes from nowhere.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{BucketSpan, CUSTOM_BUCKETS_SCHEMA, CounterReset, FloatHistogram, Histogram, STALE_NAN, stale_nan};

fn all(encoding: Encoding, data: &[u8]) -> SampleBuf {
    let mut out = SampleBuf::default();
    decode(encoding, data, TimeRange::all(), &mut out).unwrap();
    out
}

fn values() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => (-1000i64..1000).prop_map(|v| v as f64),
        2 => any::<f64>(),
        1 => Just(0.0),
        1 => Just(f64::from_bits(STALE_NAN)),
        1 => any::<u64>().prop_map(f64::from_bits),
    ]
}

fn series() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let gap = prop_oneof![5 => Just(15_000i64), 2 => 14_990i64..15_010, 1 => 1i64..100_000_000, 1 => 1i64..3];
    (any::<i32>(), prop::collection::vec((gap, values()), 1..240)).prop_map(|(t0, items)| {
        let mut t = t0 as i64;
        items
            .into_iter()
            .map(|(g, v)| {
                t += g;
                (t, v)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn xor_round_trips(samples in series()) {
        let mut a = XorAppender::default();
        for (t, v) in &samples {
            a.append(*t, *v);
        }
        let got = all(Encoding::Xor, a.bytes());
        prop_assert_eq!(got.t, samples.iter().map(|s| s.0).collect::<Vec<_>>());
        prop_assert_eq!(
            got.v.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            samples.iter().map(|s| s.1.to_bits()).collect::<Vec<_>>()
        );
        prop_assert!(a.capacity_bytes() <= a.size_bytes() * 5 / 4 + 16);
        prop_assert_eq!(a.first_time(), Some(samples[0].0));
    }

    #[test]
    fn xor2_round_trips(samples in series(), starts in prop::collection::vec(0u8..4, 240)) {
        let mut a = Xor2Appender::default();
        let mut want = Vec::new();
        let mut st = 0;
        for ((t, v), s) in samples.iter().zip(starts) {
            st = match s { 0 => t - 7, 1 => 0, _ => st };
            if !a.takes(st) {
                break;
            }
            a.append(*t, *v, st);
            want.push((*t, v.to_bits(), st));
        }
        let got = all(Encoding::Xor2, a.bytes());
        let got: Vec<_> = (0..got.len()).map(|i| (got.t[i], got.v[i].to_bits(), got.start(i))).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn ranges_cut(samples in series(), a in 0usize..240, b in 0usize..240) {
        let mut x = XorAppender::default();
        for (t, v) in &samples {
            x.append(*t, *v);
        }
        let pick = |i: usize| samples[i % samples.len()].0;
        let range = TimeRange::new(pick(a), pick(b));
        let mut out = SampleBuf::default();
        decode(Encoding::Xor, x.bytes(), range, &mut out).unwrap();
        let want: Vec<_> = samples.iter().map(|s| s.0).filter(|t| range.contains(*t)).collect();
        prop_assert_eq!(out.t, want);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(data in prop::collection::vec(any::<u8>(), 0..400), n in 0u16..300) {
        let mut data = data;
        if data.len() >= 2 {
            data[..2].copy_from_slice(&n.to_be_bytes());
        }
        for e in [Encoding::Xor, Encoding::Xor2, Encoding::Histogram, Encoding::FloatHistogram] {
            let _ = decode(e, &data, TimeRange::all(), &mut SampleBuf::default());
        }
    }

    #[test]
    fn histograms_round_trip(steps in prop::collection::vec(prop::collection::vec(0i32..40, 0..6), 1..30), gauge in any::<bool>()) {
        // A growing set of observations by bucket index, so that layouts widen as they go.
        let mut counts = std::collections::BTreeMap::<i32, i64>::new();
        let (mut int, mut float): (Option<HistogramAppender>, Option<FloatHistogramAppender>) = (None, None);
        let mut want = Vec::new();
        for (i, seen) in steps.iter().enumerate() {
            for b in seen {
                *counts.entry(*b).or_default() += 1;
            }
            let h = histogram(&counts, gauge);
            let t = 1000 * i as i64;
            match &mut int {
                None => int = Some(HistogramAppender::new(t, &h, h.counter_reset)),
                Some(a) => prop_assert!(a.append(t, &h).is_ok()),
            }
            match &mut float {
                None => float = Some(FloatHistogramAppender::new(t, &h.to_float(), h.counter_reset)),
                Some(a) => prop_assert!(a.append(t, &h.to_float()).is_ok()),
            }
            want.push((t, nonzero(&h.to_float())));
        }
        for (e, data) in [(Encoding::Histogram, int.unwrap().bytes().to_vec()), (Encoding::FloatHistogram, float.unwrap().bytes().to_vec())] {
            let got = all(e, &data);
            let got: Vec<_> = (0..got.len()).map(|i| (got.t[i], nonzero(got.histogram(i).unwrap()))).collect();
            prop_assert_eq!(got, want.clone());
        }
    }
}

fn histogram(counts: &std::collections::BTreeMap<i32, i64>, gauge: bool) -> Histogram {
    let keys: Vec<i32> = counts.keys().copied().collect();
    let mut before = 0;
    Histogram {
        schema: 1,
        counter_reset: if gauge { CounterReset::Gauge } else { CounterReset::Unknown },
        zero_threshold: 0.001,
        zero_count: 2,
        count: counts.values().sum::<i64>() as u64 + 2,
        sum: counts.iter().map(|(k, v)| *k as f64 * *v as f64).sum(),
        positive_spans: hist_layout::spans_of(&keys),
        positive_buckets: counts.values().map(|c| c - std::mem::replace(&mut before, *c)).collect(),
        ..Histogram::default()
    }
}

/// Bucket indices with their counts, without the empty ones that widening adds; and the totals.
fn nonzero(h: &FloatHistogram) -> (Vec<(i32, u64)>, u64, u64) {
    let b = hist_layout::indices(&h.positive_spans).into_iter().zip(h.positive_buckets.iter().map(|c| *c as u64));
    (b.filter(|(_, c)| *c > 0).collect(), h.count as u64, h.sum.to_bits())
}

#[test]
fn golden_xor() {
    // Worked out by hand: count 3; t0 = 1000 (varint d0 0f); 12.0 raw; delta 1000 (e8 07); value equal: 0;
    // dod 1: 10 and 14 bits; 0x4028.. ^ 0x4038.. = 0x0010..: 1 1, leading 11 in 5 bits, length 1 in 6, the bit.
    let mut a = XorAppender::default();
    a.append(1000, 12.0);
    a.append(2000, 12.0);
    a.append(3001, 24.0);
    let hex: String = a.bytes().iter().map(|b| format!("{b:02x}")).collect();
    // 0 10 00000000000001 1 1 01011 000001 1 and padding
    assert_eq!(hex, "0003d00f4028000000000000e8074000eb06");
}

#[test]
fn golden_xor2() {
    // Count 4, header 0x82: start of sample 0 known, first change at index 2.
    let mut a = Xor2Appender::default();
    a.append(1000, 1.0, 900); // varint(1000 - 900) = c8 01
    a.append(2000, 1.0, 900); // delta e8 07, value bit 0
    a.append(3000, 1.0, 2000); // joint bit 0; diff = 2000 - 2000 = 0 -> 0
    a.append(4000, stale_nan(), 2990); // 11111; diff 3000 - 2990 = 10, delta 10 -> 110 001010
    let hex: String = a.bytes().iter().map(|b| format!("{b:02x}")).collect();
    // 0 0 0 11111 | 110001010 and padding
    assert_eq!(hex, "000482d00f3ff0000000000000c801e8071fc500");
}

#[test]
fn stale_histograms_end_a_run() {
    let h = histogram(&[(1, 3)].into(), false);
    let mut a = HistogramAppender::new(0, &h, CounterReset::Unknown);
    let stale = Histogram { sum: stale_nan(), ..Histogram::default() };
    assert!(a.append(10, &stale).is_ok());
    assert!(a.append(20, &h).is_err());
    let got = all(Encoding::Histogram, a.bytes());
    assert!(got.histogram(1).unwrap().is_stale() && !got.histogram(0).unwrap().is_stale());
}

#[test]
fn a_fallen_count_is_a_reset() {
    let mut a = HistogramAppender::new(0, &histogram(&[(1, 3)].into(), false), CounterReset::Unknown);
    assert_eq!(a.append(1, &histogram(&[(1, 2)].into(), false)), Err(CounterReset::Reset));
    assert_eq!(a.append(1, &histogram(&[(2, 9)].into(), false)), Err(CounterReset::Reset));
    assert!(a.append(1, &histogram(&[(1, 3), (7, 1)].into(), false)).is_ok());
}

#[test]
fn custom_bounds_and_thresholds_survive() {
    for bounds in [vec![0.005, 0.01, 1.0, 2.5, 33_554.431], vec![-1.0, 1e-9, 1e12]] {
        let h = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count: 3.0,
            sum: 1.5,
            positive_spans: vec![BucketSpan { offset: 1, length: 2 }],
            positive_buckets: vec![1.0, 2.0],
            custom_values: bounds.into(),
            ..FloatHistogram::default()
        };
        let a = FloatHistogramAppender::new(5, &h, CounterReset::Unknown);
        assert_eq!(**all(Encoding::FloatHistogram, a.bytes()).histogram(0).unwrap(), h);
    }
    for z in [0.0, 1e-128, 0.25, 2f64.powi(-243), 2f64.powi(10), 2f64.powi(11), 0.1] {
        let h = FloatHistogram { zero_threshold: z, ..FloatHistogram::default() };
        let a = FloatHistogramAppender::new(5, &h, CounterReset::Unknown);
        assert_eq!(all(Encoding::FloatHistogram, a.bytes()).histogram(0).unwrap().zero_threshold, z);
    }
    let _: Arc<[f64]> = Arc::from([]);
}
