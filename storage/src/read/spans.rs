//! Reading spans: batches of whole traces, column by column, so that a predicate is decided once for each distinct
//! value and only the columns that a query names are read.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::Result;
use crate::model::{AttributeValue, Span, Trace, TraceId, find_attribute};
use crate::read::Warnings;

/// Where an attribute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AttributeScope {
    /// On the span itself.
    Span,
    /// On its resource.
    Resource,
    /// On any of its events.
    Event,
    /// On any of its links.
    Link,
    /// On its instrumentation scope.
    Instrumentation,
}

/// A column that a query may ask for. Fields of events and links have one value for each event or link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// An attribute by key.
    Attribute(AttributeScope, String),
    /// The span's name.
    Name,
    /// Kind by number.
    Kind,
    /// Status by number.
    Status,
    /// Text beside the status.
    StatusMessage,
    /// Span id in hex.
    SpanId,
    /// Parent's id in hex; nil at a root.
    ParentId,
    /// Name of each event.
    EventName,
    /// Nanoseconds from the span's start to each event.
    EventTimeSinceStart,
    /// Trace id of each link, in hex.
    LinkTraceId,
    /// Span id of each link, in hex.
    LinkSpanId,
    /// Name of the instrumentation scope.
    ScopeName,
    /// Version of the instrumentation scope.
    ScopeVersion,
}

/// A value in a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// There is none.
    Nil,
    /// Text.
    String(Arc<str>),
    /// Integer.
    Int(i64),
    /// Double.
    Float(f64),
    /// Truth value.
    Bool(bool),
    /// Several: an array, or one for each event or link.
    Array(Arc<[Value]>),
    /// A value that is none of these (bytes, maps, an empty value): present, and equal to nothing.
    Other,
}

impl Value {
    /// Whether the two are one and the same, to the sign of a zero. Arrays only if shared: it is asked of neighbours.
    pub(crate) fn is(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::Array(a), Value::Array(b)) => Arc::ptr_eq(a, b),
            (a, b) => a == b,
        }
    }
}

impl From<&AttributeValue> for Value {
    fn from(v: &AttributeValue) -> Self {
        match v {
            AttributeValue::String(s) => Value::String(Arc::from(s.as_str())),
            AttributeValue::Bool(b) => Value::Bool(*b),
            AttributeValue::Int(i) => Value::Int(*i),
            AttributeValue::Double(d) => Value::Float(*d),
            AttributeValue::Array(a) => Value::Array(a.iter().map(Value::from).collect()),
            AttributeValue::Empty | AttributeValue::Bytes(_) | AttributeValue::Map(_) => Value::Other,
        }
    }
}

/// A column: values, and for each row which of them it has. `values[0]` is nil.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Mostly distinct.
    pub values: Vec<Value>,
    /// One for each row.
    pub idx: Vec<u32>,
}

impl Column {
    /// Nil in all rows.
    pub fn nil(rows: usize) -> Self {
        Column { values: vec![Value::Nil], idx: vec![0; rows] }
    }
    /// One value for each row.
    pub fn of(rows: impl Iterator<Item = Value>) -> Self {
        let mut c = Column { values: vec![Value::Nil], idx: Vec::new() };
        for v in rows {
            if v == Value::Nil {
                c.idx.push(0);
                continue;
            }
            // Neighbours are often alike.
            if !c.values.last().is_some_and(|last| last.is(&v)) {
                c.values.push(v);
            }
            c.idx.push(c.values.len() as u32 - 1);
        }
        c
    }
    /// The value of a row.
    pub fn get(&self, row: usize) -> &Value {
        &self.values[self.idx[row] as usize]
    }
}

/// Ids of a batch's spans as big-endian numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanIds {
    /// The spans' own.
    pub span: Vec<u64>,
    /// Their parents'; 0 at a root.
    pub parent: Vec<u64>,
}

