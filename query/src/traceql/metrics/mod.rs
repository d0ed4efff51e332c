//! Metrics of spans: series over time, made by counting the spans that a pipeline selects.

mod accumulate;
mod compare;
mod second;

use std::ops::ControlFlow;

use strandline_storage::model::TraceId;
use strandline_storage::read::{ScanRequest, ScanStats, SpanBatch, SpanSource};

use super::ast::{MetricsExpr, MetricsOp, MetricsQuery, Query, Root, Static};
use super::error::{Result, TraceQlError};
use super::eval::expr::Rows;
use super::eval::pipeline::{needs_whole_traces, run};
use super::scan::scan;
use super::search::conditions;
use super::value::Val;
use accumulate::Accumulator;

/// Slots of a range at most.
pub const MAX_SLOTS: u64 = 11_000;

/// The range of a metrics query. Slots are right-closed and stamped at their end; the range is widened to whole slots.
#[derive(Clone, Debug)]
pub struct MetricsOptions {
    /// Unix nanoseconds.
    pub start_nano: u64,
    /// Unix nanoseconds.
    pub end_nano: u64,
    /// Length of a slot; 0: chosen by the range.
    pub step_nano: u64,
    /// One slot from start to end.
    pub instant: bool,
    /// Exemplars of all series together at most.
    pub exemplars: usize,
    /// Series at most; more fail the query.
    pub max_series: usize,
    /// Samples of all series together at most; more fail the query.
    pub max_cells: usize,
    /// How long a trace may last.
    pub max_trace_nano: u64,
    /// Answer what can be read and warn, instead of failing.
    pub partial: bool,
}

impl MetricsOptions {
    /// Over a range, with a step chosen by it.
    pub fn new(start_nano: u64, end_nano: u64) -> Self {
        MetricsOptions {
            start_nano,
            end_nano,
            step_nano: 0,
            instant: false,
            exemplars: 0,
            max_series: 10_000,
            max_cells: 10_000_000,
            max_trace_nano: 3_600_000_000_000,
            partial: false,
        }
    }
}

/// A trace that stands for a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// When its span started, Unix milliseconds.
    pub timestamp_ms: i64,
    /// What it contributed.
    pub value: f64,
    /// Its trace.
    pub trace_id: TraceId,
}

/// A series: labels and a value for each slot, NaN where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// In the order of the query.
    pub labels: Vec<(String, Val)>,
    /// One for each slot.
    pub values: Vec<f64>,
    /// By time.
    pub exemplars: Vec<Exemplar>,
}

/// What a metrics query gives.
#[derive(Clone, Debug, Default)]
pub struct MetricsResult {
    /// End of each slot, Unix milliseconds.
    pub timestamps_ms: Vec<i64>,
    /// By labels.
    pub series: Vec<Series>,
    /// What it took.
    pub stats: ScanStats,
}

/// A step that gives 240 slots or some more, in round numbers: of 50 ms for ranges below a minute, else of a second and
/// more.
pub fn default_step(start_nano: u64, end_nano: u64) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    const MINUTE: u64 = 60 * SECOND;
    const ROUND: [u64; 6] = [60 * MINUTE, 5 * MINUTE, MINUTE, 15 * SECOND, 5 * SECOND, SECOND];
    const FINE: [u64; 1] = [SECOND / 20];
    let range = end_nano.saturating_sub(start_nano);
    let (ideal, round): (u64, &[u64]) = (range / 240, if range < MINUTE { &FINE } else { &ROUND });
    let least = round.last().copied().unwrap_or(SECOND);
    round.iter().find(|r| ideal > **r).map_or(least, |r| ideal / r * r)
}

/// Slots of a range.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    start: u64,
    step: u64,
    count: usize,
}

