//! Pipelines: which spans of which traces remain.

use super::expr::{Rows, root_test};
use super::trace::Tree;
use crate::traceql::ast::{Aggregate, AggregateOp, Attr, BinOp, Expr, ExprNode, Pipeline, Relation, Scalar, SetExpr, SetOp, Stage};
use crate::traceql::error::{Result, TraceQlError};
use crate::traceql::value::{self, Val};

/// Spans of one trace that belong together.
#[derive(Clone, Debug)]
pub struct SpanSet {
    /// Number of the trace in its batch.
    pub trace: u32,
    /// Rows, rising.
    pub rows: Vec<u32>,
    /// What grouping and aggregates said of it.
    pub attributes: Vec<(String, Val)>,
}

/// What a pipeline leaves of a batch.
pub enum Selected {
    /// One set in each trace that has any: the marked rows.
    Mask(Vec<bool>),
    /// Sets, by trace.
    Sets(Vec<SpanSet>),
}

impl Selected {
    /// As sets.
    pub fn into_sets(self, offsets: &[u32]) -> Vec<SpanSet> {
        match self {
            Selected::Sets(s) => s,
            Selected::Mask(m) => {
                let mut out = Vec::new();
                for (t, w) in offsets.windows(2).enumerate() {
                    let rows: Vec<u32> = (w[0]..w[1]).filter(|r| m[*r as usize]).collect();
                    if !rows.is_empty() {
                        out.push(SpanSet { trace: t as u32, rows, attributes: Vec::new() });
                    }
                }
                out
            }
        }
    }
    /// As marked rows.
    pub fn into_mask(self, rows: usize) -> Vec<bool> {
        match self {
            Selected::Mask(m) => m,
            Selected::Sets(sets) => {
                let mut m = vec![false; rows];
                sets.iter().flat_map(|s| &s.rows).for_each(|r| m[*r as usize] = true);
                m
            }
        }
    }
}

/// Rows of a batch that count.
pub fn all_rows(rows: &Rows<'_>) -> Vec<bool> {
    let mut m = vec![true; rows.batch.len()];
    if let Some(excluded) = rows.batch.excluded() {
        for (w, _) in rows.batch.traces().windows(2).zip(excluded).filter(|(_, e)| **e) {
            m[w[0] as usize..w[1] as usize].fill(false);
        }
    }
    m
}

/// Runs a pipeline over the rows of a batch that count.
pub fn run(rows: &Rows<'_>, p: &Pipeline) -> Result<Selected> {
    run_on(rows, p, Selected::Mask(all_rows(rows)))
}

fn run_on(rows: &Rows<'_>, p: &Pipeline, mut now: Selected) -> Result<Selected> {
    for s in &p.stages {
        now = stage(rows, s, now)?;
    }
    Ok(now)
}

fn stage(rows: &Rows<'_>, s: &Stage, now: Selected) -> Result<Selected> {
    Ok(match (s, now) {
        (Stage::Set(e), Selected::Mask(m)) => Selected::Mask(set(rows, e, &m)?),
        (Stage::Set(e), Selected::Sets(sets)) => Selected::Sets(filter_sets(rows, e, sets)?),
        (Stage::Select(_), now) => now,
        (Stage::Group(e), now) => Selected::Sets(group(rows, e, now.into_sets(rows.batch.traces()))?),
        (Stage::Coalesce, now) => Selected::Mask(now.into_mask(rows.batch.len())),
        (Stage::Scalar(op, l, r, _), now) => {
            let mut kept = Vec::new();
            for mut s in now.into_sets(rows.batch.traces()) {
                let (Scalar::Aggregate(a, _), Scalar::Static(bound)) = (l, r) else {
                    return Err(TraceQlError::evaluation("an aggregate can be compared with a number only"));
                };
                let v = aggregate(rows, a, &s.rows)?;
                if value::compare(*op, &v, &Val::from(bound)) {
                    s.attributes.push((a.to_string(), v));
                    kept.push(s);
                }
            }
            Selected::Sets(kept)
        }
    })
}

fn filter_sets(rows: &Rows<'_>, e: &SetExpr, sets: Vec<SpanSet>) -> Result<Vec<SpanSet>> {
    let mut out = Vec::new();
    // A filter says the same of a span in every set: it is run once.
    let filtered = match e {
        SetExpr::Filter(None) => return Ok(sets),
        SetExpr::Filter(Some(e)) => Some(rows.eval(e)?.mask(rows.batch.len())),
        _ => None,
    };
    for mut s in sets {
        let kept = match &filtered {
            Some(m) => s.rows.iter().copied().filter(|r| m[*r as usize]).collect(),
            None => {
                let mut m = vec![false; rows.batch.len()];
                s.rows.iter().for_each(|r| m[*r as usize] = true);
                let m = set(rows, e, &m)?;
                s.rows.iter().copied().filter(|r| m[*r as usize]).collect::<Vec<u32>>()
            }
        };
        s.rows = kept;
        if !s.rows.is_empty() {
            out.push(s);
        }
    }
    Ok(out)
}

