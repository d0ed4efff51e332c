//! The tree as text that parses to the same tree, on one line or laid out.

use std::fmt;

use strandline_storage::model::{METRIC_NAME, MatchOp, Matcher};

use super::ast::*;
use super::gofmt::{duration, general, plain, quote};

/// Lines longer than this are split by [`pretty`].
const MAX_LINE: usize = 100;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(n) => f.write_str(&number(n)),
            ExprKind::String(s) => f.write_str(&quote(s)),
            ExprKind::Vector(v) => write!(f, "{v}"),
            ExprKind::Matrix(m) => write!(f, "{m}"),
            ExprKind::Subquery(s) => write!(f, "{}{}", s.expr, subquery_suffix(s)),
            ExprKind::Paren(e) => write!(f, "({e})"),
            ExprKind::Unary(op, e) => write!(f, "{}{e}", unary(*op)),
            ExprKind::Binary(b) => {
                // The left spine of a long chain is printed without recursion.
                let mut chain = vec![b];
                let mut first = &b.lhs;
                while let ExprKind::Binary(l) = &first.kind {
                    chain.push(l);
                    first = &l.lhs;
                }
                match chain.last().and_then(|b| bare_infinity(b)) {
                    Some(bare) => f.write_str(bare)?,
                    None => write!(f, "{first}")?,
                }
                for b in chain.iter().rev() {
                    write!(f, " {} {}", operator(b), b.rhs)?;
                }
                Ok(())
            }
            ExprKind::Call(c) => {
                write!(f, "{}(", c.func.name)?;
                for (i, a) in c.args.iter().enumerate() {
                    write!(f, "{}{a}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            ExprKind::Aggregate(a) => {
                write!(f, "{}(", aggregate_head(a))?;
                if let Some(p) = &a.param {
                    write!(f, "{p}, ")?;
                }
                write!(f, "{})", a.expr)
            }
        }
    }
}

/// Infinity to a power. Prometheus writes infinity with its sign, which before a power would be the sign of the whole.
fn bare_infinity(b: &Binary) -> Option<&'static str> {
    let infinite = matches!(b.lhs.kind, ExprKind::Number(NumberLiteral { value: f64::INFINITY, .. }));
    (infinite && b.op == BinaryOp::Pow).then_some("Inf")
}

fn unary(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Plus => "+",
        UnaryOp::Minus => "-",
    }
}

fn number(n: &NumberLiteral) -> String {
    let ms = n.value * 1000.0;
    if n.duration && ms.fract() == 0.0 && ms.abs() < i64::MAX as f64 { duration(ms as i64) } else { plain(n.value) }
}

fn is_legacy_label(s: &str) -> bool {
    let b = s.as_bytes();
    b.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_') && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_')
}

fn is_legacy_metric(s: &str) -> bool {
    let b = s.as_bytes();
    b.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_' || *c == b':')
        && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_' || *c == b':')
}

/// Whether a word can't stand as a metric's name by itself.
fn is_reserved(s: &str) -> bool {
    matches!(s.to_ascii_lowercase().as_str(), "on" | "ignoring" | "group_left" | "group_right" | "bool" | "atan2" | "inf" | "nan")
}

fn label(s: &str) -> String {
    if is_legacy_label(s) { s.to_owned() } else { quote(s) }
}

fn labels(ls: &[String]) -> String {
    ls.iter().map(|l| label(l)).collect::<Vec<_>>().join(", ")
}

pub(crate) fn matcher(m: &Matcher) -> String {
    format!("{}{}{}", label(&m.name), m.op.as_str(), quote(&m.value))
}

fn at(a: &Option<At>) -> String {
    match a {
        None => String::new(),
        Some(At::Time(ms)) => format!(" @ {:.3}", *ms as f64 / 1000.0),
        Some(At::Start) => " @ start()".into(),
        Some(At::End) => " @ end()".into(),
    }
}

fn offset(o: &Option<DurationExpr>) -> String {
    match o {
        None => String::new(),
        // An offset of a plain number is seconds; written back as the duration it is.
        Some(DurationExpr::Literal(n)) => {
            let ms = n.millis();
            if ms == 0 { String::new() } else { format!(" offset {}", duration(ms)) }
        }
        Some(d) => format!(" offset {d}"),
    }
}

fn extension(e: Extension) -> &'static str {
    match e {
        Extension::None => "",
        Extension::Anchored => " anchored",
        Extension::Smoothed => " smoothed",
    }
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DurationExpr::Literal(n) => f.write_str(&number(n)),
            DurationExpr::Step => f.write_str("step()"),
            DurationExpr::Range => f.write_str("range()"),
            DurationExpr::MinMax(max, a, b) => write!(f, "{}({a}, {b})", if *max { "max_of" } else { "min_of" }),
            DurationExpr::Neg(d) => write!(f, "-{d}"),
            DurationExpr::Arith(op, a, b) => write!(f, "{a} {} {b}", op.as_str()),
            DurationExpr::Paren(d) => write!(f, "({d})"),
        }
    }
}

