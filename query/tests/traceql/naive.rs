//! TraceQL evaluated as plainly as it can be said: span by span, pair by pair, values as they were sent. Shares
//! nothing with the evaluator under test: queries are built here and printed, and only the text is handed over.

use std::collections::BTreeMap;
use std::fmt;

use strandline_storage::model::{AttributeValue, Attributes, Span, Trace};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum V {
    Nil,
    Str(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nanos(i64),
    Status(i32),
    Kind(i32),
    Many(Vec<V>),
    Odd,
}

const STATUS: [&str; 3] = ["unset", "ok", "error"];
const KIND: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];

impl fmt::Display for V {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            V::Nil => write!(f, "nil"),
            V::Str(s) => write!(f, "{s:?}"),
            V::Int(i) => write!(f, "{i}"),
            V::Float(x) => write!(f, "{x:?}"),
            V::Bool(b) => write!(f, "{b}"),
            V::Nanos(n) => write!(f, "{n}ns"),
            V::Status(s) => write!(f, "{}", STATUS[*s as usize]),
            V::Kind(k) => write!(f, "{}", KIND[*k as usize]),
            V::Many(_) | V::Odd => write!(f, "?"),
        }
    }
}

impl V {
    fn number(&self) -> Option<f64> {
        match self {
            V::Int(i) | V::Nanos(i) => Some(*i as f64),
            V::Float(f) => Some(*f),
            _ => None,
        }
    }
    /// As a label or a group shows it.
    pub fn label(&self) -> String {
        match self {
            V::Str(s) => s.clone(),
            V::Float(f) => f.to_string(),
            other => other.to_string(),
        }
    }
}

fn of(v: &AttributeValue) -> V {
    match v {
        AttributeValue::String(s) => V::Str(s.clone()),
        AttributeValue::Int(i) => V::Int(*i),
        AttributeValue::Double(d) => V::Float(*d),
        AttributeValue::Bool(b) => V::Bool(*b),
        AttributeValue::Array(a) => V::Many(a.iter().map(of).collect()),
        _ => V::Odd,
    }
}

/// What an expression refers to, by its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field(pub &'static str);

/// An expression over a span.
#[derive(Clone, Debug)]
pub enum E {
    Lit(V),
    Field(Field),
    Compare(&'static str, Box<E>, Box<E>),
    /// By pattern; the patterns are few, and each is written out below.
    Matches(bool, Field, &'static str),
    Math(char, Box<E>, Box<E>),
    And(Box<E>, Box<E>),
    Or(Box<E>, Box<E>),
    Not(Box<E>),
}

impl fmt::Display for E {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            E::Lit(v) => write!(f, "{v}"),
            E::Field(Field(n)) => write!(f, "{n}"),
            E::Compare(op, a, b) => write!(f, "({a} {op} {b})"),
            E::Matches(no, Field(n), p) => write!(f, "({n} {} {p:?})", if *no { "!~" } else { "=~" }),
            E::Math(op, a, b) => write!(f, "({a} {op} {b})"),
            E::And(a, b) => write!(f, "({a} && {b})"),
            E::Or(a, b) => write!(f, "({a} || {b})"),
            E::Not(e) => write!(f, "!({e})"),
        }
    }
}

/// Patterns and what they match, whole.
pub const PATTERNS: [&str; 6] = [".*", "v[12]", "op0|op2", "s.+", "", "v1"];

fn matches(pattern: &str, s: &str) -> bool {
    match pattern {
        ".*" => true,
        "v[12]" => s == "v1" || s == "v2",
        "op0|op2" => s == "op0" || s == "op2",
        "s.+" => s.len() > 1 && s.starts_with('s'),
        plain => s == plain,
    }
}

