//! Counts, sums, extremes and histograms of spans by labels and slot.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;

use super::{Exemplar, MetricsOptions, Series, Sink, Slots, too_many};
use crate::traceql::ast::{Attr, MetricsOp, MetricsQuery};
use crate::traceql::error::{Result, TraceQlError};
use crate::traceql::eval::expr::{Data, Rows, label_scopes};
use crate::traceql::value::Val;

/// Whether a label or the measured value is a trace's.
pub(super) fn labels_need_whole_traces(q: &MetricsQuery) -> bool {
    let whole = |a: &Attr| match a {
        Attr::Intrinsic(i) => i.needs_whole_trace(),
        Attr::Attribute { parent, .. } => *parent,
    };
    q.by.iter().any(whole) || measured(&q.op).is_some_and(whole)
}

fn measured(op: &MetricsOp) -> Option<&Attr> {
    match op {
        MetricsOp::MinOverTime(a)
        | MetricsOp::MaxOverTime(a)
        | MetricsOp::AvgOverTime(a)
        | MetricsOp::SumOverTime(a)
        | MetricsOp::QuantileOverTime(a, _)
        | MetricsOp::HistogramOverTime(a) => Some(a),
        MetricsOp::Rate | MetricsOp::CountOverTime | MetricsOp::Compare(..) => None,
    }
}

/// The values of one series.
enum Cells {
    /// Number of spans in each slot.
    Counts(Vec<u64>),
    /// Smallest, largest, sum and number in each slot.
    Numbers(Vec<Numbers>),
    /// Numbers by power of two, for each slot.
    Histograms(Vec<BTreeMap<i32, u64>>),
}

#[derive(Clone, Copy)]
struct Numbers {
    min: f64,
    max: f64,
    sum: f64,
    count: u64,
}

const NO_NUMBERS: Numbers = Numbers { min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, count: 0 };

/// How many samples the counts behind one take the room of.
fn weight(op: &MetricsOp) -> usize {
    match op {
        MetricsOp::Rate | MetricsOp::CountOverTime => 1,
        MetricsOp::QuantileOverTime(..) | MetricsOp::HistogramOverTime(..) => 8,
        _ => 4,
    }
}

/// Bytes of the values that series are grouped by: whole texts may stand in attributes.
const MAX_LABEL_BYTES: usize = 32 << 20;

/// The smallest power of two that is not below a whole number, by its exponent. Numbers below 2 lie in no bucket, and
/// neither do decimal ones.
fn exponent(v: &Val) -> Option<i32> {
    match v {
        Val::Int(n) | Val::Duration(n) if *n >= 2 => Some((64 - (n - 1).leading_zeros()) as i32),
        _ => None,
    }
}

fn bound(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// The `q` quantile of numbers by power of two: the bound of the bucket that ends with the sample looked for, and within
/// a bucket interpolated on the logarithm, so that it lies in the bucket of the exact quantile.
fn quantile(q: f64, buckets: &BTreeMap<i32, u64>) -> f64 {
    let total: u64 = buckets.values().sum();
    if total == 0 {
        return 0.0;
    }
    // One sample at least, and no part of one.
    let target = ((q * total as f64).ceil() as u64).max(1);
    let mut below = 0;
    for (e, n) in buckets {
        if below + n >= target {
            let part = (target - below) as f64 / *n as f64;
            return 2f64.powf(f64::from(*e) - 1.0 + part);
        }
        below += n;
    }
    buckets.keys().next_back().map_or(0.0, |e| bound(*e))
}

fn name_of(op: &MetricsOp) -> &'static str {
    match op {
        MetricsOp::Rate => "rate",
        MetricsOp::CountOverTime | MetricsOp::Compare(..) => "count_over_time",
        MetricsOp::MinOverTime(_) => "min_over_time",
        MetricsOp::MaxOverTime(_) => "max_over_time",
        MetricsOp::AvgOverTime(_) => "avg_over_time",
        MetricsOp::SumOverTime(_) => "sum_over_time",
        MetricsOp::QuantileOverTime(..) => "quantile_over_time",
        MetricsOp::HistogramOverTime(_) => "histogram_over_time",
    }
}

/// A label without a value is no label; of a series without any, the first says so.
fn drop_nil(g: &mut Group) {
    let first = g.labels.first().cloned();
    g.labels.retain(|l| l.1 != Val::Nil);
    if g.labels.is_empty() && !matches!(g.cells, Cells::Histograms(_)) {
        g.labels.extend(first);
    }
}

