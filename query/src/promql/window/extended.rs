//! `anchored` and `smoothed`: what lies at the borders of a window stands for the borders.

use std::sync::Arc;

use strandline_storage::model::{CounterReset, FloatHistogram, is_stale};

use super::super::annotations::{Annotations, HistogramOp};
use super::super::ast::{Extension, Span};
use super::super::error::{Error, Result};
use super::super::eval::context::Refs;
use super::super::eval::series::{ABSENT, Hist};
use super::super::eval::source;
use super::super::histogram::arith::{self, Incompatible, add, sub};
use super::super::histogram::{compact, detect_reset};
use super::rate::{add_noting, sub_noting};
use super::{Name, Out, Window, WindowFn, WindowSpec, rate};

/// How a selection reaches beyond its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extended {
    pub kind: Extension,
    pub lookback: i64,
}

impl Extended {
    pub fn is_plain(&self) -> bool {
        self.kind == Extension::None
    }
    /// Milliseconds before and after the range.
    pub fn reach(&self) -> (i64, i64) {
        match self.kind {
            Extension::None => (0, 0),
            Extension::Anchored => (self.lookback, 0),
            Extension::Smoothed => (self.lookback, self.lookback),
        }
    }

    /// Puts the values at the borders of `(start, end]` in place of what lies beyond them.
    pub fn cut(&self, start: i64, end: i64, t: &mut Vec<i64>, v: &mut Vec<f64>, h: &mut [Option<Hist>]) -> Result<()> {
        if self.is_plain() || t.is_empty() {
            return Ok(());
        }
        if h.iter().any(Option::is_some) {
            return Err(Error::exec("anchored and smoothed range selectors can't be shown where they hold histograms"));
        }
        let b = Borders::find(t, start, end, self.kind == Extension::Smoothed);
        if t[b.last] <= start {
            t.clear();
            v.clear();
            return Ok(());
        }
        let (left, right) = b.values(t, v, start, end, self.kind == Extension::Smoothed, false);
        let (lo, hi) = b.inner(t, start, end);
        let mut nt = vec![start];
        let mut nv = vec![left];
        nt.extend(&t[lo..hi]);
        nv.extend(&v[lo..hi]);
        nt.push(end);
        nv.push(right);
        (*t, *v) = (nt, nv);
        Ok(())
    }
}

/// Indices of the samples that stand at the borders.
struct Borders {
    first: usize,
    last: usize,
}

impl Borders {
    fn find(t: &[i64], start: i64, end: i64, smoothed: bool) -> Self {
        let n = t.len() - 1;
        let first = t[..n].partition_point(|t| *t <= start).saturating_sub(1);
        let last = if smoothed { t[..n].partition_point(|t| *t < end) } else { n };
        Borders { first, last }
    }

    fn values(&self, t: &[i64], v: &[f64], start: i64, end: i64, smoothed: bool, counter: bool) -> (f64, f64) {
        let (f, l) = (self.first, self.last);
        let left = if smoothed && t[f] < start && f + 1 < t.len() { interpolate(t, v, f, start, counter) } else { v[f] };
        let right = if smoothed && l > 0 && t[l] > end { interpolate(t, v, l - 1, end, counter) } else { v[l] };
        (left, right)
    }

    /// The samples strictly between the borders.
    fn inner(&self, t: &[i64], start: i64, end: i64) -> (usize, usize) {
        let lo = self.first + usize::from(t[self.first] <= start);
        let hi = self.last + usize::from(t[self.last] < end);
        (lo, hi.max(lo))
    }
}

/// The value at `at` on the line from sample `i` to the next; a counter that fell started at zero.
fn interpolate(t: &[i64], v: &[f64], i: usize, at: i64, counter: bool) -> f64 {
    let (mut a, b) = (v[i], v[i + 1]);
    if counter && b < a {
        a = 0.0;
    }
    a + (b - a) * (at - t[i]) as f64 / (t[i + 1] - t[i]) as f64
}

