//! Names and values of tags, for completion in editors.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use strandline_storage::read::{AttributeScope, ScanRequest, SpanBatch, SpanSource};

use super::ast::{Attr, INTRINSICS, Intrinsic, Pipeline, kind_name, status_name};
use super::error::Result;
use super::eval::expr::Rows;
use super::eval::pipeline::run;
use super::lexer::{Scope, Tok, tokens};
use super::scan::scan;
use super::value::Val;

/// What a listing covers.
#[derive(Clone, Debug)]
pub struct TagOptions {
    /// Unix nanoseconds.
    pub start_nano: u64,
    /// Unix nanoseconds.
    pub end_nano: u64,
    /// Names of a scope, or values, at most; 0: no limit.
    pub limit: usize,
    /// Answer what can be read, instead of failing.
    pub partial: bool,
}

/// Bytes of all values of a listing: nobody completes from more, and whole texts may stand in attributes.
const MAX_VALUE_BYTES: usize = 8 << 20;

/// Name of a scope as the API has it.
fn scope_name(s: AttributeScope) -> &'static str {
    match s {
        AttributeScope::Span => "span",
        AttributeScope::Resource => "resource",
        AttributeScope::Event => "event",
        AttributeScope::Link => "link",
        AttributeScope::Instrumentation => "instrumentation",
    }
}

/// Numbers of positions, which are no use for completion.
fn is_position(i: Intrinsic) -> bool {
    matches!(i, Intrinsic::NestedSetLeft | Intrinsic::NestedSetRight | Intrinsic::NestedSetParent)
}

/// Tag names by scope, of the spans that `filter` selects (all, without one); `scope` narrows to one. Intrinsics stand
/// under `intrinsic`.
pub fn tag_names(
    source: &dyn SpanSource,
    scope: Option<&str>,
    filter: Option<&Pipeline>,
    options: &TagOptions,
) -> Result<Vec<(String, Vec<String>)>> {
    let wanted = |name: &str| scope.is_none_or(|s| s.is_empty() || s == "none" || s == name);
    let mut out = Vec::new();
    if scope.is_none_or(|s| s != "intrinsic") {
        let mut known = source.attribute_keys(options.start_nano, options.end_nano)?;
        known.retain(|k| wanted(scope_name(k.0)));
        if let Some(p) = filter {
            known = present(source, p, known, options)?;
        }
        for (s, mut keys) in known {
            if options.limit > 0 {
                keys.truncate(options.limit);
            }
            if !keys.is_empty() {
                out.push((scope_name(s).to_owned(), keys));
            }
        }
    }
    if wanted("intrinsic") {
        let listed = INTRINSICS.iter().filter(|i| i.0 != Intrinsic::Parent && !is_position(i.0));
        let mut names: Vec<String> = listed.map(|i| i.1.to_owned()).collect();
        names.sort();
        out.push(("intrinsic".to_owned(), names));
    }
    Ok(out)
}

type Keys = Vec<(AttributeScope, Vec<String>)>;

/// Which of some names a selected span has.
fn present(source: &dyn SpanSource, filter: &Pipeline, mut missing: Keys, options: &TagOptions) -> Result<Keys> {
    let mut found: Keys = missing.iter().map(|(s, _)| (*s, Vec::new())).collect();
    let mut visit = |batch: &dyn SpanBatch| {
        move_present(batch, filter, options, &mut missing, &mut found)?;
        Ok(if missing.iter().all(|m| m.1.is_empty()) { ControlFlow::Break(()) } else { ControlFlow::Continue(0) })
    };
    scan(source, filter, &request(Some(filter), false, options), &mut visit)?;
    found.iter_mut().for_each(|f| f.1.sort());
    Ok(found)
}

/// Moves the names that a selected span of a batch has from those that are missing to those that were found.
fn move_present(batch: &dyn SpanBatch, filter: &Pipeline, options: &TagOptions, missing: &mut Keys, found: &mut Keys) -> Result<()> {
    let rows = Rows::new(batch);
    let mask = selected(&rows, Some(filter), options)?;
    if !mask.contains(&true) {
        return Ok(());
    }
    for ((scope, keys), (_, out)) in missing.iter_mut().zip(found) {
        let mut left = Vec::new();
        for key in std::mem::take(keys) {
            let mut any = false;
            rows.attribute(&[*scope], &key)?.each_distinct(&mask, &mut |v| any |= *v != Val::Nil);
            if any { out.push(key) } else { left.push(key) }
        }
        *keys = left;
    }
    Ok(())
}

fn request(filter: Option<&Pipeline>, whole: bool, options: &TagOptions) -> ScanRequest {
    let mut request = ScanRequest::new(options.start_nano, options.end_nano);
    request.whole_traces = whole || filter.is_some_and(super::eval::pipeline::needs_whole_traces);
    request.conditions = filter.map(super::search::conditions).unwrap_or_default();
    request.partial = options.partial;
    request
}

