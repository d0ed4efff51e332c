//! Selectors and what may follow them.

use strandline_storage::model::{METRIC_NAME, MatchOp, Matcher};

use super::super::ast::*;
use super::super::gofmt::{fixed, quote};
use super::super::lexer::{Tok, unquote};
use super::{IN_BRACES, PResult, Parser, is_number_word, is_valid_label_name};

impl Parser<'_> {
    pub(super) fn vector_selector(&mut self) -> PResult<Expr> {
        let start = self.peek();
        let mut sel = VectorSelector::default();
        let mut end = start;
        if start.tok == Tok::Ident {
            self.bump();
            sel.name = self.word(start).to_owned();
        }
        if self.peek().tok == Tok::LBrace {
            self.bump();
            self.matchers(&mut sel)?;
            end = self.bump();
        }
        if !sel.name.is_empty() {
            if let Some(m) = sel.matchers.iter().find(|m| m.name == METRIC_NAME) {
                let msg = format!("metric name must not be set twice: {} or {}", quote(&sel.name), quote(&m.value));
                return self.fail(start.span.to(end.span), msg);
            }
            sel.matchers.push(Matcher::equal(METRIC_NAME, sel.name.clone()));
        }
        Ok(Expr::new(ExprKind::Vector(sel), start.span.to(end.span)))
    }

    fn matchers(&mut self, sel: &mut VectorSelector) -> PResult<()> {
        loop {
            let t = self.peek();
            let (name, quoted) = match t.tok {
                Tok::RBrace => return Ok(()),
                Tok::Ident => (self.word(t).to_owned(), false),
                Tok::String => (unquote(self.word(t)).or_else(|e| self.fail(t.span, e))?, true),
                _ => return self.unexpected(IN_BRACES, "identifier or \"}\""),
            };
            self.bump();
            let op = match self.peek().tok {
                Tok::Assign => MatchOp::Equal,
                Tok::Ne => MatchOp::NotEqual,
                Tok::Re => MatchOp::Regex,
                Tok::NotRe => MatchOp::NotRegex,
                // {"metric.name"}: a quoted name without an operator is a matcher on the metric's name.
                Tok::Comma | Tok::RBrace if quoted => {
                    if !is_valid_label_name(&name) {
                        return self.fail(t.span, format!("invalid metric name {}", quote(&name)));
                    }
                    sel.matchers.push(Matcher::equal(METRIC_NAME, name));
                    if self.peek().tok == Tok::Comma {
                        self.bump();
                    }
                    continue;
                }
                Tok::String if quoted => return self.unexpected(IN_BRACES, "\",\" or \"}\""),
                _ => return self.unexpected(IN_BRACES, "label matching operator"),
            };
            if !is_valid_label_name(&name) {
                return self.fail(t.span, format!("invalid label name {}", quote(&name)));
            }
            self.bump();
            let v = self.peek();
            if v.tok != Tok::String {
                return self.unexpected(IN_BRACES, "string");
            }
            let value = unquote(self.word(v)).or_else(|e| self.fail(v.span, e))?;
            self.bump();
            match Matcher::new(op, name, value) {
                Ok(m) => sel.matchers.push(m),
                Err(e) => return self.fail(t.span.to(v.span), e.to_string()),
            }
            match self.peek().tok {
                Tok::Comma => {
                    self.bump();
                }
                Tok::RBrace => {}
                _ => return self.unexpected(IN_BRACES, "\",\" or \"}\""),
            }
        }
    }

    pub(super) fn range_or_subquery(&mut self, e: Expr) -> PResult<Expr> {
        let open = self.bump();
        self.duration_place = "subquery or range selector";
        let range_at = self.peek().span;
        let range = self.duration_expr(1)?;
        self.positive(&range, range_at)?;
        match self.peek().tok {
            Tok::RBracket => {
                let close = self.bump();
                let brackets = open.span.to(close.span);
                let span = e.span.to(close.span);
                let selector_span = e.span;
                let ExprKind::Vector(selector) = e.kind else {
                    return self.fail(brackets, "ranges only allowed for vector selectors");
                };
                if selector.offset.as_ref().is_some_and(is_set) {
                    return self.fail(brackets, "no offset modifiers allowed before range");
                }
                if selector.at.is_some() {
                    return self.fail(brackets, "no @ modifiers allowed before range");
                }
                Ok(Expr::new(ExprKind::Matrix(MatrixSelector { selector, selector_span, range }), span))
            }
            Tok::Colon => {
                self.bump();
                let step = if self.peek().tok == Tok::RBracket {
                    None
                } else {
                    let at = self.peek().span;
                    let d = self.duration_expr(1)?;
                    self.positive(&d, at)?;
                    Some(d)
                };
                let close = self.expect(Tok::RBracket, "subquery selector", "\"]\"")?;
                let span = e.span.to(close.span);
                Ok(Expr::new(ExprKind::Subquery(Box::new(Subquery { expr: e, range, step, offset: None, at: None })), span))
            }
            _ => self.unexpected("subquery or range", "\":\" or \"]\""),
        }
    }

    fn positive(&self, d: &DurationExpr, at: Span) -> PResult<()> {
        match d {
            DurationExpr::Literal(n) if n.value <= 0.0 => self.fail(at, "duration must be greater than 0"),
            _ => Ok(()),
        }
    }

    pub(super) fn offset_modifier(&mut self, e: &mut Expr) -> PResult<()> {
        self.bump();
        let d = self.offset_duration()?;
        let end = self.toks[self.pos - 1].span;
        let slot = match &mut e.kind {
            ExprKind::Vector(v) => &mut v.offset,
            ExprKind::Matrix(m) => &mut m.selector.offset,
            ExprKind::Subquery(s) => &mut s.offset,
            _ => {
                let msg = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return self.fail(e.span, msg);
            }
        };
        if slot.as_ref().is_some_and(is_set) {
            return self.fail(e.span, "offset may not be set multiple times");
        }
        *slot = Some(d);
        e.span = e.span.to(end);
        Ok(())
    }

    pub(super) fn at_modifier(&mut self, e: &mut Expr) -> PResult<()> {
        self.bump();
        let t = self.peek();
        let start = self.is_word(t, "start");
        let at = if start || self.is_word(t, "end") {
            self.bump();
            self.expect(Tok::LParen, "@", "timestamp")?;
            self.expect(Tok::RParen, "@", "timestamp")?;
            if start { At::Start } else { At::End }
        } else {
            let number_word = t.tok == Tok::Ident && is_number_word(self.word(t));
            if !number_word && !matches!(t.tok, Tok::Number | Tok::Duration | Tok::Add | Tok::Sub) {
                return self.unexpected("@", "timestamp");
            }
            let v = self.signed_number("@")?;
            if !v.is_finite() || (v * 1000.0).abs() >= i64::MAX as f64 {
                return self.fail(e.span, format!("timestamp out of bounds for @ modifier: {}", fixed(v)));
            }
            At::Time((v * 1000.0).round() as i64)
        };
        let end = self.toks[self.pos - 1].span;
        let slot = match &mut e.kind {
            ExprKind::Vector(v) => &mut v.at,
            ExprKind::Matrix(m) => &mut m.selector.at,
            ExprKind::Subquery(s) => &mut s.at,
            _ => {
                let msg = "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return self.fail(e.span, msg);
            }
        };
        if slot.is_some() {
            return self.fail(e.span, "@ <timestamp> may not be set multiple times");
        }
        *slot = Some(at);
        e.span = e.span.to(end);
        Ok(())
    }

    pub(super) fn extension(&mut self, e: &mut Expr, kind: Extension) -> PResult<()> {
        let word = self.bump();
        let name = if kind == Extension::Anchored { "anchored" } else { "smoothed" };
        let slot = match &mut e.kind {
            ExprKind::Vector(v) => &mut v.extension,
            ExprKind::Matrix(m) => &mut m.selector.extension,
            ExprKind::Subquery(_) => return self.fail(e.span, format!("{name} modifier is not supported for subqueries")),
            _ => return self.fail(e.span, format!("{name} modifier not implemented")),
        };
        match *slot {
            Extension::None => {}
            old if old == kind => return self.fail(e.span, format!("{name} modifier may not be set multiple times")),
            _ => return self.fail(e.span, "anchored and smoothed modifiers cannot be used together"),
        }
        *slot = kind;
        e.span = e.span.to(word.span);
        Ok(())
    }
}

/// An offset of zero is none.
fn is_set(d: &DurationExpr) -> bool {
    !matches!(d, DurationExpr::Literal(n) if n.value == 0.0)
}
