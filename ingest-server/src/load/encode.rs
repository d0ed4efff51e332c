//! Ticks as OTLP requests.

use strandline_storage::codec::protobuf::Writer;

use super::metrics::{Attribute, Attributes, Example, Point, SCALE, Value};
use super::services::{MODELS, OPERATIONS, QUERIES, SERVICES};
use super::traffic::{Plan, Span, Tick, What};

/// `service.namespace` of everything that is sent.
pub const NAMESPACE: &str = "strandline-load";
/// `service.version`.
pub const VERSION: &str = "1.4.2";

const KIND_SERVER: u64 = 2;
const KIND_CLIENT: u64 = 3;
const KIND_CONSUMER: u64 = 5;
const STATUS_ERROR: u64 = 2;
const CUMULATIVE: u64 = 2;
const DELTA: u64 = 1;

fn key_value(w: &mut Writer, number: u32, key: &str, v: Attribute) {
    w.message(number, |w| {
        w.bytes_always(1, key.as_bytes());
        w.message(2, |w| match v {
            Attribute::Text(t) => w.bytes_always(1, t.as_bytes()),
            Attribute::Int(i) => w.int_always(3, i as u64),
        });
    });
}

fn text(w: &mut Writer, number: u32, key: &str, v: &str) {
    w.message(number, |w| {
        w.bytes_always(1, key.as_bytes());
        w.message(2, |w| w.bytes_always(1, v.as_bytes()));
    });
}

fn resource(w: &mut Writer, plan: &Plan, cell: usize) {
    w.message(1, |w| {
        text(w, 1, "service.name", SERVICES[plan.service_of(cell)].name);
        text(w, 1, "service.namespace", NAMESPACE);
        text(w, 1, "service.instance.id", &plan.instance_id(cell));
        text(w, 1, "service.version", VERSION);
        text(w, 1, "deployment.environment.name", "load");
        text(w, 1, "telemetry.sdk.name", "strandline-load");
    });
}

fn scope(w: &mut Writer) {
    w.message(1, |w| {
        w.bytes_always(1, b"strandline.load");
        w.bytes_always(2, b"1");
    });
}

/// `kind` of a span.
pub fn kind(s: &Span) -> u64 {
    match s.what {
        What::Server(o, _) if OPERATIONS[o].method.is_empty() => KIND_CONSUMER,
        What::Server(..) => KIND_SERVER,
        _ => KIND_CLIENT,
    }
}

/// `name` of a span.
pub fn name(s: &Span) -> &'static str {
    match s.what {
        What::Server(o, _) => OPERATIONS[o].name,
        What::Client(o, _) => OPERATIONS[o].method,
        What::Db(q) => QUERIES[q].name,
        What::Model(m, ..) => MODELS[m].name,
    }
}

/// Attributes of a span.
pub fn attributes(s: &Span) -> Attributes {
    use Attribute::{Int, Text};
    let mut out = match s.what {
        What::Server(o, _) if OPERATIONS[o].method.is_empty() => {
            vec![("messaging.system", Text("rabbitmq")), ("messaging.destination.name", Text(OPERATIONS[o].route))]
        }
        What::Server(o, status) => vec![
            ("http.request.method", Text(OPERATIONS[o].method)),
            ("http.route", Text(OPERATIONS[o].route)),
            ("http.response.status_code", Int(i64::from(status))),
        ],
        What::Client(o, status) => vec![
            ("http.request.method", Text(OPERATIONS[o].method)),
            ("server.address", Text(SERVICES[OPERATIONS[o].service].name)),
            ("http.response.status_code", Int(i64::from(status))),
        ],
        What::Db(q) => vec![
            ("db.system.name", Text(QUERIES[q].system)),
            ("db.operation.name", Text(QUERIES[q].operation)),
            ("db.collection.name", Text(QUERIES[q].collection)),
        ],
        What::Model(m, input, output) => vec![
            ("gen_ai.operation.name", Text("chat")),
            ("gen_ai.provider.name", Text(MODELS[m].provider)),
            ("gen_ai.request.model", Text(MODELS[m].model)),
            ("gen_ai.usage.input_tokens", Int(i64::from(input))),
            ("gen_ai.usage.output_tokens", Int(i64::from(output))),
        ],
    };
    if s.error {
        out.push(("error.type", Text(if s.culprit { "timeout" } else { "500" })));
    }
    out
}

