//! What a million series cost: memory beside chunks, registering, appends by handle, selecting one, replay.
//!
//! `cargo run --release -p strandline-storage --example measure_head -- DIR [HOSTS] [STEPS]` (a host has 100 series).
//! A DIR that is there already is only replayed. Memory is counted first; then counting ends and speed is measured.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, SeriesHandle, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{SelectRequest, SeriesSource};
use strandline_testkit::metrics::{Series, host};
use strandline_testkit::{Allocations, CountingAllocator, Random, cpu};
use strandline_wal::SyncMode;
use strandline_wal::fs::{IoMode, RealFs};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const T0: i64 = 1_700_000_000_000 / 7_200_000 * 7_200_000;
const COMMIT: usize = 5000;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

struct Timer(Instant, f64);

impl Timer {
    fn start() -> Self {
        Timer(Instant::now(), cpu::cpu_seconds().unwrap_or(0.0))
    }
    fn cpu(&self) -> f64 {
        cpu::cpu_seconds().map_or(self.0.elapsed().as_secs_f64(), |c| c - self.1).max(0.01)
    }
}

fn open(dir: &str, sync: SyncMode) -> Fallible<MetricStore> {
    let clock = ManualClock::new(T0 + 3_600_000);
    let mut o = MetricOptions::new(Arc::new(RealFs::new(IoMode::Mmap)), Arc::new(clock), dir);
    o.wal.sync = sync;
    Ok(MetricStore::open(o)?)
}

fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("which folder?")?;
    let hosts: usize = args.next().map_or(Ok(10_000), |a| a.parse())?;
    let steps: usize = args.next().map_or(Ok(12), |a| a.parse())?;
    if std::path::Path::new(&dir).exists() {
        return replay(&dir);
    }
    if args.next().is_some_and(|a| a == "speed") {
        CountingAllocator::stop();
        return speed(&dir, hosts, steps);
    }
    memory(&dir, hosts, steps)?;
    CountingAllocator::stop();
    replay(&dir)?;
    speed(&format!("{dir}-speed"), hosts, steps)
}

/// Bytes a series, and of a restart.
fn memory(dir: &str, hosts: usize, steps: usize) -> Fallible<()> {
    let mut handles: Vec<SeriesHandle> = Vec::with_capacity(hosts * 100);
    let mut values: Vec<f64> = vec![0.0; hosts * 100];
    let store = open(dir, SyncMode::Never)?;
    let before = Allocations::now();
    register(&store, hosts, &mut handles)?;
    let live = Allocations::now().live_bytes - before.live_bytes;
    println!("live heap after registering: {:.1} bytes a series", live as f64 / handles.len() as f64);
    append(&store, &handles, &mut values, 1, steps)?;
    let m = store.memory();
    let live = (Allocations::now().live_bytes - before.live_bytes) as usize;
    println!("{m:#?}");
    let chunks = m.open_chunk_bytes + m.sealed_heap_bytes;
    println!("live heap {live}: besides chunks {:.1} bytes a series", (live - chunks) as f64 / handles.len() as f64);
    println!("open chunks: {:.3} x their content", m.open_chunk_bytes as f64 / m.open_chunk_content_bytes.max(1) as f64);
    store.close()?;
    drop(store);
    Allocations::reset_peak();
    let base = Allocations::now().live_bytes;
    let store = open(dir, SyncMode::Always)?;
    let peak = Allocations::now().peak_bytes - base;
    println!("peak heap of the restart: {:.2} x that before ({} MiB)", peak as f64 / live as f64, peak >> 20);
    store.close()?;
    Ok(())
}

fn replay(dir: &str) -> Fallible<()> {
    let t = Timer::start();
    let store = open(dir, SyncMode::Always)?;
    let samples = store.stats().head.samples;
    println!("replay: {samples} samples, {:.2} s, {:.2} M a CPU second", t.0.elapsed().as_secs_f64(), samples as f64 / t.cpu() / 1e6);
    store.close()?;
    Ok(())
}

