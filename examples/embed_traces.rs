//! Spans in a folder without a server: append them, find a trace by its id, ask by TraceQL.

use std::sync::Arc;

use strandline::Db;
use strandline::storage::model::{AttributeValue, Resource, Span, SpanId, TraceId};
use strandline::traceql::{MetricsOptions, Root, SearchOptions, parse, query_range, search};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("strandline-embed-traces-{}", std::process::id()));
    let db = Db::open(&dir)?;
    let now_nano = db.now_ms() as u64 * 1_000_000;
    let shop = Arc::new(Resource { attributes: vec![("service.name".into(), "shop".into())], ..Resource::default() });
    let root = Span {
        trace_id: TraceId::parse("4bf92f3577b34da6a3ce929d0e0e4736").ok_or("32 hex digits")?,
        span_id: SpanId::parse("00f067aa0ba902b7").ok_or("16 hex digits")?,
        start_unix_nano: now_nano - 250_000_000,
        end_unix_nano: now_nano,
        name: "GET /cart".into(),
        kind: 2, // server
        // Attributes are sorted by key.
        attributes: vec![("http.response.status_code".into(), AttributeValue::Int(500)), ("http.route".into(), "/cart".into())],
        resource: shop,
        ..Span::default()
    };
    let query = Span {
        span_id: SpanId::parse("b9c7c989f97918e1").ok_or("16 hex digits")?,
        parent_span_id: Some(root.span_id),
        start_unix_nano: now_nano - 200_000_000,
        name: "SELECT carts".into(),
        kind: 3, // client
        status_code: 2,
        attributes: vec![("db.system.name".into(), "postgresql".into())],
        ..root.clone()
    };
    let trace_id = root.trace_id;
    let appended = db.traces().append(&[root, query])?;
    eprintln!("{} accepted, {} refused: {:?}", appended.accepted, appended.rejected, appended.reasons);
    appended.ticket.wait()?; // on disk, and found by everything below

    let trace = db.traces().trace(trace_id)?.ok_or("stored above")?;
    eprintln!("trace {trace_id} has {} spans", trace.spans.len());

    let parsed = parse("{ span.http.response.status_code >= 500 } >> { status = error } | select(span.db.system.name)")?;
    let Root::Spansets(pipeline) = &parsed.root else { return Err("a query of spans".into()) };
    for t in search(db.traces(), pipeline, &SearchOptions::default())?.traces {
        let spans: Vec<&str> = t.sets.iter().flat_map(|s| &s.spans).map(|s| s.name.as_str()).collect();
        eprintln!("{} {}: {} ms, {spans:?}", t.root_service, t.root_name, t.duration_nano / 1_000_000);
    }

    db.flush()?; // to Parquet, as it would be by size and age
    let options = MetricsOptions::new(now_nano - 60_000_000_000, now_nano);
    let rates = query_range(db.traces(), &parse("{} | rate() by (name)")?, &MetricsOptions { instant: true, ..options })?;
    for s in rates.series {
        eprintln!("{} {:.4}/s", s.labels[0].1.text(), s.values[0]);
    }
    db.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
