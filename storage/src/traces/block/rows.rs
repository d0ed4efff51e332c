//! Rows of a block as spans: every column of some rows is read, pages that hold none of them are passed over.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;

use super::cells::{Cells, Lists, Source, Variants, text};
use super::layout::{GROUPS, Group};
use super::reader::{OpenBlock, VARIANT_PATHS};
use crate::columnar::file::Part;
use crate::error::{Error, Result};
use crate::model::{Resource, Scope, Span, SpanEvent, SpanId, SpanLink, TraceId};

/// Some rows of a row group, every column read.
pub struct Rows {
    trace_id: Vec<u128>,
    span_id: Vec<u64>,
    parent: Cells<u64>,
    name: Cells<Bytes>,
    trace_state: Cells<Bytes>,
    status_message: Cells<Bytes>,
    start: Vec<i64>,
    duration: Vec<i64>,
    /// flags, kind, status code, and the dropped counts.
    numbers: Vec<Vec<i32>>,
    /// Scope name, scope version, resource schema, scope schema.
    outer: [Cells<Bytes>; 4],
    span_attributes: Variants,
    resource_attributes: Variants,
    scope_attributes: Variants,
    events: Lists,
    event_time: Cells<i64>,
    event_name: Cells<Bytes>,
    event_dropped: Cells<i32>,
    event_attributes: Variants,
    links: Lists,
    link_texts: [Cells<Bytes>; 3],
    link_flags: Cells<i32>,
    link_dropped: Cells<i32>,
    link_attributes: Variants,
    resources: HashMap<[u32; 4], Arc<Resource>>,
    scopes: HashMap<[u32; 6], Arc<Scope>>,
}

const NUMBERS: [&str; 8] = [
    "flags",
    "kind",
    "status_code",
    "dropped_attributes_count",
    "dropped_events_count",
    "dropped_links_count",
    "resource_dropped_attributes_count",
    "scope_dropped_attributes_count",
];

