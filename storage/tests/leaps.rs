//! A clock that leaps by days: what is taken, what is kept, and what goes on once it is back.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::{Clock, Times};
use strandline_storage::metrics::head::{BatchBuilder, Refusal, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const T0: i64 = 1_700_000_000_000 / (2 * HOUR) * (2 * HOUR);

/// A clock that may be ahead or behind by so much, and knows it or not.
#[derive(Clone, Default)]
struct Leaping {
    even_ms: Arc<AtomicI64>,
    leapt_ms: Arc<AtomicI64>,
    in_doubt: bool,
}

impl Leaping {
    fn new(in_doubt: bool) -> Self {
        Leaping { even_ms: Arc::new(T0.into()), in_doubt, ..Leaping::default() }
    }
    fn leap(&self, by_ms: i64) {
        self.leapt_ms.store(by_ms, Ordering::SeqCst);
    }
    fn advance(&self, by_ms: i64) {
        self.even_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for Leaping {
    fn now_ms(&self) -> i64 {
        self.even_ms.load(Ordering::SeqCst) + self.leapt_ms.load(Ordering::SeqCst)
    }
    fn times(&self) -> Times {
        let (now_ms, even_ms) = (self.now_ms(), self.even_ms.load(Ordering::SeqCst));
        if !self.in_doubt {
            return now_ms.into();
        }
        Times { now_ms, earliest_ms: now_ms.min(even_ms), latest_ms: now_ms.max(even_ms) }
    }
    fn past_ms(&self) -> i64 {
        self.times().earliest_ms
    }
}

fn open(fs: &SimFs, clock: &Leaping) -> MetricStore {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut o = MetricOptions::new(fs.clone(), Arc::new(clock.clone()), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    o.bucket = Some(Arc::new(LocalBucket::open(fs, "/data/bucket").unwrap()));
    o.retention_ms = DAY;
    MetricStore::open(o).unwrap()
}

/// A float of one series and an increase of another.
fn append(s: &MetricStore, t: i64, value: f64) -> Vec<Refusal> {
    let mut b = BatchBuilder::default();
    let float = b.series(&Labels::from_pairs([("__name__", "float")]));
    b.push(float, t, 0, Value::Float(value));
    let delta = b.series(&Labels::from_pairs([("__name__", "delta")]));
    b.push(delta, t, 0, Value::Delta(value));
    let a = s.append(&b.finish()).unwrap();
    a.commit.wait().unwrap();
    a.rejected.iter().map(|r| r.why).collect()
}

fn read(s: &MetricStore, name: &str) -> Vec<(i64, f64)> {
    let range = TimeRange::new(T0 - 10 * DAY, T0 + 10 * DAY);
    let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", name)], range)).unwrap();
    let mut out = Vec::new();
    for i in 0..sel.len() {
        let mut buf = SampleBuf::default();
        sel.read(i, range, &mut buf).unwrap();
        out.extend(buf.t.iter().copied().zip(buf.v.iter().copied()));
    }
    out
}

#[test]
fn a_leap_ahead_expires_nothing_refuses_nothing_and_ends_no_sum() {
    let (fs, clock) = (SimFs::new(), Leaping::new(true));
    let s = open(&fs, &clock);
    assert_eq!(append(&s, T0, 5.0), []);
    s.flush().unwrap();
    clock.leap(3 * DAY);
    assert_eq!(append(&s, T0 + 1_000, 1.0), [], "the senders' clocks are right");
    for _ in 0..3 {
        s.flush().unwrap();
        s.maintain().unwrap();
        clock.advance(20 * 60_000);
    }
    clock.leap(0);
    assert_eq!(append(&s, T0 + HOUR, 2.0), []);
    assert_eq!(read(&s, "delta"), [(T0, 5.0), (T0 + 1_000, 6.0), (T0 + HOUR, 8.0)]);
    assert_eq!(read(&s, "float").len(), 3);
    // What is really old goes.
    s.flush().unwrap();
    clock.advance(2 * DAY);
    s.maintain().unwrap();
    assert_eq!(read(&s, "float"), []);
}

#[test]
fn a_clock_set_back_by_days_closes_no_series() {
    let (fs, clock) = (SimFs::new(), Leaping::new(false));
    let s = open(&fs, &clock);
    assert_eq!(append(&s, T0 - 1_000, 1.0), []);
    clock.leap(3 * DAY);
    assert_eq!(append(&s, T0 + 3 * DAY, 2.0), []);
    clock.leap(0);
    assert_eq!(append(&s, T0, 4.0), []);
    assert_eq!(append(&s, T0, 4.0), [], "a retry");
    assert_eq!(append(&s, T0 + 1_000, 8.0), []);
    let floats = [(T0 - 1_000, 1.0), (T0, 4.0), (T0 + 1_000, 8.0), (T0 + 3 * DAY, 2.0)];
    let sums = [(T0 - 1_000, 1.0), (T0, 7.0), (T0 + 1_000, 15.0), (T0 + 3 * DAY, 3.0)];
    assert_eq!((read(&s, "float"), read(&s, "delta")), (floats.to_vec(), sums.to_vec()));
    s.close().unwrap();
    let s = open(&fs, &clock);
    assert_eq!((read(&s, "float"), read(&s, "delta")), (floats.to_vec(), sums.to_vec()));
    assert_eq!(append(&s, T0 + 1_000, 8.0), [], "a retry after a restart");
    // What can't be added up any more is not taken for a retry: the sender is told.
    clock.advance(5 * HOUR);
    assert_eq!(append(&s, T0 + 5 * HOUR, 1.0), []);
    assert_eq!(append(&s, T0 + 2 * HOUR, 1.0), [Refusal::OutOfOrder, Refusal::OutOfOrder]);
}
