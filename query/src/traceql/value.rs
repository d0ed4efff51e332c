//! Values while a query is evaluated, and what operators make of them.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use strandline_storage::model::Regex;
use strandline_storage::read::Value;

use super::ast::{BinOp, Static, kind_name, status_name};
use super::error::{Result, TraceQlError};

/// A value of an expression for one span.
#[derive(Clone, Debug, PartialEq)]
pub enum Val {
    /// There is none.
    Nil,
    /// Text.
    Str(Arc<str>),
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
    /// Several.
    Array(Arc<[Val]>),
    /// A value of a type that no operator takes.
    Other,
}

impl From<&Value> for Val {
    fn from(v: &Value) -> Self {
        match v {
            Value::Nil => Val::Nil,
            Value::String(s) => Val::Str(s.clone()),
            Value::Int(i) => Val::Int(*i),
            Value::Float(f) => Val::Float(*f),
            Value::Bool(b) => Val::Bool(*b),
            Value::Array(a) => Val::Array(a.iter().map(Val::from).collect()),
            Value::Other => Val::Other,
        }
    }
}

impl From<&Static> for Val {
    fn from(s: &Static) -> Self {
        match s {
            Static::Nil => Val::Nil,
            Static::Str(s) => Val::Str(Arc::from(s.as_str())),
            Static::Int(i) => Val::Int(*i),
            Static::Float(f) => Val::Float(*f),
            Static::Bool(b) => Val::Bool(*b),
            Static::Duration(d) => Val::Duration(*d),
            Static::Status(s) => Val::Status(*s),
            Static::Kind(k) => Val::Kind(*k),
        }
    }
}

