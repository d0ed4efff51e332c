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

/// A duration as Tempo shows it: `1h2m3.5s`, and what is shorter than a second in one unit, `1.5ms`.
pub fn duration_text(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let n = ns.unsigned_abs();
    let decimal = |per: u64, unit: &str| {
        let digits = per.ilog10() as usize;
        let part = format!("{:0digits$}", n % per);
        let part = part.trim_end_matches('0');
        let dot = if part.is_empty() { "" } else { "." };
        format!("{}{dot}{part}{unit}", n / per)
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let fraction = format!("{:09}", rest % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            let seconds = format!("{}{dot}{fraction}s", rest / 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
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
        let Attr::Attribute { parent, scope, key } = self else { return f.write_str(self.short_name()) };
        if *parent {
            f.write_str("parent")?;
            if *scope != Scope::Any {
                f.write_str(".")?;
            }
        }
        f.write_str(scope.name())?;
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

#[cfg(test)]
mod tests {
    use super::duration_text;

    #[test]
    fn durations_in_words() {
        let (ms, s) = (1_000_000, 1_000_000_000);
        assert_eq!([0, 1, 999, 1_500, 999_999].map(duration_text), ["0s", "1ns", "999ns", "1.5µs", "999.999µs"]);
        assert_eq!([100 * ms, 1_500_000, s, 1_500 * ms, -250 * ms].map(duration_text), ["100ms", "1.5ms", "1s", "1.5s", "-250ms"]);
        assert_eq!([60 * s, 90 * s, 7_200 * s, 3_723 * s + 40 * ms].map(duration_text), ["1m0s", "1m30s", "2h0m0s", "1h2m3.04s"]);
        assert_eq!(duration_text(i64::MIN), "-2562047h47m16.854775808s");
    }
}
