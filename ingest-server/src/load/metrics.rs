//! RED metrics of a cell, derived from its spans the way an SDK would.

use std::collections::BTreeMap;

use super::services::{MODELS, OPERATIONS, QUERIES};
use super::traffic::{Span, Tick, What};

/// Bounds of the duration histograms: what the semantic conventions advise.
pub const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Scale of the exponential histogram: eight buckets a doubling.
pub const SCALE: i32 = 3;

/// An attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// Text.
    Text(&'static str),
    /// A number.
    Int(i64),
}

/// Attributes by name.
pub type Attributes = Vec<(&'static str, Attribute)>;

/// A metric as it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// OTLP's name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// What Prometheus calls the family.
    pub prometheus: &'static str,
}

/// Durations of served requests: a classic histogram.
pub const SERVED: Declared = Declared {
    name: "http.server.request.duration",
    unit: "s",
    help: "Duration of served requests.",
    prometheus: "http_server_request_duration_seconds",
};
/// Durations of statements: a classic histogram.
pub const STATEMENTS: Declared = Declared {
    name: "db.client.operation.duration",
    unit: "s",
    help: "Duration of database calls.",
    prometheus: "db_client_operation_duration_seconds",
};
/// Durations of model calls: an exponential histogram.
pub const MODEL_CALLS: Declared = Declared {
    name: "gen_ai.client.operation.duration",
    unit: "s",
    help: "Duration of model calls.",
    prometheus: "gen_ai_client_operation_duration_seconds",
};
/// Tokens: a counter of delta temporality.
pub const TOKENS: Declared =
    Declared { name: "gen_ai.client.tokens", unit: "{token}", help: "Tokens used.", prometheus: "gen_ai_client_tokens_total" };
/// Failures: a cumulative counter.
pub const ERRORS: Declared =
    Declared { name: "app.errors", unit: "{error}", help: "What went wrong in this service.", prometheus: "app_errors_total" };
/// Memory: a gauge.
pub const MEMORY: Declared =
    Declared { name: "process.memory.usage", unit: "By", help: "Memory in use.", prometheus: "process_memory_usage_bytes" };

/// One observation to link to its trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Example {
    /// Seconds.
    pub v: f64,
    /// Unix nanoseconds.
    pub t_ns: u64,
    /// Where it was seen.
    pub trace: [u8; 16],
    /// Where it was seen.
    pub span: u64,
}

/// What a point holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A gauge.
    Gauge(i64),
    /// A counter's value since the start.
    Cumulative(u64),
    /// A counter's increase since the last tick.
    Delta(u64),
    /// Counts by [`BOUNDS`], the last above all; the sum in seconds.
    Classic([u64; 15], f64, Option<Example>),
    /// Counts from a bucket index on; the sum in seconds.
    Exponential(i32, Vec<u64>, f64, Option<Example>),
}

/// A data point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Of which metric.
    pub metric: Declared,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its value.
    pub value: Value,
}

#[derive(Clone, Debug, Default)]
struct Durations {
    classic: [u64; 15],
    exponential: BTreeMap<i32, u64>,
    sum_us: u64,
    example: Option<Example>,
}

impl Durations {
    fn record(&mut self, s: &Span, tick: &Tick) {
        let v = s.us() as f64 / 1e6;
        self.classic[BOUNDS.iter().position(|b| v <= *b).unwrap_or(BOUNDS.len())] += 1;
        let index = (v.max(1e-9).log2() * f64::from(1 << SCALE)).ceil() as i32 - 1;
        *self.exponential.entry(index).or_default() += 1;
        self.sum_us += s.us();
        self.example = Some(Example { v, t_ns: s.end_ns, trace: tick.traces[s.trace], span: s.id });
    }

    fn sum(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }
}

/// What a process counts.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    served: BTreeMap<(usize, u16), Durations>,
    statements: BTreeMap<(usize, bool), Durations>,
    model_calls: BTreeMap<(usize, bool), Durations>,
    tokens: BTreeMap<(usize, bool), u64>,
    errors: u64,
    spans: u64,
}

impl Counted {
    /// Counts a span of this process.
    pub fn record(&mut self, s: &Span, tick: &Tick) {
        self.spans += 1;
        self.errors += u64::from(s.culprit);
        match s.what {
            What::Server(operation, status) => self.served.entry((operation, status)).or_default().record(s, tick),
            What::Client(..) => {}
            What::Db(q) => self.statements.entry((q, s.error)).or_default().record(s, tick),
            What::Model(m, input, output) => {
                self.model_calls.entry((m, s.error)).or_default().record(s, tick);
                *self.tokens.entry((m, false)).or_default() += u64::from(input);
                *self.tokens.entry((m, true)).or_default() += u64::from(output);
            }
        }
    }

    /// The points of an export, in a fixed order, a metric's together. Increases and exemplars are forgotten by it.
    pub fn collect(&mut self) -> Vec<Point> {
        let mut out = Vec::new();
        for ((o, status), d) in &mut self.served {
            let o = &OPERATIONS[*o];
            let attributes = vec![
                ("http.request.method", Attribute::Text(if o.method.is_empty() { "QUEUE" } else { o.method })),
                ("http.response.status_code", Attribute::Int(i64::from(*status))),
                ("http.route", Attribute::Text(o.route)),
            ];
            out.push(Point { metric: SERVED, attributes, value: Value::Classic(d.classic, d.sum(), d.example.take()) });
        }
        for ((q, error), d) in &mut self.statements {
            let q = &QUERIES[*q];
            let attributes = with_error(
                vec![
                    ("db.collection.name", Attribute::Text(q.collection)),
                    ("db.operation.name", Attribute::Text(q.operation)),
                    ("db.system.name", Attribute::Text(q.system)),
                ],
                *error,
            );
            out.push(Point { metric: STATEMENTS, attributes, value: Value::Classic(d.classic, d.sum(), d.example.take()) });
        }
        for ((m, error), d) in &mut self.model_calls {
            let attributes = with_error(vec![("gen_ai.request.model", Attribute::Text(MODELS[*m].model))], *error);
            let first = d.exponential.keys().next().copied().unwrap_or(0);
            let last = d.exponential.keys().next_back().copied().unwrap_or(0);
            let counts = (first..=last).map(|i| d.exponential.get(&i).copied().unwrap_or(0)).collect();
            out.push(Point { metric: MODEL_CALLS, attributes, value: Value::Exponential(first, counts, d.sum(), d.example.take()) });
        }
        for ((m, output), n) in std::mem::take(&mut self.tokens) {
            let attributes = vec![
                ("gen_ai.request.model", Attribute::Text(MODELS[m].model)),
                ("gen_ai.token.type", Attribute::Text(if output { "output" } else { "input" })),
            ];
            out.push(Point { metric: TOKENS, attributes, value: Value::Delta(n) });
        }
        out.push(Point { metric: ERRORS, attributes: Vec::new(), value: Value::Cumulative(self.errors) });
        let memory = (96 << 20) + (self.spans * 4096 % (64 << 20)) as i64;
        out.push(Point { metric: MEMORY, attributes: Vec::new(), value: Value::Gauge(memory) });
        out
    }
}

fn with_error(mut a: Attributes, error: bool) -> Attributes {
    if error {
        a.push(("error.type", Attribute::Text("timeout")));
    }
    a
}
