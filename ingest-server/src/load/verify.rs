//! What must be there by the ledger, against what is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::encode;
use super::ledger::{Fate, Ledger, Signal};
use super::metrics::{Attribute, BOUNDS, Counted, Point, Value};
use super::read::{ReadSpan, Reader, Sample, Series};
use super::traffic::{Tick, tick};

/// Ticks compared by one query of each process.
const WINDOW: u64 = 256;
/// Mistakes told; more are only counted.
const MAX_TOLD: usize = 20;
/// No span of a tick began longer before it.
const LONGEST_MS: i64 = 120_000;

/// What a check found.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Found {
    pub samples: u64,
    pub series: u64,
    pub spans_counted: u64,
    pub spans_compared: u64,
    pub traces_compared: u64,
    pub exemplars: u64,
    pub exemplars_missing: u64,
    /// The first mistakes.
    pub wrong: Vec<String>,
    pub wrong_total: u64,
}

impl Found {
    fn wrong(&mut self, what: String) {
        self.wrong_total += 1;
        if self.wrong.len() < MAX_TOLD {
            self.wrong.push(what);
        }
    }
}

/// What a sample may be: anything between `low` and `high` (they differ where a delta was never answered).
struct Expected {
    low: Sample,
    high: Sample,
    /// It was acknowledged.
    must: bool,
}

/// What a process should have.
#[derive(Default)]
struct Process {
    counted: Counted,
    /// Increases added up, by series: all acknowledged ones, and those never answered too.
    deltas: HashMap<String, (u64, u64)>,
    /// Samples of the window by series and time.
    expected: BTreeMap<String, BTreeMap<i64, Expected>>,
    /// Of all windows.
    series: BTreeSet<String>,
    spans_must: u64,
    spans_may: u64,
    /// Of its last acknowledged export: trace ids in exemplars.
    exemplars: BTreeSet<String>,
}

/// A trace to be compared whole.
struct Whole {
    id: [u8; 16],
    spans: Vec<(ReadSpan, Fate)>,
}

/// Compares everything that the ledger says with what a reader finds.
pub fn verify(ledger: &Ledger, reader: &dyn Reader, whole_traces: usize) -> Result<Found, String> {
    let plan = &ledger.plan;
    let mut found = Found::default();
    let mut processes: Vec<Process> = (0..plan.cells()).map(|_| Process::default()).collect();
    let all: u64 = ledger.ticks.iter().map(|t| u64::from(t.1)).sum();
    let every = (all / whole_traces.max(1) as u64).max(1);
    let mut seen = 0;
    let mut window_from = plan.start_ms;
    for number in 0..ledger.ticks.len() as u64 {
        let (t_ms, before_ms) = ledger.times(number);
        let t = tick(plan, number, t_ms, before_ms, ledger.ticks[number as usize].1);
        let mut whole = Vec::new();
        for (i, id) in t.traces.iter().enumerate() {
            if (seen + i as u64).is_multiple_of(every) {
                whole.push(expected_trace(ledger, &t, i, *id));
            }
        }
        seen += t.traces.len() as u64;
        compare_traces(reader, &whole, &mut found)?;
        for (cell, p) in processes.iter_mut().enumerate() {
            p.expect(ledger, &t, cell);
        }
        if (number + 1).is_multiple_of(WINDOW) || number + 1 == ledger.ticks.len() as u64 {
            for (cell, p) in processes.iter_mut().enumerate() {
                let got = reader.samples(&plan.instance_id(cell), window_from, t_ms)?;
                p.compare(&plan.instance_id(cell), got, &mut found);
            }
            window_from = t_ms;
        }
    }
    let Some((last_ms, _)) = ledger.ticks.last() else { return Ok(found) };
    for (cell, p) in processes.iter().enumerate() {
        let instance = plan.instance_id(cell);
        found.series += p.series.len() as u64;
        let n = reader.count_spans(&instance, plan.start_ms - LONGEST_MS, last_ms + 1000)?;
        found.spans_counted += n;
        if n < p.spans_must || n > p.spans_must + p.spans_may {
            found.wrong(format!("{instance} has {n} spans: {} were acknowledged, {} may be there beside", p.spans_must, p.spans_may));
        }
        let exemplars = reader.exemplars(&instance, plan.start_ms - LONGEST_MS, last_ms + 1000)?;
        found.exemplars += exemplars.len() as u64;
        // Only so many exemplars are kept of a tenant: those of others may have come since.
        found.exemplars_missing += p.exemplars.difference(&exemplars).count() as u64;
    }
    Ok(found)
}

