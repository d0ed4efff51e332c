//! Increases that come later than their series' last: counted once, whatever order and however often they are sent.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use strandline_storage::Result;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Refusal, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{BucketSpan, Histogram, Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, FaultKind, SimFs};

const T0: i64 = 1_700_006_400_000;

struct World {
    fs: SimFs,
}

impl World {
    fn options(&self) -> MetricOptions {
        let mut o = MetricOptions::new(Arc::new(self.fs.clone()), Arc::new(ManualClock::new(T0)), "/data");
        o.wal = WalOptions { background: false, ..WalOptions::default() };
        o
    }

    fn open(&self) -> MetricStore {
        MetricStore::open(self.options()).unwrap()
    }

    fn crash(&self, s: MetricStore, style: CrashStyle) -> MetricStore {
        drop(s);
        self.fs.restart(style, 1);
        self.open()
    }
}

/// Sends an increase that ends at so many seconds; why it was refused.
fn send(s: &MetricStore, second: i64, v: Value) -> Result<Option<Refusal>> {
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", "sum")]));
    b.push(k, T0 + second * 1000, 0, v);
    let a = s.append(&b.finish())?;
    let refused = a.rejected.first().map(|r| r.why);
    a.commit.wait()?;
    Ok(refused)
}

fn add(s: &MetricStore, second: i64, v: f64) {
    assert_eq!(send(s, second, Value::Delta(v)).unwrap(), None, "the increase of second {second}");
}

fn read(s: &MetricStore) -> SampleBuf {
    let name = Matcher::new(MatchOp::Equal, "__name__", "sum").unwrap();
    let found = s.select(&SelectRequest::new(vec![name], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    found.read(0, TimeRange::all(), &mut buf).unwrap();
    buf
}

/// (second, value)
fn samples(s: &MetricStore) -> Vec<(i64, f64)> {
    let buf = read(s);
    buf.t.iter().map(|t| (t - T0) / 1000).zip(buf.v.iter().copied()).collect()
}

#[test]
fn what_was_kept_waiting_is_added_and_counted_once() {
    let w = World { fs: SimFs::new() };
    let mut s = w.open();
    for second in [1, 2, 5, 6, 9] {
        add(&s, second, 1.0);
    }
    for round in 0..3 {
        for second in [7, 3, 4, 8, 3, 9, 5] {
            add(&s, second, 1.0);
        }
        if round == 1 {
            s = w.crash(s, CrashStyle::LoseUnsynced);
        }
    }
    // Each stands where it was sent for, with the sum of then; the next new one shows what they add.
    let before = [(1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0), (5, 3.0), (6, 4.0), (7, 4.0), (8, 4.0), (9, 5.0)];
    assert_eq!(samples(&s), before);
    add(&s, 10, 1.0);
    let s = w.crash(s, CrashStyle::LoseUnsynced);
    assert_eq!(samples(&s), [&before[..], &[(10, 10.0)]].concat());
    // What a flush took is not looked through: it counts as sent again.
    s.flush().unwrap();
    add(&s, 4, 1.0);
    add(&s, 11, 1.0);
    assert_eq!(samples(&s).last(), Some(&(11, 11.0)));
}

/// Chunks end after some samples, and their samples are on the heap until they are moved into a file.
#[test]
fn what_was_kept_waiting_over_the_end_of_a_chunk_is_added_and_counted_once() {
    for late in [90, 118, 119, 120, 121, 122, 239, 240, 241, 260] {
        let w = World { fs: SimFs::new() };
        let mut s = w.open();
        (0..300).filter(|second| *second != late).for_each(|second| add(&s, second, 1.0));
        for _ in 0..3 {
            add(&s, late, 1.0);
            s = w.crash(s, CrashStyle::LoseUnsynced);
        }
        // The first of all has none before it.
        add(&s, -1, 1.0);
        add(&s, 300, 1.0);
        let got = samples(&s);
        assert!(got.is_sorted_by(|a, b| a.1 <= b.1), "{late}: {got:?}");
        assert_eq!((got.len(), got.last()), (301, Some(&(300, 301.0))), "{late}");
    }
}

#[test]
fn what_overtakes_in_flight_is_added_too() {
    let w = World { fs: SimFs::new() };
    let s = w.open();
    add(&s, 1, 1.0);
    let begin = |second: i64| {
        let mut b = BatchBuilder::default();
        let k = b.series(&Labels::from_pairs([("__name__", "sum")]));
        b.push(k, T0 + second * 1000, 0, Value::Delta(1.0));
        let a = s.append(&b.finish()).unwrap();
        assert_eq!(a.rejected.len(), 0);
        a.commit
    };
    let commits = [begin(3), begin(2), begin(2), begin(3), begin(5), begin(4)];
    commits.into_iter().for_each(|c| c.wait().unwrap());
    add(&s, 6, 1.0);
    assert_eq!(samples(&s), [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 4.0), (6, 6.0)]);
    let s = w.crash(s, CrashStyle::KeepAll);
    assert_eq!(samples(&s), [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 4.0), (6, 6.0)]);
}

