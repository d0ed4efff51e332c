//! Traces in few words, and a source that holds them in memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use strandline_storage::Result;
use strandline_storage::model::{AttributeValue, Attributes, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, Trace, TraceId};
use strandline_storage::read::{AttributeScope, RowBatch, ScanRequest, ScanStats, SpanBatch, SpanSource, Visit};

/// Start of the fixture's time, Unix nanoseconds: a whole minute.
pub const T0: u64 = 1_700_000_040_000_000_000;
const MS: u64 = 1_000_000;

fn attrs(list: &[(&str, AttributeValue)]) -> Attributes {
    let mut a: Attributes = list.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    a.sort_by(|x, y| x.0.cmp(&y.0));
    a
}

fn s(v: &str) -> AttributeValue {
    v.into()
}

fn i(v: i64) -> AttributeValue {
    AttributeValue::Int(v)
}

/// A span: name, id, parent's id (0: none), start and duration in milliseconds from the trace's begin, kind, status.
#[allow(clippy::too_many_arguments)]
fn span(name: &str, id: u8, parent: u8, start: u64, duration: u64, kind: i32, status: i32, list: &[(&str, AttributeValue)]) -> Span {
    Span {
        span_id: SpanId([id; 8]),
        parent_span_id: (parent != 0).then_some(SpanId([parent; 8])),
        start_unix_nano: start * MS,
        end_unix_nano: (start + duration) * MS,
        name: name.into(),
        kind,
        status_code: status,
        attributes: attrs(list),
        ..Span::default()
    }
}

fn of(service: &str, version: i64, spans: Vec<Span>) -> Vec<Span> {
    let resource =
        Arc::new(Resource { attributes: attrs(&[("service.name", s(service)), ("version", i(version))]), ..Resource::default() });
    let scope = Arc::new(Scope {
        name: format!("lib-{service}"),
        version: "1.0".into(),
        attributes: attrs(&[("lang", s("rust"))]),
        ..Scope::default()
    });
    spans.into_iter().map(|x| Span { resource: resource.clone(), scope: scope.clone(), ..x }).collect()
}

fn trace(n: u8, begin_ms: u64, groups: Vec<Vec<Span>>) -> Trace {
    let spans = groups.into_iter().flatten().map(|x| Span {
        trace_id: TraceId([n; 16]),
        // A little after the minute: slots of metrics are open at their start.
        start_unix_nano: x.start_unix_nano + T0 + (begin_ms + 1) * MS,
        end_unix_nano: x.end_unix_nano + T0 + (begin_ms + 1) * MS,
        ..x
    });
    Trace::new(TraceId([n; 16]), spans.collect())
}