/// A set of spans of each trace.
#[derive(Clone, Debug)]
pub enum S {
    Filter(Option<E>),
    And(Box<S>, Box<S>),
    Or(Box<S>, Box<S>),
    /// Operator with its `!` or `&`.
    Relation(&'static str, Box<S>, Box<S>),
}

impl fmt::Display for S {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            S::Filter(None) => write!(f, "{{}}"),
            S::Filter(Some(e)) => write!(f, "{{ {e} }}"),
            S::And(a, b) => write!(f, "({a} && {b})"),
            S::Or(a, b) => write!(f, "({a} || {b})"),
            S::Relation(op, a, b) => write!(f, "({a} {op} {b})"),
        }
    }
}

/// A step of a pipeline.
#[derive(Clone, Debug)]
pub enum Step {
    Set(S),
    By(Field),
    Coalesce,
    /// Function, of what (none for `count()`), comparison, bound.
    Aggregate(&'static str, Option<E>, &'static str, V),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Set(s) => write!(f, "{s}"),
            Step::By(Field(n)) => write!(f, "by({n})"),
            Step::Coalesce => write!(f, "coalesce()"),
            Step::Aggregate(name, None, op, v) => write!(f, "{name}() {op} {v}"),
            Step::Aggregate(name, Some(e), op, v) => write!(f, "{name}({e}) {op} {v}"),
        }
    }
}

/// A pipeline as text.
pub fn text(steps: &[Step]) -> String {
    steps.iter().map(Step::to_string).collect::<Vec<_>>().join(" | ")
}

/// A trace with what follows from who is whose parent.
pub struct Tree<'a> {
    pub trace: &'a Trace,
    /// Of spans that a root leads to: the parent's index.
    parent: Vec<Option<usize>>,
    connected: Vec<bool>,
    numbers: Vec<[i64; 3]>,
}

impl<'a> Tree<'a> {
    pub fn new(trace: &'a Trace) -> Self {
        let spans = &trace.spans;
        let named: Vec<Option<usize>> =
            spans.iter().map(|s| s.parent_span_id.and_then(|p| spans.iter().position(|x| x.span_id == p))).collect();
        let leads = |i: usize| {
            let mut at = i;
            for _ in 0..=spans.len() {
                if spans[at].parent_span_id.is_none() {
                    return true;
                }
                match named[at] {
                    Some(p) => at = p,
                    None => return false,
                }
            }
            false
        };
        let connected: Vec<bool> = (0..spans.len()).map(leads).collect();
        let parent = (0..spans.len()).map(|i| named[i].filter(|_| connected[i])).collect();
        let mut t = Tree { trace, parent, connected, numbers: vec![[0; 3]; spans.len()] };
        let mut next = 1;
        for r in (0..spans.len()).filter(|i| spans[*i].parent_span_id.is_none()) {
            t.count(r, -1, &mut next);
        }
        t
    }

    fn count(&mut self, i: usize, parent: i64, next: &mut i64) {
        let left = *next;
        *next += 1;
        let children: Vec<usize> = (0..self.parent.len()).filter(|c| self.parent[*c] == Some(i)).collect();
        for c in children {
            self.count(c, left, next);
        }
        self.numbers[i] = [left, *next, parent];
        *next += 1;
    }

    fn is_below(&self, low: usize, high: usize) -> bool {
        let mut at = low;
        while let Some(p) = self.parent[at] {
            if p == high {
                return true;
            }
            at = p;
        }
        false
    }

    /// Whether `right` stands to `left` as the operator says.
    fn relates(&self, op: &str, left: usize, right: usize) -> bool {
        if !self.connected[left] || !self.connected[right] {
            return false;
        }
        match op {
            ">" => self.parent[right] == Some(left),
            "<" => self.parent[left] == Some(right),
            ">>" => self.is_below(right, left),
            "<<" => self.is_below(left, right),
            _ => left != right && self.parent[left].is_some() && self.parent[left] == self.parent[right],
        }
    }

    fn root(&self) -> Option<&Span> {
        self.trace.spans.iter().find(|s| s.parent_span_id.is_none())
    }

    fn ends(&self) -> (u64, u64) {
        let start = self.trace.spans.iter().map(|s| s.start_unix_nano).min().unwrap_or(0);
        (start, self.trace.spans.iter().map(|s| s.end_unix_nano.max(s.start_unix_nano)).max().unwrap_or(0))
    }

