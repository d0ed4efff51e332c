//! Reading series: select by matchers, then stream samples series by series.

use std::sync::Arc;

use crate::error::Result;
use crate::model::{Exemplar, FloatHistogram, Labels, Matcher, MetricMetadata, Sample, TimeRange, is_stale};

/// Warnings that a partial answer carries; empty unless the caller asked for partial answers.
pub type Warnings = Vec<String>;

/// What a query wants, with what storage may use to do less.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// All of them must pass. At least one should not match the empty string; the query layer enforces it.
    pub matchers: Vec<Matcher>,
    /// The samples that may be asked for; both ends included.
    pub range: TimeRange,
    /// Whether the caller wants series in label order. Unordered may be cheaper.
    pub sorted: bool,
    /// Answer what can be read and warn, instead of failing.
    pub partial: bool,
}

impl SelectRequest {
    /// Matchers over a range, sorted, no partial answers.
    pub fn new(matchers: Vec<Matcher>, range: TimeRange) -> Self {
        SelectRequest { matchers, range, sorted: true, partial: false }
    }
}

/// What a listing of names or values covers.
#[derive(Clone, Debug)]
pub struct LabelQuery {
    /// Series to look at; empty means all.
    pub matchers: Vec<Matcher>,
    /// Series with data in this range (blocks and head ranges are the granularity).
    pub range: TimeRange,
    /// At most so many; 0 is no limit.
    pub limit: usize,
    /// Answer what can be read and warn, instead of failing.
    pub partial: bool,
}

/// A store of series that can be queried. Handles are cheap; each selection owns its snapshot.
pub trait SeriesSource: Send + Sync {
    /// Series that pass the matchers and may have data in the range.
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesSelection>>;

    /// Label names, sorted.
    fn label_names(&self, query: &LabelQuery) -> Result<(Vec<String>, Warnings)>;

    /// Values of one label, sorted.
    fn label_values(&self, name: &str, query: &LabelQuery) -> Result<(Vec<String>, Warnings)>;

    /// Exemplars of series that pass any of the matcher sets, by series in label order, oldest first.
    fn exemplars(&self, matcher_sets: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<ExemplarSeries>>;

    /// Metadata by metric family, sorted by name; `metric` narrows to one family.
    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<MetricMetadata>)>>;
}

/// Exemplars of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct ExemplarSeries {
    /// The series.
    pub labels: Labels,
    /// Oldest first.
    pub exemplars: Vec<Exemplar>,
}

/// The outcome of a select: `len()` series addressed by index, read in any order and from any thread.
/// It owns its snapshot: flush, compaction and retention change nothing it answers.
pub trait SeriesSelection: Send + Sync {
    /// Number of series.
    fn len(&self) -> usize;

    /// Whether nothing was found.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Labels of series `i`, allocated.
    fn labels(&self, i: usize) -> Labels;

    /// Calls `f` with each label of series `i` in name order, without allocating.
    fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) {
        for (n, v) in self.labels(i).iter() {
            f(n, v);
        }
    }

    /// Appends nothing if there is no sample; otherwise the samples of series `i` with
    /// `range.min_ms <= t <= range.max_ms`, in rising time, staleness markers included.
    /// `out` is cleared first. The range must lie in the request's.
    fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()>;

    /// The newest sample with `range.min_ms <= t <= range.max_ms`, if that is all one needs.
    /// The default reads the range; stores answer from their open chunk where they can.
    fn newest(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<Option<Newest>> {
        self.read(i, range, scratch)?;
        Ok(scratch.last())
    }

    /// Whether there is a newest sample in the range that is no staleness marker.
    /// The default looks at it; stores tell from what they know of their chunks where they can.
    fn is_live(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<bool> {
        Ok(self.newest(i, range, scratch)?.is_some_and(|n| !n.is_stale()))
    }

    /// Calls `f` with numbers that stand for the names and values of series `i`'s labels, in name order: within this
    /// selection two are equal exactly if their strings are. False if the store has no such numbers.
    fn visit_symbols(&self, i: usize, f: &mut dyn FnMut(u32, u32)) -> bool {
        let _ = (i, f);
        false
    }

    /// Series `from..to` are about to be read: storage may fetch their chunks together. Never blocks for long.
    fn prefetch(&self, from: usize, to: usize) {
        let _ = (from, to);
    }

    /// What could not be read, if partial answers were asked for.
    fn warnings(&self) -> Warnings {
        Vec::new()
    }
}

/// One sample of either type.
#[derive(Clone, Debug)]
pub struct Newest {
    /// Unix milliseconds.
    pub t: i64,
    /// The value; NaN beside a histogram.
    pub v: f64,
    /// Start timestamp, 0 if unknown.
    pub st: i64,
    /// The histogram, if the sample is one.
    pub h: Option<Arc<FloatHistogram>>,
}

impl Newest {
    /// Whether it says that the series ended.
    pub fn is_stale(&self) -> bool {
        self.h.as_ref().map_or(is_stale(self.v), |h| h.is_stale())
    }
}

/// Decoded samples of one series in columns; reuse it from series to series.
#[derive(Clone, Debug, Default)]
pub struct SampleBuf {
    /// Unix milliseconds, rising strictly.
    pub t: Vec<i64>,
    /// Values; NaN where the sample is a histogram. Same length as `t`.
    pub v: Vec<f64>,
    /// Start timestamps, Unix milliseconds, 0 for unknown; empty if no sample has one, else as long as `t`.
    pub st: Vec<i64>,
    /// Histograms; empty if no sample is one, else as long as `t`.
    pub h: Vec<Option<Arc<FloatHistogram>>>,
}

impl SampleBuf {
    /// Forgets the samples, keeps the memory.
    pub fn clear(&mut self) {
        self.t.clear();
        self.v.clear();
        self.st.clear();
        self.h.clear();
    }
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.t.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.t.is_empty()
    }
    /// Start timestamp of sample `i`, 0 if unknown.
    pub fn start(&self, i: usize) -> i64 {
        self.st.get(i).copied().unwrap_or(0)
    }
    /// The histogram of sample `i`, if it is one.
    pub fn histogram(&self, i: usize) -> Option<&Arc<FloatHistogram>> {
        self.h.get(i).and_then(|h| h.as_ref())
    }
    /// Whether any sample is a histogram.
    pub fn has_histograms(&self) -> bool {
        !self.h.is_empty()
    }
    /// Adds a float sample.
    #[inline]
    pub fn push(&mut self, t: i64, v: f64, st: i64) {
        self.t.push(t);
        self.v.push(v);
        if st != 0 && self.st.is_empty() {
            self.st.resize(self.t.len() - 1, 0);
        }
        if st != 0 || !self.st.is_empty() {
            self.st.push(st);
        }
        if !self.h.is_empty() {
            self.h.push(None);
        }
    }
    /// Adds a histogram sample.
    pub fn push_histogram(&mut self, t: i64, h: Arc<FloatHistogram>, st: i64) {
        let n = self.t.len();
        self.push(t, f64::NAN, st);
        if self.h.is_empty() {
            self.h.resize(n + 1, None);
        }
        self.h[n] = Some(h);
    }
    /// The last sample.
    pub fn last(&self) -> Option<Newest> {
        let i = self.t.len().checked_sub(1)?;
        Some(Newest { t: self.t[i], v: self.v[i], st: self.start(i), h: self.histogram(i).cloned() })
    }
    /// The float sample `i`.
    pub fn sample(&self, i: usize) -> Sample {
        Sample { t: self.t[i], v: self.v[i] }
    }
}
