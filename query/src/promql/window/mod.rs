//! Functions over windows of samples: one pass over a series' samples for all steps.

mod extended;
mod frames;
mod over_time;
mod rate;
mod sliding;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use strandline_storage::model::{FloatHistogram, TimeRange, is_stale};
use strandline_storage::read::SampleBuf;

use super::annotations::Annotations;
use super::ast::Span;
use super::error::Result;
use super::eval::context::Refs;
use super::eval::series::{Hist, is_absent};
use sliding::Floats;

pub(crate) use extended::{Extended, smooth_instant};
pub(crate) use frames::Cursor;
pub(crate) use over_time::{HistogramMean, Notes};

/// A function over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WindowFn {
    Rate,
    Increase,
    Delta,
    Irate,
    Idelta,
    Resets,
    Changes,
    Deriv,
    PredictLinear,
    DoubleExponentialSmoothing,
    SumOverTime,
    AvgOverTime,
    CountOverTime,
    MinOverTime,
    MaxOverTime,
    StddevOverTime,
    StdvarOverTime,
    LastOverTime,
    FirstOverTime,
    PresentOverTime,
    QuantileOverTime,
    MadOverTime,
    TsOfFirst,
    TsOfLast,
    TsOfMin,
    TsOfMax,
}

impl WindowFn {
    pub fn by_name(name: &str) -> Option<Self> {
        use WindowFn::*;
        Some(match name {
            "rate" => Rate,
            "increase" => Increase,
            "delta" => Delta,
            "irate" => Irate,
            "idelta" => Idelta,
            "resets" => Resets,
            "changes" => Changes,
            "deriv" => Deriv,
            "predict_linear" => PredictLinear,
            "double_exponential_smoothing" => DoubleExponentialSmoothing,
            "sum_over_time" => SumOverTime,
            "avg_over_time" => AvgOverTime,
            "count_over_time" => CountOverTime,
            "min_over_time" => MinOverTime,
            "max_over_time" => MaxOverTime,
            "stddev_over_time" => StddevOverTime,
            "stdvar_over_time" => StdvarOverTime,
            "last_over_time" => LastOverTime,
            "first_over_time" => FirstOverTime,
            "present_over_time" | "absent_over_time" => PresentOverTime,
            "quantile_over_time" => QuantileOverTime,
            "mad_over_time" => MadOverTime,
            "ts_of_first_over_time" => TsOfFirst,
            "ts_of_last_over_time" => TsOfLast,
            "ts_of_min_over_time" => TsOfMin,
            "ts_of_max_over_time" => TsOfMax,
            _ => return None,
        })
    }

    pub fn is_counter(self) -> bool {
        matches!(self, WindowFn::Rate | WindowFn::Increase | WindowFn::Irate)
    }
}

/// A function with all it needs.
pub(crate) struct WindowSpec {
    pub func: WindowFn,
    /// Width in milliseconds; the window is open on the left.
    pub range: i64,
    pub refs: Refs,
    pub ext: Extended,
    /// Scalar arguments, one value a step.
    pub params: Vec<Vec<f64>>,
    /// The first argument, where annotations point.
    pub span: Span,
    /// Judge counters by `__type__` instead of by name.
    pub type_labels: bool,
    /// All series have the same name.
    pub one_name: bool,
}

/// Memory reused from series to series.
#[derive(Default)]
pub(crate) struct Scratch {
    ft: Vec<i64>,
    fv: Vec<f64>,
    fst: Vec<i64>,
    ht: Vec<i64>,
    hh: Vec<Hist>,
    hst: Vec<i64>,
    pub(super) values: Vec<f64>,
    pub(super) marks: Vec<usize>,
    pub(super) overlaps: Vec<usize>,
    counts: Vec<u32>,
    frames: frames::Frames,
    /// The name that all series share was judged already.
    judged: bool,
}

