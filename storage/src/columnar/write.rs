//! Writing one leaf column: values gathered sparsely, levels made at the end.

use std::io::Write;

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::statistics::Statistics;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::ColumnDescPtr;

use super::dict::Dict;
use super::encode::{self, About, Body, FREE_DICTIONARY_BYTES, MAX_DICTIONARY_BYTES, PageCompressor};

/// The present values of a column, in order.
pub enum Values {
    /// Text or bytes, as ids of distinct ones.
    Bytes(Dict, Vec<u32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit integers whose bytes are split into streams: each its own, and near its neighbours.
    Split(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Doubles.
    F64(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Ids of a fixed length, one after the other, that recur.
    Ids(Vec<u8>, usize),
    /// Ids of a fixed length, rising, with a filter that tells which are not there.
    Sorted(Vec<u8>, usize),
    /// Ids of a fixed length, each its own.
    Noise(Vec<u8>, usize),
}

impl Values {
    /// No text yet.
    pub fn bytes() -> Self {
        Values::Bytes(Dict::default(), Vec::new())
    }
    /// Number of values.
    fn len(&self) -> usize {
        match self {
            Values::Bytes(_, ids) => ids.len(),
            Values::I64(v) | Values::Split(v) => v.len(),
            Values::I32(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::Bool(v) => v.len(),
            Values::Ids(v, width) | Values::Sorted(v, width) | Values::Noise(v, width) => v.len() / width,
        }
    }
    /// Bytes held in memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Values::Bytes(d, i) => d.size_bytes() + i.capacity() * 4,
            Values::I64(v) | Values::Split(v) => v.capacity() * 8,
            Values::I32(v) => v.capacity() * 4,
            Values::F64(v) => v.capacity() * 8,
            Values::Bool(v) => v.capacity(),
            Values::Ids(v, _) | Values::Sorted(v, _) | Values::Noise(v, _) => v.capacity(),
        }
    }
}

/// Levels of a column's entries.
pub struct Levels<'a> {
    /// Definition level of each entry that lacks a value.
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
    let entries = levels.absent.len();
    if values.len() != levels.present.map_or(entries, <[u32]>::len) || levels.present.is_some_and(|p| p.len() > entries) {
        return Err(ParquetError::General(format!("column {} has a value too many or too few", descr.path())));
    }
    let Scratch { levels: def, compressor, page_rows } = scratch;
    let max_def = levels.max_def;
    def.clear();
    if levels.max_def > 0 {
        def.extend_from_slice(levels.absent);
        match levels.present {
            Some(entries) => entries.iter().for_each(|e| def[*e as usize] = levels.max_def),
            None => def.fill(levels.max_def),
        }
    }
    let entries = if def.is_empty() { None } else { Some(def.len()) };
    let nulls = |present: usize| entries.map_or(0, |e| e - present) as u64;
    let levels = (def.as_slice(), levels.rep);
    let mut own = |body: Body<'_>, about: About| {
        let (bytes, close) = encode::column(descr, &body, levels, *page_rows, compressor, about)?;
        group.append_column(&bytes, close)
    };
    let with = |statistics| About { statistics: Some(statistics), bloom: None };
    match values {
        Values::Bytes(dict, ids) if is_worth_it(&dict, ids.len()) => {
            let distinct = dict.into_values();
            let (plain, statistics) = encode::texts(&distinct, nulls(ids.len()));
            own(Body::Dictionary { plain, distinct: distinct.len(), ids: &ids }, with(statistics))
        }
        Values::I32(v) => {
            let (distinct, ids) = encode::number(&v);
            let (min, max) = (distinct.iter().min().copied(), distinct.iter().max().copied());
            let plain = distinct.iter().flat_map(|v| v.to_le_bytes()).collect();
            let statistics = Statistics::int32(min, max, None, Some(nulls(ids.len())), false);
            own(Body::Dictionary { plain, distinct: distinct.len(), ids: &ids }, with(statistics))
        }
        Values::I64(v) if v.len() <= MAX_DICTIONARY_BYTES / 8 => {
            let (distinct, ids) = encode::number(&v);
            let (min, max) = (distinct.iter().min().copied(), distinct.iter().max().copied());
            let plain = distinct.iter().flat_map(|v| v.to_le_bytes()).collect();
            let statistics = Statistics::int64(min, max, None, Some(nulls(ids.len())), false);
            own(Body::Dictionary { plain, distinct: distinct.len(), ids: &ids }, with(statistics))
        }
        Values::Ids(v, width) => {
            let mut dict = Dict::default();
            let ids: Vec<u32> = v.chunks_exact(width).map(|id| dict.intern(id)).collect();
            let distinct = dict.into_values();
            let statistics = extremes(distinct.iter().min(), distinct.iter().max(), nulls(ids.len()));
            own(Body::Dictionary { plain: distinct.concat(), distinct: distinct.len(), ids: &ids }, with(statistics))
        }
        Values::Sorted(v, width) => {
            let (mut plain, mut ids): (Vec<u8>, Vec<u32>) = (Vec::new(), Vec::with_capacity(v.len() / width));
            for id in v.chunks_exact(width) {
                if plain.is_empty() || !plain.ends_with(id) {
                    plain.extend_from_slice(id);
                }
                ids.push((plain.len() / width) as u32 - 1);
            }
            let mut bloom = Sbbf::new_with_ndv_fpp(((plain.len() / width) as u64).max(MIN_FILTERED), FALSE_POSITIVES)?;
            plain.chunks_exact(width).for_each(|id| bloom.insert(id));
            let bound = |id: Option<&[u8]>| id.map(Bytes::copy_from_slice);
            let (min, max) = (bound(plain.chunks_exact(width).next()), bound(plain.chunks_exact(width).next_back()));
            let statistics = Some(extremes(min.as_ref(), max.as_ref(), 0));
            let distinct = plain.len() / width;
            own(Body::Dictionary { plain, distinct, ids: &ids }, About { statistics, bloom: Some(bloom) })
        }
        Values::Noise(v, width) => own(Body::Plain { bytes: &v, width }, About::default()),
        other => general(group, other, levels, max_def),
    }
}

