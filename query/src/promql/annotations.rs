//! Warnings and infos that come with an answer, worded as Prometheus words them.

use std::collections::{BTreeMap, btree_map};

use super::ast::Span;
use super::gofmt::{general, quote};

/// Where an annotation was raised last, and what merges when it is raised there again.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    start: usize,
    forced: Option<ForcedRange>,
    more: u64,
}

impl Entry {
    /// The same text raised once more; another place takes over.
    fn again(&mut self, new: Entry) {
        if new.start != self.start {
            *self = new;
            return;
        }
        self.more += new.more + 1;
        self.forced = match (self.forced, new.forced) {
            (Some(x), Some(y)) => Some(x.merge(y)),
            (x, y) => x.or(y),
        };
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ForcedRange {
    min_bucket: f64,
    max_bucket: f64,
    max_diff: f64,
    min_ts: i64,
    max_ts: i64,
}

/// The annotations of a query, each text once: where it came up in several places, the last one is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    map: BTreeMap<(bool, String), Entry>,
    plain: Vec<String>,
}

/// What was being done when histograms met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum HistogramOp {
    Add,
    Sub,
    Agg,
}

impl HistogramOp {
    fn as_str(self) -> &'static str {
        match self {
            HistogramOp::Add => "addition",
            HistogramOp::Sub => "subtraction",
            HistogramOp::Agg => "aggregation",
        }
    }
}

fn for_metric(text: String, name: &str) -> String {
    if name.is_empty() { text } else { format!("{text} for metric name {}", quote(name)) }
}

impl Annotations {
    fn put(&mut self, warning: bool, text: String, at: Span) {
        self.insert((warning, text), Entry { start: at.start, forced: None, more: 0 });
    }
    fn insert(&mut self, key: (bool, String), new: Entry) {
        match self.map.entry(key) {
            btree_map::Entry::Vacant(v) => _ = v.insert(new),
            btree_map::Entry::Occupied(mut o) => o.get_mut().again(new),
        }
    }
    fn warn(&mut self, text: impl Into<String>, at: Span) {
        self.put(true, text.into(), at);
    }
    fn info(&mut self, text: impl Into<String>, at: Span) {
        self.put(false, text.into(), at);
    }

    /// A warning that is not PromQL's own, e.g. of storage.
    pub fn plain_warning(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.plain.contains(&text) {
            self.plain.push(text);
        }
    }

    /// Takes over another set.
    pub fn merge(&mut self, other: Annotations) {
        for (k, e) in other.map {
            self.insert(k, e);
        }
        for p in other.plain {
            self.plain_warning(p);
        }
    }

