//! Gathers the spans of one row group in columns, and writes them.

use std::io::Write;

use foldhash::{HashMap, HashMapExt};
use parquet::file::writer::SerializedFileWriter;

use super::column::{Column, GroupWriter, List};
use super::layout::{GROUPS, Group, Layout};
use super::shred::{Names, VariantColumns, encode_attributes};
use crate::columnar::dict::Texts;
use crate::columnar::write::{Scratch, Values};
use crate::error::Result;
use crate::traces::otlp::{Groups, RawSpan, RawValue, WireError, attributes, events, is_root, links, wire};

/// What the spans of one resource and scope share, already numbered in the row group's dictionaries.
#[derive(Clone, Copy)]
struct Shared {
    service_name: Option<u32>,
    scope_name: u32,
    scope_version: u32,
    resource_schema: u32,
    scope_schema: u32,
    resource_dropped: i32,
    scope_dropped: i32,
    /// Metadata and value.
    resource: [u32; 2],
    scope: [u32; 2],
}

/// Spans in columns, in the order they were pushed.
pub struct RowGroup {
    rows: u32,
    trace_id: Vec<u8>,
    span_id: Vec<u8>,
    parent_at: Vec<u32>,
    parent: Vec<u8>,
    trace_state: Texts,
    flags: Vec<i32>,
    name: Texts,
    kind: Vec<i32>,
    start: Vec<i64>,
    duration: Vec<i64>,
    status_code: Vec<i32>,
    status_message: Texts,
    service_at: Vec<u32>,
    service: Texts,
    scope_name: Texts,
    scope_version: Texts,
    resource_schema: Texts,
    scope_schema: Texts,
    dropped: [Vec<i32>; 5],
    resource: [Texts; 2],
    scope: [Texts; 2],
    variants: [VariantColumns; 3],
    events: List,
    event_time: Vec<i64>,
    event_name: Texts,
    event_dropped: Vec<i32>,
    links: List,
    link_trace: Texts,
    link_span: Texts,
    link_state: Texts,
    link_flags: Vec<i32>,
    link_dropped: Vec<i32>,
    shared: HashMap<u64, Shared>,
}

impl RowGroup {
    /// Empty, with the layout's shredded columns.
    pub fn new(layout: &Layout) -> Self {
        RowGroup {
            rows: 0,
            trace_id: Vec::new(),
            span_id: Vec::new(),
            parent_at: Vec::new(),
            parent: Vec::new(),
            trace_state: Texts::default(),
            flags: Vec::new(),
            name: Texts::default(),
            kind: Vec::new(),
            start: Vec::new(),
            duration: Vec::new(),
            status_code: Vec::new(),
            status_message: Texts::default(),
            service_at: Vec::new(),
            service: Texts::default(),
            scope_name: Texts::default(),
            scope_version: Texts::default(),
            resource_schema: Texts::default(),
            scope_schema: Texts::default(),
            dropped: Default::default(),
            resource: Default::default(),
            scope: Default::default(),
            variants: GROUPS.map(|g| VariantColumns::new(&layout.keys[g as usize])),
            events: List::default(),
            event_time: Vec::new(),
            event_name: Texts::default(),
            event_dropped: Vec::new(),
            links: List::default(),
            link_trace: Texts::default(),
            link_span: Texts::default(),
            link_state: Texts::default(),
            link_flags: Vec::new(),
            link_dropped: Vec::new(),
            shared: HashMap::new(),
        }
    }

    /// Number of spans.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Bytes of memory in use, roughly.
    pub fn size_bytes(&self) -> usize {
        let texts = [&self.trace_state, &self.name, &self.status_message, &self.event_name, &self.resource[1], &self.scope[1]];
        self.rows as usize * 96
            + texts.iter().map(|t| t.size_bytes()).sum::<usize>()
            + self.variants.iter().map(VariantColumns::size_bytes).sum::<usize>()
            + self.events.rep.len() * 16
            + self.links.rep.len() * 32
    }

