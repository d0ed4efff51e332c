//! Data points, one type after another.

use std::sync::Arc;

use strandline_storage::codec::hex;
use strandline_storage::codec::protobuf::{Field, Fields, WireError, fixed64s, varints};
use strandline_storage::metrics::head::{AnyHistogram, Value};
use strandline_storage::model::{BucketSpan, CUSTOM_BUCKETS_SCHEMA, CounterReset, Exemplar, Histogram, Labels, stale_nan};

use super::super::attributes::each;
use super::labels::{Around, Label, PointLabels};
use super::{Metric, Translator};

const LE: &str = "le";
const NO_RECORDED_VALUE: u64 = 1;
/// Zero threshold where OTLP gives none.
const DEFAULT_ZERO_THRESHOLD: f64 = 1e-128;

/// What all data points have.
#[derive(Default)]
struct Common<'a> {
    start_ms: i64,
    t_ms: i64,
    stale: bool,
    exemplars: Vec<&'a [u8]>,
}

/// A point that becomes many series.
struct Many<'l, 'a> {
    labels: &'l PointLabels<'a>,
    around: Option<Around>,
}

fn ms(f: Field<'_>) -> i64 {
    (f.uint() / 1_000_000) as i64
}

impl Translator<'_> {
    /// The resource has a point at that time.
    fn at(&mut self, t_ms: i64) {
        // Mostly they share one.
        if self.times.last() != Some(&t_ms) {
            self.times.push(t_ms);
        }
    }

    fn put(&mut self, labels: &PointLabels<'_>, name: &Label, extra: Option<&Label>, c: &Common<'_>, v: Value) -> u32 {
        let labeler = &mut self.labeler;
        let series = self.out.series_written(|out| labeler.write(labels, name, extra, out));
        self.sample(series, c, v)
    }

    /// As [`Translator::put`], for one of many series of a point.
    fn put_one(&mut self, of: &Many<'_, '_>, name: &Label, extra: Option<&Label>, c: &Common<'_>, v: Value) -> u32 {
        match &of.around {
            Some(around) => {
                let series = self.out.series_written(|out| around.write(name, extra, out));
                self.sample(series, c, v)
            }
            None => self.put(of.labels, name, extra, c, v),
        }
    }

    fn sample(&mut self, series: u32, c: &Common<'_>, v: Value) -> u32 {
        let v = if c.stale { Value::Float(stale_nan()) } else { v };
        self.out.push(series, c.t_ms, c.start_ms, v);
        self.point_of_item.push((self.points - 1) as u32);
        series
    }

    fn exemplars(&mut self, series: u32, c: &Common<'_>, takes: impl Fn(f64) -> bool) -> Result<(), WireError> {
        for e in &c.exemplars {
            let mut pairs = Vec::new();
            let (mut v, mut t) = (0.0, 0);
            let mut r = Fields::new(e);
            while let Some((n, f)) = r.next()? {
                match n {
                    2 => t = ms(f),
                    3 => v = f.double(),
                    6 => v = f.uint() as i64 as f64,
                    4 if !f.bytes().is_empty() => pairs.push(("span_id".to_owned(), hex(f.bytes()))),
                    5 if !f.bytes().is_empty() => pairs.push(("trace_id".to_owned(), hex(f.bytes()))),
                    _ => {}
                }
            }
            each(e, 7, &mut |k, v| pairs.push((super::super::names::label_name(k, self.t.strategy).into_owned(), v.into_owned())))?;
            if takes(v) {
                self.out.exemplar(series, Exemplar { labels: Labels::from_pairs(pairs), v, t: if t == 0 { c.t_ms } else { t } });
            }
        }
        Ok(())
    }
}

fn go_float(v: f64) -> String {
    // Decimal without exponent, the shortest that reads back the same.
    if v == f64::INFINITY { "+Inf".into() } else { format!("{v}") }
}

pub(super) fn number(x: &mut Translator<'_>, m: &Metric<'_>, p: &[u8], delta: bool) -> Result<(), WireError> {
    let mut c = Common::default();
    let mut value = None;
    let mut r = Fields::new(p);
    while let Some((n, f)) = r.next()? {
        match n {
            2 => c.start_ms = ms(f),
            3 => c.t_ms = ms(f),
            4 => value = Some(f.double()),
            6 => value = Some(f.uint() as i64 as f64),
            5 => c.exemplars.push(f.bytes()),
            8 => c.stale = f.uint() & NO_RECORDED_VALUE != 0,
            _ => {}
        }
    }
    let Some(v) = value.or(c.stale.then_some(0.0)) else {
        x.refuse(format!("metric {}: a point has no value", m.name));
        return Ok(());
    };
    x.at(c.t_ms);
    let labels = PointLabels::read(m.base, p, 7)?;
    let v = if delta { Value::Delta(v) } else { Value::Float(v) };
    let series = x.put(&labels, &m.label, None, &c, v);
    x.exemplars(series, &c, |_| true)
}

