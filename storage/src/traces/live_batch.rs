//! Live spans as a batch: columns are read from the requests as they came, and only those that are asked for.

use std::cell::OnceCell;
use std::sync::Arc;

use foldhash::HashMap;

use super::live::{GroupNumbers, LiveBody, LiveSpan, Owner};
use super::otlp::{KeyValues, RawSpan, RawValue, WireError, attributes, events, is_root, links, text, wire};
use crate::error::{Error, Result};
use crate::model::TraceId;
use crate::read::{AttributeScope, Column, Field, SpanBatch, SpanIds, Value, hex};

/// A live span: its trace, its start, and where it lies.
pub(super) type LiveRef = (u128, u64, u32, u32);

/// Spans whose bytes are fetched together, since they lie all over memory.
const WARMED: usize = 16;

/// Where a span's number of events stands among its counts.
const EVENTS: usize = 1;
/// The same of its links.
const LINKS: usize = 2;

/// Numbers of the resources and scopes of live spans by content, so that each is looked at once.
pub(super) struct LiveGroups<'a> {
    bodies: &'a [Arc<LiveBody>],
    /// By request and number in it; and how many there are.
    numbers: OnceCell<(Vec<Vec<u32>>, usize)>,
}

impl<'a> LiveGroups<'a> {
    pub fn new(bodies: &'a [Arc<LiveBody>]) -> Self {
        LiveGroups { bodies, numbers: OnceCell::new() }
    }

    fn numbers(&self) -> &(Vec<Vec<u32>>, usize) {
        self.numbers.get_or_init(|| {
            let mut all = GroupNumbers::default();
            let of_bodies = self.bodies.iter().map(|b| b.number_groups(&mut all)).collect();
            (of_bodies, all.len())
        })
    }
}

/// Spans of traces that lie among the live ones alone.
pub(super) struct LiveBatch<'a> {
    groups: &'a LiveGroups<'a>,
    traces: Vec<TraceId>,
    offsets: Vec<u32>,
    rows: Vec<LiveRef>,
    /// The spans themselves, read when a column wants them.
    raw: OnceCell<Vec<RawSpan<'a>>>,
}

type Wire<T> = std::result::Result<T, WireError>;

impl<'a> LiveBatch<'a> {
    /// Of `refs`, which are sorted.
    pub fn new(groups: &'a LiveGroups<'a>, refs: &[LiveRef]) -> Result<Self> {
        let (traces, offsets, rows) = (Vec::new(), vec![0], Vec::with_capacity(refs.len()));
        let mut b = LiveBatch { groups, traces, offsets, rows, raw: OnceCell::new() };
        for of_trace in refs.chunk_by(|a, b| a.0 == b.0) {
            for together in of_trace.chunk_by(|a, b| a.1 == b.1) {
                match together {
                    [one] => b.rows.push(*one),
                    several => b.of_one_start(several)?,
                }
            }
            b.traces.push(TraceId(of_trace[0].0.to_be_bytes()));
            b.offsets.push(b.rows.len() as u32);
        }
        Ok(b)
    }

    fn place(&self, (_, _, body, i): &LiveRef) -> (&'a LiveBody, &'a LiveSpan) {
        let body = &self.groups.bodies[*body as usize];
        (body, &body.spans[*i as usize])
    }

    /// Appends spans of one trace that start together in the order of their ids, then content; identical ones once.
    fn of_one_start(&mut self, refs: &[LiveRef]) -> Result<()> {
        let id = |r: &LiveRef| {
            let (body, span) = self.place(r);
            Ok((body.raw(span)?.span_id, *r))
        };
        let mut by_id = refs.iter().map(id).collect::<Result<Vec<_>>>()?;
        by_id.sort_by_key(|s| s.0);
        let mut owner = Owner::default();
        for same in by_id.chunk_by(|a, b| a.0 == b.0) {
            if let [(_, one)] = same {
                self.rows.push(*one);
                continue;
            }
            let owned = |(_, r): &(&[u8], LiveRef)| {
                let (body, span) = self.place(r);
                Ok((owner.span(body, span)?, *r))
            };
            let mut spans = same.iter().map(owned).collect::<Result<Vec<_>>>()?;
            spans.sort_by(|a, b| a.0.cmp(&b.0));
            spans.dedup_by(|a, b| a.0 == b.0);
            self.rows.extend(spans.into_iter().map(|s| s.1));
        }
        Ok(())
    }

