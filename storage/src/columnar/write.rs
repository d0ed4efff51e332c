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

use super::dict::{Dict, Texts};
use super::encode::{self, About, Body, FREE_DICTIONARY_BYTES, MAX_DICTIONARY_BYTES, PageCompressor};

/// The present values of a column, in order.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// Text or bytes.
    Texts(&'a Texts),
    /// 64-bit integers.
    I64(&'a [i64]),
    /// 64-bit integers whose bytes are split into streams: each its own, and near its neighbours.
    Split(&'a [i64]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// Doubles.
    F64(&'a [f64]),
    /// Truth values.
    Bool(&'a [bool]),
    /// Ids of a fixed length, one after the other, that recur.
    Ids(&'a [u8], usize),
    /// Ids of a fixed length, rising, with a filter that tells which are not there.
    Sorted(&'a [u8], usize),
    /// Ids of a fixed length, each its own.
    Noise(&'a [u8], usize),
}

impl Values<'_> {
    /// Number of values.
    fn len(&self) -> usize {
        match self {
            Values::Texts(t) => t.ids.len(),
            Values::I64(v) | Values::Split(v) => v.len(),
            Values::I32(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::Bool(v) => v.len(),
            Values::Ids(v, width) | Values::Sorted(v, width) | Values::Noise(v, width) => v.len() / width,
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
    values: Values<'_>,
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
        Values::Texts(Texts { dict, ids }) if is_worth_it(dict, ids.len()) => {
            let (plain, statistics) = encode::texts(dict, nulls(ids.len()));
            own(Body::Dictionary { plain, distinct: dict.len(), ids }, with(statistics))
        }
        Values::I32(v) => {
            let (distinct, ids) = encode::number(v);
            let (plain, min, max) = plain(&distinct, i32::to_le_bytes);
            let statistics = Statistics::int32(min, max, None, Some(nulls(ids.len())), false);
            own(Body::Dictionary { plain, distinct: distinct.len(), ids: &ids }, with(statistics))
        }
        Values::I64(v) if v.len() <= MAX_DICTIONARY_BYTES / 8 => {
            let (distinct, ids) = encode::number(v);
            let (plain, min, max) = plain(&distinct, i64::to_le_bytes);
            let statistics = Statistics::int64(min, max, None, Some(nulls(ids.len())), false);
            own(Body::Dictionary { plain, distinct: distinct.len(), ids: &ids }, with(statistics))
        }
        Values::Ids(v, width) => {
            let mut dict = Dict::default();
            let ids: Vec<u32> = v.chunks_exact(width).map(|id| dict.intern(id)).collect();
            let statistics = extremes(dict.iter().min(), dict.iter().max(), nulls(ids.len()));
            let distinct = dict.len();
            own(Body::Dictionary { plain: dict.into_text(), distinct, ids: &ids }, with(statistics))
        }
        Values::Sorted(v, width) => {
            let (plain, ids, about) = sorted(v, width)?;
            let distinct = plain.len() / width;
            own(Body::Dictionary { plain, distinct, ids: &ids }, about)
        }
        Values::Noise(v, width) => own(Body::Plain { bytes: v, width }, About::default()),
        other => general(group, other, levels, max_def),
    }
}

/// Distinct numbers as they lie in a dictionary page, the smallest and the largest.
fn plain<T: Copy + Ord, const N: usize>(distinct: &[T], bytes: fn(T) -> [u8; N]) -> (Vec<u8>, Option<T>, Option<T>) {
    (distinct.iter().flat_map(|v| bytes(*v)).collect(), distinct.iter().min().copied(), distinct.iter().max().copied())
}

/// Rising ids as a dictionary page, which of it each is, and what is known of them: a filter too.
fn sorted(v: &[u8], width: usize) -> Result<(Vec<u8>, Vec<u32>, About), ParquetError> {
    let (mut plain, mut ids): (Vec<u8>, Vec<u32>) = (Vec::new(), Vec::with_capacity(v.len() / width));
    for id in v.chunks_exact(width) {
        if plain.is_empty() || !plain.ends_with(id) {
            plain.extend_from_slice(id);
        }
        ids.push((plain.len() / width) as u32 - 1);
    }
    let mut bloom = Sbbf::new_with_ndv_fpp(((plain.len() / width) as u64).max(MIN_FILTERED), FALSE_POSITIVES)?;
    plain.chunks_exact(width).for_each(|id| bloom.insert(id));
    let statistics = Some(extremes(plain.chunks_exact(width).next(), plain.chunks_exact(width).next_back(), 0));
    Ok((plain, ids, About { statistics, bloom: Some(bloom) }))
}

/// Whether a dictionary is written, and not the texts one by one.
fn is_worth_it(dict: &Dict, texts: usize) -> bool {
    dict.text_bytes() <= FREE_DICTIONARY_BYTES || (dict.text_bytes() <= MAX_DICTIONARY_BYTES && texts >= 2 * dict.len())
}

/// Filters are made for so many values at least, with so many false positives.
const MIN_FILTERED: u64 = 64;
const FALSE_POSITIVES: f64 = 0.01;

fn extremes(min: Option<&[u8]>, max: Option<&[u8]>, nulls: u64) -> Statistics {
    let id = |v: Option<&[u8]>| v.map(|v| FixedLenByteArray::from(ByteArray::from(v.to_vec())));
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
    Texts { dict, ids }: &Texts,
    (def, rep): (&[i16], &[i16]),
    max_def: i16,
) -> Result<(), ParquetError> {
    // Every distinct value occurs: the extremes of all are those of the distinct ones, which are fewer.
    let owned = |v: Option<&[u8]>| v.map(|v| ByteArray::from(v.to_vec()));
    let (min, max) = (owned(dict.iter().min()), owned(dict.iter().max()));
    let sizes = ids.iter().map(|i| dict.get(*i).len());
    let entries = if def.is_empty() { ids.len() } else { def.len() };
    let (mut entry, mut text) = (0, 0);
    for (entries, texts) in stretches(sizes, entries, |e| def.get(e).is_none_or(|d| *d == max_def), rep) {
        let values = run(dict, &ids[text..texts]);
        column.write_batch_with_statistics(&values, def.get(entry..entries), rep.get(entry..entries), min.as_ref(), max.as_ref(), None)?;
        (entry, text) = (entries, texts);
    }
    Ok(())
}

/// Some texts, as the general writer takes them, in one allocation.
fn run(dict: &Dict, ids: &[u32]) -> Vec<ByteArray> {
    let all: Bytes = ids.iter().map(|i| dict.get(*i)).collect::<Vec<_>>().concat().into();
    let mut at = 0;
    let mut next = |i: &u32| {
        let from = at;
        at += dict.get(*i).len();
        ByteArray::from(all.slice(from..at))
    };
    ids.iter().map(&mut next).collect()
}

/// By the general writer: what has too many distinct values for a dictionary, and what is encoded otherwise.
fn general<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: Values<'_>,
    levels: (&[i16], &[i16]),
    max_def: i16,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("more columns than the schema has".into());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    let [def, rep] = [levels.0, levels.1].map(|l| (!l.is_empty()).then_some(l));
    match values {
        Values::Texts(t) => texts(column.typed::<ByteArrayType>(), t, levels, max_def)?,
        Values::I64(v) | Values::Split(v) => {
            column.typed::<Int64Type>().write_batch(v, def, rep)?;
        }
        Values::F64(v) => {
            column.typed::<DoubleType>().write_batch(v, def, rep)?;
        }
        Values::Bool(v) => {
            column.typed::<BoolType>().write_batch(v, def, rep)?;
        }
        Values::I32(_) | Values::Ids(..) | Values::Sorted(..) | Values::Noise(..) => {
            return Err(ParquetError::General("a column that is written otherwise".into()));
        }
    }
    column.close()
}
