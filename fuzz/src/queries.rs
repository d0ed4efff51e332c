//! Query texts: parsed, printed, parsed again, evaluated.

use std::ops::ControlFlow;
use std::time::Duration;

use strandline_query::promql::{self, Engine, EngineOptions, MemSource};
use strandline_query::traceql::{self, MetricsOptions, Root, SearchOptions};
use strandline_storage::Result;
use strandline_storage::model::{Labels, Span, SpanId, Trace, TraceId};
use strandline_storage::read::{AttributeScope, RowBatch, ScanRequest, ScanStats, SpanBatch, SpanSource, Visit};

/// What is printed parses to the same text; evaluation ends in an answer or an error.
pub fn promql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(expr) = promql::parse(text) else { return };
    let printed = expr.to_string();
    let again = promql::parse(&printed).unwrap_or_else(|e| panic!("{printed:?} does not parse: {e:?}"));
    assert_eq!(again.to_string(), printed);
    let _ = (promql::pretty(&expr), promql::ast_json(&expr));
    let mut source = MemSource::new();
    for i in 0..3 {
        let l = Labels::from_pairs([("__name__", "m".to_owned()), ("a", format!("{}", i % 2)), ("le", format!("{i}"))]);
        for k in 0..20 {
            source.push(&l, k * 15_000, (k * i) as f64);
        }
    }
    let options = EngineOptions { timeout: Duration::from_millis(500), threads: 1, max_steps: 100, ..EngineOptions::default() };
    let engine = Engine::new(options);
    let _ = engine.instant(&source, text, 300_000, &Default::default());
    let _ = engine.range(&source, text, 0, 300_000, 60_000, &Default::default());
}

struct Spans(Vec<Trace>);

impl SpanSource for Spans {
    fn scan(&self, _: &ScanRequest, visit: &mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>) -> Result<ScanStats> {
        let _: ControlFlow<(), u64> = visit(&RowBatch::new(self.0.clone()))?;
        Ok(ScanStats::default())
    }
    fn trace(&self, id: TraceId) -> Result<Option<Trace>> {
        Ok(self.0.iter().find(|t| t.trace_id == id).cloned())
    }
    fn attribute_keys(&self, _: u64, _: u64) -> Result<Vec<(AttributeScope, Vec<String>)>> {
        Ok(Vec::new())
    }
}

fn spans() -> Spans {
    let span = |t: u8, i: u8| Span {
        trace_id: TraceId([t; 16]),
        span_id: SpanId([i; 8]),
        parent_span_id: (i > 1).then_some(SpanId([i / 2; 8])),
        start_unix_nano: 1_000_000_000 * u64::from(i),
        end_unix_nano: 1_000_000_000 * u64::from(i) + 7_000_000 * u64::from(t),
        name: format!("op {i}"),
        kind: i32::from(i % 6),
        status_code: i32::from(t % 3),
        attributes: vec![("a".into(), i64::from(i).into()), ("s".into(), "text".into())],
        ..Span::default()
    };
    Spans((1..4).map(|t| Trace::new(TraceId([t; 16]), (1..8).map(|i| span(t, i)).collect())).collect())
}

/// A query selects or measures, or says what is wrong with it.
pub fn traceql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = traceql::parse_tag(text);
    let Ok(query) = traceql::parse(text) else { return };
    match &query.root {
        Root::Metrics(_) => drop(traceql::query_range(&spans(), &query, &MetricsOptions::new(0, 10_000_000_000))),
        Root::Spansets(p) => drop(traceql::search(&spans(), p, &SearchOptions::default())),
        Root::Reserved(..) => {}
    }
}
