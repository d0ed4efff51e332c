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
}

/// Checks a query. What is wrong first, from left to right and from the inside out, is told.
pub fn check(text: &str, query: &Query) -> Result<()> {
    let c = Checker { text };
    match &query.root {
        Root::Spansets(p) => c.pipeline(p),
        Root::Metrics(m) => c.metrics(m, false),
        Root::Reserved(scalars, at) => {
            scalars.iter().try_for_each(|s| c.scalar(s))?;
            c.reserved(*at, "comparisons of scalar pipelines are reserved")
        }
    }
}

fn type_of_intrinsic(i: Intrinsic) -> Type {
    use Intrinsic::*;
    match i {
        Duration | TraceDuration | ChildCount | NestedSetLeft | NestedSetRight | NestedSetParent | EventTimeSinceStart => Type::Number,
        Status => Type::Status,
        Kind => Type::Kind,
        Parent => Type::Nil,
        // Of these Tempo's checker knows nothing.
        ScopeName | ScopeVersion => Type::Any,
        _ => Type::Str,
    }
}

/// Attributes that are always there, so that comparing them with nil says nothing.
fn is_never_nil(e: &Expr) -> bool {
    match &e.node {
        ExprNode::Attr(Attr::Intrinsic(_)) => true,
        ExprNode::Attr(Attr::Attribute { parent: false, scope: Scope::Resource, key }) => key == "service.name",
        _ => false,
    }
}

fn is_nil(e: &Expr) -> bool {
    matches!(e.node, ExprNode::Static(Static::Nil))
}

fn mentions_span(e: &Expr) -> bool {
    let mut any = false;
    e.each_attr(&mut |_| any = true);
    any
}

