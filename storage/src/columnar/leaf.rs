//! A column chunk read as it is stored: distinct values, an index for each present value, and levels. A predicate is
//! decided once for each distinct value; rows are compared by index.

use bytes::Bytes;
use parquet::basic::{Encoding, Type as Physical};
use parquet::schema::types::ColumnDescriptor;

use super::file::Part;
use super::footer::{Column, PageAt};
use super::page::{self, Kind, Page};
use super::{hybrid, parquet_error};
use crate::error::{Error, Result};

/// Values of one physical type.
pub trait Item: Clone {
    /// The type as Parquet calls it.
    const PHYSICAL: Physical;
    /// Appends up to `n` plainly encoded values; false if the bytes end early.
    fn plain(buf: &Bytes, n: usize, type_length: usize, out: &mut Vec<Self>) -> bool;
    /// The one value of a column whose least and greatest are these bytes. Never of doubles: statistics pass over NaN.
    fn of_statistics(_: &[u8]) -> Option<Self> {
        None
    }
    /// Appends values whose bytes are split into streams; false where the type has no such encoding.
    fn split(_buf: &[u8], _n: usize, _out: &mut Vec<Self>) -> bool {
        false
    }
}

macro_rules! number {
    ($t:ty, $bits:ty, $n:literal, $p:expr, $exact:literal) => {
        impl Item for $t {
            const PHYSICAL: Physical = $p;
            fn of_statistics(b: &[u8]) -> Option<Self> {
                b.try_into().ok().filter(|_| $exact).map(<$t>::from_le_bytes)
            }
            fn plain(buf: &Bytes, n: usize, _: usize, out: &mut Vec<Self>) -> bool {
                let Some(b) = n.checked_mul($n).and_then(|len| buf.get(..len)) else { return false };
                out.extend(b.as_chunks::<$n>().0.iter().map(|c| <$t>::from_le_bytes(*c)));
                true
            }
            fn split(buf: &[u8], n: usize, out: &mut Vec<Self>) -> bool {
                let Some(b) = n.checked_mul($n).and_then(|len| buf.get(..len)) else { return false };
                // Stream by stream: each pass is a plain loop that the compiler vectorises.
                let mut bits: Vec<$bits> = vec![0; n];
                for (i, stream) in b.chunks_exact(n.max(1)).enumerate() {
                    bits.iter_mut().zip(stream).for_each(|(v, byte)| *v |= <$bits>::from(*byte) << (8 * i));
                }
                out.extend(bits.into_iter().map(|v| <$t>::from_le_bytes(v.to_le_bytes())));
                true
            }
        }
    };
}

number!(i64, u64, 8, Physical::INT64, true);
number!(i32, u32, 4, Physical::INT32, true);
number!(f64, u64, 8, Physical::DOUBLE, false);

impl Item for bool {
    const PHYSICAL: Physical = Physical::BOOLEAN;
    fn plain(buf: &Bytes, n: usize, _: usize, out: &mut Vec<Self>) -> bool {
        if n.div_ceil(8) > buf.len() {
            return false;
        }
        out.extend((0..n).map(|i| buf[i / 8] >> (i % 8) & 1 == 1));
        true
    }
}

impl Item for Bytes {
    const PHYSICAL: Physical = Physical::BYTE_ARRAY;
    fn of_statistics(b: &[u8]) -> Option<Self> {
        Some(Bytes::copy_from_slice(b))
    }
    fn plain(buf: &Bytes, n: usize, _: usize, out: &mut Vec<Self>) -> bool {
        let mut pos = 0;
        for _ in 0..n {
            let Some(len) = buf.get(pos..pos + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes) else { return false };
            let Some(end) = (pos + 4).checked_add(len as usize).filter(|e| *e <= buf.len()) else { return false };
            out.push(buf.slice(pos + 4..end));
            pos = end;
        }
        true
    }
}

/// Eight or sixteen bytes, big-endian: ids in the order of their bytes.
macro_rules! id {
    ($t:ty, $n:literal) => {
        impl Item for $t {
            const PHYSICAL: Physical = Physical::FIXED_LEN_BYTE_ARRAY;
            fn plain(buf: &Bytes, n: usize, type_length: usize, out: &mut Vec<Self>) -> bool {
                let Some(b) = n.checked_mul($n).and_then(|len| buf.get(..len)) else { return false };
                out.extend(b.as_chunks::<$n>().0.iter().map(|c| <$t>::from_be_bytes(*c)));
                type_length == $n
            }
        }
    };
}

id!(u64, 8);
id!(u128, 16);

