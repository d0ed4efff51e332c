//! What was sent and what became of it: all that a later `--verify` needs, since the rest follows from the seed.
//!
//! A text file: `strandline-load 1 SEED START_MS INSTANCES`, then a line a tick (`t T_MS TRACES`, numbered in order) and a
//! line a request (`a TICK CELL SIGNAL` acknowledged, `r …` refused for good, `u …` never answered). A refused request
//! left no trace; one that was never answered may or may not have been stored.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use strandline_wal::fs::{Fs, RealFs};

use super::traffic::Plan;

/// What a request carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Points.
    Metrics,
    /// Spans.
    Traces,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered with success.
    Acknowledged,
    /// Answered, and not stored.
    Refused,
    /// Some attempt had no answer, and none had a good one.
    Unknown,
}

/// The record of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// What decided it.
    pub plan: Plan,
    /// Time and number of traces of each tick.
    pub ticks: Vec<(i64, u32)>,
    /// What became of the requests; what is not named was never sent.
    pub fates: HashMap<(u64, usize, Signal), Fate>,
}

const HEAD: &str = "strandline-load 1";

impl Ledger {
    /// Nothing sent yet.
    pub fn new(plan: Plan) -> Self {
        Ledger { plan, ticks: Vec::new(), fates: HashMap::new() }
    }

    /// When a tick was, and the one before it.
    pub fn times(&self, tick: u64) -> (i64, i64) {
        let at = tick as usize;
        let before = if at == 0 { self.plan.start_ms } else { self.ticks[at - 1].0 };
        (self.ticks[at].0, before)
    }

    /// What became of a request. One that was never sent was not stored either.
    pub fn fate(&self, tick: u64, cell: usize, s: Signal) -> Fate {
        self.fates.get(&(tick, cell, s)).copied().unwrap_or(Fate::Refused)
    }

    /// As text.
    pub fn print(&self) -> String {
        let mut out = format!("{HEAD} {} {} {}\n", self.plan.seed, self.plan.start_ms, self.plan.instances);
        for (t_ms, traces) in &self.ticks {
            let _ = writeln!(out, "t {t_ms} {traces}");
        }
        let mut all: Vec<_> = self.fates.iter().collect();
        all.sort_by_key(|(k, _)| **k);
        for ((tick, cell, signal), fate) in all {
            let letter = match fate {
                Fate::Acknowledged => 'a',
                Fate::Refused => 'r',
                Fate::Unknown => 'u',
            };
            let _ = writeln!(out, "{letter} {tick} {cell} {}", if *signal == Signal::Metrics { 'm' } else { 't' });
        }
        out
    }

    /// From text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let head = lines.next().and_then(|l| l.strip_prefix(HEAD)).ok_or("not a ledger of strandline load")?;
        let n: Vec<i128> = head.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [seed, start_ms, instances] = n[..] else { return Err("the ledger's first line is damaged".into()) };
        let plan = Plan { seed: seed as u64, start_ms: start_ms as i64, instances: (instances as u32).clamp(1, 10_000) };
        let mut ledger = Ledger::new(plan);
        for (i, line) in lines.enumerate() {
            ledger.line(line).ok_or_else(|| format!("line {} of the ledger is damaged: {line:?}", i + 2))?;
        }
        Ok(ledger)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let w: Vec<&str> = line.split(' ').collect();
        match w[..] {
            ["t", t_ms, traces] => self.ticks.push((t_ms.parse().ok()?, traces.parse().ok()?)),
            [letter, tick, cell, signal] => {
                let fate = match letter {
                    "a" => Fate::Acknowledged,
                    "r" => Fate::Refused,
                    "u" => Fate::Unknown,
                    _ => return None,
                };
                let signal = if signal == "m" { Signal::Metrics } else { Signal::Traces };
                let (tick, cell): (u64, usize) = (tick.parse().ok()?, cell.parse().ok()?);
                if tick >= self.ticks.len() as u64 || cell >= self.plan.cells() {
                    return None;
                }
                self.fates.insert((tick, cell, signal), fate);
            }
            _ => return None,
        }
        Some(())
    }

    /// Writes the file whole, or not at all.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        // The folder is synced after it, and needs a name for that.
        let full = std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))?;
        RealFs::default().write_atomic(&full, self.print().as_bytes()).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, String> {
        Self::parse(&crate::config::read_file(path)?).map_err(|e| format!("{}: {e}", path.display()))
    }
}
