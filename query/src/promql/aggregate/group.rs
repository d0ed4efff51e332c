//! Which group a series belongs to.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use strandline_storage::model::{Labels, METRIC_NAME};

use super::super::eval::source::Source;

/// `by (...)` or `without (...)`.
pub(crate) struct Grouping {
    labels: Vec<String>,
    without: bool,
}

impl Grouping {
    pub fn new(labels: &[String], without: bool) -> Self {
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        labels.dedup();
        Grouping { labels, without }
    }

    /// Groups by one more label.
    pub fn add(&mut self, name: &str) {
        if let Err(i) = self.labels.binary_search_by(|l| l.as_str().cmp(name)) {
            self.labels.insert(i, name.to_owned());
        }
    }

    /// Whether everything is one group.
    pub fn is_single(&self) -> bool {
        !self.without && self.labels.is_empty()
    }

    fn keeps(&self, name: &str) -> bool {
        if self.without {
            name != METRIC_NAME && self.labels.binary_search_by(|l| l.as_str().cmp(name)).is_err()
        } else {
            self.labels.binary_search_by(|l| l.as_str().cmp(name)).is_ok()
        }
    }

    /// Writes the packed labels of series `i`'s group.
    fn key(&self, source: &Source, i: usize, out: &mut Vec<u8>) {
        out.clear();
        if self.is_single() {
            return;
        }
        source.visit_labels(i, &mut |n, v| {
            if self.keeps(n) {
                for s in [n, v] {
                    out.extend_from_slice(&(s.len() as u32).to_le_bytes());
                    out.extend_from_slice(s.as_bytes());
                }
            }
        });
    }

    /// The group's labels.
    pub fn labels_of(&self, l: &Labels) -> Labels {
        l.without(|n| !self.keeps(n))
    }
}

/// The groups met so far, in order of appearance.
pub(crate) struct Groups {
    index: HashMap<Box<[u8]>, usize, RandomState>,
    key: Vec<u8>,
    symbols: Symbols,
    pub labels: Vec<Labels>,
    /// Whether any series of the group lost its name.
    pub drop_name: Vec<bool>,
}

/// Groups by the numbers that the source has for its strings, so that most series need no string at all.
#[derive(Default)]
struct Symbols {
    /// Whether a name counts.
    keeps: HashMap<u32, bool, RandomState>,
    /// The names of the series before this one: mostly they are the same.
    layout: Vec<(u32, bool)>,
    groups: HashMap<Box<[u32]>, usize, RandomState>,
    key: Vec<u32>,
    /// Neighbours mostly share a group.
    last: (Vec<u32>, usize),
}

impl Symbols {
    /// Makes the key of series `i`; false if the source has no numbers for it.
    fn key(&mut self, grouping: &Grouping, source: &Source, i: usize) -> bool {
        self.fill(source, i).unwrap_or_else(|| {
            self.learn(grouping, source, i);
            self.fill(source, i).unwrap_or(false)
        })
    }

    /// The same; `None` if a name is new.
    fn fill(&mut self, source: &Source, i: usize) -> Option<bool> {
        self.key.clear();
        let mut unknown = false;
        let (key, keeps, layout) = (&mut self.key, &self.keeps, &mut self.layout);
        let mut at = 0;
        let numbered = source.visit_symbols(i, &mut |n, v| {
            let kept = match layout.get(at) {
                Some((name, kept)) if *name == n => Some(*kept),
                _ => {
                    layout.truncate(at);
                    let kept = keeps.get(&n).copied();
                    layout.extend(kept.map(|kept| (n, kept)));
                    kept
                }
            };
            at += 1;
            match kept {
                Some(true) => key.extend_from_slice(&[n, v]),
                Some(false) => {}
                None => unknown = true,
            }
        });
        (!unknown).then_some(numbered)
    }

    #[cold]
    fn learn(&mut self, grouping: &Grouping, source: &Source, i: usize) {
        let mut keeps = Vec::new();
        source.visit_labels(i, &mut |n, _| keeps.push(grouping.keeps(n)));
        let mut keeps = keeps.into_iter();
        source.visit_symbols(i, &mut |n, _| {
            if let Some(k) = keeps.next() {
                self.keeps.insert(n, k);
            }
        });
    }
}

impl Groups {
    pub fn new() -> Self {
        Groups {
            index: HashMap::with_hasher(RandomState::default()),
            key: Vec::new(),
            symbols: Symbols::default(),
            labels: Vec::new(),
            drop_name: Vec::new(),
        }
    }

    /// The number of series `i`'s group.
    pub fn of(&mut self, grouping: &Grouping, source: &Source, i: usize) -> usize {
        if grouping.is_single() && !self.labels.is_empty() {
            return 0;
        }
        if !self.symbols.key(grouping, source, i) {
            return self.by_strings(grouping, source, i);
        }
        let s = &self.symbols;
        if s.key == s.last.0 && !self.labels.is_empty() {
            return s.last.1;
        }
        let g = match s.groups.get(s.key.as_slice()) {
            Some(g) => *g,
            None => {
                let g = self.by_strings(grouping, source, i);
                self.symbols.groups.insert(self.symbols.key.as_slice().into(), g);
                g
            }
        };
        let s = &mut self.symbols;
        s.last.0.clone_from(&s.key);
        s.last.1 = g;
        g
    }

    fn by_strings(&mut self, grouping: &Grouping, source: &Source, i: usize) -> usize {
        grouping.key(source, i, &mut self.key);
        if let Some(g) = self.index.get(self.key.as_slice()) {
            return *g;
        }
        let labels = if grouping.is_single() { Labels::empty() } else { grouping.labels_of(&source.labels(i)) };
        self.insert(self.key.clone().into(), labels)
    }

    fn insert(&mut self, key: Box<[u8]>, labels: Labels) -> usize {
        let g = self.labels.len();
        self.index.insert(key, g);
        self.labels.push(labels);
        self.drop_name.push(false);
        g
    }

    /// Numbers of another partition's groups in this one; new ones are added behind.
    pub fn join(&mut self, other: Groups) -> Vec<usize> {
        let mut keys: Vec<(usize, Box<[u8]>)> = other.index.into_iter().map(|(k, g)| (g, k)).collect();
        keys.sort_unstable_by_key(|(g, _)| *g);
        keys.into_iter()
            .map(|(g, key)| {
                let to = match self.index.get(&key) {
                    Some(t) => *t,
                    None => self.insert(key, other.labels[g].clone()),
                };
                self.drop_name[to] |= other.drop_name[g];
                to
            })
            .collect()
    }
}