    fn share(&mut self, groups: &Groups<'_>, names: &Names) -> std::result::Result<Shared, WireError> {
        let (scope_name, scope_version) = groups.scope.name_and_version()?;
        let mut service = None;
        for kv in attributes(groups.resource.buf, 1) {
            if let (b"service.name", RawValue::Str(s)) = kv?
                && service.is_none()
            {
                service = Some(s);
            }
        }
        let (rm, rv) = encode_attributes(names, attributes(groups.resource.buf, 1))?;
        let (sm, sv) = encode_attributes(names, attributes(groups.scope.buf, 3))?;
        Ok(Shared {
            service_name: service.map(|s| self.service.dict.intern(s)),
            scope_name: self.scope_name.dict.intern(scope_name.as_bytes()),
            scope_version: self.scope_version.dict.intern(scope_version.as_bytes()),
            resource_schema: self.resource_schema.dict.intern(groups.resource.schema_url.as_bytes()),
            scope_schema: self.scope_schema.dict.intern(groups.scope.schema_url.as_bytes()),
            resource_dropped: groups.resource.dropped_attributes()? as i32,
            scope_dropped: groups.scope.dropped_attributes()? as i32,
            resource: [self.resource[0].dict.intern(&rm), self.resource[1].dict.intern(&rv)],
            scope: [self.scope[0].dict.intern(&sm), self.scope[1].dict.intern(&sv)],
        })
    }

    /// Adds a span. `key` is the same for spans of the same resource and scope bytes.
    pub fn push(&mut self, span: &RawSpan<'_>, groups: &Groups<'_>, key: u64, names: &Names) -> Result<()> {
        let shared = match self.shared.get(&key) {
            Some(s) => *s,
            None => {
                let s = self.share(groups, names).map_err(wire)?;
                self.shared.insert(key, s);
                s
            }
        };
        let at = self.rows;
        self.rows += 1;
        self.trace_id.extend_from_slice(span.trace_id);
        self.span_id.extend_from_slice(span.span_id);
        if !is_root(span.parent_span_id) {
            self.parent_at.push(at);
            self.parent.extend_from_slice(span.parent_span_id);
        }
        self.trace_state.push(span.trace_state);
        self.flags.push(span.flags as i32);
        self.name.push(span.name);
        self.kind.push(span.kind);
        self.start.push(span.start as i64);
        self.duration.push(span.end.wrapping_sub(span.start) as i64);
        self.status_code.push(span.status_code);
        self.status_message.push(span.status_message);
        if let Some(id) = shared.service_name {
            self.service_at.push(at);
            self.service.ids.push(id);
        }
        self.scope_name.ids.push(shared.scope_name);
        self.scope_version.ids.push(shared.scope_version);
        self.resource_schema.ids.push(shared.resource_schema);
        self.scope_schema.ids.push(shared.scope_schema);
        let dropped = [
            span.dropped_attributes as i32,
            span.dropped_events as i32,
            span.dropped_links as i32,
            shared.resource_dropped,
            shared.scope_dropped,
        ];
        self.dropped.iter_mut().zip(dropped).for_each(|(column, v)| column.push(v));
        for i in 0..2 {
            self.resource[i].ids.push(shared.resource[i]);
            self.scope[i].ids.push(shared.scope[i]);
        }
        self.variants[Group::Span as usize].push(at, names, span.attributes()).map_err(wire)?;
        self.push_lists(span, names).map_err(wire)
    }

    fn push_lists(&mut self, span: &RawSpan<'_>, names: &Names) -> std::result::Result<(), WireError> {
        let first = self.events.row(span.counts[1] as usize);
        // Most spans have neither: then the message is not walked again.
        for (at, e) in (first..).zip(events(if span.counts[1] > 0 { span.buf } else { &[] })) {
            let e = e?;
            self.event_time.push(e.time as i64);
            self.event_name.push(e.name.as_bytes());
            self.event_dropped.push(e.dropped_attributes as i32);
            self.variants[Group::Event as usize].push(at, names, attributes(e.buf, 3))?;
        }
        let first = self.links.row(span.counts[2] as usize);
        for (at, l) in (first..).zip(links(if span.counts[2] > 0 { span.buf } else { &[] })) {
            let l = l?;
            self.link_trace.push(l.trace_id);
            self.link_span.push(l.span_id);
            self.link_state.push(l.trace_state.as_bytes());
            self.link_flags.push(l.flags as i32);
            self.link_dropped.push(l.dropped_attributes as i32);
            self.variants[Group::Link as usize].push(at, names, attributes(l.buf, 4))?;
        }
        Ok(())
    }