impl Rows {
    /// Reads rows of a row group.
    pub fn read(block: &OpenBlock, group: usize, loaded: Option<&Part>, rows: Range<usize>) -> Result<Rows> {
        let s = Source { block, group, loaded, rows };
        let event = |name| ["events", "list", "element", name];
        let link = |name| ["links", "list", "element", name];
        let mut variants = GROUPS.map(|g| Some(s.variants(VARIANT_PATHS[g as usize], Some(g))));
        let mut take = |g: Group| variants[g as usize].take().unwrap_or_else(|| Err(Error::corrupt("columns read twice")));
        Ok(Rows {
            trace_id: s.all(&["trace_id"])?,
            span_id: s.all(&["span_id"])?,
            parent: s.cells(&["parent_span_id"])?,
            name: s.cells(&["name"])?,
            trace_state: s.cells(&["trace_state"])?,
            status_message: s.cells(&["status_message"])?,
            start: s.all(&["start_time_unix_nano"])?,
            duration: s.all(&["duration_nano"])?,
            numbers: NUMBERS.iter().map(|n| s.all(&[n])).collect::<Result<_>>()?,
            outer: [
                s.cells(&["scope_name"])?,
                s.cells(&["scope_version"])?,
                s.cells(&["resource_schema_url"])?,
                s.cells(&["scope_schema_url"])?,
            ],
            span_attributes: take(Group::Span)?,
            resource_attributes: s.variants(&["resource_attributes"], None)?,
            scope_attributes: s.variants(&["scope_attributes"], None)?,
            events: Lists::read(&s, &event("name"))?,
            event_time: s.listed(&event("time_unix_nano"))?,
            event_name: s.listed(&event("name"))?,
            event_dropped: s.listed(&event("dropped_attributes_count"))?,
            event_attributes: take(Group::Event)?,
            links: Lists::read(&s, &link("trace_id"))?,
            link_texts: [s.listed(&link("trace_id"))?, s.listed(&link("span_id"))?, s.listed(&link("trace_state"))?],
            link_flags: s.listed(&link("flags"))?,
            link_dropped: s.listed(&link("dropped_attributes_count"))?,
            link_attributes: take(Group::Link)?,
            resources: HashMap::default(),
            scopes: HashMap::default(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.span_id.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.span_id.is_empty()
    }
    /// Trace of a row.
    pub fn trace_id(&self, row: usize) -> TraceId {
        TraceId(self.trace_id[row].to_be_bytes())
    }

    fn number(&self, column: usize, row: usize) -> i32 {
        self.numbers[column].get(row).copied().unwrap_or(0)
    }

    fn resource(&mut self, row: usize) -> Result<Arc<Resource>> {
        let at = |c: &Cells<Bytes>| c.idx.get(row).copied().unwrap_or(u32::MAX);
        let v = &self.resource_attributes;
        let dropped = self.number(6, row) as u32;
        let key = [at(&v.metadata), v.value.as_ref().map_or(u32::MAX, at), at(&self.outer[2]), dropped];
        if let Some(r) = self.resources.get(&key) {
            return Ok(r.clone());
        }
        let schema_url = self.outer[2].get(row).map(text).transpose()?.unwrap_or_default();
        let r = Arc::new(Resource { attributes: v.attributes(row)?, dropped_attributes_count: dropped, schema_url });
        self.resources.insert(key, r.clone());
        Ok(r)
    }

    fn scope(&mut self, row: usize) -> Result<Arc<Scope>> {
        let at = |c: &Cells<Bytes>| c.idx.get(row).copied().unwrap_or(u32::MAX);
        let v = &self.scope_attributes;
        let dropped = self.number(7, row) as u32;
        let [name, version, _, schema] = &self.outer;
        let key = [at(&v.metadata), v.value.as_ref().map_or(u32::MAX, at), at(name), at(version), at(schema), dropped];
        if let Some(s) = self.scopes.get(&key) {
            return Ok(s.clone());
        }
        let get = |c: &Cells<Bytes>| c.get(row).map(text).transpose().map(Option::unwrap_or_default);
        let s = Arc::new(Scope {
            name: get(name)?,
            version: get(version)?,
            attributes: v.attributes(row)?,
            dropped_attributes_count: dropped,
            schema_url: get(schema)?,
        });
        self.scopes.insert(key, s.clone());
        Ok(s)
    }

    /// A row as a span.
    pub fn span(&mut self, row: usize) -> Result<Span> {
        let (resource, scope) = (self.resource(row)?, self.scope(row)?);
        let get = |c: &Cells<Bytes>, e: usize| c.get(e).map(text).transpose().map(Option::unwrap_or_default);
        let start = self.start[row] as u64;
        let mut events = Vec::new();
        for e in self.events.entries(row) {
            events.push(SpanEvent {
                time_unix_nano: self.event_time.get(e).copied().unwrap_or(0) as u64,
                name: get(&self.event_name, e)?,
                attributes: self.event_attributes.attributes(e)?,
                dropped_attributes_count: self.event_dropped.get(e).copied().unwrap_or(0) as u32,
            });
        }
        let mut links = Vec::new();
        for e in self.links.entries(row) {
            let bytes = |i: usize| self.link_texts[i].get(e).map(|b| b.to_vec()).unwrap_or_default();
            links.push(SpanLink {
                trace_id: bytes(0),
                span_id: bytes(1),
                trace_state: get(&self.link_texts[2], e)?,
                attributes: self.link_attributes.attributes(e)?,
                dropped_attributes_count: self.link_dropped.get(e).copied().unwrap_or(0) as u32,
                flags: self.link_flags.get(e).copied().unwrap_or(0) as u32,
            });
        }
        Ok(Span {
            trace_id: self.trace_id(row),
            start_unix_nano: start,
            span_id: SpanId(self.span_id[row].to_be_bytes()),
            parent_span_id: self.parent.get(row).map(|p| SpanId(p.to_be_bytes())),
            end_unix_nano: start.wrapping_add(self.duration[row] as u64),
            name: get(&self.name, row)?,
            kind: self.number(1, row),
            status_code: self.number(2, row),
            status_message: get(&self.status_message, row)?,
            trace_state: get(&self.trace_state, row)?,
            flags: self.number(0, row) as u32,
            attributes: self.span_attributes.attributes(row)?,
            dropped_attributes_count: self.number(3, row) as u32,
            events,
            dropped_events_count: self.number(4, row) as u32,
            links,
            dropped_links_count: self.number(5, row) as u32,
            resource,
            scope,
        })
    }
}