impl Slots {
    fn new(o: &MetricsOptions) -> Result<Slots> {
        let fail = |m: &str| Err(TraceQlError::evaluation(m));
        if o.end_nano <= o.start_nano {
            return fail("the end of the range must lie after its start");
        }
        if o.instant {
            return Ok(Slots { start: o.start_nano, step: o.end_nano - o.start_nano, count: 1 });
        }
        let step = if o.step_nano == 0 { default_step(o.start_nano, o.end_nano) } else { o.step_nano };
        let start = o.start_nano / step * step;
        let count = (o.end_nano - start).div_ceil(step);
        if count > MAX_SLOTS {
            return fail("the step is too small for the range: more than 11000 samples a series");
        }
        Ok(Slots { start, step, count: count as usize })
    }
    fn end(&self) -> u64 {
        self.start.saturating_add(self.step.saturating_mul(self.count as u64))
    }
    /// The slot of a time, if it lies in the range.
    #[inline]
    fn of(&self, nano: u64) -> Option<usize> {
        let i = (nano.checked_sub(self.start)?.checked_sub(1)? / self.step) as usize;
        (i < self.count).then_some(i)
    }
    fn seconds(&self) -> f64 {
        self.step as f64 / 1e9
    }
    fn timestamps_ms(&self) -> Vec<i64> {
        (1..=self.count as u64).map(|i| ((self.start + i * self.step) / 1_000_000) as i64).collect()
    }
}

/// Runs a metrics query.
pub fn query_range(source: &dyn SpanSource, query: &Query, options: &MetricsOptions) -> Result<MetricsResult> {
    let Root::Metrics(expr) = &query.root else {
        return Err(TraceQlError::evaluation("this query selects traces; a metrics query ends in a metrics function"));
    };
    let slots = Slots::new(options)?;
    let mut options = options.clone();
    // with(exemplars=true), with(exemplars=10), with(exemplars=false)
    match query.hints.iter().find(|h| h.0 == "exemplars").map(|h| &h.1) {
        Some(Static::Bool(false)) => options.exemplars = 0,
        Some(Static::Bool(true)) => options.exemplars = options.exemplars.max(100),
        Some(Static::Int(n)) => options.exemplars = usize::try_from(*n).unwrap_or(0).min(100),
        _ => {}
    }
    let mut stats = ScanStats::default();
    let mut series = evaluate(source, expr, &options, slots, &mut stats)?;
    series.retain(|s| s.values.iter().any(|v| !v.is_nan()));
    series.sort_by_key(labels_key);
    limit_exemplars(&mut series, slots, options.exemplars);
    Ok(MetricsResult { timestamps_ms: slots.timestamps_ms(), series, stats })
}

/// Exemplars of samples that are there, `most` in all series together: one of each before a second of any.
fn limit_exemplars(series: &mut [Series], slots: Slots, most: usize) {
    for s in series.iter_mut() {
        let values = std::mem::take(&mut s.values);
        let there = |e: &Exemplar| {
            // Within its millisecond, whose begin may lie on the border of a slot.
            let slot = slots.of((e.timestamp_ms.max(0) as u64).saturating_mul(1_000_000) + 1);
            slot.and_then(|i| values.get(i)).is_some_and(|v| !v.is_nan())
        };
        s.exemplars.retain(there);
        s.values = values;
    }
    let mut left = most;
    let mut round = 0;
    let longest = series.iter().map(|s| s.exemplars.len()).max().unwrap_or(0);
    let mut kept = vec![0; series.len()];
    while left > 0 && round < longest {
        for (s, kept) in series.iter().zip(&mut kept) {
            if left > 0 && s.exemplars.len() > round {
                *kept = round + 1;
                left -= 1;
            }
        }
        round += 1;
    }
    series.iter_mut().zip(kept).for_each(|(s, n)| s.exemplars.truncate(n));
}

/// Labels by what they read as, and then by type.
fn labels_key(s: &Series) -> Vec<(String, String, u8)> {
    s.labels.iter().map(|(k, v)| (k.clone(), v.text(), v.tag())).collect()
}

