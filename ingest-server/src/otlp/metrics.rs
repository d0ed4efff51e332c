//! OTLP metrics as a batch of series: Prometheus' mapping, one bad point refused alone.

mod labels;
mod points;

use std::cell::OnceCell;

use strandline_storage::codec::protobuf::{Fields, WireError};
use strandline_storage::metrics::head::{Batch, BatchBuilder};
use strandline_storage::model::{MetricKind, MetricMetadata};

use labels::{Base, Label, Labeler};

use super::attributes::{LabelSet, each};
use super::names::{NameKind, Strategy, metric_name, unit_name};

/// How OTLP becomes series.
#[derive(Clone, Debug)]
pub struct Translation {
    /// Names.
    pub strategy: Strategy,
    /// Resource attributes that become labels.
    pub promote: Vec<String>,
    /// All of them.
    pub promote_all: bool,
    /// Scope as labels.
    pub scope_labels: bool,
    /// Explicit bounds as native histograms.
    pub nhcb: bool,
    /// Write target_info.
    pub target_info: bool,
    /// How often, where a request's points are of several times: half of how far queries look back.
    pub target_info_every_ms: i64,
}

/// What a request became.
#[derive(Default)]
pub struct Translated {
    /// The samples.
    pub batch: Batch,
    /// For each item of the batch, which data point it is part of.
    pub point_of_item: Vec<u32>,
    /// Data points in the request.
    pub points: u64,
    /// Data points that can't be translated.
    pub refused: u64,
    /// The first reasons.
    pub reasons: Vec<String>,
    /// Jobs whose resource names no instance, with their items.
    pub without_instance: Vec<(String, std::ops::Range<usize>)>,
}

/// Reasons told of a request's refusals; more would only make the answer long.
pub(super) const MAX_REASONS: usize = 5;

/// The fields of a `Metric` that hold data points, by their numbers.
mod shape {
    pub const GAUGE: u32 = 5;
    pub const SUM: u32 = 7;
    pub const HISTOGRAM: u32 = 9;
    pub const EXPONENTIAL: u32 = 10;
    pub const SUMMARY: u32 = 11;
}

/// `AggregationTemporality`.
const UNSPECIFIED: u64 = 0;
const DELTA: u64 = 1;

struct Translator<'t> {
    t: &'t Translation,
    out: BatchBuilder,
    point_of_item: Vec<u32>,
    points: u64,
    refused: u64,
    reasons: Vec<String>,
    without_instance: Vec<(String, std::ops::Range<usize>)>,
    labeler: Labeler,
    /// When the resource at hand has points.
    times: Vec<i64>,
    /// Bounds of the last histogram and their `le` labels, that of infinity behind them: mostly those of the next one too.
    le: (Vec<f64>, Vec<Label>),
}

/// What the metric says about all its points.
struct Metric<'a> {
    name: &'a str,
    family: String,
    /// The family as a series' name.
    label: Label,
    /// The names of the family's sum, count and bucket series.
    parts: OnceCell<[Label; 3]>,
    base: &'a Base,
}

impl Metric<'_> {
    fn part(&self, i: usize) -> &Label {
        &self.parts.get_or_init(|| ["_sum", "_count", "_bucket"].map(|s| Label::metric(format!("{}{s}", self.family))))[i]
    }
}

impl Translator<'_> {
    /// Makes room for more points that become as many series, of as many label bytes, as one before them. The room is
    /// bounded by the points' own bytes: they may be smaller than that one was.
    fn expect(&mut self, points: &[&[u8]], series: usize, raw_bytes: usize) {
        let sent: usize = points.iter().map(|p| p.len()).sum();
        let series = (points.len() * series).min(sent / 16);
        self.out.reserve(series, (points.len() * raw_bytes).min(sent * 16));
        self.point_of_item.reserve(series);
    }

    fn refuse(&mut self, why: String) {
        self.refused += 1;
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&why) {
            self.reasons.push(why);
        }
    }
}

