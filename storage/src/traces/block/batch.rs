//! A row group as a batch: columns are read when first asked for, straight from the leaves.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;

use super::layout::{Group, ShredType};
use super::reader::{OpenBlock, VARIANT_PATHS};
use crate::columnar::file::Part;
use crate::columnar::leaf::{Item, Leaf};
use crate::columnar::variant::{self, Metadata, VariantError};
use crate::error::{Error, Result};
use crate::model::TraceId;
use crate::read::{AttributeScope, Column, Field, SpanBatch, SpanIds, Value, hex};

/// A row group of a block, or some rows of one.
pub struct BlockBatch {
    block: Arc<OpenBlock>,
    group: usize,
    loaded: Option<Part>,
    /// Fewer than the row group has, where only those are read.
    rows: Range<usize>,
    ids: Vec<u128>,
    offsets: Vec<u32>,
    /// Traces that another batch holds whole.
    pub(crate) excluded: Option<Vec<bool>>,
    cache: RefCell<Cache>,
}

#[derive(Default)]
struct Cache {
    columns: HashMap<Field, Arc<Column>>,
    starts: Option<Arc<Vec<u64>>>,
    durations: Option<Arc<Vec<u64>>>,
    ids: Option<Arc<SpanIds>>,
    bytes: u64,
    leaves: Vec<usize>,
}

fn damaged(e: VariantError) -> Error {
    Error::corrupt(e.to_string())
}

fn text(b: &Bytes) -> Result<Value> {
    std::str::from_utf8(b).map(|s| Value::String(Arc::from(s))).map_err(|_| Error::corrupt("text in a block that is not UTF-8"))
}

/// Entries of a list column by row.
struct Lists {
    starts: Vec<u32>,
}

impl Lists {
    fn new(rep: &[u8]) -> Self {
        let mut starts: Vec<u32> = rep.iter().enumerate().filter(|(_, r)| **r == 0).map(|(i, _)| i as u32).collect();
        starts.push(rep.len() as u32);
        Lists { starts }
    }
    /// A column of arrays from one value for each entry.
    fn column(&self, values: &[Value], idx: &[u32]) -> Column {
        let rows = self.starts.windows(2).map(|w| {
            let of_row = idx.get(w[0] as usize..w[1] as usize).unwrap_or_default();
            let items: Vec<Value> = of_row.iter().filter(|i| **i != 0).map(|i| values[*i as usize].clone()).collect();
            if items.is_empty() { Value::Nil } else { Value::Array(items.into()) }
        });
        Column::of(rows)
    }
}

impl BlockBatch {
    /// Reads the trace ids of a row group; other columns when asked for.
    pub fn new(block: Arc<OpenBlock>, group: usize, loaded: Option<Part>) -> Result<Self> {
        let (ids, offsets) = block.traces(group, loaded.as_ref())?;
        let rows = 0..block.rows(group);
        Ok(BlockBatch { block, group, loaded, rows, ids, offsets, excluded: None, cache: RefCell::default() })
    }
    /// The rows of some traces that follow one another: of `all` of the row group, as [`OpenBlock::traces`] gives them.
    pub fn of_traces(
        block: Arc<OpenBlock>,
        group: usize,
        loaded: Option<Part>,
        all: (&[u128], &[u32]),
        traces: Range<usize>,
    ) -> Result<Self> {
        let beyond = || Error::corrupt("traces that the row group does not have");
        let ids = all.0.get(traces.clone()).ok_or_else(beyond)?.to_vec();
        let offsets = all.1.get(traces.start..=traces.end).ok_or_else(beyond)?;
        let rows = offsets[0] as usize..offsets[offsets.len() - 1] as usize;
        let offsets = offsets.iter().map(|o| o - rows.start as u32).collect();
        Ok(BlockBatch { block, group, loaded, rows, ids, offsets, excluded: None, cache: RefCell::default() })
    }
    /// Ids of its traces, rising.
    pub fn ids_of_traces(&self) -> &[u128] {
        &self.ids
    }
    /// The block, the number of the row group, and the rows of it.
    pub fn place(&self) -> (&Arc<OpenBlock>, usize, Range<usize>) {
        (&self.block, self.group, self.rows.clone())
    }
    /// Bytes of the columns read so far.
    pub fn bytes_read(&self) -> u64 {
        self.cache.borrow().bytes
    }