    fn raw(&self) -> Result<&[RawSpan<'a>]> {
        if let Some(r) = self.raw.get() {
            return Ok(r);
        }
        let mut out = Vec::with_capacity(self.rows.len());
        for refs in self.rows.chunks(WARMED) {
            let lines = refs.iter().map(|r| self.place(r)).fold(0, |x, (body, span)| x ^ body.warm(span));
            std::hint::black_box(lines);
            for r in refs {
                let (body, span) = self.place(r);
                out.push(body.raw(span)?);
            }
        }
        Ok(self.raw.get_or_init(|| out))
    }

    /// A column of what resource or scope hold, looked at once for each content.
    fn of_groups(&self, of: impl Fn(&'a [u8], &'a [u8], &mut Dictionary<'a>) -> Wire<u32>) -> Result<Dictionary<'a>> {
        let mut d = Dictionary::new(self.rows.len());
        let (numbers, count) = self.groups.numbers();
        let mut known: Vec<Option<u32>> = vec![None; *count];
        for r in &self.rows {
            let (body, span) = self.place(r);
            let group = body.group_of(span);
            let number = numbers[r.2 as usize][group as usize] as usize;
            let i = match known[number] {
                Some(i) => i,
                None => {
                    let [resource, _, scope, _] = body.group_parts(group);
                    *known[number].insert(of(resource, scope, &mut d).map_err(wire)?)
                }
            };
            d.column.idx.push(i);
        }
        Ok(d)
    }

    fn each(&self, of: impl Fn(&RawSpan<'a>, &mut Dictionary<'a>) -> Wire<u32>) -> Result<Dictionary<'a>> {
        let raw = self.raw()?;
        let mut d = Dictionary::new(raw.len());
        for s in raw {
            let i = of(s, &mut d).map_err(wire)?;
            d.column.idx.push(i);
        }
        Ok(d)
    }

    /// The same of spans that have any events, or any links: the others need not be walked.
    fn each_with(&self, what: usize, of: impl Fn(&RawSpan<'a>, &mut Dictionary<'a>) -> Wire<u32>) -> Result<Dictionary<'a>> {
        self.each(|s, d| if s.counts[what] == 0 { Ok(0) } else { of(s, d) })
    }