    /// (warnings, infos) with positions in `text`.
    pub fn render(&self, text: &str) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (self.plain.clone(), Vec::new());
        for ((warning, msg), e) in &self.map {
            let prefix = if *warning { "PromQL warning" } else { "PromQL info" };
            let at = Span::new(e.start, e.start).line_col(text);
            let detail = match &e.forced {
                None => String::new(),
                Some(f) => format!(
                    ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
                    general(f.min_bucket),
                    general(f.max_bucket),
                    two_digits(f.max_diff),
                    e.more + 1,
                    super::functions::date::rfc3339(f.min_ts.div_euclid(1000)),
                    super::functions::date::rfc3339(f.max_ts.div_euclid(1000)),
                ),
            };
            let line = format!("{prefix}: {msg}{detail} ({at})");
            if *warning { warnings.push(line) } else { infos.push(line) }
        }
        (warnings, infos)
    }

    // Warnings.

    pub(crate) fn invalid_ratio(&mut self, got: f64, to: f64, at: Span) {
        let msg = format!("ratio value should be between -1 and 1, got {}, capping to {}", general(got), general(to));
        self.warn(msg, at);
    }
    pub(crate) fn invalid_quantile(&mut self, q: f64, at: Span) {
        self.warn(format!("quantile value should be between 0 and 1, got {}", general(q)), at);
    }
    pub(crate) fn bad_bucket_label(&mut self, name: &str, le: &str, at: Span) {
        self.warn(for_metric(format!("bucket label \"le\" is missing or has a malformed value of {}", quote(le)), name), at);
    }
    pub(crate) fn mixed_floats_histograms(&mut self, name: &str, at: Span) {
        self.warn(format!("encountered a mix of histograms and floats for metric name {}", quote(name)), at);
    }
    pub(crate) fn mixed_floats_histograms_agg(&mut self, at: Span) {
        self.warn("encountered a mix of histograms and floats for aggregation", at);
    }
    pub(crate) fn mixed_classic_native(&mut self, name: &str, at: Span) {
        self.warn(for_metric("vector contains a mix of classic and native histograms".into(), name), at);
    }
    pub(crate) fn not_counter(&mut self, name: &str, at: Span) {
        self.warn(format!("this native histogram metric is not a counter: {}", quote(name)), at);
    }
    pub(crate) fn not_gauge(&mut self, name: &str, at: Span) {
        self.warn(format!("this native histogram metric is not a gauge: {}", quote(name)), at);
    }
    pub(crate) fn mixed_exponential_custom(&mut self, name: &str, at: Span) {
        let msg = "vector contains a mix of histograms with exponential and custom buckets schemas for metric name";
        self.warn(format!("{msg} {}", quote(name)), at);
    }
    pub(crate) fn incompatible_bucket_layout(&mut self, op: &str, at: Span) {
        self.warn(format!("incompatible bucket layout encountered for binary operator {op}"), at);
    }
    pub(crate) fn reset_collision(&mut self, op: HistogramOp, at: Span) {
        self.warn(format!("conflicting counter resets during histogram {}", op.as_str()), at);
    }
    pub(crate) fn start_time_overlap(&mut self, name: &str, at: Span) {
        self.warn(format!("sample has start time that overlaps with previous sample timestamp for metric {}", quote(name)), at);
    }
    pub(crate) fn sort_in_range(&mut self, at: Span) {
        self.warn("sort is ineffective for range queries since results are always ordered by labels", at);
    }

    // Infos.

    pub(crate) fn possible_non_counter(&mut self, name: &str, at: Span) {
        let msg = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket:";
        self.info(format!("{msg} {}", quote(name)), at);
    }
    pub(crate) fn possible_non_counter_label(&mut self, name: &str, kind: &str, at: Span) {
        let msg = "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\"";
        self.info(format!("{msg}, got {}: {}", quote(kind), quote(name)), at);
    }
    pub(crate) fn forced_monotonicity(&mut self, name: &str, at: Span, ts: i64, f: super::histogram::quantile::Forced) {
        let msg = "input to histogram_quantile needed to be fixed for monotonicity \
                   (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
        let range = ForcedRange { min_bucket: f.min_bucket, max_bucket: f.max_bucket, max_diff: f.max_diff, min_ts: ts, max_ts: ts };
        self.insert((false, for_metric(msg.into(), name)), Entry { start: at.start, forced: Some(range), more: 0 });
    }
    pub(crate) fn incompatible_types(&mut self, lhs: &str, op: &str, rhs: &str, at: Span) {
        let msg = "incompatible sample types encountered for binary operator";
        self.info(format!("{msg} {}: {lhs} {op} {rhs}", quote(op)), at);
    }
    pub(crate) fn histogram_ignored_in_aggregation(&mut self, op: &str, at: Span) {
        self.info(format!("ignored histogram in {op} aggregation"), at);
    }
    pub(crate) fn histogram_ignored_in_range(&mut self, name: &str, at: Span) {
        let msg = "ignored histograms in a range containing both floats and histograms for metric name";
        self.info(format!("{msg} {}", quote(name)), at);
    }
    pub(crate) fn nan_quantile_result(&mut self, name: &str, at: Span) {
        self.info(for_metric("input to histogram_quantile has NaN observations, result is NaN".into(), name), at);
    }
    pub(crate) fn nan_quantile_skew(&mut self, name: &str, at: Span) {
        self.info(for_metric("input to histogram_quantile has NaN observations, result is skewed higher".into(), name), at);
    }
    pub(crate) fn nan_fraction(&mut self, name: &str, at: Span) {
        let msg = "input to histogram_fraction has NaN observations, which are excluded from all fractions";
        self.info(for_metric(msg.into(), name), at);
    }
    pub(crate) fn bounds_reconciled(&mut self, op: HistogramOp, at: Span) {
        self.info(format!("mismatched custom buckets were reconciled during {}", op.as_str()), at);
    }
}

impl ForcedRange {
    fn merge(self, o: Self) -> Self {
        ForcedRange {
            min_bucket: self.min_bucket.min(o.min_bucket),
            max_bucket: self.max_bucket.max(o.max_bucket),
            max_diff: self.max_diff.max(o.max_diff),
            min_ts: self.min_ts.min(o.min_ts),
            max_ts: self.max_ts.max(o.max_ts),
        }
    }
}

/// `%.2g`.
fn two_digits(v: f64) -> String {
    let rounded: f64 = format!("{v:.1e}").parse().unwrap_or(v);
    let exp = if rounded == 0.0 { 0 } else { rounded.abs().log10().floor() as i32 };
    if (-4..2).contains(&exp) { general(rounded) } else { super::gofmt::exponent(rounded) }
}
