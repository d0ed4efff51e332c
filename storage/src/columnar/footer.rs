//! What is kept of a file's footer while the file is open: a tenth of what it is when parsed.

use std::ops::Range;
use std::sync::Arc;

use parquet::basic::{Compression, Type as Physical};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use super::{check, parquet_error};
use crate::error::{Error, Result};

/// A page of values.
#[derive(Clone, Copy, Debug)]
pub struct PageAt {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length there.
    pub len: u32,
    /// The row of the row group that it begins with.
    pub first_row: u32,
}

/// Least and greatest value, as they are encoded, and the number of entries without one.
#[derive(Clone, Copy, Debug)]
pub struct Stats<'a> {
    /// The least value, or a bound below all; none where there is no value or it is not known.
    pub min: Option<&'a [u8]>,
    /// The same of the greatest.
    pub max: Option<&'a [u8]>,
    /// Whether both occur.
    pub exact: bool,
    /// None if not known.
    pub nulls: Option<u64>,
}

const NOT_KNOWN: u32 = u32::MAX;
const NO_VALUE: u16 = u16::MAX;

/// A column chunk.
#[derive(Clone, Debug)]
struct Chunk {
    start: u64,
    len: u64,
    values: u32,
    nulls: u32,
    compression: Compression,
    dictionary: bool,
    exact: bool,
    /// Where the extremes lie among all bytes of such, and how long they are.
    extremes: u32,
    lens: [u16; 2],
    /// Where its pages begin among all.
    pages: u32,
}

/// A column chunk and where it lies.
#[derive(Clone, Copy)]
pub struct Column<'a> {
    /// Type and levels.
    pub descr: &'a ColumnDescPtr,
    /// The first byte in the file.
    pub start: u64,
    /// Bytes in the file.
    pub len: u64,
    /// Entries, those without a value too.
    pub entries: usize,
    /// How its pages are packed.
    pub compression: Compression,
    /// Whether it begins with a dictionary.
    pub dictionary: bool,
    /// Its pages; none if the file does not tell.
    pub pages: &'a [PageAt],
}

/// A row group.
#[derive(Clone, Copy, Debug)]
struct Group {
    rows: u32,
    unpacked_bytes: u64,
}

/// The footer of an open file.
pub struct Footer {
    schema: Arc<SchemaDescriptor>,
    groups: Vec<Group>,
    /// Of the first row group, then of the next.
    chunks: Vec<Chunk>,
    extremes: Vec<u8>,
    pages: Vec<PageAt>,
}

impl Footer {
    /// Of a footer of a file of `file_len` bytes, with the file's schema; fails if it says what can't be.
    pub fn new(metadata: &ParquetMetaData, schema: Arc<SchemaDescriptor>, file_len: u64) -> Result<Footer> {
        check::places(metadata, file_len)?;
        let mut f = Footer { groups: Vec::new(), chunks: Vec::new(), extremes: Vec::new(), pages: Vec::new(), schema };
        let too_large = || Error::corrupt("the footer has a number that is too large");
        for (g, group) in metadata.row_groups().iter().enumerate() {
            let rows = u32::try_from(group.num_rows()).map_err(|_| too_large())?;
            f.groups.push(Group { rows, unpacked_bytes: u64::try_from(group.total_byte_size()).unwrap_or(0) });
            if group.columns().len() != f.schema.num_columns() {
                return Err(Error::corrupt("a row group that lacks columns"));
            }
            let index = metadata.page_index_for_row_group(g);
            for (c, column) in group.columns().iter().enumerate() {
                let pages = f.pages.len() as u32;
                for p in index.offset_index(c).map(|o| o.page_locations().as_slice()).unwrap_or_default() {
                    let (offset, len, first_row) =
                        (p.offset.try_into().ok(), p.compressed_page_size.try_into().ok(), p.first_row_index.try_into().ok());
                    let (Some(offset), Some(len), Some(first_row)) = (offset, len, first_row) else { return Err(too_large()) };
                    f.pages.push(PageAt { offset, len, first_row });
                }
                let (start, len) = column.byte_range();
                let statistics = column.statistics();
                let nulls = statistics.and_then(Statistics::null_count_opt).map_or(Ok(NOT_KNOWN), u32::try_from);
                let extremes = f.extremes.len() as u32;
                let lens =
                    [statistics.and_then(Statistics::min_bytes_opt), statistics.and_then(Statistics::max_bytes_opt)].map(|b| match b {
                        Some(b) if b.len() < usize::from(NO_VALUE) => {
                            f.extremes.extend_from_slice(b);
                            b.len() as u16
                        }
                        _ => NO_VALUE,
                    });
                f.chunks.push(Chunk {
                    start,
                    len,
                    values: column.num_values().try_into().map_err(|_| too_large())?,
                    nulls: nulls.map_err(|_| too_large())?,
                    compression: column.compression(),
                    dictionary: column.dictionary_page_offset().is_some(),
                    exact: statistics.is_some_and(|s| s.min_is_exact() && s.max_is_exact()),
                    extremes,
                    lens,
                    pages,
                });
            }
        }
        f.chunks.shrink_to_fit();
        f.extremes.shrink_to_fit();
        f.pages.shrink_to_fit();
        Ok(f)
    }