/// One column chunk.
#[derive(Clone, Debug)]
pub struct Leaf<T> {
    /// Values; distinct where the writer kept a dictionary.
    pub dict: Vec<T>,
    /// For each present value, where it stands in `dict`.
    pub idx: Vec<u32>,
    /// Definition level of each entry; empty if all are present.
    pub def: Vec<u8>,
    /// Repetition level of each entry; empty in flat columns.
    pub rep: Vec<u8>,
    /// Level at which a value is present.
    pub max_def: u8,
}

impl<T> Leaf<T> {
    /// Number of entries: rows, in flat columns.
    pub fn entries(&self) -> usize {
        if self.def.is_empty() { self.idx.len() } else { self.def.len() }
    }
    /// The value of each entry of a column that has one everywhere.
    pub fn into_values(self) -> Vec<T>
    where
        T: Clone,
    {
        let in_order = self.idx.len() == self.dict.len() && self.idx.iter().enumerate().all(|(i, x)| i as u32 == *x);
        if in_order { self.dict } else { self.idx.iter().map(|i| self.dict[*i as usize].clone()).collect() }
    }
    /// The entries of `rows` rows behind `before` others.
    pub fn entries_of(&self, before: usize, rows: usize) -> std::ops::Range<usize> {
        if self.rep.is_empty() {
            return before..before + rows;
        }
        let mut starts = self.rep.iter().enumerate().filter(|(_, r)| **r == 0).map(|(i, _)| i);
        let start = starts.nth(before).unwrap_or(self.rep.len());
        let end = if rows == 0 { start } else { starts.nth(rows - 1).unwrap_or(self.rep.len()) };
        start..end
    }
    /// Some entries alone; none if there are not so many. Of many values that they don't use they keep none.
    pub fn slice(mut self, entries: std::ops::Range<usize>) -> Option<Leaf<T>>
    where
        T: Clone,
    {
        let present = |def: &[u8]| def.iter().filter(|d| **d == self.max_def).count();
        let values = match self.def.is_empty() {
            true => entries.clone(),
            false => {
                let from = present(self.def.get(..entries.start)?);
                from..from + present(self.def.get(entries.clone())?)
            }
        };
        self.idx = self.idx.get(values)?.to_vec();
        if !self.def.is_empty() {
            self.def = self.def.get(entries.clone())?.to_vec();
        }
        if !self.rep.is_empty() {
            self.rep = self.rep.get(entries)?.to_vec();
        }
        if self.dict.len() > 2 * self.idx.len() {
            let (mut number, mut dict) = (vec![u32::MAX; self.dict.len()], Vec::new());
            for i in &mut self.idx {
                let n = number.get_mut(*i as usize)?;
                if *n == u32::MAX {
                    *n = dict.len() as u32;
                    dict.push(self.dict[*i as usize].clone());
                }
                *i = *n;
            }
            self.dict = dict;
        }
        Some(self)
    }
    /// As [`Leaf::expand`], of some entries.
    pub fn expand_range(&self, from: usize, to: usize) -> Option<Vec<u32>> {
        if self.def.is_empty() {
            return self.idx.get(from..to).map(<[u32]>::to_vec);
        }
        let wanted = self.def.get(from..to)?;
        let before = self.def[..from].iter().filter(|d| **d == self.max_def).count();
        let mut next = self.idx.get(before..)?.iter();
        Some(wanted.iter().map(|d| if *d == self.max_def { next.next().copied().unwrap_or(u32::MAX) } else { u32::MAX }).collect())
    }
    /// For each entry its index, or `u32::MAX` where there is no value.
    pub fn expand(&self) -> Vec<u32> {
        if self.def.is_empty() {
            return self.idx.clone();
        }
        let mut next = self.idx.iter();
        self.def.iter().map(|d| if *d == self.max_def { next.next().copied().unwrap_or(u32::MAX) } else { u32::MAX }).collect()
    }
}

fn damaged(column: &Column<'_>, what: &str) -> Error {
    Error::corrupt(format!("column {}: {what}", column.descr.path().string()))
}

/// Reads a column chunk whose bytes are `part`.
pub fn read<T: Item>(part: Part, column: &Column<'_>, rows: usize) -> Result<Leaf<T>> {
    let leaf = read_pages(part, column, None)?;
    if column.descr.max_rep_level() == 0 && leaf.entries() != rows {
        return Err(damaged(column, "fewer values than rows"));
    }
    Ok(leaf)
}

