//! Spans that are not in a block yet: the requests as they came, and an index over them.
//!
//! A live span costs the bytes it was sent in, 40 bytes of index, and its share of two tables (by trace, and by content
//! to tell what is sent twice).

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::limits::SpanLimits;
use super::otlp::{Groups, RawResource, RawScope, RawSpan, WireError, decode_spans};
use crate::clock::Times;
use crate::error::{Error, Result};
use crate::index::widen;
use crate::model::{Resource, Scope, Span, TraceId};

const HASHER: FixedState = FixedState::with_seed(0x9e37_79b9_7f4a_7c15);

/// Different reasons told of one request.
const MAX_REASONS: usize = 16;

/// Bytes of a request.
#[derive(Clone, Copy, Default)]
struct Slice {
    offset: u32,
    len: u32,
}

impl Slice {
    /// Where `part`, borrowed from `whole`, lies in it.
    fn of(whole: &[u8], part: &[u8]) -> Slice {
        let offset = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        // Empty defaults are not borrowed from the request.
        if part.is_empty() || offset > whole.len() { Slice::default() } else { Slice { offset: offset as u32, len: part.len() as u32 } }
    }
    fn get(self, whole: &[u8]) -> &[u8] {
        let start = self.offset as usize;
        whole.get(start..start + self.len as usize).unwrap_or_default()
    }
}

struct LiveGroup {
    resource: Slice,
    resource_url: Slice,
    scope: Slice,
    scope_url: Slice,
    hash: u64,
}

/// Where a live span lies and what it is found by.
pub struct LiveSpan {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Its start, Unix nanoseconds.
    pub start: u64,
    at: Slice,
    group: u32,
}

/// An accepted request.
pub struct LiveBody {
    bytes: Bytes,
    groups: Box<[LiveGroup]>,
    /// Accepted spans in the order sent.
    pub spans: Box<[LiveSpan]>,
    /// Hashes of their content, until they are applied.
    hashes: Vec<u32>,
}

/// A request that was read and checked.
pub struct Parsed {
    /// The accepted spans.
    pub body: LiveBody,
    /// Ordinals of the refused ones, rising.
    pub refused: Vec<u32>,
    /// Why, each reason once, with the number of spans it met.
    pub reasons: Vec<(String, u64)>,
}

struct Parsing<'a> {
    whole: &'a [u8],
    groups: Vec<LiveGroup>,
    spans: Vec<LiveSpan>,
    hashes: Vec<u32>,
    group_refused: Option<String>,
    ordinal: u32,
    refused: Vec<u32>,
    reasons: Vec<(String, u64)>,
}

impl<'a> Parsing<'a> {
    fn group(&mut self, g: Groups<'a>) {
        let mut h = HASHER.build_hasher();
        for part in [g.resource.buf, g.resource.schema_url.as_bytes(), g.scope.buf, g.scope.schema_url.as_bytes()] {
            h.write_usize(part.len());
            h.write(part);
        }
        self.groups.push(LiveGroup {
            resource: Slice::of(self.whole, g.resource.buf),
            resource_url: Slice::of(self.whole, g.resource.schema_url.as_bytes()),
            scope: Slice::of(self.whole, g.scope.buf),
            scope_url: Slice::of(self.whole, g.scope.schema_url.as_bytes()),
            hash: h.finish(),
        });
    }

    fn refuse(&mut self, reason: String) {
        self.refused.push(self.ordinal);
        // Of a request with a thousand different faults the first are told.
        match self.reasons.iter().position(|r| r.0 == reason) {
            Some(i) => self.reasons[i].1 += 1,
            None if self.reasons.len() < MAX_REASONS => self.reasons.push((reason, 1)),
            None => self.reasons[MAX_REASONS - 1].1 += 1,
        }
    }

    fn accept(&mut self, s: &RawSpan<'a>) -> std::result::Result<(), WireError> {
        let trace_id = s.trace_id.try_into().map_err(|_| WireError { what: "a trace id of wrong length", at: 0 })?;
        let group = self.groups.len() as u32 - 1;
        let mut h = HASHER.build_hasher();
        h.write_u64(self.groups[group as usize].hash);
        h.write(s.buf);
        self.hashes.push(h.finish() as u32);
        self.spans.push(LiveSpan { trace_id, start: s.start, at: Slice::of(self.whole, s.buf), group });
        Ok(())
    }
}

