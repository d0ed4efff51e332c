//! `strandline load`: six services at work, sent over OTLP to any address, and read back.
//!
//! The workload is a pure function of seed and time ([`traffic`]), so that the [`ledger`] of what was acknowledged is
//! enough to say later what must be there, and [`verify`] asks the query APIs whether it is, once.

mod encode;
mod ledger;
mod metrics;
mod read;
mod report;
mod rng;
mod run;
mod send;
mod services;
mod traffic;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use strandline_storage::clock::{Clock, SystemClock};

use self::ledger::Ledger;
use self::traffic::Plan;
use crate::config::parse_duration_ms;

/// Send a realistic workload of six services over OTLP, and check that what was acknowledged is there, once.
#[derive(Args, Clone)]
pub struct LoadArgs {
    /// OTLP over gRPC; empty: everything by HTTP.
    #[arg(long, default_value = "http://127.0.0.1:4317")]
    pub grpc: String,
    /// OTLP over HTTP.
    #[arg(long, default_value = "http://127.0.0.1:4318")]
    pub http: String,
    /// Query APIs, for --verify.
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    pub api: String,
    /// Traces a second, of about 15 spans each; 0: as fast as they are taken.
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// How long, like 30s.
    #[arg(long, default_value = "10s", value_parser = parse_duration_ms)]
    pub duration: i64,
    /// How long to go on trying to deliver what is left.
    #[arg(long, default_value = "60s", value_parser = parse_duration_ms)]
    pub drain: i64,
    /// Between two exports of a process, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    pub interval_ms: u64,
    /// The same seed at the same time makes the same bytes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Processes of each service.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub instances: u32,
    /// Requests with traces that a process has under way at once.
    #[arg(long, default_value_t = 2)]
    pub senders: usize,
    /// Where to note what was acknowledged. With --verify, a ledger that is there is only checked, and nothing is sent.
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Read everything back; exit 1 if anything acknowledged is missing or counted twice.
    #[arg(long)]
    pub verify: bool,
    /// Traces read whole by --verify, spread evenly; all are counted in any case.
    #[arg(long, default_value_t = 200)]
    pub whole_traces: usize,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

impl LoadArgs {
    fn duration(&self) -> Duration {
        Duration::from_millis(self.duration.max(0) as u64)
    }
    fn drain(&self) -> Duration {
        Duration::from_millis(self.drain.max(0) as u64)
    }
}

/// Runs it.
pub fn run(a: LoadArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| e.to_string())?;
    let there = a.ledger.as_ref().filter(|p| p.exists());
    let ledger = match there {
        Some(path) if a.verify => Ledger::load(path)?,
        Some(path) => return Err(format!("{} is there already: check it with --verify, or name another", path.display())),
        None => {
            let plan = Plan { seed: a.seed, start_ms: SystemClock.now_ms(), instances: a.instances };
            let done = runtime.block_on(run::run(&a, plan))?;
            crate::cli::say(&report::sent(&done, a.json));
            if let Some(path) = &a.ledger {
                done.ledger.save(path)?;
            }
            done.ledger
        }
    };
    if !a.verify {
        return Ok(());
    }
    let reader = read::Api::new(&a.api, &runtime)?;
    let found = verify::verify(&ledger, &reader, a.whole_traces)?;
    crate::cli::say(&report::verified(&found, a.json));
    if found.wrong.is_empty() { Ok(()) } else { Err(format!("{} things are wrong", found.wrong_total)) }
}

#[cfg(test)]
mod tests;
