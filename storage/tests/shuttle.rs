//! The metric store under orders of threads that shuttle chooses: what readers see while a flush publishes its blocks, and
//! slots of series that ended and are given to others.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p strandline-storage --test shuttle`
#![cfg(shuttle)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSelection, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{FaultKind, SimFs};
use strandline_wal::sync::Mutex;

const T0: i64 = 1_700_006_400_000;
const STEP: i64 = 15_000;

type Model = BTreeMap<String, BTreeMap<i64, f64>>;

/// Tries a test in many orders, at random and by changing priorities; each thread has room for what a debug build needs.
fn in_many_orders(test: fn()) {
    let orders = std::env::var("SHUTTLE_ORDERS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut config = shuttle::Config::new();
    config.stack_size = 4 << 20;
    shuttle::Runner::new(RandomScheduler::new(orders), config.clone()).run(test);
    shuttle::Runner::new(PctScheduler::new(3, orders), config).run(test);
}

fn open(clock: &ManualClock) -> MetricStore {
    open_on(&SimFs::new(), clock)
}

fn open_on(fs: &SimFs, clock: &ManualClock) -> MetricStore {
    let mut o = MetricOptions::new(Arc::new(fs.clone()), Arc::new(clock.clone()), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    o.series_idle_ms = 60_000;
    MetricStore::open(o).unwrap()
}

fn append(s: &MetricStore, name: &str, t: i64, v: f64) {
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", name)]));
    b.push(k, t, 0, Value::Float(v));
    let batch = b.finish();
    // A series dropped twice while it is written is told to the sender, who sends again.
    let mut tries = 0;
    let done = loop {
        match s.append(&batch) {
            Ok(done) => break done,
            Err(e) => assert!(e.is_retryable() && tries == 0, "{e}"),
        }
        tries += 1;
    };
    assert!(done.rejected.is_empty());
    done.commit.wait().unwrap();
}

/// A sample at `t` of each series, in one batch.
fn append_all(s: &MetricStore, names: &[&str], t: i64, v: f64) -> strandline_storage::Result<()> {
    let mut b = BatchBuilder::default();
    for name in names {
        let k = b.series(&Labels::from_pairs([("__name__", *name)]));
        b.push(k, t, 0, Value::Float(v));
    }
    s.append(&b.finish())?.commit.wait()
}

fn select(s: &MetricStore, op: MatchOp, name: &str) -> Box<dyn SeriesSelection> {
    s.select(&SelectRequest::new(vec![Matcher::new(op, "__name__", name).unwrap()], TimeRange::all())).unwrap()
}

fn read(sel: &dyn SeriesSelection) -> Model {
    let mut out = Model::new();
    let mut buf = SampleBuf::default();
    for i in 0..sel.len() {
        let name = sel.labels(i).get("__name__").unwrap_or_default().to_owned();
        buf.clear();
        sel.read(i, TimeRange::all(), &mut buf).unwrap();
        assert!(buf.t.is_sorted_by(|a, b| a < b), "{name}: {:?}", buf.t);
        if !buf.is_empty() {
            let samples = buf.t.iter().copied().zip(buf.v.iter().copied()).collect();
            assert!(out.insert(name.clone(), samples).is_none(), "{name} twice");
        }
    }
    out
}

fn everything(s: &MetricStore) -> Model {
    read(&*select(s, MatchOp::Regex, ".+"))
}

/// Whether all of `part` is in `whole`.
fn within(part: &Model, whole: &Model) -> bool {
    part.iter().all(|(name, samples)| samples.iter().all(|(t, v)| whole.get(name).and_then(|w| w.get(t)) == Some(v)))
}

#[test]
fn a_flush_moves_readers_over_without_gap_or_double() {
    in_many_orders(|| {
        let clock = ManualClock::new(T0);
        let s = open(&clock);
        let acked = Arc::new(Mutex::new(Model::new()));
        let note = |acked: &Mutex<Model>, name: &str, t, v| {
            acked.lock().entry(name.to_owned()).or_default().insert(t, v);
        };
        for k in 0..3 {
            append(&s, "a", T0 + k * STEP, k as f64);
            note(&acked, "a", T0 + k * STEP, k as f64);
        }
        let writer = thread::spawn({
            let (s, acked) = (s.clone(), acked.clone());
            move || {
                for k in 3..6 {
                    for name in ["a", "b"] {
                        append(&s, name, T0 + k * STEP, k as f64);
                        note(&acked, name, T0 + k * STEP, k as f64);
                    }
                }
            }
        });
        let flusher = thread::spawn({
            let s = s.clone();
            move || (0..2).for_each(|_| s.flush().unwrap())
        });
        for _ in 0..5 {
            let before = acked.lock().clone();
            let seen = everything(&s);
            assert!(within(&before, &seen), "acknowledged {before:?}, seen {seen:?}");
            thread::yield_now();
        }
        writer.join().unwrap();
        flusher.join().unwrap();
        assert_eq!(everything(&s), *acked.lock());
        s.flush().unwrap();
        assert_eq!(everything(&s), *acked.lock());
    });
}

#[test]
fn a_slot_is_nobody_elses_while_someone_looks_at_it() {
    in_many_orders(|| {
        let clock = ManualClock::new(T0);
        let s = open(&clock);
        // What a series' samples say is whose they are.
        let whose = |name: &str| if name.starts_with("old") { 1.0 } else { 2.0 };
        for k in 0..3 {
            append(&s, &format!("old{k}"), T0, 1.0);
        }
        clock.advance(10 * 60_000);
        let now = T0 + 10 * 60_000;
        // They are idle: a flush drops them, and their slots go to whoever comes.
        let from_before = select(&s, MatchOp::Regex, "old.+");
        let keeper = thread::spawn({
            let s = s.clone();
            move || (0..3).for_each(|_| s.flush().unwrap())
        });
        let comer = thread::spawn({
            let s = s.clone();
            move || (0..3).for_each(|k| append(&s, &format!("new{k}"), now + k, 2.0))
        });
        // One of them comes back just then.
        let returner = thread::spawn({
            let s = s.clone();
            move || append(&s, "old1", now, 1.0)
        });
        let check = |sel: &dyn SeriesSelection| {
            for (name, samples) in read(sel) {
                assert!(name.starts_with("old") && samples.values().all(|v| *v == 1.0), "{name}: {samples:?}");
            }
        };
        check(&*select(&s, MatchOp::Regex, "old.+"));
        let meanwhile = select(&s, MatchOp::Regex, "old.+");
        [keeper, comer, returner].into_iter().for_each(|t| t.join().unwrap());
        // It looks on while all of that is over.
        append(&s, "new2", now + 9, 2.0);
        check(&*from_before);
        check(&*meanwhile);
        drop((from_before, meanwhile));
        for _ in 0..2 {
            let all = everything(&s);
            assert_eq!(all.keys().map(String::as_str).collect::<Vec<_>>(), ["new0", "new1", "new2", "old0", "old1", "old2"]);
            assert!(all.iter().all(|(name, samples)| samples.values().all(|v| *v == whose(name))), "{all:?}");
            assert_eq!(all["old1"].len(), 2, "{all:?}");
            s.flush().unwrap();
        }
    });
}

/// A batch lies in several stripes, and so in several records of the log. Some fail and are rolled back by others while the
/// rest is still being written: then the batch was not stored, whatever became of its end.
#[test]
fn what_failed_in_part_is_not_acknowledged() {
    in_many_orders(|| {
        let fs = SimFs::new();
        let s = open_on(&fs, &ManualClock::new(T0));
        let names = ["a", "b", "c"];
        append_all(&s, &names, T0, 0.0).unwrap();
        let senders: Vec<_> = (0..2)
            .map(|n| {
                let s = s.clone();
                thread::spawn(move || {
                    // The same from both, but for the first: each may find what the other has not written yet.
                    let batches = [(1, n as f64), (2, 2.0), (3, 3.0)];
                    let taken = |(k, v): &(i64, f64)| append_all(&s, &names, T0 + k * STEP, *v).is_ok();
                    batches.into_iter().filter(taken).map(|(k, _)| T0 + k * STEP).collect::<Vec<_>>()
                })
            })
            .collect();
        for _ in 0..3 {
            fs.fail_call(fs.calls() + 1, FaultKind::Eio);
            thread::yield_now();
            let _may_fail = s.flush();
        }
        let acknowledged: Vec<i64> = senders.into_iter().flat_map(|t| t.join().unwrap()).collect();
        fs.calm();
        let here = everything(&s);
        drop(s);
        let replayed = everything(&open_on(&fs, &ManualClock::new(T0)));
        for t in acknowledged {
            for name in names {
                assert!(here[name].contains_key(&t), "{name} at {t}: {here:?}");
                assert!(replayed[name].contains_key(&t), "{name} at {t} after a restart: {replayed:?}");
            }
        }
    });
}

/// Whether a delete was asked for, and what it said.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Deleted {
    No,
    Maybe,
    Yes,
}

/// Appends, flushes, merges, a delete and readers at once, on a disk of which calls fail now and then.
#[test]
fn all_at_once_on_a_bad_disk_nothing_is_lost_and_what_was_deleted_stays_so() {
    in_many_orders(|| {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
        let s = open_on(&fs, &clock);
        for k in 0..3 {
            append_all(&s, &["a", "d"], T0 + k * STEP, k as f64).unwrap();
            s.flush().unwrap();
        }
        append_all(&s, &["a", "d"], T0 + 3 * STEP, 3.0).unwrap();
        // The range is over, and its blocks may be merged.
        clock.advance(12 * 3_600_000);
        let now = T0 + 12 * 3_600_000;
        let acked = Arc::new(Mutex::new(Model::new()));
        (0..4).for_each(|k| drop(acked.lock().entry("a".into()).or_default().insert(T0 + k * STEP, k as f64)));
        let deleted = Arc::new(Mutex::new(Deleted::No));
        let check = {
            let (acked, deleted) = (acked.clone(), deleted.clone());
            move |s: &MetricStore, when: &str| {
                let (before, was) = (acked.lock().clone(), *deleted.lock());
                let seen = everything(s);
                assert!(within(&before, &seen), "{when}: acknowledged {before:?}, seen {seen:?}");
                match (was, *deleted.lock()) {
                    (Deleted::Yes, _) => assert!(!seen.contains_key("d"), "{when}: {seen:?}"),
                    (_, Deleted::No) => assert_eq!(seen["d"].len(), 4, "{when}: {seen:?}"),
                    _ => assert!(seen.get("d").is_none_or(|d| d.len() == 4), "{when}: {seen:?}"),
                }
            }
        };
        let spawn = |work: Box<dyn FnOnce(&MetricStore) + Send>| {
            let s = s.clone();
            thread::spawn(move || work(&s))
        };
        let threads = [
            spawn(Box::new({
                let acked = acked.clone();
                move |s| {
                    for k in 0..3 {
                        if append_all(s, &["a", "b"], now + k * STEP, k as f64).is_ok() {
                            let mut acked = acked.lock();
                            ["a", "b"].into_iter().for_each(|n| drop(acked.entry(n.into()).or_default().insert(now + k * STEP, k as f64)));
                        }
                    }
                }
            })),
            spawn(Box::new(|s| (0..2).for_each(|_| drop(s.flush())))),
            spawn(Box::new(|s| {
                let _may_fail = s.compact(2);
                let _may_fail = s.clean_tombstones();
            })),
            spawn(Box::new({
                let deleted = deleted.clone();
                move |s| {
                    *deleted.lock() = Deleted::Maybe;
                    if s.delete(TimeRange::new(T0, T0 + 10 * STEP), vec![Matcher::equal("__name__", "d")]).is_ok() {
                        *deleted.lock() = Deleted::Yes;
                    }
                }
            })),
        ];
        let from_before = select(&s, MatchOp::Regex, ".+");
        let then = read(&*from_before);
        for _ in 0..3 {
            check(&s, "meanwhile");
            fs.fail_call(fs.calls() + 1 + number_below(12), FaultKind::Eio);
            thread::yield_now();
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
        fs.calm();
        check(&s, "in the end");
        assert!(within(&then, &read(&*from_before)), "a reader loses nothing");
        drop(from_before);
        s.flush().unwrap();
        while s.compact(1).unwrap() > 0 {}
        s.clean_tombstones().unwrap();
        check(&s, "tidied up");
        drop(s);
        check(&open_on(&fs, &clock), "after a restart");
    });
}

fn number_below(n: u64) -> u64 {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..n)
}