/// A range or step: plain numbers are shown as durations.
fn range(d: &DurationExpr) -> String {
    match d {
        DurationExpr::Literal(n) => duration(n.millis()),
        d => d.to_string(),
    }
}

impl VectorSelector {
    fn head(&self) -> String {
        let bare = is_legacy_metric(&self.name) && !is_reserved(&self.name);
        let mut parts: Vec<String> = self
            .matchers
            .iter()
            .filter(|m| !(m.name == METRIC_NAME && m.op == MatchOp::Equal && m.value == self.name && !m.value.is_empty()))
            .map(matcher)
            .collect();
        parts.sort();
        let mut s = String::new();
        if bare {
            s.push_str(&self.name);
        } else if !self.name.is_empty() {
            parts.insert(0, quote(&self.name));
        }
        if !parts.is_empty() || s.is_empty() {
            s.push('{');
            s.push_str(&parts.join(","));
            s.push('}');
        }
        s
    }
}

impl fmt::Display for VectorSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}{}", self.head(), at(&self.at), extension(self.extension), offset(&self.offset))
    }
}

impl fmt::Display for MatrixSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = &self.selector;
        write!(f, "{}[{}]{}{}{}", v.head(), range(&self.range), extension(v.extension), at(&v.at), offset(&v.offset))
    }
}

fn subquery_suffix(s: &Subquery) -> String {
    let step = s.step.as_ref().map(range).unwrap_or_default();
    format!("[{}:{step}]{}{}", range(&s.range), at(&s.at), offset(&s.offset))
}

/// Operator, `bool` and matching.
fn operator(b: &Binary) -> String {
    let mut s = b.op.as_str().to_owned();
    if b.return_bool {
        s.push_str(" bool");
    }
    let Some(m) = &b.matching else { return s };
    let grouped = matches!(m.card, Cardinality::ManyToOne | Cardinality::OneToMany);
    if !m.labels.is_empty() || m.on || grouped {
        s.push_str(&format!(" {} ({})", if m.on { "on" } else { "ignoring" }, labels(&m.labels)));
    }
    if grouped {
        let side = if m.card == Cardinality::ManyToOne { "left" } else { "right" };
        s.push_str(&format!(" group_{side} ({})", labels(&m.include)));
    }
    match (m.fill_left, m.fill_right) {
        (Some(l), Some(r)) if l.to_bits() == r.to_bits() => s.push_str(&format!(" fill ({})", general(l))),
        (l, r) => {
            if let Some(l) = l {
                s.push_str(&format!(" fill_left ({})", general(l)));
            }
            if let Some(r) = r {
                s.push_str(&format!(" fill_right ({})", general(r)));
            }
        }
    }
    s
}

fn aggregate_head(a: &Aggregate) -> String {
    let op = a.op.as_str();
    match (a.without, a.grouping.is_empty()) {
        (true, _) => format!("{op} without ({}) ", labels(&a.grouping)),
        (false, false) => format!("{op} by ({}) ", labels(&a.grouping)),
        (false, true) => op.to_owned(),
    }
}

/// The expression laid out over lines, as `/api/v1/format_query` answers.
pub fn pretty(e: &Expr) -> String {
    lay_out(e, 0)
}

fn indent(level: usize) -> String {
    "  ".repeat(level)
}

fn lay_out(e: &Expr, level: usize) -> String {
    let flat = e.to_string();
    let pad = indent(level);
    let splits = matches!(
        e.kind,
        ExprKind::Aggregate(_) | ExprKind::Binary(_) | ExprKind::Call(_) | ExprKind::Paren(_) | ExprKind::Subquery(_) | ExprKind::Unary(..)
    );
    if flat.len() <= MAX_LINE || !splits {
        return pad + &flat;
    }
    match &e.kind {
        ExprKind::Aggregate(a) => {
            let param = a.param.as_ref().map(|p| lay_out(p, level + 1) + ",\n").unwrap_or_default();
            format!("{pad}{}(\n{param}{}\n{pad})", aggregate_head(a), lay_out(&a.expr, level + 1))
        }
        ExprKind::Binary(b) => {
            let lhs = bare_infinity(b).map_or_else(|| lay_out(&b.lhs, level + 1), |bare| indent(level + 1) + bare);
            format!("{lhs}\n{pad}{}\n{}", operator(b), lay_out(&b.rhs, level + 1))
        }
        ExprKind::Call(c) => {
            let args: Vec<String> = c.args.iter().map(|a| lay_out(a, level + 1)).collect();
            format!("{pad}{}(\n{}\n{pad})", c.func.name, args.join(",\n"))
        }
        ExprKind::Paren(inner) => format!("{pad}(\n{}\n{pad})", lay_out(inner, level + 1)),
        ExprKind::Subquery(s) => lay_out(&s.expr, level) + &subquery_suffix(s),
        ExprKind::Unary(op, inner) => format!("{pad}{}{}", unary(*op), lay_out(inner, level).trim()),
        _ => pad + &flat,
    }
}
