//! Measures TraceQL over the blocks that `span_ingest` of the storage package left in a folder.
//!
//! `cargo run --release -p strandline-query --example span_scan -- DIR [ROUNDS]`
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use strandline_query::traceql::{MetricsOptions, Root, SearchOptions, parse, query_range, search};
use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::SystemClock;
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, RealFs};

const QUERIES: [&str; 6] = [
    "{ span.http.response.status_code >= 500 }",
    "{ resource.service.name = \"mcp-server\" && duration > 1h }",
    "{ resource.service.name = \"api-gateway\" } >> { status = error }",
    "{ name = \"SELECT records\" } >> { span.gen_ai.usage.input_tokens > 5000 }",
    "{} | rate() by (resource.service.name)",
    "{ status = error } | count_over_time() by (span.http.route)",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds: usize = args.get(1).map_or(Ok(3), |s| s.parse())?;
    let fs: Arc<dyn Fs> = Arc::new(RealFs::default());
    let bucket = Arc::new(LocalBucket::open(fs.clone(), format!("{}/bucket", args[0]))?);
    let mut options = TraceStoreOptions::new(fs, Arc::new(SystemClock), &args[0], bucket);
    options.compaction = false;
    let store = TraceStore::open(options)?;
    let (min, max) =
        store.blocks().iter().fold((u64::MAX, 0), |(lo, hi), b| (lo.min(b.meta.min_start_unix_nano), hi.max(b.meta.max_start_unix_nano)));
    println!("blocks {} spans {} live {}", store.blocks().len(), store.block_spans(), store.live_spans());
    for q in QUERIES {
        let query = parse(q)?;
        for round in 0..rounds {
            let t = Instant::now();
            let (found, spans) = match &query.root {
                Root::Spansets(p) => {
                    let r = search(&store, p, &SearchOptions::default())?;
                    (r.traces.len(), r.stats.spans)
                }
                _ => {
                    let r = query_range(&store, &query, &MetricsOptions::new(min - 1, max + 1))?;
                    (r.series.len(), r.stats.spans)
                }
            };
            let s = t.elapsed().as_secs_f64();
            println!(
                "{q}  round {round} found {found} visited {spans} ms {:.1} spans_per_s {:.1}M",
                s * 1e3,
                store.block_spans() as f64 / s / 1e6
            );
        }
    }
    Ok(())
}
