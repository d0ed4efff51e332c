//! Expressions over all rows of a batch at once. A comparison with a literal is decided once for each distinct value.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use strandline_storage::model::Regex;
use strandline_storage::read::{AttributeScope, Column, Field, SpanBatch, Value};

use super::trace::TraceFacts;
use crate::traceql::ast::{Attr, BinOp, Expr, ExprNode, Intrinsic, Static};
use crate::traceql::error::{Result, TraceQlError};
use crate::traceql::lexer::Scope;
use crate::traceql::value::{self, Val};

/// The values of an expression in all rows.
#[derive(Clone)]
pub enum Data {
    /// The same everywhere.
    Const(Val),
    /// Distinct values and which of them each row has.
    Dict(Arc<Vec<Val>>, Indices),
    /// Durations in nanoseconds.
    Durations(Arc<Vec<u64>>),
    /// Truth values.
    Mask(Vec<bool>),
    /// A value for each row.
    Rows(Vec<Val>),
}

/// Indices of rows, where they lie.
#[derive(Clone)]
pub enum Indices {
    /// In a column.
    Column(Arc<Column>),
    /// Here.
    Own(Arc<Vec<u32>>),
}

impl Indices {
    /// All rows'.
    pub fn all(&self) -> &[u32] {
        match self {
            Indices::Column(c) => &c.idx,
            Indices::Own(i) => i,
        }
    }
}

impl Data {
    /// The value of a row.
    pub fn get(&self, row: usize) -> Val {
        match self {
            Data::Const(v) => v.clone(),
            Data::Dict(values, idx) => values[idx.all()[row] as usize].clone(),
            Data::Durations(d) => Val::Duration(d[row] as i64),
            Data::Mask(m) => Val::Bool(m[row]),
            Data::Rows(v) => v[row].clone(),
        }
    }

    /// As truth values: what is no truth value is false.
    pub fn mask(self, rows: usize) -> Vec<bool> {
        let truth = |v: &Val| *v == Val::Bool(true);
        match self {
            Data::Mask(m) => m,
            Data::Const(v) => vec![truth(&v); rows],
            Data::Dict(values, idx) => {
                let by_value: Vec<bool> = values.iter().map(truth).collect();
                idx.all().iter().map(|i| by_value[*i as usize]).collect()
            }
            Data::Durations(_) => vec![false; rows],
            Data::Rows(v) => v.iter().map(truth).collect(),
        }
    }

    /// Rows for which `f` holds of the value, decided once for each distinct one.
    fn test(&self, rows: usize, f: impl Fn(&Val) -> bool) -> Vec<bool> {
        match self {
            Data::Const(v) => vec![f(v); rows],
            Data::Dict(values, idx) => {
                let by_value: Vec<bool> = values.iter().map(f).collect();
                idx.all().iter().map(|i| by_value[*i as usize]).collect()
            }
            Data::Durations(d) => d.iter().map(|d| f(&Val::Duration(*d as i64))).collect(),
            Data::Mask(m) => {
                let (t, n) = (f(&Val::Bool(true)), f(&Val::Bool(false)));
                m.iter().map(|b| if *b { t } else { n }).collect()
            }
            Data::Rows(v) => v.iter().map(f).collect(),
        }
    }

    /// Calls `f` with the values of marked rows, each distinct one of a dictionary once.
    pub fn each_distinct(&self, mask: &[bool], f: &mut dyn FnMut(&Val)) {
        let Data::Dict(values, idx) = self else {
            return (0..mask.len()).filter(|r| mask[*r]).for_each(|r| f(&self.get(r)));
        };
        let mut seen = vec![false; values.len()];
        for (i, _) in idx.all().iter().zip(mask).filter(|(_, m)| **m) {
            if !std::mem::replace(&mut seen[*i as usize], true) {
                f(&values[*i as usize]);
            }
        }
    }

    fn map(&self, f: impl Fn(&Val) -> Result<Val>) -> Result<Data> {
        Ok(match self {
            Data::Const(v) => Data::Const(f(v)?),
            Data::Dict(values, idx) => Data::Dict(Arc::new(values.iter().map(f).collect::<Result<_>>()?), idx.clone()),
            Data::Durations(d) => Data::Rows(d.iter().map(|d| f(&Val::Duration(*d as i64))).collect::<Result<_>>()?),
            Data::Mask(m) => Data::Rows(m.iter().map(|b| f(&Val::Bool(*b))).collect::<Result<_>>()?),
            Data::Rows(v) => Data::Rows(v.iter().map(f).collect::<Result<_>>()?),
        })
    }
}

/// A batch and what was computed of it.
pub struct Rows<'a> {
    /// The spans.
    pub batch: &'a dyn SpanBatch,
    facts: RefCell<Option<Arc<TraceFacts>>>,
    loaded: RefCell<HashMap<Attr, Data>>,
    regexes: RefCell<HashMap<String, Regex>>,
}

impl<'a> Rows<'a> {
    /// Over a batch.
    pub fn new(batch: &'a dyn SpanBatch) -> Self {
        Rows { batch, facts: RefCell::default(), loaded: RefCell::default(), regexes: RefCell::default() }
    }

