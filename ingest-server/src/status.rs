//! Health, readiness, and our own metrics.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use strandline_storage::Engine;
use strandline_storage::metrics::{ReplayProgress, StoreStats};

use crate::app::App;
use crate::config::format_size;
use crate::connections::Closed;

/// `/-/healthy`, `/-/ready`, `/metrics`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/-/healthy", get(|| async { "strandline is healthy.\n" }))
        .route("/-/ready", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if !app.ready.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, replaying(*app.replay.lock())).into_response();
    }
    // Queries go on, so that it stays ready: the text is for people.
    match app.bad_disk.lock().as_ref() {
        Some(why) => format!("strandline is ready to be asked, and takes no writes: {why}\n").into_response(),
        None => "strandline is ready.\n".into_response(),
    }
}

fn replaying(at: ReplayProgress) -> String {
    let part = at.done_bytes * 100 / at.all_bytes.max(1);
    let (done, all) = (format_size(at.done_bytes), format_size(at.all_bytes));
    format!("replaying the log: {done} of {all} ({part} %), {} samples so far\n", at.samples)
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP strandline_{name} {help}\n# TYPE strandline_{name} {kind}\n");
    }
    fn value(&mut self, name: &str, labels: &[(&str, &str)], v: f64) {
        let _ = write!(self.0, "strandline_{name}");
        if !labels.is_empty() {
            let all: Vec<String> = labels.iter().map(|(n, v)| format!("{n}=\"{}\"", escaped(v))).collect();
            let _ = write!(self.0, "{{{}}}", all.join(","));
        }
        let _ = writeln!(self.0, " {v}");
    }
    fn one(&mut self, name: &str, kind: &str, help: &str, v: f64) {
        self.family(name, kind, help);
        self.value(name, &[], v);
    }
}

