//! OTLP/JSON into the protobuf that everything else reads.
//!
//! Proto3 JSON with OTLP's exceptions: ids are hex, enums numbers or names, 64-bit integers numbers or strings,
//! doubles may be the strings "NaN", "Infinity", "-Infinity". Null stands for absent; unknown fields are skipped.

use serde_json::{Map, Value};

use strandline_storage::codec::protobuf::Writer;
use strandline_storage::codec::zigzag;

use crate::params::hex_digit;

/// A request that is not OTLP/JSON, with the path to what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct JsonError {
    path: String,
    what: String,
}

/// Which request a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Signal {
    Metrics,
    Traces,
    Logs,
}

#[derive(Clone, Copy)]
enum Type {
    Text,
    Bool,
    /// Varint, signed or not, or an enum.
    Int,
    Sint,
    Fixed64,
    Fixed32,
    Double,
    Hex,
    Base64,
    Enum(&'static str, &'static [&'static str]),
    Message(&'static [FieldOf]),
}

struct FieldOf {
    name: &'static str,
    number: u32,
    kind: Type,
    repeated: bool,
    packed: bool,
}

const fn one(name: &'static str, number: u32, kind: Type) -> FieldOf {
    FieldOf { name, number, kind, repeated: false, packed: false }
}
const fn many(name: &'static str, number: u32, kind: Type) -> FieldOf {
    FieldOf { name, number, kind, repeated: true, packed: false }
}
const fn packed(name: &'static str, number: u32, kind: Type) -> FieldOf {
    FieldOf { name, number, kind, repeated: true, packed: true }
}

use Type::{Base64, Bool, Double, Enum, Fixed32, Fixed64, Hex, Int, Message, Sint, Text};

static ANY: [FieldOf; 7] = [
    one("stringValue", 1, Text),
    one("boolValue", 2, Bool),
    one("intValue", 3, Int),
    one("doubleValue", 4, Double),
    one("arrayValue", 5, Message(&ARRAY)),
    one("kvlistValue", 6, Message(&KVLIST)),
    one("bytesValue", 7, Base64),
];
static ARRAY: [FieldOf; 1] = [many("values", 1, Message(&ANY))];
static KVLIST: [FieldOf; 1] = [many("values", 1, Message(&KV))];
static KV: [FieldOf; 2] = [one("key", 1, Text), one("value", 2, Message(&ANY))];
static RESOURCE: [FieldOf; 2] = [many("attributes", 1, Message(&KV)), one("droppedAttributesCount", 2, Int)];
static SCOPE: [FieldOf; 4] =
    [one("name", 1, Text), one("version", 2, Text), many("attributes", 3, Message(&KV)), one("droppedAttributesCount", 4, Int)];
static EXEMPLAR: [FieldOf; 6] = [
    one("timeUnixNano", 2, Fixed64),
    one("asDouble", 3, Double),
    one("spanId", 4, Hex),
    one("traceId", 5, Hex),
    one("asInt", 6, Fixed64),
    many("filteredAttributes", 7, Message(&KV)),
];
static NUMBER: [FieldOf; 7] = [
    one("startTimeUnixNano", 2, Fixed64),
    one("timeUnixNano", 3, Fixed64),
    one("asDouble", 4, Double),
    many("exemplars", 5, Message(&EXEMPLAR)),
    one("asInt", 6, Fixed64),
    many("attributes", 7, Message(&KV)),
    one("flags", 8, Int),
];
static HISTOGRAM_POINT: [FieldOf; 11] = [
    one("startTimeUnixNano", 2, Fixed64),
    one("timeUnixNano", 3, Fixed64),
    one("count", 4, Fixed64),
    one("sum", 5, Double),
    packed("bucketCounts", 6, Fixed64),
    packed("explicitBounds", 7, Double),
    many("exemplars", 8, Message(&EXEMPLAR)),
    many("attributes", 9, Message(&KV)),
    one("flags", 10, Int),
    one("min", 11, Double),
    one("max", 12, Double),
];
static BUCKETS: [FieldOf; 2] = [one("offset", 1, Sint), packed("bucketCounts", 2, Int)];
static EXPONENTIAL_POINT: [FieldOf; 14] = [
    many("attributes", 1, Message(&KV)),
    one("startTimeUnixNano", 2, Fixed64),
    one("timeUnixNano", 3, Fixed64),
    one("count", 4, Fixed64),
    one("sum", 5, Double),
    one("scale", 6, Sint),
    one("zeroCount", 7, Fixed64),
    one("positive", 8, Message(&BUCKETS)),
    one("negative", 9, Message(&BUCKETS)),
    one("flags", 10, Int),
    many("exemplars", 11, Message(&EXEMPLAR)),
    one("min", 12, Double),
    one("max", 13, Double),
    one("zeroThreshold", 14, Double),
];
static QUANTILE: [FieldOf; 2] = [one("quantile", 1, Double), one("value", 2, Double)];
static SUMMARY_POINT: [FieldOf; 7] = [
    one("startTimeUnixNano", 2, Fixed64),
    one("timeUnixNano", 3, Fixed64),
    one("count", 4, Fixed64),
    one("sum", 5, Double),
    many("quantileValues", 6, Message(&QUANTILE)),
    many("attributes", 7, Message(&KV)),
    one("flags", 8, Int),
];
const TEMPORALITY: Type = Enum("AGGREGATION_TEMPORALITY_", &["UNSPECIFIED", "DELTA", "CUMULATIVE"]);
static GAUGE: [FieldOf; 1] = [many("dataPoints", 1, Message(&NUMBER))];
static SUM: [FieldOf; 3] =
    [many("dataPoints", 1, Message(&NUMBER)), one("aggregationTemporality", 2, TEMPORALITY), one("isMonotonic", 3, Bool)];
static HISTOGRAM: [FieldOf; 2] = [many("dataPoints", 1, Message(&HISTOGRAM_POINT)), one("aggregationTemporality", 2, TEMPORALITY)];
static EXPONENTIAL: [FieldOf; 2] = [many("dataPoints", 1, Message(&EXPONENTIAL_POINT)), one("aggregationTemporality", 2, TEMPORALITY)];
static SUMMARY: [FieldOf; 1] = [many("dataPoints", 1, Message(&SUMMARY_POINT))];
static METRIC: [FieldOf; 9] = [
    one("name", 1, Text),
    one("description", 2, Text),
    one("unit", 3, Text),
    one("gauge", 5, Message(&GAUGE)),
    one("sum", 7, Message(&SUM)),
    one("histogram", 9, Message(&HISTOGRAM)),
    one("exponentialHistogram", 10, Message(&EXPONENTIAL)),
    one("summary", 11, Message(&SUMMARY)),
    many("metadata", 12, Message(&KV)),
];
static SCOPE_METRICS: [FieldOf; 3] = [one("scope", 1, Message(&SCOPE)), many("metrics", 2, Message(&METRIC)), one("schemaUrl", 3, Text)];
static RESOURCE_METRICS: [FieldOf; 3] =
    [one("resource", 1, Message(&RESOURCE)), many("scopeMetrics", 2, Message(&SCOPE_METRICS)), one("schemaUrl", 3, Text)];
static METRICS: [FieldOf; 1] = [many("resourceMetrics", 1, Message(&RESOURCE_METRICS))];

static EVENT: [FieldOf; 4] =
    [one("timeUnixNano", 1, Fixed64), one("name", 2, Text), many("attributes", 3, Message(&KV)), one("droppedAttributesCount", 4, Int)];
static LINK: [FieldOf; 6] = [
    one("traceId", 1, Hex),
    one("spanId", 2, Hex),
    one("traceState", 3, Text),
    many("attributes", 4, Message(&KV)),
    one("droppedAttributesCount", 5, Int),
    one("flags", 6, Fixed32),
];
static STATUS: [FieldOf; 2] = [one("message", 2, Text), one("code", 3, Enum("STATUS_CODE_", &["UNSET", "OK", "ERROR"]))];
static SPAN: [FieldOf; 16] = [
    one("traceId", 1, Hex),
    one("spanId", 2, Hex),
    one("traceState", 3, Text),
    one("parentSpanId", 4, Hex),
    one("name", 5, Text),
    one("kind", 6, Enum("SPAN_KIND_", &["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"])),
    one("startTimeUnixNano", 7, Fixed64),
    one("endTimeUnixNano", 8, Fixed64),
    many("attributes", 9, Message(&KV)),
    one("droppedAttributesCount", 10, Int),
    many("events", 11, Message(&EVENT)),
    one("droppedEventsCount", 12, Int),
    many("links", 13, Message(&LINK)),
    one("droppedLinksCount", 14, Int),
    one("status", 15, Message(&STATUS)),
    one("flags", 16, Fixed32),
];
static SCOPE_SPANS: [FieldOf; 3] = [one("scope", 1, Message(&SCOPE)), many("spans", 2, Message(&SPAN)), one("schemaUrl", 3, Text)];
static RESOURCE_SPANS: [FieldOf; 3] =
    [one("resource", 1, Message(&RESOURCE)), many("scopeSpans", 2, Message(&SCOPE_SPANS)), one("schemaUrl", 3, Text)];
static TRACES: [FieldOf; 1] = [many("resourceSpans", 1, Message(&RESOURCE_SPANS))];

static LOG: [FieldOf; 1] = [one("timeUnixNano", 1, Fixed64)];
static SCOPE_LOGS: [FieldOf; 1] = [many("logRecords", 2, Message(&LOG))];
static RESOURCE_LOGS: [FieldOf; 1] = [many("scopeLogs", 2, Message(&SCOPE_LOGS))];
static LOGS: [FieldOf; 1] = [many("resourceLogs", 1, Message(&RESOURCE_LOGS))];

/// The protobuf form of a JSON request. serde_json bounds the nesting.
pub fn to_protobuf(json: &[u8], signal: Signal) -> Result<Vec<u8>, JsonError> {
    let at = |path: &str, what: String| JsonError { path: path.to_owned(), what };
    let v: Value = serde_json::from_slice(json).map_err(|e| at("body", format!("not JSON: {e}")))?;
    let Value::Object(o) = v else { return Err(at("body", "expected an object".into())) };
    let fields: &[FieldOf] = match signal {
        Signal::Metrics => &METRICS,
        Signal::Traces => &TRACES,
        Signal::Logs => &LOGS,
    };
    let mut w = Writer::default();
    message(&o, fields, "", &mut w)?;
    Ok(w.buf)
}

fn message(o: &Map<String, Value>, fields: &'static [FieldOf], path: &str, w: &mut Writer) -> Result<(), JsonError> {
    for (k, v) in o {
        // The original field names, in snake case, are valid in proto3 JSON too.
        let Some(f) = fields.iter().find(|f| f.name == k || snake_equal(f.name, k)) else { continue };
        if v.is_null() {
            continue;
        }
        let here = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
        if !f.repeated {
            value(v, f, &here, w)?;
            continue;
        }
        let Value::Array(items) = v else { return Err(JsonError { path: here, what: "expected a list".into() }) };
        if f.packed {
            let mut inner = Writer::default();
            for (i, x) in items.iter().enumerate() {
                packed_value(x, f, &format!("{here}[{i}]"), &mut inner)?;
            }
            w.bytes_always(f.number, &inner.buf);
        } else {
            for (i, x) in items.iter().enumerate().filter(|(_, x)| !x.is_null()) {
                value(x, f, &format!("{here}[{i}]"), w)?;
            }
        }
    }
    Ok(())
}

fn snake_equal(camel: &str, given: &str) -> bool {
    let mut g = given.chars();
    camel.chars().all(|c| {
        if c.is_ascii_uppercase() { g.next() == Some('_') && g.next() == Some(c.to_ascii_lowercase()) } else { g.next() == Some(c) }
    }) && g.next().is_none()
}

fn int(v: &Value) -> Option<u64> {
    match v {
        Value::Number(n) => n.as_u64().or_else(|| n.as_i64().map(|i| i as u64)).or_else(|| {
            let f = n.as_f64()?;
            (f.fract() == 0.0 && f.abs() < 9.3e18).then_some(f as i64 as u64)
        }),
        Value::String(s) => s.parse::<u64>().ok().or_else(|| s.parse::<i64>().ok().map(|i| i as u64)),
        _ => None,
    }
}

fn double(v: &Value) -> Option<f64> {
    match v {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => match s.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            s => s.parse().ok(),
        },
        _ => None,
    }
}

fn value(v: &Value, f: &FieldOf, path: &str, w: &mut Writer) -> Result<(), JsonError> {
    let wrong = |what: &str| JsonError { path: path.to_owned(), what: format!("expected {what}, found {}", kind_of(v)) };
    let n = f.number;
    match f.kind {
        Text => w.bytes_always(n, v.as_str().ok_or_else(|| wrong("text"))?.as_bytes()),
        Bool => w.int_always(n, v.as_bool().ok_or_else(|| wrong("true or false"))? as u64),
        Int => w.int_always(n, int(v).ok_or_else(|| wrong("a whole number"))?),
        Sint => {
            let i = int(v).ok_or_else(|| wrong("a whole number"))? as i64;
            w.int_always(n, zigzag(i));
        }
        Fixed64 => w.fixed64_always(n, int(v).ok_or_else(|| wrong("a whole number"))?),
        Fixed32 => w.fixed32(n, int(v).ok_or_else(|| wrong("a whole number"))? as u32),
        Double => w.fixed64_always(n, double(v).ok_or_else(|| wrong("a number"))?.to_bits()),
        Hex => w.bytes_always(n, &v.as_str().and_then(unhex).ok_or_else(|| wrong("hexadecimal digits"))?),
        Base64 => w.bytes_always(n, &v.as_str().and_then(unbase64).ok_or_else(|| wrong("base64"))?),
        Enum(prefix, names) => {
            let named = v.as_str().and_then(|s| names.iter().position(|x| s.strip_prefix(prefix) == Some(x))).map(|i| i as u64);
            w.int_always(n, named.or_else(|| int(v)).ok_or_else(|| wrong("a value of the enum"))?);
        }
        Message(fields) => {
            let Value::Object(o) = v else { return Err(wrong("an object")) };
            let mut inner = Writer::default();
            message(o, fields, path, &mut inner)?;
            w.bytes_always(n, &inner.buf);
        }
    }
    Ok(())
}

fn packed_value(v: &Value, f: &FieldOf, path: &str, w: &mut Writer) -> Result<(), JsonError> {
    let wrong = || JsonError { path: path.to_owned(), what: format!("expected a number, found {}", kind_of(v)) };
    match f.kind {
        Fixed64 => w.buf.extend_from_slice(&int(v).ok_or_else(wrong)?.to_le_bytes()),
        Double => w.buf.extend_from_slice(&double(v).ok_or_else(wrong)?.to_le_bytes()),
        _ => {
            let mut x = int(v).ok_or_else(wrong)?;
            while x >= 0x80 {
                w.buf.push((x as u8) | 0x80);
                x >>= 7;
            }
            w.buf.push(x as u8);
        }
    }
    Ok(())
}

fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Hex digits as bytes.
fn unhex(s: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = s.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(hex_digit(*high)? << 4 | hex_digit(*low)?)).collect()
}

/// Base64 of either alphabet, padded or not.
pub(crate) fn unbase64(s: &str) -> Option<Vec<u8>> {
    let (mut out, mut acc, mut bits) = (Vec::new(), 0u32, 0);
    for c in s.bytes().filter(|c| *c != b'=') {
        let v = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        acc = acc << 6 | v as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((acc >> bits) as u8);
        }
    }
    Some(out)
}
