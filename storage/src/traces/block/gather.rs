//! A row group made of rows of other blocks, column after column: merges decode no spans.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use parquet::file::writer::SerializedFileWriter;

use super::cells::{Cells, Lists, Source, Variants, below};
use super::column::{Column, GroupWriter, List};
use super::layout::{Group, Layout, ShredKey};
use super::reader::{OpenBlock, VARIANT_PATHS};
use super::shred::{KeyColumns, Names, VariantColumns, encode_attributes};
use crate::columnar::dict::Dict;
use crate::columnar::leaf::Item;
use crate::columnar::write::{Scratch, Values};
use crate::error::{Error, Result};
use crate::model::Attributes;
use crate::traces::otlp::{WireError, attributes, encode_attributes as to_otlp};

/// Rows of a row group of another block.
pub struct Origin {
    /// The block.
    pub block: Arc<OpenBlock>,
    /// Its row group.
    pub group: usize,
    /// The rows, of which not all need be taken.
    pub rows: Range<usize>,
}

/// Some entries of an origin, counted from its first row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which origin.
    pub origin: u32,
    /// The first entry.
    pub from: u32,
    /// Behind the last entry.
    pub to: u32,
}

/// The rows of a new row group, in order.
#[derive(Default)]
pub struct Gathered {
    /// Where they are.
    pub origins: Vec<Origin>,
    /// Which they are.
    pub pieces: Vec<Piece>,
}

/// What the times of gathered spans are.
pub(super) struct Times {
    pub min_start: u64,
    pub max_start: u64,
    pub max_end: u64,
}

fn source(o: &Origin) -> Source<'_> {
    Source { block: &o.block, group: o.group, loaded: None, rows: o.rows.clone() }
}

fn pair<T>(values: fn(Vec<T>) -> Values, (v, at): (Vec<T>, Vec<u32>)) -> (Values, Vec<u32>) {
    (values(v), at)
}

fn wire(e: WireError) -> Error {
    Error::corrupt(e.to_string())
}

impl Gathered {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.pieces.iter().map(|p| (p.to - p.from) as usize).sum()
    }

    /// Writes them as a row group.
    pub(super) fn write<W: Write + Send>(
        &self,
        file: &mut SerializedFileWriter<W>,
        layout: &Layout,
        names: &Names,
        scratch: &mut Scratch,
    ) -> Result<Times> {
        let e = Entries { origins: &self.origins, pieces: self.pieces.clone() };
        let mut out = GroupWriter::begin(file, self.rows(), scratch)?;
        out.flat(Column::all(Values::Sorted(e.ids::<u128, 16>("trace_id", u128::to_be_bytes)?.0, 16)))?;
        out.flat(Column::all(Values::Noise(e.ids::<u64, 8>("span_id", u64::to_be_bytes)?.0, 8)))?;
        let (parent, at) = e.ids::<u64, 8>("parent_span_id", u64::to_be_bytes)?;
        out.flat(Column::some(Values::Ids(parent, 8), at))?;
        out.flat(e.text(&["trace_state"])?)?;
        out.flat(e.int(&["flags"])?)?;
        out.flat(e.text(&["name"])?)?;
        out.flat(e.int(&["kind"])?)?;
        let start = e.numbers::<i64>(&["start_time_unix_nano"])?.0;
        let duration = e.numbers::<i64>(&["duration_nano"])?.0;
        let times = Times {
            min_start: start.iter().map(|s| *s as u64).min().unwrap_or(u64::MAX),
            max_start: start.iter().map(|s| *s as u64).max().unwrap_or(0),
            max_end: start.iter().zip(&duration).map(|(s, d)| s.wrapping_add(*d) as u64).max().unwrap_or(0),
        };
        out.flat(Column::all(Values::Split(start)))?;
        out.flat(Column::all(Values::Split(duration)))?;
        out.flat(e.int(&["status_code"])?)?;
        out.flat(e.text(&["status_message"])?)?;
        let (service, at) = e.texts(&["service_name"])?;
        out.flat(Column::some(service, at))?;
        for name in ["scope_name", "scope_version", "resource_schema_url", "scope_schema_url"] {
            out.flat(e.text(&[name])?)?;
        }
        for name in ["dropped_attributes_count", "dropped_events_count", "dropped_links_count"] {
            out.flat(e.int(&[name])?)?;
        }
        for name in ["resource_dropped_attributes_count", "scope_dropped_attributes_count"] {
            out.flat(e.int(&[name])?)?;
        }
        let every: Vec<u32> = (0..self.rows() as u32).collect();
        Column::of_variants(e.variants(Group::Span, &every, layout, names)?).into_iter().try_for_each(|c| out.flat(c))?;
        drop(every);
        for prefix in ["resource_attributes", "scope_attributes"] {
            let [metadata, value] = e.whole(prefix, names)?;
            out.flat(Column::all(metadata))?;
            out.flat(Column::optional(value))?;
        }
        self.write_list(&mut out, "events", ["time_unix_nano", "name", "dropped_attributes_count"], Group::Event, (layout, names))?;
        let columns = ["trace_id", "span_id", "trace_state", "flags", "dropped_attributes_count"];
        self.write_list(&mut out, "links", columns, Group::Link, (layout, names))?;
        out.end()?;
        Ok(times)
    }

    fn write_list<W: Write + Send, const N: usize>(
        &self,
        out: &mut GroupWriter<'_, W>,
        name: &str,
        columns: [&str; N],
        group: Group,
        (layout, names): (&Layout, &Names),
    ) -> Result<()> {
        let prefix = [name, "list", "element"];
        // The level of every column of the list is that of the one read here.
        let marker = below(&prefix, &[if group == Group::Event { "name" } else { "trace_id" }]);
        let (e, list) = Entries::listed(self, &marker)?;
        let elements = list.at.clone();
        out.begin_list(list);
        for column in columns {
            let path = below(&prefix, &[column]);
            out.listed(match column {
                "time_unix_nano" => Column::all(Values::I64(e.numbers::<i64>(&path)?.0)),
                "dropped_attributes_count" | "flags" => e.int(&path)?,
                _ => e.text(&path)?,
            })?;
        }
        Column::of_variants(e.variants(group, &elements, layout, names)?).into_iter().try_for_each(|c| out.listed(c))
    }
}

