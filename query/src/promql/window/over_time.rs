//! `*_over_time`, regression and smoothing of one window.

use strandline_storage::model::{CounterReset, FloatHistogram};

use super::super::annotations::{Annotations, HistogramOp};
use super::super::error::{Error, Result};
use super::super::eval::series::Hist;
use super::super::gofmt::fixed;
use super::super::histogram::arith::{Accumulator, Incompatible, div, kahan};
use super::super::histogram::quantile::of_values;
use super::{Name, Out, Window, WindowFn, WindowSpec, Work, sliding};

pub(super) fn call(spec: &WindowSpec, w: &Window<'_>, work: &mut Work<'_>, name: Name<'_>, ann: &mut Annotations) -> Result<Out> {
    use WindowFn::*;
    if let Some(out) = of_all_samples(spec, w, name, ann) {
        return Ok(out);
    }
    let param = |i: usize| spec.params.get(i).and_then(|p| p.get(w.step)).copied().unwrap_or(f64::NAN);
    if spec.func == DoubleExponentialSmoothing {
        check_factors(param(0), param(1))?;
    }
    // Everything below looks at floats only.
    if w.ft.is_empty() {
        return Ok(Out::None);
    }
    if spec.func == QuantileOverTime {
        let q = param(0);
        if !(0.0..=1.0).contains(&q) {
            ann.invalid_quantile(q, spec.span);
        }
    }
    if !w.hh.is_empty() {
        ann.histogram_ignored_in_range(&name(), spec.span);
    }
    let v = w.fv;
    let out = match spec.func {
        MinOverTime => extreme(w, |a, b| a < b).0,
        MaxOverTime => extreme(w, |a, b| a > b).0,
        TsOfMin => extreme(w, |a, b| a <= b).1 as f64 / 1000.0,
        TsOfMax => extreme(w, |a, b| a >= b).1 as f64 / 1000.0,
        QuantileOverTime => {
            work.values.clear();
            work.values.extend_from_slice(v);
            of_values(param(0), work.values)
        }
        MadOverTime => {
            if v.iter().any(|x| x.is_nan()) {
                f64::NAN
            } else {
                work.values.clear();
                work.values.extend_from_slice(v);
                let median = of_values(0.5, work.values);
                work.values.iter_mut().for_each(|x| *x = (*x - median).abs());
                of_values(0.5, work.values)
            }
        }
        Deriv | PredictLinear | DoubleExponentialSmoothing if v.len() < 2 => return Ok(Out::None),
        StdvarOverTime | StddevOverTime | Deriv | PredictLinear => sliding::one(spec.func, w, param(0), work),
        DoubleExponentialSmoothing => smooth(v, param(0), param(1)),
        _ => return Err(Error::Internal(format!("{:?} is no function over a window", spec.func))),
    };
    Ok(Out::F(out))
}

