//! The tree as JSON, in the shape of Prometheus' `/api/v1/parse_query`.

use std::fmt::Write;

use strandline_storage::model::Matcher;

use super::ast::*;
use super::gofmt::plain;

/// The tree as JSON text.
pub fn ast_json(e: &Expr) -> String {
    let mut s = String::new();
    expr(e, &mut s);
    s
}

/// A JSON string with its quotes.
pub(crate) fn string(v: &str, out: &mut String) {
    out.push('"');
    for c in v.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn list<T>(items: &[T], out: &mut String, mut f: impl FnMut(&T, &mut String)) {
    out.push('[');
    for (i, x) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        f(x, out);
    }
    out.push(']');
}

fn strings(items: &[String], out: &mut String) {
    list(items, out, |s, o| string(s, o));
}

fn matchers(ms: &[Matcher], out: &mut String) {
    list(ms, out, |m, o| {
        o.push_str("{\"name\":");
        string(&m.name, o);
        o.push_str(",\"type\":");
        string(m.op.as_str(), o);
        o.push_str(",\"value\":");
        string(&m.value, o);
        o.push('}');
    });
}

/// A duration's milliseconds, or 0 where only the query's times could tell.
fn millis(d: Option<&DurationExpr>) -> i64 {
    match d {
        Some(DurationExpr::Literal(n)) => n.millis(),
        _ => 0,
    }
}

fn times(at: &Option<At>, out: &mut String) {
    let (ts, word) = match at {
        Some(At::Time(t)) => (t.to_string(), "null"),
        Some(At::Start) => ("null".into(), "\"start\""),
        Some(At::End) => ("null".into(), "\"end\""),
        None => ("null".into(), "null"),
    };
    let _ = write!(out, ",\"timestamp\":{ts},\"startOrEnd\":{word}");
}

fn selector(kind: &str, v: &VectorSelector, range: Option<&DurationExpr>, out: &mut String) {
    let _ = write!(out, "{{\"type\":\"{kind}\",\"name\":");
    string(&v.name, out);
    if let Some(r) = range {
        let _ = write!(out, ",\"range\":{}", millis(Some(r)));
    }
    let _ = write!(out, ",\"offset\":{},\"matchers\":", millis(v.offset.as_ref()));
    matchers(&v.matchers, out);
    times(&v.at, out);
    let ext = v.extension;
    let _ = write!(out, ",\"anchored\":{},\"smoothed\":{}}}", ext == Extension::Anchored, ext == Extension::Smoothed);
}

fn optional_float(v: Option<f64>, out: &mut String) {
    match v {
        None => out.push_str("null"),
        Some(v) => string(&plain(v), out),
    }
}

fn binary(b: &Binary, out: &mut String) {
    out.push_str("{\"type\":\"binaryExpr\",\"op\":");
    string(b.op.as_str(), out);
    out.push_str(",\"lhs\":");
    expr(&b.lhs, out);
    out.push_str(",\"rhs\":");
    expr(&b.rhs, out);
    out.push_str(",\"matching\":");
    match &b.matching {
        None => out.push_str("null"),
        Some(m) => matching(m, out),
    }
    let _ = write!(out, ",\"bool\":{}}}", b.return_bool);
}

fn matching(m: &Matching, out: &mut String) {
    let card = match m.card {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    let _ = write!(out, "{{\"card\":\"{card}\",\"labels\":");
    strings(&m.labels, out);
    let _ = write!(out, ",\"on\":{},\"include\":", m.on);
    strings(&m.include, out);
    out.push_str(",\"fillValues\":{\"lhs\":");
    optional_float(m.fill_left, out);
    out.push_str(",\"rhs\":");
    optional_float(m.fill_right, out);
    out.push_str("}}");
}

fn expr(e: &Expr, out: &mut String) {
    match &e.kind {
        ExprKind::Number(n) => {
            out.push_str("{\"type\":\"numberLiteral\",\"val\":");
            string(&plain(n.value), out);
            out.push('}');
        }
        ExprKind::String(s) => {
            out.push_str("{\"type\":\"stringLiteral\",\"val\":");
            string(s, out);
            out.push('}');
        }
        ExprKind::Vector(v) => selector("vectorSelector", v, None, out),
        ExprKind::Matrix(m) => selector("matrixSelector", &m.selector, Some(&m.range), out),
        ExprKind::Subquery(s) => {
            out.push_str("{\"type\":\"subquery\",\"expr\":");
            expr(&s.expr, out);
            let (range, offset, step) = (millis(Some(&s.range)), millis(s.offset.as_ref()), millis(s.step.as_ref()));
            let _ = write!(out, ",\"range\":{range},\"offset\":{offset},\"step\":{step}");
            times(&s.at, out);
            out.push('}');
        }
        ExprKind::Paren(inner) => {
            out.push_str("{\"type\":\"parenExpr\",\"expr\":");
            expr(inner, out);
            out.push('}');
        }
        ExprKind::Unary(op, inner) => {
            let op = if *op == UnaryOp::Minus { "-" } else { "+" };
            let _ = write!(out, "{{\"type\":\"unaryExpr\",\"op\":\"{op}\",\"expr\":");
            expr(inner, out);
            out.push('}');
        }
        ExprKind::Binary(b) => binary(b, out),
        ExprKind::Call(c) => {
            out.push_str("{\"type\":\"call\",\"func\":{\"name\":");
            string(c.func.name, out);
            out.push_str(",\"argTypes\":");
            list(c.func.args, out, |t, o| string(t.as_str(), o));
            let _ = write!(out, ",\"variadic\":{},\"returnType\":\"{}\"}},\"args\":", c.func.variadic, c.func.returns.as_str());
            list(&c.args, out, expr);
            out.push('}');
        }
        ExprKind::Aggregate(a) => {
            let _ = write!(out, "{{\"type\":\"aggregation\",\"op\":\"{}\",\"expr\":", a.op.as_str());
            expr(&a.expr, out);
            out.push_str(",\"param\":");
            match &a.param {
                None => out.push_str("null"),
                Some(p) => expr(p, out),
            }
            out.push_str(",\"grouping\":");
            strings(&a.grouping, out);
            let _ = write!(out, ",\"without\":{}}}", a.without);
        }
    }
}