fn expected_trace(ledger: &Ledger, t: &Tick, index: usize, id: [u8; 16]) -> Whole {
    let of_trace = t.spans.iter().filter(|s| s.trace == index);
    let spans = of_trace.map(|s| {
        let mut attributes: Vec<String> = encode::attributes(s)
            .into_iter()
            .map(|(k, v)| match v {
                Attribute::Text(v) => format!("{k}={v}"),
                Attribute::Int(v) => format!("{k}={v}"),
            })
            .collect();
        attributes.sort();
        let text = format!(
            "{:?} of {}, parent {:016x}, kind {}, {}..{}, status {}, {} events, {}",
            encode::name(s),
            ledger.plan.instance_id(s.cell),
            s.parent,
            encode::kind(s),
            s.start_ns,
            s.end_ns,
            if s.error { 2 } else { 0 },
            u8::from(s.culprit),
            attributes.join(" ")
        );
        (ReadSpan { id: s.id, text }, ledger.fate(t.number, s.cell, Signal::Traces))
    });
    Whole { id, spans: spans.collect() }
}

fn compare_traces(reader: &dyn Reader, whole: &[Whole], found: &mut Found) -> Result<(), String> {
    let ids: Vec<[u8; 16]> = whole.iter().map(|w| w.id).collect();
    for (w, got) in whole.iter().zip(reader.traces(&ids)?) {
        let trace = strandline_storage::codec::hex(&w.id);
        found.traces_compared += 1;
        let mut by_id: HashMap<u64, Vec<ReadSpan>> = HashMap::new();
        for s in got {
            by_id.entry(s.id).or_default().push(s);
        }
        for (want, fate) in &w.spans {
            let there = by_id.remove(&want.id).unwrap_or_default();
            found.spans_compared += there.len() as u64;
            match (&there[..], fate) {
                ([], Fate::Acknowledged) => found.wrong(format!("trace {trace}: span {:016x} is missing: {}", want.id, want.text)),
                ([], _) => {}
                ([_, _, ..], _) => found.wrong(format!("trace {trace}: span {:016x} is there {} times", want.id, there.len())),
                ([s], _) if s != want => {
                    found.wrong(format!("trace {trace}: span {:016x} is {}\n      sent was {}", want.id, s.text, want.text));
                }
                ([_], Fate::Refused) => found.wrong(format!("trace {trace}: span {:016x} was refused, and is there", want.id)),
                _ => {}
            }
        }
        for s in by_id.into_values().flatten() {
            found.wrong(format!("trace {trace}: span {:016x} was never sent: {}", s.id, s.text));
        }
    }
    Ok(())
}

/// A series' name and labels, without those that all series of a process have.
fn key<'a>(name: &str, labels: impl Iterator<Item = (&'a str, String)>) -> String {
    let common = |l: &str| l == "__name__" || l == "job" || l == "instance" || l.starts_with("service_") || l.starts_with("deployment_");
    let mut all: Vec<String> = labels.filter(|(l, _)| !common(l)).map(|(l, v)| format!("{l}=\"{v}\"")).collect();
    all.sort();
    format!("{name}{{{}}}", all.join(","))
}

fn point_key(p: &Point, suffix: &str, le: Option<String>) -> String {
    let own = p.attributes.iter().map(|(k, v)| {
        let v = match v {
            Attribute::Text(t) => (*t).to_owned(),
            Attribute::Int(i) => i.to_string(),
        };
        (*k, v)
    });
    let own = own.map(|(k, v)| (k.replace('.', "_"), v)).chain(le.map(|v| ("le".to_owned(), v)));
    let own: Vec<(String, String)> = own.collect();
    key(&format!("{}{suffix}", p.metric.prometheus), own.iter().map(|(k, v)| (k.as_str(), v.clone())))
}

