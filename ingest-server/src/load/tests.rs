//! The workload is the same again; its verification sees what is wrong.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Fate, Ledger, Signal};
use super::metrics::Counted;
use super::read::{ReadSpan, Reader, Sample, Series, spans};
use super::traffic::{Plan, Tick, tick};
use super::{encode, verify};
use crate::otlp::metrics::translate;
use crate::otlp::names::Strategy;
use strandline_storage::metrics::head::Value;

const START: i64 = 1_700_000_000_000;
const TICKS: u64 = 6;

fn plan(seed: u64) -> Plan {
    Plan { seed, start_ms: START, instances: 2 }
}

fn ticks(plan: &Plan) -> Vec<Tick> {
    (0..TICKS).map(|n| tick(plan, n, START + 1000 * (n as i64 + 1), START + 1000 * n as i64, 40)).collect()
}

/// All requests of a run: tick, cell, spans, metrics.
fn requests(plan: &Plan) -> Vec<(u64, usize, Vec<u8>, Vec<u8>)> {
    let mut counted = vec![Counted::default(); plan.cells()];
    let mut out = Vec::new();
    for t in ticks(plan) {
        t.spans.iter().for_each(|s| counted[s.cell].record(s, &t));
        for (cell, c) in counted.iter_mut().enumerate() {
            let points = c.collect();
            out.push((t.number, cell, encode::traces(plan, &t, cell), encode::metrics(plan, &t, cell, &points)));
        }
    }
    out
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    assert!(requests(&plan(1)) == requests(&plan(1)));
    assert!(requests(&plan(1)) != requests(&plan(2)));
}

#[test]
fn traffic_is_what_it_says() {
    let p = plan(3);
    let all = ticks(&p);
    let spans: Vec<_> = all.iter().flat_map(|t| &t.spans).collect();
    let ids: BTreeSet<u64> = spans.iter().map(|s| s.id).collect();
    assert_eq!(ids.len(), spans.len(), "ids are used once");
    assert_eq!(spans.iter().map(|s| p.service_of(s.cell)).collect::<BTreeSet<_>>().len(), 6);
    assert!(spans.iter().any(|s| s.error) && spans.iter().filter(|s| s.error).count() < spans.len() / 5);
    for t in &all {
        for s in &t.spans {
            let parent = t.spans.iter().find(|x| x.id == s.parent && x.trace == s.trace);
            assert_eq!(parent.is_none(), s.parent == 0);
            assert!(s.start_ns < s.end_ns && s.end_ns <= t.t_ms as u64 * 1_000_000);
            assert!(parent.is_none_or(|x| x.start_ns <= s.start_ns && s.end_ns <= x.end_ns), "children lie within their parents");
        }
    }
}

/// A store as it should be, made of the requests by the server's own decoders, with a fault.
struct Fake {
    series: BTreeMap<String, Series>,
    traces: BTreeMap<[u8; 16], Vec<ReadSpan>>,
    exemplars: BTreeSet<String>,
    plan: Plan,
}

fn fake(plan: &Plan) -> Fake {
    let t = crate::otlp::Translation {
        strategy: Strategy::named("UnderscoreEscapingWithSuffixes"),
        promote: Vec::new(),
        promote_all: false,
        scope_labels: false,
        nhcb: false,
        target_info: true,
        target_info_every_ms: 150_000,
    };
    let mut f = Fake { series: BTreeMap::new(), traces: BTreeMap::new(), exemplars: BTreeSet::new(), plan: plan.clone() };
    let trace_of: BTreeMap<u64, [u8; 16]> =
        ticks(plan).iter().flat_map(|t| t.spans.iter().map(|s| (s.id, t.traces[s.trace])).collect::<Vec<_>>()).collect();
    for (_, _, traces, metrics) in requests(plan) {
        let got = translate(&metrics, &t).unwrap();
        assert_eq!((got.refused, got.reasons.len()), (0, 0));
        f.exemplars.extend(got.batch.exemplars.iter().map(|(_, e)| e.labels.get("trace_id").unwrap().to_owned()));
        for item in &got.batch.items {
            let strandline_storage::metrics::head::SeriesKey::Raw { start, len } = got.batch.series[item.series as usize] else { panic!() };
            let raw = &got.batch.raw[start as usize..(start + len) as usize];
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
            let labels: BTreeMap<_, _> = strandline_storage::index::RawLabels(raw).flatten().map(|(n, v)| (text(n), text(v))).collect();
            let s = f.series.entry(format!("{labels:?}")).or_default();
            let v = match &item.value {
                Value::Float(v) => Sample::Float(*v),
                Value::Delta(v) => match s.samples.last() {
                    Some((_, Sample::Float(sum))) => Sample::Float(sum + v),
                    _ => Sample::Float(*v),
                },
                Value::DeltaHistogram(_) => panic!("the load sends no such increases"),
                Value::Histogram(strandline_storage::metrics::head::AnyHistogram::Int(h)) => {
                    let mut n = 0;
                    let absolute = h.positive_buckets.iter().map(|d| {
                        n += d;
                        n as f64
                    });
                    Sample::Histogram(h.count as f64, h.sum, absolute.filter(|n| *n != 0.0).collect())
                }
                Value::Histogram(_) => panic!("no float histograms are sent"),
            };
            s.labels = labels;
            s.samples.push((item.t, v));
        }
        for s in spans(&traces).unwrap() {
            f.traces.entry(trace_of[&s.id]).or_default().push(s);
        }
    }
    f
}

