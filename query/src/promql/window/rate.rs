//! rate, increase, delta and their kin: differences over a window, mindful of counter resets.

use strandline_storage::model::{CounterReset, FloatHistogram};

use super::super::annotations::{Annotations, HistogramOp};
use super::super::eval::series::Hist;
use super::super::histogram::arith::{self, add, sub};
use super::super::histogram::{compact, detect_reset, equal};
use super::frames::{Bounds, Cursor, Frame, Stretch};
use super::{Name, Out, Window, WindowFn, WindowSpec, Work};

/// Whether start timestamps say that the counter began anew between two samples.
pub(super) fn start_reset(prev_st: i64, prev_t: i64, st: i64, t: i64) -> bool {
    // 0 is unknown, and a start at the sample itself is OTel's unknown start.
    if st == 0 || st >= t || st < prev_t {
        return false;
    }
    if st > prev_t {
        return true;
    }
    // The start is the sample before: a delta, unless that one's own start is unknown or nonsense.
    prev_st <= prev_t && prev_st != 0 && prev_st != prev_t
}

/// Whether a sample's start lies before the sample before it without being the same start.
fn start_overlap(prev_st: i64, prev_t: i64, st: i64) -> bool {
    st != 0 && st < prev_t && st != prev_st
}

/// What extrapolation needs to know of a window.
struct Edges {
    first_t: i64,
    last_t: i64,
    samples: usize,
    /// First value, for counters that can't have been below zero.
    first: f64,
    /// Start timestamp of the first sample.
    first_st: i64,
}

/// Seconds between a window's samples, and those stretched over before and after them.
#[derive(Clone, Copy, Default)]
struct Gap {
    to_start: f64,
    sampled: f64,
    to_end: f64,
}

impl Gap {
    /// Up to a border where the next sample is not overdue, half an interval where it is.
    fn new((start, end): (i64, i64), first_t: i64, last_t: i64, samples: usize) -> Self {
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let sampled = seconds(last_t - first_t);
        let average = if samples > 1 { sampled / (samples - 1) as f64 } else { 0.0 };
        let reach = |s: f64| if s >= average * 1.1 { average / 2.0 } else { s };
        Gap { to_start: reach(seconds(first_t - start)), sampled, to_end: reach(seconds(end - last_t)) }
    }

    /// A counter is never negative: extrapolation stops where it would have been zero.
    #[inline]
    fn not_below_zero(mut self, first: f64, diff: f64) -> Self {
        if diff > 0.0 && first >= 0.0 {
            self.to_start = self.to_start.min(self.sampled * (first / diff));
        }
        self
    }

    /// What a difference is multiplied with.
    #[inline]
    fn factor(&self, spec: &WindowSpec) -> f64 {
        let factor = if self.sampled != 0.0 { (self.sampled + self.to_start + self.to_end) / self.sampled } else { 1.0 };
        if spec.func == WindowFn::Rate { factor / (spec.range as f64 / 1000.0) } else { factor }
    }
}

/// The factor that stretches a difference to the whole window, and whether the counter is known to have started
/// at zero inside it. `None` if one sample is all there is.
fn stretch(spec: &WindowSpec, w: (i64, i64), e: &Edges, diff: f64) -> Option<(f64, bool)> {
    let counter = spec.func.is_counter();
    let gap = Gap::new(w, e.first_t, e.last_t, e.samples);
    if counter && e.first_st != 0 && e.first_st > w.0 && e.first_st < e.first_t {
        // The counter is known to have been zero at a time within the window.
        let sampled = (e.last_t - e.first_st) as f64 / 1000.0;
        return Some((Gap { to_start: 0.0, sampled, ..gap }.factor(spec), true));
    }
    if e.samples < 2 {
        return None;
    }
    let gap = if counter { gap.not_below_zero(e.first, diff) } else { gap };
    Some((gap.factor(spec), false))
}