/// The traces all cases run over. Trace A:
///
/// ```text
/// a root (web, server, ok, 100 ms)        http.status 200, path /cart
/// ├─ b call (web, client, 60 ms)          http.status 200
/// │  └─ c serve (shop, server, 50 ms)     items [1, 2], tags ["x", "y"]
/// │     ├─ d query (shop, client, 20 ms)  db.system pg, rows 10
/// │     └─ e query (shop, client, error)  db.system pg, rows 0, event exception
/// └─ f render (web, internal, 10 ms)
/// ```
/// B: g (web, 500 ms, error) with children h and i (shop), no attributes in common but `n`; C: j alone, its parent missing;
/// D: k and l, each the other's parent, beside the root m.
pub fn traces() -> Vec<Trace> {
    let exception = SpanEvent {
        time_unix_nano: T0 + 75 * MS,
        name: "exception".into(),
        attributes: attrs(&[("type", s("Timeout")), ("retry", i(2))]),
        dropped_attributes_count: 0,
    };
    let mut e = span("e", 5, 3, 70, 15, 3, 2, &[("db.system", s("pg")), ("rows", i(0)), ("ratio", AttributeValue::Double(0.5))]);
    e.status_message = "timeout".into();
    e.events = vec![exception.clone(), SpanEvent { time_unix_nano: T0 + 80 * MS, name: "log".into(), ..SpanEvent::default() }];
    let mut f = span("f", 6, 1, 80, 10, 1, 0, &[("cached", AttributeValue::Bool(true)), ("a b", s("odd"))]);
    f.links =
        vec![SpanLink { trace_id: vec![2; 16], span_id: vec![7; 8], attributes: attrs(&[("why", s("cause"))]), ..SpanLink::default() }];
    let web = vec![
        span("a", 1, 0, 0, 100, 2, 1, &[("http.status", i(200)), ("path", s("/cart")), ("cached", AttributeValue::Bool(false))]),
        span("b", 2, 1, 10, 60, 3, 0, &[("http.status", i(200)), ("version", i(7))]),
        f,
    ];
    let shop = vec![
        span(
            "c",
            3,
            2,
            15,
            50,
            2,
            0,
            &[
                ("items", AttributeValue::Array(vec![i(1), i(2)])),
                ("tags", AttributeValue::Array(vec![s("x"), s("y")])),
                ("blob", AttributeValue::Bytes(vec![1, 2])),
            ],
        ),
        span("d", 4, 3, 20, 20, 3, 0, &[("db.system", s("pg")), ("rows", i(10)), ("ratio", AttributeValue::Double(2.5))]),
        e,
    ];
    let a = trace(1, 0, vec![of("web", 1, web), of("shop", 2, shop)]);
    let b = trace(
        2,
        60_000,
        vec![
            of("web", 1, vec![span("g", 7, 0, 0, 500, 2, 2, &[("http.status", i(500)), ("n", i(3)), ("path", s("/pay"))])]),
            of(
                "shop",
                2,
                vec![
                    span("h", 8, 7, 100, 100, 1, 0, &[("n", i(3)), ("http.status", s("500"))]),
                    span("i", 9, 7, 200, 300, 1, 0, &[("n", AttributeValue::Double(4.5))]),
                ],
            ),
        ],
    );
    let c = trace(3, 120_000, vec![of("cron", 3, vec![span("j", 10, 99, 0, 30, 5, 0, &[("n", i(-1))])])]);
    let d = trace(
        4,
        180_000,
        vec![of(
            "loop",
            4,
            vec![
                span("m", 13, 0, 0, 40, 4, 0, &[]),
                span("k", 11, 12, 5, 5, 1, 0, &[("x", i(1))]),
                span("l", 12, 11, 6, 5, 1, 0, &[("x", i(2))]),
            ],
        )],
    );
    vec![a, b, c, d]
}

/// Traces in memory.
pub struct Memory(pub Vec<Trace>);

impl SpanSource for Memory {
    fn scan(&self, r: &ScanRequest, visit: &mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>) -> Result<ScanStats> {
        let overlaps = |t: &&Trace| t.spans.iter().any(|s| s.start_unix_nano <= r.max_nano && s.end_unix_nano >= r.min_nano);
        let batch = RowBatch::new(self.0.iter().filter(overlaps).cloned().collect());
        if let ControlFlow::Break(()) = visit(&batch)? {
            return Ok(ScanStats::default());
        }
        Ok(ScanStats { spans: batch.len() as u64, ..ScanStats::default() })
    }
    fn trace(&self, id: TraceId) -> Result<Option<Trace>> {
        Ok(self.0.iter().find(|t| t.trace_id == id).cloned())
    }
    fn attribute_keys(&self, _: u64, _: u64) -> Result<Vec<(AttributeScope, Vec<String>)>> {
        let mut span: Vec<String> = self.0.iter().flat_map(|t| &t.spans).flat_map(|s| s.attributes.iter().map(|a| a.0.clone())).collect();
        span.sort();
        span.dedup();
        Ok(vec![(AttributeScope::Span, span), (AttributeScope::Resource, vec!["service.name".into(), "version".into()])])
    }
}

/// Traces that can be had by their ids alone.
pub struct Unscanned(pub Memory);

impl SpanSource for Unscanned {
    fn scan(&self, _: &ScanRequest, _: &mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>) -> Result<ScanStats> {
        Err(strandline_storage::Error::invalid("a scan"))
    }
    fn trace(&self, id: TraceId) -> Result<Option<Trace>> {
        self.0.trace(id)
    }
    fn attribute_keys(&self, min_nano: u64, max_nano: u64) -> Result<Vec<(AttributeScope, Vec<String>)>> {
        self.0.attribute_keys(min_nano, max_nano)
    }
}
