//! Spans as OpenTelemetry has them: plain data, nothing lost.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Sixteen bytes that name a trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub [u8; 16]);

/// Eight bytes that name a span within its trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub [u8; 8]);

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    let digits = text.as_bytes();
    if digits.is_empty() || digits.len() > 2 * N {
        return None;
    }
    for (i, d) in digits.iter().rev().enumerate() {
        let v = char::from(*d).to_digit(16)? as u8;
        out[N - 1 - i / 2] |= v << (4 * (i % 2));
    }
    Some(out)
}

impl TraceId {
    /// Reads hex digits; leading zeros may be missing, as some senders trim them.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(TraceId)
    }
    /// Whether all bytes are zero, which OpenTelemetry calls invalid.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl SpanId {
    /// Reads hex digits; leading zeros may be missing.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(SpanId)
    }
    /// Whether all bytes are zero, which OpenTelemetry calls invalid.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 8]
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value of an attribute. Doubles are equal if their bits are, so that NaN equals itself.
#[derive(Clone, Debug, Default)]
pub enum AttributeValue {
    /// A value that was sent empty.
    #[default]
    Empty,
    /// Text.
    String(String),
    /// Truth value.
    Bool(bool),
    /// Signed integer.
    Int(i64),
    /// Double.
    Double(f64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Values of any types.
    Array(Vec<AttributeValue>),
    /// Named values, sorted by name.
    Map(Attributes),
}

/// Attributes, sorted by key, no key twice.
pub type Attributes = Vec<(String, AttributeValue)>;

impl AttributeValue {
    fn rank(&self) -> u8 {
        match self {
            AttributeValue::Empty => 0,
            AttributeValue::String(_) => 1,
            AttributeValue::Bool(_) => 2,
            AttributeValue::Int(_) => 3,
            AttributeValue::Double(_) => 4,
            AttributeValue::Bytes(_) => 5,
            AttributeValue::Array(_) => 6,
            AttributeValue::Map(_) => 7,
        }
    }
}

impl Ord for AttributeValue {
    fn cmp(&self, other: &Self) -> Ordering {
        use AttributeValue::*;
        match (self, other) {
            (String(a), String(b)) => a.cmp(b),
            (Bool(a), Bool(b)) => a.cmp(b),
            (Int(a), Int(b)) => a.cmp(b),
            (Double(a), Double(b)) => a.to_bits().cmp(&b.to_bits()),
            (Bytes(a), Bytes(b)) => a.cmp(b),
            (Array(a), Array(b)) => a.cmp(b),
            (Map(a), Map(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for AttributeValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for AttributeValue {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for AttributeValue {}

impl From<&str> for AttributeValue {
    fn from(v: &str) -> Self {
        AttributeValue::String(v.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(v: String) -> Self {
        AttributeValue::String(v)
    }
}

impl From<bool> for AttributeValue {
    fn from(v: bool) -> Self {
        AttributeValue::Bool(v)
    }
}

impl From<i32> for AttributeValue {
    fn from(v: i32) -> Self {
        AttributeValue::Int(v.into())
    }
}

impl From<i64> for AttributeValue {
    fn from(v: i64) -> Self {
        AttributeValue::Int(v)
    }
}

impl From<f64> for AttributeValue {
    fn from(v: f64) -> Self {
        AttributeValue::Double(v)
    }
}

impl From<Vec<u8>> for AttributeValue {
    fn from(v: Vec<u8>) -> Self {
        AttributeValue::Bytes(v)
    }
}

impl From<Vec<AttributeValue>> for AttributeValue {
    fn from(v: Vec<AttributeValue>) -> Self {
        AttributeValue::Array(v)
    }
}

/// Sorts attributes by key; of a key sent twice the first stays.
pub fn sort_attributes(attributes: &mut Attributes) {
    attributes.sort_by(|a, b| a.0.cmp(&b.0));
    attributes.dedup_by(|b, a| a.0 == b.0);
}

/// What produced spans: a process, a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// Its attributes, `service.name` among them.
    pub attributes: Attributes,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// Schema that the attributes follow.
    pub schema_url: String,
}

/// The instrumentation library that produced spans.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Name of the library.
    pub name: String,
    /// Version of the library.
    pub version: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// Schema that the spans' attributes follow.
    pub schema_url: String,
}

/// Something that happened within a span.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanEvent {
    /// When, Unix nanoseconds.
    pub time_unix_nano: u64,
    /// What.
    pub name: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
}

/// A span of this or another trace that a span points to. Ids are kept as they were sent, whatever their length.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanLink {
    /// Trace of the span pointed to.
    pub trace_id: Vec<u8>,
    /// The span pointed to.
    pub span_id: Vec<u8>,
    /// W3C trace state.
    pub trace_state: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// W3C flags.
    pub flags: u32,
}

/// One operation of a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// When it began, Unix nanoseconds.
    pub start_unix_nano: u64,
    /// Its own id.
    pub span_id: SpanId,
    /// The span that caused it; none at a root.
    pub parent_span_id: Option<SpanId>,
    /// When it ended, Unix nanoseconds.
    pub end_unix_nano: u64,
    /// What it did.
    pub name: String,
    /// `SpanKind` by number: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// `StatusCode` by number: 0 unset, 1 ok, 2 error.
    pub status_code: i32,
    /// Text beside the status.
    pub status_message: String,
    /// W3C trace state.
    pub trace_state: String,
    /// W3C flags and what OTLP adds to them.
    pub flags: u32,
    /// Its attributes.
    pub attributes: Attributes,
    /// Attributes that the sender dropped.
    pub dropped_attributes_count: u32,
    /// What happened within.
    pub events: Vec<SpanEvent>,
    /// Events that the sender dropped.
    pub dropped_events_count: u32,
    /// What it points to.
    pub links: Vec<SpanLink>,
    /// Links that the sender dropped.
    pub dropped_links_count: u32,
    /// What produced it.
    pub resource: Arc<Resource>,
    /// The library that produced it.
    pub scope: Arc<Scope>,
}

impl Span {
    /// Nanoseconds from start to end; none is negative (a span that ends before it starts lasts 0).
    pub fn duration_nano(&self) -> u64 {
        self.end_unix_nano.saturating_sub(self.start_unix_nano)
    }

    /// The resource's `service.name`, if it is text.
    pub fn service_name(&self) -> Option<&str> {
        match find(&self.resource.attributes, "service.name") {
            Some(AttributeValue::String(s)) => Some(s),
            _ => None,
        }
    }
}

/// The value of `key` among sorted attributes.
pub fn find<'a>(attributes: &'a Attributes, key: &str) -> Option<&'a AttributeValue> {
    attributes.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok().map(|i| &attributes[i].1)
}

/// A trace: its spans by start time, identical ones once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The id that all spans share.
    pub trace_id: TraceId,
    /// Spans by start time, then id.
    pub spans: Vec<Span>,
}

impl Trace {
    /// A trace of spans in any order; identical ones are kept once.
    pub fn new(trace_id: TraceId, mut spans: Vec<Span>) -> Self {
        spans.sort();
        spans.dedup();
        Trace { trace_id, spans }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_and_print() {
        assert_eq!(TraceId::parse("1f").map(|t| t.to_string()).as_deref(), Some("0000000000000000000000000000001f"));
        assert_eq!(SpanId::parse("00f067aa0ba902b7").map(|t| t.to_string()).as_deref(), Some("00f067aa0ba902b7"));
        assert_eq!(TraceId::parse(""), None);
        assert_eq!(TraceId::parse("xyz"), None);
        assert_eq!(SpanId::parse("00000000000000001"), None);
    }

    #[test]
    fn identical_spans_are_kept_once_and_others_both() {
        let a = Span { name: "a".into(), span_id: SpanId([1; 8]), ..Span::default() };
        let b = Span { name: "b".into(), ..a.clone() };
        let t = Trace::new(a.trace_id, vec![b.clone(), a.clone(), b.clone()]);
        assert_eq!(t.spans, [a, b]);
    }

    #[test]
    fn not_a_number_equals_itself() {
        assert_eq!(AttributeValue::Double(f64::NAN), AttributeValue::Double(f64::NAN));
        assert_ne!(AttributeValue::Double(0.0), AttributeValue::Int(0));
    }
}