impl Reader for Fake {
    fn samples(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<Vec<Series>, String> {
        let of = self.series.values().filter(|s| s.labels.get("instance").is_some_and(|i| i == instance));
        let cut = of.map(|s| Series {
            labels: s.labels.clone(),
            samples: s.samples.iter().filter(|(t, _)| from_ms < *t && *t <= to_ms).cloned().collect(),
        });
        Ok(cut.collect())
    }
    fn traces(&self, ids: &[[u8; 16]]) -> Result<Vec<Vec<ReadSpan>>, String> {
        Ok(ids.iter().map(|i| self.traces.get(i).cloned().unwrap_or_default()).collect())
    }
    fn count_spans(&self, instance: &str, _: i64, _: i64) -> Result<u64, String> {
        let word = format!(" of {instance},");
        Ok(self.traces.values().flatten().filter(|s| s.text.contains(&word)).count() as u64)
    }
    fn exemplars(&self, _: &str, _: i64, _: i64) -> Result<BTreeSet<String>, String> {
        Ok(self.exemplars.clone())
    }
}

fn ledger(plan: &Plan) -> Ledger {
    let mut l = Ledger::new(plan.clone());
    l.ticks = (0..TICKS).map(|n| (START + 1000 * (n as i64 + 1), 40)).collect();
    for tick in 0..TICKS {
        for cell in 0..plan.cells() {
            l.fates.insert((tick, cell, Signal::Traces), Fate::Acknowledged);
            l.fates.insert((tick, cell, Signal::Metrics), Fate::Acknowledged);
        }
    }
    l
}

fn wrong(f: &Fake) -> Vec<String> {
    verify::verify(&ledger(&f.plan), f, usize::MAX).unwrap().wrong
}

fn counter<'f>(f: &'f mut Fake, name: &str) -> &'f mut Series {
    f.series.values_mut().find(|s| s.labels["__name__"] == name && s.samples.len() > 3).unwrap()
}

#[test]
fn what_is_whole_is_found_whole() {
    let f = fake(&plan(1));
    let found = verify::verify(&ledger(&f.plan), &f, usize::MAX).unwrap();
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!(found.spans_counted, found.spans_compared);
    assert!(found.samples > 1000 && found.traces_compared == 40 * TICKS && found.exemplars > 0 && found.exemplars_missing == 0);
}

#[test]
fn faults_are_found() {
    let mut f = fake(&plan(1));
    let lost = f.traces.values_mut().next().unwrap().pop().unwrap();
    let said = wrong(&f);
    assert!(said.iter().any(|w| w.contains("is missing") && w.contains(&format!("{:016x}", lost.id))), "{said:?}");
    assert!(said.iter().any(|w| w.contains("were acknowledged")), "{said:?}");

    let mut f = fake(&plan(1));
    let trace = f.traces.values_mut().next().unwrap();
    trace.push(trace[0].clone());
    assert!(wrong(&f).iter().any(|w| w.contains("is there 2 times")));

    let mut f = fake(&plan(1));
    f.traces.values_mut().next().unwrap()[0].text.push('x');
    assert!(wrong(&f).iter().any(|w| w.contains("sent was")));

    let mut f = fake(&plan(1));
    let (t, _) = counter(&mut f, "http_server_request_duration_seconds_count").samples.remove(2);
    assert_eq!(wrong(&f).len(), 1);
    assert!(wrong(&f)[0].contains(&format!("has no sample at {t}")));

    let mut f = fake(&plan(1));
    let at = counter(&mut f, "gen_ai_client_tokens_total").samples.last_mut().unwrap();
    let Sample::Float(v) = at.1 else { panic!() };
    at.1 = Sample::Float(v * 2.0);
    assert_eq!(wrong(&f).len(), 1);

    let mut f = fake(&plan(1));
    counter(&mut f, "gen_ai_client_operation_duration_seconds").samples[0].1 = Sample::Histogram(1.0, 1.0, vec![1.0]);
    assert_eq!(wrong(&f).len(), 1);

    let mut f = fake(&plan(1));
    let extra = counter(&mut f, "app_errors_total");
    extra.samples.push((START + 1500, Sample::Float(1.0)));
    assert!(wrong(&f)[0].contains("never stored"));

    let mut f = fake(&plan(1));
    f.exemplars.clear();
    let found = verify::verify(&ledger(&f.plan), &f, usize::MAX).unwrap();
    assert!(found.wrong.is_empty() && found.exemplars_missing > 0);
}

#[test]
fn a_ledger_reads_back_and_says_where_it_is_damaged() {
    let mut l = ledger(&plan(7));
    l.fates.insert((1, 2, Signal::Metrics), Fate::Unknown);
    l.fates.insert((1, 2, Signal::Traces), Fate::Refused);
    assert_eq!(Ledger::parse(&l.print()).unwrap(), l);
    for (text, says) in [
        ("", "not a ledger"),
        ("strandline-load 1 x", "first line"),
        ("strandline-load 1 1 2 3\nt 1\n", "line 2"),
        ("strandline-load 1 1 2 3\nt 1 1\na 5 0 m\n", "line 3"),
    ] {
        assert!(Ledger::parse(text).unwrap_err().contains(says), "{text:?}");
    }
}

#[test]
fn what_was_never_answered_may_be_there_or_not() {
    let f = fake(&plan(1));
    let mut l = ledger(&f.plan);
    for cell in 0..f.plan.cells() {
        l.fates.insert((3, cell, Signal::Metrics), Fate::Unknown);
        l.fates.insert((3, cell, Signal::Traces), Fate::Unknown);
    }
    assert_eq!(verify::verify(&l, &f, usize::MAX).unwrap().wrong, Vec::<String>::new());
    // What was refused for good must not be there.
    l.fates.insert((3, 0, Signal::Traces), Fate::Refused);
    assert!(verify::verify(&l, &f, usize::MAX).unwrap().wrong_total > 0);
}
