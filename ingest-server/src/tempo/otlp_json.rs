//! OTLP/JSON trace requests, turned into protobuf bytes: from there on there is one path.
//!
//! Lenient where senders differ: ids in hex of either case, integers as numbers or text, doubles as numbers or text
//! (`"NaN"` too), enums by number or name, `null` for what is absent, unknown fields passed over.

use std::fmt;

use serde_json::{Map, Value};
use strandline_storage::traces::otlp::Writer;

/// Values nested deeper are refused.
const MAX_DEPTH: usize = 32;

/// What is wrong with a request, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError(String);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "undecodable OTLP JSON: {}", self.0)
    }
}

impl std::error::Error for JsonError {}

type Result<T> = std::result::Result<T, JsonError>;
type Object = Map<String, Value>;

fn fail<T>(field: &str, what: &str) -> Result<T> {
    Err(JsonError(format!("{field}: {what}")))
}

/// Fields may be written in lowerCamelCase, or as the proto file has them.
fn get<'a>(o: &'a Object, camel: &str) -> Option<&'a Value> {
    let found = o.get(camel).or_else(|| {
        let snake: String =
            camel.chars().flat_map(|c| if c.is_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] }).collect();
        o.get(&snake)
    });
    found.filter(|v| !v.is_null())
}

fn object<'a>(v: &'a Value, field: &str) -> Result<&'a Object> {
    v.as_object().map_or_else(|| fail(field, "expected an object"), Ok)
}

fn list<'a>(o: &'a Object, field: &str) -> Result<&'a [Value]> {
    match get(o, field) {
        None => Ok(&[]),
        Some(Value::Array(a)) => Ok(a),
        Some(_) => fail(field, "expected a list"),
    }
}

fn text<'a>(o: &'a Object, field: &str) -> Result<&'a str> {
    match get(o, field) {
        None => Ok(""),
        Some(Value::String(s)) => Ok(s),
        Some(_) => fail(field, "expected text"),
    }
}

fn id(o: &Object, field: &str) -> Result<Vec<u8>> {
    let t = text(o, field)?;
    let digits = t.as_bytes();
    if digits.len() % 2 != 0 {
        return fail(field, "expected hex digits, two for each byte");
    }
    let digit = |b: u8| char::from(b).to_digit(16).map_or_else(|| fail(field, "expected hex digits"), |d| Ok(d as u8));
    digits.chunks(2).map(|p| Ok(digit(p[0])? << 4 | digit(p[1])?)).collect()
}

fn unsigned(o: &Object, field: &str) -> Result<u64> {
    match get(o, field) {
        None => Ok(0),
        Some(Value::Number(n)) => n.as_u64().map_or_else(|| fail(field, "expected a whole number"), Ok),
        Some(Value::String(s)) => s.trim().parse().or_else(|_| fail(field, "expected a whole number")),
        Some(_) => fail(field, "expected a whole number"),
    }
}

fn signed(v: &Value, field: &str) -> Result<i64> {
    match v {
        Value::Number(n) => n.as_i64().map_or_else(|| fail(field, "expected a whole number"), Ok),
        Value::String(s) => s.trim().parse().or_else(|_| fail(field, "expected a whole number")),
        _ => fail(field, "expected a whole number"),
    }
}

fn double(v: &Value, field: &str) -> Result<f64> {
    match v {
        Value::Number(n) => n.as_f64().map_or_else(|| fail(field, "expected a number"), Ok),
        Value::String(s) => match s.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            s => s.trim().parse().or_else(|_| fail(field, "expected a number")),
        },
        _ => fail(field, "expected a number"),
    }
}

fn enumeration(o: &Object, field: &str, names: &[&str]) -> Result<u64> {
    match get(o, field) {
        Some(Value::String(s)) if s.parse::<i64>().is_err() => {
            names.iter().position(|n| n == s).map_or_else(|| fail(field, "an unknown name"), |p| Ok(p as u64))
        }
        Some(v) => Ok(signed(v, field)? as u64),
        None => Ok(0),
    }
}

fn base64(s: &str, field: &str) -> Result<Vec<u8>> {
    let (mut out, mut bits, mut n) = (Vec::with_capacity(s.len() / 4 * 3), 0u32, 0);
    for b in s.bytes().filter(|b| *b != b'=') {
        let v = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return fail(field, "expected base64"),
        };
        bits = bits << 6 | u32::from(v);
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
        }
    }
    Ok(out)
}

fn any_value(w: &mut Writer, v: &Value, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return fail("value", "nested too deep");
    }
    let o = object(v, "value")?;
    if let Some(v) = get(o, "stringValue") {
        match v {
            Value::String(s) => w.bytes_always(1, s.as_bytes()),
            _ => return fail("stringValue", "expected text"),
        }
    } else if let Some(v) = get(o, "boolValue") {
        match v {
            Value::Bool(b) => w.int_always(2, u64::from(*b)),
            _ => return fail("boolValue", "expected true or false"),
        }
    } else if let Some(v) = get(o, "intValue") {
        w.int_always(3, signed(v, "intValue")? as u64);
    } else if let Some(v) = get(o, "doubleValue") {
        w.fixed64_always(4, double(v, "doubleValue")?.to_bits());
    } else if let Some(v) = get(o, "arrayValue") {
        let values = list(object(v, "arrayValue")?, "values")?;
        let mut inner = Writer::default();
        for v in values {
            let mut one = Writer::default();
            if !v.is_null() {
                any_value(&mut one, v, depth + 1)?;
            }
            inner.bytes_always(1, &one.buf);
        }
        w.bytes_always(5, &inner.buf);
    } else if let Some(v) = get(o, "kvlistValue") {
        let mut inner = Writer::default();
        key_values(&mut inner, 1, list(object(v, "kvlistValue")?, "values")?, depth + 1)?;
        w.bytes_always(6, &inner.buf);
    } else if let Some(v) = get(o, "bytesValue") {
        match v {
            Value::String(s) => w.bytes_always(7, &base64(s, "bytesValue")?),
            _ => return fail("bytesValue", "expected base64"),
        }
    }
    Ok(())
}