#[test]
fn late_histograms_are_refused_in_words_and_retries_are_not() {
    let w = World { fs: SimFs::new() };
    let s = w.open();
    let one = || {
        let spans = vec![BucketSpan { offset: 1, length: 1 }];
        let h = Histogram { count: 1, sum: 1.0, positive_spans: spans, positive_buckets: vec![1], ..Histogram::default() };
        Value::DeltaHistogram(Arc::new(h))
    };
    for second in [1, 2, 4] {
        assert_eq!(send(&s, second, one()).unwrap(), None);
    }
    assert_eq!(send(&s, 2, one()).unwrap(), None);
    assert_eq!(send(&s, 4, one()).unwrap(), None);
    assert_eq!(send(&s, 3, one()).unwrap(), Some(Refusal::OutOfOrder));
}

#[test]
fn a_sum_has_not_the_start_of_its_last_increase() {
    for xor2 in [false, true] {
        let w = World { fs: SimFs::new() };
        let open = || {
            let mut o = w.options();
            (o.rules.xor2, o.rules.start_timestamps) = (xor2, xor2);
            MetricStore::open(o).unwrap()
        };
        let s = open();
        for second in [1, 2, 5, 4] {
            let mut b = BatchBuilder::default();
            let k = b.series(&Labels::from_pairs([("__name__", "sum")]));
            b.push(k, T0 + second * 1000, T0 + (second - 1) * 1000, Value::Delta(1.0));
            s.append(&b.finish()).unwrap().commit.wait().unwrap();
        }
        let starts = |s: &MetricStore| read(s).st.iter().filter(|st| **st != 0).count();
        assert_eq!(starts(&s), 0);
        drop(s);
        assert_eq!(starts(&open()), 0, "after a replay");
    }
}

/// Increases of one in small disorder, some sent again, commits that fail, crashes: none is lost, none counts twice, and the
/// sum never falls.
#[test]
fn any_order_over_faults_gives_the_same_sum() {
    for seed in 0..60u64 {
        let mut state = seed;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let w = World { fs: SimFs::new() };
        let mut s = w.open();
        add(&s, 0, 1.0);
        let mut waiting: Vec<i64> = Vec::new();
        let mut next = 1;
        // More than a chunk holds.
        while next < 150 || !waiting.is_empty() {
            if next < 150 && waiting.len() < 5 {
                waiting.push(next);
                next += 1;
                continue;
            }
            let i = below(waiting.len() as u64) as usize;
            if below(4) == 0 {
                w.fs.fail_call(w.fs.calls() + 1 + below(4), FaultKind::Eio);
            }
            // Now and then an answer is lost on its way, and the increase sent again.
            if let Ok(refused) = send(&s, waiting[i], Value::Delta(1.0)) {
                assert_eq!(refused, None, "seed {seed}");
                if below(8) != 0 {
                    waiting.remove(i);
                }
            }
            if below(20) == 0 {
                w.fs.calm();
                s = w.crash(s, if below(2) == 0 { CrashStyle::KeepAll } else { CrashStyle::LoseUnsynced });
            }
        }
        w.fs.calm();
        while send(&s, 200, Value::Delta(1.0)).is_err() {}
        for when in ["before", "after"] {
            let got = samples(&s);
            assert!(got.is_sorted_by(|a, b| a.1 <= b.1), "seed {seed}, {when}: {got:?}");
            assert_eq!((got.len(), got.last()), (151, Some(&(200, 151.0))), "seed {seed}, {when}: {got:?}");
            s = w.crash(s, CrashStyle::KeepAll);
        }
    }
}

#[test]
fn an_increase_counts_after_a_replay_that_has_other_chunks() {
    let filled = || {
        let w = World { fs: SimFs::new() };
        let s = w.open();
        (1..=100).for_each(|second| add(&s, second, 1.0));
        let calls = w.fs.calls();
        (w, s, calls)
    };
    let (w, s, before) = filled();
    s.flush().unwrap();
    let half_way = (w.fs.calls() - before) / 2;
    // A flush that fails ends the chunk, which a replay does not.
    let (w, s, before) = filled();
    w.fs.fail_call(before + half_way, FaultKind::Enospc);
    s.flush().unwrap_err();
    (101..=150).filter(|second| *second != 115).for_each(|second| add(&s, second, 1.0));
    add(&s, 115, 1.0);
    let s = w.crash(s, CrashStyle::KeepAll);
    add(&s, 115, 1.0);
    add(&s, 151, 1.0);
    assert_eq!(samples(&s).last(), Some(&(151, 151.0)));
}