/// Whether this is what the functions here make of all steps at once.
pub(super) fn is_difference(f: WindowFn) -> bool {
    matches!(f, WindowFn::Rate | WindowFn::Increase | WindowFn::Delta)
}

/// All steps of a series of floats with start timestamps, with resets found once.
pub(super) fn started_floats(
    spec: &WindowSpec,
    [t, st]: [&[i64]; 2],
    v: &[f64],
    out: &mut [f64],
    work: &mut Work<'_>,
    name: Name<'_>,
    ann: &mut Annotations,
) -> bool {
    let (resets, overlaps) = (&mut *work.marks, &mut *work.overlaps);
    resets.clear();
    overlaps.clear();
    if spec.func.is_counter() {
        find_resets(t, v, st, resets, overlaps);
    }
    let mut c = Cursor::default();
    let (mut falls, mut any) = (Falls(resets), false);
    let mut warned = overlaps.is_empty();
    for (step, slot) in out.iter_mut().enumerate() {
        let end = spec.refs.at(step);
        let start = end.saturating_sub(spec.range);
        c.slide(t, start, end);
        if c.is_empty() {
            continue;
        }
        let (lo, hi) = (c.lo, c.hi - 1);
        let mut diff = falls.add(lo, hi, v, v[hi] - v[lo]);
        if !warned && overlaps.iter().any(|o| *o > lo && *o <= hi) {
            ann.start_time_overlap(&name(), spec.span);
            warned = true;
        }
        let e = Edges { first_t: t[lo], last_t: t[hi], samples: c.hi - c.lo, first: v[lo], first_st: st[lo] };
        let Some((factor, from_zero)) = stretch(spec, (start, end), &e, diff) else { continue };
        if from_zero {
            diff += v[lo];
        }
        *slot = diff * factor;
        any = true;
    }
    any
}

/// The resets of a series, for windows that move forward.
struct Falls<'a>(&'a [usize]);

impl Falls<'_> {
    /// The difference with what was lost at resets between samples `lo` and `hi`.
    #[inline]
    fn add(&mut self, lo: usize, hi: usize, v: &[f64], diff: f64) -> f64 {
        if self.0.is_empty() {
            return diff;
        }
        let passed = self.0.iter().take_while(|r| **r <= lo).count();
        self.0 = &self.0[passed..];
        self.0.iter().take_while(|r| **r <= hi).fold(diff, |d, r| d + v[r - 1])
    }
}

/// All steps of a series of floats, whose frame is known.
pub(super) fn floats(spec: &WindowSpec, t: &[i64], v: &[f64], frame: &mut Frame, out: &mut [f64], resets: &mut Vec<usize>) -> bool {
    let Frame { bounds, stretches, .. } = frame;
    if stretches.len() != bounds.len() {
        stretch_all(spec, t, bounds, stretches);
    }
    let counter = spec.func.is_counter();
    resets.clear();
    if counter {
        find_resets(t, v, &[], resets, &mut Vec::new());
    }
    let (mut falls, mut any) = (Falls(resets), false);
    for (step, ((slot, b), stretch)) in out.iter_mut().zip(&*bounds).zip(&*stretches).enumerate() {
        let (lo, hi) = (b.lo as usize, b.hi as usize);
        if hi - lo < 2 {
            continue;
        }
        any = true;
        let first = v[lo];
        let diff = falls.add(lo, hi - 1, v, v[hi - 1] - first);
        // Far from zero no division is needed to know that zero does not hold back.
        let near = counter && diff > 0.0 && first <= stretch.near * diff;
        *slot = diff * if near { gap_of(spec, t, step, *b).not_below_zero(first, diff).factor(spec) } else { stretch.factor };
    }
    any
}

/// The gap of a window of two samples and more.
fn gap_of(spec: &WindowSpec, t: &[i64], step: usize, b: Bounds) -> Gap {
    let end = spec.refs.at(step);
    let w = b.of(t);
    Gap::new((end.saturating_sub(spec.range), end), w[0], w[w.len() - 1], w.len())
}

