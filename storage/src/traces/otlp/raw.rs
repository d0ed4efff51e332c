//! Borrowed views of OTLP messages. Reading one walks its bytes; nothing is allocated.
//!
//! Keys, values, and texts of spans are bytes here: that they are UTF-8 is checked once, on arrival
//! ([`RawValue::check`], [`RawSpan::check_text`]), and by whatever makes strings of them.

use std::str;

use crate::codec::protobuf::{Field, Fields, WireError};
use crate::model::{AttributeValue, Attributes, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, TraceId, sort_attributes};
use std::sync::Arc;

/// Deeper nested values are refused on arrival, so that no reader needs a stack without bound.
pub const MAX_VALUE_DEPTH: usize = 32;

/// Bytes as text.
pub fn text(b: &[u8]) -> Result<&str, WireError> {
    str::from_utf8(b).map_err(|e| WireError { what: "text that is not UTF-8", at: e.valid_up_to() })
}

/// `AnyValue`, borrowed. Arrays and maps are the bytes of their messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RawValue<'a> {
    /// No value set.
    Empty,
    /// Text.
    Str(&'a [u8]),
    /// Truth value.
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Double.
    Double(f64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// `ArrayValue`.
    Array(&'a [u8]),
    /// `KeyValueList`.
    Map(&'a [u8]),
}

impl<'a> RawValue<'a> {
    /// Reads an `AnyValue` message.
    #[inline]
    pub fn read(buf: &'a [u8]) -> Result<Self, WireError> {
        // One short text, as most values are.
        if let [0x0a, len @ ..=0x7f, s @ ..] = buf
            && *len as usize == s.len()
        {
            return Ok(RawValue::Str(s));
        }
        let mut c = Fields::new(buf);
        let mut v = RawValue::Empty;
        while let Some(f) = c.next()? {
            v = match f {
                (1, Field::Bytes(b)) => RawValue::Str(b),
                (2, Field::Varint(b)) => RawValue::Bool(b != 0),
                (3, Field::Varint(i)) => RawValue::Int(i as i64),
                (4, Field::Fixed64(d)) => RawValue::Double(f64::from_bits(d)),
                (5, Field::Bytes(b)) => RawValue::Array(b),
                (6, Field::Bytes(b)) => RawValue::Map(b),
                (7, Field::Bytes(b)) => RawValue::Bytes(b),
                _ => v,
            };
        }
        Ok(v)
    }

    /// Checks what lies below, and returns its depth and the bytes of its text and bytes values.
    pub fn check(&self, depth: usize) -> Result<usize, WireError> {
        if depth > MAX_VALUE_DEPTH {
            return Err(WireError { what: "a value nested too deep", at: 0 });
        }
        Ok(match self {
            RawValue::Str(s) => text(s)?.len(),
            RawValue::Bytes(b) => b.len(),
            RawValue::Array(b) => {
                let mut sum = 0;
                for v in elements(b) {
                    sum += v?.check(depth + 1)? + 1;
                }
                sum
            }
            RawValue::Map(b) => {
                let mut sum = 0;
                for kv in attributes(b, 1) {
                    let (k, v) = kv?;
                    sum += text(k)?.len() + v.check(depth + 1)? + 1;
                }
                sum
            }
            _ => 8,
        })
    }

    /// The value with its own memory. Bytes were checked on arrival; `depth` guards against what was not.
    pub fn owned(&self, depth: usize) -> Result<AttributeValue, WireError> {
        if depth > MAX_VALUE_DEPTH {
            return Err(WireError { what: "a value nested too deep", at: 0 });
        }
        Ok(match self {
            RawValue::Empty => AttributeValue::Empty,
            RawValue::Str(s) => AttributeValue::String(text(s)?.to_owned()),
            RawValue::Bool(b) => AttributeValue::Bool(*b),
            RawValue::Int(i) => AttributeValue::Int(*i),
            RawValue::Double(d) => AttributeValue::Double(*d),
            RawValue::Bytes(b) => AttributeValue::Bytes(b.to_vec()),
            RawValue::Array(b) => AttributeValue::Array(elements(b).map(|v| v?.owned(depth + 1)).collect::<Result<_, _>>()?),
            RawValue::Map(b) => {
                let mut m = attributes(b, 1)
                    .map(|kv| {
                        let (k, v) = kv?;
                        Ok((text(k)?.to_owned(), v.owned(depth + 1)?))
                    })
                    .collect::<Result<Attributes, WireError>>()?;
                sort_attributes(&mut m);
                AttributeValue::Map(m)
            }
        })
    }
}

/// Messages of one field in a message, in the order sent; ends at the first error.
#[derive(Clone, Debug)]
struct Repeated<'a> {
    fields: Fields<'a>,
    number: u32,
    failed: bool,
}

impl<'a> Iterator for Repeated<'a> {
    type Item = Result<&'a [u8], WireError>;
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.fields.next() {
                Ok(Some((n, Field::Bytes(b)))) if n == self.number => return Some(Ok(b)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

/// Messages of field `number` in `buf`.
#[inline]
fn repeated(buf: &[u8], number: u32) -> Repeated<'_> {
    Repeated { fields: Fields::new(buf), number, failed: false }
}

fn elements(array: &[u8]) -> impl Iterator<Item = Result<RawValue<'_>, WireError>> {
    repeated(array, 1).map(|v| RawValue::read(v?))
}

/// Values of an `ArrayValue` message.
pub fn array_values(array: &[u8]) -> impl Iterator<Item = Result<RawValue<'_>, WireError>> {
    elements(array)
}

/// A short key and then its value, as encoders write them.
#[inline(always)]
fn short_key_value(kv: &[u8]) -> Option<(&[u8], &[u8])> {
    if let [0x0a, n @ ..=0x7f, rest @ ..] = kv
        && let Some((key, [0x12, len @ ..=0x7f, value @ ..])) = rest.split_at_checked(*n as usize)
        && *len as usize == value.len()
    {
        return Some((key, value));
    }
    None
}

/// A `KeyValue` message.
#[inline(always)]
fn key_value(kv: &[u8]) -> Result<(&[u8], RawValue<'_>), WireError> {
    if let Some((key, value)) = short_key_value(kv) {
        return Ok((key, RawValue::read(value)?));
    }
    let mut c = Fields::new(kv);
    let (mut key, mut value): (&[u8], _) = (&[], RawValue::Empty);
    while let Some(f) = c.next()? {
        match f {
            (1, Field::Bytes(b)) => key = b,
            (2, Field::Bytes(b)) => value = RawValue::read(b)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// `KeyValue` messages of field `number` in `buf`, in the order sent.
#[inline]
pub fn attributes(buf: &[u8], number: u32) -> KeyValues<'_> {
    KeyValues(repeated(buf, number))
}

/// See [`attributes`]. A type of its own, so that a step of it is compiled into the loops that all spans go through.
#[derive(Clone, Debug)]
pub struct KeyValues<'a>(Repeated<'a>);

impl<'a> KeyValues<'a> {
    /// The value of a key; of one sent twice the first. Values of other keys are not read.
    pub fn value_of(self, key: &[u8]) -> Result<Option<RawValue<'a>>, WireError> {
        for kv in self.0 {
            let kv = kv?;
            match short_key_value(kv) {
                Some((k, v)) if k == key => return RawValue::read(v).map(Some),
                Some(_) => {}
                None => {
                    let (k, v) = key_value(kv)?;
                    if k == key {
                        return Ok(Some(v));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Calls `f` with each key. Values are not read.
    pub fn each_key(self, mut f: impl FnMut(&'a [u8])) -> Result<(), WireError> {
        for kv in self.0 {
            let kv = kv?;
            match short_key_value(kv) {
                Some((k, _)) => f(k),
                None => f(key_value(kv)?.0),
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for KeyValues<'a> {
    type Item = Result<(&'a [u8], RawValue<'a>), WireError>;
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.and_then(key_value))
    }
}

/// Attributes with their own memory, sorted, of a key sent twice the first.
pub fn owned_attributes(buf: &[u8], number: u32) -> Result<Attributes, WireError> {
    let mut out = Vec::new();
    for kv in attributes(buf, number) {
        let (k, v) = kv?;
        out.push((text(k)?.to_owned(), v.owned(0)?));
    }
    sort_attributes(&mut out);
    Ok(out)
}

/// `Span`, its scalar fields read, the rest left in `buf`.
#[derive(Clone, Copy, Debug)]
pub struct RawSpan<'a> {
    /// The whole message.
    pub buf: &'a [u8],
    /// As sent, of any length.
    pub trace_id: &'a [u8],
    /// As sent, of any length.
    pub span_id: &'a [u8],
    /// As sent, of any length; empty at a root.
    pub parent_span_id: &'a [u8],
    /// W3C trace state.
    pub trace_state: &'a [u8],
    /// W3C flags.
    pub flags: u32,
    /// What it did.
    pub name: &'a [u8],
    /// Kind by number.
    pub kind: i32,
    /// Unix nanoseconds.
    pub start: u64,
    /// Unix nanoseconds.
    pub end: u64,
    /// Attributes dropped by the sender.
    pub dropped_attributes: u32,
    /// Events dropped by the sender.
    pub dropped_events: u32,
    /// Links dropped by the sender.
    pub dropped_links: u32,
    /// Status by number.
    pub status_code: i32,
    /// Text beside the status.
    pub status_message: &'a [u8],
    /// Number of attributes, events and links.
    pub counts: [u32; 3],
    /// From the first attribute to the end of the last: what lies before need not be walked again.
    attributes: &'a [u8],
}

impl<'a> RawSpan<'a> {
    /// Reads the scalar fields of a `Span` message.
    #[inline]
    pub fn read(buf: &'a [u8]) -> Result<Self, WireError> {
        let mut s = RawSpan {
            buf,
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            trace_state: &[],
            flags: 0,
            name: &[],
            kind: 0,
            start: 0,
            end: 0,
            dropped_attributes: 0,
            dropped_events: 0,
            dropped_links: 0,
            status_code: 0,
            status_message: &[],
            counts: [0; 3],
            attributes: &[],
        };
        let mut c = Fields::new(buf);
        let (mut at, mut first) = (0, 0);
        while let Some(f) = c.next()? {
            let before = std::mem::replace(&mut at, c.position());
            match f {
                (1, Field::Bytes(b)) => s.trace_id = b,
                (2, Field::Bytes(b)) => s.span_id = b,
                (3, Field::Bytes(b)) => s.trace_state = b,
                (4, Field::Bytes(b)) => s.parent_span_id = b,
                (5, Field::Bytes(b)) => s.name = b,
                (6, Field::Varint(v)) => s.kind = v as i32,
                (7, Field::Fixed64(v)) => s.start = v,
                (8, Field::Fixed64(v)) => s.end = v,
                (9, Field::Bytes(_)) => {
                    if s.counts[0] == 0 {
                        first = before;
                    }
                    s.counts[0] += 1;
                    s.attributes = &buf[first..at];
                }
                (10, Field::Varint(v)) => s.dropped_attributes = v as u32,
                (11, Field::Bytes(_)) => s.counts[1] += 1,
                (12, Field::Varint(v)) => s.dropped_events = v as u32,
                (13, Field::Bytes(_)) => s.counts[2] += 1,
                (14, Field::Varint(v)) => s.dropped_links = v as u32,
                (15, Field::Bytes(b)) => (s.status_code, s.status_message) = status(b)?,
                (16, Field::Fixed32(v)) => s.flags = v,
                _ => {}
            }
        }
        Ok(s)
    }

    /// Fails if its texts are not UTF-8. Attributes, events and links are checked where they are read.
    pub fn check_text(&self) -> Result<(), WireError> {
        text(self.name)?;
        text(self.trace_state)?;
        text(self.status_message).map(|_| ())
    }

    /// Its attributes in the order sent.
    pub fn attributes(&self) -> KeyValues<'a> {
        attributes(self.attributes, 9)
    }

    /// The span with its own memory. Ids must have been checked.
    pub fn owned(&self, resource: Arc<Resource>, scope: Arc<Scope>) -> Result<Span, WireError> {
        let id = |b: &[u8]| b.try_into().map(SpanId).map_err(|_| WireError { what: "a span id of wrong length", at: 0 });
        Ok(Span {
            trace_id: TraceId(self.trace_id.try_into().map_err(|_| WireError { what: "a trace id of wrong length", at: 0 })?),
            span_id: id(self.span_id)?,
            parent_span_id: if is_root(self.parent_span_id) { None } else { Some(id(self.parent_span_id)?) },
            start_unix_nano: self.start,
            end_unix_nano: self.end,
            name: text(self.name)?.to_owned(),
            kind: self.kind,
            status_code: self.status_code,
            status_message: text(self.status_message)?.to_owned(),
            trace_state: text(self.trace_state)?.to_owned(),
            flags: self.flags,
            attributes: owned_attributes(self.buf, 9)?,
            dropped_attributes_count: self.dropped_attributes,
            events: events(self.buf).map(|e| e?.owned()).collect::<Result<_, _>>()?,
            dropped_events_count: self.dropped_events,
            links: links(self.buf).map(|l| l?.owned()).collect::<Result<_, _>>()?,
            dropped_links_count: self.dropped_links,
            resource,
            scope,
        })
    }
}

/// An absent parent, or one of zeros, as some senders write a root.
pub fn is_root(parent: &[u8]) -> bool {
    parent.iter().all(|b| *b == 0)
}

fn status(buf: &[u8]) -> Result<(i32, &[u8]), WireError> {
    let mut c = Fields::new(buf);
    let (mut code, mut message): (i32, &[u8]) = (0, &[]);
    while let Some(f) = c.next()? {
        match f {
            (2, Field::Bytes(b)) => message = b,
            (3, Field::Varint(v)) => code = v as i32,
            _ => {}
        }
    }
    Ok((code, message))
}

/// `Span.Event`.
#[derive(Clone, Copy, Debug)]
pub struct RawEvent<'a> {
    /// The whole message; attributes are field 3.
    pub buf: &'a [u8],
    /// Unix nanoseconds.
    pub time: u64,
    /// What happened.
    pub name: &'a str,
    /// Attributes dropped by the sender.
    pub dropped_attributes: u32,
}

impl<'a> RawEvent<'a> {
    fn read(buf: &'a [u8]) -> Result<Self, WireError> {
        let mut e = RawEvent { buf, time: 0, name: "", dropped_attributes: 0 };
        let mut c = Fields::new(buf);
        while let Some(f) = c.next()? {
            match f {
                (1, Field::Fixed64(v)) => e.time = v,
                (2, Field::Bytes(b)) => e.name = text(b)?,
                (4, Field::Varint(v)) => e.dropped_attributes = v as u32,
                _ => {}
            }
        }
        Ok(e)
    }
    fn owned(&self) -> Result<SpanEvent, WireError> {
        Ok(SpanEvent {
            time_unix_nano: self.time,
            name: self.name.to_owned(),
            attributes: owned_attributes(self.buf, 3)?,
            dropped_attributes_count: self.dropped_attributes,
        })
    }
}

/// `Span.Link`.
#[derive(Clone, Copy, Debug)]
pub struct RawLink<'a> {
    /// The whole message; attributes are field 4.
    pub buf: &'a [u8],
    /// As sent.
    pub trace_id: &'a [u8],
    /// As sent.
    pub span_id: &'a [u8],
    /// W3C trace state.
    pub trace_state: &'a str,
    /// Attributes dropped by the sender.
    pub dropped_attributes: u32,
    /// W3C flags.
    pub flags: u32,
}

impl<'a> RawLink<'a> {
    fn read(buf: &'a [u8]) -> Result<Self, WireError> {
        let mut l = RawLink { buf, trace_id: &[], span_id: &[], trace_state: "", dropped_attributes: 0, flags: 0 };
        let mut c = Fields::new(buf);
        while let Some(f) = c.next()? {
            match f {
                (1, Field::Bytes(b)) => l.trace_id = b,
                (2, Field::Bytes(b)) => l.span_id = b,
                (3, Field::Bytes(b)) => l.trace_state = text(b)?,
                (5, Field::Varint(v)) => l.dropped_attributes = v as u32,
                (6, Field::Fixed32(v)) => l.flags = v,
                _ => {}
            }
        }
        Ok(l)
    }
    fn owned(&self) -> Result<SpanLink, WireError> {
        Ok(SpanLink {
            trace_id: self.trace_id.to_vec(),
            span_id: self.span_id.to_vec(),
            trace_state: self.trace_state.to_owned(),
            attributes: owned_attributes(self.buf, 4)?,
            dropped_attributes_count: self.dropped_attributes,
            flags: self.flags,
        })
    }
}

/// Events of a `Span` message.
pub fn events(span: &[u8]) -> impl Iterator<Item = Result<RawEvent<'_>, WireError>> {
    repeated(span, 11).map(|b| RawEvent::read(b?))
}

/// Links of a `Span` message.
pub fn links(span: &[u8]) -> impl Iterator<Item = Result<RawLink<'_>, WireError>> {
    repeated(span, 13).map(|b| RawLink::read(b?))
}

/// `Resource`, with the schema URL that stands beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawResource<'a> {
    /// The whole message; attributes are field 1.
    pub buf: &'a [u8],
    /// Schema of the resource's attributes.
    pub schema_url: &'a str,
}

impl RawResource<'_> {
    /// Attributes dropped by the sender.
    pub fn dropped_attributes(&self) -> Result<u32, WireError> {
        last_int(self.buf, 2)
    }
    /// The resource with its own memory.
    pub fn owned(&self) -> Result<Resource, WireError> {
        Ok(Resource {
            attributes: owned_attributes(self.buf, 1)?,
            dropped_attributes_count: self.dropped_attributes()?,
            schema_url: self.schema_url.to_owned(),
        })
    }
}

/// `InstrumentationScope`, with the schema URL that stands beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawScope<'a> {
    /// The whole message; attributes are field 3.
    pub buf: &'a [u8],
    /// Schema of the spans' attributes.
    pub schema_url: &'a str,
}

