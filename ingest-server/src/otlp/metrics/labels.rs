//! Labels of a data point: what it says itself and what its resource and scope say, sorted, written as label bytes.
//!
//! The points of a metric have the same keys again and again. Where the labels go is worked out once for a sequence of
//! keys; after that a point costs a comparison of its keys and a copy of its values.

use std::borrow::Cow;

use strandline_storage::codec::protobuf::WireError;
use strandline_storage::index::put_canonical;

use super::super::attributes::{LabelSet, each};
use super::super::names::{Strategy, label_name};

const NAME: &str = "__name__";

/// What resource and scope say, once for all their points.
pub(super) struct Base {
    /// Name, value, and both as label bytes; sorted by name.
    pairs: Vec<(String, String, Vec<u8>)>,
    /// Tells one base of a request from another.
    number: u32,
}

/// Attributes of a point as it has them.
pub(super) struct PointLabels<'a> {
    base: &'a Base,
    own: Vec<(&'a str, Cow<'a, str>)>,
}

impl<'a> PointLabels<'a> {
    /// Attributes are field `number` of the point.
    pub(super) fn read(base: &'a Base, point: &'a [u8], number: u32) -> Result<Self, WireError> {
        let mut own = Vec::with_capacity(8);
        each(point, number, &mut |key, value| {
            if !key.is_empty() {
                own.push((key, value));
            }
        })?;
        Ok(PointLabels { base, own })
    }
}

enum Slot {
    Name,
    Extra,
    /// A label of the base.
    Base(usize),
    /// An attribute of the point, under its escaped name.
    Own(usize, String),
}

/// Where the labels go for one sequence of keys.
struct Plan {
    base: u32,
    extra: Option<&'static str>,
    keys: Vec<String>,
    slots: Vec<Slot>,
}

/// Plans remembered of a request: numbers, buckets, sums and counts each have one.
const MAX_PLANS: usize = 4;

/// Writes labels of points.
pub(super) struct Labeler {
    strategy: Strategy,
    plans: Vec<Plan>,
    next: usize,
    bases: u32,
}

impl Labeler {
    pub(super) fn new(strategy: Strategy) -> Self {
        Labeler { strategy, plans: Vec::new(), next: 0, bases: 0 }
    }

    /// What resource and scope say.
    pub(super) fn base(&mut self, set: &LabelSet) -> Base {
        self.bases += 1;
        let pair = |(n, v): (&str, &str)| {
            let mut bytes = Vec::new();
            put_canonical(n.as_bytes(), v.as_bytes(), &mut bytes);
            (n.to_owned(), v.to_owned(), bytes)
        };
        Base { pairs: set.iter().map(pair).collect(), number: self.bases }
    }