/// Translates an `ExportMetricsServiceRequest`.
pub fn translate(request: &[u8], t: &Translation) -> Result<Translated, WireError> {
    let mut x = Translator {
        t,
        out: BatchBuilder::default(),
        point_of_item: Vec::new(),
        points: 0,
        refused: 0,
        reasons: Vec::new(),
        without_instance: Vec::new(),
        labeler: Labeler::new(t.strategy),
        times: Vec::new(),
        le: Default::default(),
    };
    // Label bytes are about as long as the attributes they are made of and the resource's.
    x.out.reserve(request.len() / 128, request.len());
    let mut r = Fields::new(request);
    while let Some((n, f)) = r.next()? {
        if n == 1 {
            resource_metrics(&mut x, f.bytes())?;
        }
    }
    Ok(Translated {
        batch: x.out.finish(),
        point_of_item: x.point_of_item,
        points: x.points,
        refused: x.refused,
        reasons: x.reasons,
        without_instance: x.without_instance,
    })
}

fn resource_metrics(x: &mut Translator<'_>, rm: &[u8]) -> Result<(), WireError> {
    let mut resource: &[u8] = &[];
    let mut scopes: Vec<&[u8]> = Vec::new();
    let mut r = Fields::new(rm);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => resource = f.bytes(),
            2 => scopes.push(f.bytes()),
            _ => {}
        }
    }
    let s = x.t.strategy;
    let (mut base, mut info) = (LabelSet::default(), LabelSet::default());
    let (mut service, mut namespace, mut instance) = (String::new(), String::new(), String::new());
    each(resource, 1, &mut |k, v| {
        match k {
            "service.name" => service = v.to_string(),
            "service.namespace" => namespace = v.to_string(),
            "service.instance.id" => instance = v.to_string(),
            _ => info.attribute(k, &v, s),
        }
        if x.t.promote_all || x.t.promote.iter().any(|p| p == k) {
            base.attribute(k, &v, s);
        }
    })?;
    let job = if namespace.is_empty() || service.is_empty() { service } else { format!("{namespace}/{service}") };
    for l in [&mut base, &mut info] {
        l.settle();
        l.set("job", &job);
        l.set("instance", &instance);
    }
    x.times.clear();
    let first = x.point_of_item.len();
    for scope in scopes {
        scope_metrics(x, scope, &base)?;
    }
    if instance.is_empty() && !job.is_empty() {
        x.without_instance.push((job.clone(), first..x.point_of_item.len()));
    }
    let described = info.len() > usize::from(!job.is_empty()) + usize::from(!instance.is_empty());
    if x.t.target_info && !x.times.is_empty() && described && (!job.is_empty() || !instance.is_empty()) {
        info.set("__name__", "target_info");
        info.settle();
        let series = x.out.series_from(info.iter());
        for t_ms in info_times(&mut x.times, x.t.target_info_every_ms) {
            x.out.push(series, t_ms, 0, strandline_storage::metrics::head::Value::Float(1.0));
            // Part of no data point: nobody is told if it is refused.
            x.point_of_item.push(u32::MAX);
        }
    }
    Ok(())
}

/// When a resource's target_info is written, so that a query finds it beside each point, back to the earliest: at the earliest and
/// every so often after it, where there are points, and at the latest.
fn info_times(times: &mut [i64], every_ms: i64) -> Vec<i64> {
    times.sort_unstable();
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return Vec::new() };
    let mut out: Vec<i64> = times.iter().map(|t| t - (t - first) % every_ms.max(1)).collect();
    out.push(last);
    out.dedup();
    out
}

fn scope_metrics(x: &mut Translator<'_>, sm: &[u8], base: &LabelSet) -> Result<(), WireError> {
    let mut scope: &[u8] = &[];
    let mut metrics: Vec<&[u8]> = Vec::new();
    let mut schema_url = "";
    let mut r = Fields::new(sm);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => scope = f.bytes(),
            2 => metrics.push(f.bytes()),
            3 => schema_url = f.text().unwrap_or(""),
            _ => {}
        }
    }
    let scoped = if x.t.scope_labels { with_scope(base, scope, schema_url, x.t.strategy)? } else { None };
    let base = scoped.as_ref().unwrap_or(base);
    let base = x.labeler.base(base);
    for m in metrics {
        metric(x, m, &base)?;
    }
    Ok(())
}