/// A label's value in Prometheus' text format. Names of jobs come from senders and may hold anything.
fn escaped(v: &str) -> String {
    v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page in Prometheus' text format.
pub fn page(app: &App) -> String {
    let c = &app.counters;
    let get = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed) as f64;
    let mut p = Page(String::new());
    p.family("build_info", "gauge", "Constant 1 with the version.");
    p.value("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    p.one("start_time_seconds", "gauge", "When the process began.", app.started_ms as f64 / 1000.0);
    let doubt = app.tenants.clock().times().is_in_doubt();
    p.one(
        "clock_in_doubt",
        "gauge",
        "1 for a day after the machine's clock leapt, unless it comes back: nothing expires by it.",
        doubt as u8 as f64,
    );
    p.one("samples_ingested_total", "counter", "Samples acknowledged.", get(&c.samples));
    p.one("exemplars_ingested_total", "counter", "Exemplars acknowledged.", get(&c.exemplars));
    p.one("spans_ingested_total", "counter", "Spans acknowledged.", get(&c.spans));
    p.one("received_bytes_total", "counter", "Bytes of requests as they came.", get(&c.received_bytes));
    p.one("dropped_samples_total", "counter", "Samples shed by [[drop]] rules.", get(&c.dropped_samples));
    p.one("log_records_refused_total", "counter", "OTLP log records refused: logs are not stored.", get(&c.log_records_refused));
    p.family("refused_total", "counter", "Items and requests refused, by protocol and reason.");
    for ((protocol, reason), n) in c.refused() {
        p.value("refused_total", &[("protocol", protocol), ("reason", reason)], n as f64);
    }
    p.family("requests_total", "counter", "Requests by protocol and answer.");
    for ((protocol, code), n) in c.requests() {
        p.value("requests_total", &[("protocol", protocol), ("code", &code.to_string())], n as f64);
    }
    p.family(
        "second_writer_points_total",
        "counter",
        "OTLP points of a series that another process writes too: service.instance.id is missing.",
    );
    for (job, n) in app.writers.clashes() {
        p.value("second_writer_points_total", &[("job", &job)], n as f64);
    }
    connections(app, &mut p);
    p.one("in_flight_bytes", "gauge", "Bytes of requests being worked on.", app.in_flight_bytes() as f64);
    p.one("memory_limit_bytes", "gauge", "memory_limit.", app.memory_limit as f64);
    if let Some(anon) = crate::memory::anon_bytes() {
        p.one("memory_anon_bytes", "gauge", "Anonymous memory of the process.", anon as f64);
    }
    p.one("memory_held_bytes", "gauge", "What the stores hold in memory, as they count it.", crate::memory::held_bytes(app) as f64);
    p.one("early_flushes_total", "counter", "Flushes before their time, to make room in memory.", get(&c.early_flushes));
    p.one("memory_pressed", "gauge", "1 while memory is short and writes are refused.", app.pressed.load(Ordering::Relaxed) as u8 as f64);
    let refuses = app.bad_disk.lock().is_some();
    p.one("disk_refuses_writes", "gauge", "1 while the last write to a log failed; senders are told to come again.", refuses as u8 as f64);
    tenants(app, &mut p);
    p.0
}

fn connections(app: &App, p: &mut Page) {
    let c = &app.connections;
    p.family("connections", "gauge", "Open connections, by listener.");
    for (listener, n) in c.open_by_listener() {
        p.value("connections", &[("listener", listener)], n as f64);
    }
    p.family("connections_accepted_total", "counter", "Connections accepted, by listener.");
    for (listener, n) in c.accepted_by_listener() {
        p.value("connections_accepted_total", &[("listener", listener)], n as f64);
    }
    p.family("connections_closed_total", "counter", "Connections that we closed, by reason.");
    for why in Closed::ALL {
        p.value("connections_closed_total", &[("reason", why.word())], c.closed(why) as f64);
    }
    let (at_limit, by_system) = c.refused();
    p.family("connections_refused_total", "counter", "Connections refused: at server.max_connections, or without a file for them.");
    p.value("connections_refused_total", &[("reason", "limit")], at_limit as f64);
    p.value("connections_refused_total", &[("reason", "files")], by_system as f64);
}

/// What one tenant's metrics are made of, read once for all of them.
struct Figures {
    metrics: StoreStats,
    live_spans: u64,
    live_span_bytes: usize,
    block_spans: u64,
    incomplete: bool,
}

impl Figures {
    fn of(e: &Engine) -> Self {
        let (metrics, t) = (e.metrics().stats(), e.traces());
        Figures {
            metrics,
            live_spans: t.live_spans(),
            live_span_bytes: t.live_bytes(),
            block_spans: t.block_spans(),
            incomplete: !e.incomplete().is_empty(),
        }
    }
}

fn tenants(app: &App, p: &mut Page) {
    type Get = fn(&Figures) -> f64;
    let families: [(&str, &str, &str, Get); 15] = [
        ("head_series", "gauge", "Series in memory.", |f| f.metrics.head.series as f64),
        ("head_chunks", "gauge", "Chunks in the head.", |f| f.metrics.head.chunks as f64),
        ("metric_blocks", "gauge", "Metric blocks that queries see.", |f| f.metrics.blocks as f64),
        ("metric_block_bytes", "gauge", "Their bytes.", |f| f.metrics.block_bytes as f64),
        ("metric_blocks_to_upload", "gauge", "Metric blocks that the bucket does not hold yet.", |f| f.metrics.blocks_to_upload as f64),
        ("bucket_up", "gauge", "1 if the bucket answered last.", |f| f.metrics.bucket_error.is_none() as u8 as f64),
        ("answers_incomplete", "gauge", "1 if answers could miss data: a bucket never reached, or a block that can't be read.", |f| {
            f.incomplete as u8 as f64
        }),
        ("metric_wal_bytes", "gauge", "Bytes of the metric log.", |f| f.metrics.wal_bytes as f64),
        ("metric_wal_commits_total", "counter", "Commits of the metric log.", |f| f.metrics.wal.commits as f64),
        ("metric_wal_syncs_total", "counter", "fsyncs of the metric log.", |f| f.metrics.wal.syncs as f64),
        ("metric_wal_sync_seconds_total", "counter", "Time spent in them.", |f| f.metrics.wal.sync_nanos as f64 / 1e9),
        ("metric_wal_failures_total", "counter", "Commits that failed.", |f| f.metrics.wal.failures as f64),
        ("live_spans", "gauge", "Spans in memory.", |f| f.live_spans as f64),
        ("live_span_bytes", "gauge", "Memory of live spans.", |f| f.live_span_bytes as f64),
        ("block_spans", "gauge", "Spans in blocks.", |f| f.block_spans as f64),
    ];
    let all: Vec<(String, Figures)> = app.tenants.all().into_iter().map(|(name, e)| (name, Figures::of(&e))).collect();
    for (name, kind, help, get) in families {
        p.family(name, kind, help);
        for (tenant, figures) in &all {
            p.value(name, &[("tenant", tenant)], get(figures));
        }
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page(&app)).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use tower::ServiceExt;

    #[test]
    fn labels_can_not_break_the_page() {
        let mut p = Page(String::new());
        p.value("x", &[("job", "a\"b\\c\nd")], 1.0);
        assert_eq!(p.0, "strandline_x{job=\"a\\\"b\\\\c\\nd\"} 1\n");
    }

    #[tokio::test]
    async fn not_ready_until_the_log_is_replayed() {
        let data_dir = std::env::temp_dir().join(format!("strandline-status-{}", std::process::id()));
        let app = App::new(Config { data_dir: data_dir.clone(), ..Config::default() }, 64 << 20, None, 0).unwrap();
        let ask = || async {
            let r =
                router(app.clone()).oneshot(axum::http::Request::get("/-/ready").body(axum::body::Body::empty()).unwrap()).await.unwrap();
            let status = r.status();
            (status, axum::body::to_bytes(r.into_body(), 1 << 16).await.unwrap())
        };
        *app.replay.lock() = ReplayProgress { samples: 1234, done_bytes: 12 << 20, all_bytes: 48 << 20 };
        let (status, text) = ask().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "replaying the log: 12.0 MiB of 48.0 MiB (25 %), 1234 samples so far\n");
        assert!(app.admit_write().unwrap_err().is_retryable());
        app.ready.store(true, Ordering::Release);
        assert_eq!(ask().await.0, StatusCode::OK);
        let _ = std::fs::remove_dir_all(data_dir);
    }
}
