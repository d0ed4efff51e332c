//! Bytes, requests and answers of a connection on their way, each telling the connection's state.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Bounds;
use super::state::State;

/// A client that keeps a request's body from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    /// The next part.
    #[error("the next part of the request did not come in time (server.read_timeout); send again")]
    Part,
    /// The whole.
    #[error("the request did not come whole in time (server.body_timeout); send again in smaller batches")]
    Whole,
}

impl TooSlow {
    /// Whether this is what is behind an error.
    pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<TooSlow> {
        std::iter::successors(Some(error), |e| e.source()).find_map(|e| e.downcast_ref().copied())
    }
}

/// A connection's bytes.
pub(super) struct Watched<Io> {
    inner: Io,
    state: Arc<State>,
    read_any: bool,
}

impl<Io> Watched<Io> {
    pub fn new(inner: Io, state: Arc<State>) -> Self {
        Watched { inner, state, read_any: false }
    }

    fn written<T>(&self, p: Poll<T>) -> Poll<T> {
        self.state.wrote(p.is_pending());
        p
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        if !came.is_empty() {
            self.state.read(!self.read_any, came);
            self.read_any = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let p = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(p)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let p = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(p)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A request's body that must come in time.
pub(super) struct Timely<B> {
    inner: B,
    part: Duration,
    whole_until: Instant,
    /// Runs while a part is waited for.
    alarm: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<B> Timely<B> {
    pub fn new(inner: B, b: &Bounds) -> Self {
        Timely { inner, part: b.read, whole_until: Instant::now() + b.body, alarm: None, waiting: false }
    }

    fn late(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let now = Instant::now();
        if !self.waiting {
            let until = (now + self.part).min(self.whole_until);
            match &mut self.alarm {
                Some(a) => a.as_mut().reset(until),
                None => self.alarm = Some(Box::pin(sleep_until(until))),
            }
            self.waiting = true;
        }
        match &mut self.alarm {
            Some(a) => a.as_mut().poll(cx).map(|()| if Instant::now() >= self.whole_until { TooSlow::Whole } else { TooSlow::Part }),
            None => Poll::Pending,
        }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Timely<B>
where
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            // Parts that come fast enough, each a little: the whole has its end too.
            Poll::Ready(Some(Ok(_))) if Instant::now() >= self.whole_until => Poll::Ready(Some(Err(TooSlow::Whole.into()))),
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Poll::Pending => self.late(cx).map(|slow| Some(Err(slow.into()))),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A request under way, until its answer is handed over.
pub(super) struct UnderWay(Arc<State>);

impl UnderWay {
    pub fn new(state: &Arc<State>) -> Self {
        state.begin_request();
        UnderWay(state.clone())
    }

    /// See [`State::answer`].
    pub fn answer(&self, handed_over: bool) {
        self.0.answer(handed_over);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// An answer's body; whoever does not take it is noticed.
pub(super) struct Answer {
    pub inner: Body,
    pub request: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        self.request.answer(frame.is_ready());
        frame
    }
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
