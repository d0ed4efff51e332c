//! The Rust SDK against the binary, by gRPC: plain and packed, each temporality, over a kill.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Span, SpanBuilder, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Compression, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, PeriodicReader, SdkMeterProvider, Stream, Temporality};
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::Value;

struct Server {
    process: Child,
    dir: PathBuf,
    http: String,
    grpc: String,
}

impl Server {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("strandline-rust-sdk-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (http, grpc) = (free(), free());
        let process = Self::run(&dir, &http, &grpc);
        let s = Server { process, dir, http, grpc };
        s.wait();
        s
    }

    fn run(dir: &PathBuf, http: &str, grpc: &str) -> Child {
        let mut c = Command::new(env!("CARGO_BIN_EXE_strandline"));
        c.arg("serve").arg("--data-dir").arg(dir).args(["--listen", http, "--otlp-grpc", grpc, "--otlp-http", ""]);
        c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.get("/-/ready").is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < until, "the server is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The machine's memory of it is gone, its disk is not.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::run(&self.dir, &self.http, &self.grpc);
        self.wait();
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut c = TcpStream::connect(&self.http).ok()?;
        c.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        c.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The result of an instant query that gives one series.
    fn one(&self, query: &str) -> Value {
        let escaped: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = self.json(&format!("/api/v1/query?query={escaped}"));
        let found = answer["data"]["result"].as_array().unwrap();
        assert_eq!(found.len(), 1, "{query}: {answer}");
        found[0].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a program does with the SDK. Gives the id of its trace.
fn shop(endpoint: &str, service: &str, packed: Option<Compression>, temporality: Temporality, half_way: &mut dyn FnMut()) -> String {
    let (mut spans, mut metrics) = (SpanExporter::builder().with_tonic(), MetricExporter::builder().with_tonic());
    if let Some(c) = packed {
        (spans, metrics) = (spans.with_compression(c), metrics.with_compression(c));
    }
    let spans = spans.with_endpoint(endpoint).build().unwrap();
    let metrics = metrics.with_endpoint(endpoint).with_temporality(temporality).build().unwrap();
    let who = Resource::builder().with_service_name(service.to_owned()).with_attribute(KeyValue::new("service.instance.id", "1")).build();
    let tracing = SdkTracerProvider::builder().with_resource(who.clone()).with_batch_exporter(spans).build();
    let exponential = |i: &Instrument| {
        let aggregation = Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true };
        (i.name() == "took").then(|| Stream::builder().with_aggregation(aggregation).build().unwrap())
    };
    let reader = PeriodicReader::builder(metrics).with_interval(Duration::from_secs(3600)).build();
    let metering = SdkMeterProvider::builder().with_resource(who).with_reader(reader).with_view(exponential).build();
    let meter = metering.meter("shop");
    let orders = meter.u64_counter("orders").build();
    let stock = meter.i64_up_down_counter("stock").build();
    let (waited, took) = (meter.f64_histogram("waited").with_unit("s").build(), meter.f64_histogram("took").with_unit("s").build());
    for turn in 0..6 {
        orders.add(10, &[KeyValue::new("http.route", "/cart")]);
        stock.add(if turn % 2 == 0 { 3 } else { -1 }, &[]);
        waited.record(0.5 * f64::from(turn), &[]);
        took.record(0.5 * f64::from(turn), &[]);
        metering.force_flush().unwrap();
        if turn == 2 {
            half_way();
        }
    }
    let tracer = tracing.tracer("shop");
    let mut root = tracer.build(SpanBuilder::from_name("checkout").with_attributes([KeyValue::new("http.route", "/cart")]));
    let id = root.span_context().trace_id().to_string();
    let inside = Context::new().with_remote_span_context(root.span_context().clone());
    let mut pay = tracer.build_with_context(SpanBuilder::from_name("pay"), &inside);
    pay.set_status(Status::error("declined"));
    pay.end();
    root.end();
    tracing.shutdown().unwrap();
    metering.shutdown().unwrap();
    id
}

fn check(server: &Server, service: &str, trace: &str) {
    let value = |query: &str| server.one(query)["value"][1].as_str().unwrap().to_owned();
    assert_eq!(value(&format!(r#"orders_total{{job="{service}",http_route="/cart"}}"#)), "60", "{service}");
    assert_eq!(value(&format!(r#"stock{{job="{service}"}}"#)), "6", "{service}");
    assert_eq!(value(&format!(r#"waited_seconds_count{{job="{service}"}}"#)), "6", "{service}");
    assert_eq!(value(&format!(r#"histogram_sum(took_seconds{{job="{service}"}})"#)), "7.5", "{service}");
    assert_eq!(value(&format!(r#"histogram_count(took_seconds{{job="{service}"}})"#)), "6", "{service}");
    assert_eq!(value(&format!(r#"target_info{{job="{service}",telemetry_sdk_language="rust"}}"#)), "1", "{service}");
    let found = server.json(&format!("/api/v2/traces/{trace}"));
    let spans = found["trace"]["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let mut names: Vec<&str> = spans.iter().filter_map(|s| s["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["checkout", "pay"], "{found}");
}

#[test]
fn the_rust_sdk() {
    let mut server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut done = Vec::new();
    for (service, packed, temporality, kill) in [
        ("plain", None, Temporality::Cumulative, false),
        ("gzip", Some(Compression::Gzip), Temporality::Delta, true),
        ("zstd", Some(Compression::Zstd), Temporality::LowMemory, false),
    ] {
        let endpoint = format!("http://{}", server.grpc);
        let mut half_way = || {
            if kill {
                server.kill();
            }
        };
        let trace = shop(&endpoint, service, packed, temporality, &mut half_way);
        check(&server, service, &trace);
        done.push((service, trace));
    }
    server.kill();
    done.iter().for_each(|(service, trace)| check(&server, service, trace));
}
