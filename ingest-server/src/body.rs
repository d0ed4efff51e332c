//! Request bodies: read to a bound, unpacked to a bound.

use std::io::Read;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::app::Room;
use crate::connections::TooSlow;
use crate::refusal::{Reason, Refusal};

/// Unpacked bytes are asked room for in steps of this.
const STEP: usize = 256 << 10;

/// Reads a whole body of at most `max` bytes. How long that may take is the connection's matter.
pub async fn read(body: Body, max: u64) -> Result<Bytes, Refusal> {
    collect(body, max, &mut |_| Ok(())).await
}

/// As [`read`]; the bytes count as in flight while they come.
pub async fn read_into(room: &mut Room, body: Body, max: u64) -> Result<Bytes, Refusal> {
    collect(body, max, &mut |n| room.grow(n)).await
}

/// Bodies of what is refused unread are taken off the wire up to this: who still sends would not hear the answer.
const MOST_DISCARDED: u64 = 4 << 20;

/// Reads a body of a request that is refused anyway, and keeps nothing of it.
pub async fn discard(headers: &HeaderMap, body: Body) {
    // Who asks first whether to send has not begun.
    if !headers.contains_key(axum::http::header::EXPECT) {
        discard_rest(body).await;
    }
}

async fn discard_rest(mut body: Body) {
    if body.size_hint().lower() > MOST_DISCARDED {
        return;
    }
    let mut left = MOST_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        let n = frame.data_ref().map_or(0, |d| d.len() as u64);
        match left.checked_sub(n) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What to say when a body ends in an error.
pub fn broken(error: &(dyn std::error::Error + 'static)) -> Refusal {
    match TooSlow::behind(error) {
        Some(slow) => Refusal::new(Reason::TooSlow, slow.to_string()),
        None => Refusal::new(Reason::Invalid, format!("reading the request: {error}")),
    }
}

type Grow<'g> = &'g mut (dyn FnMut(usize) -> Result<(), Refusal> + Send);

async fn collect(mut body: Body, max: u64, grow: Grow<'_>) -> Result<Bytes, Refusal> {
    let announced = body.size_hint().lower().min(max) as usize;
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() {
            let fits = if (out.len() + data.len()) as u64 > max { Err(too_large(max)) } else { grow(data.len()) };
            if let Err(r) = fits {
                drop(out);
                discard_rest(body).await;
                return Err(r);
            }
            make_room(&mut out, data.len(), announced);
            out.extend_from_slice(&data);
        }
    }
    Ok(out.into())
}

/// Makes room for `more` bytes. What a sender announces is taken at its word up to a step, and once that has come, for all of it:
/// then nothing is moved again, and live spans, which keep the buffer, have no more than they need.
fn make_room(out: &mut Vec<u8>, more: usize, announced: usize) {
    let needed = out.len() + more;
    if needed > out.capacity() {
        let room = match needed <= announced {
            true if out.len() < STEP => announced.min(STEP),
            true => announced,
            false => out.capacity().saturating_mul(2),
        };
        out.reserve_exact(needed.max(room) - out.len());
    }
}

/// The refusal of a body that is too large.
pub fn too_large(max: u64) -> Refusal {
    Refusal::new(
        Reason::TooLarge,
        format!("the request is larger than {max} bytes (server.max_body, and at most an eighth of memory_limit): send smaller batches"),
    )
}

/// Unpacks by `Content-Encoding`; the result has at most `max` bytes, whatever the body claims.
pub fn unpack(headers: &HeaderMap, body: Bytes, max: u64, room: &mut Room) -> Result<Bytes, Refusal> {
    let encoding = headers.get("content-encoding").and_then(|v| v.to_str().ok()).unwrap_or("identity").trim().to_ascii_lowercase();
    match encoding.as_str() {
        "" | "identity" => Ok(body),
        "gzip" | "x-gzip" => bounded(flate2::read::MultiGzDecoder::new(&body[..]), "gzip", max, room),
        "deflate" | "zlib" => bounded(flate2::read::ZlibDecoder::new(&body[..]), "deflate", max, room),
        "lz4" => bounded(lz4_flex::frame::FrameDecoder::new(&body[..]), "lz4 in frames", max, room),
        "zstd" => {
            let d = zstd::stream::read::Decoder::new(&body[..]).and_then(|mut d| {
                // The window is memory too.
                d.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Ok(d)
            });
            bounded(d.map_err(|e| Refusal::new(Reason::Invalid, format!("zstd: {e}")))?, "zstd", max, room)
        }
        "snappy" | "x-snappy-framed" => unsnap_any(&body, max, room),
        other => Err(Refusal::new(
            Reason::Unsupported,
            format!("content encoding {other:?} is not supported (gzip, zstd, snappy, deflate, zlib and lz4 are)"),
        )),
    }
}

/// How a stream of snappy frames begins.
const SNAPPY_FRAMES: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// Snappy, in blocks or frames: collectors send the one or the other under the same name, by their age.
pub fn unsnap_any(body: &[u8], max: u64, room: &mut Room) -> Result<Bytes, Refusal> {
    if body.starts_with(SNAPPY_FRAMES) {
        return bounded(snap::read::FrameDecoder::new(body), "snappy in frames", max, room);
    }
    room.grow(snappy_len(body, max)?)?;
    unsnap(body, max)
}

/// 8 MiB, as the zstd command line takes without being told more.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;

fn bounded(mut r: impl Read, what: &str, max: u64, room: &mut Room) -> Result<Bytes, Refusal> {
    let mut out = Vec::new();
    loop {
        let before = out.len();
        let step = (STEP as u64).min(max + 1 - before as u64);
        r.by_ref().take(step).read_to_end(&mut out).map_err(|e| Refusal::new(Reason::Invalid, format!("the body is not {what}: {e}")))?;
        if out.len() as u64 > max {
            return Err(too_large(max));
        }
        if out.len() == before {
            return Ok(out.into());
        }
        room.grow(out.len() - before)?;
    }
}

fn not_snappy(e: snap::Error) -> Refusal {
    Refusal::new(Reason::Invalid, format!("the body is not a snappy block: {e}"))
}

/// How long a snappy block says that it is, unpacked; refused if that is more than `max`.
pub fn snappy_len(body: &[u8], max: u64) -> Result<usize, Refusal> {
    let n = snap::raw::decompress_len(body).map_err(not_snappy)?;
    if n as u64 > max { Err(too_large(max)) } else { Ok(n) }
}

/// Snappy's block format.
pub fn unsnap(body: &[u8], max: u64) -> Result<Bytes, Refusal> {
    let len = snappy_len(body, max)?;
    let mut out = Unpacked::take(len);
    let n = snap::raw::Decoder::new().decompress(body, &mut out.buf[..len]).map_err(not_snappy)?;
    out.len = n;
    Ok(Bytes::from_owner(out))
}

/// Buffers kept for the next body, and how large one may be: fresh memory costs zeroing it and a page fault every 4 KiB,
/// more than unpacking does.
const KEPT: usize = 4;
const KEPT_BYTES: usize = 1 << 20;
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// An unpacked body; its buffer goes back when the last reader has dropped it.
struct Unpacked {
    buf: Vec<u8>,
    len: usize,
}

impl Unpacked {
    fn take(len: usize) -> Self {
        let mut buf = SPARE.lock().pop().unwrap_or_default();
        if buf.len() < len {
            buf.resize(len, 0);
        }
        Unpacked { buf, len }
    }
}

impl AsRef<[u8]> for Unpacked {
    fn as_ref(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let mut spare = SPARE.lock();
        if self.buf.len() <= KEPT_BYTES && spare.len() < KEPT {
            spare.push(std::mem::take(&mut self.buf));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_has_the_memory_that_was_announced() {
        for len in [0, 1, 1000, STEP - 1, STEP + 1, 5 * STEP + 17, 8 * STEP] {
            let pieces: Vec<Bytes> = vec![7u8; len].chunks(9_000).map(Bytes::copy_from_slice).collect();
            let mut out = Vec::new();
            let mut moves = 0;
            for p in &pieces {
                let before = out.capacity();
                make_room(&mut out, p.len(), len);
                moves += usize::from(before != out.capacity());
                out.extend_from_slice(p);
            }
            assert_eq!((out.len(), out.capacity()), (len, len));
            assert!(moves <= 3, "{len}: {moves}");
            assert_eq!(read(Body::from(vec![7u8; len]), len as u64).await.unwrap().len(), len);
        }
        // Who announces nothing pays by doubling.
        let mut out = Vec::new();
        for _ in 0..1_000 {
            make_room(&mut out, 1_000, 0);
            out.resize(out.len() + 1_000, 0);
        }
        assert_eq!(out.capacity(), 1_024_000);
        // What is announced and does not come costs a step.
        let mut out = Vec::new();
        make_room(&mut out, 1, 1 << 30);
        assert_eq!(out.capacity(), STEP);
    }

    #[test]
    fn a_buffer_used_again_shows_nothing_of_the_body_before() {
        let pack = |b: &[u8]| snap::raw::Encoder::new().compress_vec(b).unwrap();
        for body in [vec![7u8; 5000], vec![1], Vec::new(), vec![9; 70_000]] {
            let packed = pack(&body);
            assert_eq!(unsnap(&packed, 1 << 20).unwrap(), body);
            // One that lies about its length leaves what it had begun in the buffer.
            let mut broken = packed.clone();
            broken.truncate(packed.len() - packed.len() / 2);
            assert!(body.is_empty() || unsnap(&broken, 1 << 20).is_err());
            assert_eq!(unsnap(&pack(b"abc"), 1 << 20).unwrap(), &b"abc"[..]);
        }
        let large = vec![3; KEPT_BYTES + 1];
        drop(unsnap(&pack(&large), 1 << 24).unwrap());
        assert!(SPARE.lock().iter().all(|b| b.len() <= KEPT_BYTES));
    }
}