/// The rows among `from` that an expression selects.
fn set(rows: &Rows<'_>, e: &SetExpr, from: &[bool]) -> Result<Vec<bool>> {
    match e {
        SetExpr::Filter(None) => Ok(from.to_vec()),
        SetExpr::Filter(Some(e)) => {
            let mut m = rows.eval(e)?.mask(rows.batch.len());
            m.iter_mut().zip(from).for_each(|(m, f)| *m &= f);
            Ok(m)
        }
        SetExpr::Wrapped(p) => Ok(run_on(rows, p, Selected::Mask(from.to_vec()))?.into_mask(rows.batch.len())),
        SetExpr::Op(op, l, r) => {
            let left = set(rows, l, from)?;
            // Nothing on the left leaves nothing, but for `||` and negations.
            let vain = !left.contains(&true) && !matches!(op, SetOp::Or | SetOp::Relation { negated: true, .. });
            if vain {
                return Ok(left);
            }
            let right = set(rows, r, from)?;
            match op {
                SetOp::Or => Ok(left.iter().zip(&right).map(|(l, r)| l | r).collect()),
                SetOp::And => Ok(both(rows.batch.traces(), &left, &right)),
                SetOp::Relation { relation, negated, union } => related(rows, (*relation, *negated, *union), &left, &right),
            }
        }
    }
}

/// The union in traces where neither side is empty.
fn both(offsets: &[u32], left: &[bool], right: &[bool]) -> Vec<bool> {
    let mut out = vec![false; left.len()];
    for w in offsets.windows(2) {
        let r = w[0] as usize..w[1] as usize;
        if left[r.clone()].contains(&true) && right[r.clone()].contains(&true) {
            r.for_each(|i| out[i] = left[i] | right[i]);
        }
    }
    out
}

fn related(rows: &Rows<'_>, (relation, negated, union): (Relation, bool, bool), left: &[bool], right: &[bool]) -> Result<Vec<bool>> {
    let mut out = vec![false; left.len()];
    let ids = rows.batch.ids()?;
    for w in rows.batch.traces().windows(2) {
        let r = w[0] as usize..w[1] as usize;
        let any = |m: &[bool]| m[r.clone()].contains(&true);
        if !any(right) || (!any(left) && !negated) {
            continue;
        }
        let tree = Tree::new(&ids.span[r.clone()], &ids.parent[r.clone()]);
        tree.related(relation, &left[r.clone()], &right[r.clone()], union, &mut out[r.clone()]);
        if negated {
            r.for_each(|i| out[i] = right[i] && !out[i]);
        }
    }
    Ok(out)
}

fn group(rows: &Rows<'_>, e: &Expr, sets: Vec<SpanSet>) -> Result<Vec<SpanSet>> {
    let (values, of_row) = rows.eval(e)?.shown().numbered(rows.batch.len());
    let name = format!("by({e})");
    let mut out = Vec::new();
    let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); values.len()];
    for s in sets {
        let mut met = Vec::new();
        for r in &s.rows {
            let value = of_row[*r as usize] as usize;
            if rows_of[value].is_empty() {
                met.push(value);
            }
            rows_of[value].push(*r);
        }
        let mut groups: Vec<(Val, Vec<u32>)> =
            met.into_iter().map(|value| (values[value].clone(), std::mem::take(&mut rows_of[value]))).collect();
        groups.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        for (v, group_rows) in groups {
            let mut attributes = s.attributes.clone();
            attributes.push((name.clone(), v));
            out.push(SpanSet { trace: s.trace, rows: group_rows, attributes });
        }
    }
    Ok(out)
}

/// An aggregate over some rows; nil if no value counts.
fn aggregate(rows: &Rows<'_>, a: &Aggregate, of: &[u32]) -> Result<Val> {
    let Some(e) = &a.of else { return Ok(Val::Int(of.len() as i64)) };
    let data = rows.eval(e)?;
    let values: Vec<Val> = of.iter().map(|r| data.get(*r as usize)).filter(|v| v.number().is_some()).collect();
    let Some(first) = values.first().cloned() else { return Ok(Val::Nil) };
    let fold = |op: BinOp| values[1..].iter().fold(first.clone(), |m, v| if value::compare(op, v, &m) { v.clone() } else { m });
    Ok(match a.op {
        AggregateOp::Min => fold(BinOp::Lt),
        AggregateOp::Max => fold(BinOp::Gt),
        AggregateOp::Count => Val::Int(values.len() as i64),
        AggregateOp::Sum => values[1..].iter().try_fold(first, |s, v| value::arithmetic(BinOp::Add, &s, v))?,
        AggregateOp::Avg => {
            let mean = values.iter().filter_map(Val::number).sum::<f64>() / values.len() as f64;
            match first {
                Val::Duration(_) => Val::Duration(mean as i64),
                _ => Val::Float(mean),
            }
        }
    })
}

/// Whether a pipeline asks of a span what only its whole trace tells.
pub fn needs_whole_traces(p: &Pipeline) -> bool {
    fn expr(e: &Expr) -> bool {
        match &e.node {
            _ if root_test(e).is_some() => false,
            ExprNode::Attr(Attr::Intrinsic(i)) => i.needs_whole_trace(),
            ExprNode::Attr(_) | ExprNode::Static(_) => false,
            ExprNode::Neg(e) | ExprNode::Not(e) => expr(e),
            ExprNode::Binary(_, l, r) => expr(l) || expr(r),
        }
    }
    p.stages.iter().any(|s| match s {
        Stage::Set(SetExpr::Filter(e)) => e.as_ref().is_some_and(expr),
        Stage::Select(_) => false,
        _ => true,
    })
}
