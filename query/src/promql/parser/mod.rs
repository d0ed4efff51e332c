//! Tokens to a checked syntax tree: a Pratt parser.

mod durations;
mod selector;
#[cfg(test)]
mod tests;

use strandline_storage::model::Matcher;

use super::ast::*;
use super::check;
use super::error::ParseError;
use super::functions::function;
use super::gofmt::quote;
use super::lexer::{Tok, Token, lex, parse_duration_ms, parse_number, unquote};

/// Longer texts are refused.
pub const MAX_QUERY_BYTES: usize = 1 << 20;
/// Nesting of parentheses, calls and unary operators.
const MAX_NESTING: usize = 100;
/// Height of the tree; a chain of binary operators is as high as it is long.
pub(crate) const MAX_HEIGHT: usize = 2000;

/// Parses and checks an expression.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    let mut p = Parser::new(text)?;
    if p.peek().tok == Tok::Eof && p.uncut.is_none() {
        return Err(ParseError::new(text, Span::new(0, 0), "no expression found in input"));
    }
    let mut e = p.expr(0)?;
    p.end()?;
    let height = e.height();
    if height > MAX_HEIGHT {
        return Err(ParseError::new(text, e.span, format!("expression is nested {height} levels deep, {MAX_HEIGHT} are allowed")));
    }
    check::check(text, &mut e)?;
    Ok(e)
}

/// Parses a metric selector such as `name{a="b"}` that leaves something out: `{}` is refused.
pub fn parse_selector(text: &str) -> Result<VectorSelector, ParseError> {
    let mut e = selector(text)?;
    check::check(text, &mut e)?;
    match e.kind {
        ExprKind::Vector(v) => Ok(v),
        _ => Err(ParseError::new(text, e.span, "expected a selector")),
    }
}

/// The matchers of a metric selector as `match[]` takes it; what they must leave out is for the caller to say.
pub fn parse_matchers(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let e = selector(text)?;
    match e.kind {
        ExprKind::Vector(v) => Ok(v.matchers),
        _ => Err(ParseError::new(text, e.span, "expected a selector")),
    }
}

fn selector(text: &str) -> PResult<Expr> {
    let mut p = Parser::new(text)?;
    let t = p.peek();
    let e = match t.tok {
        Tok::Ident | Tok::LBrace => p.vector_selector()?,
        _ => return p.unexpected("", ""),
    };
    p.end()?;
    Ok(e)
}

pub(super) struct Parser<'a> {
    text: &'a str,
    toks: Vec<Token>,
    /// Why the tokens end before the text does.
    uncut: Option<ParseError>,
    pos: usize,
    depth: usize,
    /// Aggregations around what is being parsed.
    aggregations: usize,
    /// Where a duration stands, for errors.
    duration_place: &'static str,
}

/// Places that errors name.
const IN_BRACES: &str = "label matching";
const GROUPING: &str = "grouping opts";

