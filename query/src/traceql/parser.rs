//! Tokens to a tree: precedence climbing, with a limit on depth.

use super::ast::*;
use super::error::{Result, TraceQlError, TraceQlErrorKind};
use super::lexer::{Tok, Token, tokens};

/// Nesting deeper than this is refused.
const MAX_DEPTH: usize = 64;

/// More operators, or second stages of metrics, than this are refused: each makes the tree one deeper.
const MAX_OPERATORS: usize = 512;

/// Reads a query.
pub fn parse(text: &str) -> Result<Query> {
    let mut p = Parser { text, tokens: tokens(text)?, at: 0, depth: 0, operators: 0 };
    let (node, at) = (p.chain()?, 0);
    let hints = p.hints()?;
    if p.peek() != &Tok::End {
        return p.fail("unexpected text after the query");
    }
    let root = match node {
        Node::Spansets(p) => Root::Spansets(p),
        Node::Metrics(m) => Root::Metrics(m),
        Node::Reserved(s) => Root::Reserved(s, at),
        Node::Const(_) => return p.fail_at(0, "a number alone is no query"),
        Node::Scalar(..) => return p.fail("an aggregate must be compared with a number"),
    };
    Ok(Query { root, hints })
}

/// What a part of a query turned out to be.
enum Node {
    Spansets(Pipeline),
    Metrics(MetricsExpr),
    /// A number.
    Const(f64),
    /// A pipeline that ends in an aggregate, or arithmetic of such.
    Scalar(Scalar),
    /// Comparisons that are reserved.
    Reserved(Vec<Scalar>),
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    operators: usize,
}