/// What looks at floats and histograms alike.
fn of_all_samples(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Option<Out> {
    use WindowFn::*;
    let seconds = |t: Option<&i64>| Out::F(t.copied().unwrap_or(0) as f64 / 1000.0);
    Some(match spec.func {
        SumOverTime | AvgOverTime if w.hh.is_empty() => Out::F(if spec.func == SumOverTime { sum(w.fv) } else { average(w.fv) }),
        SumOverTime | AvgOverTime if w.ft.is_empty() => histograms(spec, w, name, ann),
        SumOverTime | AvgOverTime => {
            ann.mixed_floats_histograms(&name(), spec.span);
            Out::None
        }
        CountOverTime => Out::F((w.ft.len() + w.ht.len()) as f64),
        PresentOverTime => Out::F(1.0),
        FirstOverTime => pick(w, true),
        LastOverTime => pick(w, false),
        TsOfFirst => seconds(w.ft.first().into_iter().chain(w.ht.first()).min()),
        TsOfLast => seconds(w.ft.last().into_iter().chain(w.ht.last()).max()),
        _ => return None,
    })
}

fn check_factors(smoothing: f64, trend: f64) -> Result<()> {
    for (what, short, v) in [("smoothing", "sf", smoothing), ("trend", "tf", trend)] {
        if v <= 0.0 || v >= 1.0 {
            return Err(Error::exec(format!("invalid {what} factor. Expected: 0 < {short} < 1, got: {}", fixed(v))));
        }
    }
    Ok(())
}

fn pick(w: &Window<'_>, first: bool) -> Out {
    let at = |n: usize| if first { 0 } else { n - 1 };
    match (w.ft.len(), w.ht.len()) {
        (0, 0) => Out::None,
        (n, 0) => Out::F(w.fv[at(n)]),
        (0, n) => Out::Shared(w.hh[at(n)].clone()),
        (f, h) => {
            let (f, h) = (at(f), at(h));
            if (w.ft[f] < w.ht[h]) == first { Out::F(w.fv[f]) } else { Out::Shared(w.hh[h].clone()) }
        }
    }
}

pub(super) fn sum(v: &[f64]) -> f64 {
    let (s, c) = v.iter().fold((0.0, 0.0), |(s, c), x| kahan(*x, s, c));
    if s.is_infinite() { s } else { s + c }
}

/// The mean: a compensated sum, or where that overflows an incremental mean from there on.
pub(super) fn average(v: &[f64]) -> f64 {
    let (mut s, mut c, mut mean, mut incremental) = (v[0], 0.0, 0.0, false);
    let mut count = 1.0;
    for x in &v[1..] {
        count += 1.0;
        if !incremental {
            let (ns, nc) = kahan(*x, s, c);
            if ns.is_finite() || ns.is_nan() {
                (s, c) = (ns, nc);
                continue;
            }
            incremental = true;
            mean = s / (count - 1.0);
            c /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (mean, c) = kahan(x / count, q * mean, q * c);
    }
    if incremental { mean + c } else { s / count + c / count }
}

fn extreme(w: &Window<'_>, better: impl Fn(f64, f64) -> bool) -> (f64, i64) {
    let mut best = (w.fv[0], w.ft[0]);
    for (x, t) in w.fv.iter().zip(w.ft) {
        if better(*x, best.0) || best.0.is_nan() {
            best = (*x, *t);
        }
    }
    best
}

pub(super) fn variance(v: &[f64]) -> f64 {
    let (mut n, mut mean, mut cm, mut aux, mut ca) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for x in v {
        n += 1.0;
        let delta = x - (mean + cm);
        (mean, cm) = kahan(delta / n, mean, cm);
        (aux, ca) = kahan(delta * (x - (mean + cm)), aux, ca);
    }
    (aux + ca) / n
}

/// Slope and value at `at` of the least-squares line.
pub(super) fn regression(t: &[i64], v: &[f64], at: i64) -> (f64, f64) {
    let first = v[0];
    if v.iter().all(|y| *y == first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let n = v.len() as f64;
    let mut sums = [(0.0, 0.0); 4];
    for (t, y) in t.iter().zip(v) {
        let x = (t - at) as f64 / 1e3;
        for ((s, c), d) in sums.iter_mut().zip([x, *y, x * y, x * x]) {
            (*s, *c) = kahan(d, *s, *c);
        }
    }
    let [x, y, xy, xx] = sums.map(|(s, c)| s + c);
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

/// Holt's linear method.
fn smooth(v: &[f64], sf: f64, tf: f64) -> f64 {
    let (mut s0, mut s1, mut b) = (0.0, v[0], v[1] - v[0]);
    for (i, x) in v.iter().enumerate().skip(1) {
        if i > 1 {
            b = tf * (s1 - s0) + (1.0 - tf) * b;
        }
        let y = (1.0 - sf) * (s1 + b);
        (s0, s1) = (s1, sf * x + y);
    }
    s1
}

/// Sum or mean of histograms.
fn histograms(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Out {
    let mut notes = Notes::default();
    let r = if spec.func == WindowFn::SumOverTime { sum_histograms(w.hh, &mut notes) } else { average_histograms(w.hh, &mut notes) };
    if notes.reset && notes.not_reset {
        ann.reset_collision(HistogramOp::Agg, spec.span);
    }
    if notes.reconciled {
        ann.bounds_reconciled(HistogramOp::Agg, spec.span);
    }
    match r {
        Ok(h) => Out::H(h),
        Err(Incompatible) => {
            ann.mixed_exponential_custom(&name(), spec.span);
            Out::None
        }
    }
}

/// What was seen while summing up.
#[derive(Default)]
pub(crate) struct Notes {
    pub reset: bool,
    pub not_reset: bool,
    pub reconciled: bool,
}

impl Notes {
    pub fn see(&mut self, h: &FloatHistogram) {
        self.reset |= h.counter_reset == CounterReset::Reset;
        self.not_reset |= h.counter_reset == CounterReset::NotReset;
    }
}

fn sum_histograms(hs: &[Hist], notes: &mut Notes) -> Result<FloatHistogram, Incompatible> {
    let mut acc = Accumulator::new(&hs[0]);
    notes.see(&hs[0]);
    for h in &hs[1..] {
        notes.see(h);
        notes.reconciled |= acc.add(h)?.reconciled;
    }
    Ok(acc.finish())
}

fn average_histograms(hs: &[Hist], notes: &mut Notes) -> Result<FloatHistogram, Incompatible> {
    let mut mean = HistogramMean::new(&hs[0]);
    notes.see(&hs[0]);
    for h in &hs[1..] {
        notes.see(h);
        notes.reconciled |= mean.add(h)?;
    }
    Ok(mean.finish())
}

/// The mean of histograms: a compensated sum, or where that overflows an incremental mean.
pub(crate) struct HistogramMean {
    acc: Accumulator,
    count: f64,
    incremental: bool,
}

impl HistogramMean {
    pub fn new(h: &FloatHistogram) -> Self {
        HistogramMean { acc: Accumulator::new(h), count: 1.0, incremental: false }
    }

    /// Takes one more; whether custom bounds had to be reconciled.
    pub fn add(&mut self, h: &FloatHistogram) -> Result<bool, Incompatible> {
        self.count += 1.0;
        if !self.incremental {
            let mut trial = self.acc.clone();
            let done = trial.add(h)?;
            if !trial.overflowed() {
                self.acc = trial;
                return Ok(done.reconciled);
            }
            self.incremental = true;
            self.acc.divide(self.count - 1.0);
        }
        self.acc.scale((self.count - 1.0) / self.count);
        let mut part = h.clone();
        div(&mut part, self.count);
        Ok(self.acc.add(&part)?.reconciled)
    }

    /// Takes over another mean.
    pub fn join(&mut self, o: HistogramMean) -> Result<bool, Incompatible> {
        let (n, total) = (o.count, self.count + o.count);
        let other = o.finish();
        if !self.incremental {
            self.acc.divide(self.count);
            self.incremental = true;
        }
        self.acc.scale(self.count / total);
        let mut part = other;
        super::super::histogram::arith::mul(&mut part, n / total);
        self.count = total;
        Ok(self.acc.add(&part)?.reconciled)
    }

    pub fn finish(self) -> FloatHistogram {
        let mut acc = self.acc;
        if !self.incremental && self.count != 1.0 {
            acc.divide(self.count);
        }
        acc.finish()
    }
}
