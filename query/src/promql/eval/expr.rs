//! Expressions to scalars, strings and pipes of series.

use strandline_storage::model::{METRIC_NAME, MatchOp};
use strandline_storage::read::SampleBuf;

use super::super::aggregate::aggregate;
use super::super::annotations::Annotations;
use super::super::ast::*;
use super::super::binary;
use super::super::error::{Error, Result};
use super::super::functions::date::DatePart;
use super::super::functions::math;
use super::super::histogram::quantile::variance;
use super::super::lexer::without_raw_bytes;
use super::super::window::{Extended, WindowFn, WindowSpec};
use super::context::{Context, Steps};
use super::holding::Held;
use super::pipe::{Pipe, Stage};
use super::prepare::{Use, forbids_stats, is_step_invariant};
use super::result::{MatrixSeries, SampleValue, Value, VectorSample};
use super::series::{ABSENT, Series, drop_names, histogram_bytes, is_absent};
use super::source::{InstantKind, Source, WindowInput, matrix_samples};

/// Evaluates expressions of one query.
pub(crate) struct Evaluator<'a> {
    pub ctx: &'a Context<'a>,
    /// The query is an instant one, so that order means something.
    instant: bool,
}

/// How series of equal labels go into a result.
fn cut_to(rows: &mut [Series], n: usize) {
    for r in rows {
        let (v, h) = (r.v[0], r.hist(0).cloned());
        r.v = vec![v; n];
        r.h = h.map_or_else(Vec::new, |h| vec![Some(h); n]);
    }
}

impl<'a> Evaluator<'a> {
    pub fn new(ctx: &'a Context<'a>, instant: bool) -> Self {
        Evaluator { ctx, instant }
    }

    /// The query's answer.
    pub fn top(&self, e: &Expr, steps: Steps, ann: &mut Annotations) -> Result<Value> {
        match e.value_type() {
            ValueType::Scalar => {
                let v = self.scalar(e, steps, ann)?;
                if self.instant {
                    return Ok(Value::Scalar { t: steps.start, v: v[0] });
                }
                let row = Series { v, ..Series::default() };
                Ok(Value::Matrix(vec![MatrixSeries::of_steps(row, steps)]))
            }
            ValueType::String => Ok(Value::String { t: steps.start, s: without_raw_bytes(&self.string(e)?) }),
            ValueType::Matrix => self.top_matrix(e, steps, ann),
            ValueType::Vector => {
                let rows = drop_names(self.rows(e, steps, Use::default(), ann)?)?;
                if self.instant {
                    let samples = rows.into_iter().filter_map(|r| {
                        let value = match r.hist(0) {
                            Some(h) => SampleValue::Histogram(h.clone()),
                            None if is_absent(r.v[0]) => return None,
                            None => SampleValue::Float(r.v[0]),
                        };
                        Some(VectorSample { labels: r.labels, t: steps.start, value })
                    });
                    return Ok(Value::Vector(samples.collect()));
                }
                let mut rows: Vec<Series> = rows.into_iter().filter(|r| !r.is_empty()).collect();
                rows.sort_by(|a, b| a.labels.cmp(&b.labels));
                Ok(Value::Matrix(rows.into_iter().map(|r| MatrixSeries::of_steps(r, steps)).collect()))
            }
        }
    }

