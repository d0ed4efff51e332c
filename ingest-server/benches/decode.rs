//! Requests to batches: remote write 1.0 and 2.0, OTLP as protobuf and JSON. Throughput is samples.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strandline_server::config::Config;
use strandline_server::otlp::json::{Signal, to_protobuf};
use strandline_server::otlp::names::Strategy;
use strandline_server::otlp::{Translation, metrics};
use strandline_server::remote_write;
use strandline_testkit::metrics::{Series, host};
use strandline_testkit::requests;

const T0: i64 = 1_700_006_400_000;

fn decode(c: &mut Criterion) {
    let series: Vec<Series> = (0..10).flat_map(host).collect();
    let mut g = c.benchmark_group("decode");
    g.throughput(Throughput::Elements(series.len() as u64));
    for (name, body, v2) in [
        ("remote_write_v1", requests::remote_write_v1(&series, T0), false),
        ("remote_write_v2", requests::remote_write_v2(&series, T0), true),
    ] {
        let body = Bytes::from(body);
        let n = series.len();
        g.bench_function(name, |b| b.iter(|| assert_eq!(remote_write::decode(body.clone(), v2).unwrap().items.len(), n)));
    }
    let config = Config::default();
    let translation = Translation {
        strategy: Strategy::named(&config.otlp_strategy),
        promote: Vec::new(),
        promote_all: false,
        scope_labels: false,
        nhcb: false,
        target_info: true,
        target_info_every_ms: 150_000,
    };
    let body = requests::otlp(&series, T0);
    g.bench_function("otlp", |b| b.iter(|| metrics::translate(&body, &translation).unwrap().points));
    let json = json(&series);
    g.bench_function("otlp_json", |b| b.iter(|| to_protobuf(&json, Signal::Metrics).unwrap().len()));
    g.finish();
}

fn json(series: &[Series]) -> Vec<u8> {
    let point = |s: &Series| {
        let attributes: Vec<String> =
            s.labels.iter().map(|(k, v)| format!("{{\"key\":{k:?},\"value\":{{\"stringValue\":{v:?}}}}}")).collect();
        format!(
            "{{\"name\":\"m\",\"gauge\":{{\"dataPoints\":[{{\"timeUnixNano\":\"{}\",\"asDouble\":{},\"attributes\":[{}]}}]}}}}",
            T0 * 1_000_000,
            s.value,
            attributes.join(",")
        )
    };
    let metrics: Vec<String> = series.iter().map(point).collect();
    format!("{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{}]}}]}}]}}", metrics.join(",")).into_bytes()
}

criterion_group!(benches, decode);
criterion_main!(benches);