impl Val {
    /// As a number; durations in nanoseconds.
    pub fn number(&self) -> Option<f64> {
        match self {
            Val::Int(i) | Val::Duration(i) => Some(*i as f64),
            Val::Float(f) => Some(*f),
            _ => None,
        }
    }
    fn int(&self) -> Option<i64> {
        match self {
            Val::Int(i) | Val::Duration(i) => Some(*i),
            _ => None,
        }
    }
    /// As results show it.
    pub fn text(&self) -> String {
        match self {
            Val::Nil => "nil".into(),
            Val::Str(s) => s.to_string(),
            Val::Int(i) => i.to_string(),
            Val::Float(f) => f.to_string(),
            Val::Bool(b) => b.to_string(),
            Val::Duration(d) => super::ast::duration_text(*d),
            Val::Status(s) => status_name(*s).into(),
            Val::Kind(k) => kind_name(*k).into(),
            Val::Array(a) => format!("[{}]", a.iter().map(Val::text).collect::<Vec<_>>().join(", ")),
            Val::Other => "other".into(),
        }
    }
    /// What labels, groups and results show: a value that the language has no words for is none.
    pub fn shown(&self) -> &Val {
        if *self == Val::Other { &Val::Nil } else { self }
    }
    /// What tells types apart whose values read alike.
    pub fn tag(&self) -> u8 {
        match self {
            Val::Nil => 0,
            Val::Str(_) => 1,
            Val::Int(_) => 2,
            Val::Float(_) => 3,
            Val::Bool(_) => 4,
            Val::Duration(_) => 5,
            Val::Status(_) => 6,
            Val::Kind(_) => 7,
            Val::Array(_) => 8,
            Val::Other => 9,
        }
    }
    /// Whether the two are one and the same, to the sign of a zero.
    fn is(&self, other: &Val) -> bool {
        match (self, other) {
            (Val::Float(a), Val::Float(b)) => a.to_bits() == b.to_bits(),
            (Val::Array(a), Val::Array(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.is(b)),
            (a, b) => a == b,
        }
    }
    fn hash_into<H: Hasher>(&self, h: &mut H) {
        h.write_u8(self.tag());
        match self {
            Val::Str(s) => s.hash(h),
            Val::Int(i) | Val::Duration(i) | Val::Status(i) | Val::Kind(i) => i.hash(h),
            Val::Float(f) => f.to_bits().hash(h),
            Val::Bool(b) => b.hash(h),
            Val::Array(a) => a.iter().for_each(|v| v.hash_into(h)),
            Val::Nil | Val::Other => {}
        }
    }
    /// Bytes it takes, about.
    pub fn bytes(&self) -> usize {
        match self {
            Val::Str(s) => s.len(),
            Val::Array(a) => a.iter().map(Val::bytes).sum(),
            _ => 8,
        }
    }
    /// A total order over all values, for results that are the same each time: numbers first, the rest by its text.
    pub fn total_cmp(&self, other: &Val) -> Ordering {
        let by_number = match (self.number(), other.number()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        by_number.then_with(|| self.text().cmp(&other.text())).then_with(|| self.tag().cmp(&other.tag()))
    }
}

/// A value that is counted apart from all that differ from it, be it in type or in the sign of a zero.
#[derive(Clone, Debug)]
pub struct Distinct(pub Val);

impl PartialEq for Distinct {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Eq for Distinct {}

impl Hash for Distinct {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.0.hash_into(h);
    }
}

/// A regex of a query: RE2's syntax, matching the whole text.
pub fn regex(pattern: &str) -> std::result::Result<Regex, String> {
    Regex::anchored(pattern).map_err(|e| e.to_string())
}

/// A comparison's outcome between single values; none if their types differ.
fn order(a: &Val, b: &Val) -> Option<Ordering> {
    if let (Some(a), Some(b)) = (a.int(), b.int()) {
        return Some(a.cmp(&b));
    }
    if let (Some(a), Some(b)) = (a.number(), b.number()) {
        return a.partial_cmp(&b);
    }
    match (a, b) {
        (Val::Str(a), Val::Str(b)) => Some(a.cmp(b)),
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Status(a), Val::Status(b)) | (Val::Kind(a), Val::Kind(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn same_type(a: &Val, b: &Val) -> bool {
    (a.number().is_some() && b.number().is_some()) || std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// Whether `a op b` holds, where `op` is a comparison. A missing value and types that differ satisfy nothing; of an
/// array any element may, and all must for `!=`.
pub fn compare(op: BinOp, a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Nil, _) | (_, Val::Nil) => false,
        (Val::Array(a), b) => any_or_all(op == BinOp::Ne, a.iter().filter(|a| same_type(a, b)).map(|a| compare(op, a, b))),
        (a, Val::Array(b)) => any_or_all(op == BinOp::Ne, b.iter().filter(|b| same_type(a, b)).map(|b| compare(op, a, b))),
        _ => {
            // Ordering says nothing of truth values, states and kinds.
            let orderable = a.number().is_some() || matches!(a, Val::Str(_));
            match (op, order(a, b)) {
                (BinOp::Ne, None) => a.number().is_some() && b.number().is_some(),
                (_, None) => false,
                (BinOp::Eq | BinOp::Ne, Some(o)) => holds(op, o),
                (_, Some(o)) => orderable && holds(op, o),
            }
        }
    }
}

/// Whether a comparison holds of values in this order.
pub fn holds(op: BinOp, o: Ordering) -> bool {
    match op {
        BinOp::Eq => o == Ordering::Equal,
        BinOp::Ne => o != Ordering::Equal,
        BinOp::Lt => o == Ordering::Less,
        BinOp::Le => o != Ordering::Greater,
        BinOp::Gt => o == Ordering::Greater,
        BinOp::Ge => o != Ordering::Less,
        _ => false,
    }
}

fn any_or_all(all: bool, mut held: impl Iterator<Item = bool>) -> bool {
    if !all {
        return held.any(|h| h);
    }
    // None of no comparable elements is no answer.
    let mut some = false;
    held.all(|h| {
        some = true;
        h
    }) && some
}

/// Whether a value matches a regex (or, negated, does not). Only text does either.
pub fn matches(negated: bool, v: &Val, regex: &Regex) -> bool {
    match v {
        Val::Str(s) => regex.is_match(s) != negated,
        Val::Array(a) => any_or_all(negated, a.iter().filter(|v| matches!(v, Val::Str(_))).map(|v| matches(negated, v, regex))),
        _ => false,
    }
}

/// `a op b` for arithmetic; nil if either is no number. Whole numbers stay whole; durations make durations where they
/// are added or multiplied, and are divided as decimal numbers are.
pub fn arithmetic(op: BinOp, a: &Val, b: &Val) -> Result<Val> {
    let whole = matches!((a, b), (Val::Int(_), Val::Int(_)));
    let scaled = matches!(op, BinOp::Add | BinOp::Sub | BinOp::Mul);
    if let (Some(x), Some(y), true) = (a.int(), b.int(), whole || scaled) {
        let v = match op {
            BinOp::Add => x.wrapping_add(y),
            BinOp::Sub => x.wrapping_sub(y),
            BinOp::Mul => x.wrapping_mul(y),
            BinOp::Div | BinOp::Mod if y == 0 => return Err(TraceQlError::evaluation("division by zero")),
            BinOp::Div => x.wrapping_div(y),
            BinOp::Mod => x.wrapping_rem(y),
            _ => (x as f64).powf(y as f64) as i64,
        };
        return Ok(if whole { Val::Int(v) } else { Val::Duration(v) });
    }
    let (Some(x), Some(y)) = (a.number(), b.number()) else { return Ok(Val::Nil) };
    Ok(Val::Float(match op {
        BinOp::Add => x + y,
        BinOp::Sub => x - y,
        BinOp::Mul => x * y,
        BinOp::Div => x / y,
        BinOp::Mod => x % y,
        _ => x.powf(y),
    }))
}

/// `-v`; nil if it is no number.
pub fn negate(v: &Val) -> Val {
    match v {
        Val::Int(i) => Val::Int(i.wrapping_neg()),
        Val::Duration(d) => Val::Duration(d.wrapping_neg()),
        Val::Float(f) => Val::Float(-f),
        _ => Val::Nil,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(v: &str) -> Val {
        Val::Str(Arc::from(v))
    }

    #[test]
    fn missing_values_and_other_types_satisfy_nothing() {
        for op in [BinOp::Eq, BinOp::Ne, BinOp::Lt, BinOp::Ge] {
            assert!(!compare(op, &Val::Nil, &Val::Int(1)));
            assert!(!compare(op, &s("1"), &Val::Int(1)));
        }
        assert!(compare(BinOp::Eq, &Val::Int(2), &Val::Float(2.0)));
        assert!(compare(BinOp::Lt, &Val::Int(1), &Val::Duration(2)));
        assert!(!compare(BinOp::Eq, &Val::Int(2), &Val::Status(2)));
        assert!(!compare(BinOp::Lt, &Val::Status(1), &Val::Status(2)));
        assert!(compare(BinOp::Ne, &Val::Float(f64::NAN), &Val::Int(2)));
        assert!(
            compare(BinOp::Eq, &Val::Int(i64::MAX), &Val::Int(i64::MAX))
                && !compare(BinOp::Eq, &Val::Int(i64::MAX), &Val::Int(i64::MAX - 1))
        );
    }

    #[test]
    fn arrays_match_by_any_and_differ_by_all() {
        let a = Val::Array([s("a"), s("b"), Val::Int(3)].into());
        assert!(compare(BinOp::Eq, &a, &s("b")));
        assert!(!compare(BinOp::Ne, &a, &s("b")));
        assert!(compare(BinOp::Ne, &a, &s("c")));
        assert!(!compare(BinOp::Ne, &a, &Val::Bool(true)), "no element is comparable");
        let re = regex("a|x").unwrap();
        assert!(matches(false, &a, &re) && !matches(true, &a, &re));
    }

    #[test]
    fn all_values_have_one_order() {
        let numbers = [9i64, 10, 100].map(Val::Int).into_iter().chain([9.5, f64::NAN, -0.0].map(Val::Float)).chain([Val::Duration(10)]);
        let all: Vec<Val> = numbers.chain(["5", "10", "99", "nil"].map(s)).chain([Val::Nil, Val::Bool(true), Val::Other]).collect();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            assert_eq!(a.total_cmp(b), b.total_cmp(a).reverse(), "{a:?} {b:?}");
            assert_eq!(a.total_cmp(b) == Ordering::Equal, format!("{a:?}") == format!("{b:?}"), "{a:?} {b:?}");
            for c in all.iter().filter(|c| a.total_cmp(b).is_le() && b.total_cmp(c).is_le()) {
                assert!(a.total_cmp(c).is_le(), "{a:?} {b:?} {c:?}");
            }
        }
    }

    #[test]
    fn numbers_stay_whole_where_they_can() {
        assert_eq!(arithmetic(BinOp::Div, &Val::Int(7), &Val::Int(2)).unwrap(), Val::Int(3));
        assert_eq!(arithmetic(BinOp::Div, &Val::Int(7), &Val::Float(2.0)).unwrap(), Val::Float(3.5));
        assert_eq!(arithmetic(BinOp::Mul, &Val::Duration(7), &Val::Int(2)).unwrap(), Val::Duration(14));
        assert_eq!(arithmetic(BinOp::Div, &Val::Duration(7), &Val::Int(2)).unwrap(), Val::Float(3.5));
        assert_eq!(arithmetic(BinOp::Div, &Val::Duration(7), &Val::Int(0)).unwrap(), Val::Float(f64::INFINITY));
        assert!(arithmetic(BinOp::Div, &Val::Int(7), &Val::Int(0)).is_err());
        assert_eq!(arithmetic(BinOp::Add, &s("x"), &Val::Int(0)).unwrap(), Val::Nil);
    }
}
