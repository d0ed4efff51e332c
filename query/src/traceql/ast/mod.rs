//! A query as a tree. Printing it gives TraceQL again.

mod print;

use strandline_storage::read::{AttributeScope, Field};

use super::lexer::Scope;

pub use print::{duration_text, kind_name, status_name};

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Static {
    /// `nil`.
    Nil,
    /// Text.
    Str(String),
    /// Integer.
    Int(i64),
    /// Decimal number.
    Float(f64),
    /// Truth value.
    Bool(bool),
    /// Nanoseconds.
    Duration(i64),
    /// Status by number.
    Status(i64),
    /// Kind by number.
    Kind(i64),
}

/// A property of spans or traces that is no attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Intrinsic {
    Duration,
    Name,
    Status,
    StatusMessage,
    Kind,
    SpanId,
    ParentId,
    ChildCount,
    TraceId,
    TraceDuration,
    RootName,
    RootService,
    NestedSetLeft,
    NestedSetRight,
    NestedSetParent,
    EventName,
    EventTimeSinceStart,
    LinkTraceId,
    LinkSpanId,
    ScopeName,
    ScopeVersion,
    /// `parent`, reserved.
    Parent,
}

/// Name of each intrinsic as written first, and the other ways to write it.
pub const INTRINSICS: [(Intrinsic, &str, &str); 30] = {
    use Intrinsic::*;
    [
        (Duration, "duration", "span"),
        (Duration, "span:duration", "span"),
        (Name, "name", "span"),
        (Name, "span:name", "span"),
        (Status, "status", "span"),
        (Status, "span:status", "span"),
        (StatusMessage, "statusMessage", "span"),
        (StatusMessage, "span:statusMessage", "span"),
        (Kind, "kind", "span"),
        (Kind, "span:kind", "span"),
        (SpanId, "span:id", "span"),
        (ParentId, "span:parentID", "span"),
        (ChildCount, "span:childCount", "span"),
        (TraceId, "trace:id", "trace"),
        (TraceDuration, "traceDuration", "trace"),
        (TraceDuration, "trace:duration", "trace"),
        (RootName, "rootName", "trace"),
        (RootName, "trace:rootName", "trace"),
        (RootService, "rootServiceName", "trace"),
        (RootService, "trace:rootService", "trace"),
        (NestedSetLeft, "nestedSetLeft", "trace"),
        (NestedSetRight, "nestedSetRight", "trace"),
        (NestedSetParent, "nestedSetParent", "trace"),
        (EventName, "event:name", "event"),
        (EventTimeSinceStart, "event:timeSinceStart", "event"),
        (LinkTraceId, "link:traceID", "link"),
        (LinkSpanId, "link:spanID", "link"),
        (ScopeName, "instrumentation:name", "instrumentation"),
        (ScopeVersion, "instrumentation:version", "instrumentation"),
        (Parent, "parent", "span"),
    ]
};

impl Intrinsic {
    /// By any of its names.
    pub fn parse(name: &str) -> Option<Self> {
        INTRINSICS.iter().find(|i| i.1 == name).map(|i| i.0)
    }
    /// The name it is printed by.
    pub fn name(self) -> &'static str {
        INTRINSICS.iter().find(|i| i.0 == self).map_or("", |i| i.1)
    }
    /// Whether its value is the trace's.
    pub fn needs_whole_trace(self) -> bool {
        use Intrinsic::*;
        matches!(self, TraceDuration | RootName | RootService | NestedSetLeft | NestedSetRight | NestedSetParent | ChildCount)
    }
    /// The column it lies in, if it is one.
    pub fn field(self) -> Option<Field> {
        use Intrinsic::*;
        Some(match self {
            Name => Field::Name,
            Status => Field::Status,
            StatusMessage => Field::StatusMessage,
            Kind => Field::Kind,
            SpanId => Field::SpanId,
            ParentId => Field::ParentId,
            EventName => Field::EventName,
            EventTimeSinceStart => Field::EventTimeSinceStart,
            LinkTraceId => Field::LinkTraceId,
            LinkSpanId => Field::LinkSpanId,
            ScopeName => Field::ScopeName,
            ScopeVersion => Field::ScopeVersion,
            _ => return None,
        })
    }
}

/// What an expression refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attr {
    /// An attribute, of the span or of its parent.
    #[allow(missing_docs)]
    Attribute { parent: bool, scope: Scope, key: String },
    /// An intrinsic.
    Intrinsic(Intrinsic),
}

