//! Pipelines: which spans of which traces remain.

use std::ops::Range;

use super::expr::{Data, Mattering, Rows, root_test};
use crate::traceql::ast::{AggregateOp, Attr, BinOp, Expr, ExprNode, Pipeline, Relation, Scalar, SetExpr, SetOp, Stage};
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
            Selected::Sets(sets) => marked(&sets, rows),
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
        (Stage::Set(e), Selected::Mask(m)) => Selected::Mask(set(rows, &prepared(rows, e, &m)?, &Part::all(rows), &m)?),
        (Stage::Set(e), Selected::Sets(sets)) => {
            let e = prepared(rows, e, &marked(&sets, rows.batch.len()))?;
            Selected::Sets(filter_sets(rows, &e, sets)?)
        }
        (Stage::Select(_), now) => now,
        (Stage::Group(e), now) => Selected::Sets(group(rows, e, now.into_sets(rows.batch.traces()))?),
        (Stage::Coalesce, now) => Selected::Mask(now.into_mask(rows.batch.len())),
        (Stage::Scalar(op, l, r, _), now) => {
            let (Scalar::Aggregate(a, _), Scalar::Static(bound)) = (l, r) else {
                return Err(TraceQlError::evaluation("an aggregate can be compared with a number only"));
            };
            let sets = now.into_sets(rows.batch.traces());
            let among = marked(&sets, rows.batch.len());
            let of = a.of.as_ref().map(|e| rows.eval(e, &Mattering::marked(&among))).transpose()?;
            let (bound, mut kept) = (Val::from(bound), Vec::new());
            for mut s in sets {
                rows.batch.go_on()?;
                let v = aggregate(a.op, of.as_ref(), &s.rows)?;
                if value::compare(*op, &v, &bound) {
                    s.attributes.push((a.to_string(), v));
                    kept.push(s);
                }
            }
            Selected::Sets(kept)
        }
    })
}

