//! `strandline serve`: listeners up, engine open, run until told to stop.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use strandline_storage::metrics::ReplayProgress;

use crate::app::App;
use crate::auth::Auth;
use crate::config::{Config, format_size};
use crate::connections::Listener;
use crate::otlp;
use crate::tenants::{ROUND, Visits};

/// The end must come within five seconds of the signal, bucket or no bucket.
const GRACE: Duration = Duration::from_secs(2);
const CLOSE: Duration = Duration::from_millis(2500);

/// Everything that the main port serves.
pub fn main_router(app: &Arc<App>) -> Router {
    let write = Router::new()
        .route("/api/v1/write", post(crate::remote_write::write))
        .route("/api/v1/push", post(crate::remote_write::write))
        .with_state(app.clone());
    // The endpoints of Prometheus and of Mimir for metrics: an SDK that is given one sends its other signals there too.
    let otlp = || otlp::http::router(app.clone());
    let write = write.nest("/api/v1/otlp", otlp()).nest("/otlp", otlp());
    let api = Router::new().merge(write).merge(crate::admin::router(app.clone())).merge(crate::query_apis::router(app));
    let all = Router::new().merge(crate::status::router(app.clone())).merge(otlp_router(app)).merge(api.clone()).nest("/prometheus", api);
    crate::landing::with_landing(all, app)
}

/// OTLP by both transports, and health for probes that speak gRPC: an SDK that is pointed at the other one's port is served all the same.
fn otlp_router(app: &Arc<App>) -> Router {
    otlp::http::router(app.clone()).merge(otlp::grpc::router(app.clone())).merge(app.health.router())
}

struct Port {
    name: &'static str,
    /// As `/metrics` has it.
    label: &'static str,
    flag: &'static str,
    address: String,
    router: Router,
}

/// Runs the server; the text of an error is for the person at the terminal.
pub fn run(config: Config) -> Result<(), String> {
    // The binary's own choice; the library takes none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(64)
        .thread_name("strandline")
        .enable_all()
        .build()
        .map_err(|e| format!("starting threads: {e}"))?;
    let done = runtime.block_on(serve(config));
    // Blocking work may be stuck in the network; it is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    done
}

async fn serve(config: Config) -> Result<(), String> {
    let memory_limit = if config.memory_limit_bytes > 0 { config.memory_limit_bytes } else { crate::memory::default_limit_bytes() };
    let auth = config.auth_file.as_deref().map(Auth::load).transpose()?;
    let app = App::new(config, memory_limit, auth, now_ms()).map_err(|e| e.to_string())?;
    let tls = tls_config(&app.config).await?;
    app.health.tell(false).await;
    let lines = listen(&app, tls)?;
    announce(&app, &lines);
    open_engine(app.clone()).await?;
    app.health.tell(true).await;
    let scrapers = crate::scrape::start(&app);
    let watch = tokio::spawn(crate::memory::watch(app.clone()));
    let idle = app.clone();
    let tidy = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let app = idle.clone();
            let _ = tokio::task::spawn_blocking(move || app.tenants.close_idle()).await;
        }
    });
    let visits = tokio::spawn(visit_tenants(app.clone()));
    wait_for_signal(&app).await;
    tracing::info!("stopping");
    app.health.tell(false).await;
    watch.abort();
    tidy.abort();
    visits.abort();
    scrapers.iter().for_each(|s| s.abort());
    app.connections.end(GRACE).await;
    let closing = tokio::task::spawn_blocking(move || app.tenants.close());
    match tokio::time::timeout(CLOSE, closing).await {
        Ok(Ok(Ok(()))) => tracing::info!("stopped; everything acknowledged is on disk"),
        Ok(Ok(Err(e))) => tracing::error!(error = %e, "closing failed"),
        _ => tracing::warn!("closing took too long; everything acknowledged is in the log"),
    }
    Ok(())
}

/// Opens the ports and serves them; gives a line for each.
fn listen(app: &Arc<App>, tls: Option<Tls>) -> Result<Vec<String>, String> {
    let ports = [
        Port { name: "HTTP API", label: "http", flag: "--listen", address: app.config.listen.clone(), router: main_router(app) },
        Port {
            name: "OTLP gRPC",
            label: "otlp_grpc",
            flag: "--otlp-grpc",
            address: app.config.otlp_grpc.clone(),
            router: crate::landing::with_landing(otlp_router(app), app),
        },
        Port {
            name: "OTLP HTTP",
            label: "otlp_http",
            flag: "--otlp-http",
            address: app.config.otlp_http.clone(),
            router: crate::landing::with_landing(otlp_router(app), app),
        },
    ];
    let mut lines = Vec::new();
    for l in ports.into_iter().filter(|l| !l.address.is_empty()) {
        let (socket, bound) = bind(&l)?;
        lines.push(format!("{:<10} listening on {}{bound}", l.name, if tls.is_some() { "https://" } else { "http://" }));
        let listener = Listener { name: l.label, socket, router: l.router, tls: tls.clone() };
        tokio::spawn(app.connections.clone().serve(listener));
    }
    Ok(lines)
}