fn evaluate(
    source: &dyn SpanSource,
    expr: &MetricsExpr,
    options: &MetricsOptions,
    slots: Slots,
    stats: &mut ScanStats,
) -> Result<Vec<Series>> {
    Ok(match expr {
        MetricsExpr::Query(q) => count(source, q, options, slots, stats)?,
        MetricsExpr::Const(_) => return Err(TraceQlError::evaluation("a number alone is no series")),
        MetricsExpr::TopK { largest, n, of, .. } => second::top(*largest, *n, evaluate(source, of, options, slots, stats)?),
        MetricsExpr::Filter { op, bound, of } => second::filter(*op, *bound, evaluate(source, of, options, slots, stats)?),
        MetricsExpr::Math(op, l, r) => match (&**l, &**r) {
            (MetricsExpr::Const(c), r) => second::scalar(*op, evaluate(source, r, options, slots, stats)?, |v| (*c, v)),
            (l, MetricsExpr::Const(c)) => second::scalar(*op, evaluate(source, l, options, slots, stats)?, |v| (v, *c)),
            (l, r) => {
                let left = evaluate(source, l, options, slots, stats)?;
                second::math(*op, left, evaluate(source, r, options, slots, stats)?)
            }
        },
    })
}

fn count(source: &dyn SpanSource, q: &MetricsQuery, options: &MetricsOptions, slots: Slots, stats: &mut ScanStats) -> Result<Vec<Series>> {
    let mut request = ScanRequest::new(slots.start + 1, slots.end());
    request.whole_traces = needs_whole_traces(&q.pipeline) || accumulate::labels_need_whole_traces(q);
    request.max_trace_nano = options.max_trace_nano;
    request.conditions = conditions(&q.pipeline);
    request.partial = options.partial;
    let mut sink: Box<dyn Sink> = match &q.op {
        MetricsOp::Compare(c) => {
            let keys = source.attribute_keys(request.min_nano, request.max_nano)?;
            request.whole_traces = true;
            Box::new(compare::Comparing::new(c, keys, slots, options.max_cells))
        }
        _ => Box::new(Accumulator::new(q, slots, options)),
    };
    let mut visit = |batch: &dyn SpanBatch| {
        let rows = Rows::new(batch);
        let selected = run(&rows, &q.pipeline)?;
        sink.add(&rows, &selected.into_mask(batch.len()))?;
        Ok(ControlFlow::Continue(0))
    };
    let scanned = scan(source, &q.pipeline, &request, &mut visit)?;
    stats.bytes += scanned.bytes;
    stats.spans += scanned.spans;
    stats.traces += scanned.traces;
    stats.blocks += scanned.blocks;
    stats.warnings.extend(scanned.warnings);
    sink.finish()
}

/// What to say of a query that makes too many samples.
fn too_many(max_cells: usize) -> TraceQlError {
    TraceQlError::evaluation(format!("more than {max_cells} samples in all; take a larger step, or group by fewer labels"))
}

/// What counts the spans of batches.
trait Sink {
    /// Counts the marked rows.
    fn add(&mut self, rows: &Rows<'_>, mask: &[bool]) -> Result<()>;
    /// The series.
    fn finish(self: Box<Self>) -> Result<Vec<Series>>;
}

#[cfg(test)]
mod tests {
    use super::default_step;

    #[test]
    fn steps_are_round_and_err_on_the_side_of_more_slots() {
        let ms = |range_s: u64| default_step(0, range_s * 1_000_000_000) / 1_000_000;
        assert_eq!([1, 12, 59].map(ms), [50, 50, 200]);
        assert_eq!([60, 600, 1800, 3600, 7200, 6 * 3600].map(ms), [1000, 2000, 5000, 15_000, 30_000, 60_000]);
        assert_eq!([86_400, 7 * 86_400, 30 * 86_400].map(ms), [300_000, 2_400_000, 10_800_000]);
    }
}
