//! What an evaluation carries along: time, limits, the deadline.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strandline_storage::model::{Matcher, TimeRange};
use strandline_storage::read::{SelectRequest, SeriesSelection, SeriesSource};

use super::super::annotations::Annotations;
use super::super::ast::{At, DurationExpr};
use super::super::error::{Error, Limit, Result};
use super::EngineOptions;
use super::holding::Holding;

/// The times an expression is evaluated at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    pub start: i64,
    pub step: i64,
    pub n: usize,
}

impl Steps {
    pub fn once(t: i64) -> Self {
        Steps { start: t, step: 1, n: 1 }
    }
    pub fn between(start: i64, end: i64, step: i64) -> Self {
        let n = if end < start { 0 } else { ((i128::from(end) - i128::from(start)) / i128::from(step.max(1)) + 1) as usize };
        Steps { start, step, n }
    }
    pub fn at(&self, i: usize) -> i64 {
        self.start.wrapping_add(self.step.wrapping_mul(i as i64))
    }
}

/// Where a selector looks at each step: a fixed time under `@`, else the step's time moved by the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refs {
    pub steps: Steps,
    pub fixed: Option<i64>,
    pub offset: i64,
}

impl Refs {
    #[inline]
    pub fn at(&self, i: usize) -> i64 {
        match self.fixed {
            Some(t) => t,
            None => self.steps.at(i).saturating_sub(self.offset),
        }
    }
    /// Whether all steps look at the same time.
    pub fn once(&self) -> bool {
        self.steps.n == 1 || self.fixed.is_some()
    }
    /// The window `[first - before, last + after]`.
    pub fn span(&self, before: i64, after: i64) -> TimeRange {
        TimeRange::new(self.at(0).saturating_sub(before), self.at(self.steps.n.saturating_sub(1)).saturating_add(after))
    }
}

/// One query's evaluation.
pub(crate) struct Context<'a> {
    pub source: &'a dyn SeriesSource,
    pub options: &'a EngineOptions,
    pub lookback: i64,
    /// The whole query's steps, for `start()`, `end()`, `step()`, `range()`.
    pub query: Steps,
    pub query_end: i64,
    pub started: Instant,
    pub timeout: Duration,
    pub cancel: Option<Arc<AtomicBool>>,
    pub partial: bool,
    pub threads: usize,
    /// What the evaluation holds.
    pub memory: Holding<'a>,
    total: AtomicU64,
    series: AtomicU64,
    /// Samples looked at for each step of the query, where somebody asked.
    by_step: Option<Box<[AtomicU64]>>,
    /// Subqueries being evaluated: what they look at counts only as their samples are looked at.
    nested: AtomicU32,
    selecting_ns: AtomicU64,
}

/// What a selected series takes until its samples are read, about.
const SELECTED_BYTES: usize = 96;

