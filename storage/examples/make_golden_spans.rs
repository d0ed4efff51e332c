//! Wrote `storage/tests/golden/spans/v1` once, when format 1 was new: blocks of a flush and of a merge, a log, and the
//! spans they hold. What is there already is never written again: a change that can't read it broke the format.
//!
//! `cargo run -p strandline-storage --features traces --example make_golden_spans -- DIR`
#![allow(clippy::disallowed_methods)]

#[path = "../tests/golden/json.rs"]
mod json;

use std::path::PathBuf;
use std::sync::Arc;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::model::{AttributeValue, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, TraceId};
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, RealFs};

const T0_MS: i64 = 1_700_000_000_000;

/// Every type and field, and what differs from span to span.
fn span(n: u8) -> Span {
    let start = T0_MS as u64 * 1_000_000 + u64::from(n) * 1_000_003;
    let code = if n.is_multiple_of(3) { AttributeValue::from("500") } else { AttributeValue::Int(200 + i64::from(n)) };
    let nested = AttributeValue::Map(vec![
        ("list".into(), vec![AttributeValue::Int(-1), "x".into(), AttributeValue::Empty].into()),
        ("map".into(), AttributeValue::Map(vec![("deep".into(), true.into())])),
    ]);
    let mut attributes: Vec<(String, AttributeValue)> = vec![
        ("Http.Route".into(), "other case".into()),
        ("bytes".into(), vec![0u8, 255, n].into()),
        ("empty".into(), AttributeValue::Empty),
        ("http.response.status_code".into(), code),
        ("http.route".into(), format!("/r{}", n % 4).into()),
        ("large".into(), (i64::MAX - i64::from(n)).into()),
        ("nested".into(), nested),
        ("ratio".into(), [-0.0, f64::NAN, 1.5][n as usize % 3].into()),
        ("sampled".into(), n.is_multiple_of(2).into()),
    ];
    if n.is_multiple_of(5) {
        attributes.clear();
    }
    let event = SpanEvent {
        time_unix_nano: start + 5,
        name: "exception".into(),
        attributes: vec![("exception.type".into(), "Timeout".into()), ("retry".into(), i64::from(n).into())],
        dropped_attributes_count: 1,
    };
    let link = SpanLink {
        trace_id: vec![n; 16],
        span_id: vec![n; 8],
        trace_state: "a=b".into(),
        attributes: vec![("why".into(), "cause".into())],
        dropped_attributes_count: 2,
        flags: 1,
    };
    let resource = Resource {
        attributes: vec![("host.name".into(), format!("h{}", n % 2).into()), ("service.name".into(), "shop".into())],
        dropped_attributes_count: 3,
        schema_url: "https://schema/1".into(),
    };
    let scope = Scope {
        name: "lib".into(),
        version: "1.2".into(),
        attributes: vec![("lang".into(), "rust".into())],
        dropped_attributes_count: 4,
        schema_url: "https://schema/2".into(),
    };
    Span {
        trace_id: TraceId([n / 3 + 1; 16]),
        span_id: SpanId([n + 1; 8]),
        parent_span_id: (!n.is_multiple_of(3)).then_some(SpanId([n; 8])),
        start_unix_nano: start,
        // One ends before it starts.
        end_unix_nano: if n == 7 { start - 9 } else { start + u64::from(n) * 1000 },
        name: format!("op {}", n % 4),
        kind: i32::from(n % 6),
        status_code: i32::from(n % 3),
        status_message: if n % 3 == 2 { "wrong".into() } else { String::new() },
        trace_state: "k=v".into(),
        flags: 0x301,
        attributes,
        dropped_attributes_count: 5,
        events: vec![event; usize::from(n % 3)],
        dropped_events_count: 6,
        links: vec![link; usize::from(n % 2)],
        dropped_links_count: 7,
        resource: Arc::new(resource),
        scope: Arc::new(scope),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("which folder?")?);
    if dir.exists() {
        return Err(format!("{} is there: golden files are never made again", dir.display()).into());
    }
    std::fs::create_dir_all(&dir)?;
    let fs: Arc<dyn Fs> = Arc::new(RealFs::default());
    let bucket = Arc::new(LocalBucket::open(fs.clone(), dir.join("bucket"))?);
    let clock = ManualClock::new(T0_MS + 60_000);
    let mut o = TraceStoreOptions::new(fs, Arc::new(clock.clone()), &dir, bucket);
    o.flush_write.row_group_spans = 4;
    o.wal.background = false;
    let store = TraceStore::open(o)?;
    let spans: Vec<Span> = (0..30).map(span).collect();
    let put = |from: usize, to: usize| store.append(&spans[from..to]).and_then(|a| a.ticket.wait());
    // Two blocks merged into one, one as flushed, and the rest in the log.
    put(0, 8)?;
    store.flush()?;
    put(8, 14)?;
    store.flush()?;
    clock.advance(4 * 3_600_000);
    store.maintain()?;
    put(14, 22)?;
    store.flush()?;
    put(22, 26)?;
    put(26, 30)?;
    clock.advance(24 * 3_600_000);
    store.close()?;
    let lines: Vec<String> = spans.iter().map(|s| json::span(s).to_string()).collect();
    std::fs::write(dir.join("expected.json"), format!("[\n{}\n]\n", lines.join(",\n")))?;
    Ok(())
}
