//! Writing one leaf column: values gathered sparsely, levels made at the end.

use std::io::Write;

use bytes::Bytes;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::ColumnDescPtr;

use super::dict::Dict;
use super::encode::{MAX_DICTIONARY_BYTES, PageCompressor, text_column};

/// The present values of a column, in order.
pub enum Values {
    /// Text or bytes, as ids of distinct ones.
    Bytes(Dict, Vec<u32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Doubles.
    F64(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Ids of a fixed length, one after the other.
    Fixed(Vec<u8>, usize),
}

impl Values {
    /// No text yet.
    pub fn bytes() -> Self {
        Values::Bytes(Dict::default(), Vec::new())
    }
    /// Bytes held in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Values::Bytes(d, i) => d.size_bytes() + i.capacity() * 4,
            Values::I64(v) => v.capacity() * 8,
            Values::I32(v) => v.capacity() * 4,
            Values::F64(v) => v.capacity() * 8,
            Values::Bool(v) => v.capacity(),
            Values::Fixed(v, _) => v.capacity(),
        }
    }
}

/// Levels of a column's entries.
pub struct Levels<'a> {
    /// Definition level of each entry that lacks a value; empty for columns that lack none.
    pub absent: &'a [i16],
    /// Entries that have a value, rising; none: all do.
    pub present: Option<&'a [u32]>,
    /// Level of a value.
    pub max_def: i16,
    /// Repetition levels; empty in flat columns.
    pub rep: &'a [i16],
}

/// What is kept from column to column.
pub struct Scratch {
    levels: Vec<i16>,
    compressor: PageCompressor,
    page_rows: usize,
}

impl Scratch {
    /// For pages of so many rows, compressed by zstd at a level.
    pub fn new(level: i32, page_rows: usize) -> std::io::Result<Self> {
        Ok(Scratch { levels: Vec::new(), compressor: PageCompressor::new(level)?, page_rows })
    }
}

/// Writes the next column of a row group.
pub fn write_column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    descr: &ColumnDescPtr,
    values: Values,
    levels: &Levels<'_>,
    scratch: &mut Scratch,
) -> Result<(), ParquetError> {
    let Scratch { levels: def, compressor, page_rows } = scratch;
    def.clear();
    if levels.max_def > 0 {
        def.extend_from_slice(levels.absent);
        match levels.present {
            Some(entries) => entries.iter().for_each(|e| def[*e as usize] = levels.max_def),
            None => def.fill(levels.max_def),
        }
    }
    let values = match values {
        Values::Bytes(dict, ids) if levels.rep.is_empty() && dict.text_bytes() <= MAX_DICTIONARY_BYTES => {
            let (bytes, close) = text_column(descr, &dict.into_values(), &ids, def, *page_rows, compressor)?;
            return group.append_column(&bytes, close);
        }
        other => other,
    };
    let missing = || ParquetError::General("more columns than the schema has".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    let def = (levels.max_def > 0).then_some(def.as_slice());
    let rep = (!levels.rep.is_empty()).then_some(levels.rep);
    match values {
        Values::Bytes(dict, ids) => {
            let distinct: Vec<ByteArray> = dict.into_values().into_iter().map(ByteArray::from).collect();
            let v: Vec<ByteArray> = ids.iter().map(|i| distinct[*i as usize].clone()).collect();
            // Every distinct value occurs: the extremes of all are those of the distinct ones, which are fewer.
            let (min, max) = (distinct.iter().min_by(|a, b| a.data().cmp(b.data())), distinct.iter().max_by(|a, b| a.data().cmp(b.data())));
            column.typed::<ByteArrayType>().write_batch_with_statistics(&v, def, rep, min, max, None)?;
        }
        Values::I64(v) => {
            column.typed::<Int64Type>().write_batch(&v, def, rep)?;
        }
        Values::I32(v) => {
            column.typed::<Int32Type>().write_batch(&v, def, rep)?;
        }
        Values::F64(v) => {
            column.typed::<DoubleType>().write_batch(&v, def, rep)?;
        }
        Values::Bool(v) => {
            column.typed::<BoolType>().write_batch(&v, def, rep)?;
        }
        Values::Fixed(v, width) => {
            let all = Bytes::from(v);
            let ids = |i| FixedLenByteArray::from(ByteArray::from(all.slice(i * width..(i + 1) * width)));
            let v: Vec<FixedLenByteArray> = (0..all.len() / width).map(ids).collect();
            let (min, max) = (v.iter().min_by(|a, b| a.data().cmp(b.data())), v.iter().max_by(|a, b| a.data().cmp(b.data())));
            column.typed::<FixedLenByteArrayType>().write_batch_with_statistics(&v, def, rep, min, max, None)?;
        }
    }
    column.close()
}