/// Rows that a filter selects and that start within the range.
fn selected(rows: &Rows<'_>, filter: Option<&Pipeline>, options: &TagOptions) -> Result<Vec<bool>> {
    let mut mask = run(rows, filter.unwrap_or(&Pipeline::default()))?.into_mask(rows.batch.len());
    let starts = rows.batch.starts()?;
    mask.iter_mut().zip(starts.iter()).for_each(|(m, s)| *m &= *s >= options.start_nano && *s <= options.end_nano);
    Ok(mask)
}

/// A tag's value and its type as the API has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagValue {
    /// `string`, `int`, `float`, `bool`, `duration`, `keyword`.
    pub kind: &'static str,
    /// As text.
    pub value: String,
}

/// The attribute a tag name stands for: scoped, dotted, an intrinsic, or (as older callers write it) bare.
pub fn parse_tag(name: &str) -> Attr {
    let attribute = |scope, key: &str| Attr::Attribute { parent: false, scope, key: key.to_owned() };
    if let Some(i) = Intrinsic::parse(name) {
        return Attr::Intrinsic(i);
    }
    let Some((scope, key)) = name.split_once('.').filter(|(s, _)| s.is_empty() || Scope::parse(s).is_some()) else {
        return attribute(Scope::Any, name);
    };
    match tokens(name).as_deref() {
        Ok([t, end]) if end.tok == Tok::End => match &t.tok {
            Tok::Attribute { parent, scope, key } => Attr::Attribute { parent: *parent, scope: *scope, key: key.clone() },
            _ => attribute(Scope::Any, name),
        },
        // Characters that would have to be quoted in a query.
        _ => attribute(Scope::parse(scope).unwrap_or(Scope::Any), key),
    }
}

/// Values of a tag among the spans that `filter` selects (all, without one), sorted.
pub fn tag_values(source: &dyn SpanSource, tag: &Attr, filter: Option<&Pipeline>, options: &TagOptions) -> Result<Vec<TagValue>> {
    let keyword = |names: Vec<&'static str>| names.into_iter().map(|n| TagValue { kind: "keyword", value: n.into() }).collect();
    match tag {
        Attr::Intrinsic(Intrinsic::Status) => return Ok(keyword(vec![status_name(2), status_name(1), status_name(0)])),
        Attr::Intrinsic(Intrinsic::Kind) => return Ok(keyword((0..6).map(kind_name).collect())),
        // Times and numbers of positions are no use for completion.
        Attr::Intrinsic(i) if i.field().is_none() && !matches!(i, Intrinsic::RootName | Intrinsic::RootService) => {
            return Ok(Vec::new());
        }
        _ => {}
    }
    let whole = matches!(tag, Attr::Intrinsic(Intrinsic::RootName | Intrinsic::RootService));
    let request = request(filter, whole, options);
    let mut found = Found::default();
    let mut visit = |batch: &dyn SpanBatch| {
        collect(batch, tag, filter, options, &mut found)?;
        let enough = found.full || (options.limit > 0 && found.values.len() >= options.limit);
        Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(0) })
    };
    scan(source, filter.unwrap_or(&Pipeline::default()), &request, &mut visit)?;
    let mut out: Vec<TagValue> = found.values.into_iter().collect();
    if options.limit > 0 {
        out.truncate(options.limit);
    }
    Ok(out)
}

fn collect(batch: &dyn SpanBatch, tag: &Attr, filter: Option<&Pipeline>, options: &TagOptions, found: &mut Found) -> Result<()> {
    let rows = Rows::new(batch);
    let mask = selected(&rows, filter, options)?;
    rows.attr(tag)?.each_distinct(&mask, &mut |v| add(v, found));
    Ok(())
}

#[derive(Default)]
struct Found {
    values: BTreeSet<TagValue>,
    bytes: usize,
    /// There were more than fit.
    full: bool,
}

fn add(v: &Val, found: &mut Found) {
    let kind = match v {
        Val::Str(_) => "string",
        Val::Int(_) => "int",
        Val::Float(_) => "float",
        Val::Bool(_) => "bool",
        Val::Duration(_) => "duration",
        Val::Status(_) | Val::Kind(_) => "keyword",
        Val::Array(a) => return a.iter().for_each(|v| add(v, found)),
        Val::Nil | Val::Other => return,
    };
    let value = v.text();
    if found.bytes + value.len() > MAX_VALUE_BYTES {
        found.full = true;
        return;
    }
    let bytes = value.len();
    if found.values.insert(TagValue { kind, value }) {
        found.bytes += bytes;
    }
}
