use proptest::prelude::*;
use strandline_storage::read::SampleBuf;

use super::super::ast::{Extension, Span};
use super::super::eval::context::{Refs, Steps};
use super::super::eval::series::{ABSENT, is_absent};
use super::*;

fn spec(func: WindowFn, range: i64, steps: Steps) -> WindowSpec {
    WindowSpec {
        func,
        range,
        refs: Refs { steps, fixed: None, offset: 0 },
        ext: Extended { kind: Extension::None, lookback: 300_000 },
        params: Vec::new(),
        span: Span::default(),
        type_labels: false,
        one_name: false,
    }
}

fn run(s: &WindowSpec, buf: &SampleBuf) -> Vec<f64> {
    let mut v = vec![ABSENT; s.refs.steps.n];
    let mut h = Vec::new();
    s.run(buf, &mut v, &mut h, &mut Scratch::default(), &mut String::new, &mut String::new, &mut Annotations::default()).unwrap();
    v
}

/// The definition, window by window.
fn direct(func: WindowFn, t: &[i64], v: &[f64], start: i64, end: i64) -> Option<f64> {
    let w: Vec<(i64, f64)> = t.iter().zip(v).filter(|(t, _)| **t > start && **t <= end).map(|(t, v)| (*t, *v)).collect();
    let (first, last) = (w.first()?, w.last()?);
    let values = || w.iter().map(|x| x.1);
    Some(match func {
        WindowFn::SumOverTime => values().sum(),
        WindowFn::AvgOverTime => values().sum::<f64>() / w.len() as f64,
        WindowFn::MinOverTime => values().fold(f64::INFINITY, f64::min),
        WindowFn::MaxOverTime => values().fold(f64::NEG_INFINITY, f64::max),
        WindowFn::CountOverTime => w.len() as f64,
        WindowFn::LastOverTime => last.1,
        WindowFn::FirstOverTime => first.1,
        WindowFn::Changes => w.windows(2).filter(|p| p[0].1 != p[1].1).count() as f64,
        WindowFn::Resets => w.windows(2).filter(|p| p[1].1 < p[0].1).count() as f64,
        WindowFn::Increase => {
            if w.len() < 2 {
                return None;
            }
            let up: f64 = w.windows(2).map(|p| if p[1].1 < p[0].1 { p[1].1 } else { p[1].1 - p[0].1 }).sum();
            // In seconds, as the threshold is met by rounding.
            let sampled = (last.0 - first.0) as f64 / 1000.0;
            let gap = sampled / (w.len() - 1) as f64;
            let reach = |d: f64| if d >= gap * 1.1 { gap / 2.0 } else { d };
            let mut before = reach((first.0 - start) as f64 / 1000.0);
            if up > 0.0 && first.1 >= 0.0 {
                before = before.min(sampled * first.1 / up);
            }
            up * (sampled + before + reach((end - last.0) as f64 / 1000.0)) / sampled
        }
        _ => return None,
    })
}

fn samples() -> impl Strategy<Value = (Vec<i64>, Vec<f64>)> {
    prop::collection::vec((1i64..40, 0u32..100), 0..300).prop_map(|d| {
        let mut t = 0;
        d.into_iter()
            .map(|(dt, v)| {
                t += dt * 100;
                (t, f64::from(v))
            })
            .unzip()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn sliding_is_as_good_as_starting_over((t, v) in samples(), range in 1i64..200_000, step in 1i64..50_000, start in -10_000i64..50_000) {
        let steps = Steps { start, step, n: 40 };
        let mut buf = SampleBuf::default();
        for (t, v) in t.iter().zip(&v) {
            buf.push(*t, *v, 0);
        }
        use WindowFn::*;
        for f in [SumOverTime, AvgOverTime, MinOverTime, MaxOverTime, CountOverTime, LastOverTime, FirstOverTime, Changes, Resets, Increase] {
            let got = run(&spec(f, range, steps), &buf);
            for (i, got) in got.iter().enumerate() {
                let end = steps.at(i);
                match direct(f, &t, &v, end - range, end) {
                    None => prop_assert!(is_absent(*got), "{f:?} at {end}: {got}"),
                    Some(want) => {
                        prop_assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{f:?} at {end}: got {got}, want {want}");
                    }
                }
            }
        }
    }
}

/// Distances and values: ordinary ones, or some among them that are not.
fn gaps() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let ordinary = prop_oneof![-1e6..1e6f64, (-50i32..50).prop_map(f64::from)];
    let odd = prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.7e308, -1.7e308, 0.0, -0.0]);
    let mixed = prop_oneof![40 => ordinary.clone(), 1 => odd];
    prop_oneof![prop::collection::vec((500i64..40_000, ordinary), 0..200), prop::collection::vec((500i64..40_000, mixed), 0..200)]
}