/// How the differences of all steps are stretched.
fn stretch_all(spec: &WindowSpec, t: &[i64], bounds: &[Bounds], out: &mut Vec<Stretch>) {
    // Where samples come as regularly as steps do, windows mostly lie over them as the one before did.
    let (mut last_shape, mut last) = ((0, 0, 0), Stretch::default());
    out.clear();
    out.extend(bounds.iter().enumerate().map(|(step, b)| {
        let &[first_t, .., last_t] = b.of(t) else { return Stretch::default() };
        let end = spec.refs.at(step);
        let shape = (end - first_t, end - last_t, b.len());
        if shape != last_shape {
            let gap = gap_of(spec, t, step, *b);
            (last_shape, last) = (shape, Stretch { factor: gap.factor(spec), near: gap.to_start / gap.sampled * 1.000_001 });
        }
        last
    }));
}

/// Where a counter began anew, and where start timestamps contradict.
fn find_resets(t: &[i64], v: &[f64], st: &[i64], resets: &mut Vec<usize>, overlaps: &mut Vec<usize>) {
    if st.is_empty() {
        // Without a branch a pair: most series never fall.
        let falls = v.windows(2).fold(false, |f, w| f | (w[1] < w[0]));
        if falls {
            resets.extend((1..v.len()).filter(|i| v[*i] < v[i - 1]));
        }
        return;
    }
    for i in 1..v.len() {
        if v[i] < v[i - 1] || start_reset(st[i - 1], t[i - 1], st[i], t[i]) {
            resets.push(i);
        }
        if start_overlap(st[i - 1], t[i - 1], st[i]) {
            overlaps.push(i);
        }
    }
}