/// Entries of a new row group: its rows, or those of a list in it.
struct Entries<'a> {
    origins: &'a [Origin],
    pieces: Vec<Piece>,
}

impl<'a> Entries<'a> {
    /// Those of a list.
    fn listed(g: &'a Gathered, marker: &[&str]) -> Result<(Self, List)> {
        let lists = g.origins.iter().map(|o| Lists::read(&source(o), marker)).collect::<Result<Vec<_>>>()?;
        let (mut list, mut pieces) = (List::default(), Vec::with_capacity(g.pieces.len()));
        for p in &g.pieces {
            let l = &lists[p.origin as usize];
            let rows = p.from as usize..p.to as usize;
            for row in rows.clone() {
                list.row(l.entries(row).count());
            }
            pieces.push(Piece { origin: p.origin, from: l.starts[rows.start] as u32, to: l.starts[rows.end] as u32 });
        }
        Ok((Entries { origins: &g.origins, pieces }, list))
    }

    fn cells<T: Item>(&self, path: &[&str]) -> Result<Vec<Option<Cells<T>>>> {
        self.cells_where(path, |_| true)
    }

    fn cells_where<T: Item>(&self, path: &[&str], has: impl Fn(&Origin) -> bool) -> Result<Vec<Option<Cells<T>>>> {
        self.origins.iter().map(|o| if has(o) { source(o).cells_if_any(path) } else { Ok(None) }).collect()
    }

    /// Calls `f` with each entry that has a value: its number, the origin and the value's number there, and the value.
    #[inline]
    fn each<T>(&self, cells: &[Option<Cells<T>>], mut f: impl FnMut(u32, (usize, u32), &T)) {
        let mut at = 0;
        for p in &self.pieces {
            if let Some(c) = &cells[p.origin as usize] {
                let some = c.idx.get(p.from as usize..p.to as usize).unwrap_or_default();
                for (e, i) in (at..).zip(some) {
                    if let Some(v) = c.dict.get(*i as usize) {
                        f(e, (p.origin as usize, *i), v);
                    }
                }
            }
            at += p.to - p.from;
        }
    }

    fn numbers_in<T: Item + Copy>(&self, cells: &[Option<Cells<T>>]) -> (Vec<T>, Vec<u32>) {
        let (mut out, mut at) = (Vec::new(), Vec::new());
        self.each(cells, |e, _, v| {
            out.push(*v);
            at.push(e);
        });
        (out, at)
    }

    fn numbers<T: Item + Copy>(&self, path: &[&str]) -> Result<(Vec<T>, Vec<u32>)> {
        Ok(self.numbers_in(&self.cells(path)?))
    }

    fn ids<T: Item + Copy, const N: usize>(&self, name: &str, bytes: fn(T) -> [u8; N]) -> Result<(Vec<u8>, Vec<u32>)> {
        let (ids, at) = self.numbers::<T>(&[name])?;
        Ok((ids.into_iter().flat_map(bytes).collect(), at))
    }

    fn int(&self, path: &[&str]) -> Result<Column> {
        Ok(Column::all(Values::I32(self.numbers::<i32>(path)?.0)))
    }