/// Which quantile over all series and slots is nearest to a value: an exemplar stands for one of them.
fn nearest_quantile(op: &MetricsOp, groups: &[Group], unit: f64) -> impl Fn(f64) -> usize + use<> {
    let mut all: BTreeMap<i32, u64> = BTreeMap::new();
    for g in groups {
        if let Cells::Histograms(h) = &g.cells {
            h.iter().flatten().for_each(|(e, n)| *all.entry(*e).or_default() += n);
        }
    }
    let values: Vec<f64> = match op {
        MetricsOp::QuantileOverTime(_, qs) => qs.iter().map(|q| quantile(*q, &all) / unit).collect(),
        _ => Vec::new(),
    };
    move |v| {
        let far = |i: &usize| (values[*i] - v).abs();
        (0..values.len()).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0)
    }
}

struct Group {
    labels: Vec<(String, Val)>,
    cells: Cells,
    exemplars: Vec<(usize, Exemplar)>,
    /// Which slots have one.
    has_exemplar: Vec<bool>,
}

/// Counts the spans of one metrics function.
pub(super) struct Accumulator {
    query: MetricsQuery,
    slots: Slots,
    exemplars: usize,
    max_series: usize,
    max_cells: usize,
    groups: Vec<Group>,
    by_labels: HashMap<Vec<(u8, String)>, u32>,
    label_bytes: usize,
    /// Measured values are durations, shown in seconds.
    seconds: bool,
}

/// What tells values of different types apart.
fn key_of(v: &Val) -> (u8, String) {
    (v.tag(), v.text())
}

/// A label's distinct values in a batch, and which each row has.
struct Label {
    values: Vec<Val>,
    idx: LabelIdx,
}

enum LabelIdx {
    Same,
    Shared(crate::traceql::eval::expr::Indices),
    Own(Vec<u32>),
}

impl Label {
    fn new(data: &Data, rows: usize) -> Label {
        match data {
            Data::Const(v) => Label { values: vec![v.clone()], idx: LabelIdx::Same },
            Data::Dict(values, idx) => Label { values: values.to_vec(), idx: LabelIdx::Shared(idx.clone()) },
            other => {
                let (values, of_row) = other.numbered(rows);
                Label { values, idx: LabelIdx::Own(of_row) }
            }
        }
    }
    #[inline]
    fn of(&self, row: usize) -> u32 {
        match &self.idx {
            LabelIdx::Same => 0,
            LabelIdx::Shared(i) => i.all()[row],
            LabelIdx::Own(i) => i[row],
        }
    }
}

/// No group is known of a combination of values yet.
const NO_GROUP: u32 = u32::MAX;

/// The groups of combinations of values met in a batch, which are numbers.
enum Known {
    Table(Vec<u32>),
    /// Where labels have so many values that most combinations come to nothing. A batch has less than 2^25 values of a
    /// label, and there are five labels at most.
    Map(HashMap<u128, u32>),
}

impl Known {
    fn new(labels: &[Label], rows: usize) -> Known {
        let combinations = labels.iter().fold(1usize, |c, l| c.saturating_mul(l.values.len()));
        if combinations <= rows.max(1 << 10) { Known::Table(vec![NO_GROUP; combinations]) } else { Known::Map(HashMap::default()) }
    }

    #[inline]
    fn slot(&mut self, labels: &[Label], row: usize) -> &mut u32 {
        match self {
            Known::Table(t) => &mut t[labels.iter().fold(0, |c, l| c * l.values.len() + l.of(row) as usize)],
            Known::Map(m) => {
                let combination = labels.iter().fold(0, |c, l| c * l.values.len() as u128 + u128::from(l.of(row)));
                m.entry(combination).or_insert(NO_GROUP)
            }
        }
    }
}

/// An attribute as a label or measured value: unscoped ones on the span, then on the resource.
pub(super) fn label_data(rows: &Rows<'_>, a: &Attr) -> Result<Data> {
    match a {
        Attr::Attribute { parent, scope, key } => rows.attribute_of(*parent, label_scopes(*scope), key),
        Attr::Intrinsic(_) => rows.attr(a),
    }
}

impl Accumulator {
    pub(super) fn new(query: &MetricsQuery, slots: Slots, options: &MetricsOptions) -> Self {
        Accumulator {
            query: query.clone(),
            slots,
            exemplars: options.exemplars,
            max_series: options.max_series,
            max_cells: options.max_cells,
            groups: Vec::new(),
            by_labels: HashMap::default(),
            label_bytes: 0,
            seconds: false,
        }
    }

