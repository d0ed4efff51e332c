//! gRPC messages packed by snappy, which collectors can be told to send and tonic does not know.

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{BufMut, Bytes, BytesMut};

use crate::app::Room;
use crate::body;
use crate::refusal::{Reason, Refusal};

/// What precedes a message: whether it is packed, and its length.
const PREFIX: usize = 5;

/// Whether the request's messages are packed by snappy.
pub fn is_named(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|v| v.as_bytes() == b"snappy")
}

/// The body of a call with one message, which is no longer packed.
pub async fn unpack(body: Body, max: u64, mut room: Room) -> Result<Body, Refusal> {
    let framed = body::read_into(&mut room, body, max + PREFIX as u64).await?;
    let message = match framed.split_at_checked(PREFIX) {
        Some((&[packed @ (0 | 1), a, b, c, d], rest)) if u32::from_be_bytes([a, b, c, d]) as usize == rest.len() => match packed {
            0 => framed.slice(PREFIX..),
            _ => body::unsnap_any(rest, max, &mut room)?,
        },
        _ => return Err(Refusal::new(Reason::Invalid, "the body is not one gRPC message")),
    };
    // A limit beyond 4 GiB is none that gRPC could say.
    let length = u32::try_from(message.len()).map_err(|_| body::too_large(u32::MAX.into()))?;
    let mut prefix = BytesMut::with_capacity(PREFIX);
    prefix.put_u8(0);
    prefix.put_u32(length);
    let parts = [Ok::<Bytes, std::convert::Infallible>(prefix.freeze()), Ok(message)];
    Ok(Body::from_stream(futures_util::stream::iter(parts)))
}
