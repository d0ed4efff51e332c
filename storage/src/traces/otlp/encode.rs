//! Spans to OTLP protobuf, regrouped by resource and scope.

use crate::codec::protobuf::Writer;
use crate::model::{AttributeValue, Attributes, Resource, Scope, Span, Trace};

fn value(w: &mut Writer, v: &AttributeValue) {
    match v {
        AttributeValue::Empty => {}
        AttributeValue::String(s) => w.bytes_always(1, s.as_bytes()),
        AttributeValue::Bool(b) => w.int_always(2, u64::from(*b)),
        AttributeValue::Int(i) => w.int_always(3, *i as u64),
        AttributeValue::Double(d) => w.fixed64_always(4, d.to_bits()),
        AttributeValue::Array(a) => w.message(5, |w| a.iter().for_each(|v| w.message(1, |w| value(w, v)))),
        AttributeValue::Map(m) => w.message(6, |w| attributes(w, 1, m)),
        AttributeValue::Bytes(b) => w.bytes_always(7, b),
    }
}

fn attributes(w: &mut Writer, number: u32, a: &Attributes) {
    for (k, v) in a {
        w.message(number, |w| {
            w.bytes(1, k.as_bytes());
            w.message(2, |w| value(w, v));
        });
    }
}

/// Attributes as fields 1 of a message.
pub fn encode_attributes(a: &Attributes) -> Vec<u8> {
    let mut w = Writer::default();
    attributes(&mut w, 1, a);
    w.buf
}

fn resource(w: &mut Writer, r: &Resource) {
    attributes(w, 1, &r.attributes);
    w.int(2, r.dropped_attributes_count.into());
}

fn scope(w: &mut Writer, s: &Scope) {
    w.bytes(1, s.name.as_bytes());
    w.bytes(2, s.version.as_bytes());
    attributes(w, 3, &s.attributes);
    w.int(4, s.dropped_attributes_count.into());
}

/// Writes the fields of a `Span` message.
pub fn encode_span(w: &mut Writer, s: &Span) {
    w.bytes(1, &s.trace_id.0);
    w.bytes(2, &s.span_id.0);
    w.bytes(3, s.trace_state.as_bytes());
    if let Some(p) = s.parent_span_id {
        w.bytes(4, &p.0);
    }
    w.bytes(5, s.name.as_bytes());
    w.int(6, i64::from(s.kind) as u64);
    w.fixed64(7, s.start_unix_nano);
    w.fixed64(8, s.end_unix_nano);
    attributes(w, 9, &s.attributes);
    w.int(10, s.dropped_attributes_count.into());
    for e in &s.events {
        w.message(11, |w| {
            w.fixed64(1, e.time_unix_nano);
            w.bytes(2, e.name.as_bytes());
            attributes(w, 3, &e.attributes);
            w.int(4, e.dropped_attributes_count.into());
        });
    }
    w.int(12, s.dropped_events_count.into());
    for l in &s.links {
        w.message(13, |w| {
            w.bytes(1, &l.trace_id);
            w.bytes(2, &l.span_id);
            w.bytes(3, l.trace_state.as_bytes());
            attributes(w, 4, &l.attributes);
            w.int(5, l.dropped_attributes_count.into());
            w.fixed32(6, l.flags);
        });
    }
    w.int(14, s.dropped_links_count.into());
    if s.status_code != 0 || !s.status_message.is_empty() {
        w.message(15, |w| {
            w.bytes(2, s.status_message.as_bytes());
            w.int(3, i64::from(s.status_code) as u64);
        });
    }
    w.fixed32(16, s.flags);
}

/// Spans as an `ExportTraceServiceRequest`, which has the fields of `TracesData` and of Tempo's `Trace`.
pub fn encode_request<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Vec<u8> {
    let mut spans: Vec<&Span> = spans.into_iter().collect();
    // Stable: within a scope the spans keep their order.
    spans.sort_by(|a, b| (&a.resource, &a.scope).cmp(&(&b.resource, &b.scope)));
    let mut w = Writer::default();
    for by_resource in spans.chunk_by(|a, b| a.resource == b.resource) {
        w.message(1, |w| {
            w.message(1, |w| resource(w, &by_resource[0].resource));
            for by_scope in by_resource.chunk_by(|a, b| a.scope == b.scope) {
                w.message(2, |w| {
                    w.message(1, |w| scope(w, &by_scope[0].scope));
                    by_scope.iter().for_each(|s| w.message(2, |w| encode_span(w, s)));
                    w.bytes(3, by_scope[0].scope.schema_url.as_bytes());
                });
            }
            w.bytes(3, by_resource[0].resource.schema_url.as_bytes());
        });
    }
    w.buf
}

/// A trace as Tempo's `Trace` message.
pub fn encode_trace(trace: &Trace) -> Vec<u8> {
    encode_request(&trace.spans)
}
