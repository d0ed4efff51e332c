//! Labels of a data point: what it says itself and what its resource and scope say, sorted, without a copy of a text.

use std::borrow::Cow;
use std::rc::Rc;

use super::super::attributes::{LabelSet, each};
use super::super::names::{Strategy, label_name};
use super::super::wire::WireError;

/// Escaped names remembered of a request: the points of a metric have the same keys again and again.
const MAX_NAMES: usize = 64;

/// Escapes label names, each once.
pub(super) struct Names {
    strategy: Strategy,
    known: Vec<(String, Rc<str>)>,
}

impl Names {
    pub(super) fn new(strategy: Strategy) -> Self {
        Names { strategy, known: Vec::new() }
    }

    fn of(&mut self, key: &str) -> Rc<str> {
        if let Some((_, name)) = self.known.iter().find(|(k, _)| k == key) {
            return name.clone();
        }
        let name: Rc<str> = label_name(key, self.strategy).into();
        if self.known.len() < MAX_NAMES {
            self.known.push((key.to_owned(), name.clone()));
        }
        name
    }
}

/// What resource and scope say, once for all their points.
pub(super) fn base(set: &LabelSet) -> Vec<(Rc<str>, String)> {
    set.iter().map(|(n, v)| (n.into(), v.to_owned())).collect()
}

struct Pair<'a> {
    name: Rc<str>,
    key: &'a str,
    value: Cow<'a, str>,
}

/// Labels of a point but for its name, sorted.
pub(super) struct PointLabels<'a>(Vec<Pair<'a>>);

impl<'a> PointLabels<'a> {
    /// Attributes are field `number` of the point. They win over the base, but for job and instance.
    pub(super) fn read(names: &mut Names, base: &'a [(Rc<str>, String)], point: &'a [u8], number: u32) -> Result<Self, WireError> {
        let mut own: Vec<Pair<'a>> = Vec::with_capacity(base.len() + 8);
        each(point, number, &mut |key, value| {
            if !key.is_empty() {
                own.push(Pair { name: names.of(key), key, value });
            }
        })?;
        own.sort_unstable_by(|a, b| (&a.name, a.key, &a.value).cmp(&(&b.name, b.key, &b.value)));
        // Names that became the same by escaping: their values joined, in the order of the keys.
        own.dedup_by(|next, into| {
            let same = next.name == into.name;
            if same && next.value != into.value {
                into.value.to_mut().push(';');
                into.value.to_mut().push_str(&next.value);
            }
            same
        });
        own.retain(|p| !p.value.is_empty());
        let n = own.len();
        for (name, value) in base {
            match own[..n].binary_search_by(|p| p.name.cmp(name)) {
                Ok(i) if **name == *"job" || **name == *"instance" => own[i].value = Cow::Borrowed(value),
                Ok(_) => {}
                Err(_) => own.push(Pair { name: name.clone(), key: "", value: Cow::Borrowed(value) }),
            }
        }
        own.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(PointLabels(own))
    }

    /// All pairs with the metric's name and perhaps one more, which win over labels of the same name.
    pub(super) fn with<'s>(&'s self, name: &'s str, extra: Option<(&'s str, &'s str)>) -> impl Iterator<Item = (&'s str, &'s str)> {
        let extras = [Some(("__name__", name)), extra].into_iter().flatten().filter(|(_, v)| !v.is_empty());
        let taken = move |n: &str| n == "__name__" || extra.is_some_and(|(e, _)| e == n);
        let mut own = self.0.iter().map(|p| (&*p.name, &*p.value)).filter(move |(n, _)| !taken(n)).peekable();
        // `__name__` and one other, in order.
        let mut extras: Vec<(&str, &str)> = extras.collect();
        extras.sort_unstable();
        let mut extras = extras.into_iter().peekable();
        std::iter::from_fn(move || match (own.peek(), extras.peek()) {
            (Some(a), Some(b)) if a.0 < b.0 => own.next(),
            (_, Some(_)) => extras.next(),
            _ => own.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::otlp::wire::Writer;

    #[test]
    fn points_win_but_for_job_and_instance_and_names_that_meet_are_joined() {
        let mut point = Writer::default();
        for (k, v) in
            [("z", "last"), ("a.b", "2"), ("a_b", "3"), ("a.b", "2"), ("job", "mine"), ("service.name", "own"), ("gone", ""), ("le", "x")]
        {
            point.message(7, |w| {
                w.bytes(1, k.as_bytes());
                w.message(2, |w| w.bytes(1, v.as_bytes()));
            });
        }
        let mut set = LabelSet::default();
        [("job", "shop"), ("service_name", "shop"), ("pod", "p")].iter().for_each(|(n, v)| set.set(n, v));
        set.settle();
        let base = base(&set);
        let mut names = Names::new(Strategy::named("UnderscoreEscapingWithSuffixes"));
        let labels = PointLabels::read(&mut names, &base, &point.0, 7).unwrap();
        let all: Vec<_> = labels.with("m_bucket", Some(("le", "0.5"))).collect();
        let want = [
            ("__name__", "m_bucket"),
            ("a_b", "2;3"),
            ("job", "shop"),
            ("le", "0.5"),
            ("pod", "p"),
            ("service_name", "own"),
            ("z", "last"),
        ];
        assert_eq!(all, want);
        assert_eq!(labels.with("m", None).find(|(n, _)| *n == "le"), Some(("le", "x")));
    }
}