    pub fn start(&self) -> u64 {
        self.ends().0
    }

    pub fn duration(&self) -> u64 {
        self.ends().1 - self.ends().0
    }

    /// A field of a span.
    pub fn field(&self, i: usize, f: Field) -> V {
        let s = &self.trace.spans[i];
        let get = |a: &Attributes, k: &str| a.iter().find(|x| x.0 == k).map_or(V::Nil, |x| of(&x.1));
        let many = |v: Vec<V>| {
            let v: Vec<V> = v.into_iter().filter(|v| *v != V::Nil).collect();
            if v.is_empty() { V::Nil } else { V::Many(v) }
        };
        let hex = |b: &[u8]| V::Str(b.iter().map(|b| format!("{b:02x}")).collect());
        let events = |k: &str| many(s.events.iter().map(|e| get(&e.attributes, k)).collect());
        let links = |k: &str| many(s.links.iter().map(|l| get(&l.attributes, k)).collect());
        if let Some(k) = f.0.strip_prefix('.') {
            let all = [get(&s.attributes, k), get(&s.resource.attributes, k), events(k), links(k), get(&s.scope.attributes, k)];
            return all.into_iter().find(|v| *v != V::Nil).unwrap_or(V::Nil);
        }
        if let Some((scope, k)) = f.0.split_once('.') {
            return match scope {
                "span" => get(&s.attributes, k),
                "resource" => get(&s.resource.attributes, k),
                "event" => events(k),
                "link" => links(k),
                _ => get(&s.scope.attributes, k),
            };
        }
        match f.0 {
            "name" | "span:name" => V::Str(s.name.clone()),
            "status" => V::Status(s.status_code),
            "statusMessage" => V::Str(s.status_message.clone()),
            "kind" => V::Kind(s.kind),
            "duration" => V::Nanos(s.end_unix_nano.saturating_sub(s.start_unix_nano) as i64),
            "span:id" => hex(&s.span_id.0),
            "span:parentID" => s.parent_span_id.map_or(V::Nil, |p| hex(&p.0)),
            "span:childCount" => V::Int(self.parent.iter().filter(|p| **p == Some(i)).count() as i64),
            "trace:id" => unpadded(&hex(&self.trace.trace_id.0)),
            "traceDuration" => V::Nanos(self.duration() as i64),
            "rootName" => self.root().map_or(V::Nil, |r| V::Str(r.name.clone())),
            "rootServiceName" => self.root().map_or(V::Nil, |r| get(&r.resource.attributes, "service.name")),
            "nestedSetLeft" => V::Int(self.numbers[i][0]),
            "nestedSetRight" => V::Int(self.numbers[i][1]),
            "nestedSetParent" => V::Int(self.numbers[i][2]),
            "event:name" => many(s.events.iter().map(|e| V::Str(e.name.clone())).collect()),
            "event:timeSinceStart" => many(s.events.iter().map(|e| V::Nanos(e.time_unix_nano as i64 - s.start_unix_nano as i64)).collect()),
            "link:traceID" => many(s.links.iter().map(|l| hex(&l.trace_id)).collect()),
            "link:spanID" => many(s.links.iter().map(|l| hex(&l.span_id)).collect()),
            "instrumentation:name" => V::Str(s.scope.name.clone()),
            other => panic!("no field {other}"),
        }
    }