fn span(w: &mut Writer, s: &Span, trace: &[u8; 16]) {
    w.message(2, |w| {
        w.bytes_always(1, trace);
        w.bytes_always(2, &s.id.to_be_bytes());
        if s.parent != 0 {
            w.bytes_always(4, &s.parent.to_be_bytes());
        }
        w.bytes_always(5, name(s).as_bytes());
        w.int_always(6, kind(s));
        w.fixed64_always(7, s.start_ns);
        w.fixed64_always(8, s.end_ns);
        for (k, v) in attributes(s) {
            key_value(w, 9, k, v);
        }
        if s.culprit {
            w.message(11, |w| {
                w.fixed64_always(1, s.end_ns);
                w.bytes_always(2, b"exception");
                text(w, 3, "exception.type", "TimeoutError");
                text(w, 3, "exception.message", "the deadline was exceeded");
            });
        }
        if s.error {
            w.message(15, |w| {
                w.bytes_always(2, if s.culprit { b"timeout".as_slice() } else { b"a call failed" });
                w.int_always(3, STATUS_ERROR);
            });
        }
    });
}

/// The spans of a cell as an `ExportTraceServiceRequest`.
pub fn traces(plan: &Plan, tick: &Tick, cell: usize) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(1, |w| {
        resource(w, plan, cell);
        w.message(2, |w| {
            scope(w);
            for s in tick.spans.iter().filter(|s| s.cell == cell) {
                span(w, s, &tick.traces[s.trace]);
            }
        });
    });
    w.buf
}

fn exemplar(w: &mut Writer, number: u32, e: &Option<Example>) {
    if let Some(e) = e {
        w.message(number, |w| {
            w.fixed64_always(2, e.t_ns);
            w.fixed64_always(3, e.v.to_bits());
            w.bytes_always(4, &e.span.to_be_bytes());
            w.bytes_always(5, &e.trace);
        });
    }
}

fn point(w: &mut Writer, p: &Point, start_ns: u64, tick: &Tick) {
    let (attributes, start_ns) = match p.value {
        Value::Exponential(..) => (1, start_ns),
        Value::Classic(..) => (9, start_ns),
        Value::Delta(_) => (7, tick.before_ms as u64 * 1_000_000),
        _ => (7, start_ns),
    };
    w.message(1, |w| {
        for (k, v) in &p.attributes {
            key_value(w, attributes, k, *v);
        }
        if !matches!(p.value, Value::Gauge(_)) {
            w.fixed64_always(2, start_ns);
        }
        w.fixed64_always(3, tick.t_ms as u64 * 1_000_000);
        match &p.value {
            Value::Gauge(v) => w.fixed64_always(6, *v as u64),
            Value::Cumulative(v) | Value::Delta(v) => w.fixed64_always(6, *v),
            Value::Classic(counts, sum, e) => {
                w.fixed64_always(4, counts.iter().sum());
                w.fixed64_always(5, sum.to_bits());
                w.bytes_always(6, &counts.iter().flat_map(|c| c.to_le_bytes()).collect::<Vec<u8>>());
                w.bytes_always(7, &super::metrics::BOUNDS.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<u8>>());
                exemplar(w, 8, e);
            }
            Value::Exponential(offset, counts, sum, e) => {
                w.fixed64_always(4, counts.iter().sum());
                w.fixed64_always(5, sum.to_bits());
                w.sint(6, i64::from(SCALE));
                w.fixed64_always(7, 0);
                w.message(8, |w| {
                    w.sint(1, i64::from(*offset));
                    w.packed(2, counts);
                });
                exemplar(w, 11, e);
            }
        }
    });
}

/// The points of a cell as an `ExportMetricsServiceRequest`.
pub fn metrics(plan: &Plan, tick: &Tick, cell: usize, points: &[Point]) -> Vec<u8> {
    let start_ns = plan.start_ms as u64 * 1_000_000;
    let mut w = Writer::default();
    w.message(1, |w| {
        resource(w, plan, cell);
        w.message(2, |w| {
            scope(w);
            for of_metric in points.chunk_by(|a, b| a.metric == b.metric) {
                let m = &of_metric[0].metric;
                let (shape, temporality, monotonic) = match of_metric[0].value {
                    Value::Gauge(_) => (5, 0, false),
                    Value::Cumulative(_) => (7, CUMULATIVE, true),
                    Value::Delta(_) => (7, DELTA, true),
                    Value::Classic(..) => (9, CUMULATIVE, false),
                    Value::Exponential(..) => (10, CUMULATIVE, false),
                };
                w.message(2, |w| {
                    w.bytes_always(1, m.name.as_bytes());
                    w.bytes_always(2, m.help.as_bytes());
                    w.bytes_always(3, m.unit.as_bytes());
                    w.message(shape, |w| {
                        for p in of_metric {
                            point(w, p, start_ns, tick);
                        }
                        if temporality > 0 {
                            w.int_always(2, temporality);
                        }
                        if monotonic {
                            w.int_always(3, 1);
                        }
                    });
                });
            }
        });
    });
    w.buf
}