/// Whether a dictionary is written, and not the texts one by one.
fn is_worth_it(dict: &Dict, texts: usize) -> bool {
    dict.text_bytes() <= FREE_DICTIONARY_BYTES || (dict.text_bytes() <= MAX_DICTIONARY_BYTES && texts >= 2 * dict.len())
}

/// Filters are made for so many values at least, with so many false positives.
const MIN_FILTERED: u64 = 64;
const FALSE_POSITIVES: f64 = 0.01;

fn extremes(min: Option<&Bytes>, max: Option<&Bytes>, nulls: u64) -> Statistics {
    // Copied: a slice would keep all ids until the file ends.
    let id = |v: Option<&Bytes>| v.map(|v| FixedLenByteArray::from(ByteArray::from(v.to_vec())));
    Statistics::fixed_len_byte_array(id(min), id(max), None, Some(nulls), false)
}

/// A page's size is looked at between stretches of so many bytes.
const STRETCH_BYTES: usize = 256 << 10;

/// Cuts entries into stretches of whole rows whose texts take about [`STRETCH_BYTES`] each: the end of each, and the number of
/// texts to there. `sizes` are those of the texts, `present` tells which entries have one.
fn stretches(sizes: impl Iterator<Item = usize>, entries: usize, present: impl Fn(usize) -> bool, rep: &[i16]) -> Vec<(usize, usize)> {
    let (mut sizes, mut out) = (sizes.fuse(), Vec::new());
    let (mut bytes, mut texts) = (0, 0);
    for e in 0..entries {
        if bytes >= STRETCH_BYTES && rep.get(e).is_none_or(|r| *r == 0) {
            out.push((e, texts));
            bytes = 0;
        }
        if present(e) {
            bytes += sizes.next().unwrap_or(0);
            texts += 1;
        }
    }
    out.push((entries, texts));
    out
}

/// Texts of which too many differ. The general writer minds a page's size only between calls, and some texts are large.
fn texts(
    column: &mut ColumnWriterImpl<'_, ByteArrayType>,
    dict: Dict,
    ids: &[u32],
    (def, rep): (&[i16], &[i16]),
    max_def: i16,
) -> Result<(), ParquetError> {
    let distinct: Vec<ByteArray> = dict.into_values().into_iter().map(ByteArray::from).collect();
    // Every distinct value occurs: the extremes of all are those of the distinct ones, which are fewer.
    let (min, max) = (distinct.iter().min_by(|a, b| a.data().cmp(b.data())), distinct.iter().max_by(|a, b| a.data().cmp(b.data())));
    let sizes = ids.iter().map(|i| distinct[*i as usize].len());
    let entries = if def.is_empty() { ids.len() } else { def.len() };
    let (mut entry, mut text) = (0, 0);
    for (entries, texts) in stretches(sizes, entries, |e| def.get(e).is_none_or(|d| *d == max_def), rep) {
        let values: Vec<ByteArray> = ids[text..texts].iter().map(|i| distinct[*i as usize].clone()).collect();
        column.write_batch_with_statistics(&values, def.get(entry..entries), rep.get(entry..entries), min, max, None)?;
        (entry, text) = (entries, texts);
    }
    Ok(())
}

/// By the general writer: what has too many distinct values for a dictionary, and what is encoded otherwise.
fn general<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: Values,
    levels: (&[i16], &[i16]),
    max_def: i16,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("more columns than the schema has".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    let [def, rep] = [levels.0, levels.1].map(|l| (!l.is_empty()).then_some(l));
    match values {
        Values::Bytes(dict, ids) => texts(column.typed::<ByteArrayType>(), dict, &ids, levels, max_def)?,
        Values::I64(v) | Values::Split(v) => {
            column.typed::<Int64Type>().write_batch(&v, def, rep)?;
        }
        Values::F64(v) => {
            column.typed::<DoubleType>().write_batch(&v, def, rep)?;
        }
        Values::Bool(v) => {
            column.typed::<BoolType>().write_batch(&v, def, rep)?;
        }
        Values::I32(_) | Values::Ids(..) | Values::Sorted(..) | Values::Noise(..) => {
            return Err(ParquetError::General("a column that is written otherwise".into()));
        }
    }
    column.close()
}
