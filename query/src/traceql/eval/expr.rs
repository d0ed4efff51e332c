//! Expressions over all rows of a batch at once. A comparison with a literal is decided once for each distinct value.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use strandline_storage::model::Regex;
use strandline_storage::read::{AttributeScope, Column, Field, SpanBatch, Value};

use super::trace::{NestedSets, TraceTimes, Tree, child_counts, roots};
use crate::traceql::ast::{Attr, BinOp, Expr, ExprNode, Intrinsic, Static};
use crate::traceql::error::{Result, TraceQlError};
use crate::traceql::lexer::Scope;
use crate::traceql::value::{self, Distinct, Val};

/// The values of an expression in all rows.
#[derive(Clone)]
pub enum Data {
    /// The same everywhere.
    Const(Val),
    /// Distinct values and which of them each row has.
    Dict(Arc<Vec<Val>>, Indices),
    /// Durations in nanoseconds.
    Durations(Arc<Vec<u64>>),
    /// Integers.
    Ints(Arc<Vec<i64>>),
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
            Data::Ints(n) => Val::Int(n[row]),
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
            Data::Durations(_) | Data::Ints(_) => vec![false; rows],
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
            Data::Ints(n) => n.iter().map(|n| f(&Val::Int(*n))).collect(),
            Data::Mask(m) => {
                let (t, n) = (f(&Val::Bool(true)), f(&Val::Bool(false)));
                m.iter().map(|b| if *b { t } else { n }).collect()
            }
            Data::Rows(v) => v.iter().map(f).collect(),
        }
    }

    /// As labels, groups and results show the values.
    pub fn shown(self) -> Data {
        match self {
            Data::Dict(values, idx) if values.contains(&Val::Other) => {
                Data::Dict(Arc::new(values.iter().map(|v| v.shown().clone()).collect()), idx)
            }
            Data::Rows(v) if v.contains(&Val::Other) => Data::Rows(v.iter().map(|v| v.shown().clone()).collect()),
            other => other,
        }
    }

    /// Its values, each once, and for each row the number of its own. Values of different types differ.
    pub fn numbered(&self, rows: usize) -> (Vec<Val>, Vec<u32>) {
        let mut known: HashMap<Distinct, u32> = HashMap::default();
        let mut values = Vec::new();
        let mut number = |v: Val| {
            *known.entry(Distinct(v)).or_insert_with_key(|v| {
                values.push(v.0.clone());
                values.len() as u32 - 1
            })
        };
        let of_row = match self {
            Data::Const(v) => vec![number(v.clone()); rows],
            Data::Dict(dict, idx) => {
                let of_value: Vec<u32> = dict.iter().map(|v| number(v.clone())).collect();
                idx.all().iter().map(|i| of_value[*i as usize]).collect()
            }
            other => (0..rows).map(|r| number(other.get(r))).collect(),
        };
        (values, of_row)
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

    /// What `f` makes of each value. Where it fails, that counts if a row that matters has the value; else there is nil.
    fn map(&self, of: &Mattering<'_>, f: impl Fn(&Val) -> Result<Val>) -> Result<Data> {
        let by_row = |v: &mut dyn Iterator<Item = Val>| -> Result<Data> {
            Ok(Data::Rows(v.enumerate().map(|(r, v)| f(&v).or_else(|e| of.nil_unless_row(r, e))).collect::<Result<_>>()?))
        };
        match self {
            Data::Const(v) => Ok(Data::Const(f(v).or_else(|e| of.nil_unless_any(e))?)),
            Data::Dict(values, idx) => {
                let mut made = Vec::with_capacity(values.len());
                for (n, v) in values.iter().enumerate() {
                    made.push(
                        f(v).or_else(|e| of.nil_unless(|| idx.all().iter().enumerate().any(|(r, i)| *i as usize == n && of.row(r)), e))?,
                    );
                }
                Ok(Data::Dict(Arc::new(made), idx.clone()))
            }
            Data::Durations(d) => by_row(&mut d.iter().map(|d| Val::Duration(*d as i64))),
            Data::Ints(n) => by_row(&mut n.iter().map(|n| Val::Int(*n))),
            Data::Mask(m) => by_row(&mut m.iter().map(|b| Val::Bool(*b))),
            Data::Rows(v) => by_row(&mut v.iter().cloned()),
        }
    }
}