impl Process {
    fn expect(&mut self, ledger: &Ledger, t: &Tick, cell: usize) {
        let mut spans = 0;
        for s in t.spans.iter().filter(|s| s.cell == cell) {
            self.counted.record(s, t);
            spans += 1;
        }
        match ledger.fate(t.number, cell, Signal::Traces) {
            Fate::Acknowledged => self.spans_must += spans,
            Fate::Unknown => self.spans_may += spans,
            Fate::Refused => {}
        }
        let points = self.counted.collect();
        let fate = ledger.fate(t.number, cell, Signal::Metrics);
        if fate == Fate::Refused {
            return;
        }
        let must = fate == Fate::Acknowledged;
        if must {
            self.exemplars.clear();
        }
        self.put("target_info{telemetry_sdk_name=\"strandline-load\"}".into(), t.t_ms, Sample::Float(1.0), must);
        for p in &points {
            self.expect_point(p, t.t_ms, must);
        }
    }

    fn put(&mut self, key: String, t_ms: i64, v: Sample, must: bool) {
        self.expected.entry(key).or_default().insert(t_ms, Expected { low: v.clone(), high: v, must });
    }

    fn expect_point(&mut self, p: &Point, t_ms: i64, must: bool) {
        let float = |v: u64| Sample::Float(v as f64);
        if let (Value::Classic(.., Some(e)) | Value::Exponential(.., Some(e)), true) = (&p.value, must) {
            self.exemplars.insert(strandline_storage::codec::hex(&e.trace));
        }
        match &p.value {
            Value::Gauge(v) => self.put(point_key(p, "", None), t_ms, Sample::Float(*v as f64), must),
            Value::Cumulative(v) => self.put(point_key(p, "", None), t_ms, float(*v), must),
            Value::Delta(v) => {
                let key = point_key(p, "", None);
                let sums = self.deltas.entry(key.clone()).or_default();
                sums.0 += if must { *v } else { 0 };
                sums.1 += v;
                let e = Expected { low: float(sums.0), high: float(sums.1), must };
                self.expected.entry(key).or_default().insert(t_ms, e);
            }
            Value::Classic(counts, sum, _) => {
                let mut below = 0;
                for (i, n) in counts.iter().enumerate() {
                    below += n;
                    let le = BOUNDS.get(i).map_or("+Inf".to_owned(), |b| b.to_string());
                    self.put(point_key(p, "_bucket", Some(le)), t_ms, float(below), must);
                }
                self.put(point_key(p, "_count", None), t_ms, float(below), must);
                self.put(point_key(p, "_sum", None), t_ms, Sample::Float(*sum), must);
            }
            Value::Exponential(_, counts, sum, _) => {
                let full = counts.iter().filter(|n| **n > 0).map(|n| *n as f64).collect();
                let v = Sample::Histogram(counts.iter().sum::<u64>() as f64, *sum, full);
                self.put(point_key(p, "", None), t_ms, v, must);
            }
        }
    }

    fn compare(&mut self, instance: &str, got: Vec<Series>, found: &mut Found) {
        let mut expected = std::mem::take(&mut self.expected);
        let mut twice = BTreeSet::new();
        for s in got {
            let name = s.labels.get("__name__").map_or("", String::as_str);
            let key = key(name, s.labels.iter().map(|(k, v)| (k.as_str(), v.clone())));
            if !twice.insert(key.clone()) {
                found.wrong(format!("{instance}: {key} is there twice, under other labels"));
                continue;
            }
            let mut want = expected.remove(&key).unwrap_or_default();
            self.series.insert(key.clone());
            for (t_ms, v) in s.samples {
                found.samples += 1;
                match want.remove(&t_ms) {
                    None => found.wrong(format!("{instance}: {key} has a sample at {t_ms} that was never stored: {v:?}")),
                    Some(e) if !between(&v, &e) => {
                        found.wrong(format!("{instance}: {key} at {t_ms} is {v:?}, sent was {:?}", e.low));
                    }
                    Some(_) => {}
                }
            }
            missing(instance, &key, &want, found);
        }
        for (key, want) in &expected {
            missing(instance, key, want, found);
        }
    }
}

fn between(v: &Sample, e: &Expected) -> bool {
    match (v, &e.low, &e.high) {
        (Sample::Float(v), Sample::Float(low), Sample::Float(high)) => low <= v && v <= high,
        (v, low, _) => v == low,
    }
}

fn missing(instance: &str, key: &str, want: &BTreeMap<i64, Expected>, found: &mut Found) {
    for (t_ms, _) in want.iter().filter(|(_, e)| e.must) {
        found.wrong(format!("{instance}: {key} has no sample at {t_ms}"));
    }
}
