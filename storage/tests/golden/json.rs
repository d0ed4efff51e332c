//! Spans as JSON, every field and type told, for comparison with what was written down when a format was new.

use serde_json::{Value, json};
use strandline_storage::model::{AttributeValue, Attributes, Span, SpanEvent, SpanLink};

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

fn value(v: &AttributeValue) -> Value {
    match v {
        AttributeValue::Empty => json!({ "empty": true }),
        AttributeValue::String(s) => json!({ "string": s }),
        AttributeValue::Bool(b) => json!({ "bool": b }),
        AttributeValue::Int(i) => json!({ "int": i.to_string() }),
        // By its bits, so that NaN and the sign of zero count.
        AttributeValue::Double(d) => json!({ "double": format!("{:016x}", d.to_bits()) }),
        AttributeValue::Bytes(b) => json!({ "bytes": hex(b) }),
        AttributeValue::Array(a) => json!({ "array": a.iter().map(value).collect::<Vec<_>>() }),
        AttributeValue::Map(m) => json!({ "map": attributes(m) }),
    }
}

fn attributes(a: &Attributes) -> Value {
    a.iter().map(|(k, v)| json!([k, value(v)])).collect()
}

fn event(e: &SpanEvent) -> Value {
    json!({
        "time": e.time_unix_nano.to_string(),
        "name": e.name,
        "attributes": attributes(&e.attributes),
        "dropped": e.dropped_attributes_count,
    })
}

fn link(l: &SpanLink) -> Value {
    json!({
        "trace": hex(&l.trace_id),
        "span": hex(&l.span_id),
        "state": l.trace_state,
        "attributes": attributes(&l.attributes),
        "dropped": l.dropped_attributes_count,
        "flags": l.flags,
    })
}

/// All of a span.
pub fn span(s: &Span) -> Value {
    json!({
        "trace": s.trace_id.to_string(),
        "span": s.span_id.to_string(),
        "parent": s.parent_span_id.map(|p| p.to_string()),
        "start": s.start_unix_nano.to_string(),
        "end": s.end_unix_nano.to_string(),
        "name": s.name,
        "kind": s.kind,
        "status": [json!(s.status_code), json!(s.status_message)],
        "state": s.trace_state,
        "flags": s.flags,
        "attributes": attributes(&s.attributes),
        "events": s.events.iter().map(event).collect::<Vec<_>>(),
        "links": s.links.iter().map(link).collect::<Vec<_>>(),
        "dropped": [s.dropped_attributes_count, s.dropped_events_count, s.dropped_links_count],
        "resource": [attributes(&s.resource.attributes), json!(s.resource.dropped_attributes_count), json!(s.resource.schema_url)],
        "scope": [
            json!(s.scope.name),
            json!(s.scope.version),
            attributes(&s.scope.attributes),
            json!(s.scope.dropped_attributes_count),
            json!(s.scope.schema_url),
        ],
    })
}
