//! Windows of floats alone, all steps of a series at once: what neighbouring windows share is worked out once, and
//! where that can't be, several windows are gone through side by side.

use super::super::eval::series::{ABSENT, is_absent};
use super::super::histogram::arith::kahan;
use super::super::histogram::quantile::of_values;
use super::frames::Bounds;
use super::over_time;
use super::{Window, WindowFn, WindowSpec, Work};

/// Windows of fewer samples are gone through one by one: that is as fast, and exact in the order of the samples.
const SMALL: usize = 64;

/// The floats of a series that has no start timestamps.
pub(super) struct Floats<'a> {
    pub t: &'a [i64],
    pub v: &'a [f64],
    pub bounds: &'a [Bounds],
}

/// Runs the function if it has a form for all steps at once; whether any step has a value.
pub(super) fn try_run(spec: &WindowSpec, s: &Floats<'_>, out: &mut [f64], work: &mut Work<'_>) -> Option<bool> {
    use WindowFn::*;
    let (t, v) = (s.t, s.v);
    let last = |b: Bounds| b.hi as usize - 1;
    Some(match spec.func {
        CountOverTime => s.each(out, |b, _| b.len() as f64),
        PresentOverTime => s.each(out, |_, _| 1.0),
        LastOverTime => s.each(out, |b, _| v[last(b)]),
        FirstOverTime => s.each(out, |b, _| v[b.lo as usize]),
        TsOfFirst => s.each(out, |b, _| t[b.lo as usize] as f64 / 1000.0),
        TsOfLast => s.each(out, |b, _| t[last(b)] as f64 / 1000.0),
        MinOverTime => s.extreme(out, |a, b| b < a),
        MaxOverTime => s.extreme(out, |a, b| b > a),
        SumOverTime => s.sum(out),
        AvgOverTime => s.average(out),
        Changes => s.count_pairs(out, work.counts, |a, b| b != a && !(a.is_nan() && b.is_nan())),
        Resets => s.count_pairs(out, work.counts, |a, b| b < a),
        Irate | Idelta => s.last_two(out, spec.func == Irate),
        StdvarOverTime => s.variance(out, work.values, |x| x),
        StddevOverTime => s.variance(out, work.values, f64::sqrt),
        Deriv => s.regression(out, |_, b| t[b.lo as usize], |_, slope, _| slope),
        PredictLinear => {
            let ahead = spec.params.first()?;
            s.regression(out, |step, _| spec.refs.steps.at(step), |step, slope, intercept| slope * ahead[step] + intercept)
        }
        DoubleExponentialSmoothing => s.smooth(out, spec.params.first()?, spec.params.get(1)?)?,
        QuantileOverTime => {
            let q = spec.params.first()?;
            // Others are warned of, window by window.
            if !q.iter().all(|q| (0.0..=1.0).contains(q)) {
                return None;
            }
            s.each(out, |b, step| {
                work.values.clear();
                work.values.extend_from_slice(b.of(v));
                of_values(q[step], work.values)
            })
        }
        _ => return None,
    })
}

/// One window by itself, rounded as among others.
pub(super) fn one(func: WindowFn, w: &Window<'_>, param: f64, work: &mut Work<'_>) -> f64 {
    let bounds = [Bounds { lo: 0, hi: w.fv.len() as u32 }];
    let s = Floats { t: w.ft, v: w.fv, bounds: &bounds };
    let mut out = [ABSENT];
    match func {
        WindowFn::StdvarOverTime => s.variance(&mut out, work.values, |x| x),
        WindowFn::StddevOverTime => s.variance(&mut out, work.values, f64::sqrt),
        WindowFn::Deriv => s.regression(&mut out, |_, _| w.ft[0], |_, slope, _| slope),
        _ => s.regression(&mut out, |_, _| w.ts, |_, slope, value| slope * param + value),
    };
    out[0]
}

