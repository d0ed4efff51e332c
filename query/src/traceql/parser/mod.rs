//! Tokens to a tree: precedence climbing, with a limit on depth.

mod field;
mod metrics;

use super::ast::*;
use super::error::{Result, TraceQlError, TraceQlErrorKind};
use super::lexer::{Tok, Token, leading_tokens, tokens};
use super::value::{self, Val};

/// Nesting deeper than this is refused.
const MAX_DEPTH: usize = 64;

/// More operators, or second stages of metrics, than this are refused: each makes the tree one deeper.
const MAX_OPERATORS: usize = 512;

/// How strongly `+` binds: what stands on either side of a comparison is made of nothing weaker.
const ADDITION: u8 = 3;

/// Reads a query.
pub fn parse(text: &str) -> Result<Query> {
    let mut p = Parser { text, tokens: tokens(text)?, at: 0, depth: 0, operators: 0 };
    let node = p.chain()?;
    let hints = p.hints()?;
    if p.peek() != &Tok::End {
        return p.fail("unexpected text after the query");
    }
    let single = |s| Pipeline { stages: vec![Stage::Set(s)] };
    let root = match node {
        Node::Set(s) | Node::Wrapped(s) => Root::Spansets(single(s)),
        Node::Open(p) => Root::Spansets(p),
        Node::Metrics(m) | Node::Series(m) | Node::Final(m) => Root::Metrics(m),
        Node::Reserved(l, r) => Root::Reserved(vec![l, r], 0),
        Node::Const(_) => return p.fail_at(0, "a number alone is no query"),
        Node::Scalar(_) | Node::Piped(_) | Node::Closing(..) => return p.fail("an aggregate must be compared with a number"),
    };
    Ok(Query { root, hints })
}

/// The texts between the `&&` of the first filter, whether they can be read or not; the filter may lack its end. None without a filter.
pub fn conditions_in(text: &str) -> Option<Vec<&str>> {
    let (tokens, _) = leading_tokens(text);
    let open = tokens.iter().position(|t| t.tok == Tok::Op("{"))?;
    let inner = &tokens[open + 1..];
    let close = inner.iter().rposition(|t| t.tok == Tok::Op("}"));
    let end = close.map_or(text.len(), |i| inner[i].at);
    let mut out = Vec::new();
    let mut start = tokens[open].at + 1;
    for t in inner.iter().filter(|t| t.tok == Tok::Op("&&") && t.at < end) {
        out.push(&text[start..t.at]);
        start = t.at + 2;
    }
    out.push(&text[start..end]);
    Some(out.iter().map(|c| c.trim()).filter(|c| !c.is_empty()).collect())
}

