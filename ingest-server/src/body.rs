//! Request bodies: read to a bound, unpacked to a bound.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::app::Room;
use crate::refusal::{Reason, Refusal};

/// Unpacked bytes are asked room for in steps of this.
const STEP: usize = 256 << 10;

/// Reads a whole body of at most `max` bytes.
pub async fn read(body: Body, max: u64) -> Result<Bytes, Refusal> {
    collect(body, max, DEFAULT_PATIENCE, &mut |_| Ok(())).await
}

/// As [`read`]; the bytes count as in flight while they come.
pub async fn read_into(room: &mut Room, body: Body, max: u64) -> Result<Bytes, Refusal> {
    collect(body, max, room.read_timeout(), &mut |n| room.grow(n)).await
}

/// Where no configuration is at hand.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// What is said to who sends too slowly.
pub fn too_slow() -> Refusal {
    Refusal::new(Reason::Invalid, "the next part of the request did not come in time (server.read_timeout)")
}

type Grow<'g> = &'g mut (dyn FnMut(usize) -> Result<(), Refusal> + Send);

async fn collect(mut body: Body, max: u64, patience: Duration, grow: Grow<'_>) -> Result<Bytes, Refusal> {
    let mut out = BytesMut::new();
    while let Some(frame) = tokio::time::timeout(patience, body.frame()).await.map_err(|_| too_slow())? {
        let frame = frame.map_err(|e| Refusal::new(Reason::Invalid, format!("reading the request: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if (out.len() + data.len()) as u64 > max {
                return Err(too_large(max));
            }
            grow(data.len())?;
            out.extend_from_slice(&data);
        }
    }
    Ok(out.freeze())
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
    let encoding = headers.get("content-encoding").and_then(|v| v.to_str().ok()).unwrap_or("identity");
    match encoding {
        "" | "identity" => Ok(body),
        "gzip" => bounded(flate2::read::MultiGzDecoder::new(&body[..]), "gzip", max, room),
        "deflate" => bounded(flate2::read::ZlibDecoder::new(&body[..]), "deflate", max, room),
        "zstd" => {
            let d = zstd::stream::read::Decoder::new(&body[..]).and_then(|mut d| {
                // The window is memory too.
                d.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Ok(d)
            });
            bounded(d.map_err(|e| Refusal::new(Reason::Invalid, format!("zstd: {e}")))?, "zstd", max, room)
        }
        "snappy" => {
            room.grow(snappy_len(&body, max)?)?;
            unsnap(&body, max)
        }
        other => {
            Err(Refusal::new(Reason::Unsupported, format!("content encoding {other:?} is not supported (gzip, zstd, snappy, deflate are)")))
        }
    }
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
    snappy_len(body, max)?;
    Ok(snap::raw::Decoder::new().decompress_vec(body).map_err(not_snappy)?.into())
}
