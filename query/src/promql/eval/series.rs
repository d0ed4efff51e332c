//! Series of step values, dense.

use std::sync::Arc;

use strandline_storage::model::{FloatHistogram, Labels, METRIC_NAME, STALE_NAN};

use super::super::error::{Error, Result};

/// The float that stands for "no float at this step". Staleness markers never reach step values, and no
/// arithmetic makes a signalling NaN, so the marker's bits are free.
pub(crate) const ABSENT: f64 = f64::from_bits(STALE_NAN);

#[inline]
pub(crate) fn is_absent(v: f64) -> bool {
    v.to_bits() == STALE_NAN
}

/// A histogram shared between steps and series.
pub(crate) type Hist = Arc<FloatHistogram>;

/// A sample of a step.
#[derive(Clone, Debug)]
pub(crate) enum Sample {
    F(f64),
    H(Hist),
}

/// One series' value at every step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub labels: Labels,
    /// The name goes when the query is done: functions need it until then.
    pub drop_name: bool,
    pub v: Vec<f64>,
    /// Empty where no step is a histogram.
    pub h: Vec<Option<Hist>>,
}

impl Series {
    pub fn new(labels: Labels, drop_name: bool, n: usize) -> Self {
        Series { labels, drop_name, v: vec![ABSENT; n], h: Vec::new() }
    }
    #[inline]
    pub fn hist(&self, i: usize) -> Option<&Hist> {
        self.h.get(i).and_then(|h| h.as_ref())
    }
    #[inline]
    pub fn has(&self, i: usize) -> bool {
        !is_absent(self.v[i]) || self.hist(i).is_some()
    }
    pub fn get(&self, i: usize) -> Option<Sample> {
        match self.hist(i) {
            Some(h) => Some(Sample::H(h.clone())),
            None if is_absent(self.v[i]) => None,
            None => Some(Sample::F(self.v[i])),
        }
    }
    pub fn set(&mut self, i: usize, s: Sample) {
        match s {
            Sample::F(v) => self.v[i] = v,
            Sample::H(h) => {
                if self.h.is_empty() {
                    self.h.resize(self.v.len(), None);
                }
                self.h[i] = Some(h);
            }
        }
    }
    /// Memory besides the floats: the record, its labels, its histograms.
    pub fn beside_bytes(&self) -> usize {
        let histograms = self.h.iter().map(|h| size_of::<Option<Hist>>() + h.as_deref().map_or(0, histogram_bytes));
        size_of::<Series>() + self.labels.as_bytes().len() + histograms.sum::<usize>()
    }
    pub fn is_empty(&self) -> bool {
        (0..self.v.len()).all(|i| !self.has(i))
    }
}

/// Memory of a histogram.
pub(crate) fn histogram_bytes(h: &FloatHistogram) -> usize {
    let words = h.positive_spans.len() + h.negative_spans.len() + h.positive_buckets.len() + h.negative_buckets.len();
    size_of::<FloatHistogram>() + 8 * words
}

/// Labels that describe the metric rather than the series.
pub(crate) fn is_metadata_label(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

pub(crate) fn without_name(l: &Labels) -> Labels {
    if l.iter().any(|(n, _)| is_metadata_label(n)) { l.without(is_metadata_label) } else { l.clone() }
}

const SAME_LABELSET: &str = "vector cannot contain metrics with the same labelset";

pub(crate) fn same_labelset() -> Error {
    Error::exec(SAME_LABELSET)
}

/// Joins series of equal labels that share no step.
pub(crate) fn merge_same_labels(rows: Vec<Series>) -> Result<Vec<Series>> {
    if rows.len() <= 1 {
        return Ok(rows);
    }
    let mut index: hashbrown::HashMap<Labels, usize, foldhash::fast::RandomState> =
        hashbrown::HashMap::with_capacity_and_hasher(rows.len(), foldhash::fast::RandomState::default());
    let mut out: Vec<Series> = Vec::with_capacity(rows.len());
    for r in rows {
        match index.entry(r.labels.clone()) {
            hashbrown::hash_map::Entry::Vacant(v) => {
                v.insert(out.len());
                out.push(r);
            }
            hashbrown::hash_map::Entry::Occupied(o) => {
                let into = &mut out[*o.get()];
                for i in 0..r.v.len() {
                    if let Some(s) = r.get(i) {
                        if into.has(i) {
                            return Err(same_labelset());
                        }
                        into.set(i, s);
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Drops the names due to go, and fails where two series then look alike at one step.
pub(crate) fn drop_names(mut rows: Vec<Series>) -> Result<Vec<Series>> {
    for r in &mut rows {
        if r.drop_name {
            r.labels = without_name(&r.labels);
        }
    }
    merge_same_labels(rows)
}
