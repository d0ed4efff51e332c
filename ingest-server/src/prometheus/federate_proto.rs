//! Federation as protobuf: families of `io.prometheus.client`, each with its length before it. Unlike the text, it can
//! say native histograms.

use std::io;

use axum::http::{HeaderMap, header};
use prost::Message;
use strandline_storage::model::{BucketSpan, CounterReset, FloatHistogram, Labels, METRIC_NAME};
use strandline_storage::read::Newest;

use super::answer::Out;

/// The messages, as far as the page needs them.
pub mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Family {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(int32, optional, tag = "3")]
        pub r#type: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        pub metric: Vec<Metric>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<Label>,
        #[prost(message, optional, tag = "5")]
        pub untyped: Option<Untyped>,
        #[prost(int64, optional, tag = "6")]
        pub timestamp_ms: Option<i64>,
        #[prost(message, optional, tag = "7")]
        pub histogram: Option<Histogram>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub value: Option<String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Untyped {
        #[prost(double, optional, tag = "1")]
        pub value: Option<f64>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Histogram {
        #[prost(double, optional, tag = "2")]
        pub sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub bucket: Vec<Bucket>,
        #[prost(double, optional, tag = "4")]
        pub count: Option<f64>,
        #[prost(sint32, optional, tag = "5")]
        pub schema: Option<i32>,
        #[prost(double, optional, tag = "6")]
        pub zero_threshold: Option<f64>,
        #[prost(double, optional, tag = "8")]
        pub zero_count: Option<f64>,
        #[prost(message, repeated, tag = "9")]
        pub negative_span: Vec<Span>,
        #[prost(double, repeated, tag = "11")]
        pub negative_count: Vec<f64>,
        #[prost(message, repeated, tag = "12")]
        pub positive_span: Vec<Span>,
        #[prost(double, repeated, tag = "14")]
        pub positive_count: Vec<f64>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Bucket {
        #[prost(double, optional, tag = "2")]
        pub upper_bound: Option<f64>,
        #[prost(double, optional, tag = "4")]
        pub cumulative_count: Option<f64>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Span {
        #[prost(sint32, optional, tag = "1")]
        pub offset: Option<i32>,
        #[prost(uint32, optional, tag = "2")]
        pub length: Option<u32>,
    }
}

const UNTYPED: i32 = 3;
const HISTOGRAM: i32 = 4;
const GAUGE_HISTOGRAM: i32 = 5;

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
            "application/vnd.google.protobuf" if delimited && family => proto = q.max(proto),
            "text/plain" | "text/*" => text = q.max(text),
            _ => {}
        }
    }
    proto > 0.0 && proto >= text
}

/// Writes the series, sorted by name; those of a name and type make a family.
pub fn write(out: &mut Out, list: &[(Labels, Newest)]) -> io::Result<()> {
    let kind = |n: &Newest| match &n.h {
        None => UNTYPED,
        Some(h) if h.counter_reset == CounterReset::Gauge => GAUGE_HISTOGRAM,
        Some(_) => HISTOGRAM,
    };
    for family in list.chunk_by(|a, b| a.0.metric_name() == b.0.metric_name() && kind(&a.1) == kind(&b.1)) {
        let message = wire::Family {
            name: Some(family[0].0.metric_name().to_owned()),
            r#type: Some(kind(&family[0].1)),
            metric: family.iter().map(|(l, n)| metric(l, n)).collect(),
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
        untyped: n.h.is_none().then_some(wire::Untyped { value: Some(n.v) }),
        timestamp_ms: Some(n.t),
        histogram: n.h.as_deref().map(histogram),
    }
}

fn histogram(h: &FloatHistogram) -> wire::Histogram {
    let of = wire::Histogram { sum: Some(h.sum), count: Some(h.count), ..Default::default() };
    if h.uses_custom_buckets() {
        // The format knows custom bounds as classic buckets only.
        return wire::Histogram { bucket: classic(h), ..of };
    }
    let spans = |list: &[BucketSpan]| list.iter().map(|s| wire::Span { offset: Some(s.offset), length: Some(s.length) }).collect();
    wire::Histogram {
        schema: Some(h.schema),
        zero_threshold: Some(h.zero_threshold),
        zero_count: Some(h.zero_count),
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
        wire::Bucket { upper_bound: Some(bound), cumulative_count: Some(sum) }
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
        let got: Vec<_> = histogram(&h).bucket.iter().map(|b| (b.upper_bound.unwrap(), b.cumulative_count.unwrap())).collect();
        assert_eq!(got, [(1.0, 3.0), (5.0, 3.0), (f64::INFINITY, 7.0)]);
        assert_eq!(histogram(&h).schema, None);
    }
}
