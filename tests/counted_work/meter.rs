//! Counting, and comparing with what was counted before.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use strandline_testkit::Allocations;

use crate::common::World;

/// What some work took.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    units: u64,
    allocations: u64,
    bytes: u64,
    fsyncs: u64,
    requests: u64,
}

impl Counts {
    fn fields(&self) -> [(&'static str, u64); 4] {
        [("allocations", self.allocations), ("bytes", self.bytes), ("fsyncs", self.fsyncs), ("requests", self.requests)]
    }
}

/// Collects counts by name.
pub struct Meter(BTreeMap<String, Counts>);

impl Meter {
    pub fn new() -> Self {
        Meter(BTreeMap::new())
    }

    /// Counts what `work` takes; `units` is how much of it there is.
    pub fn count(&mut self, name: &str, units: u64, w: &World, work: impl FnOnce()) {
        let requests = w.requests.load(Ordering::Relaxed);
        let fsyncs = w.fs.syncs();
        let before = Allocations::now();
        work();
        let after = Allocations::now();
        let counts = Counts {
            units,
            allocations: after.calls - before.calls,
            bytes: after.total_bytes - before.total_bytes,
            fsyncs: w.fs.syncs() - fsyncs,
            requests: w.requests.load(Ordering::Relaxed) - requests,
        };
        assert!(self.0.insert(name.to_owned(), counts).is_none(), "{name} is counted twice");
    }

    /// Compares with the table, or writes it.
    pub fn settle(&self) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/counted_work.toml");
        if std::env::var("COUNTED_WORK").is_ok_and(|v| v == "write") {
            return std::fs::write(&path, self.text()).unwrap();
        }
        let table = parse(&std::fs::read_to_string(&path).unwrap_or_default());
        let mut worse = Vec::new();
        for (name, now) in &self.0 {
            let Some(was) = table.get(name) else {
                worse.push(format!("{name} is not in the table"));
                continue;
            };
            if was.units != now.units {
                worse.push(format!("{name}: {} units, {} in the table", now.units, was.units));
            }
            for ((what, n), (_, before)) in now.fields().into_iter().zip(was.fields()) {
                // Syncs and requests are few and exact; hash seeds move allocations a little.
                let allowed = if matches!(what, "fsyncs" | "requests") {
                    before
                } else {
                    before + before / 25 + if what == "bytes" { 512 } else { 8 }
                };
                if n > allowed {
                    worse.push(format!("{name}: {n} {what} for {} units, {before} in the table", now.units));
                }
            }
        }
        worse.extend(table.keys().filter(|k| !self.0.contains_key(*k)).map(|k| format!("{k} is in the table and was not counted")));
        let how = "if the change is worth it, accept the new values with `COUNTED_WORK=write cargo test --test counted_work`";
        assert!(worse.is_empty(), "work has grown:\n  {}\n{how}\n", worse.join("\n  "));
    }

    fn text(&self) -> String {
        let mut out = "# What work takes, counted by tests/counted_work.rs: totals for so many units. Written by\n# `COUNTED_WORK=write cargo test --test counted_work`.\n".to_owned();
        for (name, c) in &self.0 {
            out += &format!("\n[{name}]\nunits = {}\n", c.units);
            for (what, n) in c.fields() {
                out += &format!("{what} = {n}\n");
            }
        }
        out
    }
}

fn parse(text: &str) -> BTreeMap<String, Counts> {
    let mut out: BTreeMap<String, Counts> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(n) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name = n.to_owned();
            continue;
        }
        let (what, n) = line.split_once(" = ").expect("name = number");
        let (c, n) = (out.entry(name.clone()).or_default(), n.parse().expect("a number"));
        match what {
            "units" => c.units = n,
            "allocations" => c.allocations = n,
            "bytes" => c.bytes = n,
            "fsyncs" => c.fsyncs = n,
            "requests" => c.requests = n,
            other => panic!("{other} is not counted"),
        }
    }
    out
}
