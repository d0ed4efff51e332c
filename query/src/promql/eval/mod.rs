//! The engine: from query text to an answer.

pub(crate) mod context;
mod expr;
mod histogram_functions;
pub(crate) mod holding;
mod info;
mod label_functions;
pub(crate) mod pipe;
pub(crate) mod prepare;
mod result;
pub(crate) mod series;
pub(crate) mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use strandline_storage::read::SeriesSource;

use super::annotations::Annotations;
use super::ast::{Expr, ValueType};
use super::error::{Error, Limit, Result};
use super::parser::parse;
use context::{Context, Steps};

pub(crate) use expr::Evaluator;
pub use result::{MatrixSeries, QueryResult, QueryStats, SampleRef, SampleValue, Value, VectorSample};

/// What an engine allows and assumes.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// How far an instant selector looks back.
    pub lookback_ms: i64,
    /// Resolution of subqueries that name none.
    pub default_subquery_step_ms: i64,
    /// Samples a query may hold at once.
    pub max_samples: u64,
    /// Series a query may select.
    pub max_series: u64,
    /// Bytes a query may hold at once.
    pub max_bytes: u64,
    /// Bytes all queries of an engine may hold at once. Above it those are refused, to be asked again, that hold more
    /// than a sixteenth of it.
    pub max_bytes_together: u64,
    /// Steps of a range query.
    pub max_steps: u64,
    /// Longest evaluation.
    pub timeout: Duration,
    /// Threads one query may use.
    pub threads: usize,
    /// Tell counters by the label `__type__`, not by their names' endings.
    pub type_and_unit_labels: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            lookback_ms: 300_000,
            default_subquery_step_ms: 60_000,
            max_samples: 50_000_000,
            max_series: 1_000_000,
            max_bytes: 2 << 30,
            max_bytes_together: 4 << 30,
            max_steps: 1 << 20,
            timeout: Duration::from_secs(120),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            type_and_unit_labels: false,
        }
    }
}

/// What one query asks for besides its text and times.
#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    /// Another lookback than the engine's.
    pub lookback_ms: Option<i64>,
    /// A shorter deadline than the engine's.
    pub timeout: Option<Duration>,
    /// Set to true, it ends the evaluation soon.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Answer from what can be read, with a warning, where some can't.
    pub partial: bool,
    /// Count the samples that each step looks at.
    pub count_steps: bool,
}

/// Evaluates PromQL over any [`SeriesSource`]. It keeps nothing between queries. Clones share their limits.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    options: Arc<EngineOptions>,
    /// Bytes held by all evaluations.
    held_bytes: Arc<AtomicU64>,
}

/// Trees higher than this are evaluated on a thread with a large stack.
const HIGH: usize = 40;
/// Stack for the highest tree the parser lets through.
const STACK: usize = 256 << 20;

impl Engine {
    /// An engine.
    pub fn new(options: EngineOptions) -> Self {
        Engine { options: Arc::new(options), held_bytes: Arc::default() }
    }

    /// What it was made with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates `query` at one time.
    pub fn instant(&self, source: &dyn SeriesSource, query: &str, time_ms: i64, options: &QueryOptions) -> Result<QueryResult> {
        let expr = parse_deep(query)?;
        self.evaluate(source, query, &expr, Steps::once(time_ms), time_ms, true, options)
    }

    /// Evaluates `query` at each step from `start_ms` to `end_ms`.
    pub fn range(
        &self,
        source: &dyn SeriesSource,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        options: &QueryOptions,
    ) -> Result<QueryResult> {
        let expr = parse_deep(query)?;
        let t = expr.value_type();
        if t != ValueType::Vector && t != ValueType::Scalar {
            let msg = format!("invalid expression type {:?} for range query, must be Scalar or instant Vector", t.documented());
            return Err(Error::Invalid(msg));
        }
        if step_ms <= 0 {
            return Err(Error::Invalid("zero or negative query resolution step widths are not accepted".into()));
        }
        if end_ms < start_ms {
            return Err(Error::Invalid("end timestamp must not be before start time".into()));
        }
        let steps = Steps::between(start_ms, end_ms, step_ms);
        if steps.n as u64 > self.options.max_steps {
            return Err(Error::LimitExceeded { limit: Limit::Steps, allowed: self.options.max_steps, needed: steps.n as u64 });
        }
        self.evaluate(source, query, &expr, steps, end_ms, false, options)
    }

    #[allow(clippy::too_many_arguments)]
    fn evaluate(
        &self,
        source: &dyn SeriesSource,
        text: &str,
        expr: &Expr,
        steps: Steps,
        end: i64,
        instant: bool,
        options: &QueryOptions,
    ) -> Result<QueryResult> {
        let mut ctx = Context::new(source, &self.options, &self.held_bytes, steps, end);
        if let Some(l) = options.lookback_ms {
            ctx.lookback = l.max(1);
        }
        ctx.timeout = options.timeout.map_or(ctx.timeout, |t| t.min(ctx.timeout));
        ctx.cancel = options.cancel.clone();
        ctx.partial = options.partial;
        if options.count_steps {
            ctx.count_steps();
        }
        let mut ann = Annotations::default();
        let ev = Evaluator::new(&ctx, instant);
        let value = on_deep_stack(expr.height(), || ev.top(expr, steps, &mut ann))?;
        let (total, peak, series) = ctx.totals();
        let (warnings, infos) = ann.render(text);
        let by_step = ctx.samples_by_step().into_iter().enumerate();
        let stats = QueryStats {
            samples_read: total,
            peak_samples: peak,
            series,
            seconds: ctx.started.elapsed().as_secs_f64(),
            selecting_seconds: ctx.selecting_seconds(),
            samples_by_step: by_step.map(|(i, n)| (steps.at(i), n)).collect(),
        };
        Ok(QueryResult { value, warnings, infos, stats })
    }
}

/// Runs `f`, on a thread with a large stack if the tree is high.
pub(crate) fn on_deep_stack<T: Send>(height: usize, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if height <= HIGH {
        return f();
    }
    std::thread::scope(|s| match std::thread::Builder::new().stack_size(STACK).spawn_scoped(s, f) {
        Ok(h) => h.join().unwrap_or_else(|_| Err(Error::Internal("the evaluation thread panicked".into()))),
        Err(e) => Err(Error::Internal(format!("no thread for a deep expression: {e}"))),
    })
}

fn parse_deep(text: &str) -> Result<Expr> {
    Ok(parse(text)?)
}
