//! Types, argument counts and modifiers, checked after parsing with Prometheus' words.

use super::ast::*;
use super::error::ParseError;

/// Checks the tree and settles what only the types of the operands can tell.
pub(super) fn check(text: &str, e: &mut Expr) -> Result<(), ParseError> {
    Checker { text }.expr(e).map(|_| ())
}

struct Checker<'a> {
    text: &'a str,
}

impl Checker<'_> {
    fn fail<T>(&self, span: Span, msg: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, span, msg))
    }

    fn expect(&self, e: &mut Expr, want: ValueType, context: &str) -> Result<(), ParseError> {
        let got = self.expr(e)?;
        if got != want {
            return self.fail(e.span, format!("expected type {} in {context}, got {}", want.documented(), got.documented()));
        }
        Ok(())
    }

    fn expr(&self, e: &mut Expr) -> Result<ValueType, ParseError> {
        // Chains of binary operators lean to the left and may be long: walk them without recursion.
        if matches!(e.kind, ExprKind::Binary(_)) {
            return self.binary_chain(e);
        }
        let span = e.span;
        match &mut e.kind {
            ExprKind::Number(_) | ExprKind::String(_) => {}
            ExprKind::Vector(v) => self.vector(v, span)?,
            ExprKind::Matrix(m) => self.vector(&m.selector, m.selector_span)?,
            ExprKind::Subquery(s) => {
                let t = self.expr(&mut s.expr)?;
                if t != ValueType::Vector {
                    return self.fail(span, format!("subquery is only allowed on instant vector, got {} instead", t.as_str()));
                }
            }
            ExprKind::Paren(inner) => return self.expr(inner),
            ExprKind::Unary(_, inner) => {
                let t = self.expr(inner)?;
                if t != ValueType::Scalar && t != ValueType::Vector {
                    let msg =
                        format!("unary expression only allowed on expressions of type scalar or instant vector, got {:?}", t.documented());
                    return self.fail(span, msg);
                }
            }
            ExprKind::Binary(_) => {}
            ExprKind::Call(c) => self.call(c, span)?,
            ExprKind::Aggregate(a) => {
                self.expect(&mut a.expr, ValueType::Vector, "aggregation expression")?;
                if let Some(p) = &mut a.param {
                    let want = if a.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
                    self.expect(p, want, "aggregation parameter")?;
                }
            }
        }
        Ok(e.value_type())
    }

    fn vector(&self, v: &VectorSelector, span: Span) -> Result<(), ParseError> {
        if v.name.is_empty() && v.matchers.iter().all(|m| m.matches_empty()) {
            return self.fail(span, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }

    fn call(&self, c: &mut Call, span: Span) -> Result<(), ParseError> {
        let f = c.func;
        let (nargs, got) = (f.args.len(), c.args.len());
        if f.variadic == 0 {
            if nargs != got {
                return self.fail(span, format!("expected {nargs} argument(s) in call to {:?}, got {got}", f.name));
            }
        } else {
            let least = nargs - 1;
            if got < least {
                return self.fail(span, format!("expected at least {least} argument(s) in call to {:?}, got {got}", f.name));
            }
            let most = least + f.variadic.max(0) as usize;
            if f.variadic > 0 && got > most {
                return self.fail(span, format!("expected at most {most} argument(s) in call to {:?}, got {got}", f.name));
            }
        }
        for (i, a) in c.args.iter_mut().enumerate() {
            if f.name == "info" && i == 1 {
                self.label_selector(a, span)?;
                continue;
            }
            let want = f.args[i.min(nargs - 1)];
            let t = self.expr(a)?;
            if t != want {
                let msg = format!("expected type {} in call to function {:?}, got {}", want.documented(), f.name, t.documented());
                return self.fail(a.span, msg);
            }
        }
        Ok(())
    }

    /// The second argument of `info`: matchers only, and they may all match the empty string.
    fn label_selector(&self, a: &Expr, span: Span) -> Result<(), ParseError> {
        let t = a.value_type();
        if t != ValueType::Vector {
            let msg = format!("expected type instant vector in call to function \"info\", got {}", t.documented());
            return self.fail(span, msg);
        }
        match &a.kind {
            ExprKind::Vector(v) if v.name.is_empty() => Ok(()),
            ExprKind::Vector(_) => self.fail(a.span, "expected label selectors only, got vector selector instead"),
            _ => self.fail(a.span, "expected label selectors only"),
        }
    }

    fn binary_chain(&self, e: &mut Expr) -> Result<ValueType, ParseError> {
        // Depth of the left spine, then check from its bottom upwards.
        let mut depth = 0;
        let mut cur: &Expr = e;
        while let ExprKind::Binary(b) = &cur.kind {
            depth += 1;
            cur = &b.lhs;
        }
        let broken = || ParseError::new(self.text, Span::default(), "operator chain changed while it was checked");
        let mut lhs_type = self.expr(spine(e, depth).ok_or_else(broken)?)?;
        for level in (0..depth).rev() {
            let cur = spine(e, level).ok_or_else(broken)?;
            let span = cur.span;
            if let ExprKind::Binary(b) = &mut cur.kind {
                lhs_type = self.binary(b, lhs_type, span)?;
            }
        }
        Ok(lhs_type)
    }

    fn binary(&self, b: &mut Binary, lt: ValueType, span: Span) -> Result<ValueType, ParseError> {
        let rt = self.expr(&mut b.rhs)?;
        let op_span = self.op_span(b);
        let op = b.op.as_str();
        if b.return_bool && !b.op.is_comparison() {
            return self.fail(op_span, "bool modifier can only be used on comparison operators");
        }
        if b.op.is_comparison() && !b.return_bool && lt == ValueType::Scalar && rt == ValueType::Scalar {
            return self.fail(op_span, "comparisons between scalars must use BOOL modifier");
        }
        if let Some(m) = &mut b.matching {
            if b.op.is_set() && m.card == Cardinality::OneToOne {
                m.card = Cardinality::ManyToMany;
            }
            if m.on
                && let Some(l) = m.labels.iter().find(|l| m.include.contains(l))
            {
                return self.fail(op_span, format!("label {l:?} must not occur in ON and GROUP clause at once"));
            }
        }
        for (t, s) in [(lt, b.lhs.span), (rt, b.rhs.span)] {
            if t != ValueType::Scalar && t != ValueType::Vector {
                return self.fail(s, "binary expression must contain only scalar and instant vector types");
            }
        }
        if lt == ValueType::Vector && rt == ValueType::Vector {
            if let Some(m) = &b.matching
                && b.op.is_set()
            {
                if m.card != Cardinality::ManyToMany {
                    return self.fail(span, format!("no grouping allowed for {op:?} operation"));
                }
                if m.fill_left.is_some() || m.fill_right.is_some() {
                    return self.fail(span, "filling in missing series not allowed for set operators");
                }
            }
            return Ok(ValueType::Vector);
        }
        if let Some(m) = b.matching.take() {
            if !m.labels.is_empty() {
                return self.fail(span, "vector matching only allowed between instant vectors");
            }
            if m.fill_left.is_some() || m.fill_right.is_some() {
                return self.fail(span, "filling in missing series only allowed between instant vectors");
            }
        }
        if b.op.is_set() {
            return self.fail(span, format!("set operator {op:?} not allowed in binary scalar expression"));
        }
        if b.op.is_trim() && lt == ValueType::Scalar && rt == ValueType::Scalar {
            return self.fail(span, format!("operator {op:?} not allowed for Scalar operations"));
        }
        Ok(if lt == ValueType::Scalar && rt == ValueType::Scalar { ValueType::Scalar } else { ValueType::Vector })
    }

    fn op_span(&self, b: &Binary) -> Span {
        let bytes = self.text.as_bytes();
        let (mut s, mut e) = (b.lhs.span.end, b.rhs.span.start.saturating_sub(1));
        while s < bytes.len() && bytes[s].is_ascii_whitespace() {
            s += 1;
        }
        while e > s && bytes[e].is_ascii_whitespace() {
            e -= 1;
        }
        Span::new(s, e)
    }
}

/// The node `n` steps down the left side of a chain of operators.
fn spine(mut e: &mut Expr, n: usize) -> Option<&mut Expr> {
    for _ in 0..n {
        let ExprKind::Binary(b) = &mut e.kind else { return None };
        e = &mut b.lhs;
    }
    Some(e)
}