/// The samples of one window, floats and histograms apart.
pub(crate) struct Window<'a> {
    pub ft: &'a [i64],
    pub fv: &'a [f64],
    /// Start timestamps; empty if none is known.
    pub fst: &'a [i64],
    pub ht: &'a [i64],
    pub hh: &'a [Hist],
    pub hst: &'a [i64],
    /// Where the window opens (not part of it) and ends.
    pub start: i64,
    pub end: i64,
    /// The step's own time.
    pub ts: i64,
    pub step: usize,
}

/// What a function makes of a window.
pub(crate) enum Out {
    None,
    F(f64),
    H(FloatHistogram),
    Shared(Hist),
}

/// Where the metric's name comes from when an annotation wants it.
pub(crate) type Name<'a> = &'a mut dyn FnMut() -> String;

impl WindowSpec {
    /// The samples the whole evaluation may touch.
    pub fn read_range(&self) -> TimeRange {
        let (before, after) = self.ext.reach();
        self.refs.span(self.range.saturating_add(before).saturating_sub(1), after)
    }

    /// Calls `f` with each step and the samples of its window that are not empty.
    pub fn each_window(&self, buf: &SampleBuf, n: usize, f: &mut dyn FnMut(usize, usize, usize)) {
        let (before, after) = self.ext.reach();
        let mut c = Cursor::default();
        for step in 0..n {
            let end = self.refs.at(step);
            c.slide(&buf.t, end.saturating_sub(self.range).saturating_sub(before), end.saturating_add(after));
            if !c.is_empty() {
                f(step, c.lo, c.hi);
            }
        }
    }