/// Rows whose values matter: what stands behind a guard, as in `{ .n != 0 && 1 / .n > 0 }`, is computed of all and fails for
/// those alone that pass it.
#[derive(Clone, Copy)]
pub struct Mattering<'m>(Option<&'m [bool]>);

impl<'m> Mattering<'m> {
    /// Those marked.
    pub fn marked(rows: &'m [bool]) -> Self {
        Mattering(Some(rows))
    }
    fn row(&self, r: usize) -> bool {
        self.0.is_none_or(|m| m[r])
    }
    fn nil_unless(&self, matters: impl FnOnce() -> bool, e: TraceQlError) -> Result<Val> {
        if matters() { Err(e) } else { Ok(Val::Nil) }
    }
    fn nil_unless_row(&self, r: usize, e: TraceQlError) -> Result<Val> {
        self.nil_unless(|| self.row(r), e)
    }
    fn nil_unless_any(&self, e: TraceQlError) -> Result<Val> {
        self.nil_unless(|| self.0.is_none_or(|m| m.contains(&true)), e)
    }
    /// Of these those marked.
    fn and(&self, rows: &[bool]) -> Vec<bool> {
        rows.iter().enumerate().map(|(r, b)| *b && self.row(r)).collect()
    }
}

/// A batch and what was computed of it.
pub struct Rows<'a> {
    /// The spans.
    pub batch: &'a dyn SpanBatch,
    times: RefCell<Option<Arc<TraceTimes>>>,
    nested: RefCell<Option<Arc<NestedSets>>>,
    columns: RefCell<HashMap<Field, Arc<Column>>>,
    loaded: RefCell<HashMap<Attr, Data>>,
    regexes: RefCell<HashMap<String, Regex>>,
    /// The tree that was asked for last: sets of a trace follow one another.
    tree: RefCell<Option<(usize, Arc<Tree>)>>,
}

impl<'a> Rows<'a> {
    /// Over a batch.
    pub fn new(batch: &'a dyn SpanBatch) -> Self {
        Rows {
            batch,
            times: RefCell::default(),
            nested: RefCell::default(),
            columns: RefCell::default(),
            loaded: RefCell::default(),
            regexes: RefCell::default(),
            tree: RefCell::default(),
        }
    }

    /// How the spans of a trace hang together.
    pub fn tree(&self, trace: usize) -> Result<Arc<Tree>> {
        if let Some((_, t)) = self.tree.borrow().as_ref().filter(|(t, _)| *t == trace) {
            return Ok(t.clone());
        }
        self.batch.go_on()?;
        let (ids, offsets) = (self.batch.ids()?, self.batch.traces());
        let r = offsets[trace] as usize..offsets[trace + 1] as usize;
        let t = Arc::new(Tree::new(&ids.span[r.clone()], &ids.parent[r]));
        *self.tree.borrow_mut() = Some((trace, t.clone()));
        Ok(t)
    }

    /// When the traces began and how long they took.
    pub fn times(&self) -> Result<Arc<TraceTimes>> {
        once(&self.times, || TraceTimes::new(self.batch))
    }

    fn nested(&self) -> Result<Arc<NestedSets>> {
        once(&self.nested, || NestedSets::new(self.batch))
    }

    /// Reads what will be asked for of these attributes, all at once.
    pub fn read_ahead(&self, attrs: &[Attr]) -> Result<()> {
        let fields = attrs.iter().filter_map(|a| match a {
            Attr::Attribute { scope, key, .. } => match Attr::scopes(*scope) {
                [one] => Some(Field::Attribute(*one, key.clone())),
                _ => None,
            },
            Attr::Intrinsic(i) => i.field(),
        });
        let fields: Vec<Field> = fields.collect();
        let columns = self.batch.columns(&fields)?;
        self.columns.borrow_mut().extend(fields.into_iter().zip(columns));
        Ok(())
    }

    fn column(&self, field: Field) -> Result<Arc<Column>> {
        if let Some(c) = self.columns.borrow().get(&field) {
            return Ok(c.clone());
        }
        let c = self.batch.column(&field)?;
        self.columns.borrow_mut().insert(field, c.clone());
        Ok(c)
    }

    /// The values of an attribute or intrinsic.
    pub fn attr(&self, a: &Attr) -> Result<Data> {
        if let Some(d) = self.loaded.borrow().get(a) {
            return Ok(d.clone());
        }
        let d = match a {
            Attr::Attribute { parent, scope, key } => self.attribute_of(*parent, Attr::scopes(*scope), key)?,
            Attr::Intrinsic(i) => self.intrinsic(*i)?,
        };
        self.loaded.borrow_mut().insert(a.clone(), d.clone());
        Ok(d)
    }

