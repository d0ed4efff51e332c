//! Trees printed as TraceQL.

use std::fmt;

use super::*;

impl fmt::Display for Static {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Static::Nil => f.write_str("nil"),
            Static::Str(s) => write!(f, "`{s}`"),
            Static::Int(i) => write!(f, "{i}"),
            Static::Float(d) => write!(f, "{d:?}"),
            Static::Bool(b) => write!(f, "{b}"),
            Static::Duration(ns) => f.write_str(&duration_text(*ns)),
            Static::Status(s) => f.write_str(status_name(*s)),
            Static::Kind(k) => f.write_str(kind_name(*k)),
        }
    }
}

/// A duration in the largest unit that divides it.
pub fn duration_text(ns: i64) -> String {
    let units = [(3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    match units.iter().find(|u| ns != 0 && ns % u.0 == 0) {
        Some(u) => format!("{}{}", ns / u.0, u.1),
        None => format!("{ns}ns"),
    }
}

/// Name of a status.
pub fn status_name(status: i64) -> &'static str {
    match status {
        1 => "ok",
        2 => "error",
        _ => "unset",
    }
}

/// Name of a kind.
pub fn kind_name(kind: i64) -> &'static str {
    match kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attr::Attribute(parent, scope, key) = self else { return f.write_str(self.short_name()) };
        if *parent {
            f.write_str("parent")?;
            if *scope != Scope::Any {
                f.write_str(".")?;
            }
        }
        f.write_str(match scope {
            Scope::Any => "",
            Scope::Span => "span",
            Scope::Resource => "resource",
            Scope::Event => "event",
            Scope::Link => "link",
            Scope::Instrumentation => "instrumentation",
        })?;
        if key.contains(|c: char| c.is_whitespace() || "{}()=~!<>&|^,\"".contains(c)) {
            return write!(f, ".\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        }
        write!(f, ".{key}")
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            ExprNode::Static(s) => s.fmt(f),
            ExprNode::Attr(a) => a.fmt(f),
            ExprNode::Neg(e) => write!(f, "-{}", Inner(e)),
            ExprNode::Not(e) => write!(f, "!{}", Inner(e)),
            ExprNode::Binary(op, l, r) => write!(f, "{} {} {}", Inner(l), op.text(), Inner(r)),
        }
    }
}

/// Parenthesised if it is an operation.
struct Inner<'a>(&'a Expr);

impl fmt::Display for Inner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.node {
            ExprNode::Binary(..) => write!(f, "({})", self.0),
            _ => self.0.fmt(f),
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Some(e) => write!(f, "{}({e})", self.op.name()),
            None => write!(f, "{}()", self.op.name()),
        }
    }
}

impl fmt::Display for SetExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetExpr::Filter(None) => f.write_str("{ }"),
            SetExpr::Filter(Some(e)) => write!(f, "{{ {e} }}"),
            SetExpr::Op(op, l, r) => write!(f, "({l}) {} ({r})", op.text()),
            SetExpr::Wrapped(p) => write!(f, "({p})"),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Aggregate(a, _) => a.fmt(f),
            Scalar::Static(s) => s.fmt(f),
            Scalar::Binary(op, l, r) => write!(f, "({l} {} {r})", op.text()),
            Scalar::Pipeline(p, s) => write!(f, "({p} | {s})"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Set(s) => s.fmt(f),
            Stage::Group(e) => write!(f, "by({e})"),
            Stage::Coalesce => f.write_str("coalesce()"),
            Stage::Select(a) => write!(f, "select({})", a.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            Stage::Scalar(op, l, r, _) => write!(f, "{l} {} {r}", op.text()),
        }
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, s) in self.stages.iter().enumerate() {
            write!(f, "{}{s}", if i > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}