/// Rows of whole traces (or, where the request did not ask for whole traces, of parts of them), a trace's rows
/// together and by start time.
pub trait SpanBatch {
    /// Number of rows.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// First row of each trace, and the number of rows at the end.
    fn traces(&self) -> &[u32];
    /// Id of a trace of the batch.
    fn trace_id(&self, trace: usize) -> TraceId;
    /// For each trace whether it is to be passed over, because a further batch has it whole; none: all count.
    fn excluded(&self) -> Option<&[bool]>;
    /// Start of each span, Unix nanoseconds.
    fn starts(&self) -> Result<Arc<Vec<u64>>>;
    /// Duration of each span in nanoseconds.
    fn durations(&self) -> Result<Arc<Vec<u64>>>;
    /// Ids of each span and its parent.
    fn ids(&self) -> Result<Arc<SpanIds>>;
    /// A field's column.
    fn column(&self, field: &Field) -> Result<Arc<Column>>;
    /// The columns of many fields, which may take less than one after the other.
    fn columns(&self, fields: &[Field]) -> Result<Vec<Arc<Column>>> {
        fields.iter().map(|f| self.column(f)).collect()
    }
    /// Asked by long work over the batch now and then: an error ends it, as one of a column does.
    fn go_on(&self) -> Result<()> {
        Ok(())
    }
}

/// A comparison that storage may use to pass over parts that can't satisfy it.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The field has this value.
    Equals(Field, Value),
    /// The field is a number of at least this.
    AtLeast(Field, f64),
    /// The field is a number of at most this.
    AtMost(Field, f64),
}

/// What a query wants to see.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// First start of a span that counts, Unix nanoseconds.
    pub min_nano: u64,
    /// Last start of a span that counts.
    pub max_nano: u64,
    /// Whether traces must be whole: joined over live spans and all blocks up to `max_trace_nano` beyond the range.
    /// Without it spans may come in several batches, but each once.
    pub whole_traces: bool,
    /// How long a trace may last.
    pub max_trace_nano: u64,
    /// A batch is worth visiting only if some span of it satisfies all of these. Empty: any batch is.
    pub conditions: Vec<Condition>,
    /// Answer what can be read and warn, instead of failing.
    pub partial: bool,
}

impl ScanRequest {
    /// All spans that start in the inclusive range, in whole traces.
    pub fn new(min_nano: u64, max_nano: u64) -> Self {
        ScanRequest { min_nano, max_nano, whole_traces: true, max_trace_nano: 3_600_000_000_000, conditions: Vec::new(), partial: false }
    }
}

/// What a scan did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScanStats {
    /// Bytes of columns read.
    pub bytes: u64,
    /// Rows visited.
    pub spans: u64,
    /// Traces visited.
    pub traces: u64,
    /// Blocks considered.
    pub blocks: u32,
    /// What could not be read, if partial answers were asked for.
    pub warnings: Warnings,
}

/// What a visitor wants next: on with traces that start at or after a time (0: with all), or no more.
pub type Visit = ControlFlow<(), u64>;

/// A store of spans that can be queried. Each call owns its snapshot.
pub trait SpanSource: Send + Sync {
    /// Visits batches, newest blocks first.
    fn scan(&self, request: &ScanRequest, visit: &mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>) -> Result<ScanStats>;

    /// A trace, whole.
    fn trace(&self, id: TraceId) -> Result<Option<Trace>>;

    /// A trace from what can be read, and what could not be.
    fn trace_partial(&self, id: TraceId) -> Result<(Option<Trace>, Warnings)> {
        Ok((self.trace(id)?, Warnings::new()))
    }

    /// A trace, whole, of which columns are read when asked for: its spans are never all decoded at once.
    fn trace_batch(&self, id: TraceId) -> Result<Option<Box<dyn SpanBatch>>> {
        Ok(self.trace(id)?.map(|t| Box::new(RowBatch::new(vec![t])) as Box<dyn SpanBatch>))
    }

    /// Keys of attributes by scope, sorted, of live spans and blocks that overlap the inclusive range.
    fn attribute_keys(&self, min_nano: u64, max_nano: u64) -> Result<Vec<(AttributeScope, Vec<String>)>>;
}

/// A batch of spans in memory.
pub struct RowBatch {
    traces: Vec<Trace>,
    offsets: Vec<u32>,
}

