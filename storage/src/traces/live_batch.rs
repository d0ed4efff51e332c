//! Live spans as a batch: columns are read from the requests as they came, and only those that are asked for.

use std::sync::Arc;

use foldhash::HashMap;

use super::live::{LiveBody, Owner};
use super::otlp::{KeyValues, RawSpan, RawValue, WireError, attributes, events, is_root, links, text};
use crate::error::{Error, Result};
use crate::model::TraceId;
use crate::read::{AttributeScope, Column, Field, SpanBatch, SpanIds, Value, hex};

/// A live span: its trace, its start, and where it lies.
pub(super) type LiveRef = (u128, u64, u32, u32);

/// Spans whose bytes are fetched together, since they lie all over memory.
const WARMED: usize = 16;

struct Row<'a> {
    raw: RawSpan<'a>,
    /// Number of its request.
    body: u32,
    /// Index in it.
    span: u32,
}

/// Spans of traces that lie among the live ones alone.
pub(super) struct LiveBatch<'a> {
    bodies: &'a [Arc<LiveBody>],
    traces: Vec<TraceId>,
    offsets: Vec<u32>,
    rows: Vec<Row<'a>>,
}

type Wire<T> = std::result::Result<T, WireError>;

fn wire(e: WireError) -> Error {
    Error::corrupt(e.to_string())
}

impl<'a> LiveBatch<'a> {
    /// Of `refs`, which are sorted.
    pub fn new(bodies: &'a [Arc<LiveBody>], refs: &[LiveRef]) -> Result<Self> {
        let mut b = LiveBatch { bodies, traces: Vec::new(), offsets: vec![0], rows: Vec::with_capacity(refs.len()) };
        let span_of = |(_, _, body, i): &LiveRef| {
            let body = &bodies[*body as usize];
            (&**body, &body.spans[*i as usize])
        };
        let mut ahead = refs.chunks(WARMED);
        for (n, r) in refs.iter().enumerate() {
            if n % WARMED == 0 {
                let lines = ahead.next().unwrap_or_default().iter().map(span_of).fold(0, |x, (body, span)| x ^ body.warm(span));
                std::hint::black_box(lines);
            }
            if n > 0 && refs[n - 1].0 != r.0 {
                b.end_trace(refs[n - 1].0)?;
            }
            let (body, span) = span_of(r);
            b.rows.push(Row { raw: body.raw(span)?, body: r.2, span: r.3 });
        }
        if let Some(last) = refs.last() {
            b.end_trace(last.0)?;
        }
        Ok(b)
    }

    /// Brings the rows since the last trace into order: by start, id and content, identical ones once.
    fn end_trace(&mut self, id: u128) -> Result<()> {
        let from = self.offsets.last().map_or(0, |n| *n as usize);
        let rows = &mut self.rows[from..];
        if rows.windows(2).any(|w| w[0].raw.start == w[1].raw.start) {
            let key = |r: &Row<'a>| (r.raw.start, r.raw.span_id);
            rows.sort_by_key(key);
            if rows.windows(2).any(|w| key(&w[0]) == key(&w[1])) {
                self.by_content(from)?;
            }
        }
        self.traces.push(TraceId(id.to_be_bytes()));
        self.offsets.push(self.rows.len() as u32);
        Ok(())
    }

