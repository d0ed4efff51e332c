//! The syntax tree. Every node knows the bytes it came from, because errors and annotations point there.

use strandline_storage::model::Matcher;

use super::functions::Function;

/// A half-open range of bytes of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// A span.
    pub fn new(start: usize, end: usize) -> Self {
        Span { start, end }
    }
    /// From the start of `self` to the end of `other`.
    pub fn to(self, other: Span) -> Self {
        Span { start: self.start, end: other.end }
    }
    /// `line:col` of the start, both counted from 1, columns in bytes.
    pub fn line_col(self, text: &str) -> String {
        let upto = &text.as_bytes()[..self.start.min(text.len())];
        let line = 1 + upto.iter().filter(|b| **b == b'\n').count();
        let col = 1 + upto.len() - upto.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        format!("{line}:{col}")
    }
}

/// What an expression evaluates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// One float a step.
    Scalar,
    /// A set of series with one sample a step.
    Vector,
    /// A set of series with a window of samples a step.
    Matrix,
    /// A string.
    String,
}

impl ValueType {
    /// The word error messages use.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
            ValueType::String => "string",
        }
    }
    /// The word the HTTP API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::Vector => "vector",
            ValueType::Matrix => "matrix",
            ValueType::String => "string",
        }
    }
}

/// An expression and where it stands in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// The bytes it covers.
    pub span: Span,
}

/// The kinds of expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `1.5`, `5m`.
    Number(NumberLiteral),
    /// `"text"`.
    String(String),
    /// `name{a="b"}`.
    Vector(VectorSelector),
    /// `name[5m]`.
    Matrix(MatrixSelector),
    /// `expr[5m:1m]`.
    Subquery(Box<Subquery>),
    /// `(expr)`.
    Paren(Box<Expr>),
    /// `-expr`, `+expr`.
    Unary(UnaryOp, Box<Expr>),
    /// `a + b`.
    Binary(Box<Binary>),
    /// `f(x)`.
    Call(Call),
    /// `sum by (job) (x)`.
    Aggregate(Box<Aggregate>),
}

/// A number, and whether it was written as a duration.
#[derive(Clone, Copy, Debug)]
pub struct NumberLiteral {
    /// Value; seconds for durations.
    pub value: f64,
    /// Written like `5m`.
    pub duration: bool,
}

impl NumberLiteral {
    /// As a length of time in milliseconds: rounded to nanoseconds, then cut to whole milliseconds.
    pub fn millis(&self) -> i64 {
        (self.value * 1e9).round() as i64 / 1_000_000
    }
}

impl PartialEq for NumberLiteral {
    fn eq(&self, o: &Self) -> bool {
        self.value.to_bits() == o.value.to_bits() || (self.value.is_nan() && o.value.is_nan())
    }
}

/// Unary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `+`
    Plus,
    /// `-`
    Minus,
}

/// An `@` modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A fixed time, Unix milliseconds.
    Time(i64),
    /// The start of the query.
    Start,
    /// The end of the query.
    End,
}

/// How samples at the borders of a selection are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extension {
    /// Only what lies in the range.
    #[default]
    None,
    /// The last sample at or before the range start stands for the start.
    Anchored,
    /// Values at the borders are interpolated.
    Smoothed,
}

/// `name{matchers} @ t offset d`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorSelector {
    /// The name written before the braces; empty if it is only a matcher.
    pub name: String,
    /// All matchers, including the one on the name.
    pub matchers: Vec<Matcher>,
    /// Offset, if any.
    pub offset: Option<DurationExpr>,
    /// `@`, if any.
    pub at: Option<At>,
    /// `anchored` or `smoothed`.
    pub extension: Extension,
}

/// `selector[range]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    /// The selector, with its modifiers.
    pub selector: VectorSelector,
    /// Bytes of the selector alone.
    pub selector_span: Span,
    /// The window.
    pub range: DurationExpr,
}

/// `expr[range:step]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subquery {
    /// What is evaluated at each step.
    pub expr: Expr,
    /// The window.
    pub range: DurationExpr,
    /// The resolution; the engine's default where absent.
    pub step: Option<DurationExpr>,
    /// Offset, if any.
    pub offset: Option<DurationExpr>,
    /// `@`, if any.
    pub at: Option<At>,
}

/// Arithmetic on durations, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum DurationExpr {
    /// A number of seconds or a duration literal.
    Literal(NumberLiteral),
    /// `step()`.
    Step,
    /// `range()`.
    Range,
    /// `min_of(a, b)` (false) or `max_of(a, b)` (true).
    MinMax(bool, Box<DurationExpr>, Box<DurationExpr>),
    /// `-a`.
    Neg(Box<DurationExpr>),
    /// `a + b` and so on.
    Arith(ArithOp, Box<DurationExpr>, Box<DurationExpr>),
    /// `(a)`.
    Paren(Box<DurationExpr>),
}

/// Operators of duration expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ArithOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

impl ArithOp {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            ArithOp::Add => "+",
            ArithOp::Sub => "-",
            ArithOp::Mul => "*",
            ArithOp::Div => "/",
            ArithOp::Mod => "%",
            ArithOp::Pow => "^",
        }
    }
}

/// Binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Gt,
    Lt,
    Ge,
    Le,
    TrimUpper,
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Eq => "==",
            BinaryOp::Ne => "!=",
            BinaryOp::Gt => ">",
            BinaryOp::Lt => "<",
            BinaryOp::Ge => ">=",
            BinaryOp::Le => "<=",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
        }
    }
    /// `==` and its kin.
    pub fn is_comparison(self) -> bool {
        matches!(self, BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Gt | BinaryOp::Lt | BinaryOp::Ge | BinaryOp::Le)
    }
    /// `and`, `or`, `unless`.
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
    /// `</`, `>/`.
    pub fn is_trim(self) -> bool {
        matches!(self, BinaryOp::TrimUpper | BinaryOp::TrimLower)
    }
    /// Whether the result is another metric than the operand, so that its name goes.
    pub fn changes_schema(self) -> bool {
        !self.is_comparison() && !self.is_set() && !self.is_trim()
    }
    /// Binding strength; higher binds tighter.
    pub fn precedence(self) -> u8 {
        match self {
            BinaryOp::Or => 1,
            BinaryOp::And | BinaryOp::Unless => 2,
            op if op.is_comparison() || op.is_trim() => 3,
            BinaryOp::Add | BinaryOp::Sub => 4,
            BinaryOp::Pow => 6,
            _ => 5,
        }
    }
}

/// How many series of one side may match one of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cardinality {
    /// Neither side repeats a signature.
    #[default]
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// Matching of vector elements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    /// Cardinality.
    pub card: Cardinality,
    /// `on` rather than `ignoring`.
    pub on: bool,
    /// Labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Labels that `group_x` copies from the one side.
    pub include: Vec<String>,
    /// Value for a missing left side.
    pub fill_left: Option<f64>,
    /// Value for a missing right side.
    pub fill_right: Option<f64>,
}

/// `lhs op rhs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// Operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Expr,
    /// Right operand.
    pub rhs: Expr,
    /// `bool` modifier.
    pub return_bool: bool,
    /// Matching; present where both operands are vectors.
    pub matching: Option<Matching>,
}

/// A function call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The function.
    pub func: &'static Function,
    /// Its arguments.
    pub args: Vec<Expr>,
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    TopK,
    BottomK,
    CountValues,
    Quantile,
    LimitK,
    LimitRatio,
}

impl AggregateOp {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Sum => "sum",
            AggregateOp::Avg => "avg",
            AggregateOp::Count => "count",
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Group => "group",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::TopK => "topk",
            AggregateOp::BottomK => "bottomk",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Quantile => "quantile",
            AggregateOp::LimitK => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
        }
    }
    /// The operator of this (lower-case) name.
    pub fn by_name(s: &str) -> Option<Self> {
        use AggregateOp::*;
        [Sum, Avg, Count, Min, Max, Group, Stddev, Stdvar, TopK, BottomK, CountValues, Quantile, LimitK, LimitRatio]
            .into_iter()
            .find(|o| o.as_str() == s)
    }
    /// Whether a parameter comes before the vector.
    pub fn has_param(self) -> bool {
        use AggregateOp::*;
        matches!(self, TopK | BottomK | CountValues | Quantile | LimitK | LimitRatio)
    }
}

/// `op by (labels) (param, expr)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Operator.
    pub op: AggregateOp,
    /// What is aggregated.
    pub expr: Expr,
    /// Parameter of topk and the like.
    pub param: Option<Expr>,
    /// Grouping labels, as written.
    pub grouping: Vec<String>,
    /// `without` rather than `by`.
    pub without: bool,
}

impl Expr {
    /// A node.
    pub fn new(kind: ExprKind, span: Span) -> Self {
        Expr { kind, span }
    }

    /// The type it evaluates to.
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number(_) => ValueType::Scalar,
            ExprKind::String(_) => ValueType::String,
            ExprKind::Vector(_) | ExprKind::Aggregate(_) => ValueType::Vector,
            ExprKind::Matrix(_) | ExprKind::Subquery(_) => ValueType::Matrix,
            ExprKind::Paren(e) | ExprKind::Unary(_, e) => e.value_type(),
            ExprKind::Call(c) => c.func.returns,
            ExprKind::Binary(b) => {
                // Two scalars give a scalar; the flag avoids walking long chains twice.
                if b.matching.is_none() && b.lhs.value_type() == ValueType::Scalar && b.rhs.value_type() == ValueType::Scalar {
                    ValueType::Scalar
                } else {
                    ValueType::Vector
                }
            }
        }
    }

    /// The expression inside any parentheses.
    pub fn unparen(&self) -> &Expr {
        let mut e = self;
        while let ExprKind::Paren(inner) = &e.kind {
            e = inner;
        }
        e
    }

    /// The direct children.
    pub fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Vector(_) | ExprKind::Matrix(_) => vec![],
            ExprKind::Subquery(s) => vec![&s.expr],
            ExprKind::Paren(e) | ExprKind::Unary(_, e) => vec![e],
            ExprKind::Binary(b) => vec![&b.lhs, &b.rhs],
            ExprKind::Call(c) => c.args.iter().collect(),
            ExprKind::Aggregate(a) => a.param.iter().chain(std::iter::once(&a.expr)).collect(),
        }
    }

    /// Height of the tree; a leaf is 1. Iterative, so that it can guard recursion.
    pub fn height(&self) -> usize {
        let (mut max, mut stack) = (0, vec![(self, 1usize)]);
        while let Some((e, d)) = stack.pop() {
            max = max.max(d);
            stack.extend(e.children().into_iter().map(|c| (c, d + 1)));
        }
        max
    }
}
