//! Search: the newest traces that a query selects.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::ControlFlow;

use foldhash::HashMap;
use strandline_storage::model::{SpanId, Trace, TraceId};
use strandline_storage::read::{AttributeScope, Column, Condition, Field, RowBatch, ScanRequest, ScanStats, SpanBatch, SpanSource, Value};

use super::ast::{Attr, BinOp, Expr, ExprNode, Intrinsic, Pipeline, Scalar, SetExpr, Stage, Static};
use super::error::{Result, TraceQlError};
use super::eval::expr::Rows;
use super::eval::pipeline::{Selected, run};
use super::lexer::Scope;
use super::scan::{scan, trace};
use super::value::Val;

/// Name of a root that has not come yet, as Tempo calls it.
pub const ROOT_NOT_RECEIVED: &str = "<root span not yet received>";

/// What a search wants.
#[derive(Clone, Debug)]
pub struct SearchOptions {
    /// Traces that ended earlier do not count, Unix nanoseconds.
    pub start_nano: u64,
    /// Traces that started later do not count.
    pub end_nano: u64,
    /// Traces at most.
    pub limit: usize,
    /// Spans shown of each set at most; all are counted.
    pub spans_per_set: usize,
    /// How long a trace may last.
    pub max_trace_nano: u64,
    /// Answer what can be read and warn, instead of failing.
    pub partial: bool,
    /// What the traces that are shown may take in memory; more fail the search.
    pub max_bytes: usize,
}

impl Default for SearchOptions {
    fn default() -> Self {
        SearchOptions {
            start_nano: 0,
            end_nano: u64::MAX,
            limit: 20,
            spans_per_set: 3,
            max_trace_nano: 3_600_000_000_000,
            partial: false,
            max_bytes: 256 << 20,
        }
    }
}

/// A span of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchedSpan {
    /// Its id.
    pub span_id: u64,
    /// What it did.
    pub name: String,
    /// Unix nanoseconds.
    pub start_unix_nano: u64,
    /// Nanoseconds.
    pub duration_nano: u64,
    /// What the query mentions.
    pub attributes: Vec<(String, Val)>,
}

/// Spans of a trace that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchedSet {
    /// The first of them.
    pub spans: Vec<MatchedSpan>,
    /// How many there are.
    pub matched: u32,
    /// What grouping and aggregates said.
    pub attributes: Vec<(String, Val)>,
}

/// A trace that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceMatch {
    /// Its id.
    pub trace_id: TraceId,
    /// Service of its root.
    pub root_service: String,
    /// Name of its root.
    pub root_name: String,
    /// First start, Unix nanoseconds.
    pub start_unix_nano: u64,
    /// From the first start to the last end.
    pub duration_nano: u64,
    /// Selected spans.
    pub sets: Vec<MatchedSet>,
    /// Spans and errors by service.
    pub services: BTreeMap<String, (u32, u32)>,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct SearchResult {
    /// Newest first; of those that began together, by id.
    pub traces: Vec<TraceMatch>,
    /// What it took.
    pub stats: ScanStats,
}

/// Conditions that some span must satisfy for a pipeline to select anything.
pub(super) fn conditions(p: &Pipeline) -> Vec<Condition> {
    let mut out = Vec::new();
    if let Some(Stage::Set(SetExpr::Filter(Some(e)))) = p.stages.first() {
        gather(e, &mut out);
    }
    out
}

fn gather(e: &Expr, out: &mut Vec<Condition>) {
    let ExprNode::Binary(op, l, r) = &e.node else { return };
    if *op == BinOp::And {
        gather(l, out);
        gather(r, out);
        return;
    }
    let (ExprNode::Attr(a), ExprNode::Static(s)) = (&l.node, &r.node) else { return };
    let field = match a {
        Attr::Attribute { parent: false, scope: Scope::Span, key } => Field::Attribute(AttributeScope::Span, key.clone()),
        Attr::Intrinsic(i @ (Intrinsic::Name | Intrinsic::Status | Intrinsic::Kind)) => match i.field() {
            Some(f) => f,
            None => return,
        },
        _ => return,
    };
    let number = match s {
        Static::Int(i) | Static::Duration(i) | Static::Status(i) | Static::Kind(i) => Some(*i as f64),
        Static::Float(f) => Some(*f),
        _ => None,
    };
    match (op, s, number) {
        (BinOp::Eq, Static::Str(s), _) => out.push(Condition::Equals(field, Value::String(s.as_str().into()))),
        (BinOp::Eq, _, Some(n)) => out.push(Condition::Equals(field, Value::Float(n))),
        (BinOp::Gt | BinOp::Ge, _, Some(n)) => out.push(Condition::AtLeast(field, n)),
        (BinOp::Lt | BinOp::Le, _, Some(n)) => out.push(Condition::AtMost(field, n)),
        _ => {}
    }
}