/// What one window and many come to by the same way, by another one.
fn textbook(func: WindowFn, t: &[i64], v: &[f64], at: i64) -> Option<f64> {
    Some(match func {
        WindowFn::StdvarOverTime => over_time::variance(v),
        WindowFn::StddevOverTime => over_time::variance(v).sqrt(),
        WindowFn::Deriv => over_time::regression(t, v, t[0]).0,
        WindowFn::PredictLinear => {
            let (slope, value) = over_time::regression(t, v, at);
            slope * 0.3 + value
        }
        _ => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// All steps at once give what window by window gives.
    #[test]
    fn all_steps_at_once_are_each_by_itself(
        gaps in gaps(),
        range in prop::sample::select(vec![1_000i64, 60_000, 900_000, 4_000_000]),
        step in 500i64..120_000,
        start in 0i64..300_000,
    ) {
        use WindowFn::*;
        let mut buf = SampleBuf::default();
        let mut t = 0;
        for (gap, v) in gaps {
            t += gap;
            buf.push(t, v, 0);
        }
        let largest = buf.v.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
        let steps = Steps { start, step, n: 40 };
        for func in [
            Irate, Idelta, Resets, Changes, Deriv, PredictLinear, DoubleExponentialSmoothing, SumOverTime, AvgOverTime, CountOverTime,
            MinOverTime, MaxOverTime, StddevOverTime, StdvarOverTime, LastOverTime, FirstOverTime, PresentOverTime, QuantileOverTime,
            TsOfFirst, TsOfLast,
        ] {
            let s = WindowSpec { params: vec![vec![0.3; 40], vec![0.6; 40]], ..spec(func, range, steps) };
            let got = run(&s, &buf);
            let (mut want, mut h) = (vec![ABSENT; 40], Vec::new());
            let (mut values, mut marks, mut overlaps, mut counts) = Default::default();
            let mut work = Work { values: &mut values, marks: &mut marks, overlaps: &mut overlaps, counts: &mut counts };
            s.general([&buf.t, &[]], &buf.v, &[], &[], &[], &mut want, &mut h, &mut work, &mut String::new, &mut Annotations::default())
                .unwrap();
            for (i, (a, b)) in got.iter().zip(&mut want).enumerate() {
                let at = steps.at(i);
                let inside: Vec<usize> = (0..buf.len()).filter(|k| buf.t[*k] > at - range && buf.t[*k] <= at).collect();
                if let (Some(first), false) = (inside.first(), is_absent(*b)) {
                    let (t, v) = (&buf.t[*first..=inside[inside.len() - 1]], &buf.v[*first..=inside[inside.len() - 1]]);
                    *b = textbook(func, t, v, at).unwrap_or(*b);
                }
                let (a, b) = (*a, *b);
                // What cancels out leaves the rounding of what was added.
                let close = if matches!(func, Deriv | PredictLinear) { 1e-7 } else { 1e-9 };
                let near = close * (a.abs() + b.abs()) + 1e-14 * largest;
                let same = is_absent(a) == is_absent(b) && (a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= near);
                prop_assert!(same, "{:?} step {}: {} and {}", func, i, a, b);
            }
        }
    }
}

/// Series of targets that scrape at times of their own, some with a scrape missing, interleaved and more than are remembered.
#[test]
fn what_times_tell_is_remembered_of_the_right_times() {
    let of_target = |target: i64, missing: Option<i64>, factor: f64| {
        let mut buf = SampleBuf::default();
        for k in (0..120).filter(|k| Some(*k) != missing) {
            // Targets whose first and last times are equal differ in between.
            let t = 15_000 * k + target / 2 + if k % 7 == 3 { target % 2 * 40 } else { 0 };
            buf.push(t, (k * (target % 13)) as f64 * factor, 0);
        }
        buf
    };
    for func in [WindowFn::Rate, WindowFn::Delta, WindowFn::MaxOverTime] {
        let s = spec(func, 300_000, Steps { start: 200_000, step: 17_000, n: 90 });
        let mut scratch = Scratch::default();
        for i in 0..6_000i64 {
            let buf = of_target(i % 3_200, (i % 3 == 0).then_some(5 + i % 100), 1.0 + (i / 3_200) as f64);
            let (mut v, mut h) = (vec![ABSENT; s.refs.steps.n], Vec::new());
            s.run(&buf, &mut v, &mut h, &mut scratch, &mut String::new, &mut String::new, &mut Annotations::default()).unwrap();
            let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&v), bits(&run(&s, &buf)), "{func:?}, series {i}");
        }
        assert!(scratch.frames.is_full(), "{func:?}: more room than targets");
    }
}
