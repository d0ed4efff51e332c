//! Durations in brackets and after `offset`: literals, or arithmetic on them.

use super::super::ast::*;
use super::super::lexer::Tok;
use super::{PResult, Parser};

impl Parser<'_> {
    /// A duration expression in brackets, with operators of precedence `min` and above.
    pub(super) fn duration_expr(&mut self, min: u8) -> PResult<DurationExpr> {
        self.depth += 1;
        if self.depth > super::MAX_NESTING {
            return self.fail(self.peek().span, "duration expression is nested too deeply");
        }
        let mut lhs = self.duration_unary()?;
        loop {
            let t = self.peek();
            let (op, prec) = match t.tok {
                Tok::Add => (ArithOp::Add, 1),
                Tok::Sub => (ArithOp::Sub, 1),
                Tok::Mul => (ArithOp::Mul, 2),
                Tok::Div => (ArithOp::Div, 2),
                Tok::Mod => (ArithOp::Mod, 2),
                Tok::Pow => (ArithOp::Pow, 3),
                _ => break,
            };
            if prec < min {
                break;
            }
            self.bump();
            let rhs = self.duration_expr(if op == ArithOp::Pow { prec } else { prec + 1 })?;
            if let DurationExpr::Literal(n) = &rhs
                && n.value == 0.0
                && matches!(op, ArithOp::Div | ArithOp::Mod)
            {
                return self.fail(t.span, if op == ArithOp::Div { "division by zero" } else { "modulo by zero" });
            }
            lhs = DurationExpr::Arith(op, Box::new(lhs), Box::new(rhs));
        }
        self.depth -= 1;
        Ok(lhs)
    }

    fn duration_unary(&mut self) -> PResult<DurationExpr> {
        let t = self.peek();
        match t.tok {
            Tok::Add => {
                self.bump();
                self.duration_expr(3)
            }
            Tok::Sub => {
                self.bump();
                Ok(negate(self.duration_expr(3)?))
            }
            _ => self.duration_primary(),
        }
    }

    fn unexpected_in_duration<T>(&self) -> PResult<T> {
        self.unexpected(self.duration_place, "number, duration, step(), or range()")
    }

    fn duration_primary(&mut self) -> PResult<DurationExpr> {
        let t = self.peek();
        match t.tok {
            Tok::Number | Tok::Duration => {
                let n = self.number("duration")?;
                if n.value.is_nan() || n.value.abs() > i64::MAX as f64 / 1e9 {
                    return self.fail(t.span, "duration out of range");
                }
                Ok(DurationExpr::Literal(n))
            }
            Tok::LParen => {
                self.bump();
                let inner = self.duration_expr(1)?;
                self.expect(Tok::RParen, "duration expression", "\")\"")?;
                Ok(DurationExpr::Paren(Box::new(inner)))
            }
            Tok::Ident if self.peek_at(1).tok == Tok::LParen => {
                let word = self.word(t).to_ascii_lowercase();
                match word.as_str() {
                    "step" | "range" => {
                        self.bump();
                        self.bump();
                        self.expect(Tok::RParen, "duration expression", "\")\"")?;
                        Ok(if word == "step" { DurationExpr::Step } else { DurationExpr::Range })
                    }
                    "min_of" | "max_of" | "min" | "max" => {
                        self.bump();
                        self.bump();
                        let a = self.duration_expr(1)?;
                        self.expect(Tok::Comma, "duration expression", "\",\"")?;
                        let b = self.duration_expr(1)?;
                        self.expect(Tok::RParen, "duration expression", "\")\"")?;
                        Ok(DurationExpr::MinMax(word.starts_with("max"), Box::new(a), Box::new(b)))
                    }
                    _ => self.unexpected_in_duration(),
                }
            }
            _ => self.unexpected_in_duration(),
        }
    }

    /// What follows `offset`: one signed operand, so that `m offset 5 + 2` adds 2 to the sample.
    pub(super) fn offset_duration(&mut self) -> PResult<DurationExpr> {
        self.duration_place = "offset";
        let neg = self.sign();
        let d = self.duration_primary()?;
        Ok(if neg { negate(d) } else { d })
    }
}

fn negate(d: DurationExpr) -> DurationExpr {
    match d {
        DurationExpr::Literal(n) => DurationExpr::Literal(NumberLiteral { value: -n.value, duration: n.duration }),
        d => DurationExpr::Neg(Box::new(d)),
    }
}