impl<'a> RawScope<'a> {
    /// Name and version.
    pub fn name_and_version(&self) -> Result<(&'a str, &'a str), WireError> {
        let mut c = Fields::new(self.buf);
        let (mut name, mut version) = ("", "");
        while let Some(f) = c.next()? {
            match f {
                (1, Field::Bytes(b)) => name = text(b)?,
                (2, Field::Bytes(b)) => version = text(b)?,
                _ => {}
            }
        }
        Ok((name, version))
    }
    /// Attributes dropped by the sender.
    pub fn dropped_attributes(&self) -> Result<u32, WireError> {
        last_int(self.buf, 4)
    }
    /// The scope with its own memory.
    pub fn owned(&self) -> Result<Scope, WireError> {
        let (name, version) = self.name_and_version()?;
        Ok(Scope {
            name: name.to_owned(),
            version: version.to_owned(),
            attributes: owned_attributes(self.buf, 3)?,
            dropped_attributes_count: self.dropped_attributes()?,
            schema_url: self.schema_url.to_owned(),
        })
    }
}

fn last_int(buf: &[u8], number: u32) -> Result<u32, WireError> {
    let mut c = Fields::new(buf);
    let mut out = 0;
    while let Some(f) = c.next()? {
        if let (n, Field::Varint(v)) = f
            && n == number
        {
            out = v as u32;
        }
    }
    Ok(out)
}