fn invalid(e: WireError) -> Error {
    Error::invalid(e.to_string())
}

impl LiveBody {
    /// Reads a request and decides which of its spans are stored.
    pub fn parse(bytes: Bytes, limits: &SpanLimits, times: Times) -> Result<Parsed> {
        Self::read(
            bytes,
            |p, g| {
                p.group_refused = limits.check_groups(g)?;
                Ok(())
            },
            |p, s| {
                Ok(match &p.group_refused {
                    Some(r) => Some(r.clone()),
                    None => limits.check_span(s, times)?,
                })
            },
        )
    }

    /// Reads a request whose spans were decided on before.
    pub fn replay(bytes: Bytes, refused: &[u32]) -> Result<LiveBody> {
        let mut next = refused.iter().peekable();
        let parsed = Self::read(bytes, |_, _| Ok(()), |p, _| Ok(next.next_if(|n| **n == p.ordinal).map(|_| String::new())))?;
        Ok(parsed.body)
    }

    fn read(
        bytes: Bytes,
        mut group: impl FnMut(&mut Parsing<'_>, &Groups<'_>) -> std::result::Result<(), WireError>,
        mut decide: impl FnMut(&mut Parsing<'_>, &RawSpan<'_>) -> std::result::Result<Option<String>, WireError>,
    ) -> Result<Parsed> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Error::invalid("a request of more than 4 GiB"));
        }
        // A span is seldom shorter.
        let likely = bytes.len() / 256;
        let mut p = Parsing {
            whole: &bytes,
            groups: Vec::new(),
            spans: Vec::with_capacity(likely),
            hashes: Vec::with_capacity(likely),
            group_refused: None,
            ordinal: 0,
            refused: Vec::new(),
            reasons: Vec::new(),
        };
        let done = decode_spans(
            &bytes,
            &mut p,
            |p, g| {
                p.group(g);
                group(p, &g)
            },
            |p, s| {
                match decide(p, &s)? {
                    Some(reason) => p.refuse(reason),
                    None => p.accept(&s)?,
                }
                p.ordinal += 1;
                Ok(())
            },
        );
        done.map_err(invalid)?;
        let Parsing { groups, spans, hashes, refused, reasons, .. } = p;
        Ok(Parsed { body: LiveBody { bytes, groups: groups.into(), spans: spans.into(), hashes }, refused, reasons })
    }

    /// Bytes it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.groups.len() * size_of::<LiveGroup>() + self.spans.len() * size_of::<LiveSpan>() + size_of::<Self>()
    }

    /// The resource and scope of a span, and a number that is theirs alone in this request.
    pub fn groups(&self, span: &LiveSpan) -> (Groups<'_>, u32) {
        let g = &self.groups[span.group as usize];
        let url = |s: Slice| std::str::from_utf8(s.get(&self.bytes)).unwrap_or_default();
        let resource = RawResource { buf: g.resource.get(&self.bytes), schema_url: url(g.resource_url) };
        let scope = RawScope { buf: g.scope.get(&self.bytes), schema_url: url(g.scope_url) };
        (Groups { resource, scope }, span.group)
    }

    /// Reads a byte of each cache line of a span and of its group. Such reads don't wait for one another, while the walk
    /// of its fields would wait for each.
    #[inline]
    pub fn warm(&self, span: &LiveSpan) -> u8 {
        let lines = span.at.get(&self.bytes).iter().step_by(64).fold(0, |x, b| x ^ b);
        lines ^ self.groups[span.group as usize].resource.len as u8
    }

    /// The span, borrowed.
    pub fn raw(&self, span: &LiveSpan) -> Result<RawSpan<'_>> {
        RawSpan::read(span.at.get(&self.bytes)).map_err(invalid)
    }

    /// The number of a span's resource and scope in this request.
    pub fn group_of(&self, span: &LiveSpan) -> u32 {
        span.group
    }

    /// The messages of a resource and a scope, each followed by its schema URL.
    pub fn group_parts(&self, group: u32) -> [&[u8]; 4] {
        let g = &self.groups[group as usize];
        [g.resource, g.resource_url, g.scope, g.scope_url].map(|s| s.get(&self.bytes))
    }

    fn same(&self, a: &LiveSpan, other: &LiveBody, b: &LiveSpan) -> bool {
        a.at.get(&self.bytes) == b.at.get(&other.bytes) && self.group_parts(a.group) == other.group_parts(b.group)
    }

    /// For each group of this request the number that `numbers` gives its content.
    pub fn number_groups<'a>(&'a self, numbers: &mut GroupNumbers<'a>) -> Vec<u32> {
        let of = |i: usize| {
            let (hash, parts) = (self.groups[i].hash, self.group_parts(i as u32));
            if let Some(n) = numbers.table.find(hash, |n| numbers.parts[*n as usize] == parts) {
                return *n;
            }
            let n = numbers.parts.len() as u32;
            numbers.parts.push(parts);
            numbers.hashes.push(hash);
            numbers.table.insert_unique(hash, n, |n| numbers.hashes[*n as usize]);
            n
        };
        (0..self.groups.len()).map(of).collect()
    }
}