    /// Writes the row group, column after column, so that only one is encoded at a time.
    pub fn write<W: Write + Send>(&self, file: &mut SerializedFileWriter<W>, scratch: &mut Scratch) -> Result<()> {
        let mut out = GroupWriter::begin(file, self.rows as usize, scratch)?;
        self.flat().into_iter().try_for_each(|c| out.put(c))?;
        out.begin_list(&self.events);
        self.event_columns().into_iter().try_for_each(|c| out.put(c))?;
        out.begin_list(&self.links);
        self.link_columns().into_iter().try_for_each(|c| out.put(c))?;
        out.end()
    }

    /// Flat columns in the schema's order.
    fn flat(&self) -> Vec<Column<'_>> {
        let [d_attr, d_event, d_link, d_resource, d_scope] = &self.dropped;
        let mut flat = vec![
            Column::all(Values::Sorted(&self.trace_id, 16)),
            Column::all(Values::Noise(&self.span_id, 8)),
            Column::some(Values::Ids(&self.parent, 8), &self.parent_at),
            Column::all(Values::Texts(&self.trace_state)),
            Column::all(Values::I32(&self.flags)),
            Column::all(Values::Texts(&self.name)),
            Column::all(Values::I32(&self.kind)),
            Column::all(Values::Split(&self.start)),
            Column::all(Values::Split(&self.duration)),
            Column::all(Values::I32(&self.status_code)),
            Column::all(Values::Texts(&self.status_message)),
            Column::some(Values::Texts(&self.service), &self.service_at),
            Column::all(Values::Texts(&self.scope_name)),
            Column::all(Values::Texts(&self.scope_version)),
            Column::all(Values::Texts(&self.resource_schema)),
            Column::all(Values::Texts(&self.scope_schema)),
            Column::all(Values::I32(d_attr)),
            Column::all(Values::I32(d_event)),
            Column::all(Values::I32(d_link)),
            Column::all(Values::I32(d_resource)),
            Column::all(Values::I32(d_scope)),
        ];
        flat.extend(Column::of_variants(&self.variants[Group::Span as usize]));
        for [metadata, value] in [&self.resource, &self.scope] {
            flat.push(Column::all(Values::Texts(metadata)));
            flat.push(Column::optional(Values::Texts(value)));
        }
        flat
    }

    fn event_columns(&self) -> Vec<Column<'_>> {
        let mut event = vec![
            Column::all(Values::I64(&self.event_time)),
            Column::all(Values::Texts(&self.event_name)),
            Column::all(Values::I32(&self.event_dropped)),
        ];
        event.extend(Column::of_variants(&self.variants[Group::Event as usize]));
        event
    }

    fn link_columns(&self) -> Vec<Column<'_>> {
        let mut link = vec![
            Column::all(Values::Texts(&self.link_trace)),
            Column::all(Values::Texts(&self.link_span)),
            Column::all(Values::Texts(&self.link_state)),
            Column::all(Values::I32(&self.link_flags)),
            Column::all(Values::I32(&self.link_dropped)),
        ];
        link.extend(Column::of_variants(&self.variants[Group::Link as usize]));
        link
    }

    /// Forgets the spans and keeps the memory: row groups follow one another, and fresh pages cost as much as encoding does.
    pub fn clear(&mut self) {
        // All fields are named, so that none is left out.
        let RowGroup {
            rows,
            trace_id,
            span_id,
            parent_at,
            parent,
            trace_state,
            flags,
            name,
            kind,
            start,
            duration,
            status_code,
            status_message,
            service_at,
            service,
            scope_name,
            scope_version,
            resource_schema,
            scope_schema,
            dropped,
            resource,
            scope,
            variants,
            events,
            event_time,
            event_name,
            event_dropped,
            links,
            link_trace,
            link_span,
            link_state,
            link_flags,
            link_dropped,
            shared,
        } = self;
        *rows = 0;
        [trace_id, span_id, parent].into_iter().for_each(Vec::clear);
        [parent_at, service_at].into_iter().for_each(Vec::clear);
        [start, duration, event_time].into_iter().for_each(Vec::clear);
        [flags, kind, status_code, event_dropped, link_flags, link_dropped].into_iter().chain(dropped).for_each(Vec::clear);
        [trace_state, name, status_message, service, event_name].into_iter().for_each(Texts::clear);
        [scope_name, scope_version, resource_schema, scope_schema].into_iter().for_each(Texts::clear);
        [link_trace, link_span, link_state].into_iter().chain(resource).chain(scope).for_each(Texts::clear);
        variants.iter_mut().for_each(VariantColumns::clear);
        [events, links].into_iter().for_each(List::clear);
        shared.clear();
    }
}