    fn texts_in(&self, cells: &[Option<Cells<Bytes>>]) -> (Values, Vec<u32>) {
        // The new number of each value of each origin. Only what occurs is interned: statistics are made of the dictionary.
        let mut known: Vec<Vec<u32>> = cells.iter().map(|c| vec![u32::MAX; c.as_ref().map_or(0, |c| c.dict.len())]).collect();
        let (mut dict, mut ids, mut at) = (Dict::default(), Vec::new(), Vec::new());
        self.each(cells, |e, (origin, i), text| {
            let number = &mut known[origin][i as usize];
            if *number == u32::MAX {
                *number = dict.intern(text);
            }
            ids.push(*number);
            at.push(e);
        });
        (Values::Bytes(dict, ids), at)
    }

    fn texts(&self, path: &[&str]) -> Result<(Values, Vec<u32>)> {
        Ok(self.texts_in(&self.cells(path)?))
    }

    fn text(&self, path: &[&str]) -> Result<Column> {
        Ok(Column::all(self.texts(path)?.0))
    }

    /// Attributes that are not shredded, in terms of the new block's names: metadata and values.
    fn whole(&self, prefix: &str, names: &Names) -> Result<[Values; 2]> {
        let all = self.origins.iter().map(|o| source(o).variants(&[prefix], None)).collect::<Result<Vec<_>>>()?;
        let (mut dicts, mut ids) = ([Dict::default(), Dict::default()], [Vec::new(), Vec::new()]);
        let mut known: HashMap<(u32, u32, u32), [u32; 2]> = HashMap::default();
        for p in &self.pieces {
            let v: &Variants = &all[p.origin as usize];
            for e in p.from as usize..p.to as usize {
                let at = |c: &Cells<Bytes>| c.idx.get(e).copied().unwrap_or(u32::MAX);
                let key = (p.origin, at(&v.metadata), v.value.as_ref().map_or(u32::MAX, at));
                let new = match known.get(&key) {
                    Some(n) => *n,
                    None => {
                        let otlp = to_otlp(&v.attributes(e)?);
                        let (metadata, value) = encode_attributes(names, attributes(&otlp, 1)).map_err(wire)?;
                        let n = [dicts[0].intern(&metadata), dicts[1].intern(&value)];
                        known.insert(key, n);
                        n
                    }
                };
                ids.iter_mut().zip(new).for_each(|(ids, n)| ids.push(n));
            }
        }
        let [metadata, value] = dicts;
        let [metadata_ids, value_ids] = ids;
        Ok([Values::Bytes(metadata, metadata_ids), Values::Bytes(value, value_ids)])
    }

    /// A VARIANT group at `elements`, all entries that can have attributes.
    fn variants(&self, group: Group, elements: &[u32], layout: &Layout, names: &Names) -> Result<VariantColumns> {
        let prefix = VARIANT_PATHS[group as usize];
        let keys = &layout.keys[group as usize];
        let mut out = VariantColumns::new(keys);
        for (k, column) in keys.iter().zip(&mut out.keys) {
            self.typed(prefix, group, k, column)?;
        }
        let mut odd = self.leftovers(prefix, group, keys)?.into_iter().peekable();
        for at in elements {
            while odd.next_if(|o| o.0 < *at).is_some() {}
            match odd.next_if(|o| o.0 == *at) {
                Some((_, a)) => out.push(*at, names, attributes(&to_otlp(&a), 1)).map_err(wire)?,
                None => out.push_common(names),
            }
        }
        out.settle();
        Ok(out)
    }

    /// The typed column of a key, from blocks that have it with the same type.
    fn typed(&self, prefix: &[&str], group: Group, key: &ShredKey, out: &mut KeyColumns) -> Result<()> {
        let path = below(prefix, &["typed_value", &key.name, "typed_value"]);
        let has = |o: &Origin| o.block.layout().keys[group as usize].contains(key);
        let (typed, at) = match &out.typed {
            Values::I64(_) => pair(Values::I64, self.numbers_in(&self.cells_where(&path, has)?)),
            Values::F64(_) => pair(Values::F64, self.numbers_in(&self.cells_where(&path, has)?)),
            Values::Bool(_) => pair(Values::Bool, self.numbers_in(&self.cells_where(&path, has)?)),
            _ => self.texts_in(&self.cells_where(&path, has)?),
        };
        out.gather(typed, at);
        Ok(())
    }

    /// What the typed columns of `keys` do not hold, by entry.
    fn leftovers(&self, prefix: &[&str], group: Group, keys: &[ShredKey]) -> Result<Vec<(u32, Attributes)>> {
        let of = |o| source(o).leftovers(prefix, group, |k| keys.contains(k));
        let all = self.origins.iter().map(of).collect::<Result<Vec<_>>>()?;
        let (mut out, mut at) = (Vec::new(), 0);
        for p in &self.pieces {
            if let Some(v) = &all[p.origin as usize] {
                for (e, at) in (p.from as usize..p.to as usize).zip(at..).filter(|(e, _)| v.any(*e)) {
                    out.push((at, v.attributes(e)?));
                }
            }
            at += p.to - p.from;
        }
        Ok(out)
    }
}
