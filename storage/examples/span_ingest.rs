//! Measures the span store on a corpus of OTLP requests: CPU time of ingest with flush and of merging, bytes a span,
//! memory of live spans, trace lookups.
//!
//! `cargo run --release -p strandline-storage --features traces --example span_ingest -- CORPUS DIR [BODIES_PER_FLUSH]
//! [count]`: with `count` heap bytes are counted, and times mean less.
//! A corpus is a sequence of: kind byte 1, u32 spans, u32 length, body.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::{Clock, ManualClock, SystemClock};
use strandline_storage::model::TraceId;
use strandline_storage::read::{ScanRequest, SpanBatch, SpanSource};
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_testkit::{Allocations, CountingAllocator};
use strandline_wal::fs::{Fs, RealFs};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// How far the heap rises while `f` runs, in MiB.
fn rise_mib(f: impl FnOnce() -> strandline_storage::Result<()>) -> strandline_storage::Result<f64> {
    Allocations::reset_peak();
    let before = Allocations::now().live_bytes;
    f()?;
    Ok((Allocations::now().peak_bytes - before) as f64 / 1048576.0)
}

/// User and system time of this process in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn status_mib(key: &str) -> f64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = s.lines().find(|l| l.starts_with(key)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn block_bytes(store: &TraceStore) -> u64 {
    store.blocks().iter().map(|b| b.meta.size_bytes + b.meta.checksums.len() as u64).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (corpus, dir) = (&args[0], PathBuf::from(&args[1]));
    let per_flush: usize = args.get(2).map_or(Ok(usize::MAX), |s| s.parse())?;
    let counted = args.get(3).is_some_and(|a| a == "count");
    if !counted {
        CountingAllocator::stop();
    }
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let mut file = std::io::BufReader::new(std::fs::File::open(corpus)?);
    let mut bodies: Vec<bytes::Bytes> = Vec::new();
    let mut head = [0u8; 9];
    while file.read_exact(&mut head).is_ok() {
        let mut body = vec![0; u32::from_le_bytes(head[5..9].try_into()?) as usize];
        file.read_exact(&mut body)?;
        bodies.push(body.into());
    }
    let (base_mib, base_heap) = (status_mib("RssAnon"), Allocations::now().live_bytes);
    let fs: Arc<dyn Fs> = Arc::new(RealFs::default());
    let bucket = Arc::new(LocalBucket::open(fs.clone(), dir.join("bucket"))?);
    let clock = ManualClock::new(SystemClock.now_ms());
    let mut options = TraceStoreOptions::new(fs, Arc::new(clock.clone()), &dir, bucket);
    options.max_live_bytes = usize::MAX;
    let store = TraceStore::open(options)?;
    let (t0, c0) = (Instant::now(), cpu_s());
    let (mut spans, mut flush_cpu, mut in_flight) = (0u64, 0.0, Vec::new());
    for (i, b) in bodies.iter().enumerate() {
        let a = store.append_otlp(b.clone())?;
        spans += a.accepted;
        in_flight.push(a.ticket);
        if in_flight.len() == 4 {
            in_flight.drain(..).try_for_each(|t| t.wait())?;
        }
        if (i + 1) % per_flush == 0 {
            in_flight.drain(..).try_for_each(|t| t.wait())?;
            let c = cpu_s();
            store.flush()?;
            flush_cpu += cpu_s() - c;
        }
    }
    in_flight.drain(..).try_for_each(|t| t.wait())?;
    println!(
        "live_spans {} live_mib {:.0} heap_mib {:.0} rss_anon_over_start_mib {:.0}",
        store.live_spans(),
        store.live_bytes() as f64 / 1048576.0,
        (Allocations::now().live_bytes - base_heap) as f64 / 1048576.0,
        status_mib("RssAnon") - base_mib
    );
    let before_flush = status_mib("RssAnon");
    let c = cpu_s();
    let rise = rise_mib(|| store.flush())?;
    flush_cpu += cpu_s() - c;
    println!("flush_heap_rise_mib {rise:.1}");
    println!("flush_peak_over_live_mib {:.0}", status_mib("VmHWM") - status_mib("RssFile") - before_flush);
    let cpu = cpu_s() - c0;
    println!(
        "spans {spans} wall_s {:.2} cpu_s {cpu:.2} of_it_flush {flush_cpu:.2} spans_per_cpu_s {:.0}",
        t0.elapsed().as_secs_f64(),
        spans as f64 / cpu
    );
    println!("blocks {} bytes_per_span_flushed {:.2}", store.blocks().len(), block_bytes(&store) as f64 / spans as f64);
    let before = Allocations::now().live_bytes;
    lookups(&store)?;
    let (open, blocks) = (Allocations::now().live_bytes.saturating_sub(before), store.blocks().len());
    println!("open_block_heap_kib {:.1}", open as f64 / blocks as f64 / 1024.0);
    clock.advance(4 * 3_600_000);
    let c = cpu_s();
    let rise = rise_mib(|| store.maintain())?;
    println!("merge_heap_rise_mib {rise:.1}");
    println!(
        "merge_cpu_s {:.2} blocks {} bytes_per_span_merged {:.2}",
        cpu_s() - c,
        store.blocks().len(),
        block_bytes(&store) as f64 / spans as f64
    );
    store.close()?;
    Ok(())
}

/// Looks up traces spread over all blocks, and ids that are nowhere.
fn lookups(store: &TraceStore) -> Result<(), Box<dyn std::error::Error>> {
    let mut ids = Vec::new();
    let mut visit = |batch: &dyn SpanBatch| {
        ids.extend((0..batch.traces().len() - 1).map(|t| batch.trace_id(t)));
        Ok(ControlFlow::Continue(0))
    };
    store.scan(&ScanRequest::new(0, u64::MAX), &mut visit)?;
    // A stride that shares no factor with the count goes over the ids in no order.
    let n = ids.len();
    let there = |i: usize| ids[(i * 7_919_993) % n];
    let nowhere = |i: usize| TraceId(((i as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_be_bytes());
    for (what, id) in [("there", &there as &dyn Fn(usize) -> TraceId), ("nowhere", &nowhere)] {
        let mut ms = Vec::new();
        for i in 0..1000 {
            let t = Instant::now();
            store.trace(id(i))?;
            ms.push(t.elapsed().as_secs_f64() * 1e3);
        }
        ms.sort_by(f64::total_cmp);
        println!("1000 lookups {what}: median_ms {:.2} p99_ms {:.2} slowest_ms {:.2}", ms[500], ms[990], ms[999]);
    }
    Ok(())
}
