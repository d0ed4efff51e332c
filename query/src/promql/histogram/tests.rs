use proptest::prelude::*;
use strandline_storage::model::{BucketSpan, CounterReset, FloatHistogram};

use super::arith::{Accumulator, add, div, mul, sub};
use super::quantile::{Classic, classic_fraction, classic_quantile, native_fraction, native_quantile, of_values};
use super::trim::trim;
use super::*;

fn exponential(schema: i32, offset: i32, counts: &[f64]) -> FloatHistogram {
    FloatHistogram {
        schema,
        count: counts.iter().sum(),
        sum: counts.iter().sum::<f64>() * 1.5,
        positive_spans: vec![BucketSpan { offset, length: counts.len() as u32 }],
        positive_buckets: counts.to_vec(),
        ..Default::default()
    }
}

fn custom(bounds: &[f64], counts: &[f64]) -> FloatHistogram {
    FloatHistogram {
        schema: strandline_storage::model::CUSTOM_BUCKETS_SCHEMA,
        count: counts.iter().sum(),
        sum: 1.0,
        positive_spans: vec![BucketSpan { offset: 0, length: counts.len() as u32 }],
        positive_buckets: counts.to_vec(),
        custom_values: bounds.into(),
        ..Default::default()
    }
}

#[test]
fn bounds_are_powers() {
    assert_eq!(bound(0, 0), 1.0);
    assert_eq!(bound(3, 0), 8.0);
    assert_eq!(bound(-1, 0), 0.5);
    assert_eq!(bound(1, -1), 4.0);
    assert_eq!(bound(2, 1), 2.0);
    assert_eq!(bound(1024, 0), f64::MAX);
    assert_eq!(bound(1025, 0), f64::INFINITY);
    assert_eq!(bound(i32::MAX, -4), f64::INFINITY);
    assert_eq!(bound(i32::MIN, -4), 0.0);
}

/// To the last digit, as a Prometheus 3.5 shows them of a histogram with all these buckets.
#[test]
fn bounds_are_those_of_prometheus_tables() {
    assert_eq!(bound(1, 1), std::f64::consts::SQRT_2.next_down());
    for (idx, schema, want) in [(3, 2, 1.6817928305074288), (31, 5, 1.9571441241753997), (13, 8, 1.0358256936019572)] {
        assert_eq!(bound(idx, schema), want, "{idx} at schema {schema}");
        assert_eq!(bound(idx << (8 - schema), 8), want, "coarser schemas have every other bound of finer ones");
        assert_eq!(bound(idx - (5 << schema), schema), want / 32.0);
    }
    let all = (1..=256).fold(0u64, |sum, idx| sum.wrapping_mul(31).wrapping_add(bound(idx, 8).to_bits()));
    assert_eq!(all, 17433832019338720641, "all 256 of schema 8");
}

