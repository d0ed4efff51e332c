//! When the metric store flushes and merges, and what that costs when senders are late.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, FsCall, SimFs};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const T0: i64 = 1_700_000_000_000 / (2 * HOUR) * (2 * HOUR);

fn open(clock: &ManualClock, change: impl FnOnce(&mut MetricOptions)) -> MetricStore {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let mut o = MetricOptions::new(fs, Arc::new(clock.clone()), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    change(&mut o);
    MetricStore::open(o).unwrap()
}

fn append(s: &MetricStore, name: &str, series: u32, t: i64) {
    let mut b = BatchBuilder::default();
    for i in 0..series {
        let k = b.series(&Labels::from_pairs([("__name__", name.to_owned()), ("i", i.to_string())]));
        b.push(k, t, 0, Value::Float(t as f64));
    }
    let a = s.append(&b.finish()).unwrap();
    assert!(a.rejected.is_empty());
    a.commit.wait().unwrap();
}

fn samples(s: &MetricStore, name: &str) -> usize {
    let sel = s.select(&SelectRequest::new(vec![Matcher::new(MatchOp::Equal, "__name__", name).unwrap()], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    (0..sel.len())
        .map(|i| {
            buf.clear();
            sel.read(i, TimeRange::all(), &mut buf).unwrap();
            buf.len()
        })
        .sum()
}

#[test]
fn a_sender_that_catches_up_causes_no_flush_a_turn() {
    // Everybody is flushed up to date when a sender comes back that was away for five hours.
    let clock = ManualClock::new(T0 + 13 * MINUTE);
    let s = open(&clock, |_| {});
    append(&s, "live", 10, T0 - MINUTE);
    append(&s, "live", 10, T0 + MINUTE);
    s.maintain().unwrap();
    let before = s.blocks().len();

    let (mut late, mut late_samples, mut live_samples) = (T0 - 5 * HOUR, 0, 20);
    for second in 1..=600i64 {
        clock.set(T0 + 13 * MINUTE + second * 1000);
        append(&s, "live", 10, T0 + 13 * MINUTE + second * 1000);
        live_samples += 10;
        for _ in 0..3 {
            append(&s, "late", 10, late);
            late += 10_000;
            late_samples += 10;
        }
        s.maintain().unwrap();
    }
    assert!(s.blocks().len() <= before, "{} blocks, {before} before", s.blocks().len());
    assert_eq!((samples(&s, "live"), samples(&s, "late")), (live_samples, late_samples));

    // The next turn takes all of it, one block a range.
    clock.set(T0 + 2 * HOUR + 13 * MINUTE);
    append(&s, "live", 10, T0 + 2 * HOUR + 12 * MINUTE);
    s.maintain().unwrap();
    assert!(s.blocks().len() - before <= 6, "{} blocks", s.blocks().len());
    assert_eq!((samples(&s, "live"), samples(&s, "late")), (live_samples + 10, late_samples));

    // And they are merged once nothing has come for a while.
    s.maintain().unwrap();
    let waiting = s.blocks().len();
    clock.set(T0 + 3 * HOUR);
    for _ in 0..10 {
        s.maintain().unwrap();
    }
    assert!(s.blocks().len() < waiting, "{} of {waiting} blocks", s.blocks().len());
    assert_eq!((samples(&s, "live"), samples(&s, "late")), (live_samples + 10, late_samples));
}

#[test]
fn many_small_flushes_of_a_range_write_each_sample_once_a_level() {
    let clock = ManualClock::new(T0 + MINUTE);
    let s = open(&clock, |_| {});
    for i in 0..64 {
        append(&s, "m", 10, T0 + i * 1000);
        s.flush().unwrap();
        s.maintain().unwrap();
    }
    for _ in 0..64 {
        s.maintain().unwrap();
    }
    let levels: Vec<u32> = s.blocks().iter().map(|b| b.meta.compaction.level).collect();
    // 64 blocks are joined by four: three levels of merges.
    assert_eq!(levels, [4]);
    assert_eq!(samples(&s, "m"), 640);
}

#[test]
fn what_a_flush_for_memory_left_is_not_flushed_again() {
    let clock = ManualClock::new(T0 + MINUTE);
    // Records of series alone are more than allowed, and stay as long as the series are not idle.
    let s = open(&clock, |o| o.head_max_bytes = 100_000);
    append(&s, "m", 1000, T0);
    assert_eq!(s.flushable_bytes(), s.heap_bytes_estimate(), "nothing was flushed yet");
    s.maintain().unwrap();
    assert_eq!((s.blocks().len(), s.flushable_bytes()), (1, 0));
    append(&s, "other", 50, T0);
    let came = s.flushable_bytes();
    assert!(came > 0 && came < s.heap_bytes_estimate() / 4, "{came}");
    for i in 1..20 {
        append(&s, "m", 10, T0 + i * 1000);
        s.maintain().unwrap();
    }
    assert_eq!(s.blocks().len(), 1);
    assert_eq!(samples(&s, "m"), 1190);

    // Series end: what is held sinks below what the flush left, and what comes then counts from there.
    s.flush().unwrap();
    clock.advance(2 * HOUR);
    s.maintain().unwrap();
    let held = s.heap_bytes_estimate();
    assert!(held < 100_000 && s.flushable_bytes() == 0, "{held}");
    append(&s, "m", 100, T0 + 2 * HOUR);
    assert_eq!(s.flushable_bytes(), s.heap_bytes_estimate() - held);
}

#[test]
fn what_comes_during_a_flush_counts_for_the_next() {
    let clock = ManualClock::new(T0 + MINUTE);
    let disk = SimFs::new();
    let s = open(&clock, |o| o.fs = Arc::new(disk.clone()));
    append(&s, "m", 1000, T0);
    let (store, once) = (s.clone(), AtomicBool::new(true));
    disk.watch(move |call| {
        if matches!(call, FsCall::Create(p) if p.ends_with("index")) && once.swap(false, Ordering::Relaxed) {
            append(&store, "m", 1000, T0 + 1000);
        }
        Ok(())
    });
    s.flush().unwrap();
    assert_eq!(s.blocks().len(), 1);
    let came = s.flushable_bytes();
    assert!(came >= 1000 * 160, "{came}");
    s.flush().unwrap();
    assert_eq!((s.flushable_bytes(), samples(&s, "m")), (0, 2000));
}

#[test]
fn a_late_sample_brings_along_its_own_strings_alone() {
    let clock = ManualClock::new(T0 + MINUTE);
    let s = open(&clock, |_| {});
    append(&s, "live", 2000, T0);
    append(&s, "late", 1, T0 - 5 * HOUR);
    s.flush().unwrap();
    let sizes: Vec<u64> = s.blocks().iter().map(|b| b.meta.size_bytes()).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes[0] < 1000 && sizes[1] > 20_000, "{sizes:?}");
}
