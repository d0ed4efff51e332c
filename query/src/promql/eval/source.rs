//! From stored samples to step values: instant selectors and windows over selections or subquery results.

use std::sync::Arc;

use strandline_storage::model::{CounterReset, FloatHistogram, Labels, METRIC_NAME, TimeRange, is_stale};
use strandline_storage::read::{SampleBuf, SeriesSelection};

use super::super::annotations::Annotations;
use super::super::ast::Span;
use super::super::error::{Error, Result};
use super::super::histogram::detect_reset;
use super::super::window::{Cursor, Extended, WindowSpec};
use super::context::{Context, Refs, Steps};
use super::series::{ABSENT, Hist, Series, is_absent};

/// What an instant selector gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstantKind {
    /// The sample.
    Value,
    /// Its time in seconds.
    Timestamp,
    /// Its start timestamp in seconds.
    StartTimestamp,
    /// Its time in milliseconds; histograms are an error.
    Info,
    /// One, whatever it is: somebody only counts.
    Presence,
}

/// Where the samples of a window come from.
pub(crate) enum WindowInput {
    Stored(Box<dyn SeriesSelection>),
    Steps(Vec<Series>, Steps),
}

/// Series as they enter a pipe.
pub(crate) enum Source {
    Rows(Vec<Series>),
    Instant { sel: Box<dyn SeriesSelection>, refs: Refs, kind: InstantKind, stats_only: bool },
    Smoothed { sel: Box<dyn SeriesSelection>, refs: Refs, span: Span },
    Window { input: WindowInput, spec: WindowSpec, drop_name: bool, stats_only: bool },
}

/// Memory reused from series to series.
#[derive(Default)]
pub(crate) struct Scratch {
    pub buf: SampleBuf,
    pub v: Vec<f64>,
    pub h: Vec<Option<Hist>>,
    pub window: super::super::window::Scratch,
}

impl Source {
    pub fn len(&self) -> usize {
        match self {
            Source::Rows(r) => r.len(),
            Source::Instant { sel, .. } | Source::Smoothed { sel, .. } => sel.len(),
            Source::Window { input: WindowInput::Stored(sel), .. } => sel.len(),
            Source::Window { input: WindowInput::Steps(r, _), .. } => r.len(),
        }
    }

    fn selection(&self) -> Option<&dyn SeriesSelection> {
        match self {
            Source::Instant { sel, .. } | Source::Smoothed { sel, .. } => Some(&**sel),
            Source::Window { input: WindowInput::Stored(sel), .. } => Some(&**sel),
            _ => None,
        }
    }

    /// Milliseconds of stored samples that a series is read over; `None` if nothing is read from storage.
    pub fn read_ms(&self) -> Option<u64> {
        let range = match self {
            Source::Rows(_) | Source::Window { input: WindowInput::Steps(..), .. } => return None,
            Source::Instant { refs, .. } if refs.once() => return Some(0),
            Source::Instant { refs, .. } | Source::Smoothed { refs, .. } => refs.span(0, 0),
            Source::Window { spec, .. } => spec.read_range(),
        };
        Some(range.max_ms.saturating_sub(range.min_ms).unsigned_abs())
    }

    fn rows(&self) -> &[Series] {
        match self {
            Source::Rows(r) => r,
            Source::Window { input: WindowInput::Steps(r, _), .. } => r,
            _ => &[],
        }
    }

    pub fn labels(&self, i: usize) -> Labels {
        match self.selection() {
            Some(sel) => sel.labels(i),
            None => self.rows()[i].labels.clone(),
        }
    }