#[test]
fn coarser_schemas_keep_all_observations() {
    let h = exponential(1, -3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let c = arith::at_schema(&h, 0);
    assert_eq!(c.positive_buckets.iter().sum::<f64>(), 21.0);
    let mut a = h.clone();
    add(&mut a, &c).unwrap();
    assert_eq!(a.schema, 0);
    assert_eq!(a.positive_buckets, c.positive_buckets.iter().map(|x| x * 2.0).collect::<Vec<_>>());
}

#[test]
fn a_wider_zero_bucket_swallows_buckets() {
    let h = exponential(0, -2, &[1.0, 2.0, 3.0, 4.0]);
    let z = FloatHistogram { zero_threshold: 0.4, zero_count: 5.0, count: 5.0, ..Default::default() };
    // 0.4 lies inside (0.25, 0.5], which holds 2: the zero bucket takes it whole.
    let mut a = h.clone();
    add(&mut a, &z).unwrap();
    assert_eq!((a.zero_threshold, a.zero_count), (0.5, 8.0));
    assert_eq!(a.positive_buckets, [3.0, 4.0]);
    let mut b = z;
    add(&mut b, &h).unwrap();
    assert!(equal(&FloatHistogram { sum: 0.0, ..a }, &FloatHistogram { sum: 0.0, ..b }));
}

#[test]
fn custom_bounds_meet_in_the_middle() {
    let mut a = custom(&[1.0, 2.0, 4.0], &[1.0, 2.0, 3.0, 4.0]);
    let b = custom(&[2.0, 3.0, 4.0], &[10.0, 20.0, 30.0, 40.0]);
    assert!(add(&mut a, &b).unwrap().reconciled);
    assert_eq!(&a.custom_values[..], [2.0, 4.0]);
    assert_eq!(a.positive_buckets, [13.0, 53.0, 44.0]);
    assert!(add(&mut a, &exponential(0, 0, &[1.0])).is_err());
}

#[test]
fn hints_combine() {
    use CounterReset::*;
    let with = |c| FloatHistogram { counter_reset: c, ..exponential(0, 0, &[1.0]) };
    for (a, b, want, collision) in [
        (NotReset, NotReset, NotReset, false),
        (NotReset, Gauge, Gauge, false),
        (Unknown, NotReset, Unknown, false),
        (Reset, NotReset, Unknown, true),
    ] {
        let mut x = with(a);
        assert_eq!(add(&mut x, &with(b)).unwrap().collision, collision);
        assert_eq!(x.counter_reset, want);
    }
    let mut g = with(NotReset);
    mul(&mut g, -2.0);
    assert_eq!(g.counter_reset, Gauge);
    div(&mut g, 0.0);
    assert!(g.positive_buckets.is_empty() && g.count.is_infinite());
}

#[test]
fn resets_show_in_any_bucket() {
    let a = exponential(0, 0, &[1.0, 2.0, 3.0]);
    assert!(!detect_reset(&exponential(0, 0, &[1.0, 2.0, 4.0]), &a));
    assert!(detect_reset(&exponential(0, 0, &[0.0, 5.0, 5.0]), &a));
    assert!(detect_reset(&exponential(1, 0, &[9.0, 9.0, 9.0]), &a), "a finer schema needs a restart");
    assert!(!detect_reset(&exponential(-1, 0, &[1.0, 5.0]), &a), "a coarser one does not");
    assert!(detect_reset(&custom(&[1.0], &[9.0, 9.0]), &a));
    let said = FloatHistogram { counter_reset: CounterReset::NotReset, ..exponential(0, 0, &[0.0]) };
    assert!(!detect_reset(&said, &a));
}

#[test]
fn quantiles_of_values() {
    assert_eq!(of_values(0.5, &mut [3.0, 1.0, 2.0]), 2.0);
    assert!((of_values(0.9, &mut [1.0, 0.0]) - 0.9).abs() < 1e-12);
    assert!(of_values(0.2, &mut [1.0, f64::NAN, 0.0]).is_nan());
    assert_eq!(of_values(2.0, &mut [1.0]), f64::INFINITY);
    assert!(of_values(0.5, &mut []).is_nan());
}

#[test]
fn classic_buckets() {
    let mut b = vec![Classic { upper: f64::INFINITY, count: 4.0 }, Classic { upper: 1.0, count: 1.0 }, Classic { upper: 2.0, count: 3.0 }];
    assert_eq!(classic_quantile(0.5, &mut b.clone()).0, 1.5);
    assert_eq!(classic_fraction(0.0, 1.5, &mut b.clone()), 0.5);
    b[2].count = 0.5;
    let (_, forced) = classic_quantile(0.5, &mut b);
    assert_eq!(forced.unwrap().max_diff, 0.5);
    assert!(classic_quantile(0.5, &mut vec![Classic { upper: 1.0, count: 1.0 }]).0.is_nan());
}

proptest! {
    #[test]
    fn adding_and_subtracting_gives_back(
        a in prop::collection::vec(0u32..50, 1..8), b in prop::collection::vec(0u32..50, 1..8), oa in -4i32..4, ob in -4i32..4, s in -1i32..3,
    ) {
        let f = |v: &[u32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (x, y) = (exponential(s, oa, &f(&a)), exponential(s, ob, &f(&b)));
        let mut z = x.clone();
        add(&mut z, &y).unwrap();
        sub(&mut z, &y).unwrap();
        compact(&mut z);
        let mut want = x.clone();
        compact(&mut want);
        prop_assert_eq!(&z.positive_buckets, &want.positive_buckets);
        prop_assert_eq!(&z.positive_spans, &want.positive_spans);
        let mut acc = Accumulator::new(&x);
        acc.add(&y).unwrap();
        let mut plain = x.clone();
        add(&mut plain, &y).unwrap();
        prop_assert_eq!(acc.finish().positive_buckets, plain.positive_buckets);
    }

    #[test]
    fn quantile_and_fraction_are_inverse(counts in prop::collection::vec(1u32..50, 1..8), offset in -4i32..4, schema in -2i32..4, q in 0.01f64..0.99) {
        let h = exponential(schema, offset, &counts.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let (v, _) = native_quantile(q, &h);
        let (f, _) = native_fraction(f64::NEG_INFINITY, v, &h);
        prop_assert!((f - q).abs() < 1e-9, "{} {}", f, q);
    }

    #[test]
    fn trims_split_the_count(counts in prop::collection::vec(1u32..50, 1..8), offset in -4i32..4, at in 0.01f64..40.0) {
        let h = exponential(0, offset, &counts.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let (low, high) = (trim(&h, at, true), trim(&h, at, false));
        prop_assert!((low.count + high.count - h.count).abs() < 1e-9 * h.count);
    }
}

#[test]
fn empty_buckets_make_no_difference() {
    let a = exponential(0, -1, &[2.0, 0.0, 0.0, 3.0]);
    let b = FloatHistogram {
        positive_spans: vec![BucketSpan { offset: -2, length: 2 }, BucketSpan { offset: 2, length: 2 }],
        positive_buckets: vec![0.0, 2.0, 3.0, 0.0],
        ..a.clone()
    };
    assert!(equal(&a, &b));
    assert!(!equal(&a, &FloatHistogram { positive_buckets: vec![0.0, 2.0, 0.0, 3.0], ..b.clone() }));
    let nan = FloatHistogram { positive_buckets: vec![0.0, 2.0, f64::NAN, 0.0], ..b };
    assert!(equal(&nan, &nan.clone()));
}

#[test]
fn shown_buckets_end_where_the_zero_bucket_begins() {
    let mut h = exponential(0, 0, &[2.0, 1.0]);
    (h.negative_spans, h.negative_buckets) = (h.positive_spans.clone(), vec![5.0, 0.0]);
    (h.zero_threshold, h.zero_count) = (0.7, 3.0);
    let shown = |h: &FloatHistogram| public::buckets(h).iter().map(|b| (b.rule, b.lower, b.upper, b.count)).collect::<Vec<_>>();
    assert_eq!(shown(&h), [(1, -1.0, -0.7, 5.0), (3, -0.7, 0.7, 3.0), (0, 0.7, 1.0, 2.0), (0, 1.0, 2.0, 1.0)]);
    // As text it is told as it is; a zero bucket that holds less than nothing is not shown among buckets.
    assert_eq!(to_text(&h), "{count:3, sum:4.5, [-1,-0.5):5, [-0.7,0.7]:3, (0.5,1]:2, (1,2]:1}");
    h.zero_count = -3.0;
    assert_eq!(shown(&h).len(), 3);
}