    /// The columns of several attributes of spans, each span's walked once.
    fn span_attributes(&self, keys: &[&str]) -> Result<Vec<Dictionary<'a>>> {
        let numbers: HashMap<&[u8], usize> = keys.iter().enumerate().map(|(i, k)| (k.as_bytes(), i)).collect();
        let mut out: Vec<Dictionary<'a>> = keys.iter().map(|_| Dictionary::new(self.rows.len())).collect();
        for (row, s) in self.raw()?.iter().enumerate() {
            for kv in s.attributes() {
                let (key, value) = kv.map_err(wire)?;
                let Some(d) = numbers.get(key).map(|n| &mut out[*n]) else { continue };
                // Of a key sent twice the first counts.
                if d.column.idx.len() <= row {
                    let i = d.raw_value(value).map_err(wire)?;
                    d.column.idx.resize(row, 0);
                    d.column.idx.push(i);
                }
            }
        }
        out.iter_mut().for_each(|d| d.column.idx.resize(self.rows.len(), 0));
        Ok(out)
    }

    fn read(&self, field: &Field) -> Result<Dictionary<'a>> {
        let attribute = |buf: &'a [u8], number: u32, key: &str, d: &mut Dictionary<'a>| d.attribute(attributes(buf, number), key);
        match field {
            Field::Attribute(AttributeScope::Span, key) => self.each(|s, d| d.attribute(s.attributes(), key)),
            Field::Attribute(AttributeScope::Resource, key) => self.of_groups(|resource, _, d| attribute(resource, 1, key, d)),
            Field::Attribute(AttributeScope::Instrumentation, key) => self.of_groups(|_, scope, d| attribute(scope, 3, key, d)),
            Field::Attribute(AttributeScope::Event, key) => {
                self.each_with(EVENTS, |s, d| d.list(events(s.buf).map(|e| owned_value(attributes(e?.buf, 3), key))))
            }
            Field::Attribute(AttributeScope::Link, key) => {
                self.each_with(LINKS, |s, d| d.list(links(s.buf).map(|l| owned_value(attributes(l?.buf, 4), key))))
            }
            Field::Name => self.each(|s, d| d.text(s.name)),
            Field::Kind => self.each(|s, d| Ok(d.value(Value::Int(s.kind.into())))),
            Field::Status => self.each(|s, d| Ok(d.value(Value::Int(s.status_code.into())))),
            Field::StatusMessage => self.each(|s, d| d.text(s.status_message)),
            Field::SpanId => self.each(|s, d| Ok(d.value(hex(s.span_id)))),
            Field::ParentId => self.each(|s, d| Ok(if is_root(s.parent_span_id) { 0 } else { d.value(hex(s.parent_span_id)) })),
            Field::EventName => self.each_with(EVENTS, |s, d| d.list(events(s.buf).map(|e| Ok(Value::String(e?.name.into()))))),
            Field::EventTimeSinceStart => {
                self.each_with(EVENTS, |s, d| d.list(events(s.buf).map(|e| Ok(Value::Int(e?.time.wrapping_sub(s.start) as i64)))))
            }
            Field::LinkTraceId => self.each_with(LINKS, |s, d| d.list(links(s.buf).map(|l| Ok(hex(l?.trace_id))))),
            Field::LinkSpanId => self.each_with(LINKS, |s, d| d.list(links(s.buf).map(|l| Ok(hex(l?.span_id))))),
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
        all.value_of(key.as_bytes())?.map_or(Ok(0), |v| self.raw_value(v))
    }

    fn raw_value(&mut self, v: RawValue<'a>) -> Wire<u32> {
        match v {
            RawValue::Str(s) => self.text(s),
            v => Ok(self.value(Value::from(&v.owned(0)?))),
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
        Ok(Arc::new(self.rows.iter().map(|r| r.1).collect()))
    }
    fn durations(&self) -> Result<Arc<Vec<u64>>> {
        Ok(Arc::new(self.raw()?.iter().map(|s| s.end.saturating_sub(s.start)).collect()))
    }
    fn ids(&self) -> Result<Arc<SpanIds>> {
        let id = |b: &[u8]| b.try_into().map(u64::from_be_bytes).map_err(|_| Error::corrupt("a span id of wrong length"));
        let parent = |b: &[u8]| if is_root(b) { Ok(0) } else { id(b) };
        Ok(Arc::new(SpanIds {
            span: self.raw()?.iter().map(|s| id(s.span_id)).collect::<Result<_>>()?,
            parent: self.raw()?.iter().map(|s| parent(s.parent_span_id)).collect::<Result<_>>()?,
        }))
    }
    fn column(&self, field: &Field) -> Result<Arc<Column>> {
        Ok(Arc::new(self.read(field)?.column))
    }
    fn columns(&self, fields: &[Field]) -> Result<Vec<Arc<Column>>> {
        fn key(f: &Field) -> Option<&str> {
            match f {
                Field::Attribute(AttributeScope::Span, key) => Some(key),
                _ => None,
            }
        }
        let keys: Vec<&str> = fields.iter().filter_map(key).collect();
        let mut of_spans = self.span_attributes(&keys)?.into_iter();
        let next = |f| match key(f).and_then(|_| of_spans.next()) {
            Some(d) => Ok(Arc::new(d.column)),
            None => self.column(f),
        };
        fields.iter().map(next).collect()
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
                let of = |(i, s): (usize, &LiveSpan)| (u128::from_be_bytes(s.trace_id), s.start, b as u32, i as u32);
                refs.extend(body.spans.iter().enumerate().map(of));
            }
            refs.sort_unstable();
            let groups = LiveGroups::new(&bodies);
            let live = LiveBatch::new(&groups, &refs).unwrap();
            let mut traces: BTreeMap<TraceId, Vec<Span>> = BTreeMap::new();
            requests.iter().flatten().for_each(|s| traces.entry(s.trace_id).or_default().push(s.clone()));
            let owned = RowBatch::new(traces.into_iter().map(|(id, spans)| Trace::new(id, spans)).collect());
            prop_assert_eq!(live.traces(), owned.traces());
            (0..live.traces().len() - 1).for_each(|t| assert_eq!(live.trace_id(t), owned.trace_id(t)));
            prop_assert_eq!(live.starts().unwrap(), owned.starts().unwrap());
            prop_assert_eq!(live.durations().unwrap(), owned.durations().unwrap());
            prop_assert_eq!(live.ids().unwrap(), owned.ids().unwrap());
            for (f, together) in fields().into_iter().zip(live.columns(&fields()).unwrap()) {
                let (a, b) = (live.column(&f).unwrap(), owned.column(&f).unwrap());
                prop_assert_eq!(format!("{a:?}"), format!("{together:?}"));
                for row in 0..live.len() {
                    prop_assert_eq!(format!("{:?}", a.get(row)), format!("{:?}", b.get(row)), "{:?} of row {}", f, row);
                }
            }
        }
    }
}