    /// As [`Rows::attribute`], of each span or of its parent; nil where that is not there.
    pub fn attribute_of(&self, parent: bool, scopes: &[AttributeScope], key: &str) -> Result<Data> {
        let own = self.attribute(scopes, key)?;
        let Data::Dict(values, idx) = own else { return Ok(own) };
        if !parent {
            return Ok(Data::Dict(values, idx));
        }
        let (nil, offsets) = (values.len() as u32, self.batch.traces());
        let mut of_parents = Vec::with_capacity(self.batch.len());
        for t in 0..offsets.len() - 1 {
            let of_trace = &idx.all()[offsets[t] as usize..offsets[t + 1] as usize];
            of_parents.extend(self.tree(t)?.parents().map(|p| p.map_or(nil, |p| of_trace[p])));
        }
        let values = values.iter().cloned().chain([Val::Nil]).collect();
        Ok(Data::Dict(Arc::new(values), Indices::Own(Arc::new(of_parents))))
    }

    /// Looks in some scopes, in order.
    pub fn attribute(&self, scopes: &[AttributeScope], key: &str) -> Result<Data> {
        let mut found: Option<Data> = None;
        for s in scopes {
            let c = self.column(Field::Attribute(*s, key.to_owned()))?;
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
            let c = self.column(field)?;
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
        let traces = self.batch.traces().len() - 1;
        Ok(match i {
            TraceId => self.by_trace((0..traces).map(|t| trace_id(&self.batch.trace_id(t).to_string()))),
            TraceDuration => self.by_trace(self.times()?.duration.iter().map(|d| Val::Duration(*d as i64))),
            RootName => self.of_roots(&self.attr(&Attr::Intrinsic(Name))?)?,
            RootService => self.of_roots(&self.attribute(&[AttributeScope::Resource], "service.name")?)?,
            NestedSetLeft => Data::Ints(self.nested()?.left.clone()),
            NestedSetRight => Data::Ints(self.nested()?.right.clone()),
            NestedSetParent => Data::Ints(self.nested()?.parent.clone()),
            ChildCount => Data::Ints(Arc::new(child_counts(self.batch)?)),
            _ => Data::Const(Val::Nil),
        })
    }

    fn of_roots(&self, data: &Data) -> Result<Data> {
        Ok(self.by_trace(roots(self.batch)?.iter().map(|r| r.map_or(Val::Nil, |r| data.get(r as usize)))))
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

    /// The values of an expression, right in the rows that matter.
    pub fn eval(&self, e: &Expr, of: &Mattering<'_>) -> Result<Data> {
        let n = self.batch.len();
        Ok(match &e.node {
            ExprNode::Static(s) => Data::Const(Val::from(s)),
            ExprNode::Attr(a) => self.attr(a)?,
            ExprNode::Neg(inner) => self.eval(inner, of)?.map(of, |v| Ok(value::negate(v)))?,
            // Not of what is no truth value is no truth value either.
            ExprNode::Not(inner) => Data::Mask(self.eval(inner, of)?.test(n, |v| *v == Val::Bool(false))),
            ExprNode::Binary(op, l, r) => match root_test(e) {
                Some([root, other]) => Data::Mask(self.batch.ids()?.parent.iter().map(|p| if *p == 0 { root } else { other }).collect()),
                None => self.binary(*op, l, r, of)?,
            },
        })
    }

    fn binary(&self, op: BinOp, l: &Expr, r: &Expr, of: &Mattering<'_>) -> Result<Data> {
        let n = self.batch.len();
        match op {
            BinOp::And => {
                let mut left = self.eval(l, of)?.mask(n);
                if left.contains(&true) {
                    let right = self.eval(r, &Mattering::marked(&of.and(&left)))?.mask(n);
                    left.iter_mut().zip(right).for_each(|(l, r)| *l &= r);
                }
                Ok(Data::Mask(left))
            }
            BinOp::Or => {
                // Where the left side is no truth value, the whole is false: types that don't fit satisfy nothing.
                let data = self.eval(l, of)?;
                let undecided = data.test(n, |v| *v == Val::Bool(false));
                let mut held = data.mask(n);
                if undecided.contains(&true) {
                    let right = self.eval(r, &Mattering::marked(&of.and(&undecided)))?.mask(n);
                    held.iter_mut().zip(undecided.iter().zip(right)).for_each(|(h, (u, r))| *h |= u & r);
                }
                Ok(Data::Mask(held))
            }
            BinOp::Re | BinOp::Nre => {
                let ExprNode::Static(Static::Str(pattern)) = &r.node else {
                    return Err(TraceQlError::evaluation("the right side of a regex match must be text"));
                };
                let regex = self.regex(pattern)?;
                Ok(Data::Mask(self.eval(l, of)?.test(n, |v| value::matches(op == BinOp::Nre, v, &regex))))
            }
            _ if op.is_comparison() => Ok(Data::Mask(self.comparison(op, l, r, of)?)),
            _ => match (&self.eval(l, of)?, &self.eval(r, of)?) {
                (l, Data::Const(c)) => l.map(of, |v| value::arithmetic(op, v, c)),
                (Data::Const(c), r) => r.map(of, |v| value::arithmetic(op, c, v)),
                (l, r) => {
                    let of_row = |i| value::arithmetic(op, &l.get(i), &r.get(i)).or_else(|e| of.nil_unless_row(i, e));
                    Ok(Data::Rows((0..n).map(of_row).collect::<Result<_>>()?))
                }
            },
        }
    }

    fn comparison(&self, op: BinOp, l: &Expr, r: &Expr, of: &Mattering<'_>) -> Result<Vec<bool>> {
        if let Some(mask) = self.id_test(op, l, r)? {
            return Ok(mask);
        }
        let n = self.batch.len();
        let nil = |e: &Expr| matches!(e.node, ExprNode::Static(Static::Nil));
        let (left, right) = (self.eval(l, of)?, self.eval(r, of)?);
        if nil(l) || nil(r) {
            let tested = if nil(r) { left } else { right };
            return Ok(tested.test(n, |v| match op {
                BinOp::Eq => *v == Val::Nil,
                BinOp::Ne => *v != Val::Nil,
                _ => false,
            }));
        }
        Ok(match (&left, &right) {
            (Data::Durations(d), Data::Const(Val::Int(c) | Val::Duration(c))) => {
                d.iter().map(|d| value::holds(op, (*d as i64).cmp(c))).collect()
            }
            (Data::Ints(n), Data::Const(Val::Int(c) | Val::Duration(c))) => n.iter().map(|n| value::holds(op, n.cmp(c))).collect(),
            (l, Data::Const(c)) => l.test(n, |v| value::compare(op, v, c)),
            (Data::Const(c), r) => r.test(n, |v| value::compare(op, c, v)),
            (l, r) => (0..n).map(|i| value::compare(op, &l.get(i), &r.get(i))).collect(),
        })
    }

    /// The rows whose id, or whose parent's, is a literal or is not: told by numbers, so that no text is made of each.
    fn id_test(&self, op: BinOp, l: &Expr, r: &Expr) -> Result<Option<Vec<bool>>> {
        let (ExprNode::Attr(Attr::Intrinsic(i)), ExprNode::Static(Static::Str(text)), BinOp::Eq | BinOp::Ne) = (&l.node, &r.node, op)
        else {
            return Ok(None);
        };
        let of_parent = match i {
            Intrinsic::SpanId => false,
            Intrinsic::ParentId => true,
            _ => return Ok(None),
        };
        let wanted = span_id(text);
        if wanted.is_none() && op == BinOp::Eq {
            return Ok(Some(vec![false; self.batch.len()]));
        }
        let ids = self.batch.ids()?;
        let holds = |id: &u64| (Some(*id) == wanted) == (op == BinOp::Eq);
        // A root has no parent, which is neither equal nor unequal to an id.
        Ok(Some(match of_parent {
            true => ids.parent.iter().map(|id| *id != 0 && holds(id)).collect(),
            false => ids.span.iter().map(holds).collect(),
        }))
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

/// What `make` makes, made once.
fn once<T>(kept: &RefCell<Option<Arc<T>>>, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    if let Some(made) = &*kept.borrow() {
        return Ok(made.clone());
    }
    let made = Arc::new(make()?);
    *kept.borrow_mut() = Some(made.clone());
    Ok(made)
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

/// An id of a span as text, if it is one: sixteen digits of hex, as columns show them.
fn span_id(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digits && text.len() == 16 { u64::from_str_radix(text, 16).ok() } else { None }
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