impl Attr {
    /// The attribute's key or the intrinsic's name, as results show it.
    pub fn short_name(&self) -> &str {
        match self {
            Attr::Attribute { key, .. } => key,
            Attr::Intrinsic(i) => i.name(),
        }
    }
    /// Scopes to look in, in order.
    pub fn scopes(scope: Scope) -> &'static [AttributeScope] {
        use AttributeScope::*;
        match scope {
            Scope::Any => &[Span, Resource, Event, Link, Instrumentation],
            Scope::Span => &[Span],
            Scope::Resource => &[Resource],
            Scope::Event => &[Event],
            Scope::Link => &[Link],
            Scope::Instrumentation => &[Instrumentation],
        }
    }
}

/// Operators between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Re,
    Nre,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    And,
    Or,
}

impl BinOp {
    /// Text of each.
    pub const ALL: [(BinOp, &'static str); 16] = [
        (BinOp::Eq, "="),
        (BinOp::Ne, "!="),
        (BinOp::Lt, "<"),
        (BinOp::Le, "<="),
        (BinOp::Gt, ">"),
        (BinOp::Ge, ">="),
        (BinOp::Re, "=~"),
        (BinOp::Nre, "!~"),
        (BinOp::Add, "+"),
        (BinOp::Sub, "-"),
        (BinOp::Mul, "*"),
        (BinOp::Div, "/"),
        (BinOp::Mod, "%"),
        (BinOp::Pow, "^"),
        (BinOp::And, "&&"),
        (BinOp::Or, "||"),
    ];
    /// By its text.
    pub fn parse(op: &str) -> Option<Self> {
        Self::ALL.iter().find(|o| o.1 == op).map(|o| o.0)
    }
    /// Its text.
    pub fn text(self) -> &'static str {
        Self::ALL.iter().find(|o| o.0 == self).map_or("", |o| o.1)
    }
    /// `= != < <= > >=`.
    pub fn is_comparison(self) -> bool {
        matches!(self, BinOp::Eq | BinOp::Ne | BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge)
    }
    /// `+ - * / % ^`.
    pub fn is_arithmetic(self) -> bool {
        matches!(self, BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div | BinOp::Mod | BinOp::Pow)
    }
    /// How strongly it binds, from the grammar.
    pub fn binding(self) -> u8 {
        match self {
            BinOp::And | BinOp::Or => 1,
            BinOp::Add | BinOp::Sub => 3,
            BinOp::Mul | BinOp::Div | BinOp::Mod => 5,
            BinOp::Pow => 6,
            _ => 2,
        }
    }
}

/// An expression over a span, and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub node: ExprNode,
    /// Byte offset in the query.
    pub at: usize,
}

/// Kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprNode {
    /// A literal.
    Static(Static),
    /// An attribute or intrinsic.
    Attr(Attr),
    /// `-x`.
    Neg(Box<Expr>),
    /// `!x`.
    Not(Box<Expr>),
    /// `x op y`.
    Binary(BinOp, Box<Expr>, Box<Expr>),
}

impl Expr {
    /// Calls `f` with each attribute and intrinsic.
    pub fn each_attr<'a>(&'a self, f: &mut dyn FnMut(&'a Attr)) {
        match &self.node {
            ExprNode::Static(_) => {}
            ExprNode::Attr(a) => f(a),
            ExprNode::Neg(e) | ExprNode::Not(e) => e.each_attr(f),
            ExprNode::Binary(_, l, r) => {
                l.each_attr(f);
                r.each_attr(f);
            }
        }
    }
}

/// Operators between two sets of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOp {
    /// `&&`.
    And,
    /// `||`.
    Or,
    /// A relation; `!` negates it, `&` keeps the spans of both sides.
    #[allow(missing_docs)]
    Relation { relation: Relation, negated: bool, union: bool },
}

/// How spans of the right side relate to those of the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `>`: right is a child of left.
    Child,
    /// `<`: right is the parent of left.
    Parent,
    /// `>>`: right descends from left.
    Descendant,
    /// `<<`: right is an ancestor of left.
    Ancestor,
    /// `~`: right has the same parent as left.
    Sibling,
}

const RELATIONS: [(&str, Relation); 5] =
    [(">>", Relation::Descendant), ("<<", Relation::Ancestor), (">", Relation::Child), ("<", Relation::Parent), ("~", Relation::Sibling)];

impl SetOp {
    /// By its text.
    pub fn parse(op: &str) -> Option<Self> {
        match op {
            "&&" => return Some(SetOp::And),
            "||" => return Some(SetOp::Or),
            _ => {}
        }
        let (bare, negated, union) = match op.as_bytes().first()? {
            b'!' => (&op[1..], true, false),
            b'&' => (&op[1..], false, true),
            _ => (op, false, false),
        };
        RELATIONS.iter().find(|r| r.0 == bare).map(|r| SetOp::Relation { relation: r.1, negated, union })
    }
    fn text(self) -> String {
        match self {
            SetOp::And => "&&".into(),
            SetOp::Or => "||".into(),
            SetOp::Relation { relation, negated, union } => {
                let bare = RELATIONS.iter().find(|r| r.1 == relation).map_or("", |x| x.0);
                format!("{}{bare}", if negated { "!" } else { if union { "&" } else { "" } })
            }
        }
    }
}