/// rate, increase and delta of one window that may hold histograms.
pub(super) fn extrapolated(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Out {
    if !w.hh.is_empty() && !w.ft.is_empty() {
        ann.mixed_floats_histograms(&name(), spec.span);
        return Out::None;
    }
    let st0 = |st: &[i64]| st.first().copied().unwrap_or(0);
    if w.hh.is_empty() {
        return of_floats(spec, w, name, ann);
    }
    let n = w.hh.len();
    let counter = spec.func.is_counter();
    let mut result = None;
    if n > 1 {
        let Some(h) = histogram_difference(spec, w, counter, name, ann) else { return Out::None };
        result = Some(h);
    }
    let e = Edges { first_t: w.ht[0], last_t: w.ht[n - 1], samples: n, first: w.hh[0].count, first_st: st0(w.hst) };
    let diff = result.as_ref().map_or(0.0, |h| h.count);
    let Some((factor, from_zero)) = stretch(spec, (w.start, w.end), &e, diff) else { return Out::None };
    let mut h = match result {
        None => (*w.hh[0]).clone(),
        Some(mut h) => {
            if from_zero && !add_noting(&mut h, &w.hh[0], spec, name, ann) {
                return Out::None;
            }
            h
        }
    };
    arith::mul(&mut h, factor);
    Out::H(h)
}

/// rate, increase and delta of one window of floats.
fn of_floats(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Out {
    let (Some(first), Some(last)) = (w.fv.first(), w.fv.last()) else { return Out::None };
    let mut diff = last - first;
    if spec.func.is_counter() {
        let (mut resets, mut overlaps) = (Vec::new(), Vec::new());
        find_resets(w.ft, w.fv, w.fst, &mut resets, &mut overlaps);
        diff = resets.iter().fold(diff, |d, r| d + w.fv[r - 1]);
        if !overlaps.is_empty() {
            ann.start_time_overlap(&name(), spec.span);
        }
    }
    let n = w.ft.len();
    let e = Edges { first_t: w.ft[0], last_t: w.ft[n - 1], samples: n, first: *first, first_st: w.fst.first().copied().unwrap_or(0) };
    match stretch(spec, (w.start, w.end), &e, diff) {
        None => Out::None,
        Some((factor, from_zero)) => Out::F((if from_zero { diff + first } else { diff }) * factor),
    }
}

/// `base += other`; whether they fit.
pub(super) fn add_noting(
    base: &mut FloatHistogram,
    other: &FloatHistogram,
    spec: &WindowSpec,
    name: Name<'_>,
    ann: &mut Annotations,
) -> bool {
    note(add(base, other), HistogramOp::Add, spec, name, ann)
}

/// `base -= other`; whether they fit.
pub(super) fn sub_noting(
    base: &mut FloatHistogram,
    other: &FloatHistogram,
    spec: &WindowSpec,
    name: Name<'_>,
    ann: &mut Annotations,
) -> bool {
    note(sub(base, other), HistogramOp::Sub, spec, name, ann)
}

fn note(
    r: Result<arith::Combined, arith::Incompatible>,
    op: HistogramOp,
    spec: &WindowSpec,
    name: Name<'_>,
    ann: &mut Annotations,
) -> bool {
    match r {
        Ok(c) => {
            // Resets are dealt with by the caller, so contradicting hints say nothing new.
            if c.reconciled {
                ann.bounds_reconciled(op, spec.span);
            }
            true
        }
        Err(_) => {
            ann.mixed_exponential_custom(&name(), spec.span);
            false
        }
    }
}

/// Last less first, resets added back.
fn histogram_difference(spec: &WindowSpec, w: &Window<'_>, counter: bool, name: Name<'_>, ann: &mut Annotations) -> Option<FloatHistogram> {
    let n = w.hh.len();
    let (first, last) = (&w.hh[0], &w.hh[n - 1]);
    let gauge = |h: &Hist| h.counter_reset == CounterReset::Gauge;
    if counter && (gauge(first) || gauge(last)) {
        ann.not_counter(&name(), spec.span);
    }
    let reset_at = |i: usize, prev: &FloatHistogram| {
        (w.hst.len() > i && start_reset(w.hst[i - 1], w.ht[i - 1], w.hst[i], w.ht[i])) || detect_reset(&w.hh[i], prev)
    };
    let mut prev: Hist = first.clone();
    if counter && reset_at(1, &prev) {
        // Nothing of the first sample is used then, so it may have any layout.
        let second = &w.hh[1];
        prev = FloatHistogram { schema: second.schema, custom_values: second.custom_values.clone(), ..Default::default() }.into();
    }
    let custom = prev.uses_custom_buckets();
    if last.uses_custom_buckets() != custom {
        ann.mixed_exponential_custom(&name(), spec.span);
        return None;
    }
    let mut schema = last.schema.min(prev.schema);
    if counter {
        for h in &w.hh[1..n - 1] {
            if gauge(h) {
                ann.not_counter(&name(), spec.span);
            }
            schema = schema.min(h.schema);
            if h.uses_custom_buckets() != custom {
                ann.mixed_exponential_custom(&name(), spec.span);
                return None;
            }
        }
    }
    let mut h = arith::at_schema(last, schema);
    if !sub_noting(&mut h, &prev, spec, name, ann) {
        return None;
    }
    if counter {
        let mut warned = false;
        for i in 1..n {
            if !warned && w.hst.len() > i && start_overlap(w.hst[i - 1], w.ht[i - 1], w.hst[i]) {
                ann.start_time_overlap(&name(), spec.span);
                warned = true;
            }
            if reset_at(i, &prev) && !add_noting(&mut h, &prev, spec, name, ann) {
                return None;
            }
            prev = w.hh[i].clone();
        }
    } else if !gauge(first) || !gauge(last) {
        ann.not_gauge(&name(), spec.span);
    }
    h.counter_reset = CounterReset::Gauge;
    compact(&mut h);
    Some(h)
}

/// irate and idelta: the last two samples.
pub(super) fn instant(spec: &WindowSpec, w: &Window<'_>, name: Name<'_>, ann: &mut Annotations) -> Out {
    let rate = spec.func == WindowFn::Irate;
    // (t, st, value), the last two of either kind in order.
    let mut last: Vec<(i64, i64, Option<&Hist>, f64)> = Vec::with_capacity(4);
    for i in w.ft.len().saturating_sub(2)..w.ft.len() {
        last.push((w.ft[i], w.fst.get(i).copied().unwrap_or(0), None, w.fv[i]));
    }
    for i in w.ht.len().saturating_sub(2)..w.ht.len() {
        last.push((w.ht[i], w.hst.get(i).copied().unwrap_or(0), Some(&w.hh[i]), 0.0));
    }
    last.sort_by_key(|s| s.0);
    let [.., a, b] = last[..] else { return Out::None };
    let interval = b.0 - a.0;
    if interval == 0 {
        return Out::None;
    }
    let seconds = interval as f64 / 1000.0;
    let st_reset = start_reset(a.1, a.0, b.1, b.0);
    match (a.2, b.2) {
        (None, None) => {
            let v = if rate && (b.3 < a.3 || st_reset) { b.3 } else { b.3 - a.3 };
            Out::F(if rate { v / seconds } else { v })
        }
        (Some(x), Some(y)) => {
            let gauges = (x.counter_reset == CounterReset::Gauge, y.counter_reset == CounterReset::Gauge);
            if rate && (gauges.0 || gauges.1) {
                ann.not_counter(&name(), spec.span);
            }
            if !(rate || gauges.0 && gauges.1) {
                ann.not_gauge(&name(), spec.span);
            }
            let mut h = (**y).clone();
            if (!rate || (!st_reset && !detect_reset(y, x))) && !sub_noting(&mut h, x, spec, name, ann) {
                return Out::None;
            }
            h.counter_reset = CounterReset::Gauge;
            compact(&mut h);
            if rate {
                arith::div(&mut h, seconds);
            }
            Out::H(h)
        }
        _ => {
            ann.mixed_floats_histograms(&name(), spec.span);
            Out::None
        }
    }
}

/// A sample of either kind with its times.
type Any<'a> = (i64, i64, Option<&'a Hist>, f64);

/// Visits neighbouring samples of both kinds in order of time.
fn pairs(w: &Window<'_>, mut f: impl FnMut(&Any<'_>, &Any<'_>)) {
    let (mut i, mut j) = (0, 0);
    let mut prev: Option<Any<'_>> = None;
    while i < w.ft.len() || j < w.ht.len() {
        let float = j >= w.ht.len() || (i < w.ft.len() && w.ft[i] < w.ht[j]);
        let cur: Any<'_> = if float {
            i += 1;
            (w.ft[i - 1], w.fst.get(i - 1).copied().unwrap_or(0), None, w.fv[i - 1])
        } else {
            j += 1;
            (w.ht[j - 1], w.hst.get(j - 1).copied().unwrap_or(0), Some(&w.hh[j - 1]), 0.0)
        };
        if let Some(p) = &prev {
            f(p, &cur);
        }
        prev = Some(cur);
    }
}

/// Number of resets.
pub(super) fn resets(w: &Window<'_>) -> Out {
    let mut n = 0u64;
    pairs(w, |a, b| {
        let st = start_reset(a.1, a.0, b.1, b.0);
        n += u64::from(match (a.2, b.2) {
            (None, None) => b.3 < a.3 || st,
            (Some(x), Some(y)) => st || detect_reset(y, x),
            _ => true,
        });
    });
    Out::F(n as f64)
}

/// Number of changes.
pub(super) fn changes(w: &Window<'_>) -> Out {
    let mut n = 0u64;
    pairs(w, |a, b| {
        n += u64::from(match (a.2, b.2) {
            (None, None) => b.3 != a.3 && !(a.3.is_nan() && b.3.is_nan()),
            (Some(x), Some(y)) => !equal(y, x),
            _ => true,
        });
    });
    Out::F(n as f64)
}
