//! Walks an `ExportTraceServiceRequest` (or `TracesData`: the same fields) span by span, borrowing.

use super::raw::{RawResource, RawScope, RawSpan};
use crate::codec::protobuf::{Field, Fields, WireError};

/// Where a group's resource and scope lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Groups<'a> {
    /// What produced the spans.
    pub resource: RawResource<'a>,
    /// The library that did.
    pub scope: RawScope<'a>,
}

fn utf8(b: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(b).map_err(|_| WireError { what: "a schema URL that is not UTF-8", at: 0 })
}

/// Calls `group` once for each resource and scope, then `span` for each of its spans. A span that can't be decoded
/// makes the whole request undecodable, as it does for other receivers of protobuf.
pub fn decode_spans<'a, S>(
    request: &'a [u8],
    state: &mut S,
    mut group: impl FnMut(&mut S, Groups<'a>) -> Result<(), WireError>,
    mut span: impl FnMut(&mut S, RawSpan<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut top = Fields::new(request);
    while let Some(f) = top.next()? {
        let (1, Field::Bytes(resource_spans)) = f else { continue };
        let mut resource = RawResource::default();
        // The schema URL stands behind the spans: a first walk finds what holds for all of them.
        let mut c = Fields::new(resource_spans);
        while let Some(f) = c.next()? {
            match f {
                (1, Field::Bytes(b)) => resource.buf = b,
                (3, Field::Bytes(b)) => resource.schema_url = utf8(b)?,
                _ => {}
            }
        }
        let mut c = Fields::new(resource_spans);
        while let Some(f) = c.next()? {
            let (2, Field::Bytes(scope_spans)) = f else { continue };
            let mut scope = RawScope::default();
            let mut c = Fields::new(scope_spans);
            while let Some(f) = c.next()? {
                match f {
                    (1, Field::Bytes(b)) => scope.buf = b,
                    (3, Field::Bytes(b)) => scope.schema_url = utf8(b)?,
                    _ => {}
                }
            }
            group(state, Groups { resource, scope })?;
            let mut c = Fields::new(scope_spans);
            while let Some(f) = c.next()? {
                if let (2, Field::Bytes(b)) = f {
                    span(state, RawSpan::read(b)?)?;
                }
            }
        }
    }
    Ok(())
}
