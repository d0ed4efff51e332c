//! OTLP/JSON in, series out.
#![allow(clippy::unwrap_used)]

use strandline_storage::index::RawLabels;
use strandline_storage::metrics::head::{AnyHistogram, SeriesKey, Value};

use super::*;
use crate::otlp::json::{Signal, to_protobuf};

fn translation() -> Translation {
    Translation {
        strategy: Strategy::named(""),
        promote: vec!["service.name".into()],
        promote_all: false,
        scope_labels: false,
        nhcb: false,
        target_info: true,
        target_info_every_ms: 150_000,
    }
}

/// `name{labels} value` lines, and the whole.
fn lines(json: &str, t: &Translation) -> (Vec<String>, Translated) {
    let pb = to_protobuf(json.as_bytes(), Signal::Metrics).unwrap();
    let x = translate(&pb, t).unwrap();
    let line = |i: &strandline_storage::metrics::head::Item| {
        let SeriesKey::Raw { start, len } = x.batch.series[i.series as usize] else { panic!() };
        let pairs: Vec<(&[u8], &[u8])> = RawLabels(&x.batch.raw[start as usize..(start + len) as usize]).map(|p| p.unwrap()).collect();
        assert!(pairs.is_sorted(), "labels are sorted");
        let s = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        let name = pairs.iter().find(|p| p.0 == b"__name__").map(|p| s(p.1)).unwrap();
        let rest: Vec<String> = pairs.iter().filter(|p| p.0 != b"__name__").map(|p| format!("{}={}", s(p.0), s(p.1))).collect();
        let v = match &i.value {
            Value::Float(v) if strandline_storage::model::is_stale(*v) => "stale".into(),
            Value::Float(v) => v.to_string(),
            Value::Delta(v) => format!("+{v}"),
            Value::Histogram(AnyHistogram::Int(h)) => format!(
                "schema {} count {} spans {:?} buckets {:?}",
                h.schema,
                h.count,
                h.positive_spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>(),
                h.positive_buckets
            ),
            Value::DeltaHistogram(h) => format!("+histogram of {}", h.count),
            Value::Histogram(_) => "float histogram".into(),
        };
        format!("{name}{{{}}} {v}", rest.join(","))
    };
    (x.batch.items.iter().map(line).collect(), x)
}

fn request(resource: &str, metric: &str) -> String {
    format!(r#"{{"resourceMetrics":[{{"resource":{{"attributes":[{resource}]}},"scopeMetrics":[{{"metrics":[{metric}]}}]}}]}}"#)
}

const WHO: &str = r#"{"key":"service.name","value":{"stringValue":"shop"}},{"key":"service.namespace","value":{"stringValue":"eu"}},
  {"key":"service.instance.id","value":{"stringValue":"i1"}},{"key":"team","value":{"stringValue":"core"}}"#;

#[test]
fn sums_gauges_and_target_info() {
    let json = request(
        WHO,
        r#"{"name":"http.requests","unit":"{request}","description":"d","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[
             {"timeUnixNano":"2000000000","asInt":"5","attributes":[{"key":"http.route","value":{"stringValue":"/x"}},{"key":"http_route","value":{"stringValue":"/y"}}]}]}},
           {"name":"load","gauge":{"dataPoints":[{"timeUnixNano":"3000000000","asDouble":"NaN"},{"timeUnixNano":"3000000000","flags":1}]}},
           {"name":"d","sum":{"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA","isMonotonic":true,"dataPoints":[{"timeUnixNano":"1","asDouble":2}]}}"#,
    );
    let (got, x) = lines(&json, &translation());
    assert_eq!(
        got,
        [
            "http_requests_total{http_route=/x;/y,instance=i1,job=eu/shop,service_name=shop} 5",
            "load{instance=i1,job=eu/shop,service_name=shop} NaN",
            "load{instance=i1,job=eu/shop,service_name=shop} stale",
            "d_total{instance=i1,job=eu/shop,service_name=shop} +2",
            "target_info{instance=i1,job=eu/shop,team=core} 1",
            "target_info{instance=i1,job=eu/shop,team=core} 1",
        ]
    );
    assert_eq!((x.points, x.refused), (4, 0));
    assert_eq!(x.batch.metadata[0].0, "http_requests_total");
    assert_eq!([x.batch.items[4].t, x.batch.items[5].t], [0, 3000], "at the oldest and at the newest point");
}

