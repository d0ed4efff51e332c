//! `strandline blocks`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strandline_storage::metrics::{MetricStore, Place};
use strandline_storage::traces::TraceStore;

use super::progress::Progress;
use super::{local, say};
use crate::config::format_size;

/// Look after blocks.
#[derive(Subcommand)]
pub enum BlocksCommand {
    /// List blocks with their range and size; those of spans too, where a data folder is named.
    List(Where),
    /// Read every block whole and check every checksum; those of spans too, where a data folder is named.
    Verify(Where),
    /// Compact blocks of metrics and of spans until there is nothing left to do.
    Compact(Where),
    /// Accept that a block which is not in the bucket can't be read, so that answers no longer miss it.
    GiveUp(GiveUp),
}

/// Which block.
#[derive(Args)]
pub struct GiveUp {
    /// Its name, as `blocks verify` tells it.
    block: String,
    /// The data folder; no server may be using it.
    #[arg(long, default_value = "strandline-data")]
    data_dir: PathBuf,
    /// Whose it is; without it the default tenant's.
    #[arg(long)]
    tenant: Option<String>,
}

/// Which blocks.
#[derive(Args)]
pub struct Where {
    /// A data folder (and its bucket).
    #[arg(long, default_value = "strandline-data")]
    data_dir: PathBuf,
    /// A bucket of its own.
    #[arg(long)]
    bucket: Option<String>,
}

fn open(w: &Where) -> Result<(MetricStore, Box<dyn Send + Sync>), String> {
    local::open_store(&local::config(Some(&w.data_dir), w.bucket.as_deref())?)
}

/// Listing and verifying work beside a running server. A bucket alone needs a folder to work in.
fn look(w: &Where) -> Result<(MetricStore, Option<TraceStore>), String> {
    if !w.data_dir.join("VERSION").exists() && w.bucket.is_some() {
        return open(w).map(|(s, _)| (s, None));
    }
    let engine = local::open_read_only(local::config(Some(&w.data_dir), w.bucket.as_deref())?)?;
    Ok((engine.metrics().clone(), Some(engine.traces().clone())))
}

/// A block's name, and how it is checked.
type Check = (String, Box<dyn Fn() -> strandline_storage::Result<()>>);

fn verify(metrics: &MetricStore, traces: Option<&TraceStore>) -> Result<(), String> {
    let mut checks: Vec<Check> = Vec::new();
    for b in metrics.blocks() {
        checks.push((b.meta.ulid.clone(), Box::new(move || b.open()?.verify())));
    }
    for b in traces.iter().flat_map(|t| t.blocks().to_vec()) {
        checks.push((b.meta.ulid.clone(), Box::new(move || b.open()?.check())));
    }
    let unknown = metrics.incomplete().into_iter().chain(traces.and_then(TraceStore::incomplete));
    let mut bad = unknown.inspect(|why| say(&format!("DAMAGED: {why}"))).count();
    let mut progress = Progress::new("verifying");
    for (i, (ulid, check)) in checks.iter().enumerate() {
        progress.at(i as u64, checks.len() as u64);
        let checked = check();
        progress.hide();
        match checked {
            Ok(()) => say(&format!("{ulid}  fine")),
            Err(e) => {
                bad += 1;
                say(&format!("{ulid}  DAMAGED: {e}"));
            }
        }
    }
    let way_out = "bring them back from a backup, or accept the loss: `strandline blocks give-up` for those that are not in the bucket";
    if bad == 0 { Ok(()) } else { Err(format!("{bad} damaged blocks: {way_out}")) }
}

fn list(metrics: &MetricStore, traces: Option<&TraceStore>) {
    let line = |ulid: &str, level: u32, times: [i64; 2], held: String, size_bytes: u64, place: &str| {
        let [from, to] = times.map(utc);
        say(&format!("{ulid}  level {level}  {from} .. {to}  {held}  {:>10}  {place}", format_size(size_bytes)));
    };
    for b in metrics.blocks() {
        let m = &b.meta;
        let held = format!("{:>10} series {:>12} samples", m.stats.num_series, m.stats.num_samples);
        let place = match &b.place {
            Place::Local(dir) => format!("local, {}", dir.display()),
            Place::Bucket(prefix) => format!("bucket, {prefix}"),
        };
        line(&m.ulid, m.compaction.level, [m.min_time, m.max_time], held, m.size_bytes(), &place);
    }
    for b in traces.iter().flat_map(|t| t.blocks().to_vec()) {
        let m = &b.meta;
        let held = format!("{:>10} traces {:>12} spans  ", m.traces, m.spans);
        let times = [m.min_start_unix_nano, m.max_start_unix_nano].map(|t| (t / 1_000_000) as i64);
        line(&m.ulid, m.level, times, held, m.size_bytes, if b.staged { "local, to be uploaded" } else { "bucket" });
    }
}

/// A time in words, to the second.
fn utc(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).map_or_else(|| ms.to_string(), |t| t.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Runs it.
pub fn run(c: BlocksCommand) -> Result<(), String> {
    match c {
        BlocksCommand::List(w) => {
            let (metrics, traces) = look(&w)?;
            list(&metrics, traces.as_ref());
            Ok(())
        }
        BlocksCommand::Verify(w) => {
            let (metrics, traces) = look(&w)?;
            verify(&metrics, traces.as_ref())
        }
        BlocksCommand::Compact(w) => compact(&w),
        BlocksCommand::GiveUp(g) => {
            let e = local::open_engine(local::config(Some(&g.data_dir), None)?, g.tenant.as_deref())?;
            let done = e.give_up(&g.block).map_err(|e| e.to_string());
            e.close().map_err(|e| e.to_string()).and(done)?;
            say(&format!("{} is given up; what is left of it lies in given-up of the data folder", g.block));
            Ok(())
        }
    }
}

fn compact(w: &Where) -> Result<(), String> {
    let e = local::open_engine(local::config(Some(&w.data_dir), w.bucket.as_deref())?, None)?;
    let mut progress = Progress::new("compactions");
    let mut n = 0;
    // One at a time, so that it can be told how far it is.
    let mut all = |one: &dyn Fn() -> strandline_storage::Result<usize>| {
        while one().map_err(|e| e.to_string())? > 0 {
            n += 1;
            progress.at(n, 0);
        }
        Ok::<_, String>(())
    };
    all(&|| e.metrics().compact(1))?;
    e.metrics().upload().map_err(|e| e.to_string())?;
    all(&|| e.traces().compact(1))?;
    drop(progress);
    say(&format!("{n} compactions"));
    e.close().map_err(|e| e.to_string())
}
