//! A source of series in memory: for examples, tests, and whoever has data at hand and wants PromQL over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_storage::Result;
use strandline_storage::model::{CounterReset, FloatHistogram, Labels, MatchOp, Matcher, MetricMetadata, TimeRange};
use strandline_storage::read::{ExemplarSeries, LabelQuery, Newest, SampleBuf, SelectRequest, SeriesSelection, SeriesSource, Warnings};

use super::histogram::{detect_reset, same_bounds};

#[derive(Clone, Debug)]
struct Stored {
    labels: Labels,
    samples: SampleBuf,
}

/// Series in memory. Cloning shares them; adding to a clone copies what it changes.
#[derive(Clone, Debug, Default)]
pub struct MemSource {
    series: Arc<Vec<Arc<Stored>>>,
    index: Arc<BTreeMap<Labels, usize>>,
    metadata: Arc<BTreeMap<String, Vec<MetricMetadata>>>,
    exemplars: Arc<Vec<ExemplarSeries>>,
}

impl MemSource {
    /// An empty source.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Adds a float sample.
    pub fn push(&mut self, labels: &Labels, t: i64, v: f64) {
        self.push_with_start(labels, t, v, 0);
    }

    /// Adds a float sample with its start timestamp (0 if unknown).
    pub fn push_with_start(&mut self, labels: &Labels, t: i64, v: f64, start: i64) {
        let buf = self.buf(labels);
        if buf.t.last().is_none_or(|last| *last < t) {
            buf.push(t, v, start);
        } else {
            insert(buf, t, v, start, None);
        }
    }

    /// Adds a histogram sample. Its reset hint becomes what a store of chunks would give back: nothing is known of
    /// the first of a run, and within a run there is no reset.
    pub fn push_histogram(&mut self, labels: &Labels, t: i64, h: FloatHistogram, start: i64) {
        let buf = self.buf(labels);
        if buf.t.last().is_none_or(|last| *last < t) {
            let hint = stored_hint(&h, buf.len().checked_sub(1).and_then(|i| buf.histogram(i)));
            buf.push_histogram(t, Arc::new(FloatHistogram { counter_reset: hint, ..h }), start);
        } else {
            insert(buf, t, f64::NAN, start, Some(h));
        }
    }

    /// Sets a family's metadata.
    pub fn set_metadata(&mut self, metric: &str, metadata: MetricMetadata) {
        Arc::make_mut(&mut self.metadata).insert(metric.to_owned(), vec![metadata]);
    }

    /// Adds exemplars.
    pub fn add_exemplars(&mut self, e: ExemplarSeries) {
        let all = Arc::make_mut(&mut self.exemplars);
        all.push(e);
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
    }

    fn buf(&mut self, labels: &Labels) -> &mut SampleBuf {
        let i = match self.index.get(labels) {
            Some(i) => *i,
            None => {
                let i = self.series.len();
                Arc::make_mut(&mut self.index).insert(labels.clone(), i);
                Arc::make_mut(&mut self.series).push(Arc::new(Stored { labels: labels.clone(), samples: SampleBuf::default() }));
                i
            }
        };
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.series)[i]).samples
    }
}

fn stored_hint(h: &FloatHistogram, prev: Option<&Arc<FloatHistogram>>) -> CounterReset {
    if h.counter_reset == CounterReset::Gauge {
        return CounterReset::Gauge;
    }
    let Some(p) = prev else { return CounterReset::Unknown };
    let same_run = p.counter_reset != CounterReset::Gauge
        && !p.is_stale()
        && h.counter_reset != CounterReset::Reset
        && p.schema == h.schema
        && p.zero_threshold == h.zero_threshold
        && same_bounds(&p.custom_values, &h.custom_values)
        && !detect_reset(&FloatHistogram { counter_reset: CounterReset::Unknown, ..h.clone() }, p);
    if same_run { CounterReset::NotReset } else { CounterReset::Unknown }
}

/// Puts a sample where it belongs, in place of one at the same time.
fn insert(buf: &mut SampleBuf, t: i64, v: f64, start: i64, h: Option<FloatHistogram>) {
    let mut new = SampleBuf::default();
    let mut done = false;
    let mut given = h;
    let mut put = |new: &mut SampleBuf| match given.take() {
        Some(h) => {
            let hint = stored_hint(&h, new.len().checked_sub(1).and_then(|i| new.histogram(i)));
            new.push_histogram(t, Arc::new(FloatHistogram { counter_reset: hint, ..h }), start);
        }
        None => new.push(t, v, start),
    };
    for i in 0..buf.len() {
        if !done && buf.t[i] >= t {
            put(&mut new);
            done = true;
        }
        if buf.t[i] == t {
            continue;
        }
        match buf.histogram(i) {
            Some(h) => {
                let hint = stored_hint(h, new.len().checked_sub(1).and_then(|i| new.histogram(i)));
                new.push_histogram(buf.t[i], Arc::new(FloatHistogram { counter_reset: hint, ..(**h).clone() }), buf.start(i));
            }
            None => new.push(buf.t[i], buf.v[i], buf.start(i)),
        }
    }
    if !done {
        put(&mut new);
    }
    *buf = new;
}

