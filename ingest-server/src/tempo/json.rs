//! OTLP as proto3 JSON: 64-bit integers are strings, enums names, bytes base64, zero values left out.

use serde_json::{Map, Value, json};
use strandline_query::traceql::Val;
use strandline_storage::model::{AttributeValue, Attributes, Resource, Scope, Span, Trace};

use crate::otlp::attributes::base64;

/// A value as text.
fn write(out: &mut Vec<u8>, v: &Value) {
    // Writing into memory fails never.
    let _ = serde_json::to_writer(out, v);
}

/// A list, of which one element at a time is more than text.
pub fn write_list(out: &mut Vec<u8>, items: impl Iterator<Item = Value>) {
    out.push(b'[');
    for (i, v) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, &v);
    }
    out.push(b']');
}

/// An object of some members and a large one, which `large` writes: a tree of it all would be many times the text.
pub fn object(members: Map<String, Value>, name: &str, large: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (k, v) in members {
        write(&mut out, &json!(k));
        out.push(b':');
        write(&mut out, &v);
        out.push(b',');
    }
    write(&mut out, &json!(name));
    out.push(b':');
    large(&mut out);
    out.push(b'}');
    out
}

/// A double; what JSON has no number for is text.
pub fn double(d: f64) -> Value {
    if d.is_nan() {
        json!("NaN")
    } else if d.is_infinite() {
        json!(if d > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        json!(d)
    }
}

fn value(v: &AttributeValue) -> Value {
    match v {
        AttributeValue::Empty => json!({}),
        AttributeValue::String(s) => json!({ "stringValue": s }),
        AttributeValue::Bool(b) => json!({ "boolValue": b }),
        AttributeValue::Int(i) => json!({ "intValue": i.to_string() }),
        AttributeValue::Double(d) => json!({ "doubleValue": double(*d) }),
        AttributeValue::Bytes(b) => json!({ "bytesValue": base64(b) }),
        AttributeValue::Array(a) => {
            let mut m = Map::new();
            list(&mut m, "values", a.iter().map(value).collect());
            json!({ "arrayValue": m })
        }
        AttributeValue::Map(a) => {
            let mut m = Map::new();
            list(&mut m, "values", attributes(a));
            json!({ "kvlistValue": m })
        }
    }
}

fn attributes(a: &Attributes) -> Vec<Value> {
    a.iter().map(|(k, v)| json!({ "key": k, "value": value(v) })).collect()
}

fn list(m: &mut Map<String, Value>, name: &str, items: Vec<Value>) {
    if !items.is_empty() {
        m.insert(name.into(), Value::Array(items));
    }
}

fn text(m: &mut Map<String, Value>, name: &str, v: &str) {
    if !v.is_empty() {
        m.insert(name.into(), json!(v));
    }
}

fn bytes(m: &mut Map<String, Value>, name: &str, v: &[u8]) {
    if !v.is_empty() {
        m.insert(name.into(), json!(base64(v)));
    }
}

fn u32_field(m: &mut Map<String, Value>, name: &str, v: u32) {
    if v != 0 {
        m.insert(name.into(), json!(v));
    }
}

/// A 64-bit integer, left out at zero.
pub fn u64_field(m: &mut Map<String, Value>, name: &str, v: u64) {
    if v != 0 {
        m.insert(name.into(), json!(v.to_string()));
    }
}

fn enum_field(m: &mut Map<String, Value>, name: &str, v: i32, names: &[&str]) {
    if v == 0 {
        return;
    }
    let named = usize::try_from(v).ok().and_then(|v| names.get(v));
    m.insert(name.into(), named.map_or_else(|| json!(v), |n| json!(n)));
}

const KINDS: [&str; 6] =
    ["SPAN_KIND_UNSPECIFIED", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"];
const CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

fn span(s: &Span) -> Value {
    let mut m = Map::new();
    bytes(&mut m, "traceId", &s.trace_id.0);
    bytes(&mut m, "spanId", &s.span_id.0);
    text(&mut m, "traceState", &s.trace_state);
    if let Some(p) = s.parent_span_id {
        bytes(&mut m, "parentSpanId", &p.0);
    }
    u32_field(&mut m, "flags", s.flags);
    text(&mut m, "name", &s.name);
    enum_field(&mut m, "kind", s.kind, &KINDS);
    u64_field(&mut m, "startTimeUnixNano", s.start_unix_nano);
    u64_field(&mut m, "endTimeUnixNano", s.end_unix_nano);
    list(&mut m, "attributes", attributes(&s.attributes));
    u32_field(&mut m, "droppedAttributesCount", s.dropped_attributes_count);
    let events = s.events.iter().map(|e| {
        let mut m = Map::new();
        u64_field(&mut m, "timeUnixNano", e.time_unix_nano);
        text(&mut m, "name", &e.name);
        list(&mut m, "attributes", attributes(&e.attributes));
        u32_field(&mut m, "droppedAttributesCount", e.dropped_attributes_count);
        Value::Object(m)
    });
    list(&mut m, "events", events.collect());
    u32_field(&mut m, "droppedEventsCount", s.dropped_events_count);
    let links = s.links.iter().map(|l| {
        let mut m = Map::new();
        bytes(&mut m, "traceId", &l.trace_id);
        bytes(&mut m, "spanId", &l.span_id);
        text(&mut m, "traceState", &l.trace_state);
        list(&mut m, "attributes", attributes(&l.attributes));
        u32_field(&mut m, "droppedAttributesCount", l.dropped_attributes_count);
        u32_field(&mut m, "flags", l.flags);
        Value::Object(m)
    });
    list(&mut m, "links", links.collect());
    u32_field(&mut m, "droppedLinksCount", s.dropped_links_count);
    let mut status = Map::new();
    text(&mut status, "message", &s.status_message);
    enum_field(&mut status, "code", s.status_code, &CODES);
    m.insert("status".into(), Value::Object(status));
    Value::Object(m)
}

fn resource(r: &Resource) -> Value {
    let mut m = Map::new();
    list(&mut m, "attributes", attributes(&r.attributes));
    u32_field(&mut m, "droppedAttributesCount", r.dropped_attributes_count);
    Value::Object(m)
}

fn scope(s: &Scope) -> Value {
    let mut m = Map::new();
    text(&mut m, "name", &s.name);
    text(&mut m, "version", &s.version);
    list(&mut m, "attributes", attributes(&s.attributes));
    u32_field(&mut m, "droppedAttributesCount", s.dropped_attributes_count);
    Value::Object(m)
}

/// The trace's spans by resource and scope: the elements of `resourceSpans` (`batches` in Tempo's first API).
pub fn write_resource_spans(out: &mut Vec<u8>, trace: &Trace) {
    let mut spans: Vec<&Span> = trace.spans.iter().collect();
    spans.sort_by(|a, b| (&a.resource, &a.scope).cmp(&(&b.resource, &b.scope)));
    out.push(b'[');
    for (i, of_resource) in spans.chunk_by(|a, b| a.resource == b.resource).enumerate() {
        let first = &of_resource[0].resource;
        out.extend_from_slice(if i > 0 { b",{\"resource\":" } else { b"{\"resource\":" });
        write(out, &resource(first));
        out.extend_from_slice(b",\"scopeSpans\":[");
        for (i, of_scope) in of_resource.chunk_by(|a, b| a.scope == b.scope).enumerate() {
            let first = &of_scope[0].scope;
            out.extend_from_slice(if i > 0 { b",{\"scope\":" } else { b"{\"scope\":" });
            write(out, &scope(first));
            out.extend_from_slice(b",\"spans\":");
            write_list(out, of_scope.iter().map(|s| span(s)));
            end(out, &first.schema_url);
        }
        out.push(b']');
        end(out, &first.schema_url);
    }
    out.push(b']');
}

/// The end of an object, perhaps with a schema.
fn end(out: &mut Vec<u8>, schema_url: &str) {
    if !schema_url.is_empty() {
        out.extend_from_slice(b",\"schemaUrl\":");
        write(out, &json!(schema_url));
    }
    out.push(b'}');
}

/// A value of a result as an `AnyValue`.
pub fn any_value(v: &Val) -> Value {
    match v {
        Val::Str(s) => json!({ "stringValue": &**s }),
        Val::Int(i) => json!({ "intValue": i.to_string() }),
        Val::Float(f) => json!({ "doubleValue": double(*f) }),
        Val::Bool(b) => json!({ "boolValue": b }),
        Val::Array(a) => json!({ "arrayValue": { "values": a.iter().map(any_value).collect::<Vec<_>>() } }),
        other => json!({ "stringValue": other.text() }),
    }
}

/// Named values of a result.
pub fn key_values(pairs: &[(String, Val)]) -> Vec<Value> {
    pairs.iter().map(|(k, v)| json!({ "key": k, "value": any_value(v) })).collect()
}

/// Says of an answer that it is not whole, and why.
pub fn partial(m: &mut Map<String, Value>, warnings: &[String]) {
    if !warnings.is_empty() {
        m.insert("status".into(), json!("PARTIAL"));
        m.insert("message".into(), json!(warnings.join("; ")));
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn base64_as_the_rfc_has_it() {
        for (b, t) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(b.as_bytes()), t);
        }
    }
}