    pub fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) {
        match self.selection() {
            Some(sel) => sel.visit_labels(i, f),
            None => self.rows()[i].labels.iter().for_each(|(n, v)| f(n, v)),
        }
    }

    /// The labels as numbers; false if the source has none (see [`SeriesSelection::visit_symbols`]).
    pub fn visit_symbols(&self, i: usize, f: &mut dyn FnMut(u32, u32)) -> bool {
        self.selection().is_some_and(|sel| sel.visit_symbols(i, f))
    }

    /// The metric's name, for annotations.
    pub fn name(&self, i: usize) -> String {
        self.label(i, METRIC_NAME)
    }

    fn label(&self, i: usize, name: &str) -> String {
        let mut out = String::new();
        self.visit_labels(i, &mut |n, v| {
            if n == name {
                v.clone_into(&mut out);
            }
        });
        out
    }

    pub fn drop_name(&self, i: usize) -> bool {
        match self {
            Source::Rows(r) => r[i].drop_name,
            Source::Instant { kind, .. } => *kind == InstantKind::Timestamp || *kind == InstantKind::StartTimestamp,
            Source::Smoothed { .. } => false,
            Source::Window { drop_name, input, .. } => *drop_name || matches!(input, WindowInput::Steps(r, _) if r[i].drop_name),
        }
    }

    pub fn prefetch(&self, from: usize, to: usize) {
        if let Some(sel) = self.selection() {
            sel.prefetch(from, to.min(sel.len()));
        }
    }

    /// Fills `s.v` and `s.h` with the steps of series `i`; whether there is any.
    pub fn load(&self, ctx: &Context<'_>, i: usize, n: usize, s: &mut Scratch, ann: &mut Annotations) -> Result<bool> {
        let any = self.fill(ctx, i, n, s, ann)?;
        if ctx.counts() {
            self.count(ctx, n, s);
        }
        Ok(any)
    }

    /// Counts the samples that each step looked at, in the unit of Prometheus' query statistics.
    fn count(&self, ctx: &Context<'_>, n: usize, s: &Scratch) {
        match self {
            Source::Rows(_) => {}
            Source::Instant { .. } | Source::Smoothed { .. } => {
                for (step, v) in s.v.iter().enumerate() {
                    let h = s.h.get(step).and_then(|h| h.as_ref());
                    if h.is_some() || !is_absent(*v) {
                        ctx.count(step, n, weight(h));
                    }
                }
            }
            Source::Window { spec, .. } => spec.each_window(&s.buf, n, &mut |step, lo, hi| {
                let real = (lo..hi).filter(|k| s.buf.histogram(*k).map_or(!is_stale(s.buf.v[*k]), |h| !h.is_stale()));
                ctx.count(step, n, real.map(|k| weight(s.buf.histogram(k))).sum());
            }),
        }
    }

    fn fill(&self, ctx: &Context<'_>, i: usize, n: usize, s: &mut Scratch, ann: &mut Annotations) -> Result<bool> {
        s.v.clear();
        s.h.clear();
        match self {
            Source::Rows(rows) => {
                s.v.extend_from_slice(&rows[i].v);
                s.h.extend_from_slice(&rows[i].h);
                Ok(true)
            }
            Source::Instant { sel, refs, kind, stats_only } => instant(ctx, &**sel, i, refs, *kind, *stats_only, n, s),
            Source::Smoothed { sel, refs, span } => {
                let range = refs.span(ctx.lookback - 1, ctx.lookback);
                sel.read(i, range, &mut s.buf)?;
                ctx.read(s.buf.len());
                s.v.resize(n, ABSENT);
                super::super::window::smooth_instant(s, refs, ctx.lookback, &mut || self.name(i), *span, ann);
                Ok(s.v.iter().any(|v| !is_absent(*v)) || s.h.iter().any(Option::is_some))
            }
            Source::Window { input, spec, stats_only, .. } => {
                match input {
                    WindowInput::Stored(sel) => {
                        sel.read(i, spec.read_range(), &mut s.buf)?;
                        ctx.read(s.buf.len());
                        if s.buf.is_empty() {
                            return Ok(false);
                        }
                        if *stats_only {
                            keep_stats(&mut s.buf);
                        }
                    }
                    WindowInput::Steps(rows, steps) => row_samples(&rows[i], steps, &mut s.buf),
                }
                s.v.resize(n, ABSENT);
                let Scratch { buf, v, h, window } = s;
                spec.run(buf, v, h, window, &mut || self.name(i), &mut || self.label(i, "__type__"), ann)
            }
        }
    }
}