fn read_pages<T: Item>(part: Part, column: &Column<'_>, wanted: Option<&[PageAt]>) -> Result<Leaf<T>> {
    let descr = column.descr;
    let type_length = usize::try_from(descr.type_length()).unwrap_or(0);
    if descr.physical_type() != T::PHYSICAL {
        return Err(damaged(column, "not of the type expected"));
    }
    let max_def = u8::try_from(descr.max_def_level()).map_err(|_| damaged(column, "impossible levels"))?;
    let mut leaf = Leaf { dict: Vec::new(), idx: Vec::new(), def: Vec::new(), rep: Vec::new(), max_def };
    let (start, len) = (column.start, column.len);
    let bytes = |from: u64, len: Option<u64>| {
        part.slice(from, len.and_then(|n| usize::try_from(n).ok())).map_err(|e| parquet_error("reading a page", e))
    };
    let mut add = |rest: &mut Bytes| {
        let page = page::take(rest, column.compression).ok_or_else(|| damaged(column, "a damaged page"))?;
        if page.kind == Kind::Data && leaf.entries() + page.values > column.entries {
            return Err(damaged(column, "more values than the footer says"));
        }
        leaf.add(page, descr, type_length).map_err(|what| damaged(column, what))
    };
    match wanted {
        None => {
            let mut rest = bytes(start, Some(len))?;
            while !rest.is_empty() {
                add(&mut rest)?;
            }
        }
        Some(pages) => {
            // Values that follow no dictionary are appended to it, each its own.
            if column.dictionary {
                add(&mut bytes(start, Some(len))?)?;
            }
            for page in pages {
                add(&mut bytes(page.offset, Some(page.len.into()))?)?;
            }
        }
    }
    if leaf.idx.iter().any(|i| *i as usize >= leaf.dict.len()) {
        return Err(damaged(column, "an index beyond its dictionary"));
    }
    Ok(leaf)
}

impl<T: Item> Leaf<T> {
    /// Adds a page's entries.
    fn add(&mut self, page: Page, descr: &ColumnDescriptor, type_length: usize) -> std::result::Result<(), &'static str> {
        let n = page.values;
        match page.kind {
            Kind::Dictionary if T::plain(&page.body, n, type_length, &mut self.dict) => Ok(()),
            Kind::Dictionary => Err("a truncated dictionary"),
            Kind::Other => Err("a page of a kind that this store does not write"),
            Kind::Data => {
                let mut rest = page.body;
                if descr.max_rep_level() > 0 {
                    levels(&mut rest, descr.max_rep_level(), n, &mut self.rep).ok_or("damaged levels")?;
                }
                let mut present = n;
                if self.max_def > 0 {
                    let from = self.def.len();
                    levels(&mut rest, descr.max_def_level(), n, &mut self.def).ok_or("damaged levels")?;
                    present = self.def[from..].iter().filter(|d| **d == self.max_def).count();
                }
                let encoding = page.encoding.ok_or("an encoding that this store does not write")?;
                values(&rest, encoding, present, type_length, self).ok_or("damaged values")
            }
        }
    }
}

fn levels(rest: &mut Bytes, max: i16, n: usize, out: &mut Vec<u8>) -> Option<()> {
    let len = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let buf = rest.get(4..)?.get(..len)?;
    hybrid::decode(buf, 16 - (max as u16).leading_zeros(), n, out)?;
    *rest = rest.slice(4 + len..);
    Some(())
}

fn values<T: Item>(buf: &Bytes, encoding: Encoding, n: usize, type_length: usize, leaf: &mut Leaf<T>) -> Option<()> {
    if n == 0 {
        return Some(());
    }
    #[allow(deprecated)]
    match encoding {
        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
            let width = u32::from(*buf.first()?);
            hybrid::decode(&buf[1..], width, n, &mut leaf.idx)
        }
        Encoding::PLAIN | Encoding::BYTE_STREAM_SPLIT => {
            let from = leaf.dict.len() as u32;
            let done =
                if encoding == Encoding::PLAIN { T::plain(buf, n, type_length, &mut leaf.dict) } else { T::split(buf, n, &mut leaf.dict) };
            leaf.idx.extend(from..from + n as u32);
            done.then_some(())
        }
        _ => None,
    }
}

/// Reads the pages of a column chunk that hold some rows of a row group of `group_rows`; returns the leaf and the row its
/// entries begin at.
pub fn read_rows<T: Item>(part: Part, column: &Column<'_>, group_rows: usize, rows: std::ops::Range<usize>) -> Result<(Leaf<T>, usize)> {
    let begins = |i: usize| column.pages.get(i).map_or(group_rows, |p| p.first_row as usize);
    let wanted = |i: &usize| begins(*i) < rows.end && begins(*i + 1) > rows.start;
    let first = (0..column.pages.len()).find(wanted).ok_or_else(|| damaged(column, "no page holds the rows asked for"))?;
    let behind = (first..column.pages.len()).find(|i| !wanted(i)).unwrap_or(column.pages.len());
    let leaf = read_pages(part, column, Some(&column.pages[first..behind]))?;
    Ok((leaf, begins(first)))
}