pub(super) fn histogram(x: &mut Translator<'_>, m: &Metric<'_>, p: &[u8], delta: bool) -> Result<(), WireError> {
    let mut c = Common::default();
    let (mut count, mut sum) = (0u64, None);
    let (mut counts, mut bounds) = (Vec::new(), Vec::new());
    let mut r = Fields::new(p);
    while let Some((n, f)) = r.next()? {
        match n {
            2 => c.start_ms = ms(f),
            3 => c.t_ms = ms(f),
            4 => count = f.uint(),
            5 => sum = Some(f.double()),
            6 => fixed64s(f, &mut counts)?,
            7 => fixed64s(f, &mut bounds)?,
            8 => c.exemplars.push(f.bytes()),
            10 => c.stale = f.uint() & NO_RECORDED_VALUE != 0,
            _ => {}
        }
    }
    let bounds: Vec<f64> = bounds.into_iter().map(f64::from_bits).collect();
    if !counts.is_empty() && counts.len() != bounds.len() + 1 {
        x.refuse(format!("metric {}: {} bucket counts for {} bounds", m.name, counts.len(), bounds.len()));
        return Ok(());
    }
    if !bounds.is_sorted_by(|a, b| a < b) {
        x.refuse(format!("metric {}: bucket bounds do not rise", m.name));
        return Ok(());
    }
    x.at(c.t_ms);
    let labels = PointLabels::read(m.base, p, 9)?;
    if x.t.nhcb && !delta {
        return custom(x, m, &labels, &c, count, sum, &counts, &bounds);
    }
    let value = |v: f64| if delta { Value::Delta(v) } else { Value::Float(v) };
    let many = Many { labels: &labels, around: x.labeler.around(&labels, LE) };
    if let Some(s) = sum {
        x.put_one(&many, m.part(0), None, &c, value(s));
    }
    x.put_one(&many, m.part(1), None, &c, value(count as f64));
    let mut le = std::mem::take(&mut x.le);
    if le.0 != bounds || le.1.is_empty() {
        let labels = bounds.iter().chain([&f64::INFINITY]).map(|b| Label::new(LE, go_float(*b))).collect();
        le = (bounds.clone(), labels);
    }
    let mut cumulative = 0u64;
    let mut below = f64::NEG_INFINITY;
    for (i, b) in bounds.iter().enumerate() {
        cumulative = cumulative.saturating_add(counts.get(i).copied().unwrap_or(0));
        let series = x.put_one(&many, m.part(2), le.1.get(i), &c, value(cumulative as f64));
        x.exemplars(series, &c, |v| below < v && v <= *b)?;
        below = *b;
    }
    let series = x.put_one(&many, m.part(2), le.1.last(), &c, value(count as f64));
    x.le = le;
    x.exemplars(series, &c, |v| v > below)
}

#[allow(clippy::too_many_arguments)]
fn custom(
    x: &mut Translator<'_>,
    m: &Metric<'_>,
    labels: &PointLabels<'_>,
    c: &Common<'_>,
    count: u64,
    sum: Option<f64>,
    counts: &[u64],
    bounds: &[f64],
) -> Result<(), WireError> {
    let mut before = 0i64;
    let deltas = counts.iter().map(|n| signed(*n) - std::mem::replace(&mut before, signed(*n))).collect();
    let h = Histogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        count,
        sum: if c.stale { stale_nan() } else { sum.unwrap_or(0.0) },
        positive_spans: if counts.is_empty() { vec![] } else { vec![BucketSpan { offset: 0, length: counts.len() as u32 }] },
        positive_buckets: deltas,
        custom_values: bounds.into(),
        ..Histogram::default()
    };
    put_native(x, m, labels, c, Value::Histogram(AnyHistogram::Int(Arc::new(h))))
}

fn put_native(x: &mut Translator<'_>, m: &Metric<'_>, labels: &PointLabels<'_>, c: &Common<'_>, value: Value) -> Result<(), WireError> {
    let c2 = Common { stale: false, start_ms: c.start_ms, t_ms: c.t_ms, exemplars: c.exemplars.clone() };
    let series = x.put(labels, &m.label, None, &c2, value);
    x.exemplars(series, c, |_| true)
}

/// A bucket's count. What is larger than fits can't agree with the histogram's count, and is refused for that.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Spans and differences of one side's buckets.
type Side = (Vec<BucketSpan>, Vec<i64>);

