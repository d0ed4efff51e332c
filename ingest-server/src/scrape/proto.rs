//! Prometheus' protobuf format, for native histograms. What becomes of a message is what a Prometheus 3 makes of it.

use std::sync::Arc;

use prost::Message;
use strandline_storage::metrics::head::{AnyHistogram, Value};
use strandline_storage::model::{
    BucketSpan, CounterReset, Exemplar, FloatHistogram, Histogram, Labels, METRIC_NAME, MetricKind, MetricMetadata,
};

use super::page::{Page, Sample, number_in_label};
use crate::families::{self, Family, Metric, Type};

/// Reads a page. Of a histogram that is native and classic the classic buckets are read too if `classic` says so.
pub fn parse(mut page: &[u8], classic: bool) -> Result<Page, String> {
    let mut out = Page::default();
    let mut number = 0;
    while !page.is_empty() {
        number += 1;
        let family = Family::decode_length_delimited(&mut page).map_err(|e| format!("family {number} of the page: {e}"))?;
        let name = family.name.clone().unwrap_or_default();
        put_family(family, classic, &mut out).map_err(|e| format!("family {number} of the page, {name:?}: {e}"))?;
    }
    Ok(out)
}

fn put_family(f: Family, classic: bool, out: &mut Page) -> Result<(), String> {
    let name = f.name.filter(|n| !n.is_empty()).ok_or("it has no name")?;
    let number = f.r#type.unwrap_or_default();
    let kind = Type::try_from(number).map_err(|_| format!("type {number} is unknown"))?;
    for m in f.metric {
        let (labels, emptied) = pairs(&m)?;
        Writer { name: &name, labels, emptied, t_ms: m.timestamp_ms.filter(|t| *t != 0), start_ms: 0, out }.metric(kind, m, classic);
    }
    let kind = match kind {
        Type::Counter => MetricKind::Counter,
        Type::Gauge => MetricKind::Gauge,
        Type::Summary => MetricKind::Summary,
        Type::Untyped => MetricKind::Unknown,
        Type::Histogram => MetricKind::Histogram,
        Type::GaugeHistogram => MetricKind::GaugeHistogram,
    };
    out.meta.push((name, MetricMetadata { kind, help: f.help.unwrap_or_default(), unit: f.unit.unwrap_or_default() }));
    Ok(())
}

/// The labels that are not empty, and the names of those that are.
#[allow(clippy::type_complexity)]
fn pairs(m: &Metric) -> Result<(Vec<(String, String)>, Vec<String>), String> {
    let (mut labels, mut emptied) = (Vec::with_capacity(m.label.len()), Vec::new());
    for l in &m.label {
        let name = l.name.clone().filter(|n| !n.is_empty()).ok_or("a label has no name")?;
        if name == METRIC_NAME || emptied.contains(&name) || labels.iter().any(|(n, _)| *n == name) {
            return Err(format!("the label {name:?} occurs twice"));
        }
        match l.value.clone().unwrap_or_default() {
            v if v.is_empty() => emptied.push(name),
            v => labels.push((name, v)),
        }
    }
    Ok((labels, emptied))
}

fn exemplar(e: families::Exemplar) -> Exemplar {
    let label = |l: families::Label| (l.name.unwrap_or_default(), l.value.unwrap_or_default());
    let t = e.timestamp.map_or(0, |t| t.millis());
    Exemplar { labels: Labels::from_pairs(e.label.into_iter().map(label)), v: e.value.unwrap_or_default(), t }
}

/// Puts the samples of a metric into the page.
struct Writer<'a> {
    name: &'a str,
    labels: Vec<(String, String)>,
    emptied: Vec<String>,
    t_ms: Option<i64>,
    start_ms: i64,
    out: &'a mut Page,
}

