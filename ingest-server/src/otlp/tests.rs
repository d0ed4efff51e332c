//! What comes in through the routes, over a data folder of its own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Request, StatusCode, Version};
use serde_json::{Value, json};
use strandline_storage::clock::{Clock, SystemClock};
use tower::ServiceExt;

use crate::app::App;
use crate::config::Config;

struct Served {
    app: Arc<App>,
    config: Config,
}

impl Served {
    async fn start(name: &str) -> Served {
        Self::start_with(name, Config::default()).await
    }

    async fn start_with(name: &str, config: Config) -> Served {
        let data_dir = std::env::temp_dir().join(format!("strandline-otlp-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data_dir);
        let config = Config { data_dir, ..config };
        let app = App::new(config.clone(), 256 << 20, None, 0).unwrap();
        let opening = app.clone();
        tokio::task::spawn_blocking(move || opening.tenants.get(&opening.config.default_tenant).unwrap()).await.unwrap();
        app.ready.store(true, Ordering::Release);
        Served { app, config }
    }

    async fn ask(&self, request: Request<Body>) -> (StatusCode, Value) {
        let answer = crate::serve::main_router(&self.app).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn spans(&self, spans: Vec<Value>) -> Value {
        let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]});
        let request = Request::post("/v1/traces").header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
        let (status, answer) = self.ask(request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["partialSuccess"].clone()
    }

    async fn end(self) {
        let app = self.app;
        tokio::task::spawn_blocking(move || app.tenants.close().unwrap()).await.unwrap();
        let _ = std::fs::remove_dir_all(self.config.data_dir);
    }
}

fn span(id: u8, start_ms: i64, prompt: usize) -> Value {
    let (trace, id) = (format!("{id:032x}"), format!("{id:016x}"));
    let start = (start_ms * 1_000_000).to_string();
    let attributes = json!([{"key": "gen_ai.prompt", "value": {"stringValue": "x".repeat(prompt)}}]);
    json!({"traceId": trace, "spanId": id, "name": "chat", "startTimeUnixNano": start, "endTimeUnixNano": start, "attributes": attributes})
}

#[tokio::test]
async fn large_attributes_and_old_spans() {
    let s = Served::start("spans").await;
    let now = SystemClock.now_ms();
    let day = 86_400_000;
    // What SDKs for language models send: whole prompts.
    assert_eq!(s.spans(vec![span(1, now, 300_000)]).await, Value::Null);
    let (status, found) = s.ask(Request::get(format!("/api/v2/traces/{:032x}", 1)).body(Body::empty()).unwrap()).await;
    assert_eq!((status, found.to_string().len() > 300_000), (StatusCode::OK, true));
    // Retention counts from when they came.
    assert_eq!(s.spans(vec![span(2, now - 15 * day, 1), span(3, 1, 1)]).await, Value::Null);
    let flush = s.app.clone();
    let maintain = move || {
        let engine = flush.tenants.get(&flush.config.default_tenant).unwrap();
        engine.traces().flush().unwrap();
        engine.traces().maintain().unwrap();
    };
    tokio::task::spawn_blocking(maintain).await.unwrap();
    for old in [2, 3] {
        let (status, _) = s.ask(Request::get(format!("/api/v2/traces/{old:032x}")).body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK);
    }
    s.end().await;
}

#[tokio::test]
async fn a_tenant_that_does_not_count() {
    let s = Served::start("tenant").await;
    // Whoever sends it to Mimir or Tempo may name several; here the header is not asked for.
    for named in ["a|b", "", "fine", "with space"] {
        let request = Request::get("/api/v1/query?query=1").header("x-scope-orgid", named).body(Body::empty()).unwrap();
        assert_eq!(s.ask(request).await.0, StatusCode::OK, "{named:?}");
    }
    s.end().await;
}

#[tokio::test]
async fn ways_of_asking_that_mean_the_same() {
    use std::io::Write;
    let s = Served::start("ways").await;
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(b"{}").unwrap();
    let gzip = z.finish().unwrap();
    // An SDK that is given Prometheus' or Mimir's endpoint for OTLP sends all its signals there.
    for base in ["", "/otlp", "/api/v1/otlp", "/prometheus/api/v1/otlp"] {
        for signal in ["traces", "metrics", "logs"] {
            for (kind, encoding, body) in [
                ("application/json", "", &b"{}"[..]),
                ("Application/JSON; charset=utf-8", "GZIP", &gzip),
                ("application/json", "x-gzip", &gzip),
            ] {
                let request =
                    Request::post(format!("{base}/v1/{signal}")).header("content-type", kind).header("content-encoding", encoding);
                let (status, answer) = s.ask(request.body(Body::from(body.to_vec())).unwrap()).await;
                assert_eq!((status, answer), (StatusCode::OK, json!({})), "{base} {signal} {kind} {encoding}");
            }
        }
    }
    s.end().await;
}

#[tokio::test]
async fn scraped_targets_are_listed() {
    use crate::scrape::ScrapeTarget;
    let s = Served::start("targets").await;
    let up = ScrapeTarget { job: "a".into(), address: "h:1".into(), scheme: "http".into(), path: "/metrics".into(), ..Default::default() };
    let down = ScrapeTarget { job: "b".into(), last_scrape_ms: 1_000, last_error: "no route".into(), ..up.clone() };
    *s.app.targets.write() = vec![up, down];
    let (_, all) = s.ask(Request::get("/api/v1/targets?state=active").body(Body::empty()).unwrap()).await;
    let all = &all["data"]["activeTargets"];
    assert_eq!((&all[0]["health"], &all[0]["scrapeUrl"]), (&"unknown".into(), &"http://h:1/metrics".into()), "{all}");
    assert_eq!((&all[1]["health"], &all[1]["lastError"]), (&"down".into(), &"no route".into()), "{all}");
    let (_, one) = s.ask(Request::get("/api/v1/targets?scrapePool=b").body(Body::empty()).unwrap()).await;
    assert_eq!(one["data"]["activeTargets"].as_array().map(Vec::len), Some(1), "{one}");
    let (_, jobs) = s.ask(Request::get("/api/v1/scrape_pools").body(Body::empty()).unwrap()).await;
    assert_eq!(jobs["data"], serde_json::json!({ "scrapePools": ["a", "b"] }));
    s.end().await;
}

#[tokio::test]
async fn pages_about_the_server_are_for_who_may_read() {
    let path = std::env::temp_dir().join(format!("strandline-readers-{}.toml", std::process::id()));
    let secret = crate::auth::hash_secret("tok", b"salt");
    std::fs::write(&path, format!("[[entry]]\nsecret = \"{secret}\"\ntenant = \"anonymous\"\nrights = [\"read\"]\n")).unwrap();
    let data_dir = std::env::temp_dir().join(format!("strandline-readers-{}", std::process::id()));
    let auth = crate::auth::Auth::load(&path).unwrap();
    let app = App::new(Config { data_dir: data_dir.clone(), ..Config::default() }, 64 << 20, Some(auth), 0).unwrap();
    let served = Served { app, config: Config::default() };
    for page in ["status/config", "status/flags", "status/runtimeinfo", "targets"] {
        let ask = |who: &str| Request::get(format!("/api/v1/{page}")).header("authorization", who).body(Body::empty()).unwrap();
        assert_eq!(served.ask(ask("Bearer no")).await.0, StatusCode::UNAUTHORIZED, "{page}");
        assert_eq!(served.ask(ask("Bearer tok")).await.0, StatusCode::OK, "{page}");
    }
    let _ = (std::fs::remove_file(path), std::fs::remove_dir_all(data_dir));
}

#[tokio::test]
async fn pages_of_named_origins_may_send() {
    let preflight = |origin: &str| {
        let asked = "content-type,x-scope-orgid";
        let r = Request::options("/v1/traces").header("origin", origin).header("access-control-request-method", "POST");
        r.header("access-control-request-headers", asked).body(Body::empty()).unwrap()
    };
    let post = |origin: &str| {
        let r = Request::post("/v1/traces").header("origin", origin).header("content-type", "application/json");
        r.body(Body::from("{}")).unwrap()
    };
    let page = "http://localhost:3000";
    for (name, origins, origin, allowed) in [
        ("cors-none", vec![], page, None),
        ("cors-some", vec!["https://shop.example".to_owned(), page.to_owned()], page, Some(page)),
        ("cors-other", vec!["https://shop.example".to_owned()], page, None),
        ("cors-any", vec!["*".to_owned()], page, Some("*")),
    ] {
        let s = Served::start_with(name, Config { otlp_cors_origins: origins.clone(), ..Config::default() }).await;
        for request in [preflight(origin), post(origin)] {
            let asks = request.method() == "OPTIONS";
            let answer = crate::serve::main_router(&s.app).oneshot(request).await.unwrap();
            let header = |n: &str| answer.headers().get(n).and_then(|v| v.to_str().ok());
            assert_eq!(header("access-control-allow-origin"), allowed, "{name}");
            assert_eq!(answer.status() == StatusCode::OK, !asks || !origins.is_empty(), "{name}: {}", answer.status());
            if asks && allowed.is_some() {
                assert_eq!(header("access-control-allow-headers"), Some("content-type,x-scope-orgid"));
            }
        }
        s.end().await;
    }
}

#[tokio::test]
async fn what_only_looks_like_grpc_is_told_so() {
    let s = Served::start("grpc").await;
    let ask = async |version, content: &str| {
        let request = Request::post("/opentelemetry.proto.collector.trace.v1.TraceService/Export").version(version);
        let request = request.header("content-type", content).body(Body::from(&[0u8; 5][..])).unwrap();
        let answer = crate::serve::main_router(&s.app).oneshot(request).await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap().to_vec()).unwrap())
    };
    for (version, content) in [
        (Version::HTTP_11, "application/grpc"),
        (Version::HTTP_11, "application/grpc-web+proto"),
        (Version::HTTP_2, "application/grpc-web"),
        (Version::HTTP_2, "application/x-protobuf"),
    ] {
        let (status, text) = ask(version, content).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content}");
        assert!(text.contains("HTTP/2") && text.contains("/v1/traces"), "{text}");
    }
    for content in ["application/grpc", "application/grpc+proto", "Application/gRPC; charset=utf-8"] {
        assert_eq!(ask(Version::HTTP_2, content).await, (StatusCode::OK, "\0\0\0\0\0".to_owned()), "{content}");
    }
    s.end().await;
}