    fn group<'v>(&mut self, values: impl Iterator<Item = &'v Val> + Clone) -> Result<u32> {
        let key: Vec<(u8, String)> = values.clone().map(key_of).collect();
        if let Some(g) = self.by_labels.get(&key) {
            return Ok(*g);
        }
        if self.groups.len() >= self.max_series {
            return Err(TraceQlError::evaluation(format!("more than {} series; group by fewer labels", self.max_series)));
        }
        let n = self.slots.count;
        if (self.groups.len() + 1).saturating_mul(n * weight(&self.query.op)) > self.max_cells {
            return Err(too_many(self.max_cells));
        }
        self.label_bytes += key.iter().map(|k| k.1.len()).sum::<usize>();
        if self.label_bytes > MAX_LABEL_BYTES {
            let message = format!("more than {} MiB of values to group by; group by shorter ones", MAX_LABEL_BYTES >> 20);
            return Err(TraceQlError::evaluation(message));
        }
        let cells = match &self.query.op {
            MetricsOp::Rate | MetricsOp::CountOverTime | MetricsOp::Compare(..) => Cells::Counts(vec![0; n]),
            MetricsOp::QuantileOverTime(..) | MetricsOp::HistogramOverTime(_) => Cells::Histograms(vec![BTreeMap::new(); n]),
            _ => Cells::Numbers(vec![NO_NUMBERS; n]),
        };
        let labels = self.query.by.iter().zip(values).map(|(a, v)| (a.to_string(), v.clone())).collect();
        self.groups.push(Group { labels, cells, exemplars: Vec::new(), has_exemplar: Vec::new() });
        let g = self.groups.len() as u32 - 1;
        self.by_labels.insert(key, g);
        Ok(g)
    }

    /// The series of each row that counts, found once for each combination of values.
    fn groups_of(&mut self, rows: &Rows<'_>, mask: &[bool]) -> Result<Vec<u32>> {
        let n = rows.batch.len();
        let by = self.query.by.clone();
        let labels = by.iter().map(|a| Ok(Label::new(&label_data(rows, a)?.shown(), n))).collect::<Result<Vec<_>>>()?;
        let mut known = Known::new(&labels, n);
        let mut out = vec![0u32; n];
        for r in (0..n).filter(|r| mask[*r]) {
            let g = known.slot(&labels, r);
            if *g == NO_GROUP {
                *g = self.group(labels.iter().map(|l| &l.values[l.of(r) as usize]))?;
            }
            out[r] = *g;
        }
        Ok(out)
    }

    fn exemplar(&mut self, g: u32, slot: usize, rows: &Rows<'_>, row: usize, start: u64, value: f64) {
        let group = &mut self.groups[g as usize];
        // One for a slot, so that they spread over the range.
        group.has_exemplar.resize(self.slots.count, false);
        if group.exemplars.len() < self.exemplars && !std::mem::replace(&mut group.has_exemplar[slot], true) {
            let trace = rows.batch.traces().partition_point(|o| *o as usize <= row) - 1;
            let trace_id = rows.batch.trace_id(trace);
            group.exemplars.push((slot, Exemplar { timestamp_ms: (start / 1_000_000) as i64, value, trace_id }));
        }
    }
}

