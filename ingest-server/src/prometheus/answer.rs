//! Answers: the envelope, errors, and bodies that are written in pieces while the client reads.

use std::io::{self, Write};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use strandline_query::promql;
use tokio::sync::{mpsc, oneshot};

use super::json;
use crate::refusal::{Reason, Refusal};

/// A body larger than this is sent while it is still being written.
const PIECE: usize = 64 << 10;
/// Not worth packing below.
const SMALL: usize = 1 << 10;

/// An error of the API: its type, the status that goes with it, and words.
#[derive(Clone, Debug)]
pub struct ApiError {
    kind: &'static str,
    status: StatusCode,
    message: String,
    headers: HeaderMap,
}

impl ApiError {
    fn new(kind: &'static str, status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { kind, status, message: message.into(), headers: HeaderMap::new() }
    }
    /// The request is wrong.
    pub fn bad_data(message: impl Into<String>) -> Self {
        Self::new("bad_data", StatusCode::BAD_REQUEST, message)
    }
    /// A parameter is wrong.
    pub fn parameter(name: &str, message: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {message}"))
    }
    /// Nothing is served there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not_found", StatusCode::NOT_FOUND, message)
    }
    /// Something is, but not by this method.
    pub fn wrong_method(message: impl Into<String>) -> Self {
        Self::new("bad_data", StatusCode::METHOD_NOT_ALLOWED, message)
    }
    /// The time is over.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new("timeout", StatusCode::SERVICE_UNAVAILABLE, message)
    }
    /// A defect.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("internal", StatusCode::INTERNAL_SERVER_ERROR, message)
    }
    /// The query's error; `param` names the parameter with its text.
    pub fn of_query(e: promql::Error, param: &str) -> Self {
        let message = e.to_string();
        match e {
            promql::Error::Parse(_) | promql::Error::Invalid(_) => Self::parameter(param, message),
            promql::Error::LimitExceeded { limit: promql::Limit::BytesTogether, .. } => {
                Self::new("unavailable", StatusCode::SERVICE_UNAVAILABLE, message)
            }
            promql::Error::Execution(_) | promql::Error::LimitExceeded { .. } => {
                Self::new("execution", StatusCode::UNPROCESSABLE_ENTITY, message)
            }
            promql::Error::Timeout(_) => Self::timeout(message),
            promql::Error::Canceled => Self::new("canceled", canceled(), message),
            promql::Error::Storage(e) if e.is_retryable() => Self::new("unavailable", StatusCode::SERVICE_UNAVAILABLE, message),
            _ => Self::internal(message),
        }
    }
    /// In plain words, as the pages outside the envelope answer.
    pub fn into_plain(self) -> Response {
        (self.status, self.headers, format!("{}\n", self.message)).into_response()
    }
}

/// The status for a client that went away.
fn canceled() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

impl From<Refusal> for ApiError {
    fn from(r: Refusal) -> Self {
        let kind = match r.reason {
            Reason::Overloaded | Reason::Unavailable => "unavailable",
            Reason::Unauthenticated | Reason::Forbidden => "unauthorized",
            _ => "bad_data",
        };
        ApiError { kind, status: r.status(), headers: r.headers(), message: r.message }
    }
}

impl From<strandline_storage::Error> for ApiError {
    fn from(e: strandline_storage::Error) -> Self {
        use strandline_storage::ErrorKind;
        match e.kind {
            ErrorKind::Invalid => Self::bad_data(e.to_string()),
            ErrorKind::LimitExceeded => Self::new("execution", StatusCode::UNPROCESSABLE_ENTITY, e.to_string()),
            _ if e.is_retryable() => Self::new("unavailable", StatusCode::SERVICE_UNAVAILABLE, e.to_string()),
            _ => Self::internal(e.to_string()),
        }
    }
}

impl From<io::Error> for ApiError {
    fn from(e: io::Error) -> Self {
        // Only ever from a body whose reader is gone.
        Self::new("canceled", canceled(), e.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut b = br#"{"status":"error","errorType":""#.to_vec();
        b.extend_from_slice(self.kind.as_bytes());
        b.extend_from_slice(br#"","error":"#);
        json::string(&mut b, &self.message);
        b.push(b'}');
        (self.status, self.headers, [(header::CONTENT_TYPE, "application/json")], b).into_response()
    }
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Packing {
    /// The best the client takes.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let offers = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
        let mut best = Packing::Plain;
        for offer in offers.flat_map(|v| v.split(',')) {
            let (name, q) = offer.split_once(';').unwrap_or((offer, ""));
            let refused = q.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
            match name.trim() {
                "zstd" if !refused => return Packing::Zstd,
                "gzip" | "*" if !refused => best = Packing::Gzip,
                _ => {}
            }
        }
        best
    }
}

/// Sends pieces to the connection; waits while it is behind.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Pieces {
    fn send(&mut self, piece: Bytes) -> io::Result<()> {
        let sent = self.0.blocking_send(Ok(piece));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away"))
    }

    /// Breaks the connection off: what was sent must not pass for the whole.
    fn break_off(&mut self, why: &str) {
        // Nobody is there to be misled if it can't be said.
        let _ = self.0.blocking_send(Err(io::Error::other(why.to_owned())));
    }
}

impl Write for Pieces {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.send(Bytes::copy_from_slice(b))?;
        Ok(b.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Sink {
    Plain(Pieces),
    Gzip(flate2::write::GzEncoder<Pieces>),
    Zstd(zstd::stream::write::Encoder<'static, Pieces>),
}

impl Sink {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Sink::Plain(w) => w,
            Sink::Gzip(w) => w,
            Sink::Zstd(w) => w,
        }
    }

    fn pieces(&mut self) -> &mut Pieces {
        match self {
            Sink::Plain(w) => w,
            Sink::Gzip(w) => w.get_mut(),
            Sink::Zstd(w) => w.get_mut(),
        }
    }
}

/// A body being written off the runtime's threads.
pub struct Out {
    /// What was written since the last piece left.
    pub buf: Vec<u8>,
    packing: Packing,
    content_type: &'static str,
    encoding: Option<&'static str>,
    begun: Option<oneshot::Sender<Response>>,
    sink: Option<Sink>,
}

impl Out {
    /// A body; the response goes to `begun` as soon as its head is certain.
    pub fn new(packing: Packing, content_type: &'static str, begun: oneshot::Sender<Response>) -> Self {
        Out { buf: Vec::new(), packing, content_type, encoding: None, begun: Some(begun), sink: None }
    }