impl Checker<'_> {
    fn invalid<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(TraceQlError::at(TraceQlErrorKind::Invalid, self.text, at, message))
    }
    fn reserved<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(TraceQlError::at(TraceQlErrorKind::Unsupported, self.text, at, message))
    }

    fn pipeline(&self, p: &Pipeline) -> Result<()> {
        for s in &p.stages {
            match s {
                Stage::Set(s) => self.set(s)?,
                Stage::Group(e) => {
                    if !mentions_span(e) {
                        return self.invalid(e.at, "by() must refer to the span");
                    }
                    self.expr(e)?;
                }
                Stage::Coalesce => {}
                Stage::Select(attrs) => attrs.iter().try_for_each(|a| self.attr(a, 0))?,
                Stage::Scalar(_, l, r, at) => {
                    self.scalar(l)?;
                    self.scalar(r)?;
                    if !matches!((l, r), (Scalar::Aggregate(..), Scalar::Static(_))) {
                        return self.reserved(*at, "an aggregate can be compared with a number only");
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&self, s: &SetExpr) -> Result<()> {
        match s {
            SetExpr::Filter(e) => self.filter(e.as_ref()),
            SetExpr::Op(_, l, r) => {
                self.set(l)?;
                self.set(r)
            }
            SetExpr::Wrapped(p) => self.pipeline(p),
        }
    }

    fn filter(&self, e: Option<&Expr>) -> Result<()> {
        let Some(e) = e else { return Ok(()) };
        match self.expr(e)? {
            Type::Bool | Type::Any => Ok(()),
            t => self.invalid(e.at, format!("a filter must be a truth value, and this is {}", t.name())),
        }
    }

    fn scalar(&self, s: &Scalar) -> Result<()> {
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
                if !mentions_span(e) {
                    return self.invalid(*at, "an aggregate must refer to the span");
                }
                Ok(())
            }
        }
    }

    fn attr(&self, a: &Attr, at: usize) -> Result<()> {
        match a {
            Attr::Attribute { parent: true, .. } | Attr::Intrinsic(Intrinsic::Parent) => self.reserved(at, "parent is reserved"),
            _ => Ok(()),
        }
    }

    fn expr(&self, e: &Expr) -> Result<Type> {
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
                self.attr(a, e.at)?;
                match a {
                    Attr::Attribute { .. } => Type::Any,
                    Attr::Intrinsic(i) => type_of_intrinsic(*i),
                }
            }
            // Of an attribute the type is not known, whatever is done with it.
            ExprNode::Neg(inner) => match self.expr(inner)? {
                t @ (Type::Number | Type::Any) => t,
                t => return self.invalid(e.at, format!("\"-\" takes a number, and this is {}", t.name())),
            },
            ExprNode::Not(inner) => match self.expr(inner)? {
                t @ (Type::Bool | Type::Any) => t,
                t => return self.invalid(e.at, format!("\"!\" takes a truth value, and this is {}", t.name())),
            },
            ExprNode::Binary(op, l, r) => self.binary(*op, l, r, e.at)?,
        })
    }

    fn binary(&self, op: BinOp, l: &Expr, r: &Expr, at: usize) -> Result<Type> {
        let (lt, rt) = (self.expr(l)?, self.expr(r)?);
        if is_nil(l) || is_nil(r) {
            let tested = if is_nil(r) { l } else { r };
            if op == BinOp::Eq && is_never_nil(tested) {
                return self.invalid(at, "this is never nil");
            }
            return Ok(Type::Bool);
        }
        let alike = lt == rt || lt == Type::Any || rt == Type::Any;
        if !alike {
            return self.invalid(at, format!("{:?} can't be used between {} and {}", op.text(), lt.name(), rt.name()));
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
        if matches!(op, BinOp::Re | BinOp::Nre) {
            let ExprNode::Static(Static::Str(pattern)) = &r.node else {
                return self.invalid(r.at, "the right side of a regex match must be text");
            };
            if let Err(e) = super::value::regex(pattern) {
                return self.invalid(r.at, format!("a regex that does not compile: {e}"));
            }
        }
        Ok(match lt {
            _ if !op.is_arithmetic() => Type::Bool,
            Type::Any => rt,
            t => t,
        })
    }

    fn metrics(&self, m: &MetricsExpr, further: bool) -> Result<()> {
        match m {
            MetricsExpr::Const(_) => Ok(()),
            MetricsExpr::Math(_, l, r) => {
                self.metrics(l, true)?;
                self.metrics(r, true)
            }
            MetricsExpr::TopK { n, of, at, .. } => {
                self.metrics(of, true)?;
                if *n == 0 {
                    return self.invalid(*at, "the number of series must be above 0");
                }
                Ok(())
            }
            MetricsExpr::Filter { of, .. } => self.metrics(of, true),
            MetricsExpr::Query(q) => self.query(q, further),
        }
    }

    fn query(&self, q: &MetricsQuery, further: bool) -> Result<()> {
        self.pipeline(&q.pipeline)?;
        // Buckets and averages take the place of a label.
        let most = match q.op {
            MetricsOp::QuantileOverTime(..) | MetricsOp::HistogramOverTime(_) | MetricsOp::AvgOverTime(_) => MAX_GROUP_KEYS - 1,
            _ => MAX_GROUP_KEYS,
        };
        if q.by.len() > most {
            return self.reserved(q.at, format!("at most {most} labels, and there are {}", q.by.len()));
        }
        match &q.op {
            MetricsOp::Compare(c) => {
                self.filter(c.selection.as_ref())?;
                if c.top == 0 {
                    return self.invalid(q.at, "the number of values must be above 0");
                }
                if (c.start_nano, c.end_nano) != (0, 0) && (c.start_nano == 0 || c.end_nano <= c.start_nano) {
                    return self.invalid(q.at, "the end of the selection must lie after its start");
                }
                if further {
                    return self.invalid(q.at, "compare() can't be part of a further calculation");
                }
                Ok(())
            }
            MetricsOp::QuantileOverTime(_, values) => match values.iter().find(|v| !(0.0..=1.0).contains(*v)) {
                Some(bad) => self.invalid(q.at, format!("a quantile must lie between 0 and 1, and this is {bad}")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