    fn top_matrix(&self, e: &Expr, steps: Steps, ann: &mut Annotations) -> Result<Value> {
        let mut out = match &e.unparen().kind {
            ExprKind::Matrix(m) => {
                let ctx = self.ctx;
                let refs = ctx.refs(steps, &m.selector.at, &m.selector.offset)?;
                let range = ctx.duration(&m.range, false)?;
                let ext = Extended { kind: m.selector.extension, lookback: ctx.lookback };
                let (before, after) = ext.reach();
                let sel = ctx.select(&m.selector.matchers, refs.span(range + before - 1, after), ann)?;
                let (mut out, mut buf) = (Vec::new(), SampleBuf::default());
                for i in 0..sel.len() {
                    if i % 64 == 0 {
                        ctx.check()?;
                    }
                    let (t, v, h) = matrix_samples(&*sel, i, range, refs.at(0), ext, &mut buf)?;
                    if !t.is_empty() {
                        if ctx.counts() {
                            ctx.count(0, 1, (0..t.len()).map(|k| super::source::weight(h.get(k).and_then(Option::as_ref))).sum());
                        }
                        ctx.read(t.len());
                        let labels = sel.labels(i);
                        let histograms: usize = h.iter().flatten().map(|h| histogram_bytes(h)).sum();
                        ctx.memory.hold(t.len())?;
                        ctx.memory.hold_bytes(size_of_val(&t[..]) + labels.as_bytes().len() + histograms)?;
                        out.push(MatrixSeries::of_samples(labels, t, v, h));
                    }
                }
                out
            }
            ExprKind::Subquery(s) => {
                let (rows, sub, range, at) = self.subquery(s, steps, Use::default(), ann)?;
                let rows = drop_names(rows)?;
                // Only the steps in the window belong to the answer; the range ends at the query's time.
                let keep = |t: i64| t > at - range && t <= at;
                rows.into_iter()
                    .filter_map(|r| {
                        let idx: Vec<usize> = (0..sub.n).filter(|i| r.has(*i) && keep(sub.at(*i))).collect();
                        if idx.is_empty() {
                            return None;
                        }
                        let h = if r.h.is_empty() { Vec::new() } else { idx.iter().map(|i| r.h[*i].clone()).collect() };
                        let t = idx.iter().map(|i| sub.at(*i)).collect();
                        let v = idx.iter().map(|i| if r.hist(*i).is_some() { ABSENT } else { r.v[*i] }).collect();
                        Some(MatrixSeries::of_samples(r.labels, t, v, h))
                    })
                    .collect()
            }
            _ => return Err(Error::Internal("unexpected range vector".into())),
        };
        out.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(Value::Matrix(out))
    }

    /// The text of a string expression.
    pub fn string(&self, e: &Expr) -> Result<String> {
        match &e.unparen().kind {
            ExprKind::String(s) => Ok(s.clone()),
            _ => Err(Error::Internal("expected a string".into())),
        }
    }

    /// A scalar at each step.
    pub fn scalar(&self, e: &Expr, steps: Steps, ann: &mut Annotations) -> Result<Vec<f64>> {
        let n = steps.n;
        let all = |v: f64| Ok(vec![v; n]);
        if n > 1 && !matches!(e.kind, ExprKind::Number(_)) && is_step_invariant(e) {
            let v = self.scalar(e, Steps::once(steps.start), ann)?;
            return all(v[0]);
        }
        match &e.kind {
            ExprKind::Number(x) => all(x.value),
            ExprKind::Paren(e) | ExprKind::Unary(UnaryOp::Plus, e) => self.scalar(e, steps, ann),
            ExprKind::Unary(UnaryOp::Minus, e) => Ok(self.scalar(e, steps, ann)?.into_iter().map(|v| -v).collect()),
            ExprKind::Binary(b) => {
                let (l, r) = (self.scalar(&b.lhs, steps, ann)?, self.scalar(&b.rhs, steps, ann)?);
                Ok(l.into_iter().zip(r).map(|(l, r)| binary::scalars(b.op, l, r)).collect())
            }
            ExprKind::Call(c) => {
                let q = &self.ctx.query;
                let s = |ms: i64| ms as f64 / 1000.0;
                match c.func.name {
                    "time" => Ok((0..n).map(|i| s(steps.at(i))).collect()),
                    "pi" => all(std::f64::consts::PI),
                    "start" => all(s(q.start)),
                    "end" => all(s(self.ctx.query_end)),
                    "range" => all(s(self.ctx.query_end - q.start)),
                    "step" => all(if self.instant { 0.0 } else { s(q.step) }),
                    "max_of" | "min_of" => {
                        let f = if c.func.name == "max_of" { math::max } else { math::min };
                        let (a, b) = (self.scalar(&c.args[0], steps, ann)?, self.scalar(&c.args[1], steps, ann)?);
                        Ok(a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect())
                    }
                    "scalar" => self.scalar_of_vector(&c.args[0], steps, ann),
                    name => Err(Error::Internal(format!("{name} is no scalar function"))),
                }
            }
            _ => Err(Error::Internal("expected a scalar".into())),
        }
    }

