//! Request bodies: read to a bound, unpacked to a bound.

use std::io::Read;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::refusal::{Reason, Refusal};

/// Reads a whole body of at most `max` bytes.
pub async fn read(body: Body, max: u64) -> Result<Bytes, Refusal> {
    let mut body = body;
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::new(Reason::Invalid, format!("reading the request: {e}")))?;
        if let Ok(data) = frame.into_data() {
            if (out.len() + data.len()) as u64 > max {
                return Err(too_large(max));
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(out.freeze())
}

/// The refusal of a body that is too large.
pub fn too_large(max: u64) -> Refusal {
    Refusal::new(Reason::TooLarge, format!("the request is larger than {max} bytes (server.max_body): send smaller batches"))
}

/// Unpacks by `Content-Encoding`; the result has at most `max` bytes, whatever the body claims.
pub fn unpack(headers: &HeaderMap, body: Bytes, max: u64) -> Result<Bytes, Refusal> {
    let encoding = headers.get("content-encoding").and_then(|v| v.to_str().ok()).unwrap_or("identity");
    match encoding {
        "" | "identity" => Ok(body),
        "gzip" => bounded(flate2::read::MultiGzDecoder::new(&body[..]), "gzip", max),
        "deflate" => bounded(flate2::read::ZlibDecoder::new(&body[..]), "deflate", max),
        "zstd" => {
            let d = zstd::stream::read::Decoder::new(&body[..]).map_err(|e| Refusal::new(Reason::Invalid, format!("zstd: {e}")))?;
            bounded(d, "zstd", max)
        }
        "snappy" => unsnap(&body, max),
        other => {
            Err(Refusal::new(Reason::Unsupported, format!("content encoding {other:?} is not supported (gzip, zstd, snappy, deflate are)")))
        }
    }
}

fn bounded(r: impl Read, what: &str, max: u64) -> Result<Bytes, Refusal> {
    let mut out = Vec::new();
    r.take(max + 1).read_to_end(&mut out).map_err(|e| Refusal::new(Reason::Invalid, format!("the body is not {what}: {e}")))?;
    if out.len() as u64 > max {
        return Err(too_large(max));
    }
    Ok(out.into())
}

/// Snappy's block format.
pub fn unsnap(body: &[u8], max: u64) -> Result<Bytes, Refusal> {
    let bad = |e: snap::Error| Refusal::new(Reason::Invalid, format!("the body is not a snappy block: {e}"));
    let n = snap::raw::decompress_len(body).map_err(bad)?;
    if n as u64 > max {
        return Err(too_large(max));
    }
    Ok(snap::raw::Decoder::new().decompress_vec(body).map_err(bad)?.into())
}
