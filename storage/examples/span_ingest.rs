//! Measures the span store on a corpus of OTLP requests: CPU time of ingest with flush and of merging, bytes a span,
//! memory of live spans, trace lookups.
//!
//! `cargo run --release -p strandline-storage --features traces --example span_ingest -- CORPUS DIR [BODIES_PER_FLUSH]`
//! A corpus is a sequence of: kind byte 1, u32 spans, u32 length, body.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::{Clock, ManualClock, SystemClock};
use strandline_storage::model::TraceId;
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, RealFs};

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
    let base_mib = status_mib("RssAnon");
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
        "live_spans {} live_mib {:.0} rss_anon_over_start_mib {:.0}",
        store.live_spans(),
        store.live_bytes() as f64 / 1048576.0,
        status_mib("RssAnon") - base_mib
    );
    let before_flush = status_mib("RssAnon");
    let c = cpu_s();
    store.flush()?;
    flush_cpu += cpu_s() - c;
    println!("flush_peak_over_live_mib {:.0}", status_mib("VmHWM") - status_mib("RssFile") - before_flush);
    let cpu = cpu_s() - c0;
    println!(
        "spans {spans} wall_s {:.2} cpu_s {cpu:.2} of_it_flush {flush_cpu:.2} spans_per_cpu_s {:.0}",
        t0.elapsed().as_secs_f64(),
        spans as f64 / cpu
    );
    println!("blocks {} bytes_per_span_flushed {:.2}", store.blocks().len(), block_bytes(&store) as f64 / spans as f64);
    let id = TraceId::parse("343d8a681704741fe5d59d40bfc83eb6").ok_or("id")?;
    let t = Instant::now();
    let found = store.trace(id)?.map_or(0, |t| t.spans.len());
    println!("trace_first_ms {:.2} spans {found}", t.elapsed().as_secs_f64() * 1e3);
    let t = Instant::now();
    for _ in 0..20 {
        store.trace(id)?;
    }
    println!("trace_again_ms {:.2}", t.elapsed().as_secs_f64() * 1e3 / 20.0);
    clock.advance(4 * 3_600_000);
    let c = cpu_s();
    store.maintain()?;
    println!(
        "merge_cpu_s {:.2} blocks {} bytes_per_span_merged {:.2}",
        cpu_s() - c,
        store.blocks().len(),
        block_bytes(&store) as f64 / spans as f64
    );
    store.close()?;
    Ok(())
}