    /// `scalar(v)`: the only float of each step, else NaN.
    fn scalar_of_vector(&self, e: &Expr, steps: Steps, ann: &mut Annotations) -> Result<Vec<f64>> {
        let pipe = self.pipe(e.unparen(), steps, Use::default(), ann)?;
        let mut out = vec![f64::NAN; steps.n];
        let mut seen = vec![0u32; steps.n];
        let mut own = Annotations::default();
        pipe.run(self.ctx, 0..pipe.len(), &mut own, &mut |item| {
            for i in 0..steps.n {
                if !is_absent(item.v[i]) {
                    seen[i] += 1;
                    out[i] = if seen[i] == 1 { item.v[i] } else { f64::NAN };
                }
            }
            Ok(())
        })?;
        ann.merge(own);
        Ok(out)
    }

    /// A vector expression, all in memory.
    pub fn rows(&self, e: &Expr, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Vec<Series>> {
        self.pipe(e, steps, uses, ann)?.collect(self.ctx, ann)
    }

    /// A vector expression as a pipe.
    pub fn pipe(&self, e: &Expr, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Pipe> {
        self.ctx.check()?;
        if steps.n == 0 {
            return Ok(Pipe::new(Source::Rows(Vec::new()), steps));
        }
        if steps.n > 1 && is_step_invariant(e) {
            // The same at every step: evaluated once, at the first.
            let mut rows = self.rows(e, Steps::once(steps.start), uses, ann)?;
            self.ctx.memory.hold(rows.len() * steps.n)?;
            cut_to(&mut rows, steps.n);
            return Ok(Pipe::new(Source::Rows(rows), steps));
        }
        let uses = if forbids_stats(&e.kind) { Use { stats_only: false } } else { uses };
        match &e.kind {
            ExprKind::Paren(inner) | ExprKind::Unary(UnaryOp::Plus, inner) => self.pipe(inner, steps, uses, ann),
            ExprKind::Unary(UnaryOp::Minus, inner) => Ok(self.pipe(inner, steps, uses, ann)?.stage(Stage::Negate)),
            ExprKind::Vector(v) => self.instant_selector(v, e.span, InstantKind::Value, steps, uses, ann),
            ExprKind::Aggregate(a) => Ok(Pipe::new(Source::Rows(aggregate(self, a, e.span, steps, uses, ann)?), steps)),
            ExprKind::Binary(_) => self.binary(e, steps, uses, ann),
            ExprKind::Call(c) => self.call(c, e.span, steps, uses, ann),
            _ => Err(Error::Internal("expected an instant vector".into())),
        }
    }

    fn instant_selector(
        &self,
        v: &VectorSelector,
        span: Span,
        kind: InstantKind,
        steps: Steps,
        uses: Use,
        ann: &mut Annotations,
    ) -> Result<Pipe> {
        let refs = self.ctx.refs(steps, &v.at, &v.offset)?;
        let before = self.ctx.lookback - 1;
        if v.extension == Extension::Smoothed && kind == InstantKind::Value {
            let sel = self.ctx.select(&v.matchers, refs.span(before, self.ctx.lookback), ann)?;
            return Ok(Pipe::new(Source::Smoothed { sel, refs, span }, steps));
        }
        let sel = self.ctx.select(&v.matchers, refs.span(before, 0), ann)?;
        Ok(Pipe::new(Source::Instant { sel, refs, kind, stats_only: uses.stats_only }, steps))
    }

    fn binary(&self, e: &Expr, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Pipe> {
        // A long chain of operators leans to the left: it is evaluated from its end upwards, without recursion.
        let mut chain: Vec<(&Binary, Span)> = Vec::new();
        let mut cur = e;
        while let ExprKind::Binary(b) = &cur.kind {
            if cur.value_type() == ValueType::Scalar || (chain.is_empty() || !is_step_invariant(cur) || steps.n == 1) {
                if cur.value_type() == ValueType::Scalar {
                    break;
                }
                chain.push((b.as_ref(), cur.span));
                cur = &b.lhs;
            } else {
                break;
            }
        }
        let mut left = match cur.value_type() {
            ValueType::Scalar => Err(self.scalar(cur, steps, ann)?),
            _ => Ok(self.pipe(cur, steps, self.below(&chain, uses), ann)?),
        };
        for (b, span) in chain.into_iter().rev() {
            let uses = if b.op.is_trim() { Use::default() } else { uses };
            let scalar_right = b.rhs.value_type() == ValueType::Scalar;
            let stage = |scalar: Vec<f64>, swap| Stage::Scalar { op: b.op, scalar, swap, return_bool: b.return_bool, span };
            left = Ok(match left {
                Err(s) => self.pipe(&b.rhs, steps, uses, ann)?.stage(stage(s, true)),
                Ok(p) if scalar_right => p.stage(stage(self.scalar(&b.rhs, steps, ann)?, false)),
                Ok(p) => {
                    let lhs = p.collect(self.ctx, ann)?;
                    let rhs = self.rows(&b.rhs, steps, uses, ann)?;
                    let held = Held::of(lhs.iter().chain(&rhs));
                    let out = binary::vectors(self.ctx, b, span, lhs, rhs, steps, ann)?;
                    self.ctx.memory.release_rows(held);
                    Pipe::new(Source::Rows(out), steps)
                }
            });
        }
        left.map_err(|_| Error::Internal("expected an instant vector".into()))
    }

    fn below(&self, chain: &[(&Binary, Span)], uses: Use) -> Use {
        if chain.iter().any(|(b, _)| b.op.is_trim()) { Use::default() } else { uses }
    }

    fn call(&self, c: &Call, span: Span, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Pipe> {
        let name = c.func.name;
        let uses = uses.call(name);
        if let Some(i) = c.args.iter().position(|a| a.value_type() == ValueType::Matrix) {
            return self.window(c, i, steps, uses, ann);
        }
        let arg = |i: usize| c.args[i].unparen();
        let rows = |rows: Vec<Series>| Ok(Pipe::new(Source::Rows(rows), steps));
        if let Some(f) = math::simple(name) {
            return Ok(self.pipe(arg(0), steps, uses, ann)?.stage(Stage::Map(f)));
        }
        if let Some(part) = DatePart::by_name(name) {
            let Some(a) = c.args.first() else {
                let v = (0..steps.n).map(|i| part.of((steps.at(i) / 1000) as f64)).collect();
                return rows(vec![Series { v, ..Series::default() }]);
            };
            let f = Box::new(move |_, v| part.of(v));
            return Ok(self.pipe(a.unparen(), steps, uses, ann)?.stage(Stage::MapStep(f)));
        }
        let of_hist: Option<fn(&strandline_storage::model::FloatHistogram) -> f64> = match name {
            "histogram_count" => Some(|h| h.count),
            "histogram_sum" => Some(|h| h.sum),
            "histogram_avg" => Some(|h| h.sum / h.count),
            "histogram_stdvar" => Some(variance),
            "histogram_stddev" => Some(|h| variance(h).sqrt()),
            _ => None,
        };
        if let Some(f) = of_hist {
            return Ok(self.pipe(arg(0), steps, uses, ann)?.stage(Stage::OfHistogram(f)));
        }
        match name {
            "vector" => rows(vec![Series { v: self.scalar(arg(0), steps, ann)?, ..Series::default() }]),
            "clamp" | "clamp_min" | "clamp_max" | "round" => self.clamp_or_round(c, steps, uses, ann),
            "timestamp" | "start_timestamp" => {
                let kind = if name == "timestamp" { InstantKind::Timestamp } else { InstantKind::StartTimestamp };
                match &arg(0).kind {
                    ExprKind::Vector(v) => self.instant_selector(v, arg(0).span, kind, steps, uses, ann),
                    // Of a computed vector no start is known.
                    _ if kind == InstantKind::StartTimestamp => {
                        self.pipe(arg(0), steps, uses, ann)?;
                        rows(Vec::new())
                    }
                    _ => Ok(self.pipe(arg(0), steps, uses, ann)?.stage(Stage::StepTime)),
                }
            }
            "absent" => {
                let pipe = self.pipe(arg(0), steps, uses, ann)?;
                rows(self.absent(&c.args[0], pipe, steps, ann)?)
            }
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                if !self.instant {
                    ann.sort_in_range(span);
                }
                let input = self.rows(arg(0), steps, uses, ann)?;
                rows(self.sort(c, input)?)
            }
            "label_replace" | "label_join" => {
                let input = self.rows(arg(0), steps, uses, ann)?;
                rows(if name == "label_replace" { self.label_replace(c, input)? } else { self.label_join(c, input)? })
            }
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => rows(self.histogram_function(c, steps, ann)?),
            "info" => rows(self.info(c, steps, uses, ann)?),
            _ => Err(Error::Internal(format!("function {name} has no implementation"))),
        }
    }

    fn clamp_or_round(&self, c: &Call, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Pipe> {
        let p = |i: usize, ann: &mut Annotations| self.scalar(c.args[i].unparen(), steps, ann);
        let constant = |v: f64| vec![v; steps.n];
        let (lo, hi) = match c.func.name {
            "clamp" => (p(1, ann)?, p(2, ann)?),
            "clamp_min" => (p(1, ann)?, constant(f64::INFINITY)),
            "clamp_max" => (constant(f64::NEG_INFINITY), p(1, ann)?),
            _ => {
                let to = if c.args.len() > 1 { p(1, ann)? } else { constant(1.0) };
                let inverse: Vec<f64> = to.iter().map(|t| 1.0 / t).collect();
                let f = Box::new(move |i: usize, v: f64| (v * inverse[i] + 0.5).floor() / inverse[i]);
                return Ok(self.pipe(c.args[0].unparen(), steps, uses, ann)?.stage(Stage::MapStep(f)));
            }
        };
        let f = Box::new(move |i: usize, v: f64| if hi[i] < lo[i] { ABSENT } else { math::max(lo[i], math::min(hi[i], v)) });
        Ok(self.pipe(c.args[0].unparen(), steps, uses, ann)?.stage(Stage::MapStep(f)))
    }

    /// A function whose argument `m` is a range vector.
    fn window(&self, c: &Call, m: usize, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Pipe> {
        let (ctx, name, arg) = (self.ctx, c.func.name, c.args[m].unparen());
        let mut params = Vec::new();
        for (i, a) in c.args.iter().enumerate().filter(|(i, _)| *i != m) {
            debug_assert_ne!(i, m);
            params.push(self.scalar(a.unparen(), steps, ann)?);
        }
        let func = WindowFn::by_name(name).ok_or_else(|| Error::Internal(format!("function {name} has no implementation")))?;
        let plain = Extended { kind: Extension::None, lookback: ctx.lookback };
        let spec = |range, refs, ext| WindowSpec {
            func,
            range,
            refs,
            ext,
            params,
            span: c.args[0].unparen().span,
            type_labels: ctx.options.type_and_unit_labels,
            one_name: false,
        };
        let drop_name = !matches!(func, WindowFn::LastOverTime | WindowFn::FirstOverTime);
        let (input, spec) = match &arg.kind {
            ExprKind::Matrix(ms) => {
                let v = &ms.selector;
                check_extension(v.extension, name)?;
                let refs = ctx.refs(steps, &v.at, &v.offset)?;
                let ext = Extended { kind: v.extension, lookback: ctx.lookback };
                let one_name = v.matchers.iter().any(|m| m.name == METRIC_NAME && m.op == MatchOp::Equal);
                let spec = WindowSpec { one_name, ..spec(ctx.duration(&ms.range, false)?, refs, ext) };
                (WindowInput::Stored(ctx.select(&v.matchers, spec.read_range(), ann)?), spec)
            }
            ExprKind::Subquery(s) => {
                let (rows, sub, range, _) = self.subquery(s, steps, uses, ann)?;
                let refs = ctx.refs(steps, &s.at, &s.offset)?;
                (WindowInput::Steps(rows, sub), spec(range, refs, plain))
            }
            _ => return Err(Error::Internal("expected a range vector".into())),
        };
        let stored = matches!(input, WindowInput::Stored(_));
        let source = Source::Window { input, spec, drop_name, stats_only: uses.stats_only && stored };
        let pipe = Pipe::new(source, steps);
        if name == "absent_over_time" {
            return Ok(Pipe::new(Source::Rows(self.absent(&c.args[0], pipe, steps, ann)?), steps));
        }
        Ok(pipe)
    }

    /// The rows of a subquery, its steps, its window and the time it is looked at first.
    fn subquery(&self, s: &Subquery, steps: Steps, _uses: Use, ann: &mut Annotations) -> Result<(Vec<Series>, Steps, i64, i64)> {
        let ctx = self.ctx;
        let range = ctx.duration(&s.range, false)?;
        let step = s.step.as_ref().map_or(Ok(ctx.options.default_subquery_step_ms), |d| ctx.duration(d, false))?.max(1);
        let refs = ctx.refs(steps, &s.at, &s.offset)?;
        let (first, last) = (refs.at(0), refs.at(steps.n - 1));
        // The first multiple of the step after the window opens.
        let open = first.saturating_sub(range);
        let start = open.div_euclid(step).saturating_add(1).saturating_mul(step);
        let sub = Steps::between(start, last, step);
        if sub.n as u64 > ctx.options.max_steps {
            return Err(Error::LimitExceeded {
                limit: super::super::error::Limit::Steps,
                allowed: ctx.options.max_steps,
                needed: sub.n as u64,
            });
        }
        let _inside = ctx.enter_subquery();
        let rows = if sub.n == 0 { Vec::new() } else { self.rows(&s.expr, sub, Use::default(), ann)? };
        Ok((rows, sub, range, first))
    }

    /// 1 wherever no series of the pipe has a sample.
    fn absent(&self, arg: &Expr, pipe: Pipe, steps: Steps, ann: &mut Annotations) -> Result<Vec<Series>> {
        let mut row = Series { labels: super::label_functions::absent_labels(arg.unparen()), v: vec![1.0; steps.n], ..Series::default() };
        pipe.run(self.ctx, 0..pipe.len(), ann, &mut |item| {
            for (i, v) in row.v.iter_mut().enumerate() {
                if !is_absent(item.v[i]) || item.hist(i).is_some() {
                    *v = ABSENT;
                }
            }
            Ok(())
        })?;
        Ok(if row.is_empty() { Vec::new() } else { vec![row] })
    }
}

/// Only some functions know what to do with samples beyond the window.
fn check_extension(e: Extension, name: &str) -> Result<()> {
    let (word, safe): (_, &[&str]) = match e {
        Extension::None => return Ok(()),
        Extension::Anchored => ("anchored", &["changes", "delta", "increase", "rate", "resets"]),
        Extension::Smoothed => ("smoothed", &["delta", "increase", "rate"]),
    };
    if safe.contains(&name) {
        return Ok(());
    }
    Err(Error::exec(format!("{word} modifier can only be used with: {} - not with {name}", safe.join(", "))))
}
