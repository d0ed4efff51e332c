//! OTLP over gRPC: tonic frames the messages, the bytes go to the same place as HTTP's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use strandline_storage::codec::protobuf::Writer;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use super::json::Signal;
use super::{grpc_snappy, ingest};
use crate::app::{App, Room};
use crate::auth::Right;
use crate::refusal::{RETRY_INFO_MS, Reason, Refusal};

/// The OTLP services.
pub fn router(app: Arc<App>) -> Router {
    let path = |s: &str| format!("/opentelemetry.proto.collector.{s}/Export");
    Router::new()
        .route(&path("metrics.v1.MetricsService"), post(|s, r| export(s, r, Signal::Metrics)))
        .route(&path("trace.v1.TraceService"), post(|s, r| export(s, r, Signal::Traces)))
        .route(&path("logs.v1.LogsService"), post(|s, r| export(s, r, Signal::Logs)))
        .with_state(app)
}

/// Messages as the bytes they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let n = src.remaining();
        Ok(Some(src.copy_to_bytes(n)))
    }
}

struct Export {
    app: Arc<App>,
    headers: HeaderMap,
    signal: Signal,
    arriving: Arc<Mutex<Arriving>>,
}

/// A request whose message is not whole yet.
struct Arriving {
    /// Taken by whoever handles the message.
    room: Option<Room>,
    /// Why the rest is not taken.
    refused: Option<Refusal>,
}

/// A request's body whose bytes count as in flight while they come.
struct Metered {
    inner: axum::body::Body,
    arriving: Arc<Mutex<Arriving>>,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else { return Poll::Pending };
        Poll::Ready(frame.map(|f| {
            let mut a = self.arriving.lock();
            let taken = f.map_err(|e| crate::body::broken(&e)).and_then(|f| {
                if let (Some(data), Some(room)) = (f.data_ref(), a.room.as_mut()) {
                    // Packed bytes become more; how many is not known here, and tonic bounds them.
                    room.grow(data.len())?;
                }
                Ok(f)
            });
            taken.map_err(|r| status(a.refused.insert(r)))
        }))
    }
}

impl tonic::server::UnaryService<Bytes> for Export {
    type Response = Bytes;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, Status>> + Send>>;
    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (app, headers, signal) = (self.app.clone(), self.headers.clone(), self.signal);
        let room = self.arriving.lock().room.take().unwrap_or_else(|| app.room());
        Box::pin(async move {
            let body = request.into_inner();
            crate::counters::Counters::add(&app.counters.received_bytes, body.len() as u64);
            let outcome = match signal {
                Signal::Logs => match app.identify(&headers, Right::Write) {
                    Ok(_) => ingest::logs(&app, &body),
                    Err(r) => Err(r),
                },
                _ => match app.engine(&headers, Right::Write) {
                    Ok(engine) if signal == Signal::Metrics => ingest::metrics(&app, engine, body, room).await,
                    Ok(engine) => ingest::traces(&app, engine, body, room).await,
                    Err(r) => Err(r),
                },
            };
            app.counters.request("otlp_grpc", outcome.as_ref().map_or_else(|r| r.grpc_code() as u16, |_| 0));
            match outcome {
                Ok(o) => Ok(tonic::Response::new(super::http::response(&o).into())),
                Err(r) => {
                    app.counters.refuse("otlp_grpc_requests", r.word(), 1);
                    Err(status(&r))
                }
            }
        })
    }
}

/// What is no gRPC is told so by HTTP: over HTTP/1.1 a gRPC status would come in trailers, and an error look like success.
fn is_grpc(request: &Request) -> bool {
    let content = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let kind = content.split([';', '+']).next().unwrap_or("").trim();
    request.version() == Version::HTTP_2 && kind.eq_ignore_ascii_case("application/grpc")
}

async fn export(State(app): State<Arc<App>>, request: Request, signal: Signal) -> Response {
    if !is_grpc(&request) {
        let r = Refusal::new(
            Reason::Unsupported,
            "gRPC needs HTTP/2 and content type application/grpc; OTLP over HTTP goes to /v1/metrics and /v1/traces",
        );
        app.counters.refuse("otlp_grpc_requests", r.word(), 1);
        return (r.status(), r.message).into_response();
    }
    let max = app.max_body_bytes();
    let headers = request.headers().clone();
    // Who will be refused is told so before a byte of the body is read.
    let may = app.identify(&headers, Right::Write).and_then(|_| if signal == Signal::Logs { Ok(()) } else { app.admit_write() });
    if let Err(r) = may {
        return refuse(&app, &r);
    }
    let request = match unsnap(&app, request, max).await {
        Ok(request) => request,
        Err(r) => return refuse(&app, &r),
    };
    let arriving = Arc::new(Mutex::new(Arriving { room: Some(app.room()), refused: None }));
    let mut grpc = tonic::server::Grpc::new(Raw)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .accept_compressed(CompressionEncoding::Deflate)
        .apply_max_message_size_config(Some(max as usize), None);
    let request = request.map(|inner| Metered { inner, arriving: arriving.clone() });
    let response =
        grpc.unary(Export { app: app.clone(), headers, signal, arriving: arriving.clone() }, request).await.map(axum::body::Body::new);
    let (refused, handled) = {
        let mut a = arriving.lock();
        (a.refused.take(), a.room.is_none())
    };
    if let Some(r) = refused {
        return refuse(&app, &r);
    }
    let code = response.headers().get("grpc-status").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    match code.map(Code::from_i32) {
        // tonic says OUT_OF_RANGE for a message over the limit, which OTLP clients retry for ever.
        Some(Code::OutOfRange) => refuse(&app, &crate::body::too_large(max)),
        Some(code) if !handled => {
            app.counters.request("otlp_grpc", code as u16);
            app.counters.refuse("otlp_grpc_requests", Reason::Invalid.word(), 1);
            response
        }
        _ => response,
    }
}

/// A request packed by snappy as one that is not packed; any other as it is.
async fn unsnap(app: &Arc<App>, request: Request, max: u64) -> Result<Request, Refusal> {
    if !grpc_snappy::is_named(request.headers()) {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    parts.headers.remove("grpc-encoding");
    Ok(Request::from_parts(parts, grpc_snappy::unpack(body, max, app.room()).await?))
}

fn refuse(app: &App, r: &Refusal) -> Response {
    app.counters.request("otlp_grpc", r.grpc_code() as u16);
    app.counters.refuse("otlp_grpc_requests", r.word(), 1);
    status(r).into_http::<tonic::body::Body>().map(axum::body::Body::new)
}

/// A refusal as a gRPC status; overload says when to come again, or OTLP clients would give up.
pub fn status(r: &Refusal) -> Status {
    let code = Code::from_i32(r.grpc_code() as i32);
    if r.reason != Reason::Overloaded {
        return Status::new(code, r.message.clone());
    }
    let mut delay = Writer::default();
    delay.int(1, RETRY_INFO_MS / 1000);
    delay.int(2, RETRY_INFO_MS % 1000 * 1_000_000);
    let mut info = Writer::default();
    info.bytes(1, &delay.buf);
    let mut any = Writer::default();
    any.bytes(1, b"type.googleapis.com/google.rpc.RetryInfo");
    any.bytes(2, &info.buf);
    let mut details = Writer::default();
    details.int(1, r.grpc_code() as u64);
    details.bytes(2, r.message.as_bytes());
    details.bytes(3, &any.buf);
    Status::with_details(code, r.message.clone(), details.buf.into())
}
