//! OTLP trace protobuf: a decoder that borrows, an encoder, and the JSON form. No generated code: the fast path
//! reads a request without building a tree of it.

mod decode;
mod encode;
mod raw;

pub use crate::codec::protobuf::WireError;
pub use decode::{Groups, decode_spans};
pub use encode::{encode_attributes, encode_request, encode_span, encode_trace};
pub use raw::{
    KeyValues, MAX_VALUE_DEPTH, RawEvent, RawLink, RawResource, RawScope, RawSpan, RawValue, array_values, attributes, events, is_root,
    links, owned_attributes, text,
};

/// The error of bytes that were whole when they were taken: they have been damaged since.
pub(super) fn wire(e: WireError) -> crate::error::Error {
    crate::error::Error::corrupt(e.to_string())
}

#[cfg(test)]
mod tests;
