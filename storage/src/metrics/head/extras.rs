//! Exemplars and metadata: small, bounded, kept whole in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::model::{Exemplar, Labels, Matcher, MetricMetadata, TimeRange};
use crate::read::ExemplarSeries;

/// The newest exemplars over all series, oldest out first.
#[derive(Debug)]
pub struct ExemplarStore {
    ring: VecDeque<(u64, Labels, Exemplar)>,
    /// Exemplars that were pushed out.
    gone: u64,
    /// Of each series in the ring, how many exemplars of any series came before its newest.
    newest: HashMap<u64, u64>,
    max: usize,
}

/// A sender's retry brings exemplars of these last ones again, whatever their order.
const RETRIED: usize = 64;

impl ExemplarStore {
    /// Keeps at most `max`.
    pub fn new(max: usize) -> Self {
        ExemplarStore { ring: VecDeque::new(), gone: 0, newest: HashMap::new(), max }
    }

    /// Adds one; false if the series' newest is the same already.
    pub fn push(&mut self, id: u64, series: &Labels, e: Exemplar) -> bool {
        if self.max == 0 {
            return false;
        }
        let same = |(i, _, old): &(u64, Labels, Exemplar)| *i == id && *old == e;
        let last = self.newest.get(&id).and_then(|at| self.ring.get((at - self.gone) as usize));
        if last.is_some_and(same) || self.ring.iter().rev().take(RETRIED).any(same) {
            return false;
        }
        if self.ring.len() == self.max {
            if let Some((oldest, ..)) = self.ring.pop_front()
                && self.newest.get(&oldest) == Some(&self.gone)
            {
                self.newest.remove(&oldest);
            }
            self.gone += 1;
        }
        self.newest.insert(id, self.gone + self.ring.len() as u64);
        self.ring.push_back((id, series.clone(), e));
        true
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Labels, &Exemplar)> {
        self.ring.iter().map(|(i, l, e)| (*i, l, e))
    }

    /// By series in label order, oldest first; of series that pass any of the sets.
    pub fn select(&self, sets: &[Vec<Matcher>], range: TimeRange) -> Vec<ExemplarSeries> {
        let mut found: BTreeMap<&Labels, Vec<Exemplar>> = BTreeMap::new();
        for (_, l, e) in &self.ring {
            if range.contains(e.t) && sets.iter().any(|s| s.iter().all(|m| m.matches(l.value(&m.name)))) {
                found.entry(l).or_default().push(e.clone());
            }
        }
        let sorted = |mut v: Vec<Exemplar>| {
            v.sort_by_key(|e| e.t);
            v
        };
        found.into_iter().map(|(l, e)| ExemplarSeries { labels: l.clone(), exemplars: sorted(e) }).collect()
    }
}

/// Metadata by family: usually one, more where sources disagree.
#[derive(Debug)]
pub struct MetadataStore {
    families: BTreeMap<String, Vec<MetricMetadata>>,
    max: usize,
}

const VARIANTS: usize = 10;

impl MetadataStore {
    /// Keeps at most `max` families.
    pub fn new(max: usize) -> Self {
        MetadataStore { families: BTreeMap::new(), max }
    }

    /// Whether this says something new (and there is room).
    pub fn is_new(&self, family: &str, m: &MetricMetadata) -> bool {
        match self.families.get(family) {
            Some(v) => v.len() < VARIANTS && !v.contains(m),
            None => self.families.len() < self.max,
        }
    }

    /// Adds what is new.
    pub fn insert(&mut self, family: &str, m: MetricMetadata) {
        if self.is_new(family, &m) {
            let v = self.families.entry(family.to_owned()).or_default();
            v.push(m);
            v.sort();
        }
    }

    /// All, sorted by family.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<MetricMetadata>)> {
        self.families.iter()
    }

    /// One family's.
    pub fn get(&self, family: &str) -> Option<&Vec<MetricMetadata>> {
        self.families.get(family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_newest_exemplar_is_kept_once_however_many_come_between() {
        let labels = Labels::from_pairs([("__name__", "a")]);
        let e = |v: f64| Exemplar { labels: Labels::from_pairs([("trace_id", "x")]), v, t: 1 };
        let mut store = ExemplarStore::new(250);
        // As pages with many exemplars bring them, over and over.
        for turn in 0..5 {
            for id in 0..200 {
                assert_eq!(store.push(id, &labels, e(id as f64)), turn == 0, "series {id}, turn {turn}");
            }
        }
        // Where older ones are pushed out, what is known of them goes too.
        for id in 0..200 {
            assert!(store.push(id, &labels, e(-1.0)));
        }
        assert_eq!((store.iter().count(), store.newest.len()), (250, 200));
        assert!((0..200).all(|id| !store.push(id, &labels, e(-1.0))));
        for id in 1000..1250 {
            assert!(store.push(id, &labels, e(0.0)));
        }
        assert_eq!((store.iter().count(), store.newest.len()), (250, 250));
        assert!(store.push(0, &labels, e(-1.0)));
    }
}
