//! Columns written page by page: as a dictionary and indices, or plainly.
//!
//! The general writer looks every value up in a dictionary of its own; here the values are numbered already, so that a
//! page is its indices packed. Levels and indices are run-length and bit-packed hybrids, pages are of version 1.

use bytes::Bytes;
use foldhash::HashMap;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::dict::Dict;
use crate::codec::put_uvarint;

type Result<T> = std::result::Result<T, ParquetError>;

/// Longer extremes are left out of the statistics.
const MAX_STATISTIC_BYTES: usize = 64;

/// Larger dictionaries are left to the general writer, which gives up on them in time.
pub const MAX_DICTIONARY_BYTES: usize = 4 << 20;

/// So large a dictionary must save something: whoever reads a row of the column reads all of it.
pub const FREE_DICTIONARY_BYTES: usize = 512 << 10;

/// Compresses pages; its memory is kept from page to page.
pub struct PageCompressor {
    zstd: zstd::bulk::Compressor<'static>,
    level: i32,
}

impl PageCompressor {
    /// At a level of zstd.
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(PageCompressor { zstd: zstd::bulk::Compressor::new(level)?, level })
    }
}

/// Integers that are packed.
pub trait Packed: Copy + PartialEq {
    /// Its low bits.
    fn bits(self) -> u32;
}

impl Packed for u32 {
    fn bits(self) -> u32 {
        self
    }
}

impl Packed for i16 {
    fn bits(self) -> u32 {
        self as u32
    }
}

/// How many values at the beginning are the same. Most columns are one long run, so that many are compared at a time.
#[inline]
fn run_length<T: Packed>(values: &[T]) -> usize {
    const STEP: usize = 32;
    let Some(first) = values.first().copied() else { return 0 };
    let mut n = 1;
    if values.get(1) != Some(&first) {
        return n;
    }
    while let Some(some) = values.get(n..n + STEP) {
        // Without a branch for each, so that the compiler compares them together.
        if !some.iter().fold(true, |same, v| same & (*v == first)) {
            break;
        }
        n += STEP;
    }
    n + values[n..].iter().take_while(|v| **v == first).count()
}

/// A packed run of values: groups of eight, filled up with zeros.
fn put_packed<T: Packed>(values: &[T], width: u32, out: &mut Vec<u8>) {
    let groups = values.len().div_ceil(8);
    if groups == 0 {
        return;
    }
    put_uvarint(out, (groups as u64) << 1 | 1);
    let end = out.len() + groups * width as usize;
    let (mut word, mut filled) = (0u64, 0u32);
    for v in values {
        word |= u64::from(v.bits()) << filled;
        filled += width;
        if filled >= 32 {
            out.extend_from_slice(&(word as u32).to_le_bytes());
            word >>= 32;
            filled -= 32;
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8) as usize]);
    out.resize(end, 0);
}

/// Appends integers of `width` bits: runs of eight and more as such, the rest packed.
pub fn hybrid<T: Packed>(values: &[T], width: u32, out: &mut Vec<u8>) {
    let bytes = width.div_ceil(8) as usize;
    // What waits to be packed, and where the next run begins.
    let (mut from, mut at) = (0, 0);
    while at < values.len() {
        let run = run_length(&values[at..]);
        // A packed group is filled up from a run before the run is written as such.
        let fill = (8 - (at - from) % 8) % 8;
        if run >= 8 + fill {
            put_packed(&values[from..at + fill], width, out);
            put_uvarint(out, ((run - fill) as u64) << 1);
            out.extend_from_slice(&values[at].bits().to_le_bytes()[..bytes]);
            from = at + run;
        }
        at += run;
    }
    put_packed(&values[from..], width, out);
}

