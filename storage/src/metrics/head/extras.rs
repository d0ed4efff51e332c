//! Exemplars and metadata: small, bounded, kept whole in memory.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{Exemplar, Labels, Matcher, MetricMetadata, TimeRange};
use crate::read::ExemplarSeries;

/// The newest exemplars over all series, oldest out first.
#[derive(Debug)]
pub struct ExemplarStore {
    ring: VecDeque<(u64, Labels, Exemplar)>,
    max: usize,
}

impl ExemplarStore {
    /// Keeps at most `max`.
    pub fn new(max: usize) -> Self {
        ExemplarStore { ring: VecDeque::new(), max }
    }

    /// Adds one; false if the series' newest is the same already.
    pub fn push(&mut self, id: u64, series: &Labels, e: Exemplar) -> bool {
        if self.max == 0 {
            return false;
        }
        if self.ring.iter().rev().take(64).any(|(i, _, old)| *i == id && *old == e) {
            return false;
        }
        if self.ring.len() == self.max {
            self.ring.pop_front();
        }
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
