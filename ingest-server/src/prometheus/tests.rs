//! The API as its clients call it: Grafana's data source, Prometheus' UI, remote read.

use std::io::Read;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use prost::Message;
use serde_json::Value as Json;
use strandline_query::promql::{Engine, EngineOptions, MemSource};
use strandline_storage::chunk::{self, Encoding};
use strandline_storage::clock::ManualClock;
use strandline_storage::codec::crc32c;
use strandline_storage::model::{BucketSpan, Exemplar, FloatHistogram, Labels, MetricKind, MetricMetadata, TimeRange};
use strandline_storage::read::{ExemplarSeries, SampleBuf, SeriesSource};
use tower::ServiceExt;

use super::remote_read::{ChunkedReadResponse, LabelMatcher, Query, ReadRequest, ReadResponse};
use super::*;

const NOW: i64 = 1_700_000_000_000;

struct One(Arc<MemSource>);

impl Stores for One {
    fn source(&self, _: &HeaderMap) -> Result<Arc<dyn SeriesSource>, Refusal> {
        Ok(self.0.clone())
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn data() -> MemSource {
    let mut s = MemSource::new();
    for i in 0..240 {
        let t = NOW - 3_600_000 + i * 15_000;
        for (job, instance) in [("api", "a:1"), ("api", "b:1"), ("db", "c:1")] {
            s.push(&labels(&[("__name__", "up"), ("job", job), ("instance", instance)]), t, 1.0);
            let l = labels(&[("__name__", "http_requests_total"), ("job", job), ("instance", instance)]);
            s.push(&l, t, i as f64 * 1.5);
        }
        s.push(&labels(&[("__name__", "http.status"), ("the label", "é\"\\\n")]), t, 1e-7);
        let h = FloatHistogram {
            count: 6.0,
            sum: 2.5,
            zero_threshold: 0.001,
            zero_count: 1.0,
            positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
            positive_buckets: vec![2.0, 3.0],
            ..FloatHistogram::default()
        };
        s.push_histogram(&labels(&[("__name__", "latency")]), t, h, 0);
    }
    s.set_metadata("up", MetricMetadata { kind: MetricKind::Gauge, help: "Whether it is up.".into(), unit: String::new() });
    s.add_exemplars(ExemplarSeries {
        labels: labels(&[("__name__", "http_requests_total"), ("job", "api")]),
        exemplars: vec![Exemplar { labels: labels(&[("trace_id", "abc")]), v: 6.0, t: NOW - 500 }],
    });
    s
}

fn options(source: MemSource) -> PromOptions {
    PromOptions {
        stores: Arc::new(One(Arc::new(source))),
        engine: Engine::new(EngineOptions::default()),
        clock: Arc::new(ManualClock::new(NOW)),
        concurrency: 2,
        started_ms: NOW - 86_400_000,
        config: "[server]\n".to_owned(),
        flags: vec![("query.timeout".to_owned(), "2m".to_owned())],
        retention: "30d".to_owned(),
        max_body_bytes: 16 << 20,
    }
}

fn api() -> Router {
    router(PromState::new(options(data())))
}

async fn send(r: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    send_to(api(), r).await
}

async fn send_to(api: Router, r: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let r = api.oneshot(r).await.unwrap();
    let (status, headers) = (r.status(), r.headers().clone());
    (status, headers, r.into_body().collect().await.unwrap().to_bytes())
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

fn form(uri: &str, body: &str) -> Request<Body> {
    let r = Request::post(uri).header("content-type", "application/x-www-form-urlencoded");
    r.body(Body::from(body.to_owned())).unwrap()
}

async fn json(uri: &str) -> (StatusCode, Json) {
    let (status, _, body) = send(get(uri)).await;
    (status, serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{uri}: {e}: {body:?}")))
}

async fn data_of(uri: &str) -> Json {
    let (status, mut j) = json(uri).await;
    assert_eq!(status, StatusCode::OK, "{uri}: {j}");
    assert_eq!(j["status"], "success");
    j["data"].take()
}

#[tokio::test]
async fn instant_queries() {
    let at = "time=1700000000";
    let text = |b: Bytes| String::from_utf8(b.to_vec()).unwrap();
    for (query, result) in [
        ("1%2B1", r#"{"resultType":"scalar","result":[1700000000,"2"]}"#),
        ("%22a%5C%22b%22", r#"{"resultType":"string","result":[1700000000,"a\"b"]}"#),
        ("sum(up)", r#"{"resultType":"vector","result":[{"metric":{},"value":[1700000000,"3"]}]}"#),
        (
            "%7B%22http.status%22%7D",
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"http.status","the label":"é\"\\\n"},"value":[1700000000,"1e-07"]}]}"#,
        ),
        (
            "latency",
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"latency"},"histogram":[1700000000,{"count":"6","sum":"2.5","buckets":[[3,"-0.001","0.001","1"],[0,"0.5","1","2"],[0,"1","2","3"]]}]}]}"#,
        ),
        (
            "up%7Binstance=%22a:1%22%7D%5B16s%5D",
            r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","instance":"a:1","job":"api"},"values":[[1699999985,"1"]]}]}"#,
        ),
        ("nothing", r#"{"resultType":"vector","result":[]}"#),
    ] {
        let (status, headers, body) = send(get(&format!("/api/v1/query?query={query}&{at}"))).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(text(body), format!(r#"{{"status":"success","data":{result}}}"#));
    }
}

#[tokio::test]
async fn ranges_by_form() {
    let r = form("/api/v1/query_range", "query=sum(up)&start=1699999000.5&end=1699999060&step=30&stats=all");
    let (status, _, body) = send(r).await;
    let j: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::OK, "{j}");
    assert_eq!(j["data"]["resultType"], "matrix");
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(text.contains(r#""values":[[1699999000.500,"3"],[1699999030.500,"3"]]"#), "{text}");
    let samples = &j["data"]["stats"]["samples"];
    assert_eq!(samples["totalQueryableSamplesPerStep"].to_string(), "[[1699999000.5,3],[1699999030.5,3]]");
    assert_eq!(samples["totalQueryableSamples"], 6);
    assert!(samples["peakSamples"].as_u64().unwrap() > 0);
    for name in ["evalTotalTime", "resultSortTime", "queryPreparationTime", "innerEvalTime", "execQueueTime", "execTotalTime"] {
        assert!(j["data"]["stats"]["timings"][name].is_number(), "{name}");
    }
    let (_, j) = json("/api/v1/query?query=up&time=1700000000&stats=true").await;
    assert!(j.get("warnings").is_none(), "{j}");
    let (_, j) = json("/api/v1/query?query=up&time=1700000000&stats=1").await;
    let deprecated =
        "value \"1\" for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"";
    assert_eq!(j["warnings"][0], deprecated);
    assert_eq!(j["data"]["stats"]["samples"]["totalQueryableSamples"], 3);
    assert!(j["data"]["stats"]["samples"].get("totalQueryableSamplesPerStep").is_none());
    assert!(data_of("/api/v1/query?query=up&stats=").await.get("stats").is_none());
}

#[tokio::test]
async fn warnings_infos_and_limits() {
    let (_, j) = json("/api/v1/query?query=up&limit=2").await;
    assert_eq!(j["data"]["result"].as_array().unwrap().len(), 2);
    assert_eq!(j["warnings"][0], "results truncated due to limit");
    let (_, j) = json("/api/v1/query?query=rate(up%5B5m%5D)").await;
    assert!(j["infos"][0].as_str().unwrap().starts_with("PromQL info: "), "{j}");
    assert!(j["infos"][0].as_str().unwrap().ends_with("(1:6)"), "{j}");
    let (_, j) = json("/api/v1/query?query=quantile(2,up)").await;
    assert!(j["warnings"][0].as_str().unwrap().starts_with("PromQL warning: "), "{j}");
    let (_, j) = json("/api/v1/labels?limit=1").await;
    assert_eq!((j["data"].as_array().unwrap().len(), &j["warnings"][0]), (1, &Json::from("results truncated due to limit")));
    let (_, j) = json("/api/v1/series?match[]=up&match[]=latency&limit=1").await;
    assert_eq!((j["data"].as_array().unwrap().len(), j["warnings"].as_array().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn errors() {
    for (uri, code, kind, message) in [
        ("query?query=up%7B", 400, "bad_data", "invalid parameter \"query\": 1:4: parse error: unexpected end of input inside braces"),
        ("query", 400, "bad_data", "invalid parameter \"query\": unknown position: parse error: no expression found in input"),
        (
            "query?query=up&time=x",
            400,
            "bad_data",
            "invalid parameter \"time\": invalid time value for 'time': cannot parse \"x\" to a valid timestamp",
        ),
        ("query_range?query=up&end=1&step=1", 400, "bad_data", "invalid parameter \"start\": cannot parse \"\" to a valid timestamp"),
        ("query?query=up&timeout=x", 400, "bad_data", "invalid parameter \"timeout\": cannot parse \"x\" to a valid duration"),
        ("query?query=up&limit=-1", 400, "bad_data", "invalid parameter \"limit\": limit must be non-negative"),
        ("query?query=up&limit=x", 400, "bad_data", "invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax"),
        (
            "query?query=up&lookback_delta=x",
            400,
            "bad_data",
            "error parsing lookback delta duration: cannot parse \"x\" to a valid duration",
        ),
        ("status/tsdb?limit=0", 400, "bad_data", "limit must be a positive number"),
        ("query_exemplars?query=(", 400, "bad_data", "1:2: parse error: unclosed left parenthesis"),
        ("query_exemplars?query=up&start=2&end=1", 400, "bad_data", "end timestamp must not be before start timestamp"),
        ("query_exemplars?query=1&start=2&end=1", 400, "bad_data", "end timestamp must not be before start timestamp"),
        ("metadata?limit=x", 400, "bad_data", "limit must be a number"),
        ("query?query=up*on(job)group_left()up", 422, "execution", ""),
        (
            "query_range?query=up&start=2&end=1&step=1",
            400,
            "bad_data",
            "invalid parameter \"end\": end timestamp must not be before start time",
        ),
        (
            "query_range?query=up&start=1&end=2&step=0",
            400,
            "bad_data",
            "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer",
        ),
        (
            "query_range?query=up&start=0&end=11001&step=1",
            400,
            "bad_data",
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        ("series?match[]=%7B%7D", 400, "bad_data", ""),
        ("query?query=sum(up)&timeout=0", 503, "timeout", ""),
        ("format_query?query=(", 400, "bad_data", ""),
    ] {
        let (status, j) = json(&format!("/api/v1/{uri}")).await;
        assert_eq!((status.as_u16(), j["status"].as_str(), j["errorType"].as_str()), (code, Some("error"), Some(kind)), "{uri}: {j}");
        assert!(message.is_empty() || j["error"] == message, "{uri}: {j}");
    }
    assert_eq!(json("/api/v1/query_range?query=up&start=0&end=11000&step=1").await.0, StatusCode::OK);
}

#[tokio::test]
async fn listings() {
    // Between an end and a later start there is nothing; that is no error.
    for nothing in ["series?match[]=up", "labels?x", "label/job/values?x"] {
        assert_eq!(data_of(&format!("/api/v1/{nothing}&start=1700000000&end=1699999000")).await.to_string(), "[]", "{nothing}");
    }
    assert_eq!(data_of("/api/v1/labels").await.to_string(), r#"["__name__","instance","job","the label"]"#);
    assert_eq!(data_of("/api/v1/label/job/values").await.to_string(), r#"["api","db"]"#);
    assert_eq!(data_of("/api/v1/label/U__the_20_label/values").await.as_array().unwrap().len(), 1);
    assert_eq!(data_of("/api/v1/label/job/values?match[]=up%7Binstance=%22c:1%22%7D").await.to_string(), r#"["db"]"#);
    assert_eq!(data_of("/api/v1/label/none/values").await.to_string(), "[]");
    let s = data_of("/api/v1/series?match[]=up%7Bjob=%22api%22%7D").await;
    assert_eq!(s[0].to_string(), r#"{"__name__":"up","instance":"a:1","job":"api"}"#);
    assert_eq!(data_of("/api/v1/metadata").await.to_string(), r#"{"up":[{"help":"Whether it is up.","type":"gauge","unit":""}]}"#);
    assert_eq!(data_of("/api/v1/metadata?limit=0").await.to_string(), "{}");
    let e = data_of("/api/v1/query_exemplars?query=rate(http_requests_total%5B5m%5D)&start=1699999000&end=1700000000").await;
    assert_eq!(e[0]["exemplars"].to_string(), r#"[{"labels":{"trace_id":"abc"},"timestamp":1699999999.5,"value":"6"}]"#);
    // Without a selector nothing is asked for.
    let (status, j) = json("/api/v1/query_exemplars?query=vector(1)%2B2").await;
    assert_eq!((status, j.to_string().as_str()), (StatusCode::OK, r#"{"status":"success"}"#));
}

/// What the data source asks for on "Save & test", in Explore, in variables, in the metrics browser and Drilldown.
#[tokio::test]
async fn grafana_finds_what_it_asks_for() {
    let span = "start=1699996400&end=1700000000";
    let drilldown = "match%5B%5D=%7B__name__%3D~%22.%2B%22%2C%7D";
    let mut calls = vec![
        get("/api/v1/status/buildinfo"),
        get("/api/v1/rules"),
        get("/api/v1/rules?type=alert"),
        get("/api/v1/alerts"),
        get("/api/v1/targets?state=active"),
        get("/api/v1/scrape_pools"),
        get("/api/v1/targets/metadata"),
        get("/api/v1/alertmanagers"),
        get("/api/v1/features"),
        get("/api/v1/notifications"),
        get("/api/v1/status/config"),
        get("/api/v1/status/flags"),
        get("/api/v1/status/runtimeinfo"),
        get("/api/v1/status/walreplay"),
        get("/api/v1/status/tsdb?limit=10"),
        get("/api/v1/status/tsdb/blocks"),
        get("/api/v1/metadata?limit=40000"),
        form("/api/v1/query", "query=1%2B1&time=1700000000"),
        form("/api/v1/query_range", &format!("query=rate(http_requests_total%5B1m%5D)&{span}&step=15")),
        get(&format!("/api/v1/query_range?query=up&{span}&step=15")),
        get(&format!("/api/v1/query_exemplars?query=http_requests_total&{span}")),
        form("/api/v1/query_exemplars", &format!("query=http_requests_total&{span}")),
        get(&format!("/api/v1/labels?{span}&limit=40000")),
        form("/api/v1/labels", &format!("{span}&limit=40000&{drilldown}")),
        form("/api/v1/labels", &format!("{span}&match%5B%5D=up")),
        get(&format!("/api/v1/label/__name__/values?{span}&limit=40000&{drilldown}")),
        get(&format!("/api/v1/label/U__http_2e_status/values?{span}")),
        get(&format!("/api/v1/series?{span}&match%5B%5D=up&limit=40000")),
        form("/api/v1/series", &format!("{span}&limit=40000&{drilldown}")),
        form("/api/v1/format_query", "query=sum(rate(up%5B5m%5D))"),
        form("/api/v1/parse_query", "query=sum(rate(up%5B5m%5D))"),
    ];
    for call in calls.drain(..) {
        let name = format!("{} {}", call.method(), call.uri());
        let (status, headers, body) = send(call).await;
        assert_eq!(status, StatusCode::OK, "{name}: {body:?}");
        assert_eq!(headers["content-type"], "application/json", "{name}");
        let j: Json = serde_json::from_slice(&body).unwrap();
        assert_eq!(j["status"], "success", "{name}: {j}");
        assert!(!j["data"].is_null(), "{name}: {j}");
    }
    // A probe for Mimir and Cortex: anything but a plain 404 would make Grafana take us for one.
    let (status, _, _) = send(get("/api/v1/rules/test/test")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(data_of("/api/v1/status/buildinfo").await.get("features").is_none());
    assert!(!data_of("/api/v1/label/__name__/values").await.as_array().unwrap().is_empty());
}

#[tokio::test]
async fn parsed_and_formatted() {
    assert_eq!(data_of("/api/v1/format_query?query=sum(up)by(job)").await, "sum by (job) (\n  up\n)".replace("\n  ", "").replace('\n', ""));
    let tree = data_of("/api/v1/parse_query?query=sum(up)by(job)").await;
    assert_eq!((&tree["type"], &tree["op"], &tree["grouping"][0]), (&Json::from("aggregation"), &Json::from("sum"), &Json::from("job")));
}

#[tokio::test]
async fn packed_answers() {
    let uri = "/api/v1/query_range?query=%7B__name__=~%22.%2B%22%7D&start=1699996400&end=1700000000&step=1";
    let (_, _, plain) = send(get(uri)).await;
    assert!(plain.len() > 200_000, "it should leave in several pieces");
    for encoding in ["gzip", "zstd", "gzip, deflate, br, zstd", "gzip;q=0"] {
        let r = Request::get(uri).header("accept-encoding", encoding).body(Body::empty()).unwrap();
        let (status, headers, body) = send(r).await;
        assert_eq!(status, StatusCode::OK);
        let mut got = Vec::new();
        match headers.get("content-encoding").map(|v| v.to_str().unwrap()) {
            Some("gzip") => {
                flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut got).unwrap();
            }
            Some("zstd") => got = zstd::stream::decode_all(&body[..]).unwrap(),
            _ => {
                assert_eq!(encoding, "gzip;q=0");
                got = body.to_vec();
            }
        }
        assert!(got == plain, "{encoding}");
    }
}

fn read_request(kinds: Vec<i32>) -> Request<Body> {
    let matchers = vec![LabelMatcher { r#type: 2, name: "__name__".into(), value: "up|latency".into() }];
    let q = Query { start_timestamp_ms: NOW - 3_600_000, end_timestamp_ms: NOW, matchers };
    let asked = ReadRequest { queries: vec![q], accepted_response_types: kinds };
    let body = snap::raw::Encoder::new().compress_vec(&asked.encode_to_vec()).unwrap();
    let r = Request::post("/api/v1/read").header("content-type", "application/x-protobuf").header("content-encoding", "snappy");
    r.header("x-prometheus-remote-read-version", "0.1.0").body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn remote_read_in_one_piece() {
    let (status, headers, body) = send(read_request(vec![])).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["content-encoding"], "snappy");
    let bytes = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    let answer = ReadResponse::decode(&bytes[..]).unwrap();
    let series = &answer.results[0].timeseries;
    assert_eq!(series.len(), 4);
    assert_eq!((series[0].histograms.len(), series[1].samples.len()), (240, 240));
    assert_eq!(series[0].histograms[0].positive_counts, [2.0, 3.0]);
}

#[tokio::test]
async fn remote_read_in_chunks() {
    let (status, headers, body) = send(read_request(vec![1, 0])).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse");
    let mut rest = &body[..];
    let mut samples = Vec::new();
    while !rest.is_empty() {
        let n = prost::decode_length_delimiter(&mut rest).unwrap();
        let (sum, after) = rest.split_at(4);
        let (message, after) = after.split_at(n);
        assert_eq!(sum, crc32c(message).to_be_bytes());
        rest = after;
        for s in ChunkedReadResponse::decode(message).unwrap().chunked_series {
            let mut buf = SampleBuf::default();
            for c in s.chunks {
                let mut one = SampleBuf::default();
                chunk::decode(Encoding::from_byte(c.r#type as u8).unwrap(), &c.data, TimeRange::all(), &mut one).unwrap();
                assert_eq!((one.t.first(), one.t.last()), (Some(&c.min_time_ms), Some(&c.max_time_ms)));
                assert!(one.len() <= 120);
                buf.t.extend(one.t);
            }
            samples.push(buf.t.len());
        }
    }
    assert_eq!(samples, [240; 4]);
}

/// More than is sent in one piece.
#[tokio::test]
async fn large_reads_come_whole_and_broken_ones_do_not_pass_for_whole() {
    let mut many = MemSource::new();
    for i in 0..3000u32 {
        let l = labels(&[("__name__", "up"), ("instance", &format!("a-rather-long-name-of-an-instance-{i}"))]);
        (0..20).for_each(|k| many.push(&l, NOW - 60_000 + k * 1000, f64::from(i)));
    }
    let routes = router(PromState::new(options(many)));
    let (status, _, body) = send_to(routes.clone(), read_request(vec![1])).await;
    assert!(status == StatusCode::OK && body.len() > 300_000, "{}", body.len());
    let mut found = 0;
    let mut rest = &body[..];
    while !rest.is_empty() {
        let len = prost::decode_length_delimiter(rest).unwrap();
        let head = prost::length_delimiter_len(len) + 4;
        found += ChunkedReadResponse::decode(&rest[head..head + len]).unwrap().chunked_series.len();
        rest = &rest[head + len..];
    }
    assert_eq!(found, 3000);
    let (_, _, body) = send_to(routes, read_request(vec![0])).await;
    let whole = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    assert_eq!(ReadResponse::decode(&whole[..]).unwrap().results[0].timeseries.len(), 3000);

    // An error behind the first pieces breaks the connection off.
    for packing in [answer::Packing::Plain, answer::Packing::Gzip, answer::Packing::Zstd] {
        let (begun, response) = tokio::sync::oneshot::channel();
        let writer = tokio::task::spawn_blocking(move || {
            let mut out = answer::Out::new(packing, "text/plain", begun);
            out.buf = (0..300_000u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
            out.spill().unwrap();
            out.fail(answer::ApiError::internal("it broke").into_plain());
        });
        assert!(response.await.unwrap().into_body().collect().await.is_err(), "{packing:?}");
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn bad_read_requests() {
    let r = Request::post("/api/v1/read").body(Body::from("no snappy")).unwrap();
    assert_eq!(send(r).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn federation() {
    let page = "/federate?match[]=up%7Bjob=%22db%22%7D&match[]=%7B%22http.status%22%7D&match[]=latency";
    let utf8 = Request::get(page).header("accept", "text/plain;version=1.0.0;escaping=allow-utf-8").body(Body::empty()).unwrap();
    let (status, headers, body) = send(utf8).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8; escaping=allow-utf-8");
    let want = "# TYPE \"http.status\" untyped\n{\"http.status\",\"the label\"=\"é\\\"\\\\\\n\",instance=\"\"} 1e-07 1699999985000\n\
                # TYPE up untyped\nup{instance=\"c:1\",job=\"db\"} 1 1699999985000\n";
    assert_eq!(String::from_utf8_lossy(&body), want);
    // Who does not say that it knows such names gets others.
    let (_, headers, body) = send(get(page)).await;
    assert_eq!(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    assert!(String::from_utf8_lossy(&body).contains("\nhttp_status{the_label=\"é\\\"\\\\\\n\",instance=\"\"} 1e-07 "), "{body:?}");
}

#[tokio::test]
async fn federation_as_protobuf_has_native_histograms() {
    let r = Request::get("/federate?match[]=up%7Bjob=%22db%22%7D&match[]=latency")
        .header("accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,text/plain;q=0.3");
    let (status, headers, body) = send(r.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], escaping::Escaping::Underscores.protobuf());
    let mut rest = &body[..];
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(crate::families::Family::decode_length_delimited(&mut rest).unwrap());
    }
    let names: Vec<_> = families.iter().map(|f| (f.name.as_deref().unwrap(), f.r#type.unwrap())).collect();
    assert_eq!(names, [("latency", 4), ("up", 3)]);
    let h = families[0].metric[0].histogram.as_ref().unwrap();
    assert_eq!((h.count_float, h.sum, h.schema), (Some(6.0), Some(2.5), Some(0)));
    assert_eq!(h.positive_count, [2.0, 3.0]);
    let up = &families[1].metric[0];
    assert_eq!((up.untyped.as_ref().unwrap().value, up.timestamp_ms), (Some(1.0), Some(1_699_999_985_000)));
    let labels: Vec<_> = up.label.iter().map(|l| (l.name.as_deref().unwrap(), l.value.as_deref().unwrap())).collect();
    assert_eq!(labels, [("instance", "c:1"), ("job", "db")]);
}

#[tokio::test]
async fn limits_say_what_was_needed() {
    let mut o = options(data());
    let mut limits = EngineOptions::default();
    limits.max_series = 2;
    o.engine = Engine::new(limits);
    let (status, _, body) = send_to(router(PromState::new(o)), get("/api/v1/query?query=sum(up)")).await;
    let j: Json = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(j["error"], "query selects too many series: at least 3 needed, the limit is 2");
}

/// A store whose reads wait until the query is cancelled.
struct Endless {
    begun: std::sync::mpsc::Sender<()>,
}

impl Stores for Endless {
    fn source(&self, _: &HeaderMap) -> Result<Arc<dyn SeriesSource>, Refusal> {
        let _ = self.begun.send(());
        let mut s = MemSource::new();
        for i in 0..2000 {
            let l = labels(&[("__name__", "m"), ("i", &i.to_string())]);
            for t in 0..100 {
                s.push(&l, NOW - 100_000 + t * 1000, t as f64);
            }
        }
        Ok(Arc::new(s))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_place() {
    let (begun, began) = std::sync::mpsc::channel();
    let mut o = options(MemSource::new());
    o.stores = Arc::new(Endless { begun });
    o.concurrency = 1;
    let state = PromState::new(o);
    let slow = "/api/v1/query_range?query=sum(max_over_time(quantile_over_time(0.5,m%5B90s%5D)%5B1h:1s%5D))&start=1699990000&end=1700000000&step=1";
    let leaving = tokio::spawn(router(state.clone()).oneshot(get(slow)));
    tokio::task::spawn_blocking(move || began.recv()).await.unwrap().unwrap();
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    // Long before the first would have ended, the only place is free again.
    let (status, _, body) = send_to(router(state), get("/api/v1/query?query=1&timeout=60")).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
}