impl Writer<'_> {
    fn put(&mut self, ending: &str, more: Option<(&str, f64)>, value: Value, exemplars: Vec<Exemplar>) {
        let own = self.labels.iter().map(|(n, v)| (n.clone(), v.clone()));
        let number = more.map(|(n, v)| (n.to_owned(), number_in_label(v)));
        let own = own.filter(|(n, _)| more.is_none_or(|(m, _)| n != m));
        let name = (METRIC_NAME.to_owned(), format!("{}{ending}", self.name));
        self.out.samples.push(Sample {
            labels: Labels::from_pairs(own.chain([name]).chain(number)),
            value,
            t_ms: self.t_ms,
            start_ms: self.start_ms,
            exemplars,
            emptied: self.emptied.clone(),
        });
    }

    fn float(&mut self, ending: &str, v: f64) {
        self.put(ending, None, Value::Float(v), Vec::new());
    }

    fn metric(mut self, kind: Type, m: Metric, classic: bool) {
        match kind {
            Type::Counter => {
                let c = m.counter.unwrap_or_default();
                self.start_ms = c.created.map_or(0, |t| t.millis());
                self.put("", None, Value::Float(c.value.unwrap_or_default()), c.exemplar.map(exemplar).into_iter().collect());
            }
            Type::Gauge => self.float("", m.gauge.and_then(|g| g.value).unwrap_or_default()),
            Type::Untyped => self.float("", m.untyped.and_then(|u| u.value).unwrap_or_default()),
            Type::Summary => self.summary(m.summary.unwrap_or_default()),
            Type::Histogram | Type::GaugeHistogram => {
                let h = m.histogram.unwrap_or_default();
                self.start_ms = h.created.map_or(0, |t| t.millis());
                let native = is_native(&h);
                if native {
                    self.put("", None, Value::Histogram(native_value(&h, kind == Type::GaugeHistogram)), native_exemplars(&h));
                }
                if !native || (classic && !h.bucket.is_empty()) {
                    self.classic(h);
                }
            }
        }
    }

    fn summary(&mut self, s: families::Summary) {
        self.start_ms = s.created.map_or(0, |t| t.millis());
        self.float("_count", s.count.unwrap_or_default() as f64);
        self.float("_sum", s.sum.unwrap_or_default());
        for q in s.quantile {
            self.put("", Some(("quantile", q.quantile.unwrap_or_default())), Value::Float(q.value.unwrap_or_default()), Vec::new());
        }
    }

    fn classic(&mut self, h: families::Histogram) {
        let count = number(h.count, h.count_float);
        self.float("_count", count);
        self.float("_sum", h.sum.unwrap_or_default());
        let ends = h.bucket.last().is_some_and(|b| b.upper_bound == Some(f64::INFINITY));
        for b in h.bucket {
            let v = Value::Float(number(b.cumulative_count, b.cumulative_count_float));
            self.put("_bucket", Some(("le", b.upper_bound.unwrap_or_default())), v, b.exemplar.map(exemplar).into_iter().collect());
        }
        if !ends {
            self.put("_bucket", Some(("le", f64::INFINITY)), Value::Float(count), Vec::new());
        }
    }
}

/// A count of either kind.
fn number(int: Option<u64>, float: Option<f64>) -> f64 {
    float.filter(|f| *f > 0.0).unwrap_or(int.unwrap_or_default() as f64)
}

/// A native histogram has buckets, a zero bucket, or the span of nothing that tells an empty one from a classic one.
fn is_native(h: &families::Histogram) -> bool {
    let more = |v: Option<f64>| v.is_some_and(|v| v > 0.0);
    !h.positive_span.is_empty()
        || !h.negative_span.is_empty()
        || more(h.zero_threshold)
        || more(h.zero_count_float)
        || h.zero_count.is_some_and(|n| n > 0)
}

/// Those that have a time: its own ones, else those of its classic buckets.
fn native_exemplars(h: &families::Histogram) -> Vec<Exemplar> {
    let of_buckets = h.bucket.iter().filter_map(|b| b.exemplar.as_ref()).filter(|_| h.exemplar.is_empty());
    let timed = h.exemplar.iter().chain(of_buckets).filter(|e| e.timestamp.is_some());
    timed.cloned().map(exemplar).collect()
}

