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
use super::shred::{KeyColumns, Names, Typed, VariantColumns, encode_attributes};
use crate::columnar::dict::{Dict, Texts};
use crate::columnar::leaf::Item;
use crate::columnar::write::{Scratch, Values};
use crate::error::Result;
use crate::model::Attributes;
use crate::traces::otlp::{attributes, encode_attributes as to_otlp, wire};

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

fn pair<T>(values: fn(T) -> Typed, (v, at): (T, Vec<u32>)) -> (Typed, Vec<u32>) {
    (values(v), at)
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
        let lists = [Entries::listed(self, "events", "name")?, Entries::listed(self, "links", "trace_id")?];
        let mut out = GroupWriter::begin(file, self.rows(), scratch)?;
        out.put(Column::all(Values::Sorted(&e.ids::<u128, 16>("trace_id", u128::to_be_bytes)?.0, 16)))?;
        out.put(Column::all(Values::Noise(&e.ids::<u64, 8>("span_id", u64::to_be_bytes)?.0, 8)))?;
        let (parent, at) = e.ids::<u64, 8>("parent_span_id", u64::to_be_bytes)?;
        out.put(Column::some(Values::Ids(&parent, 8), &at))?;
        e.text(&["trace_state"], &mut out)?;
        e.int(&["flags"], &mut out)?;
        e.text(&["name"], &mut out)?;
        e.int(&["kind"], &mut out)?;
        let times = e.times(&mut out)?;
        e.int(&["status_code"], &mut out)?;
        e.text(&["status_message"], &mut out)?;
        let (service, at) = e.texts(&["service_name"])?;
        out.put(Column::some(Values::Texts(&service), &at))?;
        for name in ["scope_name", "scope_version", "resource_schema_url", "scope_schema_url"] {
            e.text(&[name], &mut out)?;
        }
        for name in ["dropped_attributes_count", "dropped_events_count", "dropped_links_count"] {
            e.int(&[name], &mut out)?;
        }
        for name in ["resource_dropped_attributes_count", "scope_dropped_attributes_count"] {
            e.int(&[name], &mut out)?;
        }
        let every: Vec<u32> = (0..self.rows() as u32).collect();
        e.variants(Group::Span, &every, layout, names, &mut out)?;
        drop(every);
        for prefix in ["resource_attributes", "scope_attributes"] {
            let [metadata, value] = e.whole(prefix, names)?;
            out.put(Column::all(Values::Texts(&metadata)))?;
            out.put(Column::optional(Values::Texts(&value)))?;
        }
        let [(e, list), (l, links)] = &lists;
        out.begin_list(list);
        e.write_list("events", &["time_unix_nano", "name", "dropped_attributes_count"], &mut out)?;
        e.variants(Group::Event, &list.at, layout, names, &mut out)?;
        out.begin_list(links);
        l.write_list("links", &["trace_id", "span_id", "trace_state", "flags", "dropped_attributes_count"], &mut out)?;
        l.variants(Group::Link, &links.at, layout, names, &mut out)?;
        out.end()?;
        Ok(times)
    }
}

/// Entries of a new row group: its rows, or those of a list in it.
struct Entries<'a> {
    origins: &'a [Origin],
    pieces: Vec<Piece>,
}