/// A column's values.
pub enum Body<'a> {
    /// Distinct values as they lie in a dictionary page, their number, and which each value is.
    #[allow(missing_docs)]
    Dictionary { plain: Vec<u8>, distinct: usize, ids: &'a [u32] },
    /// Values of one length, one after the other: noise, neither numbered nor compressed.
    #[allow(missing_docs)]
    Plain { bytes: &'a [u8], width: usize },
}

impl Body<'_> {
    fn len(&self) -> usize {
        match self {
            Body::Dictionary { ids, .. } => ids.len(),
            Body::Plain { bytes, width } => bytes.len() / width,
        }
    }
    fn encoding(&self) -> Encoding {
        match self {
            Body::Dictionary { .. } => Encoding::RLE_DICTIONARY,
            Body::Plain { .. } => Encoding::PLAIN,
        }
    }
    /// Appends the values of a data page: `n` from `from` on; indices are packed `width` bits wide.
    fn put_values(&self, from: usize, n: usize, width: u32, out: &mut Vec<u8>) {
        match self {
            Body::Dictionary { ids, .. } => {
                out.push(width as u8);
                hybrid(&ids[from..from + n], width, out);
            }
            Body::Plain { bytes, width } => out.extend_from_slice(&bytes[from * width..(from + n) * width]),
        }
    }
}

/// What is said of a column beside its values.
#[derive(Default)]
pub struct About {
    /// Extremes; none: no statistics.
    pub statistics: Option<Statistics>,
    /// Tells which values are not there.
    pub bloom: Option<Sbbf>,
}

/// Entries of the page that begins at `from`: so many rows, whole ones where rows are lists.
fn page_entries(rep: &[i16], from: usize, entries: usize, page_rows: usize) -> usize {
    if rep.is_empty() {
        return page_rows.min(entries - from);
    }
    let rest = &rep[from..];
    rest.iter().enumerate().filter(|(_, r)| **r == 0).nth(page_rows).map_or(rest.len(), |(i, _)| i)
}