impl RowBatch {
    /// Of whole traces.
    pub fn new(traces: Vec<Trace>) -> Self {
        let mut offsets = vec![0];
        let mut n = 0;
        for t in &traces {
            n += t.spans.len() as u32;
            offsets.push(n);
        }
        RowBatch { traces, offsets }
    }
    /// Its traces.
    pub fn into_traces(self) -> Vec<Trace> {
        self.traces
    }
    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.traces.iter().flat_map(|t| &t.spans)
    }
}

fn text(s: &str) -> Value {
    Value::String(Arc::from(s))
}

/// An id as columns show it.
pub(crate) fn hex(id: &[u8]) -> Value {
    text(&crate::codec::hex(id))
}

fn list(values: impl ExactSizeIterator<Item = Value>) -> Value {
    let values: Arc<[Value]> = values.filter(|v| *v != Value::Nil).collect();
    if values.is_empty() { Value::Nil } else { Value::Array(values) }
}

fn lookup(attributes: &crate::model::Attributes, key: &str) -> Value {
    find_attribute(attributes, key).map_or(Value::Nil, Value::from)
}

/// The value of a field of a span.
pub fn field_of(span: &Span, field: &Field) -> Value {
    match field {
        Field::Attribute(AttributeScope::Span, k) => lookup(&span.attributes, k),
        Field::Attribute(AttributeScope::Resource, k) => lookup(&span.resource.attributes, k),
        Field::Attribute(AttributeScope::Instrumentation, k) => lookup(&span.scope.attributes, k),
        Field::Attribute(AttributeScope::Event, k) => list(span.events.iter().map(|e| lookup(&e.attributes, k))),
        Field::Attribute(AttributeScope::Link, k) => list(span.links.iter().map(|l| lookup(&l.attributes, k))),
        Field::Name => text(&span.name),
        Field::Kind => Value::Int(span.kind.into()),
        Field::Status => Value::Int(span.status_code.into()),
        Field::StatusMessage => text(&span.status_message),
        Field::SpanId => hex(&span.span_id.0),
        Field::ParentId => span.parent_span_id.map_or(Value::Nil, |p| hex(&p.0)),
        Field::EventName => list(span.events.iter().map(|e| text(&e.name))),
        Field::EventTimeSinceStart => {
            list(span.events.iter().map(|e| Value::Int(e.time_unix_nano.wrapping_sub(span.start_unix_nano) as i64)))
        }
        Field::LinkTraceId => list(span.links.iter().map(|l| hex(&l.trace_id))),
        Field::LinkSpanId => list(span.links.iter().map(|l| hex(&l.span_id))),
        Field::ScopeName => text(&span.scope.name),
        Field::ScopeVersion => text(&span.scope.version),
    }
}

impl SpanBatch for RowBatch {
    fn len(&self) -> usize {
        self.offsets.last().map_or(0, |n| *n as usize)
    }
    fn traces(&self) -> &[u32] {
        &self.offsets
    }
    fn trace_id(&self, trace: usize) -> TraceId {
        self.traces[trace].trace_id
    }
    fn excluded(&self) -> Option<&[bool]> {
        None
    }
    fn starts(&self) -> Result<Arc<Vec<u64>>> {
        Ok(Arc::new(self.spans().map(|s| s.start_unix_nano).collect()))
    }
    fn durations(&self) -> Result<Arc<Vec<u64>>> {
        Ok(Arc::new(self.spans().map(Span::duration_nano).collect()))
    }
    fn ids(&self) -> Result<Arc<SpanIds>> {
        Ok(Arc::new(SpanIds {
            span: self.spans().map(|s| u64::from_be_bytes(s.span_id.0)).collect(),
            parent: self.spans().map(|s| s.parent_span_id.map_or(0, |p| u64::from_be_bytes(p.0))).collect(),
        }))
    }
    fn column(&self, field: &Field) -> Result<Arc<Column>> {
        Ok(Arc::new(Column::of(self.spans().map(|s| field_of(s, field)))))
    }
}
