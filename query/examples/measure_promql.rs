//! Times PromQL queries over metric stores under DIR with about 100,000 series, whose samples lie in the head, in a
//! block, or in places that meet within the time that the queries look at:
//! `cargo run --release -p strandline-query --example measure_promql -- DIR [SERIES] [SAMPLES] [REPEATS] [LAYOUT...]`.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use strandline_query::promql::{Engine, EngineOptions, QueryOptions};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::Labels;
use strandline_wal::WalOptions;
use strandline_wal::fs::{IoMode, RealFs};

const STEP: i64 = 15_000;
const START: i64 = 1_700_006_400_000;

const QUERIES: [(&str, i64, i64, &str); 12] = [
    ("instant_count", 0, 0, "count({__name__!=\"\"})"),
    ("count_by", 0, 0, "count by (__name__) ({__name__!=\"\"})"),
    ("instant_raw", 0, 0, "node_cpu_seconds_total"),
    ("sum_rate_by_job", 1500, 15, "sum by (job) (rate(http_requests_total[5m]))"),
    ("topk_cpu", 1500, 15, "topk(5, sum by (instance) (rate(node_cpu_seconds_total{mode!=\"idle\"}[5m])))"),
    ("hist_p99", 1500, 15, "histogram_quantile(0.99, sum by (le, handler) (rate(http_request_duration_seconds_bucket[5m])))"),
    ("regex_select", 1500, 15, "avg by (dc) (node_load1{instance=~\"10.0.[01].*\"})"),
    ("one_series", 1500, 15, "rate(node_network_receive_bytes_total{instance=\"10.0.1.77:9100\",device=\"eth0\"}[1m])"),
    ("binop_join", 1500, 15, "sum by (dc) (node_memory_MemAvailable_bytes / on(instance, job, dc, env) node_memory_MemTotal_bytes)"),
    ("max_over_time", 1500, 60, "max by (env) (max_over_time(process_resident_memory_bytes[10m]))"),
    ("subquery", 1500, 60, "max_over_time(sum(rate(http_requests_total{code=\"500\"}[1m]))[10m:15s])"),
    ("raw_many", 300, 15, "node_cpu_seconds_total{cpu=\"0\"}"),
];

/// A layout and how many samples before the end the flushes come.
const LAYOUTS: [(&str, &[usize]); 7] = [
    ("head", &[]),
    ("block", &[0]),
    ("block+head", &[50]),
    ("block+block", &[50, 0]),
    ("block+head_now", &[10]),
    ("block+block_now", &[10, 0]),
    ("three_blocks", &[100, 50, 0]),
];

const LONG: &str = "sum by (job, instance) (rate(http_requests_total{job=~\"api.*\",code!~\"5..\"}[5m])) / ignoring (code) \
                    group_left sum by (job) (rate(http_requests_total{job=~\"api.*\"}[5m])) > 0.25 and up == 1 or vector(0)";

/// The series of one instance.
fn series_of(i: usize) -> Vec<Labels> {
    let instance = format!("10.0.{}.{}:9100", i / 200, i % 200);
    let (dc, env, job) = (format!("dc{}", i % 4), ["prod", "stage"][i % 2], format!("job{}", i % 20));
    let of = |name: &str, more: &[(&str, &str)]| {
        let fixed = [("__name__", name), ("instance", &instance), ("dc", &dc), ("env", env), ("job", &job)];
        Labels::from_pairs(fixed.into_iter().chain(more.iter().copied()))
    };
    let mut out = Vec::new();
    for name in ["node_load1", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes", "process_resident_memory_bytes"] {
        out.push(of(name, &[]));
    }
    for device in ["eth0", "eth1"] {
        out.push(of("node_network_receive_bytes_total", &[("device", device)]));
    }
    for cpu in ["0", "1", "2", "3"] {
        for mode in ["idle", "user", "system", "iowait", "steal"] {
            out.push(of("node_cpu_seconds_total", &[("cpu", cpu), ("mode", mode)]));
        }
    }
    for handler in ["/", "/api", "/login"] {
        for code in ["200", "404", "500"] {
            out.push(of("http_requests_total", &[("handler", handler), ("code", code)]));
        }
        for le in ["0.01", "0.05", "0.1", "0.5", "1", "5", "+Inf"] {
            out.push(of("http_request_duration_seconds_bucket", &[("handler", handler), ("le", le)]));
        }
    }
    out
}

