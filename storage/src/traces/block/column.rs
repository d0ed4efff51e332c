//! Writing a row group column by column.

use std::io::Write;

use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::ColumnDescPtr;

use super::shred::{KeyColumns, VariantColumns};
use crate::columnar::parquet_error;
use crate::columnar::write::{Levels, Scratch, Values, write_column};
use crate::error::Result;

/// Entries of a list column: an entry for each element, and one for each row without any.
#[derive(Default)]
pub(super) struct List {
    pub rep: Vec<i16>,
    pub element: Vec<bool>,
    /// Entries that are elements.
    pub at: Vec<u32>,
}

impl List {
    /// Adds a row of `n` elements; returns the entry of the first.
    pub fn row(&mut self, n: usize) -> u32 {
        let first = self.rep.len() as u32;
        for i in 0..n.max(1) {
            self.rep.push(i16::from(i > 0));
            self.element.push(n > 0);
            if n > 0 {
                self.at.push(first + i as u32);
            }
        }
        first
    }

    /// Forgets the entries, keeps the memory.
    pub fn clear(&mut self) {
        self.rep.clear();
        self.element.clear();
        self.at.clear();
    }
}

/// A leaf's values and levels, relative to the list it may stand in.
pub(super) struct Column<'a> {
    values: Values<'a>,
    /// Entries with a value; none: all.
    at: Option<&'a [u32]>,
    /// Definition level of an entry without one.
    depth: usize,
    max_def: i16,
}

impl<'a> Column<'a> {
    /// Of a value everywhere.
    pub fn all(values: Values<'a>) -> Self {
        Column { values, at: None, depth: 0, max_def: 0 }
    }
    /// Of values at some entries.
    pub fn some(values: Values<'a>, at: &'a [u32]) -> Self {
        Column { values, at: Some(at), depth: 0, max_def: 1 }
    }
    /// Of a value everywhere, where the schema would let it be absent.
    pub fn optional(values: Values<'a>) -> Self {
        Column { values, at: None, depth: 0, max_def: 1 }
    }
    /// Those of a VARIANT group.
    pub fn of_variants(v: &'a VariantColumns) -> Vec<Self> {
        let mut out = vec![Column::all(Values::Texts(&v.metadata)), Column::some(Values::Texts(&v.rest), &v.rest_at)];
        for KeyColumns { typed, typed_at, other, other_at, .. } in &v.keys {
            out.push(Column { values: Values::Texts(other), at: Some(other_at), depth: 1, max_def: 2 });
            out.push(Column { values: typed.values(), at: Some(typed_at), depth: 1, max_def: 2 });
        }
        out
    }
}

/// A row group being written: flat columns in the schema's order, then those of the lists.
pub(super) struct GroupWriter<'a, W: Write + Send> {
    group: SerializedRowGroupWriter<'a, W>,
    columns: Vec<ColumnDescPtr>,
    next: usize,
    scratch: &'a mut Scratch,
    /// Definition levels of entries without a value, by the column's depth: of the rows, then of the list's entries.
    absent: [Vec<i16>; 2],
    list: Option<&'a List>,
}

impl<'a, W: Write + Send> GroupWriter<'a, W> {
    /// Begins a row group of so many rows.
    pub fn begin(file: &'a mut SerializedFileWriter<W>, rows: usize, scratch: &'a mut Scratch) -> Result<Self> {
        let columns = file.schema_descr().columns().to_vec();
        let group = file.next_row_group().map_err(|e| parquet_error("beginning a row group", e))?;
        Ok(GroupWriter { group, columns, next: 0, scratch, absent: [vec![0; rows], vec![1; rows]], list: None })
    }

    /// Writes the next column: of the rows or, once a list has begun, of its entries.
    pub fn put(&mut self, c: Column<'_>) -> Result<()> {
        let (max_def, rep, present) = match self.list {
            None => (c.max_def, &[] as &[i16], c.at),
            Some(list) => (c.max_def + 1, list.rep.as_slice(), Some(c.at.unwrap_or(&list.at))),
        };
        let levels = Levels { absent: &self.absent[c.depth], present, max_def, rep };
        let descr = &self.columns[self.next];
        self.next += 1;
        write_column(&mut self.group, descr, c.values, &levels, self.scratch).map_err(|e| parquet_error("writing a row group", e))
    }

    /// What follows are columns of a list.
    pub fn begin_list(&mut self, list: &'a List) {
        self.absent = [1i16, 2].map(|level| list.element.iter().map(|e| if *e { level } else { 0 }).collect());
        self.list = Some(list);
    }

    /// Ends the row group.
    pub fn end(self) -> Result<()> {
        self.group.close().map(|_| ()).map_err(|e| parquet_error("ending a row group", e))
    }
}
