//! Columns of some rows of a row group, an entry at a time: pages that hold none of them are passed over.

use std::ops::Range;

use bytes::Bytes;

use super::layout::{Group, ShredKey, ShredType};
use super::reader::OpenBlock;
use crate::columnar::file::Part;
use crate::columnar::leaf::{Item, Leaf};
use crate::columnar::variant::{self, Metadata};
use crate::error::{Error, Result};
use crate::model::{AttributeValue, Attributes};

/// A column: for each entry its value's index, or `u32::MAX`.
pub(super) struct Cells<T> {
    pub dict: Vec<T>,
    pub idx: Vec<u32>,
}

impl<T> Cells<T> {
    pub fn get(&self, entry: usize) -> Option<&T> {
        self.idx.get(entry).and_then(|i| self.dict.get(*i as usize))
    }
}

pub(super) enum Typed {
    String(Cells<Bytes>),
    Int(Cells<i64>),
    Double(Cells<f64>),
    Bool(Cells<bool>),
}

impl Typed {
    fn has(&self, entry: usize) -> bool {
        match self {
            Typed::String(c) => c.get(entry).is_some(),
            Typed::Int(c) => c.get(entry).is_some(),
            Typed::Double(c) => c.get(entry).is_some(),
            Typed::Bool(c) => c.get(entry).is_some(),
        }
    }
}

pub(super) struct Key {
    name: String,
    typed: Option<Typed>,
    other: Option<Cells<Bytes>>,
}

/// A VARIANT group's columns.
pub(super) struct Variants {
    pub metadata: Cells<Bytes>,
    pub value: Option<Cells<Bytes>>,
    keys: Vec<Key>,
}

/// Reads columns of some rows of a row group, trimmed so that entry 0 belongs to the first row asked for.
pub(super) struct Source<'a> {
    pub block: &'a OpenBlock,
    pub group: usize,
    pub loaded: Option<&'a Part>,
    pub rows: Range<usize>,
}

impl Source<'_> {
    /// The leaf, and how many of its entries lie before the first row.
    fn leaf<T: Item>(&self, leaf: usize) -> Result<(Leaf<T>, usize, usize)> {
        let (leaf, first) = self.block.read_rows::<T>(self.group, leaf, self.loaded, self.rows.clone())?;
        let entries = leaf.entries_of(self.rows.start.saturating_sub(first), self.rows.len());
        Ok((leaf, entries.start, entries.end))
    }

    pub fn cells<T: Item>(&self, path: &[&str]) -> Result<Cells<T>> {
        let number = self.block.need_leaf(path)?;
        if let Some(one) = self.block.constant(self.group, number) {
            // Many columns hold one value, which the statistics tell: nothing to read.
            if let Some(v) = T::of_statistics(one) {
                return Ok(Cells { dict: vec![v], idx: vec![0; self.rows.len()] });
            }
        }
        let (leaf, start, end) = self.leaf::<T>(number)?;
        let idx = leaf.expand_range(start, end).ok_or_else(|| Error::corrupt(format!("column {} has too few values", path.join("."))))?;
        Ok(Cells { idx, dict: leaf.dict })
    }

    /// As `cells`; nothing is read if the column is empty in the row group, as those of lists often are.
    pub fn listed<T: Item>(&self, path: &[&str]) -> Result<Cells<T>> {
        Ok(self.cells_if_any(path)?.unwrap_or(Cells { dict: Vec::new(), idx: Vec::new() }))
    }

    /// None if the column is empty in the row group.
    pub fn cells_if_any<T: Item>(&self, path: &[&str]) -> Result<Option<Cells<T>>> {
        if self.block.is_all_null(self.group, self.block.need_leaf(path)?) {
            return Ok(None);
        }
        self.cells(path).map(Some)
    }

    pub fn all<T: Item + Default>(&self, path: &[&str]) -> Result<Vec<T>> {
        let c = self.cells::<T>(path)?;
        Ok((0..c.idx.len()).map(|e| c.get(e).cloned().unwrap_or_default()).collect())
    }

    pub fn variants(&self, prefix: &[&str], group: Option<Group>) -> Result<Variants> {
        let mut v = self.variants_but(prefix, group, |_| false)?;
        v.metadata = self.metadata(prefix)?;
        Ok(v)
    }

    fn metadata(&self, prefix: &[&str]) -> Result<Cells<Bytes>> {
        let path = &below(prefix, &["metadata"]);
        if prefix.len() > 1 { self.listed(path) } else { self.cells(path) }
    }

    /// What the typed columns of the keys that `but` tells do not hold; none if that is nothing.
    pub fn leftovers(&self, prefix: &[&str], group: Group, but: impl Fn(&ShredKey) -> bool) -> Result<Option<Variants>> {
        let mut v = self.variants_but(prefix, Some(group), but)?;
        if v.keys.is_empty() && v.value.is_none() {
            return Ok(None);
        }
        v.metadata = self.metadata(prefix)?;
        Ok(Some(v))
    }

    /// Without metadata.
    fn variants_but(&self, prefix: &[&str], group: Option<Group>, but: impl Fn(&ShredKey) -> bool) -> Result<Variants> {
        let mut keys = Vec::new();
        for k in group.map(|g| self.block.layout().keys[g as usize].as_slice()).unwrap_or_default() {
            let path = &below(prefix, &["typed_value", &k.name, "typed_value"]);
            let typed = match k.ty {
                _ if but(k) => None,
                ShredType::String => self.cells_if_any(path)?.map(Typed::String),
                ShredType::Int => self.cells_if_any(path)?.map(Typed::Int),
                ShredType::Double => self.cells_if_any(path)?.map(Typed::Double),
                ShredType::Bool => self.cells_if_any(path)?.map(Typed::Bool),
            };
            let other = self.cells_if_any(&below(prefix, &["typed_value", &k.name, "value"]))?;
            if typed.is_some() || other.is_some() {
                keys.push(Key { name: k.name.clone(), typed, other });
            }
        }
        let metadata = Cells { dict: Vec::new(), idx: Vec::new() };
        Ok(Variants { metadata, value: self.cells_if_any(&below(prefix, &["value"]))?, keys })
    }
}

