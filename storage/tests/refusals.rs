//! What is refused: alone, with its kind and its reason, the rest of the batch stored.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{AnyHistogram, BatchBuilder, Refusal, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{BucketSpan, CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{LabelQuery, SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::SimFs;

const T0: i64 = 1_700_006_400_000;

fn open() -> MetricStore {
    let mut o = MetricOptions::new(Arc::new(SimFs::new()), Arc::new(ManualClock::new(T0)), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    MetricStore::open(o).unwrap()
}

/// Samples of all series.
fn stored(s: &MetricStore) -> usize {
    let all = s.select(&SelectRequest::new(vec![Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap()], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    let mut n = 0;
    for i in 0..all.len() {
        all.read(i, TimeRange::all(), &mut buf).unwrap();
        n += buf.len();
    }
    n
}

#[test]
fn bad_labels_are_refused_alone() {
    let s = open();
    let mut b = BatchBuilder::default();
    let good = b.series(&Labels::from_pairs([("__name__", "m"), ("i", "1"), ("job", "x")]));
    b.push(good, T0, 0, Value::Float(1.0));
    let twice = b.series_from([("a", "1"), ("a", "2")].into_iter());
    b.push(twice, T0, 0, Value::Float(1.0));
    let none = b.series_from([].into_iter());
    b.push(none, T0, 0, Value::Float(1.0));
    let long = "x".repeat(20_000);
    let big = b.series_from([("__name__", "m"), ("v", long.as_str())].into_iter());
    b.push(big, T0, 0, Value::Float(1.0));
    let unsorted = b.series_from([("z", "1"), ("__name__", "u")].into_iter());
    b.push(unsorted, T0, 0, Value::Float(1.0));
    let many: Vec<(String, String)> = (0..500).map(|i| (format!("l{i:03}"), "x".to_owned())).collect();
    let many = b.series_from(many.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    b.push(many, T0, 0, Value::Float(1.0));
    let a = s.append(&b.finish()).unwrap();
    assert_eq!(a.accepted, 2);
    let why = [Refusal::DuplicateLabel, Refusal::InvalidLabels, Refusal::LabelTooLong, Refusal::TooManyLabels];
    assert_eq!(a.rejected.iter().map(|r| (r.item, r.why)).collect::<Vec<_>>(), [1, 2, 3, 5].into_iter().zip(why).collect::<Vec<_>>());
    assert!(a.rejected[0].detail.as_ref().unwrap().contains("twice"));
    a.commit.wait().unwrap();
    assert_eq!(stored(&s), 2);
    let q = LabelQuery { matchers: vec![], range: TimeRange::all(), limit: 0, partial: false };
    assert_eq!(s.label_names(&q).unwrap().0, ["__name__", "i", "job", "z"]);
    assert_eq!(s.label_values("__name__", &q).unwrap().0, ["m", "u"]);
}

#[test]
fn histograms_that_contradict_themselves_are_refused_with_how() {
    let spans = |length| vec![BucketSpan { offset: 0, length }];
    let good = Histogram { count: 3, positive_spans: spans(2), positive_buckets: vec![1, 1], ..Histogram::default() };
    let custom = Histogram { schema: CUSTOM_BUCKETS_SCHEMA, custom_values: vec![2.0, 1.0].into(), ..good.clone() };
    let float = |spans, buckets| FloatHistogram { positive_spans: spans, positive_buckets: buckets, ..FloatHistogram::default() };
    let int = |h: Histogram| AnyHistogram::Int(Arc::new(h));
    let cases = [
        (int(Histogram { schema: 9, ..good.clone() }), "schema 9 is not one of -4..=8 or -53"),
        (int(Histogram { count: 4, ..good.clone() }), "3 observations in buckets but the count is 4"),
        (int(Histogram { positive_buckets: vec![1], ..good.clone() }), "positive spans cover 2 buckets but 1 are given"),
        (int(Histogram { positive_buckets: vec![1, -2], ..good.clone() }), "positive bucket 1 has negative count -1"),
        (int(Histogram { zero_threshold: f64::NAN, ..good.clone() }), "the zero bucket's threshold NaN is not a number from 0 on"),
        (int(custom), "custom bounds must rise strictly and be finite (bound 1)"),
        (AnyHistogram::Float(Arc::new(float(spans(1), vec![-1.0]))), "positive bucket 0 has negative count -1"),
        (AnyHistogram::Float(Arc::new(FloatHistogram { count: -2.0, ..float(spans(1), vec![1.0]) })), "the count of all buckets is -2"),
        (
            AnyHistogram::Float(Arc::new(FloatHistogram { zero_count: -1.0, ..float(spans(1), vec![1.0]) })),
            "the count of the zero bucket is -1",
        ),
    ];
    let s = open();
    let mut b = BatchBuilder::default();
    let of = |name: &str| Labels::from_pairs([("__name__", name)]);
    let k = b.series(&of("good"));
    b.push(k, T0, 0, Value::Histogram(int(good)));
    for (i, (h, _)) in cases.iter().enumerate() {
        let k = b.series(&of(&format!("bad{i}")));
        b.push(k, T0, 0, Value::Histogram(h.clone()));
    }
    let mut a = s.append(&b.finish()).unwrap();
    a.rejected.sort_by_key(|r| r.item);
    assert_eq!((a.accepted, a.rejected.len()), (1, cases.len()));
    for (r, (_, how)) in a.rejected.iter().zip(&cases) {
        assert_eq!(r.why, Refusal::InvalidHistogram);
        assert_eq!(r.detail.as_deref(), Some(format!("the histogram contradicts itself: {how}").as_str()));
    }
    a.commit.wait().unwrap();
    assert_eq!(stored(&s), 1);
}

#[test]
fn a_series_whose_first_sample_is_refused_goes_with_the_next_turn() {
    let s = open();
    for good in [0, 1] {
        let mut b = BatchBuilder::default();
        for i in 0..50 + good {
            let k = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]));
            b.push(k, if i < 50 { T0 - 48 * 3_600_000 } else { T0 }, 0, Value::Float(1.0));
        }
        let a = s.append(&b.finish()).unwrap();
        assert_eq!((a.accepted, a.rejected.len()), (good, 50));
        a.commit.wait().unwrap();
        s.maintain().unwrap();
        assert_eq!(s.stats().head.series, good as usize);
    }
}

#[test]
fn at_the_limit_idle_series_make_room_sooner_and_running_sums_stay() {
    let clock = ManualClock::new(T0);
    let mut o = MetricOptions::new(Arc::new(SimFs::new()), Arc::new(clock.clone()), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    o.limits.max_series = 4;
    let s = MetricStore::open(o).unwrap();
    let put = |names: &[&str], t: i64, v: Value| {
        let mut b = BatchBuilder::default();
        for n in names {
            let key = b.series(&Labels::from_pairs([("__name__", *n)]));
            b.push(key, t, 0, v.clone());
        }
        let a = s.append(&b.finish()).unwrap();
        a.commit.wait().unwrap();
        a.rejected.len()
    };
    assert_eq!(put(&["a", "b", "c"], T0, Value::Float(1.0)) + put(&["sum"], T0, Value::Delta(1.0)), 0);
    assert_eq!(put(&["d"], T0, Value::Float(1.0)), 1);
    clock.advance(4 * 60_000);
    assert_eq!(put(&["a"], T0 + 4 * 60_000, Value::Float(1.0)), 0);
    s.flush().unwrap();
    assert_eq!(put(&["d"], T0 + 4 * 60_000, Value::Float(1.0)), 1, "four minutes are not idle");
    clock.advance(3 * 60_000);
    s.maintain().unwrap();
    let now = T0 + 7 * 60_000;
    assert_eq!(put(&["d", "e", "f"], now, Value::Float(1.0)), 1, "b and c made room, a and the sum did not");
    assert_eq!(put(&["sum"], now, Value::Delta(2.0)), 0);
    let sum =
        s.select(&SelectRequest::new(vec![Matcher::new(MatchOp::Equal, "__name__", "sum").unwrap()], TimeRange::new(now, now))).unwrap();
    let mut buf = SampleBuf::default();
    sum.read(0, TimeRange::new(now, now), &mut buf).unwrap();
    assert_eq!(buf.v, [3.0]);
}

#[test]
fn new_series_of_one_request_are_made_once_and_up_to_the_limit() {
    let mut o = MetricOptions::new(Arc::new(SimFs::new()), Arc::new(ManualClock::new(T0)), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    o.limits.max_series = 50;
    let s = MetricStore::open(o).unwrap();
    let of = |i: i64| Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]);
    let mut b = BatchBuilder::default();
    // Each series twice: at once behind itself for the even ones, beyond the next group of series made for the others.
    let mut late = Vec::new();
    for i in 0..60 {
        let k = b.series(&of(i));
        b.push(k, T0, 0, Value::Float(1.0));
        if i % 2 == 0 {
            let again = b.series(&of(i));
            b.push(again, T0 + 1, 0, Value::Float(1.0));
        } else {
            late.push(i);
        }
    }
    for i in late {
        let again = b.series(&of(i));
        b.push(again, T0 + 1, 0, Value::Float(1.0));
    }
    let a = s.append(&b.finish()).unwrap();
    assert_eq!((a.accepted, a.rejected.len()), (100, 20));
    assert!(a.rejected.iter().all(|r| r.why == Refusal::SeriesLimit && r.detail.as_ref().unwrap().contains("limit of 50")));
    a.commit.wait().unwrap();
    assert_eq!(s.head().stats().series, 50);
    assert_eq!(stored(&s), 100);
    // Each is found by its own label too.
    for i in 0..60 {
        let own = vec![Matcher::new(MatchOp::Equal, "i", i.to_string()).unwrap()];
        assert_eq!(s.select(&SelectRequest::new(own, TimeRange::all())).unwrap().len(), (i < 50) as usize);
    }
}

/// Appends to one series; gives what was refused, by place.
fn put(s: &MetricStore, items: &[(i64, Value)]) -> (Vec<(u32, Refusal)>, strandline_storage::metrics::head::Commit) {
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", "m")]));
    items.iter().for_each(|(t, v)| b.push(k, *t, 0, v.clone()));
    let a = s.append(&b.finish()).unwrap();
    (a.rejected.iter().map(|r| (r.item, r.why)).collect(), a.commit)
}

#[test]
fn of_a_time_that_is_there_the_same_is_known_and_another_refused() {
    let int = |n: i64| {
        let h = Histogram {
            count: n as u64 + 1,
            sum: 1.0,
            positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
            positive_buckets: vec![n, 1 - n],
            ..Histogram::default()
        };
        Value::Histogram(AnyHistogram::Int(Arc::new(h)))
    };
    let float = |n: i64| {
        let h = FloatHistogram {
            count: 3.0,
            sum: 1.0,
            positive_spans: vec![BucketSpan { offset: n as i32, length: 2 }],
            positive_buckets: vec![n as f64, 3.0 - n as f64],
            ..FloatHistogram::default()
        };
        Value::Histogram(AnyHistogram::Float(Arc::new(h)))
    };
    let number = |n: i64| Value::Float(n as f64);
    for (name, v) in [("int", &int as &dyn Fn(i64) -> Value), ("float", &float), ("number", &number)] {
        for durable in [true, false] {
            let s = open();
            // The last, one that is late, and one in the middle.
            let (refused, commit) = put(&s, &[(T0, v(1)), (T0 + 20, v(2)), (T0 + 40, v(1)), (T0 + 10, v(1))]);
            assert!(refused.is_empty(), "{name}");
            if durable {
                commit.wait().unwrap();
            }
            let records = s.stats().wal.records;
            let (refused, again) = put(&s, &[(T0 + 40, v(1)), (T0 + 10, v(1)), (T0 + 20, v(2)), (T0, v(1))]);
            assert!(refused.is_empty(), "{name}, {durable}: {refused:?}");
            again.wait().unwrap();
            assert_eq!(s.stats().wal.records, records, "{name}, {durable}: nothing is stored again");
            let (refused, other) =
                put(&s, &[(T0 + 40, v(2)), (T0 + 10, v(2)), (T0 + 20, v(1)), (T0, v(2)), (T0 + 50, v(1)), (T0 + 50, v(2))]);
            assert_eq!(refused, [0, 1, 2, 3, 5].map(|i| (i, Refusal::Duplicate)), "{name}, {durable}");
            other.wait().unwrap();
            assert_eq!(stored(&s), 5);
        }
    }
}

/// What is judged sample by sample against all that came before would not end.
#[test]
fn a_request_may_hold_many_samples_of_one_series_in_any_order() {
    const N: i64 = 150_000;
    for order in [|i: i64| i, |i: i64| N - 1 - i, |i: i64| i * 77_777 % N] {
        let s = open();
        let items: Vec<(i64, Value)> = (0..N).map(|i| (T0 - order(i), Value::Float(order(i) as f64))).collect();
        let (refused, commit) = put(&s, &items);
        let (again, again_commit) = put(&s, &items);
        assert_eq!((refused.len(), again.len()), (0, 0));
        commit.wait().unwrap();
        again_commit.wait().unwrap();
        assert_eq!(stored(&s), N as usize);
    }
}