fn native_value(h: &families::Histogram, gauge: bool) -> AnyHistogram {
    let spans = |list: &[families::Span]| -> Vec<BucketSpan> {
        let span = |s: &families::Span| BucketSpan { offset: s.offset.unwrap_or_default(), length: s.length.unwrap_or_default() };
        list.iter().map(span).filter(|s| s.length > 0 || s.offset != 0).collect()
    };
    let counter_reset = if gauge { CounterReset::Gauge } else { CounterReset::Unknown };
    let (schema, zero_threshold) = (h.schema.unwrap_or_default(), h.zero_threshold.unwrap_or_default());
    let (positive_spans, negative_spans) = (spans(&h.positive_span), spans(&h.negative_span));
    let sum = h.sum.unwrap_or_default();
    let float = h.count_float.is_some_and(|c| c > 0.0) || h.zero_count_float.is_some_and(|c| c > 0.0);
    if float || !h.positive_count.is_empty() || !h.negative_count.is_empty() {
        let mut f = FloatHistogram {
            schema,
            counter_reset,
            zero_threshold,
            zero_count: number(h.zero_count, h.zero_count_float),
            count: number(h.count, h.count_float),
            sum,
            positive_spans,
            negative_spans,
            positive_buckets: h.positive_count.clone(),
            negative_buckets: h.negative_count.clone(),
            ..Default::default()
        };
        f.reduce_resolution();
        return AnyHistogram::Float(Arc::new(f));
    }
    let mut i = Histogram {
        schema,
        counter_reset,
        zero_threshold,
        zero_count: h.zero_count.unwrap_or_default(),
        count: h.count.unwrap_or_default(),
        sum,
        positive_spans,
        negative_spans,
        positive_buckets: h.positive_delta.clone(),
        negative_buckets: h.negative_delta.clone(),
        ..Default::default()
    };
    i.reduce_resolution();
    AnyHistogram::Int(Arc::new(i))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::families::{Bucket, Counter, Label, Number, Quantile, Span, Summary, Timestamp};

    fn label(n: &str, v: &str) -> Label {
        Label { name: Some(n.into()), value: Some(v.into()) }
    }

    fn family(name: &str, kind: Type, metric: Metric) -> Vec<u8> {
        Family { name: Some(name.into()), r#type: Some(kind as i32), metric: vec![metric], ..Default::default() }
            .encode_length_delimited_to_vec()
    }

    fn shown(page: &[u8], classic: bool) -> Vec<String> {
        let value = |v: &Value| match v {
            Value::Float(v) => v.to_string(),
            Value::Histogram(AnyHistogram::Int(h)) => {
                format!("{} {:?} {:?} {:?}", h.count, h.positive_buckets, h.positive_spans, h.counter_reset)
            }
            Value::Histogram(AnyHistogram::Float(h)) => format!("{} {:?}", h.count, h.positive_buckets),
            other => format!("{other:?}"),
        };
        let times = |s: &Sample| format!("{:?} {} {:?}", s.t_ms, s.start_ms, s.exemplars.iter().map(|e| e.t).collect::<Vec<_>>());
        let all = parse(page, classic).unwrap().samples;
        all.iter().map(|s| format!("{} = {} @ {}", s.labels, value(&s.value), times(s))).collect()
    }

    fn histogram() -> families::Histogram {
        let exemplar = |t: i64| families::Exemplar {
            value: Some(0.3),
            timestamp: (t > 0).then_some(Timestamp { seconds: t, nanos: 0 }),
            ..Default::default()
        };
        let bucket = |bound: f64, n: u64, t: i64| Bucket {
            upper_bound: Some(bound),
            cumulative_count: Some(n),
            exemplar: Some(exemplar(t)),
            ..Default::default()
        };
        families::Histogram { count: Some(3), sum: Some(2.5), bucket: vec![bucket(0.5, 1, 0), bucket(1.0, 2, 7)], ..Default::default() }
    }

    #[test]
    fn each_type() {
        let created = Some(Timestamp { seconds: 5, nanos: 20_000_000 });
        let page = [
            family(
                "c_total",
                Type::Counter,
                Metric { counter: Some(Counter { value: Some(3.0), created, ..Default::default() }), ..Default::default() },
            ),
            family("g", Type::Gauge, Metric { gauge: Some(Number { value: Some(1.5) }), timestamp_ms: Some(9), ..Default::default() }),
            family("u", Type::Untyped, Metric { label: vec![label("a", "b"), label("e", "")], ..Default::default() }),
            family(
                "s",
                Type::Summary,
                Metric {
                    summary: Some(Summary {
                        count: Some(2),
                        sum: Some(1.0),
                        quantile: vec![Quantile { quantile: Some(1.0), value: Some(7.0) }],
                        created: None,
                    }),
                    ..Default::default()
                },
            ),
            family("h", Type::Histogram, Metric { histogram: Some(histogram()), ..Default::default() }),
        ]
        .concat();
        let want = [
            r#"{__name__="c_total"} = 3 @ None 5020 []"#,
            r#"{__name__="g"} = 1.5 @ Some(9) 0 []"#,
            r#"{__name__="u", a="b"} = 0 @ None 0 []"#,
            r#"{__name__="s_count"} = 2 @ None 0 []"#,
            r#"{__name__="s_sum"} = 1 @ None 0 []"#,
            r#"{__name__="s", quantile="1.0"} = 7 @ None 0 []"#,
            r#"{__name__="h_count"} = 3 @ None 0 []"#,
            r#"{__name__="h_sum"} = 2.5 @ None 0 []"#,
            r#"{__name__="h_bucket", le="0.5"} = 1 @ None 0 [0]"#,
            r#"{__name__="h_bucket", le="1.0"} = 2 @ None 0 [7000]"#,
            r#"{__name__="h_bucket", le="+Inf"} = 3 @ None 0 []"#,
        ];
        assert_eq!(shown(&page, false), want);
        assert_eq!(parse(&page, false).unwrap().samples[2].emptied, ["e"]);
        let kinds: Vec<_> = parse(&page, false).unwrap().meta.into_iter().map(|m| m.1.kind).collect();
        assert_eq!(kinds, [MetricKind::Counter, MetricKind::Gauge, MetricKind::Unknown, MetricKind::Summary, MetricKind::Histogram]);
    }

    #[test]
    fn native_and_classic() {
        let span = |offset, length| Span { offset: Some(offset), length: Some(length) };
        let both = families::Histogram { positive_span: vec![span(-1, 2)], positive_delta: vec![2, -1], schema: Some(3), ..histogram() };
        let page = family("h", Type::Histogram, Metric { histogram: Some(both.clone()), ..Default::default() });
        let native = r#"{__name__="h"} = 3 [2, -1] [BucketSpan { offset: -1, length: 2 }] Unknown @ None 0 [7000]"#;
        assert_eq!(shown(&page, false), [native], "exemplars without a time are none of a native histogram's");
        assert_eq!(shown(&page, true).len(), 6);
        let empty = families::Histogram { positive_span: vec![span(0, 0)], ..Default::default() };
        let page = family("h", Type::GaugeHistogram, Metric { histogram: Some(empty), ..Default::default() });
        assert_eq!(shown(&page, true), [r#"{__name__="h"} = 0 [] [] Gauge @ None 0 []"#]);
        let floats = families::Histogram {
            count_float: Some(2.5),
            positive_count: vec![2.5],
            positive_delta: vec![],
            positive_span: vec![span(0, 1)],
            ..both
        };
        let page = family("h", Type::Histogram, Metric { histogram: Some(floats), ..Default::default() });
        assert_eq!(shown(&page, false), [r#"{__name__="h"} = 2.5 [2.5] @ None 0 [7000]"#]);
    }

    #[test]
    fn pages_refused() {
        let refused = |page: &[u8]| parse(page, true).unwrap_err();
        let gauge = |name: &str, label: Vec<Label>| family(name, Type::Gauge, Metric { label, ..Default::default() });
        assert_eq!(refused(&gauge("", vec![])), "family 1 of the page, \"\": it has no name");
        assert_eq!(refused(&gauge("g", vec![label("", "x")])), "family 1 of the page, \"g\": a label has no name");
        assert!(refused(&gauge("g", vec![label("a", "x"), label("a", "")])).ends_with("the label \"a\" occurs twice"));
        let odd = Family { name: Some("g".into()), r#type: Some(9), ..Default::default() };
        assert!(refused(&odd.encode_length_delimited_to_vec()).ends_with("type 9 is unknown"));
        let whole = [gauge("a", vec![]), gauge("b", vec![label("x", "y")])].concat();
        assert!(refused(&whole[..whole.len() - 1]).starts_with("family 2 of the page: "));
    }
}