/// CPU time of this process in milliseconds, where the system tells.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum::<f64>() * 10.0
}

/// A line of the process's memory, MiB.
fn memory_mib(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(what)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// A store of these series, flushed so many samples before the end.
fn load(dir: &Path, all: &[Labels], samples: usize, flushes: &[usize]) -> Result<MetricStore, Box<dyn Error>> {
    let clock = ManualClock::new(START);
    let mut o = MetricOptions::new(Arc::new(RealFs::new(IoMode::Mmap)), Arc::new(clock.clone()), dir);
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    let store = MetricStore::open(o)?;
    for k in 0..=samples {
        if flushes.contains(&(samples - k)) {
            store.flush()?;
        }
        if k == samples {
            break;
        }
        let k = k as i64;
        clock.set(START + k * STEP);
        for (part, labels) in all.chunks(10_000).enumerate() {
            let mut batch = BatchBuilder::default();
            for (i, l) in labels.iter().enumerate() {
                let key = batch.series(l);
                let n = (part * 10_000 + i) as i64;
                let v = (k * (n % 97 + 1) + (n * 31 + k * 17) % 13) as f64;
                batch.push(key, START + k * STEP + n % 1000, 0, Value::Float(v));
            }
            store.append(&batch.finish())?.commit.wait()?;
        }
    }
    Ok(store)
}

fn measure(store: &MetricStore, end: i64, repeats: usize) -> Result<(), Box<dyn Error>> {
    println!("{:<16} {:>9} {:>9} {:>9} {:>9}", "query", "cpu ms", "wall ms", "1 thread", "series");
    for (name, range, step, text) in QUERIES {
        let mut row = Vec::new();
        let mut series = 0;
        for threads in [0, 1] {
            let mut options = EngineOptions::default();
            if threads > 0 {
                options.threads = threads;
            }
            let engine = Engine::new(options);
            let run = || match range {
                0 => engine.instant(store, text, end, &QueryOptions::default()),
                _ => engine.range(store, text, end - range * 1000, end, step * 1000, &QueryOptions::default()),
            };
            series = run()?.stats.series;
            let (cpu, wall) = (cpu_ms(), Instant::now());
            for _ in 0..repeats {
                run()?;
            }
            row.push(((cpu_ms() - cpu) / repeats as f64, wall.elapsed().as_secs_f64() * 1000.0 / repeats as f64));
        }
        println!("{name:<16} {:>9.2} {:>9.2} {:>9.2} {series:>9}", row[0].0, row[0].1, row[1].1);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let number = |n: usize, default: usize| std::env::args().nth(n).and_then(|s| s.parse().ok()).unwrap_or(default);
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("say where: DIR [SERIES] [SAMPLES] [REPEATS] [LAYOUT...]")?);
    let (wanted, samples, repeats) = (number(2, 100_000), number(3, 140), number(4, 20));
    let layouts: Vec<String> = std::env::args().skip(5).collect();
    let all: Vec<Labels> = (0..wanted.div_ceil(series_of(0).len())).flat_map(series_of).collect();
    let end = START + (samples as i64 - 1) * STEP + 1000;
    for (layout, flushes) in LAYOUTS.into_iter().filter(|(l, _)| layouts.is_empty() || layouts.iter().any(|x| x == l)) {
        let begun = Instant::now();
        let dir = dir.join(layout);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let store = load(&dir, &all, samples, flushes)?;
        let loaded = begun.elapsed().as_secs_f64();
        println!("{layout}: {} series, {samples} samples each, loaded in {loaded:.1} s, {:.0} MiB", all.len(), memory_mib("VmRSS"));
        measure(&store, end, repeats)?;
    }
    println!("peak memory {:.0} MiB", memory_mib("VmHWM"));
    let cpu = cpu_ms();
    (0..10_000).try_for_each(|_| strandline_query::promql::parse(LONG).map(drop))?;
    println!("parse and check of {} characters: {:.1} us of CPU", LONG.len(), (cpu_ms() - cpu) / 10.0);
    Ok(())
}