/// The labels of a scope's points; none more than the resource's if it has no name.
fn with_scope(base: &LabelSet, scope: &[u8], schema_url: &str, s: Strategy) -> Result<Option<LabelSet>, WireError> {
    let (mut name, mut version) = ("", "");
    let mut r = Fields::new(scope);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => name = f.text().unwrap_or(""),
            2 => version = f.text().unwrap_or(""),
            _ => {}
        }
    }
    if name.is_empty() {
        return Ok(None);
    }
    let mut out = base.clone();
    each(scope, 3, &mut |k, v| out.attribute(&format!("otel_scope_{k}"), &v, s))?;
    out.settle();
    // An attribute of one of these names is not what it is about.
    out.set("otel_scope_name", name);
    out.set("otel_scope_version", version);
    out.set("otel_scope_schema_url", schema_url);
    out.settle();
    Ok(Some(out))
}

fn metric(x: &mut Translator<'_>, m: &[u8], base: &Base) -> Result<(), WireError> {
    let (mut name, mut help, mut unit) = ("", "", "");
    let mut data: Option<(u32, &[u8])> = None;
    let mut r = Fields::new(m);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => name = f.text().unwrap_or(""),
            2 => help = f.text().unwrap_or(""),
            3 => unit = f.text().unwrap_or(""),
            shape::GAUGE | shape::SUM | shape::HISTOGRAM | shape::EXPONENTIAL | shape::SUMMARY => data = Some((n, f.bytes())),
            _ => {}
        }
    }
    let Some((shape, data)) = data else { return Ok(()) };
    let mut points: Vec<&[u8]> = Vec::new();
    let (mut temporality, mut monotonic) = (UNSPECIFIED, false);
    let mut r = Fields::new(data);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => points.push(f.bytes()),
            2 => temporality = f.uint(),
            3 => monotonic = f.uint() != 0,
            _ => {}
        }
    }
    let (kind, name_kind) = match shape {
        shape::SUM if monotonic => (MetricKind::Counter, NameKind::Counter),
        shape::SUM => (MetricKind::Gauge, NameKind::Other),
        shape::GAUGE => (MetricKind::Gauge, NameKind::Gauge),
        shape::SUMMARY => (MetricKind::Summary, NameKind::Other),
        _ => (MetricKind::Histogram, NameKind::Other),
    };
    let family = metric_name(name, unit, name_kind, x.t.strategy);
    let has_temporality = !matches!(shape, shape::GAUGE | shape::SUMMARY);
    if family.is_empty() || (has_temporality && temporality == UNSPECIFIED) {
        let why =
            if family.is_empty() { "the metric has no name".to_owned() } else { format!("metric {name}: no aggregation temporality") };
        x.points += points.len() as u64;
        points.iter().for_each(|_| x.refuse(why.clone()));
        return Ok(());
    }
    x.out.metadata(family.clone(), MetricMetadata { kind, help: help.to_owned(), unit: unit_name(unit) });
    let m = Metric { name, label: Label::metric(family.clone()), family, parts: OnceCell::new(), base };
    let delta = temporality == DELTA;
    let before = (x.out.len(), x.out.raw_bytes());
    for (i, p) in points.iter().enumerate() {
        x.points += 1;
        match shape {
            shape::GAUGE => points::number(x, &m, p, false)?,
            shape::SUM => points::number(x, &m, p, delta)?,
            shape::HISTOGRAM => points::histogram(x, &m, p, delta)?,
            shape::EXPONENTIAL => points::exponential(x, &m, p, delta)?,
            _ => points::summary(x, &m, p)?,
        }
        if i == 0 {
            x.expect(&points[1..], x.out.len() - before.0, x.out.raw_bytes() - before.1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