    /// Fills the steps of one series; whether there is any. `kind` gives its `__type__`.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        buf: &SampleBuf,
        v: &mut [f64],
        h: &mut Vec<Option<Hist>>,
        s: &mut Scratch,
        name: Name<'_>,
        kind: Name<'_>,
        ann: &mut Annotations,
    ) -> Result<bool> {
        let clean = !buf.has_histograms() && !buf.v.iter().fold(false, |any, v| any | is_stale(*v));
        if !clean {
            split(buf, s);
        }
        let Scratch { ft, fv, fst, ht, hh, hst, values, marks, overlaps, counts, frames, judged } = s;
        let (ft, fv, fst): (&[i64], &[f64], &[i64]) = if clean { (&buf.t, &buf.v, &buf.st) } else { (ft, fv, fst) };
        let (ht, hh, hst): (&[i64], &[Hist], &[i64]) = if clean { (&[], &[], &[]) } else { (ht, hh, hst) };
        let mut work = Work { values, marks, overlaps, counts };
        let any = if hh.is_empty() && self.ext.is_plain() && fst.is_empty() {
            let frame = frames.fit(self, ft, v.len());
            if rate::is_difference(self.func) {
                rate::floats(self, ft, fv, frame, v, work.marks)
            } else {
                match sliding::try_run(self, &Floats { t: ft, v: fv, bounds: &frame.bounds }, v, &mut work) {
                    Some(any) => any,
                    None => self.general([ft, ht], fv, fst, hh, hst, v, h, &mut work, name, ann)?,
                }
            }
        } else if hh.is_empty() && self.ext.is_plain() && rate::is_difference(self.func) {
            rate::started_floats(self, [ft, fst], fv, v, &mut work, name, ann)
        } else {
            self.general([ft, ht], fv, fst, hh, hst, v, h, &mut work, name, ann)?
        };
        let judge = any && !*judged && matches!(self.func, WindowFn::Rate | WindowFn::Increase);
        if judge && v.iter().any(|v| !is_absent(*v)) {
            self.judge_counter(name, kind, ann);
            *judged = self.one_name && !self.type_labels;
        }
        Ok(any)
    }

    /// Says so if the metric does not look like a counter.
    fn judge_counter(&self, name: Name<'_>, kind: Name<'_>, ann: &mut Annotations) {
        let n = name();
        if n.is_empty() {
            return;
        }
        if self.type_labels {
            let kind = kind();
            if kind != "counter" && kind != "histogram" {
                ann.possible_non_counter_label(&n, &kind, self.span);
            }
        } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|s| n.ends_with(s)) {
            ann.possible_non_counter(&n, self.span);
        }
    }

    /// Window after window through the function; the borders only move forward.
    #[allow(clippy::too_many_arguments)]
    fn general(
        &self,
        [ft, ht]: [&[i64]; 2],
        fv: &[f64],
        fst: &[i64],
        hh: &[Hist],
        hst: &[i64],
        v: &mut [f64],
        h: &mut Vec<Option<Hist>>,
        work: &mut Work<'_>,
        name: Name<'_>,
        ann: &mut Annotations,
    ) -> Result<bool> {
        let (mut f, mut g) = (Cursor::default(), Cursor::default());
        let (before, after) = self.ext.reach();
        let mut any = false;
        for step in 0..v.len() {
            let end = self.refs.at(step);
            let start = end.saturating_sub(self.range);
            f.slide(ft, start.saturating_sub(before), end.saturating_add(after));
            g.slide(ht, start.saturating_sub(before), end.saturating_add(after));
            if f.is_empty() && g.is_empty() {
                continue;
            }
            let starts = |st: &'_ [i64], c: &Cursor| if st.is_empty() { 0..0 } else { c.lo..c.hi };
            let w = Window {
                ft: &ft[f.lo..f.hi],
                fv: &fv[f.lo..f.hi],
                fst: &fst[starts(fst, &f)],
                ht: &ht[g.lo..g.hi],
                hh: &hh[g.lo..g.hi],
                hst: &hst[starts(hst, &g)],
                start,
                end,
                ts: self.refs.steps.at(step),
                step,
            };
            let out = match self.call(&w, work, name, ann)? {
                Out::None => continue,
                Out::F(x) => {
                    v[step] = x;
                    any = true;
                    continue;
                }
                Out::H(x) => Arc::new(x),
                Out::Shared(x) => x,
            };
            if h.is_empty() {
                h.resize(v.len(), None);
            }
            h[step] = Some(out);
            any = true;
        }
        Ok(any)
    }

    fn call(&self, w: &Window<'_>, work: &mut Work<'_>, name: Name<'_>, ann: &mut Annotations) -> Result<Out> {
        use WindowFn::*;
        if !self.ext.is_plain() {
            return Ok(extended::call(self, w, name, ann));
        }
        Ok(match self.func {
            Rate | Increase | Delta => rate::extrapolated(self, w, name, ann),
            Irate | Idelta => rate::instant(self, w, name, ann),
            Resets => rate::resets(w),
            Changes => rate::changes(w),
            _ => over_time::call(self, w, work, name, ann)?,
        })
    }
}

/// Buffers of a call.
pub(crate) struct Work<'a> {
    pub values: &'a mut Vec<f64>,
    pub marks: &'a mut Vec<usize>,
    pub overlaps: &'a mut Vec<usize>,
    pub counts: &'a mut Vec<u32>,
}

/// Parts floats from histograms, without staleness markers.
fn split(buf: &SampleBuf, s: &mut Scratch) {
    s.ft.clear();
    s.fv.clear();
    s.fst.clear();
    s.ht.clear();
    s.hh.clear();
    s.hst.clear();
    let with_st = !buf.st.is_empty();
    for i in 0..buf.len() {
        match buf.histogram(i) {
            Some(h) if h.is_stale() => {}
            Some(h) => {
                s.ht.push(buf.t[i]);
                s.hh.push(h.clone());
                if with_st {
                    s.hst.push(buf.st[i]);
                }
            }
            None if is_stale(buf.v[i]) => {}
            None => {
                s.ft.push(buf.t[i]);
                s.fv.push(buf.v[i]);
                if with_st {
                    s.fst.push(buf.st[i]);
                }
            }
        }
    }
}
