//! A day of series that live for an hour each: memory, live series, files and manifests come back to what they were.
//! `CHURN=100000` has so many new ones an hour.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::Labels;
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

const HOUR: i64 = 3_600_000;
const TURN: i64 = HOUR / 6;
const T0: i64 = 1_700_000_000_000 / (2 * HOUR) * (2 * HOUR);

/// What a store holds.
#[derive(Debug)]
struct Holds {
    series: usize,
    heap_bytes: usize,
    files: usize,
    manifest_bytes: usize,
    log_bytes: u64,
}

fn holds(s: &MetricStore, fs: &SimFs) -> Holds {
    Holds {
        series: s.stats().head.series,
        heap_bytes: s.memory().heap_bytes(),
        files: fs.files().len(),
        manifest_bytes: fs.read(Path::new("/data/metrics/manifest.json")).map_or(0, |b| b.len()),
        log_bytes: s.stats().wal_bytes,
    }
}

#[test]
fn a_day_of_churn_leaves_nothing_behind() {
    let churn: usize = std::env::var("CHURN").map_or(300, |n| n.parse().unwrap());
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
    let disk: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut o = MetricOptions::new(disk.clone(), Arc::new(clock.clone()), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    o.bucket = Some(Arc::new(LocalBucket::open(disk, "/data/bucket").unwrap()));
    o.retention_ms = 12 * HOUR;
    let s = MetricStore::open(o).unwrap();
    let mut by_day = Vec::new();
    for hour in 0..48 {
        for turn in 0..HOUR / TURN {
            let mut b = BatchBuilder::default();
            for i in 0..churn {
                let k = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("pod", format!("pod-{hour}-{i}"))]));
                b.push(k, T0 + hour * HOUR + turn * TURN, 0, Value::Float((i as i64 * turn) as f64));
            }
            let a = s.append(&b.finish()).unwrap();
            assert!(a.rejected.is_empty());
            a.commit.wait().unwrap();
            clock.advance(TURN);
            s.maintain().unwrap();
        }
        if hour % 24 == 23 {
            by_day.push(holds(&s, &fs));
        }
    }
    let [first, second] = &by_day[..] else { panic!() };
    // A flush comes every other hour, and who was idle for a quarter of one by then goes.
    assert!(second.series <= 3 * churn, "{second:?}");
    assert!(second.heap_bytes <= first.heap_bytes * 11 / 10, "{first:?} {second:?}");
    assert!(second.files <= first.files + 4, "{first:?} {second:?}");
    assert!(second.manifest_bytes <= first.manifest_bytes * 2, "{first:?} {second:?}");
    assert!(second.log_bytes <= first.log_bytes * 2, "{first:?} {second:?}");
}