#[test]
fn scopes_are_labels_if_they_have_a_name() {
    let with = |scope: &str| {
        let json = request(
            "",
            r#"{"name":"g","gauge":{"dataPoints":[{"timeUnixNano":"1","asInt":"1","attributes":[
            {"key":"otel.scope.name","value":{"stringValue":"mine"}}]}]}}"#,
        );
        let json = json.replace(r#"{"metrics""#, &format!(r#"{{"scope":{scope},"schemaUrl":"u","metrics""#));
        lines(&json, &Translation { scope_labels: true, ..translation() }).0.concat()
    };
    let attributes = r#""attributes":[{"key":"name","value":{"stringValue":"n"}},{"key":"a.b","value":{"stringValue":"1"}},
        {"key":"a_b","value":{"stringValue":"1"}}]"#;
    assert_eq!(
        with(&format!(r#"{{"name":"lib","version":"2",{attributes}}}"#)),
        "g{otel_scope_a_b=1;1,otel_scope_name=lib,otel_scope_schema_url=u,otel_scope_version=2} 1"
    );
    assert_eq!(with(&format!(r#"{{"version":"2",{attributes}}}"#)), "g{otel_scope_name=mine} 1");
}

#[test]
fn target_info_is_beside_each_point() {
    let at = |times_s: &[i64]| {
        let point = |t: &i64| format!(r#"{{"timeUnixNano":"{t}000000000","asInt":"1"}}"#);
        let points: Vec<String> = times_s.iter().map(point).collect();
        let json = request(WHO, &format!(r#"{{"name":"g","gauge":{{"dataPoints":[{}]}}}}"#, points.join(",")));
        let (lines, x) = lines(&json, &translation());
        let infos = lines.iter().zip(&x.batch.items).filter(|(line, _)| line.starts_with("target_info"));
        infos.map(|(_, i)| i.t / 1000).collect::<Vec<_>>()
    };
    assert_eq!(at(&[1000]), [1000]);
    assert_eq!(at(&[1149, 1000, 1010]), [1000, 1149]);
    assert_eq!(at(&[1000, 1150, 1310]), [1000, 1150, 1300, 1310], "every half of 5 minutes from the earliest on, and at the latest");
    // Where there are none there is no need; a point of 1970 must not cost a sample for every 150 seconds since.
    assert_eq!(at(&[1000, 1_796_000_000]), [1000, 1_795_999_900, 1_796_000_000]);
    let second = request(WHO, r#"{"name":"g","gauge":{"dataPoints":[]}}"#);
    assert!(lines(&second, &translation()).0.is_empty(), "no points, no target_info");
}

#[test]
fn histograms_become_buckets() {
    let json = request(
        WHO,
        r#"{"name":"lat","unit":"s","histogram":{"aggregationTemporality":2,"dataPoints":[{"timeUnixNano":"1000000","count":"6","sum":3.5,
            "bucketCounts":["1","2","3"],"explicitBounds":[0.1,1],"exemplars":[{"timeUnixNano":"1000000","asDouble":0.5,"traceId":"0102","spanId":"03"}]}]}}"#,
    );
    let (got, x) = lines(&json, &translation());
    let l = "instance=i1,job=eu/shop";
    assert_eq!(
        got[..5],
        [
            format!("lat_seconds_sum{{{l},service_name=shop}} 3.5"),
            format!("lat_seconds_count{{{l},service_name=shop}} 6"),
            format!("lat_seconds_bucket{{{l},le=0.1,service_name=shop}} 1"),
            format!("lat_seconds_bucket{{{l},le=1,service_name=shop}} 3"),
            format!("lat_seconds_bucket{{{l},le=+Inf,service_name=shop}} 6"),
        ]
    );
    assert_eq!(x.batch.exemplars.len(), 1);
    assert_eq!(x.batch.exemplars[0].0, x.batch.items[3].series, "in the bucket it falls into");
    assert_eq!(x.batch.exemplars[0].1.labels.get("trace_id"), Some("0102"));
    let (got, _) = lines(&json, &Translation { nhcb: true, target_info: false, ..translation() });
    assert_eq!(got, [format!("lat_seconds{{{l},service_name=shop}} schema -53 count 6 spans [(0, 3)] buckets [1, 1, 1]")]);
}

#[test]
fn exponential_histograms_shift_merge_and_split() {
    let point = |scale: i32, offset: i32, counts: &str| {
        request(
            "",
            &format!(
                r#"{{"name":"e","exponentialHistogram":{{"aggregationTemporality":2,"dataPoints":[{{"timeUnixNano":"1","count":"10","sum":1,
                "scale":{scale},"zeroCount":"2","positive":{{"offset":{offset},"bucketCounts":[{counts}]}}}}]}}}}"#
            ),
        )
    };
    // Index + 1; a gap of one is filled, a gap of three splits.
    let (got, _) = lines(&point(0, -1, r#""3","0","1","0","0","0","4""#), &translation());
    assert_eq!(got, ["e{} schema 0 count 10 spans [(0, 3), (3, 1)] buckets [3, -3, 1, 3]"]);
    // Scale 9 is merged down to 8: buckets 0 and 1 become one.
    let (got, _) = lines(&point(9, 0, r#""3","5""#), &translation());
    assert_eq!(got, ["e{} schema 8 count 10 spans [(1, 1)] buckets [8]"]);
    let delta = point(0, 0, r#""8""#).replace(r#""aggregationTemporality":2"#, r#""aggregationTemporality":1"#);
    assert_eq!(lines(&delta, &translation()).0, ["e{} +histogram of 10"]);
    let (got, x) = lines(&point(-5, 0, r#""8""#), &translation());
    assert!(got.is_empty() && x.refused == 1 && x.reasons[0].contains("scale -5"), "{:?}", x.reasons);
    // Its upper bucket would wrap around.
    let (got, x) = lines(&point(0, i32::MAX, r#""8""#), &translation());
    assert!(got.is_empty() && x.refused == 1 && x.reasons[0].contains("2^31"), "{:?}", x.reasons);
}

#[test]
fn summaries_and_refusals() {
    let json = request(
        "",
        r#"{"name":"s","summary":{"dataPoints":[{"timeUnixNano":"1","count":"2","sum":3,"quantileValues":[{"quantile":0.5,"value":1}]}]}},
           {"name":"bad","histogram":{"aggregationTemporality":2,"dataPoints":[{"timeUnixNano":"1","count":"1","bucketCounts":["1"],"explicitBounds":[1,2]}]}},
           {"name":"none","sum":{"dataPoints":[{"timeUnixNano":"1","asInt":"1"}]}}"#,
    );
    let (got, x) = lines(&json, &translation());
    assert_eq!(got, ["s_sum{} 3", "s_count{} 2", "s{quantile=0.5} 1"]);
    assert_eq!((x.points, x.refused), (3, 2));
    assert!(x.reasons[0].contains("bucket counts") && x.reasons[1].contains("temporality"), "{:?}", x.reasons);
}

#[test]
fn attributes_of_every_kind() {
    let value = |v: &str| {
        format!(r#"{{"name":"k","gauge":{{"dataPoints":[{{"timeUnixNano":"1","asInt":"1","attributes":[{{"key":"k","value":{v}}}]}}]}}}}"#)
    };
    for (v, want) in [
        (r#"{"bytesValue":"/wA="}"#, "/wA="),
        (r#"{"arrayValue":{"values":[{"bytesValue":"/wA="},{},{"doubleValue":0.5}]}}"#, r#"["/wA=",null,0.5]"#),
        (r#"{"kvlistValue":{"values":[{"key":"a","value":{"doubleValue":1e21}}]}}"#, r#"{"a":1e+21}"#),
        (r#"{"doubleValue":3}"#, "3"),
        (r#"{"doubleValue":-1.25e22}"#, "-1.25e+22"),
        (r#"{"doubleValue":1e-7}"#, "1e-7"),
        (r#"{"doubleValue":0.000001}"#, "0.000001"),
        (r#"{"intValue":"-9223372036854775808"}"#, "-9223372036854775808"),
        (r#"{"boolValue":false}"#, "false"),
    ] {
        assert_eq!(lines(&request("", &value(v)), &translation()).0, [format!("k{{k={want}}} 1")], "{v}");
    }
}

#[test]
fn any_bytes_are_an_answer_or_an_error() {
    let pb =
        to_protobuf(request(WHO, r#"{"name":"m","gauge":{"dataPoints":[{"timeUnixNano":"1","asInt":"1"}]}}"#).as_bytes(), Signal::Metrics)
            .unwrap();
    for cut in 0..pb.len() {
        let _ = translate(&pb[..cut], &translation());
        let mut flipped = pb.clone();
        flipped[cut] ^= 0x55;
        let _ = translate(&flipped, &translation());
    }
}