/// The spans of a trace that a pipeline selects; with `ancestors`, those above them too, so that a tree stays one.
pub fn narrowed(trace: Trace, pipeline: &Pipeline, ancestors: bool) -> Result<Trace> {
    let id = trace.trace_id;
    let batch = RowBatch::new(vec![trace.clone()]);
    let mut kept = run(&Rows::new(&batch), pipeline)?.into_mask(batch.len());
    if ancestors {
        let by_id: HashMap<SpanId, usize> = trace.spans.iter().enumerate().map(|(i, s)| (s.span_id, i)).collect();
        for mut i in (0..kept.len()).filter(|i| kept[*i]).collect::<Vec<_>>() {
            // What is kept already has its ancestors kept, or is about to: cycles end here.
            while let Some(&p) = trace.spans[i].parent_span_id.and_then(|p| by_id.get(&p)).filter(|p| !kept[**p]) {
                kept[p] = true;
                i = p;
            }
        }
    }
    let spans = trace.spans.into_iter().zip(kept).filter(|(_, k)| *k).map(|(s, _)| s);
    Ok(Trace::new(id, spans.collect()))
}

/// Attributes that a pipeline mentions, which results show.
fn mentioned(p: &Pipeline, out: &mut Vec<Attr>) {
    fn set(s: &SetExpr, out: &mut Vec<Attr>) {
        match s {
            SetExpr::Filter(None) => {}
            SetExpr::Filter(Some(e)) => e.each_attr(&mut |a| out.push(a.clone())),
            SetExpr::Op(_, l, r) => {
                set(l, out);
                set(r, out);
            }
            SetExpr::Wrapped(p) => mentioned(p, out),
        }
    }
    for s in &p.stages {
        match s {
            Stage::Set(s) => set(s, out),
            Stage::Group(e) => e.each_attr(&mut |a| out.push(a.clone())),
            Stage::Select(attrs) => out.extend(attrs.iter().cloned()),
            Stage::Scalar(_, Scalar::Aggregate(a, _), ..) => {
                if let Some(e) = &a.of {
                    e.each_attr(&mut |a| out.push(a.clone()));
                }
            }
            _ => {}
        }
    }
}

impl TraceMatch {
    /// Memory it takes, about.
    fn bytes(&self) -> usize {
        let values = |a: &[(String, Val)]| a.iter().map(|(k, v)| size_of::<(String, Val)>() + k.len() + v.bytes()).sum::<usize>();
        let span = |s: &MatchedSpan| size_of::<MatchedSpan>() + s.name.len() + values(&s.attributes);
        let set = |s: &MatchedSet| size_of::<MatchedSet>() + values(&s.attributes) + s.spans.iter().map(span).sum::<usize>();
        size_of::<TraceMatch>() + self.sets.iter().map(set).sum::<usize>() + 64 * self.services.len()
    }
}

/// Shown as fields of the result already.
fn is_shown_anyway(a: &Attr) -> bool {
    use Intrinsic::*;
    matches!(a, Attr::Intrinsic(Name | Duration | SpanId | TraceId | TraceDuration | RootName | RootService))
}

/// The newest traces that `pipeline` selects. Scans from the newest spans back, until no older trace can be among them; then
/// reads each trace that is shown once more, by its id.
pub fn search(source: &dyn SpanSource, pipeline: &Pipeline, options: &SearchOptions) -> Result<SearchResult> {
    let mut request = ScanRequest::new(options.start_nano, options.end_nano);
    request.max_trace_nano = options.max_trace_nano;
    request.conditions = conditions(pipeline);
    request.partial = options.partial;
    // The newest so far, the oldest of them on top.
    let mut best: BinaryHeap<Reverse<(u64, Reverse<TraceId>)>> = BinaryHeap::new();
    let mut visit = |batch: &dyn SpanBatch| {
        candidates(batch, pipeline, options, &mut best)?;
        let full = best.len() >= options.limit;
        Ok(ControlFlow::Continue(if full { best.peek().map_or(0, |b| b.0.0) } else { 0 }))
    };
    let mut stats = scan(source, pipeline, &request, &mut visit)?;
    let mut newest: Vec<_> = best.into_iter().map(|b| b.0).collect();
    newest.sort_by(|a, b| b.cmp(a));
    let mut attrs = Vec::new();
    mentioned(pipeline, &mut attrs);
    attrs.retain(|a| !is_shown_anyway(a));
    attrs.sort();
    attrs.dedup();
    let (mut traces, mut bytes) = (Vec::new(), 0);
    for (_, Reverse(id)) in newest {
        if let Some(trace) = trace(source, id, options.partial, &mut stats)?
            && let Some(shown) = describe(&*trace, pipeline, &attrs, options)?
        {
            bytes += shown.bytes();
            if bytes > options.max_bytes {
                let most = options.max_bytes >> 20;
                let message =
                    format!("the traces found take more than {most} MiB; ask for fewer of them, fewer spans of each, or fewer fields");
                return Err(TraceQlError::evaluation(message));
            }
            traces.push(shown);
        }
    }
    // A trace that began long before the range is older than the part of it that was found.
    traces.sort_by(|a, b| b.start_unix_nano.cmp(&a.start_unix_nano).then(a.trace_id.cmp(&b.trace_id)));
    stats.warnings.sort();
    stats.warnings.dedup();
    Ok(SearchResult { traces, stats })
}

