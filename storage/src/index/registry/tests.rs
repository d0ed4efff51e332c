//! The index against a list of label sets.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn add(r: &mut Registry, slot: u32, l: &Labels, settle: bool) {
    let raw = l.canonical_bytes();
    let h = r.hasher().hash(&raw);
    assert_eq!(r.find(h, &raw), None);
    r.insert(slot, h, &raw);
    if settle {
        r.settle();
    }
    assert_eq!(r.find(h, &raw), Some(slot));
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = prop::sample::select(vec!["", "a", "b", "c", "ab", "x"]);
    prop::collection::btree_map(prop::sample::select(vec!["__name__", "job", "dc", "pod"]), value, 1..4).prop_map(Labels::from_pairs)
}

fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
    let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
    let value = prop::sample::select(vec!["", "a", "b|c", "a.*", ".+", ".*", "zz", "a|"]);
    let one = (op, prop::sample::select(vec!["__name__", "job", "dc", "pod", "none"]), value);
    prop::collection::vec(one.prop_map(|(o, n, v)| Matcher::new(o, n, v).unwrap()), 0..4)
}

proptest! {
    #[test]
    fn selects_what_a_scan_selects(
        sets in prop::collection::vec(labels(), 1..40),
        queries in prop::collection::vec(matchers(), 1..10),
        drops in prop::collection::vec(0usize..40, 0..30),
        settle in prop::collection::btree_set(0u32..40, 0..40),
    ) {
        let mut r = Registry::default();
        let mut model: BTreeMap<u32, Labels> = BTreeMap::new();
        let mut slot = 0;
        for l in &sets {
            if !model.values().any(|m| m == l) {
                add(&mut r, slot, l, settle.contains(&slot));
                model.insert(slot, l.clone());
                slot += 1;
            }
        }
        // Churn: drop, keep labels readable, free, and reuse the slot for another set.
        for d in drops {
            let victims: Vec<u32> = model.keys().copied().skip(d % model.len().max(1)).take(2).collect();
            for v in &victims {
                r.remove(*v);
            }
            for v in &victims {
                prop_assert_eq!(&r.labels(*v), &model[v]);
                let l = model.remove(v).unwrap();
                r.free(&[*v]);
                let again = Labels::from_pairs(l.iter().chain([("fresh", "1")]));
                if !model.values().any(|m| *m == again) {
                    add(&mut r, *v, &again, settle.contains(v));
                    model.insert(*v, again);
                }
            }
        }
        r.settle();
        prop_assert_eq!(r.len(), model.len());
        for q in queries {
            let got: Vec<u32> = r.select(&q).iter().collect();
            let want: Vec<u32> = model.iter().filter(|(_, l)| q.iter().all(|m| m.matches(l.value(&m.name)))).map(|(s, _)| *s).collect();
            prop_assert_eq!(got, want, "{:?}", q);
        }
        for (s, l) in &model {
            prop_assert_eq!(&r.labels(*s), l);
        }
        let mut slots: Vec<u32> = model.keys().copied().collect();
        slots.sort_by(|a, b| r.compare(*a, *b));
        let mut want: Vec<u32> = model.keys().copied().collect();
        want.sort_by_key(|s| model[s].clone());
        prop_assert_eq!(slots, want);
        let mut names = r.label_names();
        names.sort();
        let mut want: Vec<String> = model.values().flat_map(|l| l.iter().map(|(n, _)| n.to_owned()).collect::<Vec<_>>()).collect();
        want.sort();
        want.dedup();
        prop_assert_eq!(names, want);
    }
}

#[test]
fn freed_series_leave_nothing() {
    let mut r = Registry::default();
    for i in 0..100u32 {
        add(&mut r, i, &Labels::from_pairs([("__name__", "m".to_owned()), ("pod", format!("p{i}"))]), false);
    }
    let slots: Vec<u32> = (0..100).collect();
    slots.iter().for_each(|s| r.remove(*s));
    r.free(&slots);
    assert!(r.is_empty() && r.pairs.is_empty());
    assert_eq!(r.pairs.iter().count(), 101);
}