/// What a sample counts in query statistics: a float is one, a histogram as many as fit into its memory.
pub(crate) fn weight(h: Option<&Hist>) -> u64 {
    // Prometheus' struct has 168 bytes, and eight more a span, bucket or bound; a float sample has 16.
    let Some(h) = h else { return 1 };
    let parts = [h.positive_spans.len(), h.negative_spans.len(), h.positive_buckets.len(), h.negative_buckets.len(), h.custom_values.len()];
    (168 + 8 * parts.iter().sum::<usize>() as u64 + 8) / 16
}

/// Step values as samples, absent ones left out.
fn row_samples(row: &Series, steps: &Steps, out: &mut SampleBuf) {
    out.clear();
    for i in 0..row.v.len() {
        if let Some(h) = row.hist(i) {
            // Hints of stored neighbours mean nothing between the samples of a subquery.
            let h = match h.counter_reset {
                CounterReset::NotReset | CounterReset::Reset => {
                    Arc::new(FloatHistogram { counter_reset: CounterReset::Unknown, ..(**h).clone() })
                }
                _ => h.clone(),
            };
            out.push_histogram(steps.at(i), h, 0);
        } else if !is_absent(row.v[i]) {
            out.push(steps.at(i), row.v[i], 0);
        }
    }
}

/// Leaves sum and count of histograms, with resets between them marked, since they can't be found later.
fn keep_stats(buf: &mut SampleBuf) {
    if !buf.has_histograms() {
        return;
    }
    let mut prev: Option<Hist> = None;
    for slot in &mut buf.h {
        let Some(h) = slot else { continue };
        let hint = match (h.counter_reset, &prev) {
            (CounterReset::Unknown, Some(p)) if !p.is_stale() => {
                if detect_reset(h, p) {
                    CounterReset::Reset
                } else {
                    CounterReset::NotReset
                }
            }
            (hint, _) => hint,
        };
        let stats = FloatHistogram { schema: h.schema, counter_reset: hint, count: h.count, sum: h.sum, ..Default::default() };
        prev = Some(std::mem::replace(h, Arc::new(stats)));
    }
}

#[allow(clippy::too_many_arguments)]
fn instant(
    ctx: &Context<'_>,
    sel: &dyn SeriesSelection,
    i: usize,
    refs: &Refs,
    kind: InstantKind,
    stats_only: bool,
    n: usize,
    s: &mut Scratch,
) -> Result<bool> {
    if refs.once() && (!stats_only || kind == InstantKind::Presence) {
        return instant_once(ctx, sel, i, refs.at(0), kind, n, s);
    }
    sel.read(i, refs.span(ctx.lookback - 1, 0), &mut s.buf)?;
    ctx.read(s.buf.len());
    if s.buf.is_empty() {
        return Ok(false);
    }
    if stats_only {
        keep_stats(&mut s.buf);
    }
    s.v.resize(n, ABSENT);
    if kind == InstantKind::Value && !s.buf.has_histograms() {
        return Ok(instant_floats(&s.buf, refs, ctx.lookback, &mut s.v));
    }
    instant_mixed(refs, ctx.lookback, kind, s)
}

/// What `kind` asks of a sample; NaN stands for the value of a histogram.
fn told(kind: InstantKind, t: i64, v: f64, st: i64, histogram: bool) -> Result<f64> {
    Ok(match kind {
        InstantKind::Value => v,
        InstantKind::Timestamp => t as f64 / 1000.0,
        InstantKind::StartTimestamp => st as f64 / 1000.0,
        InstantKind::Info if histogram => return Err(Error::exec("info sample should be float")),
        InstantKind::Info => t as f64,
        InstantKind::Presence => 1.0,
    })
}