type PResult<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> PResult<Self> {
        if text.len() > MAX_QUERY_BYTES {
            let msg = format!("query is {} bytes long, {MAX_QUERY_BYTES} are allowed", text.len());
            return Err(ParseError::new(text, Span::new(0, 0), msg));
        }
        let (toks, uncut) = lex(text);
        Ok(Parser { text, toks, uncut, pos: 0, depth: 0, aggregations: 0, duration_place: "" })
    }

    /// Nothing may follow.
    fn end(&self) -> PResult<()> {
        if self.peek().tok == Tok::Eof && self.uncut.is_none() { Ok(()) } else { self.unexpected("", "") }
    }

    fn peek(&self) -> Token {
        self.toks[self.pos]
    }
    fn peek_at(&self, n: usize) -> Token {
        self.toks[(self.pos + n).min(self.toks.len() - 1)]
    }
    fn bump(&mut self) -> Token {
        let t = self.toks[self.pos];
        if self.pos + 1 < self.toks.len() {
            self.pos += 1;
        }
        t
    }
    fn word(&self, t: Token) -> &'a str {
        &self.text[t.span.start..t.span.end]
    }
    /// Whether the token is this keyword; keywords ignore case.
    fn is_word(&self, t: Token, w: &str) -> bool {
        t.tok == Tok::Ident && self.word(t).eq_ignore_ascii_case(w)
    }
    fn fail<T>(&self, span: Span, msg: impl Into<String>) -> PResult<T> {
        Err(ParseError::new(self.text, span, msg))
    }

    fn unexpected<T>(&self, context: &str, expected: &str) -> PResult<T> {
        let t = self.peek();
        if t.tok == Tok::Eof
            && let Some(e) = &self.uncut
        {
            return Err(e.clone());
        }
        self.balanced(t)?;
        let context = if context.is_empty() && self.aggregations > 0 { "aggregation" } else { context };
        let mut msg = String::from("unexpected ");
        match t.tok {
            Tok::Eof => msg.push_str("end of input"),
            // Within braces words are words.
            Tok::Ident if context != IN_BRACES && is_keyword(self.word(t)) => msg.push_str(&keyword_text(self.word(t))),
            Tok::Ident if context != IN_BRACES && is_number_word(self.word(t)) => msg.push_str(&format!("number {:?}", self.word(t))),
            Tok::Ident => msg.push_str(&format!("identifier {:?}", self.word(t))),
            Tok::Number => msg.push_str(&format!("number {:?}", self.word(t))),
            Tok::Duration => msg.push_str(&format!("duration {:?}", self.word(t))),
            Tok::String => msg.push_str(&format!("string {:?}", self.word(t))),
            Tok::LParen
            | Tok::RParen
            | Tok::LBrace
            | Tok::RBrace
            | Tok::LBracket
            | Tok::RBracket
            | Tok::Comma
            | Tok::Colon
            | Tok::Assign => {
                msg.push_str(&format!("{:?}", self.word(t)));
            }
            _ => msg.push_str(&format!("<op:{}>", self.word(t))),
        }
        if !context.is_empty() {
            msg.push_str(" in ");
            msg.push_str(context);
        }
        if !expected.is_empty() {
            msg.push_str(", expected ");
            msg.push_str(expected);
        }
        self.fail(t.span, msg)
    }

    /// Says so where a parenthesis or bracket has no partner, which tells more than that `t` was not expected.
    fn balanced(&self, t: Token) -> PResult<()> {
        let depth = |open, close| {
            let before = &self.toks[..self.pos];
            let count = |tok| before.iter().filter(|t| t.tok == tok).count();
            count(open) as i64 - count(close) as i64
        };
        let (parens, brackets) = (depth(Tok::LParen, Tok::RParen), depth(Tok::LBracket, Tok::RBracket));
        match t.tok {
            Tok::Eof if parens > 0 => self.fail(t.span, "unclosed left parenthesis"),
            Tok::Eof if brackets > 0 => self.fail(t.span, "unclosed left bracket"),
            Tok::RParen if parens == 0 => self.fail(Span::new(t.span.end, t.span.end), "unexpected right parenthesis ')'"),
            _ => Ok(()),
        }
    }

    fn expect(&mut self, tok: Tok, context: &str, expected: &str) -> PResult<Token> {
        if self.peek().tok != tok {
            return self.unexpected(context, expected);
        }
        Ok(self.bump())
    }

    fn too_deep<T>(&self) -> PResult<T> {
        self.fail(self.peek().span, format!("expression is nested too deeply, {MAX_NESTING} levels are allowed"))
    }

    /// An expression whose binary operators all bind at least as tightly as `min`.
    fn expr(&mut self, min: u8) -> PResult<Expr> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return self.too_deep();
        }
        let mut lhs = self.unary()?;
        let mut operators = 0;
        while let Some(op) = self.binary_op() {
            let prec = op.precedence();
            if prec < min {
                break;
            }
            self.bump();
            operators += 1;
            if operators > MAX_HEIGHT {
                // Dropping a higher tree could already overflow the stack.
                return self.fail(self.peek().span, format!("more than {MAX_HEIGHT} operators in a row"));
            }
            let (return_bool, matching) = self.binary_modifiers()?;
            // Only ^ groups to the right.
            let rhs = self.expr(if op == BinaryOp::Pow { prec } else { prec + 1 })?;
            let span = lhs.span.to(rhs.span);
            lhs = Expr::new(ExprKind::Binary(Box::new(Binary { op, lhs, rhs, return_bool, matching: Some(matching) })), span);
        }
        self.depth -= 1;
        Ok(lhs)
    }

    fn binary_op(&self) -> Option<BinaryOp> {
        let t = self.peek();
        Some(match t.tok {
            Tok::Add => BinaryOp::Add,
            Tok::Sub => BinaryOp::Sub,
            Tok::Mul => BinaryOp::Mul,
            Tok::Div => BinaryOp::Div,
            Tok::Mod => BinaryOp::Mod,
            Tok::Pow => BinaryOp::Pow,
            Tok::EqEq => BinaryOp::Eq,
            Tok::Ne => BinaryOp::Ne,
            Tok::Gt => BinaryOp::Gt,
            Tok::Lt => BinaryOp::Lt,
            Tok::Ge => BinaryOp::Ge,
            Tok::Le => BinaryOp::Le,
            Tok::TrimUpper => BinaryOp::TrimUpper,
            Tok::TrimLower => BinaryOp::TrimLower,
            Tok::Ident => match self.word(t).to_ascii_lowercase().as_str() {
                "and" => BinaryOp::And,
                "or" => BinaryOp::Or,
                "unless" => BinaryOp::Unless,
                "atan2" => BinaryOp::Atan2,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn binary_modifiers(&mut self) -> PResult<(bool, Matching)> {
        let mut m = Matching::default();
        let return_bool = self.is_word(self.peek(), "bool");
        if return_bool {
            self.bump();
        }
        let on = self.is_word(self.peek(), "on");
        if on || self.is_word(self.peek(), "ignoring") {
            self.bump();
            m.on = on;
            m.labels = self.grouping()?;
            let left = self.is_word(self.peek(), "group_left");
            if left || self.is_word(self.peek(), "group_right") {
                self.bump();
                m.card = if left { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                let next = self.peek();
                if next.tok == Tok::LParen {
                    m.include = self.grouping()?;
                } else if !self.begins_expr(next) {
                    return self.unexpected(GROUPING, "\"(\"");
                }
            }
        }
        // `fill` is a modifier only where a parenthesis follows; otherwise it is a metric's name.
        while self.peek().tok == Tok::Ident && self.peek_at(1).tok == Tok::LParen {
            let (l, r) = match self.word(self.peek()).to_ascii_lowercase().as_str() {
                "fill" => (true, true),
                "fill_left" => (true, false),
                "fill_right" => (false, true),
                _ => break,
            };
            self.bump();
            self.bump();
            let v = self.signed_number("fill modifier")?;
            self.expect(Tok::RParen, "fill modifier", "\")\"")?;
            if l {
                m.fill_left = Some(v);
            }
            if r {
                m.fill_right = Some(v);
            }
        }
        Ok((return_bool, m))
    }

    fn begins_expr(&self, t: Token) -> bool {
        match t.tok {
            Tok::Ident => !is_unfit_for_metric(&self.word(t).to_ascii_lowercase()),
            Tok::Number | Tok::Duration | Tok::String | Tok::LBrace | Tok::Add | Tok::Sub => true,
            _ => false,
        }
    }

    /// Takes a sign, if there is one; whether it is a minus.
    fn sign(&mut self) -> bool {
        let negative = self.peek().tok == Tok::Sub;
        if negative || self.peek().tok == Tok::Add {
            self.bump();
        }
        negative
    }

    fn signed_number(&mut self, context: &str) -> PResult<f64> {
        let neg = self.sign();
        let v = self.number(context)?.value;
        Ok(if neg { -v } else { v })
    }

    fn number(&mut self, context: &str) -> PResult<NumberLiteral> {
        let t = self.peek();
        let lit = match t.tok {
            Tok::Number => match parse_number(self.word(t)) {
                Some(value) => NumberLiteral { value, duration: false },
                None => {
                    let what = if self.word(t).bytes().any(|b| b.is_ascii_alphabetic() && !b.eq_ignore_ascii_case(&b'e')) {
                        "invalid syntax"
                    } else {
                        "value out of range"
                    };
                    return self.fail(t.span, format!("error parsing number: strconv.ParseFloat: parsing {:?}: {what}", self.word(t)));
                }
            },
            Tok::Duration => match parse_duration_ms(self.word(t)) {
                Ok(ms) => NumberLiteral { value: ms as f64 / 1000.0, duration: true },
                Err(e) => return self.fail(t.span, e),
            },
            Tok::Ident if is_number_word(self.word(t)) => {
                NumberLiteral { value: parse_number(self.word(t)).unwrap_or(f64::NAN), duration: false }
            }
            _ => return self.unexpected(context, "number or duration"),
        };
        self.bump();
        Ok(lit)
    }

    fn unary(&mut self) -> PResult<Expr> {
        let t = self.peek();
        let op = match t.tok {
            Tok::Add => UnaryOp::Plus,
            Tok::Sub => UnaryOp::Minus,
            _ => return self.postfix(),
        };
        self.bump();
        // A signed number is no nesting: infinity is printed with its sign.
        if self.is_plain_number() {
            let n = self.number("")?;
            let value = if op == UnaryOp::Minus { -n.value } else { n.value };
            return Ok(Expr::new(ExprKind::Number(NumberLiteral { value, duration: n.duration }), t.span.to(self.toks[self.pos - 1].span)));
        }
        // The operand takes only what binds tighter than * does, so that -2^2 is -(2^2).
        let e = self.expr(BinaryOp::Pow.precedence())?;
        let span = t.span.to(e.span);
        if let ExprKind::Number(n) = e.kind {
            let value = if op == UnaryOp::Minus { -n.value } else { n.value };
            return Ok(Expr::new(ExprKind::Number(NumberLiteral { value, duration: n.duration }), span));
        }
        Ok(Expr::new(ExprKind::Unary(op, Box::new(e)), span))
    }

    /// Whether a number comes, and nothing that could bind to it.
    fn is_plain_number(&self) -> bool {
        let t = self.peek();
        let number = matches!(t.tok, Tok::Number | Tok::Duration) || t.tok == Tok::Ident && is_number_word(self.word(t));
        number && !matches!(self.peek_at(1).tok, Tok::Pow | Tok::LBracket | Tok::At | Tok::Ident)
    }

    fn postfix(&mut self) -> PResult<Expr> {
        let mut e = self.primary()?;
        let mut brackets = 0;
        loop {
            let t = self.peek();
            match t.tok {
                Tok::LBracket if brackets == MAX_NESTING => return self.too_deep(),
                Tok::LBracket => {
                    brackets += 1;
                    e = self.range_or_subquery(e)?;
                }
                Tok::At => self.at_modifier(&mut e)?,
                Tok::Ident if self.is_word(t, "offset") => self.offset_modifier(&mut e)?,
                Tok::Ident if self.is_word(t, "anchored") => self.extension(&mut e, Extension::Anchored)?,
                Tok::Ident if self.is_word(t, "smoothed") => self.extension(&mut e, Extension::Smoothed)?,
                _ => return Ok(e),
            }
        }
    }

    fn primary(&mut self) -> PResult<Expr> {
        let t = self.peek();
        match t.tok {
            Tok::Number | Tok::Duration => Ok(Expr::new(ExprKind::Number(self.number("")?), t.span)),
            Tok::String => {
                self.bump();
                match unquote(self.word(t)) {
                    Ok(s) => Ok(Expr::new(ExprKind::String(s), t.span)),
                    Err(e) => self.fail(t.span, e),
                }
            }
            Tok::LParen => {
                self.bump();
                let inner = self.expr(0)?;
                let close = self.expect(Tok::RParen, "", "\")\"")?;
                Ok(Expr::new(ExprKind::Paren(Box::new(inner)), t.span.to(close.span)))
            }
            Tok::LBrace => self.vector_selector(),
            Tok::Ident => self.word_expr(t),
            _ => self.unexpected("", ""),
        }
    }

    fn word_expr(&mut self, t: Token) -> PResult<Expr> {
        let w = self.word(t);
        if is_number_word(w) {
            return Ok(Expr::new(ExprKind::Number(self.number("")?), t.span));
        }
        let next = self.peek_at(1);
        let lower = w.to_ascii_lowercase();
        if let Some(op) = AggregateOp::by_name(&lower)
            && (next.tok == Tok::LParen || self.is_word(next, "by") || self.is_word(next, "without"))
        {
            self.bump();
            return self.aggregate(op, t);
        }
        if is_unfit_for_metric(&lower) {
            return self.unexpected("", "");
        }
        if next.tok == Tok::LParen && !is_keyword(w) {
            self.bump();
            let (args, close) = self.call_args()?;
            // The words of the language that are functions too may be written in any case.
            let func =
                function(w).or_else(|| matches!(lower.as_str(), "step" | "range" | "start" | "end").then(|| function(&lower)).flatten());
            let Some(func) = func else {
                return self.fail(t.span, format!("unknown function with name {w:?}"));
            };
            return Ok(Expr::new(ExprKind::Call(Call { func, args }), t.span.to(close.span)));
        }
        self.vector_selector()
    }

    fn call_args(&mut self) -> PResult<(Vec<Expr>, Token)> {
        self.expect(Tok::LParen, "function call", "\"(\"")?;
        let mut args = Vec::new();
        if self.peek().tok != Tok::RParen {
            loop {
                args.push(self.expr(0)?);
                let t = self.peek();
                if t.tok != Tok::Comma {
                    break;
                }
                self.bump();
                if self.peek().tok == Tok::RParen {
                    return self.fail(t.span, "trailing commas not allowed in function call args");
                }
            }
        }
        let close = self.expect(Tok::RParen, "", "")?;
        Ok((args, close))
    }

    fn aggregate(&mut self, op: AggregateOp, start: Token) -> PResult<Expr> {
        let (mut grouping, mut without, mut end) = (Vec::new(), false, start);
        let mut modifier = |p: &mut Self, end: &mut Token| -> PResult<bool> {
            without = p.is_word(p.peek(), "without");
            if !without && !p.is_word(p.peek(), "by") {
                return Ok(false);
            }
            p.bump();
            grouping = p.grouping()?;
            *end = p.toks[p.pos - 1];
            Ok(true)
        };
        let before = modifier(self, &mut end)?;
        self.aggregations += 1;
        if self.peek().tok != Tok::LParen {
            return self.unexpected("", "");
        }
        let (mut args, close) = self.call_args()?;
        self.aggregations -= 1;
        end = close;
        if !before {
            modifier(self, &mut end)?;
        }
        let span = start.span.to(end.span);
        let desired = if op.has_param() { 2 } else { 1 };
        if args.is_empty() {
            return self.fail(span, "no arguments for aggregate expression provided");
        }
        if args.len() != desired {
            let msg = format!("wrong number of arguments for aggregate expression provided, expected {desired}, got {}", args.len());
            return self.fail(span, msg);
        }
        let Some(expr) = args.pop() else { return self.fail(span, "no arguments for aggregate expression provided") };
        let param = args.pop();
        Ok(Expr::new(ExprKind::Aggregate(Box::new(Aggregate { op, expr, param, grouping, without })), span))
    }

    /// `(a, "b.c", )`.
    fn grouping(&mut self) -> PResult<Vec<String>> {
        self.expect(Tok::LParen, GROUPING, "\"(\"")?;
        let mut out = Vec::new();
        loop {
            let t = self.peek();
            match t.tok {
                Tok::RParen => {
                    self.bump();
                    return Ok(out);
                }
                Tok::Ident if !is_number_word(self.word(t)) && !self.is_word(t, "without") => out.push(self.word(t).to_owned()),
                Tok::String => {
                    let name = unquote(self.word(t)).or_else(|e| self.fail(t.span, e))?;
                    if !is_valid_label_name(&name) {
                        return self.fail(t.span, format!("invalid label name for grouping: {}", quote(&name)));
                    }
                    out.push(name);
                }
                _ => return self.unexpected(GROUPING, "label"),
            }
            self.bump();
            match self.peek().tok {
                Tok::Comma => {
                    self.bump();
                }
                Tok::RParen => {}
                _ => return self.unexpected(GROUPING, "\",\" or \")\""),
            }
        }
    }
}

/// Words that name no metric by themselves.
fn is_unfit_for_metric(lower: &str) -> bool {
    matches!(lower, "on" | "ignoring" | "group_left" | "group_right" | "bool" | "atan2")
}

/// A keyword as errors name it.
fn keyword_text(w: &str) -> String {
    let lower = w.to_lowercase();
    match lower.as_str() {
        "and" | "or" | "unless" | "atan2" => format!("<op:{w}>"),
        "start" | "end" => format!("{w:?}"),
        _ if AggregateOp::by_name(&lower).is_some() => format!("<aggr:{w}>"),
        _ => format!("<{lower}>"),
    }
}

/// Whether a label may have this name: any text that is valid UTF-8.
pub(crate) fn is_valid_label_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| super::lexer::raw_byte_of(c).is_some())
}

fn is_number_word(w: &str) -> bool {
    w.eq_ignore_ascii_case("inf") || w.eq_ignore_ascii_case("nan")
}

pub(crate) fn is_keyword(w: &str) -> bool {
    matches!(
        w.to_ascii_lowercase().as_str(),
        "and" | "or" | "unless" | "atan2" | "offset" | "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" | "bool"
    ) || AggregateOp::by_name(&w.to_ascii_lowercase()).is_some()
}