/// Appends levels with their length before them; nothing where there is one level only.
fn put_levels(levels: &[i16], max: i16, out: &mut Vec<u8>) {
    if max == 0 {
        return;
    }
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    hybrid(levels, 16 - (max as u16).leading_zeros(), out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// What the pages of a column chunk came to.
struct Sizes {
    entries: usize,
    compressed: usize,
    uncompressed: usize,
    /// Where the first data page begins.
    data_offset: u64,
}

fn metadata(descr: &ColumnDescPtr, packed: bool, level: i32, statistics: Option<Statistics>, sizes: Sizes) -> Result<ColumnChunkMetaData> {
    let (compression, encodings) = if packed {
        (Compression::ZSTD(ZstdLevel::try_new(level)?), vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
    } else {
        (Compression::UNCOMPRESSED, vec![Encoding::PLAIN, Encoding::RLE])
    };
    let mut metadata = ColumnChunkMetaData::builder(descr.clone())
        .set_compression(compression)
        .set_encodings(encodings)
        .set_total_compressed_size(sizes.compressed as i64)
        .set_total_uncompressed_size(sizes.uncompressed as i64)
        .set_num_values(sizes.entries as i64)
        .set_dictionary_page_offset(packed.then_some(0))
        .set_data_page_offset(sizes.data_offset as i64);
    if let Some(s) = statistics {
        metadata = metadata.set_statistics(s);
    }
    metadata.build()
}

/// A column chunk and its metadata, offsets counted from its own first byte. `def` and `rep` are the entries' levels,
/// empty where the column has none.
pub fn column(
    descr: &ColumnDescPtr,
    body: &Body<'_>,
    (def, rep): (&[i16], &[i16]),
    page_rows: usize,
    compressor: &mut PageCompressor,
    about: About,
) -> Result<(Bytes, ColumnCloseResult)> {
    let (max_def, max_rep) = (descr.max_def_level(), descr.max_rep_level());
    let entries = if def.is_empty() { body.len() } else { def.len() };
    let packed = matches!(body, Body::Dictionary { .. });
    let squeeze = |plain: &[u8], c: &mut PageCompressor| match packed {
        true => c.zstd.compress(plain).map(Bytes::from).map_err(ParquetError::from),
        false => Ok(Bytes::copy_from_slice(plain)),
    };
    let mut sink = TrackedWrite::new(Vec::new());
    let mut offsets = OffsetIndexBuilder::new();
    let (mut uncompressed, mut compressed, mut data_offset, mut width) = (0usize, 0usize, None, 0);
    let mut pages = SerializedPageWriter::new(&mut sink);
    if let Body::Dictionary { plain, distinct, .. } = body {
        width = 32 - (distinct.saturating_sub(1) as u32).leading_zeros();
        let dictionary = Page::DictionaryPage {
            buf: squeeze(plain, compressor)?,
            num_values: *distinct as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let spec = pages.write_page(CompressedPage::new(dictionary, plain.len()))?;
        // A page counts with its header.
        uncompressed += spec.uncompressed_size;
        compressed += spec.compressed_size;
    }
    let (mut at, mut value, mut rows, mut plain) = (0, 0, 0, Vec::new());
    while at < entries || data_offset.is_none() {
        let n = page_entries(rep, at, entries, page_rows);
        let levels = |l: &'_ [i16]| if l.is_empty() { 0..0 } else { at..at + n };
        let (page_def, page_rep) = (&def[levels(def)], &rep[levels(rep)]);
        plain.clear();
        put_levels(page_rep, max_rep, &mut plain);
        put_levels(page_def, max_def, &mut plain);
        let present = if max_def > 0 { page_def.iter().filter(|d| **d == max_def).count() } else { n };
        body.put_values(value, present, width, &mut plain);
        let page = Page::DataPage {
            buf: squeeze(&plain, compressor)?,
            num_values: n as u32,
            encoding: body.encoding(),
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let page_row_count = if rep.is_empty() { n } else { page_rep.iter().filter(|r| **r == 0).count() };
        let spec = pages.write_page(CompressedPage::new(page, plain.len()))?;
        uncompressed += spec.uncompressed_size;
        compressed += spec.compressed_size;
        data_offset.get_or_insert(spec.offset);
        offsets.append_row_count(page_row_count as i64);
        offsets.append_offset_and_size(spec.offset as i64, spec.compressed_size as i32);
        at += n;
        value += present;
        rows += page_row_count;
    }
    let sizes = Sizes { entries, compressed, uncompressed, data_offset: data_offset.unwrap_or(0) };
    let metadata = metadata(descr, packed, compressor.level, about.statistics, sizes)?;
    let bytes = Bytes::from(sink.into_inner()?);
    let close = ColumnCloseResult {
        bytes_written: bytes.len() as u64,
        rows_written: rows as u64,
        metadata,
        bloom_filter: about.bloom,
        column_index: None,
        offset_index: Some(offsets.build()),
    };
    Ok((bytes, close))
}

/// A dictionary page of texts, and the extremes of the column unless they are long.
pub fn texts(distinct: &Dict, nulls: u64) -> (Vec<u8>, Statistics) {
    let mut plain = Vec::with_capacity(distinct.text_bytes() + 4 * distinct.len());
    for d in distinct.iter() {
        plain.extend_from_slice(&(d.len() as u32).to_le_bytes());
        plain.extend_from_slice(d);
    }
    let extreme = |v: Option<&[u8]>| v.filter(|v| v.len() <= MAX_STATISTIC_BYTES).map(|v| ByteArray::from(v.to_vec()));
    let statistics = Statistics::byte_array(extreme(distinct.iter().min()), extreme(distinct.iter().max()), None, Some(nulls), false);
    (plain, statistics)
}

/// The distinct ones of some numbers in the order they first occur, and which each is.
pub fn number<T: Copy + Eq + std::hash::Hash>(values: &[T]) -> (Vec<T>, Vec<u32>) {
    let mut known: HashMap<T, u32> = HashMap::default();
    let (mut distinct, mut ids) = (Vec::new(), Vec::with_capacity(values.len()));
    let mut last: Option<(T, u32)> = None;
    for v in values {
        // Neighbours are often alike.
        let id = match last {
            Some((l, id)) if l == *v => id,
            _ => *known.entry(*v).or_insert_with(|| {
                distinct.push(*v);
                distinct.len() as u32 - 1
            }),
        };
        last = Some((*v, id));
        ids.push(id);
    }
    (distinct, ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(runs in proptest::collection::vec((0u32..70_000, 1usize..40), 0..30), wide in any::<bool>()) {
            let values: Vec<u32> = runs.iter().flat_map(|(v, n)| std::iter::repeat_n(if wide { *v } else { v % 3 }, *n)).collect();
            let width = if wide { 17 } else { 2 };
            let mut out = Vec::new();
            hybrid(&values, width, &mut out);
            let mut back: Vec<u32> = Vec::new();
            crate::columnar::hybrid::decode(&out, width, values.len(), &mut back).unwrap();
            prop_assert_eq!(back, values);
        }
    }
}