    /// Appends all labels of a point with the metric's name and perhaps one more, which win over labels of the same name.
    pub(super) fn write(&mut self, l: &PointLabels<'_>, name: &str, extra: Option<(&'static str, &str)>, out: &mut Vec<u8>) {
        let extra_name = extra.map(|e| e.0);
        let fits = |p: &Plan| {
            p.base == l.base.number
                && p.extra == extra_name
                && p.keys.len() == l.own.len()
                && p.keys.iter().zip(&l.own).all(|(k, o)| k == o.0)
        };
        let plain = l.own.iter().all(|o| !o.1.is_empty());
        let at = match self.plans.iter().position(fits) {
            Some(at) if plain => at,
            _ => match self.plan(l, extra_name).filter(|_| plain) {
                Some(plan) if self.plans.len() < MAX_PLANS => {
                    self.plans.push(plan);
                    self.plans.len() - 1
                }
                Some(plan) => {
                    self.next = (self.next + 1) % MAX_PLANS;
                    self.plans[self.next] = plan;
                    self.next
                }
                None => return self.write_slowly(l, name, extra, out),
            },
        };
        for slot in &self.plans[at].slots {
            match slot {
                Slot::Name => put_canonical(NAME.as_bytes(), name.as_bytes(), out),
                Slot::Extra => {
                    if let Some((n, v)) = extra {
                        put_canonical(n.as_bytes(), v.as_bytes(), out);
                    }
                }
                Slot::Base(i) => out.extend_from_slice(&l.base.pairs[*i].2),
                Slot::Own(i, name) => put_canonical(name.as_bytes(), l.own[*i].1.as_bytes(), out),
            }
        }
    }

    /// The order of labels; none if names meet after escaping: then values decide.
    fn plan(&self, l: &PointLabels<'_>, extra: Option<&'static str>) -> Option<Plan> {
        let mut all: Vec<(String, Slot)> = Vec::with_capacity(l.own.len() + l.base.pairs.len() + 2);
        let taken = |n: &str| n == NAME || extra == Some(n);
        for (i, (key, _)) in l.own.iter().enumerate() {
            let name = label_name(key, self.strategy).into_owned();
            if all.iter().any(|(n, _)| *n == name) {
                return None;
            }
            all.push((name.clone(), Slot::Own(i, name)));
        }
        for (i, (name, ..)) in l.base.pairs.iter().enumerate() {
            match all.iter_mut().find(|(n, _)| n == name) {
                Some(own) if name == "job" || name == "instance" => own.1 = Slot::Base(i),
                Some(_) => {}
                None => all.push((name.clone(), Slot::Base(i))),
            }
        }
        all.retain(|(n, _)| !taken(n));
        all.push((NAME.to_owned(), Slot::Name));
        all.extend(extra.map(|e| (e.to_owned(), Slot::Extra)));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let keys = l.own.iter().map(|o| o.0.to_owned()).collect();
        Some(Plan { base: l.base.number, extra, keys, slots: all.into_iter().map(|(_, s)| s).collect() })
    }

    /// Any point: names that became the same by escaping have their values joined, in the order of the keys; empty
    /// values are no labels.
    fn write_slowly(&self, l: &PointLabels<'_>, name: &str, extra: Option<(&str, &str)>, out: &mut Vec<u8>) {
        let mut own: Vec<(String, &str, String)> =
            l.own.iter().map(|(k, v)| (label_name(k, self.strategy).into_owned(), *k, v.to_string())).collect();
        own.sort();
        own.dedup_by(|next, into| {
            let same = next.0 == into.0;
            if same && next.2 != into.2 {
                into.2.push(';');
                into.2.push_str(&next.2);
            }
            same
        });
        own.retain(|p| !p.2.is_empty());
        let n = own.len();
        for (base_name, value, _) in &l.base.pairs {
            match own[..n].iter().position(|p| p.0 == *base_name) {
                Some(i) if base_name == "job" || base_name == "instance" => own[i].2 = value.clone(),
                Some(_) => {}
                None => own.push((base_name.clone(), "", value.clone())),
            }
        }
        own.retain(|p| p.0 != NAME && extra.is_none_or(|(e, _)| e != p.0));
        own.push((NAME.to_owned(), "", name.to_owned()));
        own.extend(extra.map(|(e, v)| (e.to_owned(), "", v.to_owned())));
        own.sort();
        own.iter().filter(|p| !p.2.is_empty()).for_each(|p| put_canonical(p.0.as_bytes(), p.2.as_bytes(), out));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use strandline_storage::codec::protobuf::Writer;
    use strandline_storage::index::RawLabels;

    fn point(attributes: &[(&str, &str)]) -> Vec<u8> {
        let mut point = Writer::default();
        for (k, v) in attributes {
            point.message(7, |w| {
                w.bytes_always(1, k.as_bytes());
                w.message(2, |w| w.bytes_always(1, v.as_bytes()));
            });
        }
        point.buf
    }

    fn base(labeler: &mut Labeler, pairs: &[(&str, &str)]) -> Base {
        let mut set = LabelSet::default();
        pairs.iter().for_each(|(n, v)| set.set(n, v));
        set.settle();
        labeler.base(&set)
    }

    fn pairs(raw: &[u8]) -> Vec<(String, String)> {
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        RawLabels(raw).map(|p| p.unwrap()).map(|(n, v)| (text(n), text(v))).collect()
    }

    fn labeler() -> Labeler {
        Labeler::new(Strategy::named("UnderscoreEscapingWithSuffixes"))
    }

    #[test]
    fn points_win_but_for_job_and_instance_and_names_that_meet_are_joined() {
        let mut w = labeler();
        let b = base(&mut w, &[("job", "shop"), ("service_name", "shop"), ("pod", "p")]);
        let own =
            [("z", "last"), ("a.b", "2"), ("a_b", "3"), ("a.b", "2"), ("job", "mine"), ("service.name", "own"), ("gone", ""), ("le", "x")];
        let p = point(&own);
        let labels = PointLabels::read(&b, &p, 7).unwrap();
        let mut out = Vec::new();
        w.write(&labels, "m_bucket", Some(("le", "0.5")), &mut out);
        let want = [
            ("__name__", "m_bucket"),
            ("a_b", "2;3"),
            ("job", "shop"),
            ("le", "0.5"),
            ("pod", "p"),
            ("service_name", "own"),
            ("z", "last"),
        ];
        assert_eq!(pairs(&out), want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        out.clear();
        w.write(&labels, "m", None, &mut out);
        assert!(pairs(&out).contains(&("le".into(), "x".into())));
    }

    proptest::proptest! {
        #[test]
        fn a_plan_writes_what_the_slow_way_writes(
            points in proptest::collection::vec(
                proptest::collection::vec((proptest::sample::select(vec!["a", "b.c", "b_c", "job", "le", "__name__", "x y", "pod"]), "[ab]{0,2}"), 0..5),
                1..20,
            ),
            extra in proptest::bool::ANY,
        ) {
            let mut w = labeler();
            let bases = [base(&mut w, &[("job", "j"), ("pod", "p")]), base(&mut w, &[("instance", "i"), ("le", "base")])];
            for (i, own) in points.iter().enumerate() {
                let own: Vec<(&str, &str)> = own.iter().map(|(k, v)| (*k, v.as_str())).collect();
                let p = point(&own);
                let labels = PointLabels::read(&bases[i % 2], &p, 7).unwrap();
                let extra = extra.then_some(("le", "0.5"));
                let (mut fast, mut slow) = (Vec::new(), Vec::new());
                w.write(&labels, "m", extra, &mut fast);
                w.write_slowly(&labels, "m", extra, &mut slow);
                proptest::prop_assert_eq!(pairs(&fast), pairs(&slow));
            }
        }
    }
}
