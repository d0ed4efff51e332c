//! The short ways to a series' newest sample say what reading says: in the head, in a block, in both, after deletes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, TimeRange, stale_nan};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSelection, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

const T0: i64 = 1_700_006_400_000;
const STEP: i64 = 15_000;

fn store(clock: &ManualClock) -> MetricStore {
    store_on(Arc::new(SimFs::new()), clock)
}

fn store_on(fs: Arc<SimFs>, clock: &ManualClock) -> MetricStore {
    let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket").unwrap());
    let mut o = MetricOptions::new(fs, Arc::new(clock.clone()), "/data");
    o.bucket = Some(bucket);
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    MetricStore::open(o).unwrap()
}

/// 40 series; some end stale, some begin late, some pause.
fn fill(s: &MetricStore, clock: &ManualClock, steps: std::ops::Range<i64>) {
    for k in steps {
        clock.set(T0 + k * STEP);
        let mut b = BatchBuilder::default();
        for i in 0..40i64 {
            let l = Labels::from_pairs([("__name__", "m".to_owned()), ("i", format!("{i:02}")), ("kind", (i % 5).to_string())]);
            let v = match i % 5 {
                1 if k % 100 == 60 + i => stale_nan(),
                1 if k % 100 > 60 + i => continue,
                2 if k < 70 + i => continue,
                3 if (i..i + 30).contains(&(k % 90)) => continue,
                4 if k % 7 == 3 => stale_nan(),
                _ => (k * i) as f64,
            };
            let key = b.series(&l);
            b.push(key, T0 + k * STEP + i, 0, Value::Float(v));
        }
        s.append(&b.finish()).unwrap().commit.wait().unwrap();
    }
}

/// Looks at every series at many times, each twice: what was learnt by the first look must not mislead the second.
fn check(s: &MetricStore, steps: i64, at: &str) {
    let all = Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap();
    let (mut buf, mut scratch) = (SampleBuf::default(), SampleBuf::default());
    for k in (0..steps + 40).rev().step_by(11).chain((0..steps + 40).step_by(7)) {
        let end = T0 + k * STEP + 9;
        let range = TimeRange::new(end - 299_999, end);
        let sel = s.select(&SelectRequest::new(vec![all.clone()], range)).unwrap();
        for i in 0..sel.len() {
            sel.read(i, range, &mut buf).unwrap();
            let want = buf.last();
            let newest = sel.newest(i, range, &mut scratch).unwrap();
            let show = |n: &Option<strandline_storage::read::Newest>| n.as_ref().map(|n| (n.t, n.v.to_bits()));
            assert_eq!(show(&newest), show(&want), "{at}: {} at step {k}", sel.labels(i));
            let live = sel.is_live(i, range, &mut scratch).unwrap();
            assert_eq!(live, want.is_some_and(|n| !n.is_stale()), "{at}: {} at step {k}", sel.labels(i));
        }
    }
}

#[test]
fn short_ways_agree_with_reading() {
    let clock = ManualClock::new(T0);
    let s = store(&clock);
    fill(&s, &clock, 0..130);
    check(&s, 130, "head");
    s.flush().unwrap();
    check(&s, 130, "block");
    fill(&s, &clock, 130..190);
    check(&s, 190, "both");
    s.flush().unwrap();
    check(&s, 190, "two blocks");
    s.delete(TimeRange::new(T0 + 100 * STEP, T0 + 120 * STEP), vec![Matcher::equal("kind", "0")]).unwrap();
    check(&s, 190, "deleted");
}

/// A start knows nothing of what the blocks hold, so that a sample can come again with another value.
#[test]
fn the_last_time_of_a_block_may_come_again() {
    for values in [[1.0, 2.0], [2.0, 1.0], [stale_nan(), 1.0], [1.0, stale_nan()]] {
        let clock = ManualClock::new(T0);
        let fs = Arc::new(SimFs::new());
        for v in values {
            let s = store_on(fs.clone(), &clock);
            let mut b = BatchBuilder::default();
            let key = b.series(&Labels::from_pairs([("__name__", "m")]));
            b.push(key, T0, 0, Value::Float(v));
            s.append(&b.finish()).unwrap().commit.wait().unwrap();
            check(&s, 1, "open");
            s.flush().unwrap();
            check(&s, 1, "flushed");
            s.close().unwrap();
        }
        let sel = store_on(fs, &clock).select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all())).unwrap();
        assert!(sel.is_live(0, TimeRange::all(), &mut SampleBuf::default()).unwrap(), "{values:?}");
    }
}

#[test]
fn a_flush_knows_how_its_series_end() {
    for uploaded in [false, true] {
        let clock = ManualClock::new(T0);
        let fs = Arc::new(SimFs::new());
        let s = store_on(fs.clone(), &clock);
        fill(&s, &clock, 0..130);
        let range = TimeRange::new(T0 + 130 * STEP - 299_999, T0 + 130 * STEP);
        let select = || s.select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], range)).unwrap();
        let mut scratch = SampleBuf::default();
        let mut live =
            |sel: &dyn SeriesSelection| -> Vec<bool> { (0..sel.len()).map(|i| sel.is_live(i, range, &mut scratch).unwrap()).collect() };
        let before = live(&*select());
        assert_eq!((before.len(), before.iter().filter(|l| **l).count()), (40, 30));
        s.flush().unwrap();
        let blocks = Path::new(if uploaded { "/data/bucket/metrics/anonymous" } else { "/data/metrics/blocks" });
        if uploaded {
            s.maintain().unwrap();
        }
        // No chunk can be read any more: nothing is left but what the flush knew.
        let all = fs.read_dir(blocks).unwrap();
        for chunks in all.iter().map(|b| blocks.join(b.name()).join("chunks/000001")).filter(|c| fs.exists(c)) {
            fs.write_atomic(&chunks, &[0; 100_000]).unwrap();
        }
        assert_eq!(live(&*select()), before, "uploaded: {uploaded}");
        assert!(select().read(0, range, &mut SampleBuf::default()).is_err(), "uploaded: {uploaded}");
    }
}

#[test]
fn symbols_stand_for_strings() {
    let clock = ManualClock::new(T0);
    let s = store(&clock);
    fill(&s, &clock, 0..130);
    for at in ["head", "block"] {
        let all = Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap();
        let sel = s.select(&SelectRequest::new(vec![all], TimeRange::all())).unwrap();
        let mut known = std::collections::BTreeMap::new();
        let mut back = std::collections::BTreeMap::new();
        for i in 0..sel.len() {
            let (mut strings, mut numbers) = (Vec::new(), Vec::new());
            sel.visit_labels(i, &mut |n, v| strings.extend([n.to_owned(), v.to_owned()]));
            assert!(sel.visit_symbols(i, &mut |n, v| numbers.extend([n, v])), "{at}");
            assert_eq!(strings.len(), numbers.len());
            for (s, n) in strings.into_iter().zip(numbers) {
                assert_eq!(*known.entry(n).or_insert_with(|| s.clone()), s, "{at}");
                assert_eq!(*back.entry(s).or_insert(n), n, "{at}");
            }
        }
        assert!(!known.is_empty());
        s.flush().unwrap();
    }
}