impl Floats<'_> {
    /// `f` of each window that is not empty, with its step.
    fn each(&self, out: &mut [f64], mut f: impl FnMut(Bounds, usize) -> f64) -> bool {
        let mut any = false;
        for (step, (slot, b)) in out.iter_mut().zip(self.bounds).enumerate() {
            if b.lo != b.hi {
                *slot = f(*b, step);
                any |= !is_absent(*slot);
            }
        }
        any
    }

    fn all_small(&self) -> bool {
        self.bounds.iter().fold(0, |n, b| n.max(b.len())) <= SMALL
    }

    /// The sample that none is better than, the first of equals; NaN only where there is nothing else.
    fn extreme(&self, out: &mut [f64], better: impl Fn(f64, f64) -> bool + Copy) -> bool {
        let v = self.v;
        let join = |a: f64, b: f64| if better(a, b) || a.is_nan() { b } else { a };
        if !self.all_small() {
            return self.fold(out, |x| x, join, |x, _| x);
        }
        if v.iter().fold(false, |any, x| any | x.is_nan()) {
            return self.each(out, |b, _| b.of(v)[1..].iter().fold(v[b.lo as usize], |a, x| join(a, *x)));
        }
        self.each(out, |b, _| best_of(b.of(v), better))
    }

    fn sum(&self, out: &mut [f64]) -> bool {
        // With infinities the order of the additions matters.
        self.sums(out, |(s, c), b| if (s + c).is_finite() { s + c } else { over_time::sum(b.of(self.v)) })
    }

    fn average(&self, out: &mut [f64]) -> bool {
        self.sums(out, |(s, c), b| {
            let n = b.len() as f64;
            if (s + c).is_finite() { s / n + c / n } else { over_time::average(b.of(self.v)) }
        })
    }

    /// `end` of each window's sum and its compensation.
    fn sums(&self, out: &mut [f64], end: impl Fn((f64, f64), Bounds) -> f64) -> bool {
        if let Some(prefixes) = self.prefixes() {
            return self
                .each(out, |b, _| end(prefixes.sum(b).unwrap_or_else(|| b.of(self.v).iter().fold((0.0, 0.0), |a, x| add(a, *x))), b));
        }
        if !self.all_small() {
            return self.fold(out, |x| (x, 0.0), join_sums, end);
        }
        self.in_lanes::<4, _>(out, |_, _| (0.0, 0.0), |a, i, _| add(a, self.v[i]), |a, b, _| end(a, b))
    }

    /// Sums from the first sample on, where windows overlap so much that they are worth it and all values are finite.
    fn prefixes(&self) -> Option<Prefixes> {
        if self.bounds.iter().map(|b| b.len()).sum::<usize>() < 3 * self.v.len() {
            return None;
        }
        let size = self.v.iter().fold(0.0, |a, x| a + x.abs()) * self.v.len() as f64;
        size.is_finite().then(|| {
            let sums = self.v.iter().scan((0.0, 0.0), |a, x| {
                *a = add(*a, *x);
                Some(*a)
            });
            Prefixes { sums: std::iter::once((0.0, 0.0)).chain(sums).collect(), least: size * 2f64.powi(-50) }
        })
    }

    /// How many neighbours in a window make a pair of the kind; `counts` gets how many up to each sample.
    fn count_pairs(&self, out: &mut [f64], counts: &mut Vec<u32>, pair: impl Fn(f64, f64) -> bool) -> bool {
        counts.clear();
        counts.push(0);
        let mut n = 0;
        counts.extend(self.v.windows(2).map(|w| {
            n += u32::from(pair(w[0], w[1]));
            n
        }));
        self.each(out, |b, _| f64::from(counts[b.hi as usize - 1] - counts[b.lo as usize]))
    }

    fn last_two(&self, out: &mut [f64], rate: bool) -> bool {
        self.each(out, |b, _| {
            let &[.., a, z] = b.of(self.v) else { return ABSENT };
            let &[.., from, to] = b.of(self.t) else { return ABSENT };
            let diff = if rate && z < a { z } else { z - a };
            if rate { diff / ((to - from) as f64 / 1000.0) } else { diff }
        })
    }

    /// Two passes, mean and distances from it; `means` gets the means. They are taken from the first sample on, so that
    /// samples that don't differ have a variance of exactly zero.
    fn variance(&self, out: &mut [f64], means: &mut Vec<f64>, end: impl Fn(f64) -> f64) -> bool {
        let v = self.v;
        means.clear();
        means.resize(out.len(), 0.0);
        let first = |b: Bounds| v[b.lo as usize];
        let from_first = |_, b| (first(b), 0.0);
        self.in_lanes::<4, _>(means, from_first, |(from, s), i, _| (from, s + (v[i] - from)), |(from, s), b, _| from + s / b.len() as f64);
        self.in_lanes::<4, _>(
            out,
            |step, _| (means[step], 0.0, 0.0),
            |(mean, off, squares), i, _| {
                let d = v[i] - mean;
                (mean, off + d, squares + d * d)
            },
            |(_, off, squares), b, _| {
                let n = b.len() as f64;
                // What the mean was rounded by is taken out again.
                let x = ((squares - off * off / n) / n).max(0.0);
                end(if (squares + off).is_finite() { x } else { over_time::variance(b.of(v)) })
            },
        )
    }

    /// The least-squares line over each window, as `end` of step, slope and value at the time that `at` gives.
    fn regression(&self, out: &mut [f64], at: impl Fn(usize, Bounds) -> i64, end: impl Fn(usize, f64, f64) -> f64) -> bool {
        let (t, v) = (self.t, self.v);
        // From its first sample on the numbers of a window are small. Milliseconds and their squares are whole: sums of
        // them are exact, and taken once for all windows.
        let mut sums = Vec::with_capacity(t.len() + 1);
        sums.push((0i64, 0i128));
        sums.extend(t.iter().scan((0i64, 0i128), |s, x| {
            let ms = x - t[0];
            *s = (s.0 + ms, s.1 + i128::from(ms) * i128::from(ms));
            Some(*s)
        }));
        self.in_lanes::<4, _>(
            out,
            |_, b| (t[b.lo as usize], v[b.lo as usize], 0.0, 0.0),
            |(from, first, y, xy), i, _| {
                let d = v[i] - first;
                (from, first, y + d, xy + (t[i] - from) as f64 * d)
            },
            |(from, first, y, xy), b, step| {
                if b.len() < 2 {
                    return ABSENT;
                }
                let at = at(step, b);
                let ((x1, xx1), (x0, xx0), shift) = (sums[b.hi as usize], sums[b.lo as usize], i128::from(from - t[0]));
                let (x, n) = (i128::from(x1 - x0), b.len() as i128);
                let xx = (xx1 - xx0 - 2 * shift * x + n * shift * shift) as f64;
                let (x, n) = ((x - n * shift) as f64, n as f64);
                let slope = (xy - x * y / n) / (xx - x * x / n);
                let value = first + y / n + slope * ((at - from) as f64 - x / n);
                let result = end(step, slope * 1e3, value);
                if result.is_finite() {
                    return result;
                }
                let (slope, value) = over_time::regression(b.of(t), b.of(v), at);
                end(step, slope, value)
            },
        )
    }

    /// Holt's linear method; `None` if a factor is out of its range.
    fn smooth(&self, out: &mut [f64], sf: &[f64], tf: &[f64]) -> Option<bool> {
        let fits = |f: &[f64]| f.iter().all(|f| *f > 0.0 && *f < 1.0);
        if !fits(sf) || !fits(tf) {
            return None;
        }
        let v = self.v;
        Some(self.in_lanes::<4, _>(
            out,
            |step, _| (0.0, 0.0, 0.0, step),
            |(s0, s1, trend, step), i, nth| {
                if nth == 0 {
                    return (0.0, v[i], v.get(i + 1).map_or(0.0, |next| next - v[i]), step);
                }
                let trend = if nth == 1 { trend } else { tf[step] * (s1 - s0) + (1.0 - tf[step]) * trend };
                (s1, sf[step] * v[i] + (1.0 - sf[step]) * (s1 + trend), trend, step)
            },
            |(_, s1, ..), b, _| if b.len() < 2 { ABSENT } else { s1 },
        ))
    }

    /// Folds each window in the order of its samples, `L` windows side by side: one fold waits for each of its own
    /// additions, but not for those of the others.
    fn in_lanes<const L: usize, A: Copy>(
        &self,
        out: &mut [f64],
        start: impl Fn(usize, Bounds) -> A,
        add: impl Fn(A, usize, usize) -> A,
        end: impl Fn(A, Bounds, usize) -> f64,
    ) -> bool {
        let mut any = false;
        let mut put = |out: &mut [f64], step: usize, x: f64| {
            out[step] = x;
            any |= !is_absent(x);
        };
        let mut step = 0;
        while step < self.bounds.len() {
            let group = self.bounds[step..].first_chunk::<L>();
            if let Some(group) = group.filter(|g| g.iter().all(|b| b.lo != b.hi)) {
                let mut acc: [A; L] = std::array::from_fn(|k| start(step + k, group[k]));
                let common = group.iter().fold(usize::MAX, |n, b| n.min(b.len()));
                for i in 0..common {
                    for (a, b) in acc.iter_mut().zip(group) {
                        *a = add(*a, b.lo as usize + i, i);
                    }
                }
                for (k, (a, b)) in acc.into_iter().zip(group).enumerate() {
                    let a = (common..b.len()).fold(a, |a, i| add(a, b.lo as usize + i, i));
                    put(out, step + k, end(a, *b, step + k));
                }
                step += L;
                continue;
            }
            let b = self.bounds[step];
            if b.lo != b.hi {
                let a = (0..b.len()).fold(start(step, b), |a, i| add(a, b.lo as usize + i, i));
                put(out, step, end(a, b, step));
            }
            step += 1;
        }
        any
    }

    /// Folds each window with an associative operation. Large windows keep two stacks: suffix results of the older
    /// part, computed once when it is filled, and a running result of the newer part, so that each sample is touched
    /// twice however many windows hold it.
    fn fold<A: Copy>(&self, out: &mut [f64], lift: impl Fn(f64) -> A, join: impl Fn(A, A) -> A, finish: impl Fn(A, Bounds) -> f64) -> bool {
        let v = self.v;
        // suffix[i] covers samples mid-len+i .. mid; `newer` covers mid .. hi.
        let (mut suffix, mut mid, mut newer, mut newer_to): (Vec<A>, usize, Option<A>, usize) = (Vec::new(), 0, None, 0);
        self.each(out, |b, _| {
            let (lo, hi) = (b.lo as usize, b.hi as usize);
            if hi - lo <= SMALL {
                let acc = v[lo + 1..hi].iter().fold(lift(v[lo]), |a, x| join(a, lift(*x)));
                return finish(acc, b);
            }
            if lo >= mid || newer_to < mid {
                // The older part is used up: everything in the window becomes it.
                mid = hi;
                suffix.clear();
                let mut acc = lift(v[hi - 1]);
                suffix.push(acc);
                for x in v[lo..hi - 1].iter().rev() {
                    acc = join(lift(*x), acc);
                    suffix.push(acc);
                }
                newer = None;
                newer_to = mid;
            }
            for x in &v[newer_to..hi] {
                newer = Some(newer.map_or(lift(*x), |a| join(a, lift(*x))));
            }
            newer_to = newer_to.max(hi);
            // suffix was built from the end: its element k covers the last k + 1 samples before mid.
            let older = suffix[mid - lo - 1];
            finish(newer.map_or(older, |newer| join(older, newer)), b)
        })
    }
}

