//! Federation as protobuf, which can say native histograms.

use std::io;

use axum::http::{HeaderMap, header};
use prost::Message;
use strandline_storage::model::{BucketSpan, CounterReset, FloatHistogram, Labels, METRIC_NAME};
use strandline_storage::read::Newest;

use super::answer::Out;
use crate::families::{self as wire, MEDIA_TYPE, Type};

/// Whether the client prefers this form to text.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let (mut proto, mut text) = (0f32, 0f32);
    let offers = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    for offer in offers {
        let mut parts = offer.split(';').map(str::trim);
        let kind = parts.next().unwrap_or("");
        let (mut q, mut delimited, mut family) = (1.0f32, false, true);
        for p in parts {
            match p.split_once('=').unwrap_or((p, "")) {
                ("q", v) => q = v.parse().unwrap_or(0.0),
                ("encoding", v) => delimited = v == "delimited",
                ("proto", v) => family = v == "io.prometheus.client.MetricFamily",
                _ => {}
            }
        }
        match kind {
            MEDIA_TYPE if delimited && family => proto = q.max(proto),
            "text/plain" | "text/*" => text = q.max(text),
            _ => {}
        }
    }
    proto > 0.0 && proto >= text
}

/// Writes the series, sorted by name; those of a name and type make a family.
pub fn write(out: &mut Out, list: &[(Labels, Newest)]) -> io::Result<()> {
    let kind = |n: &Newest| match &n.h {
        None => Type::Untyped,
        Some(h) if h.counter_reset == CounterReset::Gauge => Type::GaugeHistogram,
        Some(_) => Type::Histogram,
    };
    for family in list.chunk_by(|a, b| a.0.metric_name() == b.0.metric_name() && kind(&a.1) == kind(&b.1)) {
        let message = wire::Family {
            name: Some(family[0].0.metric_name().to_owned()),
            r#type: Some(kind(&family[0].1) as i32),
            metric: family.iter().map(|(l, n)| metric(l, n)).collect(),
            ..Default::default()
        };
        out.buf.extend_from_slice(&message.encode_length_delimited_to_vec());
        out.spill()?;
    }
    Ok(())
}

fn metric(labels: &Labels, n: &Newest) -> wire::Metric {
    let label = |n: &str, v: &str| wire::Label { name: Some(n.to_owned()), value: Some(v.to_owned()) };
    let mut all: Vec<_> = labels.iter().filter(|(n, _)| *n != METRIC_NAME).map(|(n, v)| label(n, v)).collect();
    if labels.get("instance").is_none() {
        // Or whoever scrapes this page would put its own there.
        all.push(label("instance", ""));
    }
    wire::Metric {
        label: all,
        untyped: n.h.is_none().then_some(wire::Number { value: Some(n.v) }),
        timestamp_ms: Some(n.t),
        histogram: n.h.as_deref().map(histogram),
        ..Default::default()
    }
}

fn histogram(h: &FloatHistogram) -> wire::Histogram {
    let of = wire::Histogram { sum: Some(h.sum), count_float: Some(h.count), ..Default::default() };
    if h.uses_custom_buckets() {
        // The format knows custom bounds as classic buckets only.
        return wire::Histogram { bucket: classic(h), ..of };
    }
    let spans = |list: &[BucketSpan]| list.iter().map(|s| wire::Span { offset: Some(s.offset), length: Some(s.length) }).collect();
    wire::Histogram {
        schema: Some(h.schema),
        zero_threshold: Some(h.zero_threshold),
        zero_count_float: Some(h.zero_count),
        negative_span: spans(&h.negative_spans),
        negative_count: h.negative_buckets.clone(),
        positive_span: spans(&h.positive_spans),
        positive_count: h.positive_buckets.clone(),
        ..of
    }
}

fn classic(h: &FloatHistogram) -> Vec<wire::Bucket> {
    let mut counts = vec![0.0; h.custom_values.len() + 1];
    let (mut at, mut next) = (0i64, h.positive_buckets.iter());
    for s in &h.positive_spans {
        at += i64::from(s.offset);
        for _ in 0..s.length {
            if let (Some(n), Some(slot)) = (next.next(), usize::try_from(at).ok().and_then(|i| counts.get_mut(i))) {
                *slot += n;
            }
            at += 1;
        }
    }
    let bounds = h.custom_values.iter().copied().chain([f64::INFINITY]);
    let mut sum = 0.0;
    let bucket = |(bound, n): (f64, &f64)| {
        sum += n;
        wire::Bucket { upper_bound: Some(bound), cumulative_count_float: Some(sum), ..Default::default() }
    };
    bounds.zip(&counts).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_is_for_who_asks() {
        let wanted = |accept: &'static str| {
            let mut h = HeaderMap::new();
            h.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
            is_wanted(&h)
        };
        let proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        assert!(wanted(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        assert!(wanted(proto));
        assert!(!wanted("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.2,text/plain"));
        assert!(!wanted("application/vnd.google.protobuf;encoding=text"));
        assert!(!wanted("*/*"));
        assert!(!is_wanted(&HeaderMap::new()));
    }

    #[test]
    fn custom_bounds_become_classic_buckets() {
        let h = FloatHistogram {
            schema: strandline_storage::model::CUSTOM_BUCKETS_SCHEMA,
            count: 7.0,
            sum: 30.0,
            positive_spans: vec![BucketSpan { offset: 0, length: 1 }, BucketSpan { offset: 1, length: 1 }],
            positive_buckets: vec![3.0, 4.0],
            custom_values: [1.0, 5.0].into(),
            ..Default::default()
        };
        let got: Vec<_> = histogram(&h).bucket.iter().map(|b| (b.upper_bound.unwrap(), b.cumulative_count_float.unwrap())).collect();
        assert_eq!(got, [(1.0, 3.0), (5.0, 3.0), (f64::INFINITY, 7.0)]);
        assert_eq!(histogram(&h).schema, None);
    }
}
