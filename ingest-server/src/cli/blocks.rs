//! `strandline blocks`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strandline_storage::metrics::MetricStore;

use super::progress::Progress;
use super::{local, say};
use crate::config::format_size;

/// Look after blocks.
#[derive(Subcommand)]
pub enum BlocksCommand {
    /// List metric blocks with their range and size.
    List(Where),
    /// Read every block whole and check every checksum.
    Verify(Where),
    /// Compact until there is nothing left to do.
    Compact(Where),
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
fn look(w: &Where) -> Result<MetricStore, String> {
    if !w.data_dir.join("VERSION").exists() && w.bucket.is_some() {
        return open(w).map(|(s, _)| s);
    }
    let engine = local::open_read_only(local::config(Some(&w.data_dir), w.bucket.as_deref())?)?;
    Ok(engine.metrics().clone())
}

/// Runs it.
pub fn run(c: BlocksCommand) -> Result<(), String> {
    match c {
        BlocksCommand::List(w) => {
            let s = look(&w)?;
            for b in s.blocks() {
                let m = &b.meta;
                say(&format!(
                    "{}  level {}  {} .. {}  {:>10} series {:>12} samples  {:>10}  {:?}",
                    m.ulid,
                    m.compaction.level,
                    m.min_time,
                    m.max_time,
                    m.stats.num_series,
                    m.stats.num_samples,
                    format_size(m.size_bytes()),
                    b.place
                ));
            }
            Ok(())
        }
        BlocksCommand::Verify(w) => {
            let s = look(&w)?;
            let mut bad = 0;
            let all = s.blocks();
            let mut progress = Progress::new("verifying");
            for (i, b) in all.iter().enumerate() {
                progress.at(i as u64, all.len() as u64);
                let checked = b.open().and_then(|b| b.verify());
                progress.hide();
                match checked {
                    Ok(()) => say(&format!("{}  fine", b.meta.ulid)),
                    Err(e) => {
                        bad += 1;
                        say(&format!("{}  DAMAGED: {e}", b.meta.ulid));
                    }
                }
            }
            if bad == 0 { Ok(()) } else { Err(format!("{bad} damaged blocks")) }
        }
        BlocksCommand::Compact(w) => {
            let (s, _lock) = open(&w)?;
            let mut progress = Progress::new("compactions");
            let mut n = 0;
            // One at a time, so that it can be told how far it is.
            while s.compact(1).map_err(|e| e.to_string())? > 0 {
                n += 1;
                progress.at(n, 0);
            }
            drop(progress);
            s.upload().map_err(|e| e.to_string())?;
            say(&format!("{n} compactions"));
            s.close().map_err(|e| e.to_string())
        }
    }
}