/// An expression that gives sets of spans.
#[derive(Clone, Debug, PartialEq)]
pub enum SetExpr {
    /// `{ expr }`; none: `{}`.
    Filter(Option<Expr>),
    /// `a op b`.
    Op(SetOp, Box<SetExpr>, Box<SetExpr>),
    /// `( pipeline )`.
    Wrapped(Pipeline),
}

/// `count()` and its like.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Which.
    pub op: AggregateOp,
    /// Of what; none for `count()`.
    pub of: Option<Expr>,
}

/// Aggregates of a set of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AggregateOp {
    Count,
    Avg,
    Min,
    Max,
    Sum,
}

impl AggregateOp {
    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "count" => AggregateOp::Count,
            "avg" => AggregateOp::Avg,
            "min" => AggregateOp::Min,
            "max" => AggregateOp::Max,
            "sum" => AggregateOp::Sum,
            _ => return None,
        })
    }
    fn name(self) -> &'static str {
        match self {
            AggregateOp::Count => "count",
            AggregateOp::Avg => "avg",
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Sum => "sum",
        }
    }
}

/// A number made of aggregates and literals.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// An aggregate.
    Aggregate(Aggregate, usize),
    /// A number.
    Static(Static),
    /// `a op b`.
    Binary(BinOp, Box<Scalar>, Box<Scalar>),
    /// `( pipeline | aggregate )`, reserved.
    Pipeline(Box<Pipeline>, Box<Scalar>),
}

impl Scalar {
    /// Whether an aggregate is in it.
    pub fn has_aggregate(&self) -> bool {
        match self {
            Scalar::Aggregate(..) | Scalar::Pipeline(..) => true,
            Scalar::Static(_) => false,
            Scalar::Binary(_, l, r) => l.has_aggregate() || r.has_aggregate(),
        }
    }
}

/// A step of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Spans that satisfy an expression.
    Set(SetExpr),
    /// `by(expr)`.
    Group(Expr),
    /// `coalesce()`.
    Coalesce,
    /// `select(…)`.
    Select(Vec<Attr>),
    /// `aggregate op number`.
    Scalar(BinOp, Scalar, Scalar, usize),
}

/// Steps, one after the other.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Pipeline {
    /// First to last.
    pub stages: Vec<Stage>,
}

/// A metrics function.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum MetricsOp {
    Rate,
    CountOverTime,
    MinOverTime(Attr),
    MaxOverTime(Attr),
    AvgOverTime(Attr),
    SumOverTime(Attr),
    QuantileOverTime(Attr, Vec<f64>),
    HistogramOverTime(Attr),
    Compare(Comparison),
}

/// `compare({selection}, top, start, end)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Spans to be compared with all the others; none: all.
    pub selection: Option<Expr>,
    /// Values kept of each attribute.
    pub top: u64,
    /// Start of the selection, Unix nanoseconds; 0 with `end_nano` 0: all of the query's range.
    pub start_nano: u64,
    /// End of the selection, Unix nanoseconds.
    pub end_nano: u64,
}

/// A pipeline whose spans a metrics function counts.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsQuery {
    /// What chooses the spans.
    pub pipeline: Pipeline,
    /// What is made of them.
    pub op: MetricsOp,
    /// Labels.
    pub by: Vec<Attr>,
    /// Where the function begins.
    pub at: usize,
}

/// An expression that gives series.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsExpr {
    /// A query of spans.
    Query(MetricsQuery),
    /// A number.
    Const(f64),
    /// `a op b`.
    Math(BinOp, Box<MetricsExpr>, Box<MetricsExpr>),
    /// `topk(n)` or `bottomk(n)`: the `n` largest or smallest series at each time. `at` is its byte offset.
    #[allow(missing_docs)]
    TopK { largest: bool, n: u64, of: Box<MetricsExpr>, at: usize },
    /// Samples that satisfy a comparison with a number.
    #[allow(missing_docs)]
    Filter { op: BinOp, bound: f64, of: Box<MetricsExpr> },
}

/// What a query asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Root {
    /// Traces.
    Spansets(Pipeline),
    /// Series.
    Metrics(MetricsExpr),
    /// A scalar filter that is reserved; checked, then refused.
    Reserved(Vec<Scalar>, usize),
}

/// A parsed query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What it asks for.
    pub root: Root,
    /// `with(name=value, …)`.
    pub hints: Vec<(String, Static)>,
}
