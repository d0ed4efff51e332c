//! Random traces, split at random over live spans and blocks, against the same spans in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_query::traceql::{MetricsOptions, Root, SearchOptions, parse, query_range, search};
use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::model::{AttributeValue, Resource, Span, SpanId, Trace, TraceId};
use strandline_storage::read::SpanSource;
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, SimFs};

use super::Report;
use super::fixture::Memory;

pub const NOW_MS: i64 = 1_700_000_000_000;
const ROUNDS: u64 = 25;

/// Numbers that a seed gives.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed | 1)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

const QUERIES: &[&str] = &[
    "{}",
    "{ span.n > 2 }",
    "{ span.n = \"2\" || span.k = \"v1\" }",
    "{ .k != \"v1\" }",
    "{ span.k =~ \"v[12]\" && span.n >= 1 }",
    "{ span.flag }",
    "{ name = \"op1\" && status = error }",
    "{ resource.service.name = \"s1\" && kind = server }",
    "{ duration > 40ms && traceDuration < 3h }",
    "{ name = \"op0\" } > { name = \"op1\" }",
    "{ name = \"op0\" } >> { status = error }",
    "{ status = error } << { }",
    "{ name = \"op2\" } ~ { }",
    "{ name = \"op2\" } !>> { name = \"op1\" }",
    "{ name = \"op0\" } &>> { span.n > 1 }",
    "{ span.n != nil } | avg(span.n) > 1.5",
    "{} | by(resource.service.name) | count() > 2",
    "{ nestedSetParent < 0 } && { status = error }",
    "{ rootName = \"op1\" }",
    "{ span:childCount > 1 }",
    "{ span.list = 2 }",
];

const METRICS: &[&str] = &[
    "{} | count_over_time()",
    "{ span.n > 1 } | rate() by (resource.service.name)",
    "{} | sum_over_time(span.n) by (name, status)",
    "{} | quantile_over_time(duration, 0.5, 0.9) by (kind)",
    "{ name = \"op0\" } >> { } | count_over_time() by (span.k)",
    "{} | max_over_time(duration) by (rootServiceName)",
    "{ nestedSetParent < 0 } | rate() by (name, span.k)",
    "{ nestedSetParent != -1 && status = error } | count_over_time()",
    "{} | count_over_time() by (span.k, span.n, name, span:id)",
    "{ kind = server } | compare({ status = error })",
];

fn span(r: &mut Random) -> Span {
    let t = r.below(12) + 1;
    let id = r.below(9) + 1;
    let parent = if id == 1 { 0 } else { r.below(id) };
    let start = (NOW_MS as u64 - r.below(3) * 3_600_000 + r.below(60_000)) * 1_000_000;
    let mut attributes: Vec<(String, AttributeValue)> = Vec::new();
    if r.below(3) > 0 {
        attributes.push(("flag".into(), (r.below(2) == 0).into()));
        attributes.push(("k".into(), format!("v{}", r.below(4)).into()));
    }
    if r.below(4) == 0 {
        attributes.push(("list".into(), vec![AttributeValue::Int(1), AttributeValue::Int(r.below(3) as i64)].into()));
    }
    match r.below(6) {
        0 => attributes.push(("n".into(), "2".into())),
        1 => attributes.push(("n".into(), 1.5.into())),
        2 => {}
        _ => attributes.push(("n".into(), (r.below(5) as i64).into())),
    }
    let service = AttributeValue::from(format!("s{}", r.below(3)));
    Span {
        trace_id: TraceId([t as u8; 16]),
        span_id: SpanId([id as u8; 8]),
        parent_span_id: (parent > 0).then_some(SpanId([parent as u8; 8])),
        start_unix_nano: start,
        end_unix_nano: start + r.below(100) * 1_000_000,
        name: format!("op{}", r.below(3)),
        kind: r.below(6) as i32,
        status_code: r.below(3) as i32,
        attributes,
        resource: Arc::new(Resource { attributes: vec![("service.name".into(), service)], ..Resource::default() }),
        ..Span::default()
    }
}

/// A store in memory, of small row groups.
pub fn store(clock: &ManualClock) -> TraceStore {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    fs.create_dir_all(Path::new("/d")).expect("folder");
    let bucket = Arc::new(LocalBucket::open(fs.clone(), "/d/bucket").expect("bucket"));
    let mut o = TraceStoreOptions::new(fs, Arc::new(clock.clone()), "/d", bucket);
    o.wal.background = false;
    o.flush_write.row_group_spans = 16;
    o.compact_write.row_group_spans = 40;
    TraceStore::open(o).expect("store")
}

fn answers(source: &dyn SpanSource) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for q in QUERIES {
        let query = parse(q).expect("valid");
        let Root::Spansets(p) = &query.root else { continue };
        for limit in [3, 100] {
            let o = SearchOptions { spans_per_set: 100, limit, max_trace_nano: 4 * 3_600_000_000_000, ..SearchOptions::default() };
            out.insert(format!("{q} limit {limit}"), format!("{:#?}", search(source, p, &o).map(|r| r.traces).map_err(|e| e.to_string())));
        }
    }
    let mut o = MetricsOptions::new((NOW_MS as u64 - 3 * 3_600_000) * 1_000_000, (NOW_MS as u64 + 60_000) * 1_000_000);
    o.step_nano = 600_000_000_000;
    o.max_trace_nano = 4 * 3_600_000_000_000;
    for q in METRICS {
        let r = query_range(source, &parse(q).expect("valid"), &o);
        out.insert((*q).to_owned(), format!("{:#?}", r.map(|r| r.series).map_err(|e| e.to_string())));
    }
    out
}

/// Puts spans in a store, with flushes and merges between and some sent again, and compares all answers.
fn round(seed: u64) -> Result<(), String> {
    let mut r = Random::new(seed);
    let clock = ManualClock::new(NOW_MS);
    let store = store(&clock);
    let mut all: Vec<Span> = Vec::new();
    for _ in 0..60 + r.below(60) {
        let s = span(&mut r);
        let mut batch = vec![s.clone()];
        if r.below(8) == 0 && !all.is_empty() {
            batch.push(all[r.below(all.len() as u64) as usize].clone());
        }
        store.append(&batch).and_then(|a| a.ticket.wait()).map_err(|e| e.to_string())?;
        all.push(s);
        match r.below(25) {
            0 | 1 => store.flush().map_err(|e| e.to_string())?,
            2 => {
                clock.advance(11 * 60_000);
                store.maintain().map_err(|e| e.to_string())?;
            }
            _ => {}
        }
    }
    let mut by_trace: BTreeMap<TraceId, Vec<Span>> = BTreeMap::new();
    for s in all {
        by_trace.entry(s.trace_id).or_default().push(s);
    }
    let want = answers(&Memory(by_trace.into_iter().map(|(id, spans)| Trace::new(id, spans)).collect()));
    let got = answers(&store);
    for (q, w) in &want {
        let g = &got[q];
        if g != w {
            let line = g.lines().zip(w.lines()).enumerate().find(|(_, (a, b))| a != b);
            return Err(format!("seed {seed}, {q}: first difference {line:?} ({} and {} lines)", g.lines().count(), w.lines().count()));
        }
    }
    Ok(())
}

pub fn run(report: &mut Report) {
    for seed in 0..ROUNDS {
        report.check(&format!("random traces, seed {seed}"), round(seed * 7919 + 1));
    }
}