/// Ends the evaluation of a subquery.
pub(crate) struct Nested<'a>(&'a AtomicU32);

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Context<'a> {
    pub fn new(source: &'a dyn SeriesSource, options: &'a EngineOptions, together: &'a AtomicU64, query: Steps, query_end: i64) -> Self {
        Context {
            source,
            options,
            lookback: options.lookback_ms,
            query,
            query_end,
            started: Instant::now(),
            timeout: options.timeout,
            cancel: None,
            partial: false,
            threads: options.threads.max(1),
            memory: Holding::new(options, together),
            total: AtomicU64::new(0),
            series: AtomicU64::new(0),
            by_step: None,
            nested: AtomicU32::new(0),
            selecting_ns: AtomicU64::new(0),
        }
    }

    /// Counts the samples of each step from now on.
    pub fn count_steps(&mut self) {
        self.by_step = Some((0..self.query.n).map(|_| AtomicU64::new(0)).collect());
    }

    /// Whether samples are to be counted here and now.
    pub fn counts(&self) -> bool {
        self.by_step.is_some() && self.nested.load(Ordering::Relaxed) == 0
    }

    /// Counts what was looked at in step `step` of `of`; what is evaluated once counts for every step.
    pub fn count(&self, step: usize, of: usize, samples: u64) {
        let Some(all) = &self.by_step else { return };
        if of < all.len() {
            all.iter().for_each(|s| _ = s.fetch_add(samples, Ordering::Relaxed));
        } else if let Some(s) = all.get(step) {
            s.fetch_add(samples, Ordering::Relaxed);
        }
    }

    /// Samples by step, if they were counted.
    pub fn samples_by_step(&self) -> Vec<u64> {
        self.by_step.iter().flatten().map(|s| s.load(Ordering::Relaxed)).collect()
    }

    /// Marks what follows as the inside of a subquery.
    pub fn enter_subquery(&self) -> Nested<'_> {
        self.nested.fetch_add(1, Ordering::Relaxed);
        Nested(&self.nested)
    }

    /// Seconds spent on finding series.
    pub fn selecting_seconds(&self) -> f64 {
        self.selecting_ns.load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Fails if the caller gave up or the time is over.
    pub fn check(&self) -> Result<()> {
        if let Some(c) = &self.cancel
            && c.load(Ordering::Relaxed)
        {
            return Err(Error::Canceled);
        }
        if self.started.elapsed() > self.timeout {
            return Err(Error::Timeout(self.timeout));
        }
        Ok(())
    }

    /// Counts samples read from storage.
    pub fn read(&self, samples: usize) {
        self.total.fetch_add(samples as u64, Ordering::Relaxed);
    }

    pub fn totals(&self) -> (u64, u64, u64) {
        (self.total.load(Ordering::Relaxed), self.memory.peak_samples(), self.series.load(Ordering::Relaxed))
    }

    /// Selects series, counting them against the limit.
    pub fn select(&self, matchers: &[Matcher], range: TimeRange, ann: &mut Annotations) -> Result<Box<dyn SeriesSelection>> {
        self.check()?;
        let mut req = SelectRequest::new(matchers.to_vec(), range);
        req.sorted = false;
        req.partial = self.partial;
        let begun = Instant::now();
        let sel = self.source.select(&req)?;
        self.selecting_ns.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        for w in sel.warnings() {
            ann.plain_warning(w);
        }
        let n = self.series.fetch_add(sel.len() as u64, Ordering::Relaxed) + sel.len() as u64;
        if n > self.options.max_series {
            return Err(Error::LimitExceeded { limit: Limit::Series, allowed: self.options.max_series, needed: n });
        }
        self.memory.hold_bytes(sel.len() * SELECTED_BYTES)?;
        Ok(sel)
    }

    /// Milliseconds of a duration expression.
    pub fn duration(&self, d: &DurationExpr, may_be_negative: bool) -> Result<i64> {
        let step_s = if self.query.n > 1 || self.query_end != self.query.start { self.query.step as f64 / 1000.0 } else { 0.0 };
        let secs = seconds(d, step_s, (self.query_end - self.query.start) as f64 / 1000.0)?;
        if secs <= 0.0 && !may_be_negative {
            return Err(Error::Invalid("duration must be greater than 0".into()));
        }
        if secs.is_nan() || secs.abs() > i64::MAX as f64 / 1e9 {
            return Err(Error::Invalid("duration is out of range".into()));
        }
        Ok(match d {
            // What was worked out is not rounded.
            DurationExpr::Literal(n) => n.millis(),
            _ => (secs * 1000.0) as i64,
        })
    }

    pub fn offset(&self, d: &Option<DurationExpr>) -> Result<i64> {
        d.as_ref().map_or(Ok(0), |d| self.duration(d, true))
    }

    pub fn refs(&self, steps: Steps, at: &Option<At>, offset: &Option<DurationExpr>) -> Result<Refs> {
        let offset = self.offset(offset)?;
        let fixed = at.map(|a| self.at_time(a).saturating_sub(offset));
        Ok(Refs { steps, fixed, offset })
    }

    pub fn at_time(&self, a: At) -> i64 {
        match a {
            At::Time(t) => t,
            At::Start => self.query.start,
            At::End => self.query_end,
        }
    }

    /// Splits `0..n` over threads where that pays, and gives the parts' results in order.
    pub fn parallel<T: Send>(&self, n: usize, min_part: usize, f: impl Fn(Range<usize>) -> Result<T> + Sync) -> Result<Vec<T>> {
        let parts = self.threads.min(n / min_part.max(1)).max(1);
        if parts == 1 {
            return Ok(vec![f(0..n)?]);
        }
        let bound = |i: usize| n * i / parts;
        std::thread::scope(|s| {
            let handles: Vec<_> = (1..parts)
                .map(|i| {
                    s.spawn({
                        let f = &f;
                        move || f(bound(i)..bound(i + 1))
                    })
                })
                .collect();
            let first = f(0..bound(1));
            let mut out = vec![first];
            for h in handles {
                out.push(h.join().unwrap_or_else(|_| Err(Error::Internal("an evaluation thread panicked".into()))));
            }
            out.into_iter().collect()
        })
    }
}

fn seconds(d: &DurationExpr, step: f64, range: f64) -> Result<f64> {
    use super::super::ast::ArithOp;
    Ok(match d {
        DurationExpr::Literal(n) => n.value,
        DurationExpr::Step => step,
        DurationExpr::Range => range,
        DurationExpr::Paren(d) => seconds(d, step, range)?,
        DurationExpr::Neg(d) => -seconds(d, step, range)?,
        DurationExpr::MinMax(max, a, b) => {
            let (a, b) = (seconds(a, step, range)?, seconds(b, step, range)?);
            if *max { a.max(b) } else { a.min(b) }
        }
        DurationExpr::Arith(op, a, b) => {
            let (a, b) = (seconds(a, step, range)?, seconds(b, step, range)?);
            match op {
                ArithOp::Add => a + b,
                ArithOp::Sub => a - b,
                ArithOp::Mul => a * b,
                ArithOp::Div if b == 0.0 => return Err(Error::Invalid("division by zero".into())),
                ArithOp::Div => a / b,
                ArithOp::Mod if b == 0.0 => return Err(Error::Invalid("modulo by zero".into())),
                ArithOp::Mod => a % b,
                ArithOp::Pow => a.powf(b),
            }
        }
    })
}
