//! What makes no sense is refused before anything is read: types, regexes, limits.

use super::ast::*;
use super::error::{Result, TraceQlError, TraceQlErrorKind};
use super::lexer::Scope;

/// Labels of a metrics query at most.
pub const MAX_GROUP_KEYS: usize = 5;

/// Type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// An attribute: known when it is read.
    Any,
    Nil,
    Str,
    Number,
    Bool,
    Status,
    Kind,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Any => "an attribute",
            Type::Nil => "nil",
            Type::Str => "text",
            Type::Number => "a number",
            Type::Bool => "a truth value",
            Type::Status => "a status",
            Type::Kind => "a kind",
        }
    }
}

struct Checker<'a> {
    text: &'a str,
    /// Found on the way; told if nothing is invalid.
    unsupported: Option<TraceQlError>,
}

/// Checks a query. Invalid is told before unsupported.
pub fn check(text: &str, query: &Query) -> Result<()> {
    let mut c = Checker { text, unsupported: None };
    match &query.root {
        Root::Spansets(p) => c.pipeline(p)?,
        Root::Metrics(m) => c.metrics(m, false)?,
        Root::Reserved(scalars, at) => {
            scalars.iter().try_for_each(|s| c.scalar(s))?;
            c.reserve(*at, "comparisons of scalar pipelines and of numbers alone are reserved");
        }
    }
    c.unsupported.map_or(Ok(()), Err)
}

fn type_of_intrinsic(i: Intrinsic) -> Type {
    use Intrinsic::*;
    match i {
        Duration | TraceDuration | ChildCount | NestedSetLeft | NestedSetRight | NestedSetParent | EventTimeSinceStart => Type::Number,
        Status => Type::Status,
        Kind => Type::Kind,
        Parent => Type::Nil,
        _ => Type::Str,
    }
}

/// Attributes that are always there, so that comparing them with nil says nothing.
fn is_never_nil(e: &Expr) -> bool {
    match &e.node {
        ExprNode::Attr(Attr::Intrinsic(i)) => *i != Intrinsic::Parent,
        ExprNode::Attr(Attr::Attribute(false, Scope::Resource, k)) => k == "service.name",
        _ => false,
    }
}

