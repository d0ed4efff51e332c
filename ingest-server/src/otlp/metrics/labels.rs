//! Labels of a data point: what it says itself and what its resource and scope say, sorted, written as label bytes.
//!
//! The points of a metric have the same keys again and again. Where the labels go is worked out once for a sequence of
//! keys; after that a point costs a comparison of its keys and a copy of its values. The many series of a histogram's
//! point differ in two labels alone: the rest is written once, as what stands [`Around`] them.

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

/// A label that comes with many points or series: its bytes are made once.
pub(super) struct Label {
    name: &'static str,
    value: String,
    bytes: Vec<u8>,
}

impl Label {
    pub(super) fn new(name: &'static str, value: String) -> Self {
        let mut bytes = Vec::with_capacity(name.len() + value.len() + 6);
        put_canonical(name.as_bytes(), value.as_bytes(), &mut bytes);
        Label { name, value, bytes }
    }
    /// A metric's name.
    pub(super) fn metric(name: String) -> Self {
        Label::new(NAME, name)
    }
}

/// The labels of a point that stand before its name, between that and one more label, and behind.
pub(super) struct Around {
    bytes: Vec<u8>,
    name_at: usize,
    extra_at: usize,
}

impl Around {
    /// All labels of one series.
    pub(super) fn write(&self, name: &Label, extra: Option<&Label>, out: &mut Vec<u8>) {
        let (before, rest) = self.bytes.split_at(self.name_at);
        let (between, behind) = rest.split_at(self.extra_at - self.name_at);
        let extra: &[u8] = extra.map_or(&[], |e| &e.bytes);
        [before, &name.bytes, between, extra, behind].iter().for_each(|part| out.extend_from_slice(part));
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
    /// The extra label takes the place of another.
    masks: bool,
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
    pub(super) fn write(&mut self, l: &PointLabels<'_>, name: &Label, extra: Option<&Label>, out: &mut Vec<u8>) {
        let Some(plan) = self.plan_for(l, extra.map(|e| e.name)) else { return write_slowly(l, self.strategy, name, extra, out) };
        for slot in &plan.slots {
            match slot {
                Slot::Name => out.extend_from_slice(&name.bytes),
                Slot::Extra => out.extend_from_slice(extra.map_or(&[], |e| &e.bytes)),
                Slot::Base(i) => out.extend_from_slice(&l.base.pairs[*i].2),
                Slot::Own(i, name) => put_canonical(name.as_bytes(), l.own[*i].1.as_bytes(), out),
            }
        }
    }

    /// What is the same in all series of a point that have `extra` or not; none where that is not simple.
    pub(super) fn around(&mut self, l: &PointLabels<'_>, extra: &'static str) -> Option<Around> {
        let plan = self.plan_for(l, Some(extra)).filter(|p| !p.masks)?;
        let (mut bytes, mut name_at, mut extra_at) = (Vec::with_capacity(256), None, None);
        for slot in &plan.slots {
            match slot {
                Slot::Name => name_at = Some(bytes.len()),
                Slot::Extra => extra_at = Some(bytes.len()),
                Slot::Base(i) => bytes.extend_from_slice(&l.base.pairs[*i].2),
                Slot::Own(i, name) => put_canonical(name.as_bytes(), l.own[*i].1.as_bytes(), &mut bytes),
            }
        }
        let (name_at, extra_at) = (name_at?, extra_at?);
        (name_at <= extra_at).then_some(Around { bytes, name_at, extra_at })
    }

    /// The plan for a point, made if need be; none if names meet after escaping or a value is empty.
    fn plan_for(&mut self, l: &PointLabels<'_>, extra: Option<&'static str>) -> Option<&Plan> {
        let fits = |p: &Plan| {
            p.base == l.base.number && p.extra == extra && p.keys.len() == l.own.len() && p.keys.iter().zip(&l.own).all(|(k, o)| k == o.0)
        };
        if l.own.iter().any(|o| o.1.is_empty()) {
            return None;
        }
        let at = match self.plans.iter().position(fits) {
            Some(at) => at,
            None => {
                let plan = self.plan(l, extra)?;
                if self.plans.len() < MAX_PLANS {
                    self.plans.push(plan);
                    self.plans.len() - 1
                } else {
                    self.next = (self.next + 1) % MAX_PLANS;
                    self.plans[self.next] = plan;
                    self.next
                }
            }
        };
        self.plans.get(at)
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
                Some(own) if wins(name) => own.1 = Slot::Base(i),
                Some(_) => {}
                None => all.push((name.clone(), Slot::Base(i))),
            }
        }
        let masks = all.iter().any(|(n, _)| extra == Some(n));
        all.retain(|(n, _)| !taken(n));
        all.push((NAME.to_owned(), Slot::Name));
        all.extend(extra.map(|e| (e.to_owned(), Slot::Extra)));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let keys = l.own.iter().map(|o| o.0.to_owned()).collect();
        Some(Plan { base: l.base.number, extra, masks, keys, slots: all.into_iter().map(|(_, s)| s).collect() })
    }
}