fn candidates(
    batch: &dyn SpanBatch,
    pipeline: &Pipeline,
    options: &SearchOptions,
    best: &mut BinaryHeap<Reverse<(u64, Reverse<TraceId>)>>,
) -> Result<()> {
    let rows = Rows::new(batch);
    let offsets = batch.traces();
    let found: Vec<u32> = match run(&rows, pipeline)? {
        Selected::Mask(m) => (0..offsets.len() as u32 - 1)
            .filter(|t| m[offsets[*t as usize] as usize..offsets[*t as usize + 1] as usize].contains(&true))
            .collect(),
        Selected::Sets(sets) => {
            let mut t: Vec<u32> = sets.iter().map(|s| s.trace).collect();
            t.dedup();
            t
        }
    };
    if found.is_empty() {
        return Ok(());
    }
    let starts = batch.starts()?;
    for t in found {
        let r = offsets[t as usize] as usize..offsets[t as usize + 1] as usize;
        let start = r.clone().map(|i| starts[i]).min().unwrap_or(0);
        // Too old to be among the newest: no need to know when it ended.
        let late = best.len() >= options.limit && best.peek().is_some_and(|b| start < b.0.0);
        if late || start > options.end_nano {
            continue;
        }
        if start < options.start_nano {
            let durations = batch.durations()?;
            if r.map(|i| starts[i].saturating_add(durations[i])).max().unwrap_or(0) < options.start_nano {
                continue;
            }
        }
        best.push(Reverse((start, Reverse(batch.trace_id(t as usize)))));
        if best.len() > options.limit {
            best.pop();
        }
    }
    Ok(())
}

/// Spans and errors by service.
fn count_services(batch: &dyn SpanBatch, service: &Column) -> Result<BTreeMap<String, (u32, u32)>> {
    let status = batch.column(&Field::Status)?;
    let mut counts = vec![(0u32, 0u32); service.values.len()];
    for (s, i) in service.idx.iter().zip(&status.idx) {
        let e = &mut counts[*s as usize];
        e.0 += 1;
        e.1 += u32::from(status.values[*i as usize] == Value::Int(2));
    }
    let mut out: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for (value, n) in service.values.iter().zip(counts).filter(|(_, n)| n.0 > 0) {
        let e = out.entry(text(value)).or_default();
        *e = (e.0 + n.0, e.1 + n.1);
    }
    Ok(out)
}

fn text(v: &Value) -> String {
    if let Value::String(s) = v { s.to_string() } else { String::new() }
}

fn describe(batch: &dyn SpanBatch, pipeline: &Pipeline, attrs: &[Attr], options: &SearchOptions) -> Result<Option<TraceMatch>> {
    let rows = Rows::new(batch);
    let times = rows.times()?;
    let (starts, durations, ids) = (batch.starts()?, batch.durations()?, batch.ids()?);
    let names = rows.attr(&Attr::Intrinsic(Intrinsic::Name))?;
    let service = batch.column(&Field::Attribute(AttributeScope::Resource, "service.name".to_owned()))?;
    let services = count_services(batch, &service)?;
    let root = ids.parent.iter().position(|p| *p == 0);
    let root_name = root.map_or_else(|| ROOT_NOT_RECEIVED.to_owned(), |r| names.get(r).text());
    let root_service = root.map_or_else(|| ROOT_NOT_RECEIVED.to_owned(), |r| text(&service.values[service.idx[r] as usize]));
    let shown = attrs.iter().map(|a| Ok((a.short_name().to_owned(), rows.attr(a)?.shown()))).collect::<Result<Vec<_>>>()?;
    let mut sets = Vec::new();
    for set in run(&rows, pipeline)?.into_sets(batch.traces()) {
        let span = |r: &u32| {
            let r = *r as usize;
            MatchedSpan {
                span_id: ids.span[r],
                name: names.get(r).text(),
                start_unix_nano: starts[r],
                duration_nano: durations[r],
                attributes: shown.iter().map(|(n, d)| (n.clone(), d.get(r))).filter(|a| a.1 != Val::Nil).collect(),
            }
        };
        sets.push(MatchedSet {
            spans: set.rows.iter().take(options.spans_per_set).map(span).collect(),
            matched: set.rows.len() as u32,
            attributes: set.attributes,
        });
    }
    if sets.is_empty() {
        return Ok(None);
    }
    let (start_unix_nano, duration_nano) = (times.start[0], times.duration[0]);
    Ok(Some(TraceMatch { trace_id: batch.trace_id(0), root_service, root_name, start_unix_nano, duration_nano, sets, services }))
}