    fn expr(&self, i: usize, e: &E) -> V {
        match e {
            E::Lit(v) => v.clone(),
            E::Field(f) => self.field(i, *f),
            E::Compare(op, a, b) => {
                let (mut x, mut y) = (self.expr(i, a), self.expr(i, b));
                // Ids of traces are compared without the zeros before them.
                match (&**a, &**b) {
                    (E::Field(Field("trace:id")), E::Lit(_)) => y = unpadded(&y),
                    (E::Lit(_), E::Field(Field("trace:id"))) => x = unpadded(&x),
                    _ => {}
                }
                V::Bool(compare(op, &x, &y, is_nil(a) || is_nil(b)))
            }
            E::Matches(no, f, p) => V::Bool(match self.field(i, *f) {
                V::Str(s) => matches(p, &s) != *no,
                V::Many(m) => {
                    let texts: Vec<bool> = m.iter().filter_map(|v| if let V::Str(s) = v { Some(matches(p, s)) } else { None }).collect();
                    if *no { !texts.is_empty() && !texts.contains(&true) } else { texts.contains(&true) }
                }
                _ => false,
            }),
            E::Math(op, a, b) => math(*op, &self.expr(i, a), &self.expr(i, b)),
            E::And(a, b) => V::Bool(self.holds(i, a) && self.holds(i, b)),
            E::Or(a, b) => V::Bool(match self.expr(i, a) {
                V::Bool(held) => held || self.holds(i, b),
                _ => false,
            }),
            E::Not(e) => V::Bool(self.expr(i, e) == V::Bool(false)),
        }
    }

    fn holds(&self, i: usize, e: &E) -> bool {
        self.expr(i, e) == V::Bool(true)
    }

    /// The spans of the set among `of`.
    fn set(&self, s: &S, of: &[usize]) -> Vec<usize> {
        let sorted = |mut v: Vec<usize>| {
            v.sort_unstable();
            v.dedup();
            v
        };
        match s {
            S::Filter(None) => of.to_vec(),
            S::Filter(Some(e)) => of.iter().copied().filter(|i| self.holds(*i, e)).collect(),
            S::And(a, b) => match (self.set(a, of), self.set(b, of)) {
                (a, b) if a.is_empty() || b.is_empty() => Vec::new(),
                (a, b) => sorted([a, b].concat()),
            },
            S::Or(a, b) => sorted([self.set(a, of), self.set(b, of)].concat()),
            S::Relation(op, a, b) => {
                let (left, right) = (self.set(a, of), self.set(b, of));
                let bare = op.trim_start_matches(['!', '&']);
                let hit = |r: &usize| left.iter().any(|l| self.relates(bare, *l, *r));
                if op.starts_with('!') {
                    return right.into_iter().filter(|r| !hit(r)).collect();
                }
                let found: Vec<usize> = right.iter().copied().filter(hit).collect();
                if !op.starts_with('&') {
                    return found;
                }
                let partners: Vec<usize> = left.iter().copied().filter(|l| right.iter().any(|r| self.relates(bare, *l, *r))).collect();
                sorted([found, partners].concat())
            }
        }
    }

    /// The sets that a pipeline leaves: spans, and what was said of each.
    pub fn run(&self, steps: &[Step]) -> Vec<(Vec<usize>, Vec<String>)> {
        let mut sets = vec![((0..self.trace.spans.len()).collect::<Vec<_>>(), Vec::new())];
        for step in steps {
            sets = match step {
                Step::Set(s) => sets.into_iter().map(|(rows, said)| (self.set(s, &rows), said)).collect(),
                Step::By(f) => sets.iter().flat_map(|set| self.group(set, *f)).collect(),
                Step::Coalesce => {
                    let mut all: Vec<usize> = sets.into_iter().flat_map(|s| s.0).collect();
                    all.sort_unstable();
                    all.dedup();
                    vec![(all, Vec::new())]
                }
                Step::Aggregate(name, e, op, bound) => {
                    let mut kept = Vec::new();
                    for (rows, mut said) in sets {
                        let v = self.aggregate(name, e.as_ref(), &rows);
                        if compare(op, &v, bound, false) {
                            said.push(name.to_string());
                            kept.push((rows, said));
                        }
                    }
                    kept
                }
            };
            sets.retain(|s| !s.0.is_empty());
        }
        sets
    }