/// Numbers of resources and scopes by content, over many requests.
#[derive(Default)]
pub struct GroupNumbers<'a> {
    table: HashTable<u32>,
    parts: Vec<[&'a [u8]; 4]>,
    hashes: Vec<u64>,
}

impl GroupNumbers<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }
}

/// Owned resources and scopes, shared by the spans of a request.
#[derive(Default)]
pub struct Owner {
    groups: HashMap<(usize, u32), (Arc<Resource>, Arc<Scope>)>,
}

impl Owner {
    /// A live span with its own memory.
    pub fn span(&mut self, body: &LiveBody, span: &LiveSpan) -> Result<Span> {
        let (g, number) = body.groups(span);
        let key = (std::ptr::from_ref(body) as usize, number);
        let (resource, scope) = match self.groups.get(&key) {
            Some(g) => g.clone(),
            None => {
                let owned = (Arc::new(g.resource.owned().map_err(invalid)?), Arc::new(g.scope.owned().map_err(invalid)?));
                self.groups.insert(key, owned.clone());
                owned
            }
        };
        body.raw(span)?.owned(resource, scope).map_err(invalid)
    }
}

/// Number of a body, and of a span in it.
type At = (u32, u32);

/// A span in the table by content. The hash beside it: it is compared, and the table grown, without reading spans far apart.
type Known = (At, u32);

/// All live spans.
#[derive(Default)]
pub struct Live {
    bodies: Vec<Arc<LiveBody>>,
    by_trace: HashMap<[u8; 16], Vec<At>>,
    by_content: HashTable<Known>,
    spans: u64,
    bytes: usize,
    /// When the oldest was applied, Unix milliseconds.
    pub oldest_ms: Option<i64>,
}

impl Live {
    /// Number of spans.
    pub fn spans(&self) -> u64 {
        self.spans
    }
    /// Bytes held in memory, tables included.
    pub fn memory_bytes(&self) -> usize {
        let lists = self.spans as usize * 12 + self.by_trace.capacity() * (16 + size_of::<Vec<At>>() + 1);
        self.bytes + lists + self.by_content.capacity() * 15
    }
    /// Accepted requests.
    pub fn bodies(&self) -> &[Arc<LiveBody>] {
        &self.bodies
    }
    /// Adds a request; returns how many of its spans were there already.
    pub fn apply(&mut self, mut body: LiveBody, now_ms: i64) -> u64 {
        let Live { bodies, by_content, .. } = self;
        let (sent, hashes) = (std::mem::take(&mut body.spans).into_vec(), std::mem::take(&mut body.hashes));
        let (before, number) = (sent.len(), bodies.len() as u32);
        let mut kept: Vec<LiveSpan> = Vec::with_capacity(before);
        for (span, hash) in sent.into_iter().zip(hashes) {
            let known = by_content.find(widen(hash), |(at, h)| {
                *h == hash
                    && match at.0 == number {
                        true => body.same(&span, &body, &kept[at.1 as usize]),
                        false => body.same(&span, &bodies[at.0 as usize], &bodies[at.0 as usize].spans[at.1 as usize]),
                    }
            });
            if known.is_none() {
                by_content.insert_unique(widen(hash), ((number, kept.len() as u32), hash), |(_, h)| widen(*h));
                kept.push(span);
            }
        }
        body.spans = kept.into();
        let dropped = (before - body.spans.len()) as u64;
        if body.spans.is_empty() {
            return dropped;
        }
        for (i, s) in body.spans.iter().enumerate() {
            self.by_trace.entry(s.trace_id).or_default().push((number, i as u32));
        }
        self.spans += body.spans.len() as u64;
        self.bytes += body.memory_bytes();
        self.oldest_ms.get_or_insert(now_ms);
        self.bodies.push(Arc::new(body));
        dropped
    }