/// A set expression whose filters have been run over the batch: they say the same of a span in every set.
enum Prepared<'e> {
    All,
    Filter(Vec<bool>),
    Wrapped(&'e Pipeline),
    Op(SetOp, Box<[Prepared<'e>; 2]>),
}

/// The rows of some sets.
fn marked(sets: &[SpanSet], rows: usize) -> Vec<bool> {
    let mut m = vec![false; rows];
    sets.iter().flat_map(|s| &s.rows).for_each(|r| m[*r as usize] = true);
    m
}

fn prepared<'e>(rows: &Rows<'_>, e: &'e SetExpr, among: &[bool]) -> Result<Prepared<'e>> {
    Ok(match e {
        SetExpr::Filter(None) => Prepared::All,
        SetExpr::Filter(Some(e)) => Prepared::Filter(rows.eval(e, &Mattering::marked(among))?.mask(rows.batch.len())),
        SetExpr::Wrapped(p) => Prepared::Wrapped(p),
        SetExpr::Op(op, l, r) => Prepared::Op(*op, Box::new([prepared(rows, l, among)?, prepared(rows, r, among)?])),
    })
}

/// Some traces of a batch, one after the other: masks are of their rows alone.
struct Part<'a> {
    first_trace: usize,
    /// First row of each, and the end.
    offsets: &'a [u32],
}

impl<'a> Part<'a> {
    fn all(rows: &'a Rows<'_>) -> Self {
        Part { first_trace: 0, offsets: rows.batch.traces() }
    }
    fn one(rows: &'a Rows<'_>, trace: u32) -> Self {
        Part { first_trace: trace as usize, offsets: &rows.batch.traces()[trace as usize..trace as usize + 2] }
    }
    fn rows(&self) -> Range<usize> {
        self.offsets[0] as usize..self.offsets[self.offsets.len() - 1] as usize
    }
    /// For each trace its rows, and where they stand in a mask.
    fn traces(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let base = self.offsets[0];
        self.offsets.windows(2).map(move |w| (w[0] as usize..w[1] as usize, (w[0] - base) as usize..(w[1] - base) as usize))
    }
}

fn filter_sets(rows: &Rows<'_>, e: &Prepared<'_>, sets: Vec<SpanSet>) -> Result<Vec<SpanSet>> {
    let mut out = Vec::new();
    for mut s in sets {
        rows.batch.go_on()?;
        match e {
            Prepared::All => {}
            Prepared::Filter(m) => s.rows.retain(|r| m[*r as usize]),
            _ => {
                let part = Part::one(rows, s.trace);
                let first = part.rows().start as u32;
                let mut m = vec![false; part.rows().len()];
                s.rows.iter().for_each(|r| m[(r - first) as usize] = true);
                let m = set(rows, e, &part, &m)?;
                s.rows.retain(|r| m[(r - first) as usize]);
            }
        }
        if !s.rows.is_empty() {
            out.push(s);
        }
    }
    Ok(out)
}

/// The rows of a part, among `from`, that an expression selects.
fn set(rows: &Rows<'_>, e: &Prepared<'_>, part: &Part<'_>, from: &[bool]) -> Result<Vec<bool>> {
    match e {
        Prepared::All => Ok(from.to_vec()),
        Prepared::Filter(m) => Ok(m[part.rows()].iter().zip(from).map(|(m, f)| m & f).collect()),
        Prepared::Wrapped(p) => wrapped(rows, p, part, from),
        Prepared::Op(op, sides) => {
            let [l, r] = &**sides;
            let left = set(rows, l, part, from)?;
            // Nothing on the left leaves nothing, but for `||` and negations.
            let vain = !left.contains(&true) && !matches!(op, SetOp::Or | SetOp::Relation { negated: true, .. });
            if vain {
                return Ok(left);
            }
            let right = set(rows, r, part, from)?;
            match op {
                SetOp::Or => Ok(left.iter().zip(&right).map(|(l, r)| l | r).collect()),
                SetOp::And => Ok(both(part, &left, &right)),
                SetOp::Relation { relation, negated, union } => related(rows, part, (*relation, *negated, *union), &left, &right),
            }
        }
    }
}

/// A pipeline within a set expression.
fn wrapped(rows: &Rows<'_>, p: &Pipeline, part: &Part<'_>, from: &[bool]) -> Result<Vec<bool>> {
    let mut all = vec![false; rows.batch.len()];
    all[part.rows()].copy_from_slice(from);
    let kept = run_on(rows, p, Selected::Mask(all))?.into_mask(rows.batch.len());
    Ok(kept[part.rows()].to_vec())
}

/// The union in traces where neither side is empty.
fn both(part: &Part<'_>, left: &[bool], right: &[bool]) -> Vec<bool> {
    let mut out = vec![false; left.len()];
    for (_, r) in part.traces() {
        if left[r.clone()].contains(&true) && right[r.clone()].contains(&true) {
            r.for_each(|i| out[i] = left[i] | right[i]);
        }
    }
    out
}

fn related(
    rows: &Rows<'_>,
    part: &Part<'_>,
    (relation, negated, union): (Relation, bool, bool),
    left: &[bool],
    right: &[bool],
) -> Result<Vec<bool>> {
    let mut out = vec![false; left.len()];
    for (t, (_, r)) in part.traces().enumerate() {
        let any = |m: &[bool]| m[r.clone()].contains(&true);
        if !any(right) || (!any(left) && !negated) {
            continue;
        }
        let tree = rows.tree(part.first_trace + t)?;
        tree.related(relation, &left[r.clone()], &right[r.clone()], union, &mut out[r.clone()]);
        if negated {
            r.for_each(|i| out[i] = right[i] && !out[i]);
        }
    }
    Ok(out)
}

fn group(rows: &Rows<'_>, e: &Expr, sets: Vec<SpanSet>) -> Result<Vec<SpanSet>> {
    let among = marked(&sets, rows.batch.len());
    let (values, of_row) = rows.eval(e, &Mattering::marked(&among))?.shown().numbered(rows.batch.len());
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

/// An aggregate of the values of some rows, or of the rows; nil if no value counts.
fn aggregate(op: AggregateOp, values: Option<&Data>, of: &[u32]) -> Result<Val> {
    let Some(data) = values else { return Ok(Val::Int(of.len() as i64)) };
    let values: Vec<Val> = of.iter().map(|r| data.get(*r as usize)).filter(|v| v.number().is_some()).collect();
    let Some(first) = values.first().cloned() else { return Ok(Val::Nil) };
    let fold = |by: BinOp| values[1..].iter().fold(first.clone(), |m, v| if value::compare(by, v, &m) { v.clone() } else { m });
    Ok(match op {
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