/// What a point is part of is not for the point to say.
fn wins(name: &str) -> bool {
    name == "job" || name == "instance" || name.starts_with("otel_scope_")
}

/// Any point: names that became the same by escaping have their values joined, in the order of the keys; empty
/// values are no labels.
fn write_slowly(l: &PointLabels<'_>, strategy: Strategy, name: &Label, extra: Option<&Label>, out: &mut Vec<u8>) {
    let mut own: Vec<(String, &str, String)> =
        l.own.iter().map(|(k, v)| (label_name(k, strategy).into_owned(), *k, v.to_string())).collect();
    own.sort();
    own.dedup_by(|next, into| {
        let same = next.0 == into.0;
        // One that is sent twice is one.
        if same && (next.1 != into.1 || next.2 != into.2) {
            into.2.push(';');
            into.2.push_str(&next.2);
            into.1 = next.1;
        }
        same
    });
    own.retain(|p| !p.2.is_empty());
    let n = own.len();
    for (base_name, value, _) in &l.base.pairs {
        match own[..n].iter().position(|p| p.0 == *base_name) {
            Some(i) if wins(base_name) => own[i].2 = value.clone(),
            Some(_) => {}
            None => own.push((base_name.clone(), "", value.clone())),
        }
    }
    own.retain(|p| p.0 != NAME && extra.is_none_or(|e| e.name != p.0));
    own.push((NAME.to_owned(), "", name.value.clone()));
    own.extend(extra.map(|e| (e.name.to_owned(), "", e.value.clone())));
    own.sort();
    own.iter().filter(|p| !p.2.is_empty()).for_each(|p| put_canonical(p.0.as_bytes(), p.2.as_bytes(), out));
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
        let b = base(&mut w, &[("job", "shop"), ("otel_scope_name", "lib"), ("service_name", "shop"), ("pod", "p")]);
        let own = [
            ("z", "last"),
            ("a.b", "2"),
            ("a_b", "3"),
            ("a.b", "2"),
            ("c.d", "4"),
            ("c_d", "4"),
            ("otel.scope.name", "x"),
            ("job", "mine"),
            ("service.name", "own"),
            ("gone", ""),
            ("le", "x"),
        ];
        let p = point(&own);
        let labels = PointLabels::read(&b, &p, 7).unwrap();
        let mut out = Vec::new();
        w.write(&labels, &Label::metric("m_bucket".into()), Some(&Label::new("le", "0.5".into())), &mut out);
        let want = [
            ("__name__", "m_bucket"),
            ("a_b", "2;3"),
            ("c_d", "4;4"),
            ("job", "shop"),
            ("le", "0.5"),
            ("otel_scope_name", "lib"),
            ("pod", "p"),
            ("service_name", "own"),
            ("z", "last"),
        ];
        assert_eq!(pairs(&out), want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        out.clear();
        w.write(&labels, &Label::metric("m".into()), None, &mut out);
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
                let (name, le) = (Label::metric("m".into()), Label::new("le", "0.5".into()));
                let extra = extra.then_some(&le);
                let (mut fast, mut slow) = (Vec::new(), Vec::new());
                w.write(&labels, &name, extra, &mut fast);
                write_slowly(&labels, w.strategy, &name, extra, &mut slow);
                proptest::prop_assert_eq!(pairs(&fast), pairs(&slow));
                if let Some(around) = w.around(&labels, "le") {
                    let mut again = Vec::new();
                    around.write(&name, extra, &mut again);
                    proptest::prop_assert_eq!(again, fast);
                }
            }
        }
    }
}