/// What a part of a query turned out to be. The grammar tells them apart by their parentheses: whole pipelines are
/// joined with whole pipelines, each in parentheses, and plain sets of spans with plain ones.
enum Node {
    /// `{…}`, and such joined or parenthesised.
    Set(SetExpr),
    /// A pipeline without parentheses around it.
    Open(Pipeline),
    /// A pipeline in parentheses, and such joined.
    Wrapped(SetExpr),
    /// A number.
    Const(Static),
    /// An aggregate, or arithmetic with one in it.
    Scalar(Scalar),
    /// A pipeline that ends in an aggregate: only a parenthesis can follow.
    Closing(Pipeline, Scalar),
    /// Such a one in parentheses, and arithmetic of them.
    Piped(Scalar),
    /// A comparison of such, reserved.
    Reserved(Scalar, Scalar),
    /// A metrics query in parentheses, and arithmetic of such.
    Metrics(MetricsExpr),
    /// A metrics query without parentheses around it.
    Series(MetricsExpr),
    /// Arithmetic of metrics that further stages follow: it can't be parenthesised.
    Final(MetricsExpr),
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    operators: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Tok {
        self.peek_at(0)
    }
    fn peek_at(&self, n: usize) -> &Tok {
        &self.tokens[(self.at + n).min(self.tokens.len() - 1)].tok
    }
    fn offset(&self) -> usize {
        self.tokens[self.at.min(self.tokens.len() - 1)].at
    }
    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        self.fail_at(self.offset(), message)
    }
    fn fail_at<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(TraceQlError::at(TraceQlErrorKind::Parse, self.text, at, message))
    }
    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }
    fn is(&self, op: &str) -> bool {
        matches!(self.peek(), Tok::Op(o) if *o == op)
    }
    fn eat(&mut self, op: &str) -> bool {
        let there = self.is(op);
        if there {
            self.advance();
        }
        there
    }
    fn expect(&mut self, op: &str) -> Result<()> {
        if self.eat(op) { Ok(()) } else { self.fail(format!("expected {op:?}")) }
    }
    fn ident(&self) -> Option<&str> {
        match self.peek() {
            Tok::Ident(i) => Some(i),
            _ => None,
        }
    }
    fn op(&self) -> Option<&'static str> {
        match self.peek() {
            Tok::Op(o) => Some(o),
            _ => None,
        }
    }
    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("the query is nested too deep");
        }
        let out = f(self);
        self.depth -= 1;
        out
    }

    /// Counts an operator.
    fn operator(&mut self) -> Result<()> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS { self.fail(format!("more than {MAX_OPERATORS} operators")) } else { Ok(()) }
    }

    /// Operands and operators, then what follows by `|` and by comparison.
    fn chain(&mut self) -> Result<Node> {
        self.nested(|p| {
            let mut node = match p.ident() {
                Some("by" | "select") => Node::Open(Pipeline { stages: vec![p.stage()?] }),
                _ => p.operand_chain(0)?,
            };
            loop {
                let at = p.offset();
                node = match p.op() {
                    Some("|") => {
                        p.operator()?;
                        p.advance();
                        p.piped(node)?
                    }
                    Some(op) if BinOp::parse(op).is_some_and(BinOp::is_comparison) => {
                        p.operator()?;
                        p.advance();
                        p.compared(node, BinOp::parse(op).unwrap_or(BinOp::Eq), at)?
                    }
                    _ => return Ok(node),
                };
            }
        })
    }

    /// What follows a `|`.
    fn piped(&mut self, node: Node) -> Result<Node> {
        let mut pipeline = match node {
            Node::Set(s) => Pipeline { stages: vec![Stage::Set(s)] },
            Node::Open(p) => p,
            Node::Series(m) => return Ok(Node::Series(self.top(m)?)),
            Node::Metrics(m) | Node::Final(m) => return Ok(Node::Final(self.top(m)?)),
            Node::Wrapped(_) => return self.fail("nothing can follow a pipeline in parentheses"),
            _ => return self.fail("unexpected \"|\""),
        };
        let at = self.offset();
        if let Some(op) = self.metrics_op()? {
            return Ok(Node::Series(self.metrics(pipeline, op, at)?));
        }
        if self.ident().is_some_and(|name| AggregateOp::parse(name).is_none()) {
            pipeline.stages.push(self.stage()?);
            return Ok(Node::Open(pipeline));
        }
        let bare = self.ident().is_some();
        match self.operand_chain(0)? {
            Node::Set(s) => pipeline.stages.push(Stage::Set(s)),
            Node::Scalar(s @ Scalar::Aggregate(..)) if bare && !self.at_comparison() => return Ok(Node::Closing(pipeline, s)),
            left @ (Node::Scalar(_) | Node::Const(_)) => {
                let at = self.offset();
                let Some(op) = self.op().and_then(BinOp::parse).filter(|o| o.is_comparison()) else {
                    return self.fail("an aggregate must be compared with a number");
                };
                self.operator()?;
                self.advance();
                pipeline.stages.push(self.scalar_filter(left, op, at)?);
            }
            _ => return self.fail_at(at, "expected a set of spans, an aggregate or a function"),
        }
        Ok(Node::Open(pipeline))
    }

    fn at_comparison(&self) -> bool {
        self.op().and_then(BinOp::parse).is_some_and(BinOp::is_comparison)
    }

    /// `by(…)`, `coalesce()`, `select(…)`.
    fn stage(&mut self) -> Result<Stage> {
        let name = self.ident().unwrap_or("").to_owned();
        let at = self.offset();
        self.advance();
        match name.as_str() {
            "by" => {
                self.expect("(")?;
                let e = self.expr(0)?;
                self.expect(")")?;
                Ok(Stage::Group(e))
            }
            "coalesce" => {
                self.expect("(")?;
                self.expect(")")?;
                Ok(Stage::Coalesce)
            }
            "select" => Ok(Stage::Select(self.attrs()?)),
            other => self.fail_at(at, format!("unknown function or keyword {other:?}")),
        }
    }

    /// Sets of spans, parenthesised pipelines and metrics, aggregates and numbers, joined by operators that bind at
    /// least as strongly as `min`.
    fn operand_chain(&mut self, min: u8) -> Result<Node> {
        let left = self.operand()?;
        self.joined(left, min)
    }

    fn joined(&mut self, mut left: Node, min: u8) -> Result<Node> {
        while let Some(op) = self.op() {
            let at = self.offset();
            let binding = match (&left, BinOp::parse(op)) {
                (Node::Set(_) | Node::Wrapped(_), Some(BinOp::And | BinOp::Or)) => 1,
                (Node::Set(_) | Node::Wrapped(_), _) if SetOp::parse(op).is_some() => 2,
                (Node::Const(_) | Node::Scalar(_) | Node::Piped(_) | Node::Metrics(_), Some(o)) if o.is_arithmetic() => o.binding(),
                _ => return Ok(left),
            };
            if binding < min {
                return Ok(left);
            }
            self.operator()?;
            self.advance();
            let next = if op == "^" { binding } else { binding + 1 };
            let wrapped = matches!(left, Node::Wrapped(_));
            // Plain sets in parentheses are pipelines too; an operand is a token at least, so that there is one before.
            let right = self.nested(|p| match p.operand()? {
                Node::Set(s) if wrapped && p.tokens[p.at - 1].tok == Tok::Op(")") => p.joined(Node::Wrapped(s), next),
                other => p.joined(other, next),
            })?;
            left = self.join(left, op, right, at)?;
        }
        Ok(left)
    }

    fn join(&mut self, left: Node, op: &str, right: Node, at: usize) -> Result<Node> {
        if let Some(set_op) = SetOp::parse(op) {
            let joined = |l, r| SetExpr::Op(set_op, Box::new(l), Box::new(r));
            match (left, right) {
                (Node::Set(l), Node::Set(r)) => return Ok(Node::Set(joined(l, r))),
                (Node::Wrapped(l), Node::Wrapped(r)) => return Ok(Node::Wrapped(joined(l, r))),
                _ => return self.fail_at(at, format!("{op:?} joins sets of spans, or pipelines in parentheses")),
            }
        }
        let Some(op) = BinOp::parse(op).filter(|o| o.is_arithmetic()) else {
            return self.fail_at(at, format!("{op:?} can't join these"));
        };
        let linear = !matches!(op, BinOp::Mod | BinOp::Pow);
        match (left, right) {
            (Node::Const(a), Node::Const(b)) if linear => Ok(Node::Const(self.fold(op, &a, &b, at)?)),
            (Node::Metrics(l), Node::Metrics(r)) if linear => Ok(Node::Metrics(MetricsExpr::Math(op, Box::new(l), Box::new(r)))),
            (Node::Metrics(l), Node::Const(c)) if linear => Ok(Node::Metrics(MetricsExpr::Math(op, Box::new(l), constant(&c)))),
            (Node::Const(c), Node::Metrics(r)) if linear => Ok(Node::Metrics(MetricsExpr::Math(op, constant(&c), Box::new(r)))),
            (Node::Piped(l), Node::Piped(r)) => Ok(Node::Piped(Scalar::Binary(op, Box::new(l), Box::new(r)))),
            (l, r) => match (scalar(l), scalar(r)) {
                (Some(l), Some(r)) => Ok(Node::Scalar(Scalar::Binary(op, Box::new(l), Box::new(r)))),
                _ => self.fail_at(at, format!("{:?} can't join these; metrics queries in arithmetic must be parenthesised", op.text())),
            },
        }
    }

    /// Numbers are calculated with while they are read.
    fn fold(&self, op: BinOp, a: &Static, b: &Static, at: usize) -> Result<Static> {
        match value::arithmetic(op, &Val::from(a), &Val::from(b)) {
            Ok(Val::Int(i)) => Ok(Static::Int(i)),
            Ok(Val::Float(f)) => Ok(Static::Float(f)),
            Ok(Val::Duration(d)) => Ok(Static::Duration(d)),
            Ok(_) => self.fail_at(at, "expected a number"),
            Err(e) => self.fail_at(at, e.message()),
        }
    }

    fn operand(&mut self) -> Result<Node> {
        let at = self.offset();
        if self.is("{") {
            return Ok(Node::Set(SetExpr::Filter(self.filter()?)));
        }
        if self.eat("(") {
            let node = self.chain()?;
            self.expect(")")?;
            return match node {
                Node::Open(p) => Ok(Node::Wrapped(SetExpr::Wrapped(p))),
                Node::Closing(p, s) => Ok(Node::Piped(Scalar::Pipeline(Box::new(p), Box::new(s)))),
                Node::Series(m) => Ok(Node::Metrics(m)),
                Node::Reserved(..) | Node::Final(_) => self.fail_at(at, "this can't stand in parentheses"),
                other => Ok(other),
            };
        }
        if self.eat("-") {
            return match self.nested(Self::operand)? {
                Node::Const(c) => Ok(Node::Const(negated(c))),
                _ => self.fail_at(at, "expected a number after \"-\""),
            };
        }
        if let Some(op) = self.ident().and_then(AggregateOp::parse) {
            return Ok(Node::Scalar(self.aggregate(op)?));
        }
        let value = match *self.peek() {
            Tok::Int(i) => Static::Int(i),
            Tok::Duration(d) => Static::Duration(d),
            Tok::Float(f) => Static::Float(f),
            _ => return self.fail("expected a set of spans in braces, a function, or a number"),
        };
        self.advance();
        Ok(Node::Const(value))
    }

    /// `{…}`.
    fn filter(&mut self) -> Result<Option<Expr>> {
        self.expect("{")?;
        if self.eat("}") {
            return Ok(None);
        }
        let e = self.expr(0)?;
        self.expect("}")?;
        Ok(Some(e))
    }

    fn aggregate(&mut self, op: AggregateOp) -> Result<Scalar> {
        let at = self.offset();
        self.advance();
        self.expect("(")?;
        let of = if op == AggregateOp::Count { None } else { Some(self.expr(0)?) };
        self.expect(")")?;
        Ok(Scalar::Aggregate(Aggregate { op, of }, at))
    }

    /// What a comparison after a node makes of it.
    fn compared(&mut self, node: Node, op: BinOp, at: usize) -> Result<Node> {
        match node {
            Node::Series(m) => Ok(Node::Series(self.metrics_filter(m, op, at)?)),
            Node::Metrics(m) | Node::Final(m) => Ok(Node::Final(self.metrics_filter(m, op, at)?)),
            Node::Scalar(_) | Node::Const(_) => Ok(Node::Open(Pipeline { stages: vec![self.scalar_filter(node, op, at)?] })),
            Node::Piped(l) => match self.operand_chain(ADDITION)? {
                Node::Piped(r) => Ok(Node::Reserved(l, r)),
                Node::Const(c) => Ok(Node::Reserved(l, Scalar::Static(c))),
                _ => self.fail_at(at, "aggregates of pipelines can be compared with their like and with numbers"),
            },
            _ => self.fail_at(at, format!("{:?} can't be used here", op.text())),
        }
    }

    /// What stands right of a comparison with `left`, one of which must hold an aggregate.
    fn scalar_filter(&mut self, left: Node, op: BinOp, at: usize) -> Result<Stage> {
        let right = self.operand_chain(ADDITION)?;
        let (Some(l), Some(r)) = (scalar(left), scalar(right)) else {
            return self.fail_at(at, "aggregates can be compared with numbers only");
        };
        if !l.has_aggregate() && !r.has_aggregate() {
            return self.fail_at(at, "a number can't be compared with a number");
        }
        Ok(Stage::Scalar(op, l, r, at))
    }
}

fn scalar(node: Node) -> Option<Scalar> {
    match node {
        Node::Const(c) => Some(Scalar::Static(c)),
        Node::Scalar(s) => Some(s),
        _ => None,
    }
}

/// Series are compared and calculated with plain numbers: durations in seconds, as series show them.
fn plain(s: &Static) -> f64 {
    match s {
        Static::Int(i) => *i as f64,
        Static::Duration(d) => *d as f64 / 1e9,
        Static::Float(f) => *f,
        _ => f64::NAN,
    }
}

fn constant(s: &Static) -> Box<MetricsExpr> {
    Box::new(MetricsExpr::Const(plain(s)))
}

fn negated(s: Static) -> Static {
    match s {
        Static::Int(i) => Static::Int(i.wrapping_neg()),
        Static::Duration(d) => Static::Duration(d.wrapping_neg()),
        Static::Float(f) => Static::Float(-f),
        other => other,
    }
}