    /// Another type than JSON, never packed; `encoding` says how the bytes are packed already.
    pub fn raw(&mut self, content_type: &'static str, encoding: Option<&'static str>) {
        (self.content_type, self.encoding, self.packing) = (content_type, encoding, Packing::Plain);
    }

    /// To be called between elements: sends what has piled up.
    #[inline]
    pub fn spill(&mut self) -> io::Result<()> {
        if self.buf.len() < PIECE { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.sink.is_none() {
            let (tx, rx) = mpsc::channel(4);
            let pieces = futures_util::stream::unfold(rx, |mut rx| async { rx.recv().await.map(|b| (b, rx)) });
            self.begin(Body::from_stream(pieces));
            self.sink = Some(match self.packing {
                Packing::Plain => Sink::Plain(Pieces(tx)),
                Packing::Gzip => Sink::Gzip(flate2::write::GzEncoder::new(Pieces(tx), flate2::Compression::fast())),
                Packing::Zstd => Sink::Zstd(zstd::stream::write::Encoder::new(Pieces(tx), 1)?),
            });
        }
        match &mut self.sink {
            Some(Sink::Plain(p)) => p.send(std::mem::replace(&mut self.buf, Vec::with_capacity(PIECE + PIECE / 4)).into())?,
            Some(s) => s.writer().write_all(&self.buf)?,
            None => {}
        }
        self.buf.clear();
        Ok(())
    }

    fn begin(&mut self, body: Body) {
        let mut r = Response::new(body);
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        let packed = match self.packing {
            Packing::Plain => self.encoding,
            Packing::Gzip => Some("gzip"),
            Packing::Zstd => Some("zstd"),
        };
        if let Some(p) = packed {
            r.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(p));
        }
        r.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if let Some(b) = self.begun.take() {
            // Nobody waits any more if the client is gone.
            let _ = b.send(r);
        }
    }

    /// Ends the body.
    pub fn finish(mut self) -> io::Result<()> {
        if self.sink.is_some() {
            self.send()?;
            return match self.sink {
                Some(Sink::Gzip(w)) => w.finish().map(|_| ()),
                Some(Sink::Zstd(w)) => w.finish().map(|_| ()),
                _ => Ok(()),
            };
        }
        if self.buf.len() < SMALL {
            self.packing = Packing::Plain;
        }
        let body = match self.packing {
            Packing::Plain => std::mem::take(&mut self.buf),
            Packing::Gzip => {
                let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                w.write_all(&self.buf)?;
                w.finish()?
            }
            Packing::Zstd => zstd::stream::encode_all(&self.buf[..], 1)?,
        };
        self.begin(Body::from(body));
        Ok(())
    }

    /// Answers with an error; if a part of the answer is sent already, breaks the connection off.
    pub fn fail(mut self, response: Response) {
        if let Some(s) = &mut self.sink {
            s.pieces().break_off("the answer ends here by an error");
        }
        if let Some(b) = self.begun.take() {
            let _ = b.send(response);
        }
    }
}

/// What there is to say about an answer.
#[derive(Default)]
pub struct Notes {
    /// Warnings.
    pub warnings: Vec<String>,
    /// Infos.
    pub infos: Vec<String>,
}

/// At most so many warnings, and infos, are told.
const MAX_NOTES: usize = 10;
/// The warning of a `limit` met.
pub const TRUNCATED: &str = "results truncated due to limit";

/// Writes a success around what `data` writes.
pub fn success(out: &mut Out, notes: &Notes, data: impl FnOnce(&mut Out) -> io::Result<()>) -> Result<(), ApiError> {
    out.buf.extend_from_slice(br#"{"status":"success","data":"#);
    data(out)?;
    for (name, kind, list) in [("warnings", "warning", &notes.warnings), ("infos", "info", &notes.infos)] {
        if list.is_empty() {
            continue;
        }
        let _ = write!(out.buf, r#","{name}":["#);
        let shown = list.iter().take(MAX_NOTES).cloned();
        let more = list.len().saturating_sub(MAX_NOTES);
        let rest = (more > 0).then(|| format!("{more} more {kind} annotations omitted"));
        for (i, w) in shown.chain(rest).enumerate() {
            if i > 0 {
                out.buf.push(b',');
            }
            json::string(&mut out.buf, &w);
        }
        out.buf.push(b']');
    }
    out.buf.push(b'}');
    Ok(())
}