    /// The columns read so far.
    pub fn leaves_read(&self) -> Vec<usize> {
        self.cache.borrow().leaves.clone()
    }

    fn leaf<T: Item>(&self, path: &[&str]) -> Result<Leaf<T>> {
        let leaf = self.block.need_leaf(path)?;
        {
            let mut cache = self.cache.borrow_mut();
            let whole = self.block.rows(self.group).max(1) as u64;
            cache.bytes += self.block.column_bytes(self.group, leaf) * self.rows.len() as u64 / whole;
            cache.leaves.push(leaf);
        }
        if self.rows.len() == self.block.rows(self.group) {
            return self.block.read(self.group, leaf, self.loaded.as_ref());
        }
        let (leaf, first) = self.block.read_rows::<T>(self.group, leaf, self.loaded.as_ref(), self.rows.clone())?;
        let entries = leaf.entries_of(self.rows.start.saturating_sub(first), self.rows.len());
        leaf.slice(entries).ok_or_else(|| Error::corrupt(format!("column {} has too few values", path.join("."))))
    }
    /// None if the column is empty here.
    fn leaf_if_any<T: Item>(&self, path: &[&str]) -> Result<Option<Leaf<T>>> {
        if self.block.is_all_null(self.group, self.block.need_leaf(path)?) {
            return Ok(None);
        }
        self.leaf(path).map(Some)
    }

    fn plain<T: Item>(&self, path: &[&str], value: impl Fn(&T) -> Result<Value>) -> Result<Column> {
        let leaf = self.leaf::<T>(path)?;
        Ok(Column { values: values_of(&leaf, value)?, idx: entries_of(&leaf) })
    }

    fn listed<T: Item>(&self, path: &[&str], value: impl Fn(&T) -> Result<Value>) -> Result<Column> {
        let leaf = self.leaf::<T>(path)?;
        Ok(Lists::new(&leaf.rep).column(&values_of(&leaf, value)?, &entries_of(&leaf)))
    }

    fn attribute(&self, scope: AttributeScope, key: &str) -> Result<Column> {
        let (prefix, group): (&[&str], _) = match scope {
            AttributeScope::Span => (VARIANT_PATHS[0], Some(Group::Span)),
            AttributeScope::Event => (VARIANT_PATHS[1], Some(Group::Event)),
            AttributeScope::Link => (VARIANT_PATHS[2], Some(Group::Link)),
            AttributeScope::Resource => (&["resource_attributes"], None),
            AttributeScope::Instrumentation => (&["scope_attributes"], None),
        };
        let keys = group.map(|g| self.block.layout().keys[g as usize].as_slice()).unwrap_or_default();
        let shredded = keys.iter().find(|k| k.name == key);
        let (values, idx, rep) = match shredded {
            Some(k) => self.shredded(prefix, key, k.ty)?,
            None => self.unshredded(prefix, key)?,
        };
        if !matches!(scope, AttributeScope::Event | AttributeScope::Link) {
            return Ok(if idx.is_empty() { Column::nil(self.len()) } else { Column { values, idx } });
        }
        Ok(if idx.is_empty() { Column::nil(self.len()) } else { Lists::new(&rep).column(&values, &idx) })
    }