impl Sink for Accumulator {
    fn add(&mut self, rows: &Rows<'_>, mask: &[bool]) -> Result<()> {
        if !mask.contains(&true) {
            return Ok(());
        }
        let starts: Arc<Vec<u64>> = rows.batch.starts()?;
        // Whole traces reach beyond the range: what lies there makes no series.
        let slot_of = |(m, s): (&bool, &u64)| if *m { self.slots.of(*s).map_or(u32::MAX, |s| s as u32) } else { u32::MAX };
        let slots: Vec<u32> = mask.iter().zip(starts.iter()).map(slot_of).collect();
        let mask: Vec<bool> = slots.iter().map(|s| *s != u32::MAX).collect();
        let groups = self.groups_of(rows, &mask)?;
        let value = measured(&self.query.op).cloned().map(|a| label_data(rows, &a)).transpose()?;
        for r in (0..mask.len()).filter(|r| mask[*r]) {
            let (slot, g) = (slots[r] as usize, groups[r]);
            let Some(data) = &value else {
                if let Cells::Counts(c) = &mut self.groups[g as usize].cells {
                    c[slot] += 1;
                }
                if self.exemplars > 0 {
                    self.exemplar(g, slot, rows, r, starts[r], f64::NAN);
                }
                continue;
            };
            let v = data.get(r);
            let Some(mut number) = v.number() else { continue };
            let duration = matches!(v, Val::Duration(_));
            self.seconds |= duration;
            match &mut self.groups[g as usize].cells {
                Cells::Histograms(h) => {
                    let Some(e) = exponent(&v) else { continue };
                    *h[slot].entry(e).or_default() += 1;
                }
                Cells::Numbers(c) => {
                    let c = &mut c[slot];
                    c.min = c.min.min(number);
                    c.max = c.max.max(number);
                    c.sum += number;
                    c.count += 1;
                }
                Cells::Counts(_) => {}
            }
            if self.exemplars > 0 {
                if duration {
                    number /= 1e9;
                }
                self.exemplar(g, slot, rows, r, starts[r], number);
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Series>> {
        let unit = if self.seconds { 1e9 } else { 1.0 };
        let name = name_of(&self.query.op);
        let nearest = nearest_quantile(&self.query.op, &self.groups, unit);
        let mut out = Vec::new();
        for mut g in self.groups {
            // A group of a histogram becomes many series.
            if out.len().saturating_mul(self.slots.count) > self.max_cells {
                return Err(too_many(self.max_cells));
            }
            drop_nil(&mut g);
            g.exemplars.sort_by_key(|e| e.1.timestamp_ms);
            let exemplars = g.exemplars;
            let series = |extra: Option<(&str, f64)>, values: Vec<f64>| {
                let mut labels = g.labels.clone();
                labels.extend(extra.map(|(k, v)| (k.to_owned(), Val::Float(v))));
                if labels.is_empty() {
                    labels.push(("__name__".into(), Val::Str(name.into())));
                }
                let shown = exemplars
                    .iter()
                    .map(|(slot, e)| Exemplar { value: if e.value.is_nan() { values[*slot] } else { e.value }, ..e.clone() });
                let exemplars = shown.collect();
                Series { labels, values, exemplars }
            };
            match (&self.query.op, g.cells) {
                (MetricsOp::Rate, Cells::Counts(c)) => {
                    let s = self.slots.seconds();
                    out.push(series(None, c.iter().map(|n| *n as f64 / s).collect()));
                }
                (_, Cells::Counts(c)) => out.push(series(None, c.iter().map(|n| *n as f64).collect())),
                (op, Cells::Numbers(c)) => {
                    let value = |n: &Numbers| match op {
                        _ if n.count == 0 => f64::NAN,
                        MetricsOp::MinOverTime(_) => n.min / unit,
                        MetricsOp::MaxOverTime(_) => n.max / unit,
                        MetricsOp::SumOverTime(_) => n.sum / unit,
                        _ => n.sum / n.count as f64 / unit,
                    };
                    out.push(series(None, c.iter().map(value).collect()));
                }
                (MetricsOp::QuantileOverTime(_, qs), Cells::Histograms(h)) => {
                    if h.iter().all(BTreeMap::is_empty) {
                        continue;
                    }
                    for (i, q) in qs.iter().enumerate() {
                        let mut of = series(Some(("p", *q)), h.iter().map(|b| quantile(*q, b) / unit).collect());
                        of.exemplars.retain(|e| nearest(e.value) == i);
                        out.push(of);
                    }
                }
                (_, Cells::Histograms(h)) => {
                    let mut all: Vec<i32> = h.iter().flat_map(|b| b.keys().copied()).collect();
                    all.sort_unstable();
                    all.dedup();
                    for e in all {
                        let values = h.iter().map(|b| b.get(&e).copied().unwrap_or(0) as f64).collect();
                        out.push(series(Some(("__bucket", bound(e) / unit)), values));
                    }
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_and_quantiles() {
        assert_eq!([2, 3, 4, 5, 1024, i64::MAX].map(|n| exponent(&Val::Int(n))), [1, 2, 2, 3, 10, 63].map(Some));
        assert_eq!([Val::Int(1), Val::Duration(-5), Val::Float(4.0)].map(|v| exponent(&v)), [None; 3]);
        let b: BTreeMap<i32, u64> = [(3, 4), (5, 4)].into();
        assert_eq!(quantile(1.0, &b), 32.0);
        assert_eq!(quantile(0.5, &b), 8.0);
        // Two of the four above 16 make half the way to 32; of seven and a half samples, eight count.
        assert!((quantile(0.75, &b) - 2f64.powf(4.5)).abs() < 1e-9);
        assert_eq!([quantile(0.0, &b), quantile(0.94, &b)], [2f64.powf(2.25), 32.0]);
        assert_eq!(quantile(0.5, &BTreeMap::new()), 0.0);
    }
}