impl Checker<'_> {
    fn invalid<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(TraceQlError::at(TraceQlErrorKind::Invalid, self.text, at, message))
    }
    fn reserve(&mut self, at: usize, message: &str) {
        if self.unsupported.is_none() {
            self.unsupported = Some(TraceQlError::at(TraceQlErrorKind::Unsupported, self.text, at, message));
        }
    }

    fn pipeline(&mut self, p: &Pipeline) -> Result<()> {
        for s in &p.stages {
            match s {
                Stage::Set(s) => self.set(s)?,
                Stage::Group(e) => {
                    self.expr(e)?;
                    if !self.mentions_span(e) {
                        return self.invalid(e.at, "by() must refer to the span");
                    }
                }
                Stage::Coalesce => {}
                Stage::Select(attrs) => attrs.iter().for_each(|a| self.attr(a, 0)),
                Stage::Scalar(_, l, r, at) => {
                    self.scalar(l)?;
                    self.scalar(r)?;
                    if !matches!((l, r), (Scalar::Aggregate(..), Scalar::Static(_))) {
                        self.reserve(*at, "an aggregate can be compared with a number only");
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, s: &SetExpr) -> Result<()> {
        match s {
            SetExpr::Filter(None) => Ok(()),
            SetExpr::Filter(Some(e)) => match self.expr(e)? {
                Type::Bool | Type::Any => Ok(()),
                // `parent` alone is reserved rather than wrong.
                Type::Nil if matches!(e.node, ExprNode::Attr(Attr::Intrinsic(Intrinsic::Parent))) => Ok(()),
                t => self.invalid(e.at, format!("a filter must be a truth value, and this is {}", t.name())),
            },
            SetExpr::Op(_, l, r) => {
                self.set(l)?;
                self.set(r)
            }
            SetExpr::Wrapped(p) => self.pipeline(p),
        }
    }

    fn scalar(&mut self, s: &Scalar) -> Result<()> {
        match s {
            Scalar::Static(_) => Ok(()),
            Scalar::Binary(_, l, r) => {
                self.scalar(l)?;
                self.scalar(r)
            }
            Scalar::Pipeline(p, s) => {
                self.pipeline(p)?;
                self.scalar(s)
            }
            Scalar::Aggregate(a, at) => {
                let Some(e) = &a.of else { return Ok(()) };
                let t = self.expr(e)?;
                if !matches!(t, Type::Number | Type::Any) {
                    return self.invalid(e.at, format!("an aggregate takes a number, and this is {}", t.name()));
                }
                if !self.mentions_span(e) {
                    return self.invalid(*at, "an aggregate must refer to the span");
                }
                Ok(())
            }
        }
    }

    fn mentions_span(&self, e: &Expr) -> bool {
        let mut any = false;
        e.each_attr(&mut |_| any = true);
        any
    }

    fn attr(&mut self, a: &Attr, at: usize) {
        match a {
            Attr::Attribute(true, ..) | Attr::Intrinsic(Intrinsic::Parent) => self.reserve(at, "parent is reserved"),
            _ => {}
        }
    }

    fn expr(&mut self, e: &Expr) -> Result<Type> {
        Ok(match &e.node {
            ExprNode::Static(s) => match s {
                Static::Nil => Type::Nil,
                Static::Str(_) => Type::Str,
                Static::Int(_) | Static::Float(_) | Static::Duration(_) => Type::Number,
                Static::Bool(_) => Type::Bool,
                Static::Status(_) => Type::Status,
                Static::Kind(_) => Type::Kind,
            },
            ExprNode::Attr(a) => {
                self.attr(a, e.at);
                match a {
                    Attr::Attribute(..) => Type::Any,
                    Attr::Intrinsic(Intrinsic::Parent) => Type::Nil,
                    Attr::Intrinsic(i) => type_of_intrinsic(*i),
                }
            }
            ExprNode::Neg(inner) => match self.expr(inner)? {
                Type::Number | Type::Any => Type::Number,
                t if self.is_parent(inner) => t,
                t => return self.invalid(e.at, format!("\"-\" takes a number, and this is {}", t.name())),
            },
            ExprNode::Not(inner) => match self.expr(inner)? {
                Type::Bool | Type::Any => Type::Bool,
                t if self.is_parent(inner) => t,
                t => return self.invalid(e.at, format!("\"!\" takes a truth value, and this is {}", t.name())),
            },
            ExprNode::Binary(op, l, r) => self.binary(*op, l, r, e.at)?,
        })
    }

    fn is_parent(&self, e: &Expr) -> bool {
        let mut any = false;
        e.each_attr(&mut |a| any |= matches!(a, Attr::Intrinsic(Intrinsic::Parent)));
        any
    }

    fn binary(&mut self, op: BinOp, l: &Expr, r: &Expr, at: usize) -> Result<Type> {
        let (lt, rt) = (self.expr(l)?, self.expr(r)?);
        let result = if op.is_arithmetic() { Type::Number } else { Type::Bool };
        if self.is_parent(l) || self.is_parent(r) {
            return Ok(result);
        }
        for t in [lt, rt] {
            let fits = match op {
                BinOp::Eq | BinOp::Ne => true,
                BinOp::And | BinOp::Or => matches!(t, Type::Bool | Type::Any),
                BinOp::Re | BinOp::Nre => matches!(t, Type::Str | Type::Any),
                BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge => matches!(t, Type::Number | Type::Str | Type::Any),
                _ => matches!(t, Type::Number | Type::Any),
            };
            if !fits {
                return self.invalid(at, format!("{:?} can't be used with {}", op.text(), t.name()));
            }
        }
        let alike = lt == rt || lt == Type::Any || rt == Type::Any || lt == Type::Nil || rt == Type::Nil;
        if !alike {
            return self.invalid(at, format!("{:?} can't be used between {} and {}", op.text(), lt.name(), rt.name()));
        }
        if matches!(op, BinOp::Re | BinOp::Nre) {
            let ExprNode::Static(Static::Str(pattern)) = &r.node else {
                return self.invalid(r.at, "the right side of a regex match must be text");
            };
            if let Err(e) = super::value::regex(pattern) {
                return self.invalid(r.at, format!("a regex that does not compile: {e}"));
            }
        }
        let absent = |e: &Expr| matches!(e.node, ExprNode::Static(Static::Nil));
        if op == BinOp::Eq && ((is_never_nil(l) && absent(r)) || (absent(l) && is_never_nil(r))) {
            return self.invalid(at, "this is never nil");
        }
        if matches!(op, BinOp::Div | BinOp::Mod)
            && matches!(l.node, ExprNode::Static(Static::Int(_)))
            && matches!(r.node, ExprNode::Static(Static::Int(0)))
        {
            return self.invalid(at, "division by zero");
        }
        Ok(result)
    }

    fn metrics(&mut self, m: &MetricsExpr, in_math: bool) -> Result<()> {
        match m {
            MetricsExpr::Const(_) => Ok(()),
            MetricsExpr::Math(_, l, r) => {
                self.metrics(l, true)?;
                self.metrics(r, true)
            }
            MetricsExpr::TopK(_, n, inner, at) => {
                if *n == 0 {
                    return self.invalid(*at, "the number of series must be above 0");
                }
                self.metrics(inner, true)
            }
            MetricsExpr::Filter(_, _, inner, _) => self.metrics(inner, true),
            MetricsExpr::Query(q) => self.query(q, in_math),
        }
    }

    fn query(&mut self, q: &MetricsQuery, in_math: bool) -> Result<()> {
        self.pipeline(&q.pipeline)?;
        if q.by.len() > MAX_GROUP_KEYS {
            return self.invalid(q.at, format!("at most {MAX_GROUP_KEYS} labels, and there are {}", q.by.len()));
        }
        q.by.iter().for_each(|a| self.attr(a, q.at));
        match &q.op {
            MetricsOp::Rate | MetricsOp::CountOverTime => Ok(()),
            MetricsOp::Compare(selection, ..) => {
                if in_math {
                    return self.invalid(q.at, "compare() can't be part of a further calculation");
                }
                self.set(&SetExpr::Filter(selection.clone()))
            }
            MetricsOp::QuantileOverTime(a, q_values) => {
                if let Some(bad) = q_values.iter().find(|v| !(0.0..=1.0).contains(*v)) {
                    return self.invalid(q.at, format!("a quantile must lie between 0 and 1, and this is {bad}"));
                }
                self.measured(a, q.at)
            }
            MetricsOp::MinOverTime(a)
            | MetricsOp::MaxOverTime(a)
            | MetricsOp::AvgOverTime(a)
            | MetricsOp::SumOverTime(a)
            | MetricsOp::HistogramOverTime(a) => self.measured(a, q.at),
        }
    }

    fn measured(&mut self, a: &Attr, at: usize) -> Result<()> {
        self.attr(a, at);
        if let Attr::Intrinsic(i) = a
            && type_of_intrinsic(*i) != Type::Number
            && *i != Intrinsic::Parent
        {
            return self.invalid(at, format!("{} is no number", i.name()));
        }
        Ok(())
    }
}