    fn by_content(&mut self, from: usize) -> Result<()> {
        let mut owner = Owner::default();
        let mut owned = |r: Row<'a>| {
            let body = &self.bodies[r.body as usize];
            Ok((owner.span(body, &body.spans[r.span as usize])?, r))
        };
        let mut spans = self.rows.drain(from..).map(&mut owned).collect::<Result<Vec<_>>>()?;
        spans.sort_by(|a, b| a.0.cmp(&b.0));
        spans.dedup_by(|a, b| a.0 == b.0);
        self.rows.extend(spans.into_iter().map(|s| s.1));
        Ok(())
    }

    /// A column of what resource or scope hold, looked at once for each of a request.
    fn of_groups(&self, of: impl Fn(&'a [u8], &'a [u8], &mut Dictionary<'a>) -> Wire<u32>) -> Wire<Dictionary<'a>> {
        let mut d = Dictionary::new(self.rows.len());
        let mut known: HashMap<(u32, u32), u32> = HashMap::default();
        for r in &self.rows {
            let body = &self.bodies[r.body as usize];
            let group = body.group_of(&body.spans[r.span as usize]);
            let i = match known.get(&(r.body, group)) {
                Some(i) => *i,
                None => {
                    let [resource, _, scope, _] = body.group_parts(group);
                    let i = of(resource, scope, &mut d)?;
                    known.insert((r.body, group), i);
                    i
                }
            };
            d.column.idx.push(i);
        }
        Ok(d)
    }

    fn each(&self, of: impl Fn(&RawSpan<'a>, &mut Dictionary<'a>) -> Wire<u32>) -> Wire<Dictionary<'a>> {
        let mut d = Dictionary::new(self.rows.len());
        for r in &self.rows {
            let i = of(&r.raw, &mut d)?;
            d.column.idx.push(i);
        }
        Ok(d)
    }

    fn read(&self, field: &Field) -> Wire<Dictionary<'a>> {
        let attribute = |buf: &'a [u8], number: u32, key: &str, d: &mut Dictionary<'a>| d.attribute(attributes(buf, number), key);
        match field {
            Field::Attribute(AttributeScope::Span, key) => self.each(|s, d| d.attribute(s.attributes(), key)),
            Field::Attribute(AttributeScope::Resource, key) => self.of_groups(|resource, _, d| attribute(resource, 1, key, d)),
            Field::Attribute(AttributeScope::Instrumentation, key) => self.of_groups(|_, scope, d| attribute(scope, 3, key, d)),
            Field::Attribute(AttributeScope::Event, key) => {
                self.each(|s, d| d.list(events(s.buf).map(|e| owned_value(attributes(e?.buf, 3), key))))
            }
            Field::Attribute(AttributeScope::Link, key) => {
                self.each(|s, d| d.list(links(s.buf).map(|l| owned_value(attributes(l?.buf, 4), key))))
            }
            Field::Name => self.each(|s, d| d.text(s.name)),
            Field::Kind => self.each(|s, d| Ok(d.value(Value::Int(s.kind.into())))),
            Field::Status => self.each(|s, d| Ok(d.value(Value::Int(s.status_code.into())))),
            Field::StatusMessage => self.each(|s, d| d.text(s.status_message)),
            Field::SpanId => self.each(|s, d| Ok(d.value(hex(s.span_id)))),
            Field::ParentId => self.each(|s, d| Ok(if is_root(s.parent_span_id) { 0 } else { d.value(hex(s.parent_span_id)) })),
            Field::EventName => self.each(|s, d| d.list(events(s.buf).map(|e| Ok(Value::String(e?.name.into()))))),
            Field::EventTimeSinceStart => {
                self.each(|s, d| d.list(events(s.buf).map(|e| Ok(Value::Int(e?.time.wrapping_sub(s.start) as i64)))))
            }
            Field::LinkTraceId => self.each(|s, d| d.list(links(s.buf).map(|l| Ok(hex(l?.trace_id))))),
            Field::LinkSpanId => self.each(|s, d| d.list(links(s.buf).map(|l| Ok(hex(l?.span_id))))),
            Field::ScopeName => self.of_groups(|_, scope, d| d.text(scope_text(scope)?.0.as_bytes())),
            Field::ScopeVersion => self.of_groups(|_, scope, d| d.text(scope_text(scope)?.1.as_bytes())),
        }
    }
}

fn scope_text(buf: &[u8]) -> Wire<(&str, &str)> {
    super::otlp::RawScope { buf, schema_url: "" }.name_and_version()
}

fn owned_value(all: KeyValues<'_>, key: &str) -> Wire<Value> {
    all.value_of(key.as_bytes())?.map_or(Ok(Value::Nil), |v| Ok(Value::from(&v.owned(0)?)))
}

/// A column in the making. Each text stands in it once.
struct Dictionary<'a> {
    column: Column,
    texts: HashMap<&'a [u8], u32>,
}

impl<'a> Dictionary<'a> {
    fn new(rows: usize) -> Self {
        let column = Column { values: vec![Value::Nil], idx: Vec::with_capacity(rows) };
        Dictionary { column, texts: HashMap::default() }
    }

    fn text(&mut self, s: &'a [u8]) -> Wire<u32> {
        if let Some(i) = self.texts.get(s) {
            return Ok(*i);
        }
        self.column.values.push(Value::String(text(s)?.into()));
        let i = self.column.values.len() as u32 - 1;
        self.texts.insert(s, i);
        Ok(i)
    }

    /// Of others neighbours are often alike.
    fn value(&mut self, v: Value) -> u32 {
        if v == Value::Nil {
            return 0;
        }
        if !self.column.values.last().is_some_and(|last| last.is(&v)) {
            self.column.values.push(v);
        }
        self.column.values.len() as u32 - 1
    }

    fn attribute(&mut self, all: KeyValues<'a>, key: &str) -> Wire<u32> {
        match all.value_of(key.as_bytes())? {
            None => Ok(0),
            Some(RawValue::Str(s)) => self.text(s),
            Some(v) => Ok(self.value(Value::from(&v.owned(0)?))),
        }
    }