fn passes(matchers: &[Matcher], l: &Labels) -> bool {
    matchers.iter().all(|m| m.matches(l.value(&m.name)))
}

impl MemSource {
    fn matching(&self, matchers: &[Matcher], range: TimeRange) -> Vec<Arc<Stored>> {
        let exact = matchers.iter().any(|m| m.op == MatchOp::Equal && m.value.is_empty() && m.name.is_empty());
        debug_assert!(!exact);
        self.index
            .iter()
            .filter(|(l, _)| passes(matchers, l))
            .map(|(_, i)| &self.series[*i])
            .filter(|s| {
                let t = &s.samples.t;
                matches!((t.first(), t.last()), (Some(a), Some(b)) if range.overlaps(TimeRange::new(*a, *b)))
            })
            .cloned()
            .collect()
    }

    fn for_listing(&self, q: &LabelQuery) -> Vec<Arc<Stored>> {
        self.matching(&q.matchers, q.range)
    }
}

fn limited(all: impl IntoIterator<Item = String>, limit: usize) -> (Vec<String>, Warnings) {
    let limit = if limit == 0 { usize::MAX } else { limit };
    (all.into_iter().take(limit).collect(), Warnings::new())
}

impl SeriesSource for MemSource {
    fn select(&self, r: &SelectRequest) -> Result<Box<dyn SeriesSelection>> {
        Ok(Box::new(Selected(self.matching(&r.matchers, r.range))))
    }

    fn label_names(&self, q: &LabelQuery) -> Result<(Vec<String>, Warnings)> {
        let names: std::collections::BTreeSet<String> =
            self.for_listing(q).iter().flat_map(|s| s.labels.iter().map(|(n, _)| n.to_owned()).collect::<Vec<_>>()).collect();
        Ok(limited(names, q.limit))
    }

    fn label_values(&self, name: &str, q: &LabelQuery) -> Result<(Vec<String>, Warnings)> {
        let values: std::collections::BTreeSet<String> =
            self.for_listing(q).iter().filter_map(|s| s.labels.get(name).map(str::to_owned)).collect();
        Ok(limited(values, q.limit))
    }

    fn exemplars(&self, sets: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<ExemplarSeries>> {
        let mut out = Vec::new();
        for e in self.exemplars.iter().filter(|e| sets.iter().any(|m| passes(m, &e.labels))) {
            let exemplars: Vec<_> = e.exemplars.iter().filter(|x| range.contains(x.t)).cloned().collect();
            if !exemplars.is_empty() {
                out.push(ExemplarSeries { labels: e.labels.clone(), exemplars });
            }
        }
        Ok(out)
    }

    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<MetricMetadata>)>> {
        Ok(self.metadata.iter().filter(|(n, _)| metric.is_none_or(|m| m == n.as_str())).map(|(n, m)| (n.clone(), m.clone())).collect())
    }
}

struct Selected(Vec<Arc<Stored>>);

impl SeriesSelection for Selected {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn labels(&self, i: usize) -> Labels {
        self.0[i].labels.clone()
    }

    fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) {
        self.0[i].labels.iter().for_each(|(n, v)| f(n, v));
    }

    fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        let s = &self.0[i].samples;
        let (a, b) = (s.t.partition_point(|t| *t < range.min_ms), s.t.partition_point(|t| *t <= range.max_ms));
        if a >= b {
            return Ok(());
        }
        out.t.extend_from_slice(&s.t[a..b]);
        out.v.extend_from_slice(&s.v[a..b]);
        if !s.st.is_empty() {
            out.st.extend_from_slice(&s.st[a..b]);
        }
        if !s.h.is_empty() && s.h[a..b].iter().any(Option::is_some) {
            out.h.extend_from_slice(&s.h[a..b]);
        }
        Ok(())
    }

    fn newest(&self, i: usize, range: TimeRange, _scratch: &mut SampleBuf) -> Result<Option<Newest>> {
        let s = &self.0[i].samples;
        let Some(k) = s.t.partition_point(|t| *t <= range.max_ms).checked_sub(1) else { return Ok(None) };
        if s.t[k] < range.min_ms {
            return Ok(None);
        }
        Ok(Some(Newest { t: s.t[k], v: s.v[k], st: s.start(k), h: s.histogram(k).cloned() }))
    }
}