    /// What is known of the traces as wholes.
    pub fn facts(&self) -> Result<Arc<TraceFacts>> {
        if let Some(f) = &*self.facts.borrow() {
            return Ok(f.clone());
        }
        let f = Arc::new(TraceFacts::new(self.batch)?);
        *self.facts.borrow_mut() = Some(f.clone());
        Ok(f)
    }

    /// The values of an attribute or intrinsic.
    pub fn attr(&self, a: &Attr) -> Result<Data> {
        if let Some(d) = self.loaded.borrow().get(a) {
            return Ok(d.clone());
        }
        let d = match a {
            Attr::Attribute { scope, key, .. } => self.attribute(Attr::scopes(*scope), key)?,
            Attr::Intrinsic(i) => self.intrinsic(*i)?,
        };
        self.loaded.borrow_mut().insert(a.clone(), d.clone());
        Ok(d)
    }

    /// Looks in some scopes, in order.
    pub fn attribute(&self, scopes: &[AttributeScope], key: &str) -> Result<Data> {
        let mut found: Option<Data> = None;
        for s in scopes {
            let c = self.batch.column(&Field::Attribute(*s, key.to_owned()))?;
            // A column of one value has nil only.
            if c.values.len() <= 1 {
                continue;
            }
            let next = dict(c, |v| Val::from(v));
            found = Some(match found {
                None => next,
                Some(first) => first_of(&first, &next),
            });
        }
        Ok(found.unwrap_or(Data::Const(Val::Nil)))
    }

    fn intrinsic(&self, i: Intrinsic) -> Result<Data> {
        use Intrinsic::*;
        let number = |make: fn(i64) -> Val| {
            move |v: &Value| match v {
                Value::Int(i) => make(*i),
                Value::Array(a) => Val::Array(
                    a.iter()
                        .map(|v| match v {
                            Value::Int(i) => make(*i),
                            other => Val::from(other),
                        })
                        .collect(),
                ),
                other => Val::from(other),
            }
        };
        if let Some(field) = i.field() {
            let c = self.batch.column(&field)?;
            return Ok(match i {
                Status => dict(c, number(Val::Status)),
                Kind => dict(c, number(Val::Kind)),
                EventTimeSinceStart => dict(c, number(Val::Duration)),
                _ => dict(c, |v| Val::from(v)),
            });
        }
        if i == Duration {
            return Ok(Data::Durations(self.batch.durations()?));
        }
        let facts = self.facts()?;
        Ok(match i {
            TraceId => self.by_trace((0..facts.duration.len()).map(|t| trace_id(&self.batch.trace_id(t).to_string()))),
            TraceDuration => self.by_trace(facts.duration.iter().map(|d| Val::Duration(*d as i64))),
            RootName => self.of_roots(&facts, &self.attr(&Attr::Intrinsic(Name))?),
            RootService => self.of_roots(&facts, &self.attribute(&[AttributeScope::Resource], "service.name")?),
            NestedSetLeft => Data::Rows(facts.nested(self.batch)?.left.iter().map(|v| Val::Int((*v).into())).collect()),
            NestedSetRight => Data::Rows(facts.nested(self.batch)?.right.iter().map(|v| Val::Int((*v).into())).collect()),
            NestedSetParent => Data::Rows(facts.nested(self.batch)?.parent.iter().map(|v| Val::Int((*v).into())).collect()),
            ChildCount => Data::Rows(facts.nested(self.batch)?.children.iter().map(|v| Val::Int((*v).into())).collect()),
            _ => Data::Const(Val::Nil),
        })
    }

    fn of_roots(&self, facts: &TraceFacts, data: &Data) -> Data {
        self.by_trace(facts.root.iter().map(|r| r.map_or(Val::Nil, |r| data.get(r as usize))))
    }

    /// A value for each trace, in all its rows.
    fn by_trace(&self, values: impl Iterator<Item = Val>) -> Data {
        let offsets = self.batch.traces();
        let mut idx = Vec::with_capacity(self.batch.len());
        for (t, w) in offsets.windows(2).enumerate() {
            idx.resize(idx.len() + (w[1] - w[0]) as usize, t as u32);
        }
        Data::Dict(Arc::new(values.collect()), Indices::Own(Arc::new(idx)))
    }

    /// The values of an expression.
    pub fn eval(&self, e: &Expr) -> Result<Data> {
        let n = self.batch.len();
        Ok(match &e.node {
            ExprNode::Static(s) => Data::Const(Val::from(s)),
            ExprNode::Attr(a) => self.attr(a)?,
            ExprNode::Neg(inner) => self.eval(inner)?.map(|v| Ok(value::negate(v)))?,
            // Not of what is no truth value is no truth value either.
            ExprNode::Not(inner) => Data::Mask(self.eval(inner)?.test(n, |v| *v == Val::Bool(false))),
            ExprNode::Binary(op, l, r) => match root_test(e) {
                Some([root, other]) => Data::Mask(self.batch.ids()?.parent.iter().map(|p| if *p == 0 { root } else { other }).collect()),
                None => self.binary(*op, l, r)?,
            },
        })
    }