/// Compensated sums of the first samples, whose differences are the sums of windows. Those are as good as sums begun anew
/// unless next to nothing is left of what was added: what a prefix was rounded by is some 2^-106 of all samples together.
struct Prefixes {
    sums: Vec<(f64, f64)>,
    /// Smaller sums are not good enough.
    least: f64,
}

impl Prefixes {
    #[inline]
    fn sum(&self, b: Bounds) -> Option<(f64, f64)> {
        let ((to, c), (from, c0)) = (self.sums[b.hi as usize], self.sums[b.lo as usize]);
        let (s, c) = add((to, c - c0), -from);
        ((s + c).abs() >= self.least).then_some((s, c))
    }
}

/// The first of the best of a window without NaN. Eight at a time, which the compiler makes vector instructions of.
fn best_of(w: &[f64], better: impl Fn(f64, f64) -> bool) -> f64 {
    let pick = |a: f64, b: f64| if better(a, b) { b } else { a };
    let (eights, rest) = w.as_chunks::<8>();
    let mut best = [w[0]; 8];
    for e in eights {
        for (a, b) in best.iter_mut().zip(e) {
            *a = pick(*a, *b);
        }
    }
    let best = rest.iter().chain(&best).fold(w[0], |a, b| pick(a, *b));
    // Zeros of both signs are equal: the first of them counts.
    if best == 0.0 { w.iter().copied().find(|x| *x == 0.0).unwrap_or(best) } else { best }
}

/// One step of Kahan summation. Knuth's form of it makes the same compensation as Neumaier's without a branch; only
/// with infinities it goes wrong, which shows in the end.
#[inline]
fn add((s, c): (f64, f64), x: f64) -> (f64, f64) {
    let t = s + x;
    let of_x = t - s;
    (t, c + ((s - (t - of_x)) + (x - of_x)))
}

/// Kahan sums joined.
fn join_sums(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    let (s, c) = kahan(b.0, a.0, a.1);
    (s, c + b.1)
}