/// Work a CPU second.
fn speed(dir: &str, hosts: usize, steps: usize) -> Fallible<()> {
    let mut handles: Vec<SeriesHandle> = Vec::with_capacity(hosts * 100);
    let mut values: Vec<f64> = vec![0.0; hosts * 100];
    let store = open(dir, SyncMode::Never)?;
    let spent = register(&store, hosts, &mut handles)?;
    println!("registering: {:.0} series a CPU second", handles.len() as f64 / spent);
    let spent = append(&store, &handles, &mut values, 1, steps)?;
    println!(
        "append by handle, {} series, sync never: {:.2} M samples a CPU second",
        handles.len(),
        (handles.len() * steps) as f64 / spent / 1e6
    );
    select(&store, hosts)?;
    store.close()?;
    drop(store);
    let mut rate = |sync, name: &str| -> Fallible<f64> {
        let s = open(&format!("{dir}-{name}"), sync)?;
        let mut handles = Vec::new();
        register_handles(&s, hosts.min(1000), &mut handles)?;
        append(&s, &handles, &mut values, 1, 2)?;
        let spent = append(&s, &handles, &mut values, 3, 80)?;
        s.close()?;
        Ok((handles.len() * 80) as f64 / spent)
    };
    let (never, always) = (rate(SyncMode::Never, "never")?, rate(SyncMode::Always, "always")?);
    println!(
        "append by handle, {} series: sync never {:.2} M samples a CPU second, always {:.2} M: {:.3} x the CPU",
        hosts.min(1000) * 100,
        never / 1e6,
        always / 1e6,
        never / always
    );
    Ok(())
}

fn labels(s: &Series) -> Labels {
    Labels::from_pairs(s.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

/// Registers with a first sample, in batches; gives CPU seconds without those of making labels.
fn register(store: &MetricStore, hosts: usize, handles: &mut Vec<SeriesHandle>) -> Fallible<f64> {
    let mut spent = 0.0;
    let mut n = 0;
    while n < hosts {
        let batch_hosts = (hosts - n).min(2000);
        let mut batches = Vec::new();
        for k in 0..batch_hosts / 50 + 1 {
            let mut b = BatchBuilder::default();
            for h in (n + k * 50)..(n + (k + 1) * 50).min(n + batch_hosts) {
                for s in host(h) {
                    let i = b.series(&labels(&s));
                    b.push(i, T0, 0, Value::Float(s.value));
                }
            }
            batches.push(b.finish());
        }
        let t = Timer::start();
        for b in &batches {
            store.append(b)?.commit.wait()?;
        }
        spent += t.cpu();
        drop(batches);
        n += batch_hosts;
    }
    register_handles(store, hosts, handles)?;
    Ok(spent)
}

fn register_handles(store: &MetricStore, hosts: usize, handles: &mut Vec<SeriesHandle>) -> Fallible<()> {
    for h in 0..hosts {
        for s in host(h) {
            handles.push(store.handle(&labels(&s))?);
        }
    }
    Ok(())
}

fn append(store: &MetricStore, handles: &[SeriesHandle], values: &mut [f64], from: usize, steps: usize) -> Fallible<f64> {
    let mut r = Random::new(7);
    let t = Timer::start();
    let mut aside = Duration::ZERO;
    for step in from..from + steps {
        for (k, some) in handles.chunks(COMMIT).enumerate() {
            let made = Instant::now();
            for v in &mut values[k * COMMIT..k * COMMIT + some.len()] {
                *v += (r.below(40)) as f64;
            }
            aside += made.elapsed();
            let mut b = BatchBuilder::default();
            b.reserve(some.len(), 0);
            for (i, h) in some.iter().enumerate() {
                let s = b.handle(*h);
                b.push(s, T0 + step as i64 * 15_000, 0, Value::Float(values[k * COMMIT + i]));
            }
            store.append(&b.finish())?.commit.wait()?;
        }
    }
    Ok(t.cpu() - aside.as_secs_f64())
}

fn select(store: &MetricStore, hosts: usize) -> Fallible<()> {
    let mut worst = Duration::ZERO;
    let mut all = Duration::ZERO;
    for k in 0..1000usize {
        let n = k * 7919 % hosts;
        let instance = format!("10.{}.{}.{}:9100", n >> 16 & 255, n >> 8 & 255, n & 255);
        let matchers = vec![Matcher::new(MatchOp::Equal, "__name__", "up")?, Matcher::new(MatchOp::Equal, "instance", instance.as_str())?];
        let t = Instant::now();
        let found = store.select(&SelectRequest::new(matchers, TimeRange::new(T0, T0 + 3_600_000)))?.len();
        let d = t.elapsed();
        assert_eq!(found, 1);
        worst = worst.max(d);
        all += d;
    }
    println!(
        "select 1 of {} series by two matchers: mean {:.1} us, worst {:.1} us",
        hosts * 100,
        all.as_secs_f64() * 1e3,
        worst.as_secs_f64() * 1e6
    );
    Ok(())
}
