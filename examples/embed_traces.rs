//! Spans in a folder without a server: append them, find a trace by its id, ask by TraceQL.

use std::time::Duration;

use strandline::Db;
use strandline::storage::model::{Resource, Span, SpanId, SpanKind, TraceId};
use strandline::traceql::{MetricsOptions, Root, SearchOptions, parse, query_range, search};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("strandline-embed-traces-{}", std::process::id()));
    let db = Db::open(&dir)?;
    let now_nano = db.now_ms() as u64 * 1_000_000;
    let trace_id = TraceId::parse("4bf92f3577b34da6a3ce929d0e0e4736").ok_or("32 hex digits")?;
    let root = Span::new(trace_id, SpanId::parse("00f067aa0ba902b7").ok_or("16 hex digits")?, "GET /cart")
        .of_kind(SpanKind::Server)
        .lasting(now_nano - 250_000_000, Duration::from_millis(250))
        .attribute("http.route", "/cart")
        .attribute("http.response.status_code", 500)
        .of(Resource::of_service("shop"));
    let query = root
        .child(SpanId::parse("b9c7c989f97918e1").ok_or("16 hex digits")?, "SELECT carts")
        .of_kind(SpanKind::Client)
        .lasting(now_nano - 200_000_000, Duration::from_millis(200))
        .attribute("db.system.name", "postgresql")
        .failed("deadlock");
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