    /// Reads what [`Live::places`] of these traces will read, so that the reads of one don't wait for those of another.
    pub fn warm(&self, traces: &[u128]) -> u64 {
        let lists = || traces.iter().filter_map(|id| self.by_trace.get(&id.to_be_bytes()));
        let first = lists().filter_map(|at| at.first()).fold(0, |x, at| x ^ u64::from(at.1));
        lists().flatten().fold(first, |x, (b, s)| x ^ self.bodies[*b as usize].spans[*s as usize].start)
    }

    /// The spans of a trace: the number of the request that holds each, that request, and where it lies there.
    pub fn places(&self, id: TraceId) -> impl Iterator<Item = (u32, &LiveBody, &LiveSpan)> {
        let at = self.by_trace.get(&id.0).map(Vec::as_slice).unwrap_or_default();
        at.iter().map(|(b, s)| {
            let body = &self.bodies[*b as usize];
            (*b, &**body, &body.spans[*s as usize])
        })
    }

    /// The spans of a trace.
    pub fn trace(&self, id: TraceId) -> Vec<(Arc<LiveBody>, u32)> {
        let at = self.by_trace.get(&id.0).map(Vec::as_slice).unwrap_or_default();
        at.iter().map(|(b, s)| (self.bodies[*b as usize].clone(), *s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SpanId;
    use crate::traces::otlp::encode_request;

    fn span(t: u8, s: u8) -> Span {
        Span { trace_id: TraceId([t; 16]), span_id: SpanId([s; 8]), start_unix_nano: 5, name: format!("{s}"), ..Span::default() }
    }

    fn body(spans: &[Span]) -> LiveBody {
        LiveBody::parse(encode_request(spans).into(), &SpanLimits::default(), 0.into()).unwrap().body
    }

    #[test]
    fn what_is_sent_twice_is_kept_once() {
        let mut live = Live::default();
        assert_eq!(live.apply(body(&[span(1, 1), span(1, 2)]), 7), 0);
        assert_eq!(live.apply(body(&[span(1, 2), span(1, 3), span(1, 3), span(2, 1)]), 8), 2);
        assert_eq!(live.apply(body(&[span(1, 3), span(2, 1)]), 9), 2);
        assert_eq!((live.spans(), live.oldest_ms), (4, Some(7)));
        let names: Vec<Vec<u8>> =
            live.trace(TraceId([1; 16])).iter().map(|(b, i)| b.raw(&b.spans[*i as usize]).unwrap().name.to_owned()).collect();
        assert_eq!(names, [b"1", b"2", b"3"]);
        let mut other = span(1, 1);
        other.name = "else".into();
        assert_eq!(live.apply(body(&[other]), 9), 0, "the same id with other content stays");
        assert_eq!(live.trace(TraceId([1; 16])).len(), 4);
    }

    #[test]
    fn wrong_spans_are_refused_alone_with_reasons() {
        let mut bad = span(1, 2);
        bad.attributes = vec![("k".into(), "x".repeat((1 << 20) + 1).as_str().into())];
        let spans = [span(0, 1), span(1, 0), span(1, 1), bad, Span { start_unix_nano: 1 << 62, ..span(3, 3) }];
        let p = LiveBody::parse(encode_request(&spans).into(), &SpanLimits::default(), 0.into()).unwrap();
        assert_eq!((p.body.spans.len(), p.refused.clone()), (1, vec![0, 1, 3, 4]));
        let text = format!("{:?}", p.reasons);
        for part in ["trace id is all zeros", "span id is all zeros", "more than 1048576 bytes", "future"] {
            assert!(text.contains(part), "{text}");
        }
        let replayed = LiveBody::replay(p.body.bytes.clone(), &p.refused).unwrap();
        assert_eq!(replayed.spans.len(), 1);
        assert_eq!(replayed.raw(&replayed.spans[0]).unwrap().name, b"1");
    }

    #[test]
    fn a_live_span_costs_40_bytes_of_index() {
        assert_eq!(size_of::<LiveSpan>(), 40);
    }
}
