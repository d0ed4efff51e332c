//! Matchers against a scan of all label sets, in the head and in a block, with few and with many candidates.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{LabelQuery, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::SimFs;

const T0: i64 = 1_700_006_400_000;

/// 600 series of two metrics: `few` has 3 values, `many` 150, `some` is missing from every other.
fn sets() -> Vec<Labels> {
    (0..600u32)
        .map(|i| {
            let mut pairs = vec![
                ("__name__", ["a", "b"][i as usize % 2].to_owned()),
                ("few", (i % 3).to_string()),
                ("many", format!("v{:03}", i / 4)),
                ("n", i.to_string()),
            ];
            if i % 4 < 2 {
                pairs.push(("some", format!("s{}", i % 40)));
            }
            Labels::from_pairs(pairs)
        })
        .collect()
}

fn store(sets: &[Labels]) -> MetricStore {
    let clock = ManualClock::new(T0);
    let mut o = MetricOptions::new(Arc::new(SimFs::new()), Arc::new(clock), "/data");
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    let s = MetricStore::open(o).unwrap();
    let mut b = BatchBuilder::default();
    for l in sets {
        let key = b.series(l);
        b.push(key, T0, 0, Value::Float(1.0));
    }
    s.append(&b.finish()).unwrap().commit.wait().unwrap();
    s
}

/// One to three matchers, in every combination of some that narrow, some that hardly do and some that match absence.
fn queries() -> Vec<Vec<Matcher>> {
    use MatchOp::*;
    let one = |op, n: &str, v: &str| Matcher::new(op, n, v).unwrap();
    let first = [one(Equal, "__name__", "a"), one(Regex, "few", "[01]"), one(Equal, "many", "v007"), one(Regex, "__name__", ".+")];
    let second = [
        one(Regex, "many", "v0[0-4].*"),
        one(NotRegex, "many", "v.*[13579]"),
        one(NotEqual, "many", "v001"),
        one(Regex, "many", "v001|v002|zz"),
        one(Regex, "some", "s1.*"),
        one(Regex, "some", "s1.*|"),
        one(NotRegex, "some", "s.+"),
        one(Equal, "some", ""),
        one(NotEqual, "some", ""),
        one(Regex, "none", ".*"),
        one(Regex, "none", ".+"),
        one(NotEqual, "few", "2"),
    ];
    let mut out = Vec::new();
    for a in &first {
        out.push(vec![a.clone()]);
        for b in &second {
            out.push(vec![a.clone(), b.clone()]);
            out.push(vec![b.clone(), one(NotEqual, "few", "0"), a.clone()]);
        }
    }
    out
}

#[test]
fn matchers_select_what_a_scan_selects() {
    let sets = sets();
    let s = store(&sets);
    for place in ["head", "block"] {
        for matchers in queries() {
            let want: BTreeSet<&Labels> = sets.iter().filter(|l| matchers.iter().all(|m| m.matches(l.value(&m.name)))).collect();
            let sel = s.select(&SelectRequest::new(matchers.clone(), TimeRange::all())).unwrap();
            let got: Vec<Labels> = (0..sel.len()).map(|i| sel.labels(i)).collect();
            assert!(got.iter().eq(want.iter().copied()), "{place}: {matchers:?}: {} of {}", got.len(), want.len());
            let q = LabelQuery { matchers: matchers.clone(), range: TimeRange::all(), limit: 0, partial: false };
            for name in ["__name__", "few", "many", "some", "none"] {
                let values: BTreeSet<&str> = want.iter().filter_map(|l| l.get(name)).collect();
                let (got, _) = s.label_values(name, &q).unwrap();
                assert!(got.iter().map(String::as_str).eq(values), "{place}: {name} of {matchers:?}: {got:?}");
            }
            let names: BTreeSet<&str> = want.iter().flat_map(|l| l.iter().map(|(n, _)| n)).collect();
            let (got, _) = s.label_names(&q).unwrap();
            assert!(got.iter().map(String::as_str).eq(names), "{place}: names of {matchers:?}: {got:?}");
        }
        s.flush().unwrap();
    }
}

#[test]
fn a_flush_under_way_hides_no_name() {
    let s = store(&sets());
    let q = LabelQuery { matchers: Vec::new(), range: TimeRange::new(T0, T0), limit: 0, partial: false };
    let values = || (s.label_values("few", &q).unwrap().0.len(), s.label_names(&q).unwrap().0.len());
    let selected = || s.select(&SelectRequest::new(vec![Matcher::equal("few", "1")], q.range)).unwrap().len();
    assert_eq!((values(), selected()), ((3, 5), 200));
    let cut = s.head().cut().unwrap();
    assert_eq!((values(), selected()), ((3, 5), 200), "cut, not in a block yet");
    s.head().uncut(&cut);
    assert_eq!((values(), selected()), ((3, 5), 200), "the blocks could not be made");
    s.flush().unwrap();
    assert_eq!((values(), selected()), ((3, 5), 200), "in a block");
    assert!(!s.head().may_hold(TimeRange::all(), s.head().flushed_epoch()));
}

#[test]
fn flushes_that_fail_hide_nothing_however_many_they_are() {
    let all = sets();
    let s = store(&all);
    s.flush().unwrap();
    let mut b = BatchBuilder::default();
    for l in &all {
        let key = b.series(l);
        b.push(key, T0 + 1, 0, Value::Float(2.0));
    }
    s.append(&b.finish()).unwrap().commit.wait().unwrap();
    let selected = |t| s.select(&SelectRequest::new(vec![Matcher::equal("few", "1")], TimeRange::new(t, t))).unwrap().len();
    for n in 0..300 {
        let cut = s.head().cut().unwrap();
        assert_eq!((selected(T0), selected(T0 + 1)), (200, 200), "{n}: cut");
        s.head().uncut(&cut);
        assert_eq!((selected(T0), selected(T0 + 1)), (200, 200), "{n}: failed");
    }
    s.flush().unwrap();
    assert_eq!((selected(T0), selected(T0 + 1)), (200, 200));
}

#[test]
fn a_snapshot_that_is_never_let_go_ends_flushes_before_they_could_be_mistaken() {
    let set = Labels::from_pairs([("__name__", "a"), ("few", "1")]);
    let s = store(std::slice::from_ref(&set));
    let narrow = |t| SelectRequest::new(vec![Matcher::equal("few", "1")], TimeRange::new(t, t));
    let kept = s.select(&narrow(T0)).unwrap();
    let mut flushed = 0;
    let stopped = loop {
        let mut b = BatchBuilder::default();
        let key = b.series(&set);
        b.push(key, T0 + 1 + flushed, 0, Value::Float(2.0));
        s.append(&b.finish()).unwrap().commit.wait().unwrap();
        match s.flush() {
            Ok(()) => flushed += 1,
            Err(e) => break e,
        }
    };
    assert!((100..127).contains(&flushed) && stopped.to_string().contains("close it"), "{flushed}: {stopped}");
    assert_eq!(s.select(&narrow(T0 + 1 + flushed)).unwrap().len(), 1);
    drop(kept);
    s.flush().unwrap();
    assert!(!s.head().may_hold(TimeRange::all(), s.head().flushed_epoch()));
}