impl<'a> Entries<'a> {
    /// Those of the list `name`. The levels of all its columns are those of the one that is read.
    fn listed(g: &'a Gathered, name: &str, column: &str) -> Result<(Self, List)> {
        let marker = [name, "list", "element", column];
        let lists = g.origins.iter().map(|o| Lists::read(&source(o), &marker)).collect::<Result<Vec<_>>>()?;
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

    /// Writes a column of small numbers.
    fn int<W: Write + Send>(&self, path: &[&str], out: &mut GroupWriter<'_, W>) -> Result<()> {
        out.put(Column::all(Values::I32(&self.numbers::<i32>(path)?.0)))
    }

    /// Writes the columns of times.
    fn times<W: Write + Send>(&self, out: &mut GroupWriter<'_, W>) -> Result<Times> {
        let start = self.numbers::<i64>(&["start_time_unix_nano"])?.0;
        let duration = self.numbers::<i64>(&["duration_nano"])?.0;
        out.put(Column::all(Values::Split(&start)))?;
        out.put(Column::all(Values::Split(&duration)))?;
        Ok(Times {
            min_start: start.iter().map(|s| *s as u64).min().unwrap_or(u64::MAX),
            max_start: start.iter().map(|s| *s as u64).max().unwrap_or(0),
            max_end: start.iter().zip(&duration).map(|(s, d)| s.wrapping_add(*d) as u64).max().unwrap_or(0),
        })
    }

    /// Writes columns of a list that are not attributes.
    fn write_list<W: Write + Send>(&self, name: &str, columns: &[&str], out: &mut GroupWriter<'_, W>) -> Result<()> {
        columns.iter().try_for_each(|column| {
            let path = [name, "list", "element", *column];
            match *column {
                "time_unix_nano" => out.put(Column::all(Values::I64(&self.numbers::<i64>(&path)?.0))),
                "dropped_attributes_count" | "flags" => self.int(&path, out),
                _ => self.text(&path, out),
            }
        })
    }

    fn texts_in(&self, cells: &[Option<Cells<Bytes>>]) -> (Texts, Vec<u32>) {
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
        (Texts { dict, ids }, at)
    }

    fn texts(&self, path: &[&str]) -> Result<(Texts, Vec<u32>)> {
        Ok(self.texts_in(&self.cells(path)?))
    }

    /// Writes a column of text.
    fn text<W: Write + Send>(&self, path: &[&str], out: &mut GroupWriter<'_, W>) -> Result<()> {
        out.put(Column::all(Values::Texts(&self.texts(path)?.0)))
    }

    /// Attributes that are not shredded, in terms of the new block's names: metadata and values.
    fn whole(&self, prefix: &str, names: &Names) -> Result<[Texts; 2]> {
        let all = self.origins.iter().map(|o| source(o).variants(&[prefix], None)).collect::<Result<Vec<_>>>()?;
        let mut out = [Texts::default(), Texts::default()];
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
                        let n = [out[0].dict.intern(&metadata), out[1].dict.intern(&value)];
                        known.insert(key, n);
                        n
                    }
                };
                out.iter_mut().zip(new).for_each(|(texts, n)| texts.ids.push(n));
            }
        }
        Ok(out)
    }

    /// Writes a VARIANT group at `elements`, all entries that can have attributes.
    fn variants<W: Write + Send>(
        &self,
        group: Group,
        elements: &[u32],
        layout: &Layout,
        names: &Names,
        out: &mut GroupWriter<'_, W>,
    ) -> Result<()> {
        let prefix = VARIANT_PATHS[group as usize];
        let keys = &layout.keys[group as usize];
        let mut columns = VariantColumns::new(keys);
        for (k, column) in keys.iter().zip(&mut columns.keys) {
            self.typed(prefix, group, k, column)?;
        }
        let mut odd = self.leftovers(prefix, group, keys)?.into_iter().peekable();
        for at in elements {
            while odd.next_if(|o| o.0 < *at).is_some() {}
            match odd.next_if(|o| o.0 == *at) {
                Some((_, a)) => columns.push(*at, names, attributes(&to_otlp(&a), 1)).map_err(wire)?,
                None => columns.push_common(names),
            }
        }
        columns.settle();
        Column::of_variants(&columns).into_iter().try_for_each(|c| out.put(c))
    }

    /// The typed column of a key, from blocks that have it with the same type.
    fn typed(&self, prefix: &[&str], group: Group, key: &ShredKey, out: &mut KeyColumns) -> Result<()> {
        let path = below(prefix, &["typed_value", &key.name, "typed_value"]);
        let has = |o: &Origin| o.block.layout().keys[group as usize].contains(key);
        let (typed, at) = match &out.typed {
            Typed::Int(_) => pair(Typed::Int, self.numbers_in(&self.cells_where(&path, has)?)),
            Typed::Double(_) => pair(Typed::Double, self.numbers_in(&self.cells_where(&path, has)?)),
            Typed::Bool(_) => pair(Typed::Bool, self.numbers_in(&self.cells_where(&path, has)?)),
            Typed::String(_) => pair(Typed::String, self.texts_in(&self.cells_where(&path, has)?)),
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