    /// Bytes it takes in memory. The schema is not counted: files share it.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk>() + self.extremes.capacity() + self.pages.capacity() * size_of::<PageAt>()
    }
    /// The file's columns.
    pub fn schema(&self) -> &SchemaDescriptor {
        &self.schema
    }
    /// Number of row groups.
    pub fn row_groups(&self) -> usize {
        self.groups.len()
    }
    /// Rows of a row group.
    pub fn rows(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |g| g.rows as usize)
    }
    /// What a row of a row group takes unpacked, about.
    pub fn row_bytes(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |g| usize::try_from(g.unpacked_bytes).unwrap_or(usize::MAX) / (g.rows as usize).max(1))
    }

    fn range(&self, group: usize) -> Range<usize> {
        let columns = self.schema.num_columns();
        group * columns..(group + 1) * columns
    }

    /// A column chunk.
    pub fn column(&self, group: usize, leaf: usize) -> Result<Column<'_>> {
        let missing = || Error::corrupt(format!("the file has no column {leaf} in a row group {group}"));
        let at = Some(self.range(group).start + leaf).filter(|_| leaf < self.schema.num_columns()).ok_or_else(missing)?;
        let c = self.chunks.get(at).ok_or_else(missing)?;
        let pages = c.pages as usize..self.chunks.get(at + 1).map_or(self.pages.len(), |next| next.pages as usize);
        Ok(Column {
            descr: &self.schema.columns()[leaf],
            start: c.start,
            len: c.len,
            entries: c.values as usize,
            compression: c.compression,
            dictionary: c.dictionary,
            pages: &self.pages[pages],
        })
    }

    /// Where the columns of a row group lie.
    pub fn places(&self, group: usize) -> impl Iterator<Item = (u64, u64)> {
        self.chunks.get(self.range(group)).unwrap_or_default().iter().map(|c| (c.start, c.len))
    }

    /// Where the last column ends.
    pub fn end_of_columns(&self) -> u64 {
        self.chunks.iter().map(|c| c.start + c.len).max().unwrap_or(0)
    }

    /// What a column chunk's values are.
    pub fn stats(&self, group: usize, leaf: usize) -> Option<Stats<'_>> {
        let c = self.chunks.get(self.range(group).start + leaf)?;
        let [min, max] = c.lens.map(|n| (n != NO_VALUE).then_some(usize::from(n)));
        let at = c.extremes as usize;
        Some(Stats {
            min: min.map(|n| &self.extremes[at..at + n]),
            max: max.map(|n| &self.extremes[at + min.unwrap_or(0)..at + min.unwrap_or(0) + n]),
            exact: c.exact,
            nulls: (c.nulls != NOT_KNOWN).then_some(u64::from(c.nulls)),
        })
    }

    /// Least and greatest value of a column of numbers.
    pub fn numbers(&self, group: usize, leaf: usize) -> Option<(f64, f64)> {
        let s = self.stats(group, leaf)?;
        let number: fn(&[u8]) -> Option<f64> = match self.schema.columns().get(leaf)?.physical_type() {
            Physical::INT32 => |b| b.try_into().ok().map(i32::from_le_bytes).map(f64::from),
            Physical::INT64 => |b| b.try_into().ok().map(i64::from_le_bytes).map(|v| v as f64),
            Physical::DOUBLE => |b| b.try_into().ok().map(f64::from_le_bytes),
            _ => return None,
        };
        Some((number(s.min?)?, number(s.max?)?))
    }
}

/// Parses a file's footer and page indexes from the bytes of its tail.
pub fn parse(tail: &bytes::Bytes, file_len: u64) -> Result<ParquetMetaData> {
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    let fail = |e| parquet_error("reading a block's footer", e);
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    reader.try_parse_sized(tail, file_len).map_err(fail)?;
    reader.finish().map_err(fail)
}
