//! What a pipeline has read: a scan, or where it names its traces, these alone.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use strandline_storage::model::TraceId;
use strandline_storage::read::{RowBatch, ScanRequest, ScanStats, SpanBatch, SpanSource};

use super::ast::{Attr, BinOp, Expr, ExprNode, Intrinsic, Pipeline, SetExpr, SetOp, Stage, Static};
use super::error::Result;

/// Traces that are read one by one; of more a scan takes less.
const MAX_NAMED: usize = 64;

/// What a visitor wants next, or what went wrong with it.
pub(super) type Visit<'a> = dyn FnMut(&dyn SpanBatch) -> Result<ControlFlow<(), u64>> + 'a;

/// Visits the batches that may hold what `pipeline` selects.
pub(super) fn scan(source: &dyn SpanSource, pipeline: &Pipeline, request: &ScanRequest, visit: &mut Visit<'_>) -> Result<ScanStats> {
    if let Some(ids) = named_by(pipeline).filter(|ids| ids.len() <= MAX_NAMED) {
        return one_by_one(source, &ids, request.partial, visit);
    }
    let mut failed = None;
    let mut each = |batch: &dyn SpanBatch| match visit(batch) {
        Ok(next) => Ok(next),
        Err(e) => {
            failed = Some(e);
            Ok(ControlFlow::Break(()))
        }
    };
    let stats = source.scan(request, &mut each)?;
    failed.map_or(Ok(stats), Err)
}

fn one_by_one(source: &dyn SpanSource, ids: &BTreeSet<TraceId>, partial: bool, visit: &mut Visit<'_>) -> Result<ScanStats> {
    let mut stats = ScanStats::default();
    for id in ids {
        let Some(batch) = trace(source, *id, partial, &mut stats)? else { continue };
        stats.spans += batch.len() as u64;
        stats.traces += 1;
        if visit(&*batch)?.is_break() {
            break;
        }
    }
    Ok(stats)
}

/// A trace, whole or for a partial answer what can be read of it.
pub(super) fn trace(source: &dyn SpanSource, id: TraceId, partial: bool, stats: &mut ScanStats) -> Result<Option<Box<dyn SpanBatch>>> {
    if !partial {
        return Ok(source.trace_batch(id)?);
    }
    let (trace, warnings) = source.trace_partial(id)?;
    stats.warnings.extend(warnings);
    Ok(trace.map(|t| Box::new(RowBatch::new(vec![t])) as _))
}

/// The traces outside of which a pipeline selects nothing; none: it may select any.
fn named_by(p: &Pipeline) -> Option<BTreeSet<TraceId>> {
    p.stages.iter().find_map(|s| if let Stage::Set(s) = s { of_set(s) } else { None })
}

fn of_set(s: &SetExpr) -> Option<BTreeSet<TraceId>> {
    match s {
        SetExpr::Filter(e) => of_expr(e.as_ref()?),
        SetExpr::Wrapped(p) => named_by(p),
        SetExpr::Op(SetOp::Or, l, r) => both(of_set(l), of_set(r)),
        // What has no relation to the left side needs none there.
        SetExpr::Op(SetOp::Relation { negated: true, .. }, _, r) => of_set(r),
        SetExpr::Op(SetOp::And | SetOp::Relation { .. }, l, r) => of_set(l).or_else(|| of_set(r)),
    }
}

fn of_expr(e: &Expr) -> Option<BTreeSet<TraceId>> {
    let ExprNode::Binary(op, l, r) = &e.node else { return None };
    match (op, &l.node, &r.node) {
        (BinOp::And, ..) => of_expr(l).or_else(|| of_expr(r)),
        (BinOp::Or, ..) => both(of_expr(l), of_expr(r)),
        (BinOp::Eq, ExprNode::Attr(Attr::Intrinsic(Intrinsic::TraceId)), ExprNode::Static(Static::Str(id)))
        | (BinOp::Eq, ExprNode::Static(Static::Str(id)), ExprNode::Attr(Attr::Intrinsic(Intrinsic::TraceId))) => {
            Some(TraceId::parse(id).into_iter().collect())
        }
        _ => None,
    }
}

fn both(l: Option<BTreeSet<TraceId>>, r: Option<BTreeSet<TraceId>>) -> Option<BTreeSet<TraceId>> {
    let (mut l, r) = (l?, r?);
    l.extend(r);
    Some(l)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traceql::{Root, parse};

    #[test]
    fn a_pipeline_tells_which_traces_it_names() {
        for (query, named) in [
            (r#"{ trace:id = "00a" }"#, "a"),
            (r#"{ "a" = trace:id && status = error }"#, "a"),
            (r#"{ status = error && (trace:id = "a" || trace:id = "B" && kind = server) }"#, "a b"),
            (r#"{ trace:id = "a" } >> { kind = server } | count() > 1"#, "a"),
            (r#"{ kind = server } &>> { trace:id = "a" }"#, "a"),
            (r#"{ kind = server } !>> { trace:id = "a" }"#, "a"),
            (r#"{ trace:id = "a" } || { trace:id = "b" }"#, "a b"),
            (r#"({ trace:id = "a" } | count() > 1) && ({ kind = server })"#, "a"),
            (r#"{ kind = server } | { trace:id = "a" }"#, "a"),
            (r#"{ trace:id = "no id" }"#, ""),
            (r#"{ trace:id = "a" || status = error }"#, "any"),
            (r#"{ trace:id = "a" } !>> { kind = server }"#, "any"),
            (r#"{ trace:id = "a" } || { kind = server }"#, "any"),
            (r#"{ trace:id != "a" && trace:id =~ "a" && link:traceID = "a" && !(trace:id = "a") }"#, "any"),
            ("{} | by(trace:id)", "any"),
        ] {
            let Root::Spansets(p) = parse(query).unwrap().root else { panic!("{query}") };
            let ids = named_by(&p).map(|ids| ids.iter().map(|id| id.to_string().trim_start_matches('0').to_owned()).collect::<Vec<_>>());
            assert_eq!(ids.map_or("any".to_owned(), |ids| ids.join(" ")), named, "{query}");
        }
    }
}
