#![allow(clippy::unwrap_used)]
//! The real accept loop over real sockets, with bounds short enough to wait for. What must end is waited for until it ends;
//! what must not end is shown by what happens after it.

use super::*;
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

const SOON: Duration = Duration::from_millis(60);
const STUCK: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(3600);

/// Everything in an hour, to be shortened by the test.
fn patient() -> Bounds {
    Bounds { connections: 100, read: LATE, body: LATE, write: LATE, idle: LATE }
}

struct Rig {
    all: Arc<Connections>,
    address: std::net::SocketAddr,
    /// Lets `/wait` answer.
    go: Arc<Semaphore>,
}

fn rig(bounds: Bounds, tls: Option<Arc<rustls::ServerConfig>>) -> Rig {
    let all = Connections::new(bounds);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let go = Arc::new(Semaphore::new(0));
    let wait = go.clone();
    let read = |r: axum::extract::Request| async {
        match crate::body::read(r.into_body(), 1 << 20).await {
            Ok(b) => format!("{} bytes", b.len()).into_response(),
            Err(r) => r.into_response(),
        }
    };
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/wait", get(move || async move { wait.acquire().await.map(SemaphorePermit::forget).unwrap() }))
        .route("/read", post(read))
        .route("/large", get(|| async { (StatusCode::OK, Bytes::from(vec![b'x'; 64 << 20])) }));
    tokio::spawn(all.clone().serve(Listener { name: "test", socket, router, tls }));
    Rig { all, address, go }
}

impl Rig {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that sends this; then what it hears until it is closed.
    async fn hear(&self, sent: &[u8]) -> String {
        let mut c = self.connect().await;
        c.write_all(sent).await.unwrap();
        to_end(&mut c).await
    }

    /// What an honest client hears on a connection of its own, which stays open.
    async fn ask(&self, path: &str) -> (TcpStream, String) {
        let mut c = self.connect().await;
        let heard = ask_on(&mut c, path).await;
        (c, heard)
    }