/// A path below another.
pub(super) fn below<'a>(prefix: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [prefix, rest].concat()
}

fn damaged(e: variant::VariantError) -> Error {
    Error::corrupt(e.to_string())
}

pub(super) fn text(b: &Bytes) -> Result<String> {
    std::str::from_utf8(b).map(str::to_owned).map_err(|_| Error::corrupt("text in a block that is not UTF-8"))
}

impl Variants {
    /// Whether an entry has any attribute.
    pub fn any(&self, entry: usize) -> bool {
        let value = |c: &Option<Cells<Bytes>>| c.as_ref().is_some_and(|c| c.get(entry).is_some());
        value(&self.value) || self.keys.iter().any(|k| value(&k.other) || k.typed.as_ref().is_some_and(|t| t.has(entry)))
    }

    pub fn attributes(&self, entry: usize) -> Result<Attributes> {
        let mut out = Vec::new();
        let metadata = self.metadata.get(entry).ok_or_else(|| Error::corrupt("attributes without metadata"))?;
        for k in &self.keys {
            let typed = match &k.typed {
                Some(Typed::String(c)) => c.get(entry).map(text).transpose()?.map(AttributeValue::String),
                Some(Typed::Int(c)) => c.get(entry).map(|v| AttributeValue::Int(*v)),
                Some(Typed::Double(c)) => c.get(entry).map(|v| AttributeValue::Double(*v)),
                Some(Typed::Bool(c)) => c.get(entry).map(|v| AttributeValue::Bool(*v)),
                None => None,
            };
            if let Some(v) = typed {
                out.push((k.name.clone(), v));
            } else if let Some(b) = k.other.as_ref().and_then(|c| c.get(entry)) {
                let m = Metadata::new(metadata).map_err(damaged)?;
                out.push((k.name.clone(), variant::decode(&m, b, 0).map_err(damaged)?));
            }
        }
        if let Some(b) = self.value.as_ref().and_then(|c| c.get(entry)) {
            let m = Metadata::new(metadata).map_err(damaged)?;
            variant::fields(&m, b, |k, v| {
                out.push((k.to_owned(), variant::decode(&m, v, 1)?));
                Ok(())
            })
            .map_err(damaged)?;
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }
}

/// A list column's entries by row.
pub(super) struct Lists {
    /// First entry of each row, and the number of entries at the end.
    pub starts: Vec<usize>,
    /// Whether an entry is an element; a row without any has one entry all the same.
    pub element: Vec<bool>,
}

impl Lists {
    pub fn read(s: &Source<'_>, path: &[&str]) -> Result<Lists> {
        if s.block.is_all_null(s.group, s.block.need_leaf(path)?) {
            return Ok(Lists { starts: (0..=s.rows.len()).collect(), element: vec![false; s.rows.len()] });
        }
        let (leaf, start, end) = s.leaf::<Bytes>(s.block.need_leaf(path)?)?;
        let reps = leaf.rep.get(start..end).unwrap_or_default();
        let mut starts: Vec<usize> = reps.iter().enumerate().filter(|(_, r)| **r == 0).map(|(i, _)| i).collect();
        if starts.len() != s.rows.len() {
            return Err(Error::corrupt(format!("column {} has too few rows", path.join("."))));
        }
        starts.push(end - start);
        let element: Vec<bool> = leaf.def.get(start..end).unwrap_or_default().iter().map(|d| *d >= 1).collect();
        if starts.windows(2).any(|w| w[1] > w[0] + 1 && element.get(w[0]..w[1]).is_none_or(|e| e.contains(&false))) {
            return Err(Error::corrupt(format!("column {} has an absent element among others", path.join("."))));
        }
        Ok(Lists { starts, element })
    }
    pub fn entries(&self, row: usize) -> impl Iterator<Item = usize> {
        (self.starts[row]..self.starts[row + 1]).filter(|e| self.element.get(*e).copied().unwrap_or(false))
    }
}
