//! Expressions over a span.

use super::*;

/// What the operand of a `!` is made of: it binds between `+` and `*`.
const NEGATION: u8 = 4;
/// What the operand of a `-` is made of.
const MULTIPLICATION: u8 = 5;

impl Parser<'_> {
    /// An expression over a span, of operators that bind at least as strongly as `min`.
    pub(super) fn expr(&mut self, min: u8) -> Result<Expr> {
        self.nested(|p| {
            let mut left = p.unary()?;
            while let Some(op) = p.op().and_then(BinOp::parse).filter(|o| o.binding() >= min) {
                let at = p.offset();
                p.operator()?;
                p.advance();
                let right = if matches!(op, BinOp::Eq | BinOp::Ne) && p.ident() == Some("nil") {
                    p.nil()
                } else {
                    // A power binds to the right.
                    p.expr(if op == BinOp::Pow { op.binding() } else { op.binding() + 1 })?
                };
                let (l, r) = without_zeros(left, right);
                left = Expr { node: ExprNode::Binary(op, Box::new(l), Box::new(r)), at };
            }
            Ok(left)
        })
    }

    fn nil(&mut self) -> Expr {
        let at = self.offset();
        self.advance();
        Expr { node: ExprNode::Static(Static::Nil), at }
    }

    /// `nil = x` or `nil != x`: nil is no value of its own, it stands beside these operators only.
    fn absence(&mut self) -> Result<Expr> {
        let left = self.nil();
        let at = self.offset();
        let Some(op) = self.op().and_then(BinOp::parse).filter(|o| matches!(o, BinOp::Eq | BinOp::Ne)) else {
            return self.fail("nil can only be compared by \"=\" and \"!=\"");
        };
        self.operator()?;
        self.advance();
        if self.ident() == Some("nil") {
            self.advance();
            return Ok(Expr { node: ExprNode::Static(Static::Bool(false)), at });
        }
        let right = self.expr(ADDITION)?;
        Ok(Expr { node: ExprNode::Binary(op, Box::new(left), Box::new(right)), at })
    }

    fn unary(&mut self) -> Result<Expr> {
        let at = self.offset();
        if self.eat("!") {
            return Ok(Expr { node: ExprNode::Not(Box::new(self.expr(NEGATION)?)), at });
        }
        if self.eat("-") {
            let e = self.expr(MULTIPLICATION)?;
            // A negative literal, so that it can stand where only literals can.
            let node = match e.node {
                ExprNode::Static(s @ (Static::Int(_) | Static::Float(_) | Static::Duration(_))) => ExprNode::Static(negated(s)),
                node => ExprNode::Neg(Box::new(Expr { node, at: e.at })),
            };
            return Ok(Expr { node, at });
        }
        if self.eat("(") {
            let e = self.expr(0)?;
            self.expect(")")?;
            return Ok(e);
        }
        if self.ident() == Some("nil") {
            return self.absence();
        }
        let node = match (self.literal(), self.peek()) {
            (Some(s), _) => ExprNode::Static(s),
            (None, Tok::Attribute { .. } | Tok::Ident(_)) => return Ok(Expr { node: ExprNode::Attr(self.attr()?), at }),
            _ => return self.fail("expected a value"),
        };
        self.advance();
        Ok(Expr { node, at })
    }

    /// The literal that comes next, nil excepted.
    pub(super) fn literal(&self) -> Option<Static> {
        Some(match self.peek() {
            Tok::Str(s) => Static::Str(s.clone()),
            Tok::Int(i) => Static::Int(*i),
            Tok::Float(f) => Static::Float(*f),
            Tok::Duration(d) => Static::Duration(*d),
            Tok::Ident(name) => return named(name),
            _ => return None,
        })
    }

    /// `( attr, attr … )`, one at least.
    pub(super) fn attrs(&mut self) -> Result<Vec<Attr>> {
        self.expect("(")?;
        let mut out = vec![self.attr()?];
        while self.eat(",") {
            out.push(self.attr()?);
        }
        self.expect(")")?;
        Ok(out)
    }

    pub(super) fn attr(&mut self) -> Result<Attr> {
        let a = match self.peek() {
            Tok::Attribute { parent, scope, key } => Attr::Attribute { parent: *parent, scope: *scope, key: key.clone() },
            Tok::Ident(name) => match Intrinsic::parse(name) {
                Some(i) => Attr::Intrinsic(i),
                None => return self.fail(format!("{name:?} is no intrinsic; attributes begin with a dot or a scope")),
            },
            _ => return self.fail("expected an attribute"),
        };
        self.advance();
        Ok(a)
    }
}

/// Ids of traces are compared without leading zeros.
fn without_zeros(mut l: Expr, mut r: Expr) -> (Expr, Expr) {
    let is_id = |e: &Expr| matches!(e.node, ExprNode::Attr(Attr::Intrinsic(Intrinsic::TraceId)));
    match (&mut l, &mut r) {
        (id, Expr { node: ExprNode::Static(Static::Str(s)), .. }) | (Expr { node: ExprNode::Static(Static::Str(s)), .. }, id)
            if is_id(id) =>
        {
            *s = s.trim_start_matches('0').to_owned();
        }
        _ => {}
    }
    (l, r)
}

fn named(name: &str) -> Option<Static> {
    Some(match name {
        "true" => Static::Bool(true),
        "false" => Static::Bool(false),
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
