//! Damage in what is cached of a bucket, in memory or on disk, is not damage of the bucket: it is read from there again.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "traces")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use strandline_storage::bucket::{Bucket, BucketCall, LocalBucket, SimBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::MetricOptions;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::model::{Labels, Matcher, Span, SpanId, TimeRange, TraceId};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_storage::traces::TraceStoreOptions;
use strandline_storage::{Engine, EngineOptions, ErrorKind, Result};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

const T0: i64 = 1_700_006_400_000;
const SERIES: usize = 40;
const SAMPLES: i64 = 400;

struct World {
    fs: SimFs,
    clock: ManualClock,
    bucket: SimBucket,
    /// While it does, a bit of each range is another on its way.
    spoils: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
}

impl World {
    /// A bucket with a block of metrics and one of spans.
    fn new() -> World {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 7_200_000));
        let inner = LocalBucket::open(Arc::new(fs.clone()), "/bucket").unwrap();
        let (spoils, reads) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (count, spoiling) = (reads.clone(), spoils.clone());
        let bucket = SimBucket::over(inner)
            .before(move |call| {
                if let BucketCall::Ranges(..) = call {
                    count.fetch_add(call.requests(), Ordering::SeqCst);
                }
                Ok(())
            })
            .on_the_way(move |bytes| {
                let mut bytes = bytes.to_vec();
                if spoiling.load(Ordering::SeqCst) {
                    bytes.iter_mut().step_by(97).for_each(|b| *b ^= 4);
                }
                bytes.into()
            });
        let w = World { fs, clock, bucket, spoils, reads };
        let writer = w.open("/writer");
        let mut b = BatchBuilder::default();
        for i in 0..SERIES {
            let s = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]));
            (0..SAMPLES).for_each(|j| b.push(s, T0 + j * 15_000, 0, Value::Float((j * j) as f64 + i as f64)));
        }
        writer.metrics().append(&b.finish()).unwrap().commit.wait().unwrap();
        let spans: Vec<Span> = (0..200u8).map(span).collect();
        writer.traces().append(&spans).unwrap().ticket.wait().unwrap();
        writer.flush().unwrap();
        writer.metrics().upload().unwrap();
        writer.close().unwrap();
        w
    }

    fn open(&self, dir: &str) -> Engine {
        let (fs, clock): (Arc<dyn Fs>, _) = (Arc::new(self.fs.clone()), Arc::new(self.clock.clone()));
        let wal = WalOptions { background: false, ..WalOptions::default() };
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), dir);
        let bucket: Arc<dyn Bucket> = Arc::new(self.bucket.clone());
        (metrics.bucket, metrics.wal) = (Some(bucket.clone()), wal.clone());
        let mut traces = TraceStoreOptions::new(fs, clock, dir, bucket);
        traces.wal = wal;
        Engine::open(EngineOptions { metrics, traces, background: false }).unwrap()
    }

    fn reads(&self) -> u64 {
        self.reads.swap(0, Ordering::SeqCst)
    }

    fn files(&self, prefix: &str, suffix: &str) -> Vec<(std::path::PathBuf, u64)> {
        self.fs.files().into_iter().filter(|(p, _)| p.starts_with(prefix) && p.to_string_lossy().ends_with(suffix)).collect()
    }
}

fn span(n: u8) -> Span {
    Span {
        trace_id: TraceId([n; 16]),
        span_id: SpanId([7; 8]),
        start_unix_nano: T0 as u64 * 1_000_000 + u64::from(n),
        end_unix_nano: T0 as u64 * 1_000_000 + 500,
        name: format!("op {n}"),
        ..Span::default()
    }
}

fn samples(e: &Engine) -> Result<()> {
    let sel = e.metrics().select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all()))?;
    sel.prefetch(0, sel.len());
    assert_eq!(sel.len(), SERIES);
    for k in 0..sel.len() {
        let (mut i, mut buf) = (0.0, SampleBuf::default());
        sel.visit_labels(k, &mut |n, v| {
            if n == "i" {
                i = v.parse().unwrap();
            }
        });
        sel.read(k, TimeRange::all(), &mut buf)?;
        let right: Vec<f64> = (0..SAMPLES).map(|j| (j * j) as f64 + i).collect();
        assert_eq!(buf.v, right);
    }
    Ok(())
}

fn trace(e: &Engine) -> Result<()> {
    let found = e.traces().trace(TraceId([41; 16]))?.unwrap();
    assert_eq!(found.spans[0].name, "op 41");
    Ok(())
}

#[test]
fn what_came_damaged_from_the_bucket_is_read_from_there_again() {
    let w = World::new();
    let e = w.open("/reader");
    w.spoils.store(true, Ordering::SeqCst);
    for failed in [samples(&e), trace(&e)] {
        assert_eq!(failed.unwrap_err().kind, ErrorKind::Corrupt);
    }
    w.spoils.store(false, Ordering::SeqCst);
    samples(&e).unwrap();
    trace(&e).unwrap();
    w.reads();
    samples(&e).unwrap();
    trace(&e).unwrap();
    assert_eq!(w.reads(), 0, "sound pages have taken the place of the damaged ones, in memory");
    e.close().unwrap();
    drop(e);
    let e = w.open("/reader");
    samples(&e).unwrap();
    trace(&e).unwrap();
    assert_eq!(w.reads(), 0, "and on the disk");
}

#[test]
fn a_bit_flipped_in_the_cache_on_disk_changes_no_answer() {
    let w = World::new();
    let e = w.open("/reader");
    samples(&e).unwrap();
    trace(&e).unwrap();
    e.close().unwrap();
    drop(e);
    let (path, len) = w.files("/reader", ".pages").pop().unwrap();
    for k in 0..40 {
        w.fs.flip_bit(&path, len * k / 40 + k % 7, (k % 8) as u8);
        let e = w.open("/reader");
        samples(&e).unwrap();
        trace(&e).unwrap();
        e.close().unwrap();
    }
}

#[test]
fn damage_in_the_bucket_is_told_and_fills_no_cache() {
    let w = World::new();
    for (path, len) in [w.files("/bucket", "chunks/000001"), w.files("/bucket", ".parquet")].concat() {
        (0..len).step_by(97).for_each(|at| w.fs.flip_bit(&path, at, 2));
    }
    let e = w.open("/reader");
    let mut cached = Vec::new();
    for _ in 0..100 {
        for failed in [samples(&e), trace(&e)] {
            assert_eq!(failed.unwrap_err().kind, ErrorKind::Corrupt);
        }
        cached.push((e.metrics().cache().size_bytes(), e.metrics().cache().disk_bytes()));
    }
    cached.dedup();
    assert_eq!(cached.len(), 1, "{cached:?}");
    e.close().unwrap();
    drop(e);
    let bytes = |prefix: &str, suffix: &str| w.files(prefix, suffix).iter().map(|f| f.1).sum::<u64>();
    let (kept, all) = (bytes("/reader", ".pages"), bytes("/bucket", ""));
    assert!(kept < 2 * all, "{kept} bytes on disk of a hundred failed reads of {all}");
}