/// All steps look at one time: the newest sample is enough.
fn instant_once(
    ctx: &Context<'_>,
    sel: &dyn SeriesSelection,
    i: usize,
    at: i64,
    kind: InstantKind,
    n: usize,
    s: &mut Scratch,
) -> Result<bool> {
    let range = TimeRange::new(at.saturating_sub(ctx.lookback - 1), at);
    if kind == InstantKind::Presence {
        let live = sel.is_live(i, range, &mut s.buf)?;
        if live {
            ctx.read(1);
            s.v.resize(n, 1.0);
        }
        return Ok(live);
    }
    let Some(x) = sel.newest(i, range, &mut s.buf)? else { return Ok(false) };
    ctx.read(1);
    if x.is_stale() {
        return Ok(false);
    }
    if let (Some(h), InstantKind::Value) = (&x.h, kind) {
        s.v.resize(n, ABSENT);
        s.h.resize(n, Some(h.clone()));
    } else {
        s.v.resize(n, told(kind, x.t, x.v, x.st, x.h.is_some())?);
    }
    Ok(true)
}

/// The newest sample of each step, of either type; whether there is any.
fn instant_mixed(refs: &Refs, lookback: i64, kind: InstantKind, s: &mut Scratch) -> Result<bool> {
    let (buf, mut c, mut any) = (&s.buf, Cursor::default(), false);
    for step in 0..s.v.len() {
        let at = refs.at(step);
        c.slide(&buf.t, at.saturating_sub(lookback), at);
        if c.is_empty() {
            continue;
        }
        let last = c.hi - 1;
        let (t, v, st) = (buf.t[last], buf.v[last], buf.start(last));
        match buf.histogram(last) {
            Some(h) if h.is_stale() => continue,
            None if is_stale(v) => continue,
            Some(h) if kind == InstantKind::Value => {
                if s.h.is_empty() {
                    s.h.resize(s.v.len(), None);
                }
                s.h[step] = Some(h.clone());
            }
            Some(_) => s.v[step] = told(kind, t, f64::NAN, st, true)?,
            None => s.v[step] = told(kind, t, v, st, false)?,
        }
        any = true;
    }
    Ok(any)
}

/// The newest float of each step, unless it is a staleness marker; whether there is any.
fn instant_floats(buf: &SampleBuf, refs: &Refs, lookback: i64, out: &mut [f64]) -> bool {
    let (mut c, mut any) = (Cursor::default(), false);
    for (step, slot) in out.iter_mut().enumerate() {
        let at = refs.at(step);
        c.slide(&buf.t, at.saturating_sub(lookback), at);
        if !c.is_empty() {
            // A staleness marker is what an absent value is, bit by bit.
            *slot = buf.v[c.hi - 1];
            any |= !is_absent(*slot);
        }
    }
    any
}

/// Times, floats and histograms.
type MatrixSamples = (Vec<i64>, Vec<f64>, Vec<Option<Hist>>);

/// The samples of a range vector at one time, as the matrix an instant query answers with.
pub(crate) fn matrix_samples(
    sel: &dyn SeriesSelection,
    i: usize,
    range: i64,
    at: i64,
    ext: Extended,
    buf: &mut SampleBuf,
) -> Result<MatrixSamples> {
    let (before, after) = ext.reach();
    sel.read(i, TimeRange::new(at.saturating_sub(range).saturating_sub(before).saturating_add(1), at.saturating_add(after)), buf)?;
    let (mut t, mut v, mut h) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..buf.len() {
        match buf.histogram(k) {
            Some(x) if x.is_stale() => continue,
            Some(x) => {
                h.resize(t.len(), None);
                h.push(Some(x.clone()));
                v.push(ABSENT);
            }
            None if is_stale(buf.v[k]) => continue,
            None => v.push(buf.v[k]),
        }
        t.push(buf.t[k]);
    }
    if !h.is_empty() {
        h.resize(t.len(), None);
    }
    ext.cut(at - range, at, &mut t, &mut v, &mut h)?;
    Ok((t, v, h))
}
