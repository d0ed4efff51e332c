//! One bit flipped in any file of a data folder: the engine opens, what it answers is what was written, and what it can't
//! answer it says. `FLIPS=200` tries more places in each file.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "traces")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::MetricOptions;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::model::{Labels, Matcher, Span, SpanId, TimeRange, TraceId};
use strandline_storage::read::{SampleBuf, ScanRequest, SelectRequest, SeriesSource, SpanSource};
use strandline_storage::traces::TraceStoreOptions;
use strandline_storage::{Engine, EngineOptions, Result};
use strandline_testkit::Random;
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

const T0: i64 = 1_700_006_400_000;
const HOUR: i64 = 3_600_000;
const SERIES: usize = 6;

/// Metric blocks stay local (no bucket for them), or go to a bucket that is a folder.
fn open(sim: &SimFs, clock: &ManualClock, with_bucket: bool) -> Result<Engine> {
    let fs: Arc<dyn Fs> = Arc::new(sim.clone());
    let clock = Arc::new(clock.clone());
    let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket")?);
    let wal = WalOptions { background: false, segment_size_bytes: 2048, ..WalOptions::default() };
    let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), "/data");
    metrics.bucket = with_bucket.then(|| bucket.clone());
    metrics.wal = wal.clone();
    metrics.spill_bytes = 500;
    let mut traces = TraceStoreOptions::new(fs, clock, "/data", bucket);
    traces.wal = wal;
    Engine::open(EngineOptions { metrics, traces, background: false })
}

fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("i", series.to_string())])
}

fn value(series: usize, t: i64) -> f64 {
    ((t / 1000) % 977 * 7 + series as i64) as f64
}

fn span(n: u8, t: i64) -> Span {
    Span {
        trace_id: TraceId([n; 16]),
        span_id: SpanId([n; 8]),
        start_unix_nano: t as u64 * 1_000_000,
        end_unix_nano: (t as u64 + 5) * 1_000_000,
        name: format!("op {n}"),
        attributes: vec![("n".into(), i64::from(n).into())],
        ..Span::default()
    }
}

#[derive(Default)]
struct Written {
    samples: BTreeMap<(usize, i64), f64>,
    deleted: BTreeSet<(usize, i64)>,
    spans: BTreeMap<u8, Span>,
}

/// Six hours, flushed four times, with a delete; the last hours are in the logs alone.
fn fill(sim: &SimFs, clock: &ManualClock, with_bucket: bool) -> Written {
    let mut w = Written::default();
    let e = open(sim, clock, with_bucket).unwrap();
    for step in 0..60u8 {
        let t = T0 + i64::from(step) * HOUR / 10;
        clock.set(t);
        let mut b = BatchBuilder::default();
        for series in 0..SERIES {
            let s = b.series(&labels(series));
            for k in 0..5 {
                let t = t - 60_000 + k * 10_000;
                b.push(s, t, 0, Value::Float(value(series, t)));
                w.samples.insert((series, t), value(series, t));
            }
        }
        e.metrics().append(&b.finish()).unwrap().commit.wait().unwrap();
        let s = span(step + 1, t);
        e.traces().append(std::slice::from_ref(&s)).unwrap().ticket.wait().unwrap();
        w.spans.insert(step + 1, s);
        if step % 12 == 11 && step < 48 {
            e.flush().unwrap();
        }
    }
    let range = TimeRange::new(T0, T0 + HOUR);
    e.metrics().delete(range, vec![Matcher::equal("i", "3")]).unwrap();
    let gone: Vec<_> = w.samples.keys().filter(|(s, t)| *s == 3 && range.contains(*t)).copied().collect();
    for k in gone {
        w.samples.remove(&k);
        w.deleted.insert(k);
    }
    e.close().unwrap();
    w
}

/// What an engine answers, and what it says that it can't.
#[derive(Default)]
struct Answers {
    samples: BTreeMap<(usize, i64), f64>,
    spans: BTreeMap<u8, Span>,
    said: Vec<String>,
}