    /// Values, entries and repetition levels of a shredded key; nothing if it is absent here.
    fn shredded(&self, prefix: &[&str], key: &str, ty: ShredType) -> Result<(Vec<Value>, Vec<u32>, Vec<u8>)> {
        let path = |last| [prefix, &["typed_value", key, last]].concat();
        let (mut values, mut idx, mut rep) = (vec![Value::Nil], Vec::new(), Vec::new());
        let typed = path("typed_value");
        macro_rules! take {
            ($t:ty, $f:expr) => {
                if let Some(mut leaf) = self.leaf_if_any::<$t>(&typed)? {
                    values = values_of(&leaf, $f)?;
                    idx = entries_of(&leaf);
                    rep = std::mem::take(&mut leaf.rep);
                }
            };
        }
        match ty {
            ShredType::String => take!(Bytes, text),
            ShredType::Int => take!(i64, |v| Ok(Value::Int(*v))),
            ShredType::Double => take!(f64, |v| Ok(Value::Float(*v))),
            ShredType::Bool => take!(bool, |v| Ok(Value::Bool(*v))),
        }
        if let Some(leaf) = self.leaf_if_any::<Bytes>(&path("value"))? {
            let metadata = self.leaf::<Bytes>(&[prefix, &["metadata"]].concat())?;
            let at = metadata.expand();
            let others = leaf.expand();
            if idx.is_empty() {
                idx = vec![0; others.len()];
                rep.clone_from(&leaf.rep);
            }
            let mut known: HashMap<(u32, u32), u32> = HashMap::default();
            for (entry, other) in others.iter().enumerate().filter(|(_, o)| **o != u32::MAX) {
                let m = at.get(entry).copied().unwrap_or(u32::MAX);
                idx[entry] = match known.get(&(m, *other)) {
                    Some(i) => *i,
                    None => {
                        let m = metadata.dict.get(m as usize).ok_or_else(|| Error::corrupt("attributes without metadata"))?;
                        let m = Metadata::new(m).map_err(damaged)?;
                        let v = variant::decode(&m, &leaf.dict[*other as usize], 0).map_err(damaged)?;
                        values.push(Value::from(&v));
                        let i = values.len() as u32 - 1;
                        known.insert((at[entry], *other), i);
                        i
                    }
                };
            }
        }
        Ok((values, idx, rep))
    }

    /// The same of a key that lies in the VARIANT's value: looked up once for each distinct value.
    fn unshredded(&self, prefix: &[&str], key: &str) -> Result<(Vec<Value>, Vec<u32>, Vec<u8>)> {
        let (mut values, mut idx) = (vec![Value::Nil], Vec::new());
        let Some(leaf) = self.leaf_if_any::<Bytes>(&[prefix, &["value"]].concat())? else { return Ok((values, idx, Vec::new())) };
        let metadata = self.leaf::<Bytes>(&[prefix, &["metadata"]].concat())?;
        let mut find = |m: u32, v: u32| -> Result<u32> {
            let m = metadata.dict.get(m as usize).ok_or_else(|| Error::corrupt("attributes without metadata"))?;
            let m = Metadata::new(m).map_err(damaged)?;
            let Some(b) = variant::field(&m, &leaf.dict[v as usize], key).map_err(damaged)? else { return Ok(0) };
            values.push(Value::from(&variant::decode(&m, b, 1).map_err(damaged)?));
            Ok(values.len() as u32 - 1)
        };
        let entries = leaf.expand();
        if metadata.dict.len() == 1 {
            // Of some rows only what they hold: other values may have other metadata.
            let mut by_value = vec![u32::MAX; leaf.dict.len()];
            for v in &entries {
                idx.push(match by_value.get_mut(*v as usize) {
                    None => 0,
                    Some(known) => {
                        if *known == u32::MAX {
                            *known = find(0, *v)?;
                        }
                        *known
                    }
                });
            }
            return Ok((values, idx, leaf.rep));
        }
        let at = metadata.expand();
        let mut known: HashMap<(u32, u32), u32> = HashMap::default();
        for (entry, v) in entries.iter().enumerate() {
            let pair = (at.get(entry).copied().unwrap_or(u32::MAX), *v);
            idx.push(match (*v, known.get(&pair)) {
                (u32::MAX, _) => 0,
                (_, Some(i)) => *i,
                (_, None) => {
                    let i = find(pair.0, pair.1)?;
                    known.insert(pair, i);
                    i
                }
            });
        }
        Ok((values, idx, leaf.rep))
    }