/// rate, increase, delta, resets or changes of an extended window.
pub(super) fn call(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Out {
    match spec.func {
        WindowFn::Resets | WindowFn::Changes => match anchor(w) {
            None => Out::None,
            Some((f, h)) => {
                let tail = |st: &'_ [i64], i: usize| if st.is_empty() { 0 } else { i };
                let cut = Window {
                    ft: &w.ft[f..],
                    fv: &w.fv[f..],
                    fst: &w.fst[tail(w.fst, f)..],
                    ht: &w.ht[h..],
                    hh: &w.hh[h..],
                    hst: &w.hst[tail(w.hst, h)..],
                    ..*w
                };
                if spec.func == WindowFn::Resets { rate::resets(&cut) } else { rate::changes(&cut) }
            }
        },
        _ if !w.hh.is_empty() && !w.ft.is_empty() => {
            ann.mixed_floats_histograms(&name(), spec.span);
            Out::None
        }
        _ if !w.hh.is_empty() => histogram_rate(spec, w, name, ann),
        _ => float_rate(spec, w),
    }
}

/// Where the newest sample at or before the start of the window lies, and all after it. `None` if nothing is after.
fn anchor(w: &Window<'_>) -> Option<(usize, usize)> {
    let f = w.ft.partition_point(|t| *t <= w.start);
    let h = w.ht.partition_point(|t| *t <= w.start);
    if f >= w.ft.len() && h >= w.ht.len() {
        return None;
    }
    Some(match (f.checked_sub(1), h.checked_sub(1)) {
        (None, None) => (0, 0),
        (Some(a), None) => (a, h),
        (None, Some(b)) => (f, b),
        (Some(a), Some(b)) if w.ft[a] >= w.ht[b] => (a, h),
        (Some(_), Some(b)) => (f, b),
    })
}

fn float_rate(spec: &WindowSpec, w: &Window<'_>) -> Out {
    let smoothed = spec.ext.kind == Extension::Smoothed;
    let counter = spec.func.is_counter();
    let (t, v) = (w.ft, w.fv);
    let b = Borders::find(t, w.start, w.end, smoothed);
    if t[b.last] <= w.start || (smoothed && t[b.first] > w.end) {
        return Out::None;
    }
    let (left, right) = b.values(t, v, w.start, w.end, smoothed, counter);
    let mut out = right - left;
    if counter {
        let (lo, hi) = b.inner(t, w.start, w.end);
        let mut prev = left;
        for x in v[lo..hi].iter().chain([&right]) {
            if *x < prev {
                out += prev;
            }
            prev = *x;
        }
    }
    if spec.func == WindowFn::Rate {
        out /= spec.range as f64 / 1000.0;
    }
    Out::F(out)
}

/// The histogram at `at` between two.
fn between(
    a: (i64, &Hist),
    b: (i64, &Hist),
    at: i64,
    counter: bool,
    span: Span,
    ann: &mut Annotations,
) -> Result<FloatHistogram, Incompatible> {
    if at == a.0 {
        return Ok((**a.1).clone());
    }
    if at == b.0 {
        return Ok((**b.1).clone());
    }
    if a.1.uses_custom_buckets() != b.1.uses_custom_buckets() {
        // Not even a reset leads from one kind to the other.
        return Err(Incompatible);
    }
    let fraction = (at - a.0) as f64 / (b.0 - a.0) as f64;
    let mut out = (**b.1).clone();
    if counter && detect_reset(b.1, a.1) {
        arith::mul(&mut out, fraction);
        return Ok(out);
    }
    if sub(&mut out, a.1)?.reconciled {
        ann.bounds_reconciled(HistogramOp::Sub, span);
    }
    arith::mul(&mut out, fraction);
    if add(&mut out, a.1)?.reconciled {
        ann.bounds_reconciled(HistogramOp::Add, span);
    }
    Ok(out)
}

fn histogram_rate(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Out {
    let smoothed = spec.ext.kind == Extension::Smoothed;
    let counter = spec.func.is_counter();
    let (t, h) = (w.ht, w.hh);
    let b = Borders::find(t, w.start, w.end, smoothed);
    let (first, last) = (b.first, b.last);
    if t[last] <= w.start || (smoothed && t[first] > w.end) {
        return Out::None;
    }
    let custom = h[first].uses_custom_buckets();
    for x in &h[first..=last] {
        if x.uses_custom_buckets() != custom {
            ann.mixed_exponential_custom(&name(), spec.span);
            return Out::None;
        }
        if counter && x.counter_reset == CounterReset::Gauge {
            ann.not_counter(&name(), spec.span);
        }
    }
    let left = if smoothed && t[first] < w.start && first + 1 < h.len() {
        between((t[first], &h[first]), (t[first + 1], &h[first + 1]), w.start, counter, spec.span, ann)
    } else {
        Ok((*h[first]).clone())
    };
    let right = if smoothed && last > 0 && t[last] > w.end {
        between((t[last - 1], &h[last - 1]), (t[last], &h[last]), w.end, counter, spec.span, ann)
    } else {
        Ok((*h[last]).clone())
    };
    let (Ok(left), Ok(right)) = (left, right) else {
        ann.mixed_exponential_custom(&name(), spec.span);
        return Out::None;
    };
    if !counter && (left.counter_reset != CounterReset::Gauge || right.counter_reset != CounterReset::Gauge) {
        ann.not_gauge(&name(), spec.span);
    }
    let mut out = right.clone();
    if !sub_noting(&mut out, &left, spec, name, ann) {
        return Out::None;
    }
    if counter && !add_resets(spec, w, &b, &left, &right, &mut out, name, ann) {
        return Out::None;
    }
    if spec.func == WindowFn::Rate {
        arith::div(&mut out, spec.range as f64 / 1000.0);
    }
    out.counter_reset = CounterReset::Gauge;
    compact(&mut out);
    Out::H(out)
}

/// Adds back what resets between the borders took away; whether all fits.
#[allow(clippy::too_many_arguments)]
fn add_resets(
    spec: &WindowSpec,
    w: &Window<'_>,
    b: &Borders,
    left: &FloatHistogram,
    right: &FloatHistogram,
    out: &mut FloatHistogram,
    name: Name<'_>,
    ann: &mut Annotations,
) -> bool {
    let (t, h) = (w.ht, w.hh);
    let mut from = b.first + 1;
    let mut prev = left;
    if spec.ext.kind == Extension::Smoothed && t[b.first] < w.start && from < h.len() && detect_reset(&h[from], &h[b.first]) {
        // The interpolated left border already lies after this reset.
        prev = &h[from];
        from += 1;
    }
    // The last sample is the right border, or lies beyond it: only the border counts.
    if from > b.last {
        return true;
    }
    for x in &h[from..b.last] {
        if detect_reset(x, prev) && !add_noting(out, prev, spec, name, ann) {
            return false;
        }
        prev = x;
    }
    !detect_reset(right, prev) || add_noting(out, prev, spec, name, ann)
}

/// An instant selector with `smoothed`: the value on the line between the neighbours.
pub(crate) fn smooth_instant(s: &mut source::Scratch, refs: &Refs, lookback: i64, name: Name<'_>, span: Span, ann: &mut Annotations) {
    let buf = &s.buf;
    let live = |i: usize| buf.histogram(i).map_or(!is_stale(buf.v[i]), |h| !h.is_stale());
    let at: Vec<usize> = (0..buf.len()).filter(|i| live(*i)).collect();
    let n = s.v.len();
    for step in 0..n {
        let now = refs.at(step);
        let lo = at.partition_point(|i| buf.t[*i] <= now.saturating_sub(lookback));
        let hi = at.partition_point(|i| buf.t[*i] <= now.saturating_add(lookback));
        let window = &at[lo..hi];
        let histograms = window.iter().filter(|i| buf.histogram(**i).is_some()).count();
        if histograms > 0 && histograms < window.len() {
            ann.mixed_floats_histograms(&name(), span);
            continue;
        }
        let next = window.partition_point(|i| buf.t[*i] < now);
        let exact = window.get(next).copied().filter(|i| buf.t[*i] == now);
        let prev = next.checked_sub(1).map(|i| window[i]);
        let out = match (exact, prev, window.get(next).copied()) {
            (Some(i), ..) => (i, None),
            (None, Some(p), n) => (p, n),
            _ => continue,
        };
        if histograms == 0 {
            s.v[step] = match out {
                (i, None) => buf.v[i],
                (p, Some(n)) => interpolate(&[buf.t[p], buf.t[n]], &[buf.v[p], buf.v[n]], 0, now, false),
            };
            continue;
        }
        let Some(a) = buf.histogram(out.0) else { continue };
        let h = match out.1.and_then(|n| buf.histogram(n).map(|h| (n, h))) {
            None => a.clone(),
            Some((n, b)) => {
                let counter = a.counter_reset != CounterReset::Gauge && b.counter_reset != CounterReset::Gauge;
                match between((buf.t[out.0], a), (buf.t[n], b), now, counter, span, ann) {
                    Ok(h) => Arc::new(h),
                    Err(Incompatible) => {
                        ann.mixed_exponential_custom(&name(), span);
                        continue;
                    }
                }
            }
        };
        if s.h.is_empty() {
            s.h.resize(n, None);
        }
        s.v[step] = ABSENT;
        s.h[step] = Some(h);
    }
}