/// Buckets of one side: OTLP's are (lower, upper] from `offset`; ours are counted from 1, merged by powers of two
/// where the scale is too fine, and split into spans at gaps of more than two. `None` if an index has more than 32 bits.
fn side(buckets: &[u8], merge: u32) -> Result<Option<Side>, WireError> {
    let (mut offset, mut counts) = (0i64, Vec::new());
    let mut r = Fields::new(buckets);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => offset = i64::from(f.sint() as i32),
            2 => varints(f, &mut counts)?,
            _ => {}
        }
    }
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (i, n) in counts.iter().enumerate() {
        let index = ((offset + i as i64) >> merge) + 1;
        match merged.last_mut() {
            Some((at, c)) if *at == index => *c = c.saturating_add(signed(*n)),
            _ => merged.push((index, signed(*n))),
        }
    }
    if merged.last().is_some_and(|(index, _)| i32::try_from(*index).is_err()) {
        return Ok(None);
    }
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut end, mut before) = (0i64, 0i64);
    for (index, n) in merged.into_iter().filter(|(_, n)| *n > 0) {
        let gap = index - end;
        match spans.last_mut() {
            Some(s) if (0..=2).contains(&gap) => {
                for _ in 0..gap {
                    deltas.push(-before);
                    before = 0;
                }
                s.length += gap as u32 + 1;
            }
            _ => spans.push(BucketSpan { offset: gap as i32, length: 1 }),
        }
        deltas.push(n - before);
        before = n;
        end = index + 1;
    }
    Ok(Some((spans, deltas)))
}

pub(super) fn exponential(x: &mut Translator<'_>, m: &Metric<'_>, p: &[u8], delta: bool) -> Result<(), WireError> {
    let mut c = Common::default();
    let (mut count, mut sum, mut scale, mut zero, mut threshold) = (0u64, None, 0i64, 0u64, 0.0);
    let (mut positive, mut negative): (&[u8], &[u8]) = (&[], &[]);
    let mut r = Fields::new(p);
    while let Some((n, f)) = r.next()? {
        match n {
            2 => c.start_ms = ms(f),
            3 => c.t_ms = ms(f),
            4 => count = f.uint(),
            5 => sum = Some(f.double()),
            6 => scale = i64::from(f.sint() as i32),
            7 => zero = f.uint(),
            8 => positive = f.bytes(),
            9 => negative = f.bytes(),
            10 => c.stale = f.uint() & NO_RECORDED_VALUE != 0,
            11 => c.exemplars.push(f.bytes()),
            14 => threshold = f.double(),
            _ => {}
        }
    }
    if scale < -4 {
        x.refuse(format!("metric {}: scale {scale} is below -4", m.name));
        return Ok(());
    }
    x.at(c.t_ms);
    let merge = (scale - 8).clamp(0, 62) as u32;
    let (Some((positive_spans, positive_buckets)), Some((negative_spans, negative_buckets))) =
        (side(positive, merge)?, side(negative, merge)?)
    else {
        x.refuse(format!("metric {}: its buckets' indexes go beyond 2^31", m.name));
        return Ok(());
    };
    let mut h = Histogram {
        schema: scale.min(8) as i32,
        counter_reset: CounterReset::Unknown,
        zero_threshold: if threshold == 0.0 { DEFAULT_ZERO_THRESHOLD } else { threshold },
        zero_count: zero,
        count,
        sum: sum.unwrap_or(0.0),
        positive_spans,
        negative_spans,
        positive_buckets,
        negative_buckets,
        ..Histogram::default()
    };
    if c.stale {
        h = Histogram { sum: stale_nan(), ..Histogram::default() };
    } else if let Err(e) = h.validate() {
        x.refuse(format!("metric {}: {e}", m.name));
        return Ok(());
    }
    let labels = PointLabels::read(m.base, p, 1)?;
    let value = if delta && !c.stale { Value::DeltaHistogram(Arc::new(h)) } else { Value::Histogram(AnyHistogram::Int(Arc::new(h))) };
    put_native(x, m, &labels, &c, value)
}

pub(super) fn summary(x: &mut Translator<'_>, m: &Metric<'_>, p: &[u8]) -> Result<(), WireError> {
    let mut c = Common::default();
    let (mut count, mut sum) = (0u64, 0.0);
    let mut quantiles = Vec::new();
    let mut r = Fields::new(p);
    while let Some((n, f)) = r.next()? {
        match n {
            2 => c.start_ms = ms(f),
            3 => c.t_ms = ms(f),
            4 => count = f.uint(),
            5 => sum = f.double(),
            6 => {
                let (mut q, mut v) = (0.0, 0.0);
                let mut r = Fields::new(f.bytes());
                while let Some((n, f)) = r.next()? {
                    match n {
                        1 => q = f.double(),
                        2 => v = f.double(),
                        _ => {}
                    }
                }
                quantiles.push((q, v));
            }
            8 => c.stale = f.uint() & NO_RECORDED_VALUE != 0,
            _ => {}
        }
    }
    x.at(c.t_ms);
    let labels = PointLabels::read(m.base, p, 7)?;
    x.put(&labels, m.part(0), None, &c, Value::Float(sum));
    x.put(&labels, m.part(1), None, &c, Value::Float(count as f64));
    for (q, v) in quantiles {
        x.put(&labels, &m.label, Some(&Label::new("quantile", go_float(q))), &c, Value::Float(v));
    }
    Ok(())
}