    fn read_column(&self, field: &Field) -> Result<Column> {
        let element = |list, name| [list, "list", "element", name];
        match field {
            Field::Attribute(scope, key) => self.attribute(*scope, key),
            Field::Name => self.plain(&["name"], text),
            Field::Kind => self.plain(&["kind"], |v: &i32| Ok(Value::Int((*v).into()))),
            Field::Status => self.plain(&["status_code"], |v: &i32| Ok(Value::Int((*v).into()))),
            Field::StatusMessage => self.plain(&["status_message"], text),
            Field::SpanId => self.plain(&["span_id"], |v: &u64| Ok(hex(&v.to_be_bytes()))),
            Field::ParentId => self.plain(&["parent_span_id"], |v: &u64| Ok(hex(&v.to_be_bytes()))),
            Field::ScopeName => self.plain(&["scope_name"], text),
            Field::ScopeVersion => self.plain(&["scope_version"], text),
            Field::EventName => self.listed(&element("events", "name"), text),
            Field::LinkTraceId => self.listed(&element("links", "trace_id"), |b: &Bytes| Ok(hex(b))),
            Field::LinkSpanId => self.listed(&element("links", "span_id"), |b: &Bytes| Ok(hex(b))),
            Field::EventTimeSinceStart => {
                let starts = self.starts()?;
                let leaf = self.leaf::<i64>(&element("events", "time_unix_nano"))?;
                let (lists, idx) = (Lists::new(&leaf.rep), leaf.expand());
                let rows = lists.starts.windows(2).zip(starts.iter()).map(|(w, start)| {
                    let of_row = idx.get(w[0] as usize..w[1] as usize).unwrap_or_default();
                    let since = of_row.iter().filter_map(|i| leaf.dict.get(*i as usize)).map(|t| Value::Int(t.wrapping_sub(*start as i64)));
                    let since: Vec<Value> = since.collect();
                    if since.is_empty() { Value::Nil } else { Value::Array(since.into()) }
                });
                Ok(Column::of(rows))
            }
        }
    }
}

fn values_of<T>(leaf: &Leaf<T>, value: impl Fn(&T) -> Result<Value>) -> Result<Vec<Value>> {
    let mut out = Vec::with_capacity(leaf.dict.len() + 1);
    out.push(Value::Nil);
    for v in &leaf.dict {
        out.push(value(v)?);
    }
    Ok(out)
}

/// For each entry its index among values that begin with nil.
fn entries_of<T>(leaf: &Leaf<T>) -> Vec<u32> {
    let mut idx = leaf.expand();
    idx.iter_mut().for_each(|i| *i = i.wrapping_add(1));
    idx
}

impl SpanBatch for BlockBatch {
    fn len(&self) -> usize {
        self.offsets.last().map_or(0, |n| *n as usize)
    }
    fn traces(&self) -> &[u32] {
        &self.offsets
    }
    fn trace_id(&self, trace: usize) -> TraceId {
        TraceId(self.ids[trace].to_be_bytes())
    }
    fn excluded(&self) -> Option<&[bool]> {
        self.excluded.as_deref()
    }
    fn starts(&self) -> Result<Arc<Vec<u64>>> {
        if let Some(v) = &self.cache.borrow().starts {
            return Ok(v.clone());
        }
        let leaf = self.leaf::<i64>(&["start_time_unix_nano"])?;
        let v = Arc::new(leaf.into_values().into_iter().map(|v| v as u64).collect::<Vec<_>>());
        self.cache.borrow_mut().starts = Some(v.clone());
        Ok(v)
    }
    fn durations(&self) -> Result<Arc<Vec<u64>>> {
        if let Some(v) = &self.cache.borrow().durations {
            return Ok(v.clone());
        }
        let leaf = self.leaf::<i64>(&["duration_nano"])?;
        let v = Arc::new(leaf.into_values().into_iter().map(|v| v.max(0) as u64).collect::<Vec<_>>());
        self.cache.borrow_mut().durations = Some(v.clone());
        Ok(v)
    }
    fn ids(&self) -> Result<Arc<SpanIds>> {
        if let Some(v) = &self.cache.borrow().ids {
            return Ok(v.clone());
        }
        let own = self.leaf::<u64>(&["span_id"])?;
        let parents = self.leaf::<u64>(&["parent_span_id"])?;
        let v = Arc::new(SpanIds {
            span: own.into_values(),
            parent: parents.expand().iter().map(|i| parents.dict.get(*i as usize).copied().unwrap_or(0)).collect(),
        });
        self.cache.borrow_mut().ids = Some(v.clone());
        Ok(v)
    }
    fn column(&self, field: &Field) -> Result<Arc<Column>> {
        if let Some(c) = self.cache.borrow().columns.get(field) {
            return Ok(c.clone());
        }
        let c = Arc::new(self.read_column(field)?);
        if c.idx.len() != self.len() {
            return Err(Error::corrupt(format!("the column of {field:?} has {} rows of {}", c.idx.len(), self.len())));
        }
        self.cache.borrow_mut().columns.insert(field.clone(), c.clone());
        Ok(c)
    }
}