fn fold(op: BinOp, a: f64, b: f64) -> f64 {
    match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        _ => a / b,
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Tok {
        &self.tokens[self.at.min(self.tokens.len() - 1)].tok
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
                Some("by" | "select") => Node::Spansets(p.stage()?),
                Some(name) if AggregateOp::parse(name).is_some() => p.scalar_stage(Pipeline::default())?,
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
                        let op = BinOp::parse(op).unwrap_or(BinOp::Eq);
                        p.operator()?;
                        p.advance();
                        p.compared(node, op, at)?
                    }
                    _ => return Ok(node),
                };
            }
        })
    }

    /// What follows a `|`.
    fn piped(&mut self, node: Node) -> Result<Node> {
        let at = self.offset();
        let name = self.ident().unwrap_or("").to_owned();
        match node {
            Node::Metrics(m) if name == "topk" || name == "bottomk" => {
                self.advance();
                self.expect("(")?;
                let Tok::Int(n) = *self.peek() else { return self.fail("expected a whole number") };
                self.advance();
                self.expect(")")?;
                Ok(Node::Metrics(MetricsExpr::TopK(name == "topk", n as u64, Box::new(m), at)))
            }
            Node::Metrics(_) => self.fail("only topk() and bottomk() can follow a metrics function"),
            Node::Spansets(mut pipeline) => {
                if let Some(op) = self.metrics_op()? {
                    return Ok(Node::Metrics(self.metrics(pipeline, op, at)?));
                }
                if AggregateOp::parse(&name).is_some() {
                    return self.scalar_stage(pipeline);
                }
                pipeline.stages.extend(self.stage()?.stages);
                Ok(Node::Spansets(pipeline))
            }
            _ => self.fail("unexpected \"|\""),
        }
    }

    /// `by(…)`, `coalesce()`, `select(…)`, or a set of spans.
    fn stage(&mut self) -> Result<Pipeline> {
        let stage = match self.ident() {
            Some("by") => {
                self.advance();
                self.expect("(")?;
                let e = self.expr(0)?;
                self.expect(")")?;
                Stage::Group(e)
            }
            Some("coalesce") => {
                self.advance();
                self.expect("(")?;
                self.expect(")")?;
                Stage::Coalesce
            }
            Some("select") => {
                self.advance();
                Stage::Select(self.attrs()?)
            }
            Some(other) => {
                let message = format!("unknown function or keyword {other:?}");
                return self.fail(message);
            }
            None => match self.operand_chain(0)? {
                Node::Spansets(p) => return Ok(p),
                _ => return self.fail("expected a set of spans"),
            },
        };
        Ok(Pipeline { stages: vec![stage] })
    }

    /// `( attr, attr … )`, one at least.
    fn attrs(&mut self) -> Result<Vec<Attr>> {
        self.expect("(")?;
        let mut out = vec![self.attr()?];
        while self.eat(",") {
            out.push(self.attr()?);
        }
        self.expect(")")?;
        Ok(out)
    }

    fn attr(&mut self) -> Result<Attr> {
        let a = match self.peek() {
            Tok::Attribute(parent, scope, key) => Attr::Attribute(*parent, *scope, key.clone()),
            Tok::Ident(name) => match Intrinsic::parse(name) {
                Some(i) => Attr::Intrinsic(i),
                None => return self.fail(format!("{name:?} is no intrinsic; attributes begin with a dot or a scope")),
            },
            _ => return self.fail("expected an attribute"),
        };
        self.advance();
        Ok(a)
    }

    /// Sets of spans, parenthesised metrics and numbers, joined by operators that bind at least as strongly as `min`.
    fn operand_chain(&mut self, min: u8) -> Result<Node> {
        let mut left = self.operand()?;
        while let Some(op) = self.op() {
            let at = self.offset();
            let binding = match (&left, op) {
                (Node::Spansets(_), "&&" | "||") => 1,
                (Node::Spansets(_), _) if SetOp::parse(op).is_some() => 2,
                (Node::Spansets(_), _) => return Ok(left),
                (_, "+" | "-") => 3,
                (_, "*" | "/") => 5,
                _ => return Ok(left),
            };
            if binding < min {
                return Ok(left);
            }
            self.operator()?;
            self.advance();
            let right = self.nested(|p| p.operand_chain(binding + 1))?;
            left = self.join(left, op, right, at)?;
        }
        Ok(left)
    }

    fn join(&mut self, left: Node, op: &str, right: Node, at: usize) -> Result<Node> {
        let set = |p: Pipeline| match <[Stage; 1]>::try_from(p.stages) {
            Ok([Stage::Set(s)]) => s,
            Ok([other]) => SetExpr::Wrapped(Pipeline { stages: vec![other] }),
            Err(stages) => SetExpr::Wrapped(Pipeline { stages }),
        };
        let arithmetic = BinOp::parse(op).filter(|o| o.is_arithmetic());
        match (left, right) {
            (Node::Spansets(l), Node::Spansets(r)) => match SetOp::parse(op) {
                Some(op) => {
                    let joined = SetExpr::Op(op, Box::new(set(l)), Box::new(set(r)));
                    Ok(Node::Spansets(Pipeline { stages: vec![Stage::Set(joined)] }))
                }
                None => self.fail_at(at, format!("sets of spans can't be joined by {op:?}")),
            },
            (Node::Const(a), Node::Const(b)) if arithmetic.is_some() => Ok(Node::Const(fold(arithmetic.unwrap_or(BinOp::Div), a, b))),
            (Node::Scalar(a), Node::Scalar(b)) if arithmetic.is_some() => {
                Ok(Node::Scalar(Scalar::Binary(arithmetic.unwrap_or(BinOp::Div), Box::new(a), Box::new(b))))
            }
            (l @ (Node::Metrics(_) | Node::Const(_)), r @ (Node::Metrics(_) | Node::Const(_))) if arithmetic.is_some() => {
                let e = |n| match n {
                    Node::Metrics(m) => m,
                    Node::Const(c) => MetricsExpr::Const(c),
                    _ => MetricsExpr::Const(f64::NAN),
                };
                Ok(Node::Metrics(MetricsExpr::Math(arithmetic.unwrap_or(BinOp::Div), Box::new(e(l)), Box::new(e(r)))))
            }
            _ => self.fail_at(at, format!("{op:?} can't join these; metrics queries in arithmetic must be parenthesised")),
        }
    }

    fn operand(&mut self) -> Result<Node> {
        let set = |s| Ok(Node::Spansets(Pipeline { stages: vec![Stage::Set(s)] }));
        if self.eat("{") {
            if self.eat("}") {
                return set(SetExpr::Filter(None));
            }
            let e = self.expr(0)?;
            self.expect("}")?;
            return set(SetExpr::Filter(Some(e)));
        }
        if self.is("(") {
            self.advance();
            let node = self.chain()?;
            self.expect(")")?;
            return match node {
                // Inside parentheses an aggregate may stand alone.
                Node::Spansets(p) => set(SetExpr::Wrapped(p)),
                other => Ok(other),
            };
        }
        let negative = self.eat("-");
        let value = match *self.peek() {
            Tok::Int(i) | Tok::Duration(i) => i as f64,
            Tok::Float(f) => f,
            _ => return self.fail("expected a set of spans in braces, a function, or a number"),
        };
        self.advance();
        Ok(Node::Const(if negative { -value } else { value }))
    }

    /// An aggregate after `pipeline`, compared with a number or not.
    fn scalar_stage(&mut self, mut pipeline: Pipeline) -> Result<Node> {
        let left = self.scalar(0)?;
        let at = self.offset();
        let Some(op) = self.op().and_then(BinOp::parse).filter(|o| o.is_comparison()) else {
            return Ok(Node::Scalar(Scalar::Pipeline(Box::new(pipeline), Box::new(left))));
        };
        self.advance();
        let right = self.scalar(0)?;
        pipeline.stages.push(Stage::Scalar(op, left, right, at));
        Ok(Node::Spansets(pipeline))
    }

    fn scalar(&mut self, min: u8) -> Result<Scalar> {
        self.nested(|p| {
            let mut left = p.scalar_operand()?;
            while let Some(op) = p.op().and_then(BinOp::parse).filter(|o| o.is_arithmetic() && o.binding() >= min) {
                p.operator()?;
                p.advance();
                let right = p.scalar(op.binding() + 1)?;
                left = Scalar::Binary(op, Box::new(left), Box::new(right));
            }
            Ok(left)
        })
    }

    fn scalar_operand(&mut self) -> Result<Scalar> {
        if self.eat("(") {
            let s = self.scalar(0)?;
            self.expect(")")?;
            return Ok(s);
        }
        let at = self.offset();
        if let Some(op) = self.ident().and_then(AggregateOp::parse) {
            self.advance();
            self.expect("(")?;
            let of = if op == AggregateOp::Count { None } else { Some(self.expr(0)?) };
            self.expect(")")?;
            return Ok(Scalar::Aggregate(Aggregate { op, of }, at));
        }
        let negative = self.eat("-");
        let s = match (self.peek(), negative) {
            (Tok::Int(i), n) => Static::Int(if n { -i } else { *i }),
            (Tok::Duration(i), n) => Static::Duration(if n { -i } else { *i }),
            (Tok::Float(f), n) => Static::Float(if n { -f } else { *f }),
            _ => return self.fail("expected an aggregate or a number"),
        };
        self.advance();
        Ok(Scalar::Static(s))
    }

    /// What a comparison after a node makes of it.
    fn compared(&mut self, node: Node, op: BinOp, at: usize) -> Result<Node> {
        match node {
            Node::Metrics(m) => match self.operand_chain(0)? {
                Node::Const(c) => Ok(Node::Metrics(MetricsExpr::Filter(op, c, Box::new(m), at))),
                _ => self.fail_at(at, "series can be compared with numbers only"),
            },
            Node::Const(c) => match self.operand_chain(0)? {
                Node::Const(_) => Ok(Node::Reserved(vec![Scalar::Static(Static::Float(c))])),
                _ => self.fail_at(at, "a number can't be compared with this"),
            },
            Node::Scalar(s) => match self.operand_chain(0)? {
                Node::Const(_) => Ok(Node::Reserved(vec![s])),
                Node::Scalar(r) => Ok(Node::Reserved(vec![s, r])),
                _ => self.fail_at(at, "aggregates can be compared with numbers only"),
            },
            Node::Spansets(_) | Node::Reserved(_) => self.fail_at(at, format!("{:?} can't be used here", op.text())),
        }
    }

    fn metrics_op(&mut self) -> Result<Option<MetricsOp>> {
        let Some(name) = self.ident().map(str::to_owned) else { return Ok(None) };
        let known = ["rate", "count_over_time", "min_over_time", "max_over_time", "avg_over_time", "sum_over_time"];
        let further = ["quantile_over_time", "histogram_over_time", "compare"];
        if !known.contains(&name.as_str()) && !further.contains(&name.as_str()) {
            return Ok(None);
        }
        self.advance();
        self.expect("(")?;
        let op = match name.as_str() {
            "rate" => MetricsOp::Rate,
            "count_over_time" => MetricsOp::CountOverTime,
            "min_over_time" => MetricsOp::MinOverTime(self.attr()?),
            "max_over_time" => MetricsOp::MaxOverTime(self.attr()?),
            "avg_over_time" => MetricsOp::AvgOverTime(self.attr()?),
            "sum_over_time" => MetricsOp::SumOverTime(self.attr()?),
            "histogram_over_time" => MetricsOp::HistogramOverTime(self.attr()?),
            "quantile_over_time" => {
                let attr = self.attr()?;
                let mut q = Vec::new();
                while self.eat(",") {
                    let v = match *self.peek() {
                        Tok::Int(i) => i as f64,
                        Tok::Float(f) => f,
                        _ => return self.fail("expected a quantile"),
                    };
                    self.advance();
                    q.push(v);
                }
                if q.is_empty() {
                    return self.fail("expected a quantile");
                }
                MetricsOp::QuantileOverTime(attr, q)
            }
            _ => self.compare()?,
        };
        self.expect(")")?;
        Ok(Some(op))
    }

    fn compare(&mut self) -> Result<MetricsOp> {
        let selection = match self.operand()? {
            Node::Spansets(p) => match p.stages.into_iter().next() {
                Some(Stage::Set(SetExpr::Filter(e))) => e,
                _ => return self.fail("compare() takes a filter in braces"),
            },
            _ => return self.fail("compare() takes a filter in braces"),
        };
        let mut numbers = [10u64, 0, 0];
        let mut n = 0;
        while n < 3 && self.eat(",") {
            let Tok::Int(i) = *self.peek() else { return self.fail("expected a whole number") };
            self.advance();
            numbers[n] = i as u64;
            n += 1;
        }
        if n == 2 {
            return self.fail("compare() takes a start and an end, or neither");
        }
        Ok(MetricsOp::Compare(selection, numbers[0], numbers[1], numbers[2]))
    }

    fn metrics(&mut self, pipeline: Pipeline, op: MetricsOp, at: usize) -> Result<MetricsExpr> {
        let mut by = Vec::new();
        if self.ident() == Some("by") && !matches!(op, MetricsOp::Compare(..)) {
            self.advance();
            by = self.attrs()?;
        }
        Ok(MetricsExpr::Query(MetricsQuery { pipeline, op, by, at }))
    }

    fn hints(&mut self) -> Result<Vec<(String, Static)>> {
        if self.ident() != Some("with") {
            return Ok(Vec::new());
        }
        self.advance();
        self.expect("(")?;
        let mut out = Vec::new();
        loop {
            let Some(name) = self.ident().map(str::to_owned) else { return self.fail("expected the name of a hint") };
            self.advance();
            self.expect("=")?;
            let e = self.expr(7)?;
            let ExprNode::Static(s) = e.node else { return self.fail_at(e.at, "a hint's value must be a literal") };
            out.push((name, s));
            if !self.eat(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok(out)
    }

    /// An expression over a span, of operators that bind at least as strongly as `min`.
    fn expr(&mut self, min: u8) -> Result<Expr> {
        self.nested(|p| {
            let mut left = p.unary()?;
            while let Some(op) = p.op().and_then(BinOp::parse).filter(|o| o.binding() >= min) {
                let at = p.offset();
                p.operator()?;
                p.advance();
                // A power binds to the right.
                let right = p.expr(if op == BinOp::Pow { op.binding() } else { op.binding() + 1 })?;
                left = Expr { node: ExprNode::Binary(op, Box::new(left), Box::new(right)), at };
            }
            Ok(left)
        })
    }

    fn unary(&mut self) -> Result<Expr> {
        let at = self.offset();
        if self.eat("!") {
            return Ok(Expr { node: ExprNode::Not(Box::new(self.expr(4)?)), at });
        }
        if self.eat("-") {
            let e = self.expr(5)?;
            // A negative literal, so that it can stand where only literals can.
            let node = match e.node {
                ExprNode::Static(Static::Int(i)) => ExprNode::Static(Static::Int(i.wrapping_neg())),
                ExprNode::Static(Static::Float(f)) => ExprNode::Static(Static::Float(-f)),
                ExprNode::Static(Static::Duration(d)) => ExprNode::Static(Static::Duration(d.wrapping_neg())),
                node => ExprNode::Neg(Box::new(Expr { node, at: e.at })),
            };
            return Ok(Expr { node, at });
        }
        if self.eat("(") {
            let e = self.expr(0)?;
            self.expect(")")?;
            return Ok(e);
        }
        let node = match self.peek().clone() {
            Tok::Str(s) => ExprNode::Static(Static::Str(s)),
            Tok::Int(i) => ExprNode::Static(Static::Int(i)),
            Tok::Float(f) => ExprNode::Static(Static::Float(f)),
            Tok::Duration(d) => ExprNode::Static(Static::Duration(d)),
            Tok::Attribute(parent, scope, key) => ExprNode::Attr(Attr::Attribute(parent, scope, key)),
            Tok::Ident(name) => match literal(&name) {
                Some(s) => ExprNode::Static(s),
                None => return Ok(Expr { node: ExprNode::Attr(self.attr()?), at }),
            },
            _ => return self.fail("expected a value"),
        };
        self.advance();
        Ok(Expr { node, at })
    }
}

fn literal(name: &str) -> Option<Static> {
    Some(match name {
        "true" => Static::Bool(true),
        "false" => Static::Bool(false),
        "nil" => Static::Nil,
        "unset" => Static::Status(0),
        "ok" => Static::Status(1),
        "error" => Static::Status(2),
        "unspecified" => Static::Kind(0),
        "internal" => Static::Kind(1),
        "server" => Static::Kind(2),
        "client" => Static::Kind(3),
        "producer" => Static::Kind(4),
        "consumer" => Static::Kind(5),
        "minInt" => Static::Int(i64::MIN),
        "maxInt" => Static::Int(i64::MAX),
        _ => return None,
    })
}