/// A body packed as the name says.
fn packed(encoding: &str, body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    fn through<W: Write>(mut w: W, body: &[u8]) -> W {
        w.write_all(body).unwrap();
        w
    }
    match encoding {
        "deflate" | "zlib" => through(flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast()), body).finish().unwrap(),
        "lz4" => through(lz4_flex::frame::FrameEncoder::new(Vec::new()), body).finish().unwrap(),
        "zstd" => zstd::encode_all(body, 1).unwrap(),
        "snappy" => snap::raw::Encoder::new().compress_vec(body).unwrap(),
        "x-snappy-framed" => through(snap::write::FrameEncoder::new(Vec::new()), body).into_inner().unwrap(),
        _ => body.to_vec(),
    }
}

#[tokio::test]
async fn bodies_come_packed_in_every_way_that_collectors_offer() {
    let s = Served::start_with("packed", Config { max_body_bytes: 64 << 10, ..Config::default() }).await;
    let spans = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span(1, SystemClock.now_ms(), 10)]}]}]}).to_string();
    let ways = ["", "deflate", "zlib", "lz4", "zstd", "snappy", "x-snappy-framed"];
    let named =
        |encoding: &str| Request::post("/v1/traces").header("content-type", "application/json").header("content-encoding", encoding);
    for (i, encoding) in ways.iter().enumerate() {
        let (status, answer) = s.ask(named(encoding).body(Body::from(packed(encoding, spans.as_bytes()))).unwrap()).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({})), "{encoding}");
        assert_eq!(s.app.counters.spans.load(Ordering::Relaxed), i as u64 + 1, "{encoding}");
        let bomb = s.ask(named(encoding).body(Body::from(packed(encoding, &vec![b' '; 1 << 20]))).unwrap()).await;
        assert_eq!(bomb.0, StatusCode::PAYLOAD_TOO_LARGE, "{encoding}: {}", bomb.1);
    }
    // Older collectors send frames under the name of the block format.
    let frames = packed("x-snappy-framed", spans.as_bytes());
    assert_eq!(s.ask(named("snappy").body(Body::from(frames)).unwrap()).await.0, StatusCode::OK);
    for encoding in &ways[1..] {
        let mut cut = packed(encoding, spans.as_bytes());
        cut.truncate(cut.len() / 2);
        assert_eq!(s.ask(named(encoding).body(Body::from(cut)).unwrap()).await.0, StatusCode::BAD_REQUEST, "{encoding}");
    }
    s.end().await;
}