    fn binary(&self, op: BinOp, l: &Expr, r: &Expr) -> Result<Data> {
        let n = self.batch.len();
        match op {
            BinOp::And => {
                let mut left = self.eval(l)?.mask(n);
                if left.contains(&true) {
                    left.iter_mut().zip(self.eval(r)?.mask(n)).for_each(|(l, r)| *l &= r);
                }
                Ok(Data::Mask(left))
            }
            BinOp::Or => {
                // Where the left side is no truth value, the whole is false: types that don't fit satisfy nothing.
                let data = self.eval(l)?;
                let undecided = data.test(n, |v| *v == Val::Bool(false));
                let mut held = data.mask(n);
                if undecided.contains(&true) {
                    let right = self.eval(r)?.mask(n);
                    held.iter_mut().zip(undecided.iter().zip(right)).for_each(|(h, (u, r))| *h |= u & r);
                }
                Ok(Data::Mask(held))
            }
            BinOp::Re | BinOp::Nre => {
                let ExprNode::Static(Static::Str(pattern)) = &r.node else {
                    return Err(TraceQlError::evaluation("the right side of a regex match must be text"));
                };
                let regex = self.regex(pattern)?;
                Ok(Data::Mask(self.eval(l)?.test(n, |v| value::matches(op == BinOp::Nre, v, &regex))))
            }
            _ => {
                let (left, right) = (self.eval(l)?, self.eval(r)?);
                let nil = |e: &Expr| matches!(e.node, ExprNode::Static(Static::Nil));
                if op.is_comparison() && (nil(l) || nil(r)) {
                    let tested = if nil(r) { left } else { right };
                    return Ok(Data::Mask(tested.test(n, |v| match op {
                        BinOp::Eq => *v == Val::Nil,
                        BinOp::Ne => *v != Val::Nil,
                        _ => false,
                    })));
                }
                if op.is_comparison() {
                    return Ok(Data::Mask(match (&left, &right) {
                        (l, Data::Const(c)) => l.test(n, |v| value::compare(op, v, c)),
                        (Data::Const(c), r) => r.test(n, |v| value::compare(op, c, v)),
                        (l, r) => (0..n).map(|i| value::compare(op, &l.get(i), &r.get(i))).collect(),
                    }));
                }
                match (&left, &right) {
                    (l, Data::Const(c)) => l.map(|v| value::arithmetic(op, v, c)),
                    (Data::Const(c), r) => r.map(|v| value::arithmetic(op, c, v)),
                    (l, r) => Ok(Data::Rows((0..n).map(|i| value::arithmetic(op, &l.get(i), &r.get(i))).collect::<Result<_>>()?)),
                }
            }
        }
    }

    fn regex(&self, pattern: &str) -> Result<Regex> {
        if let Some(r) = self.regexes.borrow().get(pattern) {
            return Ok(r.clone());
        }
        let r = value::regex(pattern).map_err(TraceQlError::evaluation)?;
        self.regexes.borrow_mut().insert(pattern.to_owned(), r.clone());
        Ok(r)
    }
}

/// What a comparison holds of roots and of all other spans, if it asks no more than that, as `nestedSetParent < 0` does:
/// roots have -1, others 0 or more, and the tree need not be known.
pub fn root_test(e: &Expr) -> Option<[bool; 2]> {
    let ExprNode::Binary(op, l, r) = &e.node else { return None };
    let (ExprNode::Attr(Attr::Intrinsic(Intrinsic::NestedSetParent)), ExprNode::Static(Static::Int(c))) = (&l.node, &r.node) else {
        return None;
    };
    let others_alike = *c < 0 || *c == 0 && matches!(op, BinOp::Lt | BinOp::Ge);
    (op.is_comparison() && others_alike).then(|| [-1, 0].map(|parent| value::compare(*op, &Val::Int(parent), &Val::Int(*c))))
}

/// Ids of traces stand without leading zeros, as search shows them; literals they are compared with do too.
fn trace_id(hex: &str) -> Val {
    Val::Str(Arc::from(hex.trim_start_matches('0')))
}

fn dict(c: Arc<Column>, f: impl Fn(&Value) -> Val) -> Data {
    Data::Dict(Arc::new(c.values.iter().map(f).collect()), Indices::Column(c))
}

/// The first's value, or where it is nil the second's.
fn first_of(first: &Data, second: &Data) -> Data {
    let (Data::Dict(a, ai), Data::Dict(b, bi)) = (first, second) else { return first.clone() };
    let mut values = a.to_vec();
    let base = values.len() as u32;
    values.extend(b.iter().cloned());
    let idx = ai.all().iter().zip(bi.all()).map(|(i, j)| if a[*i as usize] == Val::Nil { base + j } else { *i });
    Data::Dict(Arc::new(values), Indices::Own(Arc::new(idx.collect())))
}

/// Attributes that a label of a metrics query looks in: unscoped ones on the span, then on the resource.
pub fn label_scopes(scope: Scope) -> &'static [AttributeScope] {
    match scope {
        Scope::Any => &[AttributeScope::Span, AttributeScope::Resource],
        other => Attr::scopes(other),
    }
}