fn key_values(w: &mut Writer, number: u32, items: &[Value], depth: usize) -> Result<()> {
    for kv in items.iter().filter(|v| !v.is_null()) {
        let o = object(kv, "attributes")?;
        let mut one = Writer::default();
        one.bytes(1, text(o, "key")?.as_bytes());
        let mut value = Writer::default();
        if let Some(v) = get(o, "value") {
            any_value(&mut value, v, depth)?;
        }
        one.bytes_always(2, &value.buf);
        w.bytes_always(number, &one.buf);
    }
    Ok(())
}

/// Writes the messages of a list, each by `f`.
fn messages(w: &mut Writer, number: u32, items: &[Value], field: &str, f: impl Fn(&mut Writer, &Object) -> Result<()>) -> Result<()> {
    for v in items.iter().filter(|v| !v.is_null()) {
        let mut one = Writer::default();
        f(&mut one, object(v, field)?)?;
        w.bytes_always(number, &one.buf);
    }
    Ok(())
}

const KINDS: [&str; 6] =
    ["SPAN_KIND_UNSPECIFIED", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"];
const CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

fn span(w: &mut Writer, o: &Object) -> Result<()> {
    w.bytes(1, &id(o, "traceId")?);
    w.bytes(2, &id(o, "spanId")?);
    w.bytes(3, text(o, "traceState")?.as_bytes());
    w.bytes(4, &id(o, "parentSpanId")?);
    w.bytes(5, text(o, "name")?.as_bytes());
    w.int(6, enumeration(o, "kind", &KINDS)?);
    w.fixed64(7, unsigned(o, "startTimeUnixNano")?);
    w.fixed64(8, unsigned(o, "endTimeUnixNano")?);
    key_values(w, 9, list(o, "attributes")?, 0)?;
    w.int(10, unsigned(o, "droppedAttributesCount")?);
    messages(w, 11, list(o, "events")?, "events", |w, e| {
        w.fixed64(1, unsigned(e, "timeUnixNano")?);
        w.bytes(2, text(e, "name")?.as_bytes());
        key_values(w, 3, list(e, "attributes")?, 0)?;
        w.int(4, unsigned(e, "droppedAttributesCount")?);
        Ok(())
    })?;
    w.int(12, unsigned(o, "droppedEventsCount")?);
    messages(w, 13, list(o, "links")?, "links", |w, l| {
        w.bytes(1, &id(l, "traceId")?);
        w.bytes(2, &id(l, "spanId")?);
        w.bytes(3, text(l, "traceState")?.as_bytes());
        key_values(w, 4, list(l, "attributes")?, 0)?;
        w.int(5, unsigned(l, "droppedAttributesCount")?);
        w.fixed32(6, unsigned(l, "flags")? as u32);
        Ok(())
    })?;
    w.int(14, unsigned(o, "droppedLinksCount")?);
    if let Some(s) = get(o, "status") {
        let s = object(s, "status")?;
        let mut one = Writer::default();
        one.bytes(2, text(s, "message")?.as_bytes());
        one.int(3, enumeration(s, "code", &CODES)?);
        w.bytes(15, &one.buf);
    }
    w.fixed32(16, unsigned(o, "flags")? as u32);
    Ok(())
}

fn scope_spans(w: &mut Writer, o: &Object) -> Result<()> {
    if let Some(s) = get(o, "scope") {
        let s = object(s, "scope")?;
        let mut one = Writer::default();
        one.bytes(1, text(s, "name")?.as_bytes());
        one.bytes(2, text(s, "version")?.as_bytes());
        key_values(&mut one, 3, list(s, "attributes")?, 0)?;
        one.int(4, unsigned(s, "droppedAttributesCount")?);
        w.bytes_always(1, &one.buf);
    }
    messages(w, 2, list(o, "spans")?, "spans", span)?;
    w.bytes(3, text(o, "schemaUrl")?.as_bytes());
    Ok(())
}

/// An `ExportTraceServiceRequest` in JSON as protobuf.
pub fn traces_to_protobuf(json: &[u8]) -> std::result::Result<Vec<u8>, JsonError> {
    let v: Value = serde_json::from_slice(json).map_err(|e| JsonError(e.to_string()))?;
    let mut w = Writer::default();
    messages(&mut w, 1, list(object(&v, "request")?, "resourceSpans")?, "resourceSpans", |w, o| {
        if let Some(r) = get(o, "resource") {
            let r = object(r, "resource")?;
            let mut one = Writer::default();
            key_values(&mut one, 1, list(r, "attributes")?, 0)?;
            one.int(2, unsigned(r, "droppedAttributesCount")?);
            w.bytes_always(1, &one.buf);
        }
        messages(w, 2, list(o, "scopeSpans")?, "scopeSpans", scope_spans)?;
        w.bytes(3, text(o, "schemaUrl")?.as_bytes());
        Ok(())
    })?;
    Ok(w.buf)
}