    fn list(&mut self, values: impl Iterator<Item = Wire<Value>>) -> Wire<u32> {
        let values = values.filter(|v| *v != Ok(Value::Nil)).collect::<Wire<Vec<_>>>()?;
        Ok(if values.is_empty() { 0 } else { self.value(Value::Array(values.into())) })
    }
}

impl SpanBatch for LiveBatch<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn traces(&self) -> &[u32] {
        &self.offsets
    }
    fn trace_id(&self, trace: usize) -> TraceId {
        self.traces[trace]
    }
    fn excluded(&self) -> Option<&[bool]> {
        None
    }
    fn starts(&self) -> Result<Arc<Vec<u64>>> {
        Ok(Arc::new(self.rows.iter().map(|r| r.raw.start).collect()))
    }
    fn durations(&self) -> Result<Arc<Vec<u64>>> {
        Ok(Arc::new(self.rows.iter().map(|r| r.raw.end.saturating_sub(r.raw.start)).collect()))
    }
    fn ids(&self) -> Result<Arc<SpanIds>> {
        let id = |b: &[u8]| b.try_into().map(u64::from_be_bytes).map_err(|_| Error::corrupt("a span id of wrong length"));
        let parent = |b: &[u8]| if is_root(b) { Ok(0) } else { id(b) };
        Ok(Arc::new(SpanIds {
            span: self.rows.iter().map(|r| id(r.raw.span_id)).collect::<Result<_>>()?,
            parent: self.rows.iter().map(|r| parent(r.raw.parent_span_id)).collect::<Result<_>>()?,
        }))
    }
    fn column(&self, field: &Field) -> Result<Arc<Column>> {
        Ok(Arc::new(self.read(field).map_err(wire)?.column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Span, Trace};
    use crate::read::RowBatch;
    use crate::traces::block::tests::span as any_span;
    use crate::traces::otlp::encode_request;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn fields() -> Vec<Field> {
        use AttributeScope::*;
        use Field::*;
        let scopes = [Span, Resource, Event, Link, Instrumentation];
        let keys = ["", "k0", "k1", "k2", "k5", "K1", "http.route", "service.name", "none"];
        let attributes = scopes.iter().flat_map(|s| keys.map(|k| Attribute(*s, k.into())));
        let others = [
            Name,
            Kind,
            Status,
            StatusMessage,
            SpanId,
            ParentId,
            EventName,
            EventTimeSinceStart,
            LinkTraceId,
            LinkSpanId,
            ScopeName,
            ScopeVersion,
        ];
        attributes.chain(others).collect()
    }

    proptest! {
        /// What columns tell of spans as they came is what spans with their own memory tell.
        #[test]
        fn columns_are_those_of_owned_spans(spans in proptest::collection::vec((any_span(), 0usize..4, any::<bool>()), 1..60)) {
            let mut requests: Vec<Vec<Span>> = vec![Vec::new(); 5];
            for (s, request, twice) in &spans {
                // Many start together.
                let s = Span { start_unix_nano: s.start_unix_nano % 3, ..s.clone() };
                if *twice {
                    requests[4].push(s.clone());
                }
                requests[*request].push(s);
            }
            let bodies: Vec<Arc<LiveBody>> =
                requests.iter().map(|r| Arc::new(LiveBody::replay(encode_request(r).into(), &[]).unwrap())).collect();
            let mut refs: Vec<LiveRef> = Vec::new();
            for (b, body) in bodies.iter().enumerate() {
                let of = |(i, s): (usize, &super::super::live::LiveSpan)| (u128::from_be_bytes(s.trace_id), s.start, b as u32, i as u32);
                refs.extend(body.spans.iter().enumerate().map(of));
            }
            refs.sort_unstable();
            let live = LiveBatch::new(&bodies, &refs).unwrap();
            let mut traces: BTreeMap<TraceId, Vec<Span>> = BTreeMap::new();
            requests.iter().flatten().for_each(|s| traces.entry(s.trace_id).or_default().push(s.clone()));
            let owned = RowBatch::new(traces.into_iter().map(|(id, spans)| Trace::new(id, spans)).collect());
            prop_assert_eq!(live.traces(), owned.traces());
            (0..live.traces().len() - 1).for_each(|t| assert_eq!(live.trace_id(t), owned.trace_id(t)));
            prop_assert_eq!(live.starts().unwrap(), owned.starts().unwrap());
            prop_assert_eq!(live.durations().unwrap(), owned.durations().unwrap());
            prop_assert_eq!(live.ids().unwrap(), owned.ids().unwrap());
            for f in fields() {
                let (a, b) = (live.column(&f).unwrap(), owned.column(&f).unwrap());
                for row in 0..live.len() {
                    prop_assert_eq!(format!("{:?}", a.get(row)), format!("{:?}", b.get(row)), "{:?} of row {}", f, row);
                }
            }
        }
    }
}
