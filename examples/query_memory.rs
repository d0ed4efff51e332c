//! What a long query over many series takes: `sum by (job) (rate(m[5m]))` over HOURS of samples every 15 s.
//!
//! `cargo run --release --example query_memory -- [SERIES] [HOURS]` (20000 and 24). The samples lie in blocks of two
//! hours, as a flush leaves them. Heap is what the allocator was asked for; RssAnon is what the system says.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Instant;

use strandline::promql::{Engine as PromQl, EngineOptions as PromQlOptions};
use strandline::storage::clock::ManualClock;
use strandline::storage::metrics::head::{BatchBuilder, Value};
use strandline::storage::metrics::{MetricOptions, MetricStore};
use strandline::storage::model::Labels;
use strandline_testkit::{Allocations, CountingAllocator};
use strandline_wal::fs::{IoMode, RealFs};
use strandline_wal::{SyncMode, WalOptions};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Aligned to two hours.
const T0: i64 = 1_700_006_400_000;
const STEP_MS: i64 = 15_000;
const BLOCK_STEPS: i64 = 480;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn rss_anon_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn fill(store: &MetricStore, clock: &ManualClock, series: u64, steps: i64) -> Fallible<()> {
    let names: Vec<Labels> = (0..series)
        .map(|i| {
            Labels::from_pairs([
                ("__name__", "m".to_owned()),
                ("instance", format!("10.0.{}.{}:9100", i / 250, i % 250)),
                ("job", format!("job-{}", i % 20)),
            ])
        })
        .collect();
    let mut last: Vec<u64> = vec![0; names.len()];
    for k in 0..steps {
        let t = T0 + k * STEP_MS;
        clock.set(t);
        for (part, names) in names.chunks(5000).enumerate() {
            let mut b = BatchBuilder::default();
            for (i, l) in names.iter().enumerate() {
                let v = &mut last[part * 5000 + i];
                // Uneven, and the same in every run.
                *v += (*v).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64) >> 58;
                let key = b.series(l);
                b.push(key, t, 0, Value::Float(*v as f64));
            }
            store.append(&b.finish())?.commit.wait()?;
        }
        store.head().apply_decided();
        if (k + 1) % BLOCK_STEPS == 0 {
            store.flush()?;
        }
    }
    Ok(store.flush()?)
}

fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let series: u64 = args.next().map_or(Ok(20_000), |a| a.parse())?;
    let hours: i64 = args.next().map_or(Ok(24), |a| a.parse())?;
    let dir = std::env::temp_dir().join(format!("strandline-query-memory-{}", std::process::id()));
    let done = measure(&dir, series, hours);
    let _ = std::fs::remove_dir_all(&dir);
    done
}

fn measure(dir: &std::path::Path, series: u64, hours: i64) -> Fallible<()> {
    let clock = ManualClock::new(T0);
    let open = || -> Fallible<MetricStore> {
        let mut o = MetricOptions::new(Arc::new(RealFs::new(IoMode::Mmap)), Arc::new(clock.clone()), dir);
        o.wal = WalOptions { background: false, sync: SyncMode::Never, ..WalOptions::default() };
        Ok(MetricStore::open(o)?)
    };
    let steps = hours * 240;
    let store = open()?;
    fill(&store, &clock, series, steps)?;
    store.close()?;
    drop(store);
    let store = open()?;
    let end = T0 + (steps - 1) * STEP_MS;
    let (start, live, anon) = (Instant::now(), Allocations::now().live_bytes, rss_anon_kib());
    Allocations::reset_peak();
    let engine = PromQl::new(PromQlOptions { max_samples: u64::MAX, max_bytes: u64::MAX, ..PromQlOptions::default() });
    let r = engine.range(&store, "sum by (job) (rate(m[5m]))", T0, end, STEP_MS, &Default::default())?;
    let peak = Allocations::now().peak_bytes.saturating_sub(live);
    println!("series\t{}\nsamples read\t{}\nresult series\t{}", r.stats.series, r.stats.samples_read, r.value.len());
    println!("seconds\t{:.1}\npeak heap of the query, MiB\t{:.1}", start.elapsed().as_secs_f64(), peak as f64 / 1048576.0);
    println!("RssAnon risen by, MiB\t{:.1}", rss_anon_kib().saturating_sub(anon) as f64 / 1024.0);
    Ok(())
}