/// Looks after tenants that nobody asks for: at once, and from time to time. Not while memory is short: their logs are replayed.
async fn visit_tenants(app: Arc<App>) {
    let visits = Arc::new(parking_lot::Mutex::new(Visits::default()));
    loop {
        let (app, visits) = (app.clone(), visits.clone());
        let round = move || app.tenants.visit_round(&mut visits.lock(), &|| !app.pressed.load(Ordering::Relaxed));
        let _ = tokio::task::spawn_blocking(round).await;
        tokio::time::sleep(ROUND).await;
    }
}

fn now_ms() -> i64 {
    use strandline_storage::clock::{Clock, SystemClock};
    SystemClock.now_ms()
}

fn bind(l: &Port) -> Result<(TcpListener, SocketAddr), String> {
    let socket = TcpListener::bind(&l.address).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{}: {} is already in use by another process: stop it, or choose another address with {}", l.name, l.address, l.flag)
        }
        _ => format!("{}: can't listen on {}: {e} (change it with {})", l.name, l.address, l.flag),
    })?;
    socket.set_nonblocking(true).map_err(|e| e.to_string())?;
    let bound = socket.local_addr().map_err(|e| e.to_string())?;
    Ok((socket, bound))
}

type Tls = Arc<rustls::ServerConfig>;

async fn tls_config(c: &Config) -> Result<Option<Tls>, String> {
    let (Some(cert), Some(key)) = (&c.tls_cert, &c.tls_key) else { return Ok(None) };
    use rustls::pki_types::pem::PemObject;
    let pem = crate::config::read_file(cert)?;
    let chain: Result<Vec<_>, _> = rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|e| format!("server.tls_cert {}: {e}", cert.display()))?;
    let key_pem = crate::config::read_file(key)?;
    let key_der = rustls::pki_types::PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|e| format!("server.tls_key {}: {e}", key.display()))?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|e| format!("server.tls_cert and server.tls_key: {e}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn announce(app: &App, lines: &[String]) {
    let c = &app.config;
    for l in lines {
        tracing::info!("{l}");
    }
    tracing::info!("data in {}, bucket {}", c.data_dir.display(), app.tenants.bucket().name());
    let span = |ms: i64| if ms == 0 { "without end".to_owned() } else { format!("{} days", ms / 86_400_000) };
    tracing::info!(
        "memory limit {}, retention of metrics {}, of traces {}, minimum free disk {}",
        format_size(app.memory_limit),
        span(c.metrics_retention_ms),
        span(c.traces_retention_ms),
        format_size(c.min_free_bytes)
    );
}

async fn open_engine(app: Arc<App>) -> Result<(), String> {
    let opening = tokio::task::spawn_blocking(move || {
        let tenant = app.config.default_tenant.clone();
        let progress = app.clone();
        let mut bar = crate::cli::progress::Progress::new("replaying the log, bytes");
        let mut told = |at: ReplayProgress| {
            *progress.replay.lock() = at;
            bar.at(at.done_bytes, at.all_bytes);
        };
        let engine = app.tenants.get_with(&tenant, &mut told).map_err(|e| e.to_string())?;
        drop(bar);
        let replayed = app.replay.lock().samples;
        let s = engine.metrics().stats();
        tracing::info!("ready: {replayed} samples replayed, {} series, {} metric blocks", s.head.series, s.blocks);
        if let Some(e) = s.bucket_error {
            tracing::warn!("the bucket can't be reached: {e}");
        }
        for why in engine.incomplete() {
            tracing::error!("answers could miss data, and fail unless asked for with partial_response=true: {why}");
        }
        app.ready.store(true, Ordering::Release);
        Ok(())
    });
    opening.await.map_err(|e| e.to_string())?
}

/// SIGINT and SIGTERM end; SIGHUP reads the `[[drop]]` rules again.
async fn wait_for_signal(app: &Arc<App>) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut hup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
            let _ = tokio::signal::ctrl_c().await;
            return;
        };
        loop {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return,
                _ = term.recv() => return,
                _ = hup.recv() => crate::cli::reload_drops(app),
            }
        }
    }
    #[cfg(not(unix))]
    {
        let _ = app;
        let _ = tokio::signal::ctrl_c().await;
    }
}