    async fn until(&self, done: impl Fn(&Connections) -> bool) {
        let waiting = async {
            while !done(&self.all) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(STUCK, waiting).await.expect("it never comes to that");
    }
}

async fn to_end(c: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    // A reset is an end too. What never ends is a failure, not a test that hangs.
    let _ = tokio::time::timeout(STUCK, c.read_to_end(&mut heard)).await.expect("the connection stays open");
    String::from_utf8_lossy(&heard).into_owned()
}

async fn ask_on(c: &mut TcpStream, path: &str) -> String {
    c.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut heard = vec![0; 4096];
    let n = c.read(&mut heard).await.unwrap();
    String::from_utf8_lossy(&heard[..n]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_nothing_or_half_a_head_is_closed() {
    let r = rig(Bounds { read: SOON, ..patient() }, None);
    for (k, half) in [&b""[..], b"G", b"GET / HTTP/1.1\r\nHost: x", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HT"].iter().enumerate() {
        r.hear(half).await;
        assert_eq!(r.all.closed(Closed::NoRequest), k as u64 + 1, "{half:?}");
    }
    assert!(r.all.open_by_listener()["test"] == 0 && r.all.accepted_by_listener()["test"] == 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_behind_a_request_is_closed_and_silence_is_not() {
    let r = rig(Bounds { read: SOON, ..patient() }, None);
    let (mut c, heard) = r.ask("/").await;
    assert!(heard.ends_with("here"), "{heard}");
    // As long as its bounds allow, a silent one ends; one that has asked is let be.
    r.hear(b"").await;
    r.hear(b"").await;
    assert!(ask_on(&mut c, "/").await.ends_with("here"));
    c.write_all(b"GET / HT").await.unwrap();
    to_end(&mut c).await;
    assert_eq!(r.all.closed(Closed::NoRequest), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_go_on_and_come_to_an_end() {
    let head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    let r = rig(Bounds { read: SOON, ..patient() }, None);
    let heard = r.hear(&[head, &b"ab"[..]].concat()).await;
    assert!(heard.starts_with("HTTP/1.1 503") && heard.contains("server.read_timeout") && heard.contains("retry-after"), "{heard}");
    // Byte after byte, each in time.
    let r = rig(Bounds { body: SOON, ..patient() }, None);
    let mut c = r.connect().await;
    c.write_all(head).await.unwrap();
    let (mut from, mut to) = c.split();
    let trickle = async {
        while to.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::future::pending::<()>().await
    };
    let mut heard = [0; 4096];
    let answered = async {
        tokio::select! { () = trickle => 0, n = from.read(&mut heard) => n.unwrap() }
    };
    let n = tokio::time::timeout(STUCK, answered).await.expect("a body may come byte after byte");
    let heard = String::from_utf8_lossy(&heard[..n]);
    assert!(heard.starts_with("HTTP/1.1 503") && heard.contains("server.body_timeout"), "{heard}");
    // Who is honest has time.
    let heard = r.hear(b"POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(heard.ends_with("3 bytes"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_ends_and_one_at_work_does_not() {
    let r = rig(Bounds { idle: SOON, ..patient() }, None);
    let mut at_work = r.connect().await;
    at_work.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    for k in 0..3 {
        let (mut c, heard) = r.ask("/").await;
        assert!(heard.ends_with("here"), "{heard}");
        to_end(&mut c).await;
        assert_eq!(r.all.closed(Closed::Idle), k + 1);
    }
    r.go.add_permits(1);
    assert!(to_end(&mut at_work).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_the_answer_is_closed() {
    let r = rig(Bounds { write: SOON, ..patient() }, None);
    let mut c = r.connect().await;
    c.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    r.until(|all| all.closed(Closed::Unread) > 0).await;
    r.until(|all| all.open.lock().is_empty()).await;
    // HTTP/2: the socket takes everything, the stream's window takes nothing.
    let mut c = r.connect().await;
    c.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    c.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]).await.unwrap();
    // HEADERS, end of stream and headers: GET, http, /large without indexing, authority x.
    let block = [&[0x82, 0x86, 0x04, 6][..], b"/large", &[0x01, 1], b"x"].concat();
    let head = [0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
    c.write_all(&[&head[..], &block].concat()).await.unwrap();
    to_end(&mut c).await;
    assert_eq!(r.all.closed(Closed::Unread), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_is_closed() {
    let pem = include_bytes!("tests/localhost.pem");
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pem).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let r = rig(Bounds { read: SOON, ..patient() }, Some(Arc::new(tls)));
    // Silent; and a record's head without the record.
    for (k, part) in [&b""[..], &[22, 3, 1, 2, 0]].iter().enumerate() {
        r.hear(part).await;
        assert_eq!(r.all.closed(Closed::Handshake), k as u64 + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_displaces_itself() {
    let r = rig(Bounds { connections: 10, ..patient() }, None);
    let (mut honest, _) = r.ask("/").await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(r.connect().await);
        flood.last_mut().unwrap().write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    }
    r.until(|all| all.accepted_by_listener()["test"] == 201).await;
    // Who has asked before stays, and who comes now gets in.
    assert!(ask_on(&mut honest, "/").await.ends_with("here"));
    assert!(r.ask("/").await.1.ends_with("here"));
    assert!(r.all.closed(Closed::Displaced) >= 191 && r.all.refused().0 == 0);
    assert!(r.all.open.lock().len() <= 10);
    for mut c in flood.drain(..190) {
        to_end(&mut c).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_at_work_a_new_one_is_told_to_come_again() {
    let r = rig(Bounds { connections: 3, ..patient() }, None);
    let mut busy = Vec::new();
    for k in 0..3 {
        let mut c = r.connect().await;
        c.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        busy.push(c);
        r.until(|all| all.open.lock().len() == k + 1).await;
        r.until(|all| all.open.lock().values().all(|s| s.rank().is_none())).await;
    }
    let heard = r.hear(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(heard.starts_with("HTTP/1.1 503") && heard.contains("Retry-After: 1") && heard.contains("all 3 connections"), "{heard}");
    assert_eq!(r.all.refused(), (1, 0));
    // All at once: which of them waits first is not told by which came first.
    r.go.add_permits(3);
    for c in &mut busy {
        assert!(to_end(c).await.starts_with("HTTP/1.1 200"));
    }
    r.until(|all| all.open.lock().is_empty()).await;
    assert!(r.ask("/").await.1.ends_with("here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_requests_under_way_are_answered() {
    let r = rig(patient(), None);
    let mut at_work = r.connect().await;
    at_work.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (mut idle, _) = r.ask("/").await;
    r.until(|all| all.open.lock().values().any(|s| s.rank().is_none())).await;
    let ending = tokio::spawn({
        let all = r.all.clone();
        async move { all.end(LATE).await }
    });
    assert_eq!(to_end(&mut idle).await, "");
    r.go.add_permits(1);
    assert!(to_end(&mut at_work).await.starts_with("HTTP/1.1 200"));
    ending.await.unwrap();
    assert!(r.all.open.lock().is_empty());
}