#[tokio::test]
async fn grpc_messages_come_packed_by_snappy() {
    let s = Served::start_with("grpc-snappy", Config { max_body_bytes: 64 << 10, ..Config::default() }).await;
    let ask = async |body: Vec<u8>| {
        let request = Request::post("/opentelemetry.proto.collector.trace.v1.TraceService/Export").version(Version::HTTP_2);
        let request = request.header("content-type", "application/grpc").header("grpc-encoding", "snappy").body(Body::from(body)).unwrap();
        let answer = crate::serve::main_router(&s.app).oneshot(request).await.unwrap();
        let early = answer.headers().get("grpc-status").cloned();
        let collected = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
        early.or_else(|| collected.trailers()?.get("grpc-status").cloned()).unwrap().to_str().unwrap().to_owned()
    };
    let framed = |flag: u8, message: &[u8]| [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let now_ns = SystemClock.now_ms() as u64 * 1_000_000;
    // resource_spans { scope_spans { spans { trace_id, span_id, start, end } } }
    let mut one = [&[0x0a, 16][..], &[1; 16], &[0x12, 8], &[2; 8], &[0x39], &now_ns.to_le_bytes(), &[0x41], &now_ns.to_le_bytes()].concat();
    for _ in 0..2 {
        one = [&[0x12, one.len() as u8][..], &one].concat();
    }
    let one = [&[0x0a, one.len() as u8][..], &one].concat();
    for (taken, body) in
        [framed(1, &packed("x-snappy-framed", &one)), framed(1, &packed("snappy", &one)), framed(0, &one)].into_iter().enumerate()
    {
        assert_eq!(ask(body).await, "0");
        assert_eq!(s.app.counters.spans.load(Ordering::Relaxed), taken as u64 + 1);
    }
    assert_eq!(ask(framed(1, &packed("x-snappy-framed", &[0; 1 << 20]))).await, "3");
    let frames = packed("x-snappy-framed", &one);
    for broken in [
        framed(1, &one),
        framed(1, &frames)[..20].to_vec(),
        vec![1, 0],
        Vec::new(),
        [framed(1, &frames), vec![0]].concat(),
        framed(2, &frames),
    ] {
        assert_eq!(ask(broken).await, "3");
    }
    s.end().await;
}
