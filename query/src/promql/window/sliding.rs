//! Float windows whose result need not be computed from scratch at each step.

use super::super::eval::series::ABSENT;
use super::super::histogram::arith::kahan;
use super::{Cursor, WindowFn, WindowSpec};

/// Windows of fewer samples are summed up directly: that is as fast, and exact in the order of the samples.
const SMALL: usize = 32;

/// Runs the function if it has a sliding form; whether any step has a value.
pub(super) fn try_run(spec: &WindowSpec, t: &[i64], v: &[f64], out: &mut [f64]) -> Option<bool> {
    use WindowFn::*;
    Some(match spec.func {
        CountOverTime => each(spec, t, out, |c| (c.hi - c.lo) as f64),
        PresentOverTime => each(spec, t, out, |_| 1.0),
        LastOverTime => each(spec, t, out, |c| v[c.hi - 1]),
        FirstOverTime => each(spec, t, out, |c| v[c.lo]),
        TsOfFirst => each(spec, t, out, |c| t[c.lo] as f64 / 1000.0),
        TsOfLast => each(spec, t, out, |c| t[c.hi - 1] as f64 / 1000.0),
        MinOverTime => fold(spec, t, v, out, |x| x, |a, b| if b < a || a.is_nan() { b } else { a }, |x, _| x),
        MaxOverTime => fold(spec, t, v, out, |x| x, |a, b| if b > a || a.is_nan() { b } else { a }, |x, _| x),
        SumOverTime => fold(spec, t, v, out, |x| (x, 0.0), add, |(s, c), _| if s.is_infinite() { s } else { s + c }),
        AvgOverTime => {
            let any = fold(
                spec,
                t,
                v,
                out,
                |x| (x, 0.0),
                add,
                |(s, c), n| {
                    // The general form deals with sums that overflow.
                    if s.is_infinite() { ABSENT } else { s / n + c / n }
                },
            );
            let overflow = any && {
                let mut c = Cursor::default();
                (0..out.len()).any(|i| {
                    let end = spec.refs.at(i);
                    c.slide(t, end.saturating_sub(spec.range), end);
                    !c.is_empty() && super::is_absent(out[i])
                })
            };
            if overflow {
                out.fill(ABSENT);
                return None;
            }
            any
        }
        _ => return None,
    })
}

/// Kahan sums joined.
fn add(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let (s, c) = kahan(b.0, a.0, a.1);
    (s, c + b.1)
}

fn each(spec: &WindowSpec, t: &[i64], out: &mut [f64], f: impl Fn(Cursor) -> f64) -> bool {
    let mut c = Cursor::default();
    let mut any = false;
    for (step, slot) in out.iter_mut().enumerate() {
        let end = spec.refs.at(step);
        c.slide(t, end.saturating_sub(spec.range), end);
        if !c.is_empty() {
            *slot = f(c);
            any = true;
        }
    }
    any
}

/// Folds each window with an associative operation. Large windows keep two stacks: suffix results of the older part,
/// computed once when it is filled, and a running result of the newer part, so that each sample is touched twice
/// however many windows hold it.
fn fold<A: Copy>(
    spec: &WindowSpec,
    t: &[i64],
    v: &[f64],
    out: &mut [f64],
    lift: impl Fn(f64) -> A,
    join: impl Fn(A, A) -> A,
    finish: impl Fn(A, f64) -> f64,
) -> bool {
    let mut c = Cursor::default();
    let mut any = false;
    // suffix[i] covers samples mid-len+i .. mid; `newer` covers mid .. hi.
    let (mut suffix, mut mid, mut newer, mut newer_to): (Vec<A>, usize, Option<A>, usize) = (Vec::new(), 0, None, 0);
    for (step, slot) in out.iter_mut().enumerate() {
        let end = spec.refs.at(step);
        c.slide(t, end.saturating_sub(spec.range), end);
        if c.is_empty() {
            continue;
        }
        any = true;
        let n = (c.hi - c.lo) as f64;
        if c.hi - c.lo <= SMALL {
            let acc = v[c.lo + 1..c.hi].iter().fold(lift(v[c.lo]), |a, x| join(a, lift(*x)));
            *slot = finish(acc, n);
            continue;
        }
        if c.lo >= mid || newer_to < mid {
            // The older part is used up: everything in the window becomes it.
            mid = c.hi;
            suffix.clear();
            let mut acc = lift(v[c.hi - 1]);
            suffix.push(acc);
            for x in v[c.lo..c.hi - 1].iter().rev() {
                acc = join(lift(*x), acc);
                suffix.push(acc);
            }
            newer = None;
            newer_to = mid;
        }
        for x in &v[newer_to..c.hi] {
            newer = Some(newer.map_or(lift(*x), |a| join(a, lift(*x))));
        }
        newer_to = newer_to.max(c.hi);
        // suffix was built from the end: its element k covers the last k + 1 samples before mid.
        let older = suffix[mid - c.lo - 1];
        *slot = finish(newer.map_or(older, |b| join(older, b)), n);
    }
    any
}
