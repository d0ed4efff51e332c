//! Taking connections, and driving each until it ends or is ended.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::{FutureExt, Map};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::bodies::{Answer, Timely, UnderWay, Watched};
use super::state::State;
use super::{Bounds, Closed, Connections, Place};

/// When the system has no file for a connection: how long to wait for one.
const WITHOUT_FILES: Duration = Duration::from_millis(50);
/// How long an idle connection may take over its goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// Refused connections told so at once; more are just closed.
const MOST_TOLD: usize = 64;

/// One listening socket and what it serves.
pub struct Listener {
    /// As `/metrics` names it.
    pub name: &'static str,
    /// Bound and non-blocking.
    pub socket: std::net::TcpListener,
    /// What it serves.
    pub router: Router,
    /// Certificates, if it speaks TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Connections {
    /// Takes and serves connections until [`Connections::end`].
    pub async fn serve(self: Arc<Self>, l: Listener) -> io::Result<()> {
        let socket = TcpListener::from_std(l.socket)?;
        let acceptor = l.tls.map(TlsAcceptor::from);
        let builder = Arc::new(http(&self.bounds));
        let mut ending = self.ending.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = ending.wait_for(|end| *end) => return Ok(()),
                a = socket.accept() => a,
            };
            match accepted {
                Ok((stream, peer)) => match self.admit(l.name) {
                    Some(place) => drop(tokio::spawn(place.run(stream, acceptor.clone(), builder.clone(), l.router.clone()))),
                    None => {
                        tracing::debug!(listener = l.name, %peer, "a connection was refused: server.max_connections are at work");
                        self.tell_refused(stream, acceptor.is_some());
                    }
                },
                // A client that went away before it was met.
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(e) => {
                    if self.refused_by_system.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                        tracing::error!(listener = l.name, error = %e, "the system gives no file for a new connection: raise LimitNOFILE, or lower server.max_connections");
                    }
                    self.displace_one();
                    sleep(WITHOUT_FILES).await;
                }
            }
        }
    }

    /// Says why. To an HTTP/2 client that is a connection that could not be made: it waits longer and longer between tries, which a
    /// GOAWAY would not make it do. Under TLS it would take a handshake, so it is just closed.
    fn tell_refused(self: &Arc<Self>, mut stream: TcpStream, tls: bool) {
        if tls || self.told.fetch_add(1, Ordering::AcqRel) >= MOST_TOLD {
            if !tls {
                self.told.fetch_sub(1, Ordering::AcqRel);
            }
            return;
        }
        let all = self.clone();
        tokio::spawn(async move {
            let text = format!("all {} connections are at work (server.max_connections); come again later\n", all.bounds.connections);
            let said = unavailable(&text);
            let telling = async {
                stream.write_all(&said).await?;
                stream.shutdown().await?;
                // What was sent meanwhile is read, or the system would take the answer back.
                tokio::io::copy(&mut (&mut stream).take(1 << 20), &mut tokio::io::sink()).await
            };
            let _ = timeout(GOODBYE, telling).await;
            all.told.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn unavailable(text: &str) -> Vec<u8> {
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close";
    format!("{head}\r\nRetry-After: {}\r\nContent-Length: {}\r\n\r\n{text}", crate::refusal::RETRY_AFTER_S, text.len()).into_bytes()
}

/// Heads are small, streams are few; when each must come is the connection's [`State`]'s matter.
fn http(b: &Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(128 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30).min(b.idle))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(256)
        .max_header_list_size(64 << 10)
        // What a connection may send before it is read; more would be memory that nobody counts.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20);
    builder
}

impl Place {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>, builder: Arc<Builder<TokioExecutor>>, router: Router) {
        // Answers are written whole: nothing is won by waiting for more.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.drive(stream, &builder, router).await };
        tokio::select! {
            done = timeout(self.all.bounds.read, tls.accept(stream)) => match done {
                Ok(Ok(stream)) => self.drive(stream, &builder, router).await,
                Ok(Err(e)) => tracing::debug!(error = %e, "a TLS handshake failed"),
                Err(_) => self.all.count_closed(Closed::Handshake),
            },
            () = self.state.displaced() => {}
        }
    }

    async fn drive<Io>(&self, io: Io, builder: &Builder<TokioExecutor>, router: Router)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (bounds, state) = (&self.all.bounds, &self.state);
        let service = Requests { router: TowerToHyperService::new(router), state: state.clone(), bounds: *bounds };
        let mut conn = pin!(builder.serve_connection(TokioIo::new(Watched::new(io, state.clone())), service));
        let mut ending = self.all.ending.subscribe();
        let mut ended = false;
        let mut look = state.look(bounds, Instant::now());
        loop {
            let until = match look {
                Ok(until) => until,
                Err(why) => {
                    self.all.count_closed(why);
                    if why == Closed::Idle {
                        // HTTP/2 clients are told not to begin anything more here.
                        conn.as_mut().graceful_shutdown();
                        let _ = timeout(GOODBYE, conn).await;
                    }
                    return;
                }
            };
            tokio::select! {
                done = conn.as_mut() => {
                    if let Err(e) = done {
                        tracing::debug!(error = %e, "a connection ended");
                    }
                    return;
                }
                () = sleep_until(until) => look = state.look(bounds, Instant::now()),
                () = state.displaced() => return,
                _ = ending.wait_for(|end| *end), if !ended => {
                    ended = true;
                    conn.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The router, for one connection.
struct Requests {
    router: TowerToHyperService<Router>,
    state: Arc<State>,
    bounds: Bounds,
}

type Inner = <TowerToHyperService<Router> as Service<Request<Body>>>::Future;
type Infallible = std::convert::Infallible;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Map<Inner, Box<dyn FnOnce(Result<Response, Infallible>) -> Result<Response<Answer>, Infallible> + Send>>;
    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let under_way = UnderWay::new(&self.state);
        let bounds = self.bounds;
        let request = request.map(|body| Body::new(Timely::new(body, &bounds)));
        let done = move |r: Result<Response, Infallible>| {
            // A client may leave no room for even the first part.
            under_way.answer(true);
            r.map(|r| r.map(|inner| Answer { inner, request: under_way }))
        };
        self.router.call(request).map(Box::new(done))
    }
}