fn ask(e: &Engine) -> Answers {
    let mut a = Answers::default();
    for r in [e.metrics().recovery(), e.traces().recovery()] {
        a.said.extend(r.damage.iter().map(|d| format!("log: {} at {}", d.path.display(), d.offset)));
        // Of the last frame nobody knows whether it was acknowledged.
        a.said.extend((r.torn_bytes > 0).then(|| format!("log: {} bytes cut", r.torn_bytes)));
    }
    let mut request = SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all());
    request.partial = true;
    match e.metrics().select(&request) {
        Ok(sel) => {
            a.said.extend(sel.warnings());
            for i in 0..sel.len() {
                let mut series = None;
                sel.visit_labels(i, &mut |n, v| {
                    if n == "i" {
                        series = Some(v.parse::<usize>().unwrap());
                    }
                });
                // One chunk that can't be read fails its series; hours are asked for one by one.
                for hour in -1..7 {
                    let range = TimeRange::new(T0 + hour * HOUR, T0 + (hour + 1) * HOUR - 1);
                    let mut buf = SampleBuf::default();
                    match sel.read(i, range, &mut buf) {
                        Ok(_) => (0..buf.len()).for_each(|k| {
                            a.samples.insert((series.unwrap(), buf.t[k]), buf.v[k]);
                        }),
                        Err(e) => a.said.push(e.to_string()),
                    }
                }
            }
        }
        Err(e) => a.said.push(e.to_string()),
    }
    let e_traces = e.traces();
    for n in 1..=60u8 {
        match e.traces().trace(TraceId([n; 16])) {
            Ok(t) => a.spans.extend(t.into_iter().flat_map(|t| t.spans).map(|s| (n, s))),
            Err(e) => {
                a.said.push(e.to_string());
                let (t, warnings) = e_traces.trace_partial(TraceId([n; 16])).unwrap();
                a.spans.extend(t.into_iter().flat_map(|t| t.spans).map(|s| (n, s)));
                assert!(!warnings.is_empty(), "{:?}", a.said);
            }
        }
    }
    let mut request = ScanRequest::new(0, u64::MAX);
    request.partial = true;
    match e.traces().scan(&request, &mut |_| Ok(strandline_storage::read::Visit::Continue(0))) {
        Ok(stats) => a.said.extend(stats.warnings),
        Err(e) => a.said.push(e.to_string()),
    }
    a
}

/// What a flipped bit of a file may cost at most.
fn check(path: &Path, w: &Written, opened: Result<Engine>, what: &str) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let e = match opened {
        Ok(e) => e,
        Err(e) if name == "VERSION" => {
            assert!(e.to_string().contains("VERSION") || e.to_string().contains("version"), "{what}: {e}");
            return;
        }
        Err(e) => panic!("{what}: the engine does not open: {e}"),
    };
    let a = ask(&e);
    for (k, v) in &a.samples {
        assert!(!w.deleted.contains(k), "{what}: {k:?} was deleted");
        assert_eq!(w.samples.get(k).map(|v| v.to_bits()), Some(v.to_bits()), "{what}: {k:?}");
    }
    for (n, s) in &a.spans {
        assert_eq!(w.spans.get(n), Some(s), "{what}: span {n}");
    }
    let (samples, spans) = (w.samples.len() - a.samples.len(), w.spans.len() - a.spans.len());
    assert!(samples + spans == 0 || !a.said.is_empty(), "{what}: {samples} samples and {spans} spans are missing and nothing is said");
    let in_traces = path.components().any(|c| c.as_os_str() == "traces");
    assert!(if in_traces { samples == 0 } else { spans == 0 }, "{what}: {samples} samples, {spans} spans: {:?}", a.said);
    // A description, a manifest, a delete, a writer's name: made up for by what else there is.
    if name.ends_with(".json") {
        assert_eq!((samples, spans), (0, 0), "{what}: {:?}", a.said);
    }
    // A block or a segment of a log: the others are served.
    assert!(samples <= w.samples.len() / 3 && spans <= w.spans.len() / 3, "{what}: {samples} samples, {spans} spans: {:?}", a.said);
    e.maintain().unwrap_or_else(|e| assert!(!e.to_string().is_empty()));
}

fn flip_everywhere(with_bucket: bool) {
    let flips = std::env::var("FLIPS").map_or(6, |f| f.parse().unwrap());
    let (sim, clock) = (SimFs::new(), ManualClock::new(T0));
    let w = fill(&sim, &clock, with_bucket);
    let mut random = Random::new(77);
    let files: Vec<(PathBuf, u64)> =
        sim.files().into_iter().filter(|(p, n)| *n > 0 && p.file_name().is_some_and(|n| n != "LOCK")).collect();
    check(Path::new("/data/none"), &w, open(&sim.copy(), &clock, with_bucket), "untouched");
    for (path, len) in &files {
        for i in 0..flips {
            let at = match i {
                0 => 0,
                1 => len - 1,
                _ => random.below(*len),
            };
            let bit = random.below(8) as u8;
            let disk = sim.copy();
            disk.flip_bit(path, at, bit);
            check(path, &w, open(&disk, &clock, with_bucket), &format!("{} byte {at} of {len} bit {bit}", path.display()));
        }
    }
}

#[test]
fn a_bit_flipped_in_any_local_file_is_never_another_answer() {
    flip_everywhere(false);
}

#[test]
fn a_bit_flipped_in_any_file_with_the_bucket_is_never_another_answer() {
    flip_everywhere(true);
}