    fn group(&self, (rows, said): &(Vec<usize>, Vec<String>), f: Field) -> Vec<(Vec<usize>, Vec<String>)> {
        let mut groups: BTreeMap<String, (V, Vec<usize>)> = BTreeMap::new();
        for i in rows {
            let v = self.field(*i, f);
            groups.entry(format!("{v:?}")).or_insert_with(|| (v, Vec::new())).1.push(*i);
        }
        groups.into_values().map(|(v, rows)| (rows, said.iter().cloned().chain([format!("by({})={}", f.0, v.label())]).collect())).collect()
    }

    fn aggregate(&self, name: &str, e: Option<&E>, rows: &[usize]) -> V {
        let Some(e) = e else { return V::Int(rows.len() as i64) };
        let values: Vec<V> = rows.iter().map(|i| self.expr(*i, e)).filter(|v| v.number().is_some()).collect();
        let numbers: Vec<f64> = values.iter().filter_map(V::number).collect();
        if numbers.is_empty() {
            return V::Nil;
        }
        V::Float(match name {
            "min" => numbers.iter().copied().fold(f64::INFINITY, f64::min),
            "max" => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            "sum" => numbers.iter().sum(),
            _ => numbers.iter().sum::<f64>() / numbers.len() as f64,
        })
    }
}

fn unpadded(v: &V) -> V {
    match v {
        V::Str(s) => V::Str(s.trim_start_matches('0').to_owned()),
        other => other.clone(),
    }
}

fn is_nil(e: &E) -> bool {
    matches!(e, E::Lit(V::Nil))
}

/// A comparison; `with_nil` if one side is the word nil, which asks for absence.
fn compare(op: &str, a: &V, b: &V, with_nil: bool) -> bool {
    if with_nil {
        let absent = *a == V::Nil && *b == V::Nil;
        return if op == "=" { absent } else { op == "!=" && !absent };
    }
    if let V::Many(items) = a {
        let comparable: Vec<&V> = items.iter().filter(|v| order(v, b).is_some()).collect();
        return match op {
            "!=" => !comparable.is_empty() && comparable.iter().all(|v| compare(op, v, b, false)),
            _ => comparable.iter().any(|v| compare(op, v, b, false)),
        };
    }
    if matches!(b, V::Many(_)) {
        let mirrored = match op {
            "<" => ">",
            "<=" => ">=",
            ">" => "<",
            ">=" => "<=",
            same => same,
        };
        return compare(mirrored, b, a, false);
    }
    use std::cmp::Ordering::*;
    let ordered = a.number().is_some() || matches!(a, V::Str(_));
    match (order(a, b), op) {
        (None, _) => false,
        (Some(o), "=") => o == Equal,
        (Some(o), "!=") => o != Equal,
        (Some(o), "<") => ordered && o == Less,
        (Some(o), "<=") => ordered && o != Greater,
        (Some(o), ">") => ordered && o == Greater,
        (Some(o), _) => ordered && o != Less,
    }
}

fn order(a: &V, b: &V) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (V::Str(a), V::Str(b)) => Some(a.cmp(b)),
        (V::Bool(a), V::Bool(b)) => Some(a.cmp(b)),
        (V::Status(a), V::Status(b)) | (V::Kind(a), V::Kind(b)) => Some(a.cmp(b)),
        _ => a.number()?.partial_cmp(&b.number()?),
    }
}

/// Sums, differences and products, and quotients by what is not zero.
fn math(op: char, a: &V, b: &V) -> V {
    let whole = |v: &V| match v {
        V::Int(i) | V::Nanos(i) => Some(*i),
        _ => None,
    };
    let ints = matches!((a, b), (V::Int(_), V::Int(_)));
    if let (Some(x), Some(y), true) = (whole(a), whole(b), ints || op != '/') {
        let v = match op {
            '+' => x + y,
            '-' => x - y,
            '*' => x * y,
            _ => x / y,
        };
        return if ints { V::Int(v) } else { V::Nanos(v) };
    }
    let (Some(x), Some(y)) = (a.number(), b.number()) else { return V::Nil };
    V::Float(match op {
        '+' => x + y,
        '-' => x - y,
        '*' => x * y,
        _ => x / y,
    })
}
