//! What memory goes into: live heap by component, and the peaks of flush, replay, merge and query over it.
//!
//! `cargo run --release --example memory_profile -- [HOSTS]` (a host has 100 series). Figures are bytes that the
//! allocator was asked for, so that they are the same wherever it runs; `benches/arm64/run` puts two machines side by side.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;

use strandline::promql::{Engine as PromQl, EngineOptions as PromQlOptions};
use strandline::storage::bucket::{Bucket, LocalBucket};
use strandline::storage::clock::ManualClock;
use strandline::storage::metrics::MetricOptions;
use strandline::storage::metrics::head::{BatchBuilder, Value};
use strandline::storage::model::Labels;
use strandline::storage::traces::TraceStoreOptions;
use strandline::storage::{Engine, EngineOptions};
use strandline::traceql::{self, Root, SearchOptions};
use strandline_testkit::metrics::{Series, host};
use strandline_testkit::{Allocations, CountingAllocator, Random, spans};
use strandline_wal::fs::{Fs, IoMode, RealFs};
use strandline_wal::{SyncMode, WalOptions};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Aligned to two hours.
const T0: i64 = 1_700_006_400_000;
/// An hour of scrapes, every 15 s.
const SCRAPES: i64 = 240;
/// Two minutes of 500 spans a second.
const SPANS: u64 = 60_000;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn live() -> u64 {
    Allocations::now().live_bytes
}

fn line(what: &str, bytes: u64) {
    println!("{what}\t{bytes}");
}

/// Runs something and prints how far the heap rose over what was alive before.
fn peak<T>(what: &str, work: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
    let before = live();
    Allocations::reset_peak();
    let out = work()?;
    line(what, Allocations::now().peak_bytes.saturating_sub(before));
    Ok(out)
}

struct Profile {
    dir: std::path::PathBuf,
    clock: ManualClock,
    series: Vec<(Labels, Series)>,
    random: Random,
    t: i64,
}

impl Profile {
    fn open(&self) -> Fallible<Engine> {
        let fs: Arc<dyn Fs> = Arc::new(RealFs::new(IoMode::Pread));
        let clock = Arc::new(self.clock.clone());
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), self.dir.join("bucket"))?);
        let wal = WalOptions { background: false, sync: SyncMode::Never, ..WalOptions::default() };
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), &self.dir);
        metrics.bucket = Some(bucket.clone());
        metrics.wal = wal.clone();
        let mut traces = TraceStoreOptions::new(fs, clock, &self.dir, bucket);
        traces.wal = wal;
        Ok(Engine::open(EngineOptions { metrics, traces, background: false })?)
    }

    fn scrape(&mut self, e: &Engine, times: i64) -> Fallible<()> {
        for _ in 0..times {
            self.clock.set(self.t);
            for some in self.series.chunks_mut(2000) {
                let mut b = BatchBuilder::default();
                for (l, s) in some {
                    let k = b.series(l);
                    b.push(k, self.t, 0, Value::Float(s.step(&mut self.random)));
                }
                e.metrics().append(&b.finish())?.commit.wait()?;
            }
            e.metrics().head().apply_decided();
            e.maintain()?;
            self.t += 15_000;
        }
        Ok(())
    }

    fn head(&self, e: &Engine) {
        let m = e.metrics().memory();
        let i = &m.index;
        line("labels: strings", i.symbols_bytes as u64);
        line("labels: pairs", i.pairs_bytes as u64);
        line("labels: lists of series", i.labels_bytes as u64);
        line("lookup table", i.table_bytes as u64);
        line("postings", i.postings_bytes as u64);
        line("series records", m.series_bytes as u64);
        line("open chunks", m.open_chunk_bytes as u64);
        line("open chunks: content", m.open_chunk_content_bytes as u64);
        line("sealed chunks on the heap", m.sealed_heap_bytes as u64);
        line("sealed chunks: references", m.sealed_refs_bytes as u64);
        line("log buffers", m.wal_buffer_bytes as u64);
        line("a series, besides chunks", m.overhead_bytes() as u64 / self.series.len() as u64);
        line("a series, with chunks", m.heap_bytes() as u64 / self.series.len() as u64);
    }
}

fn main() -> Fallible<()> {
    let hosts: usize = std::env::args().nth(1).map_or(Ok(100), |a| a.parse())?;
    let dir = std::env::temp_dir().join(format!("strandline-memory-{}", std::process::id()));
    let done = profile(hosts, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    done
}

fn profile(hosts: usize, dir: &Path) -> Fallible<()> {
    let series: Vec<_> =
        (0..hosts).flat_map(host).map(|s| (Labels::from_pairs(s.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))), s)).collect();
    let mut p = Profile { dir: dir.to_owned(), clock: ManualClock::new(T0), series, random: Random::new(1), t: T0 };
    let nothing = live();
    let e = p.open()?;
    line("an empty engine", live() - nothing);
    let empty = live();
    line("series", p.series.len() as u64);
    p.scrape(&e, SCRAPES)?;
    line("metric head, all", live() - empty);
    p.head(&e);
    let before = live();
    for i in 0..SPANS / 400 {
        let sent = e.traces().append_otlp(spans::request(i * 50, 50, T0 - 4_500_000).into())?;
        assert_eq!(sent.rejected, 0, "all spans of the workload are stored");
        sent.ticket.wait()?;
    }
    line("spans", e.traces().live_spans());
    line("live spans, all", live() - before);
    line("live spans, as told", e.traces().live_bytes() as u64);
    queries(&e, "over the head")?;
    e.close()?;
    drop(e);
    let e = peak("peak of replay", || p.open())?;
    line("after replay", live() - nothing);
    peak("peak of the metric flush", || Ok(e.metrics().flush()?))?;
    peak("peak of the span flush", || Ok(e.traces().flush()?))?;
    line("after the flushes", live() - nothing);
    queries(&e, "over blocks")?;
    line("open metric blocks", e.metrics().blocks().iter().map(|b| b.memory_bytes() as u64).sum());
    line("open span blocks", e.traces().blocks().iter().map(|b| b.memory_bytes() as u64).sum());
    for _ in 0..3 {
        p.scrape(&e, 20)?;
        e.metrics().flush()?;
    }
    peak("peak of a merge", || Ok(e.metrics().compact(1)?))?;
    e.close()?;
    Ok(())
}

fn queries(e: &Engine, over: &str) -> Fallible<()> {
    let engine = PromQl::new(PromQlOptions { threads: 1, ..PromQlOptions::default() });
    let end = T0 + SCRAPES * 15_000;
    for (name, text) in [
        ("sum by (job) (rate) of all, an hour", "sum by (job) (rate({__name__=~\".+\"}[5m]))"),
        ("count of all, now", "count({__name__!=\"\"})"),
        ("one series, an hour", "up{instance=\"10.0.0.1:9100\"}"),
    ] {
        let start = if text.starts_with("count") { end } else { T0 };
        let run = || Ok(engine.range(e.metrics(), text, start, end, 15_000, &Default::default())?);
        drop(peak(&format!("peak of a query {over}: {name}"), run)?);
    }
    let query = traceql::parse("{ span.http.route = `/cart` && duration > 10ms }")?;
    if let Root::Spansets(pipeline) = &query.root {
        peak(&format!("peak of a search {over}"), || Ok(traceql::search(e.traces(), pipeline, &SearchOptions::default())?))?;
    }
    Ok(())
}
