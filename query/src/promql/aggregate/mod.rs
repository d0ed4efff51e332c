//! Aggregation: series stream in, per-group step values stay.

mod choose;
mod fold;
mod group;

use super::annotations::Annotations;
use super::ast::{Aggregate, AggregateOp, Expr, Span};
use super::error::{Error, Result};
use super::eval::Evaluator;
use super::eval::context::{Context, Steps};
use super::eval::pipe::Pipe;
use super::eval::prepare::Use;
use super::eval::series::Series;
use super::gofmt::quote;
use super::parser::is_valid_label_name;

pub(crate) use group::Grouping;

/// What an aggregation needs besides its input.
pub(crate) struct Plan<'a> {
    pub op: AggregateOp,
    pub grouping: Grouping,
    /// k, q or r at each step.
    pub param: Vec<f64>,
    /// Label that takes the values of `count_values`.
    pub value_label: String,
    /// The aggregation itself.
    pub span: Span,
    /// What is aggregated.
    pub inner: Span,
    pub param_span: Span,
    pub steps: Steps,
    pub ctx: &'a Context<'a>,
}

/// Evaluates an aggregation.
pub(crate) fn aggregate(
    ev: &Evaluator<'_>,
    a: &Aggregate,
    span: Span,
    steps: Steps,
    uses: Use,
    ann: &mut Annotations,
) -> Result<Vec<Series>> {
    let inner: &Expr = a.expr.unparen();
    let mut plan = Plan {
        op: a.op,
        grouping: Grouping::new(&a.grouping, a.without),
        param: Vec::new(),
        value_label: String::new(),
        span,
        inner: inner.span,
        param_span: a.param.as_ref().map_or(span, |p| p.unparen().span),
        steps,
        ctx: ev.ctx,
    };
    if let Some(p) = &a.param {
        if a.op == AggregateOp::CountValues {
            plan.value_label = ev.string(p)?;
            if !is_valid_label_name(&plan.value_label) {
                return Err(Error::exec(format!("invalid label name {}", quote(&plan.value_label))));
            }
            if !a.without {
                plan.grouping.add(&plan.value_label);
            }
        } else {
            plan.param = ev.scalar(p, steps, ann)?;
            // Where the input is pinned by @, so is the parameter: it is taken once, at the start.
        }
    }
    let mut pipe = ev.pipe(inner, steps, uses, ann)?;
    if !choose::check_params(&plan, ann)? {
        // Nothing comes out, but what is to be said of the input is said.
        pipe.collect(ev.ctx, ann)?;
        return Ok(Vec::new());
    }
    if matches!(a.op, AggregateOp::Count | AggregateOp::Group) {
        pipe.only_presence();
    }
    match a.op {
        AggregateOp::TopK | AggregateOp::BottomK | AggregateOp::LimitK | AggregateOp::LimitRatio => choose::choose(&plan, &pipe, ann),
        AggregateOp::CountValues => fold::count_values(&plan, pipe, ann),
        AggregateOp::Quantile => fold::quantile(&plan, &pipe, ann),
        _ => fold::fold(&plan, &pipe, ann),
    }
}

/// Runs parts of the pipe into states of their own, then joins them in order.
fn partition<S: Send>(
    plan: &Plan<'_>,
    pipe: &Pipe,
    ann: &mut Annotations,
    new: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, &super::eval::pipe::Item<'_>, &mut Annotations) -> Result<()> + Sync,
    join: impl Fn(&mut S, S, &mut Annotations),
) -> Result<S> {
    let parts = plan.ctx.parallel(pipe.len(), pipe.min_part(), |range| {
        let (mut state, mut ann, mut own) = (new(), Annotations::default(), Annotations::default());
        pipe.run(plan.ctx, range, &mut ann, &mut |item| each(&mut state, item, &mut own))?;
        ann.merge(own);
        Ok((state, ann))
    })?;
    let mut out: Option<S> = None;
    for (s, a) in parts {
        ann.merge(a);
        match &mut out {
            None => out = Some(s),
            Some(o) => join(o, s, ann),
        }
    }
    Ok(out.unwrap_or_else(new))
}
