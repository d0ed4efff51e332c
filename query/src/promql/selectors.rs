//! The selectors of a query and the times they look at, for questions that are not evaluations: exemplars, and what
//! a query would read.

use std::sync::atomic::AtomicU64;

use strandline_storage::model::{Matcher, TimeRange};

use super::ast::*;
use super::error::Result;
use super::eval::EngineOptions;
use super::eval::context::{Context, Steps};
use super::memory::MemSource;

/// A selector with the samples it may read.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectorRange {
    /// Its matchers.
    pub matchers: Vec<Matcher>,
    /// From the first to the last sample it may read.
    pub range: TimeRange,
}

/// The selectors of `expr` in a query from `start_ms` to `end_ms`, in order of the text.
pub fn selector_ranges(expr: &Expr, start_ms: i64, end_ms: i64, step_ms: i64, options: &EngineOptions) -> Result<Vec<SelectorRange>> {
    let source = MemSource::new();
    let steps = Steps::between(start_ms, end_ms, step_ms.max(1));
    let alone = AtomicU64::new(0);
    let ctx = Context::new(&source, options, &alone, steps, end_ms);
    let mut out = Vec::new();
    walk(&ctx, expr, TimeRange::new(start_ms, end_ms), &mut out)?;
    Ok(out)
}

fn walk(ctx: &Context<'_>, e: &Expr, at: TimeRange, out: &mut Vec<SelectorRange>) -> Result<()> {
    let moved = |a: &Option<At>, o: &Option<DurationExpr>| -> Result<TimeRange> {
        let offset = ctx.offset(o)?;
        let base = match a {
            Some(a) => TimeRange::new(ctx.at_time(*a), ctx.at_time(*a)),
            None => at,
        };
        Ok(TimeRange::new(base.min_ms.saturating_sub(offset), base.max_ms.saturating_sub(offset)))
    };
    let mut stack = vec![e];
    while let Some(e) = stack.pop() {
        match &e.kind {
            ExprKind::Vector(v) => {
                let r = moved(&v.at, &v.offset)?;
                let after = if v.extension == Extension::Smoothed { ctx.lookback } else { 0 };
                let range = TimeRange::new(r.min_ms.saturating_sub(ctx.lookback - 1), r.max_ms.saturating_add(after));
                out.push(SelectorRange { matchers: v.matchers.clone(), range });
            }
            ExprKind::Matrix(m) => {
                let v = &m.selector;
                let r = moved(&v.at, &v.offset)?;
                let (before, after) = match v.extension {
                    Extension::None => (0, 0),
                    Extension::Anchored => (ctx.lookback, 0),
                    Extension::Smoothed => (ctx.lookback, ctx.lookback),
                };
                let from = r.min_ms.saturating_sub(ctx.duration(&m.range, false)?).saturating_sub(before).saturating_add(1);
                out.push(SelectorRange { matchers: v.matchers.clone(), range: TimeRange::new(from, r.max_ms.saturating_add(after)) });
            }
            ExprKind::Subquery(s) => {
                let r = moved(&s.at, &s.offset)?;
                let from = r.min_ms.saturating_sub(ctx.duration(&s.range, false)?).saturating_add(1);
                walk(ctx, &s.expr, TimeRange::new(from, r.max_ms), out)?;
            }
            _ => stack.extend(e.children().into_iter().rev()),
        }
    }
    Ok(())
}
