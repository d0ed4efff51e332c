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

type Result<T> = std::result::Result<T, ParquetError>;

/// Longer extremes are left out of the statistics.
const MAX_STATISTIC_BYTES: usize = 64;

/// Larger dictionaries are left to the general writer, which gives up on them in time.
pub const MAX_DICTIONARY_BYTES: usize = 4 << 20;

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

/// Appends integers of `width` bits: runs of eight and more as such, the rest packed.
pub fn hybrid(values: impl ExactSizeIterator<Item = u32> + Clone, width: u32, out: &mut Vec<u8>) {
    let bytes = width.div_ceil(8) as usize;
    let mut rest = values.clone();
    let mut packed: Vec<u32> = Vec::new();
    let flush = |packed: &mut Vec<u32>, out: &mut Vec<u8>| {
        if packed.is_empty() {
            return;
        }
        let groups = packed.len().div_ceil(8);
        varint((groups as u64) << 1 | 1, out);
        let (mut word, mut filled) = (0u64, 0u32);
        packed.resize(groups * 8, 0);
        for v in packed.drain(..) {
            word |= u64::from(v) << filled;
            filled += width;
            while filled >= 8 {
                out.push(word as u8);
                word >>= 8;
                filled -= 8;
            }
        }
    };
    while let Some(v) = rest.next() {
        let mut ahead = rest.clone();
        let mut run = 1;
        while run < usize::MAX && ahead.clone().next() == Some(v) {
            ahead.next();
            run += 1;
        }
        // A packed group is filled up from a run before the run is written as such.
        let fill = (8 - packed.len() % 8) % 8;
        if run >= 8 + fill {
            packed.extend(std::iter::repeat_n(v, fill));
            flush(&mut packed, out);
            varint(((run - fill) as u64) << 1, out);
            out.extend_from_slice(&v.to_le_bytes()[..bytes]);
        } else {
            packed.extend(std::iter::repeat_n(v, run));
        }
        rest = ahead;
    }
    flush(&mut packed, out);
}

fn varint(mut v: u64, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
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
    hybrid(levels.iter().map(|d| *d as u32), 16 - (max as u16).leading_zeros(), out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
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
        match body {
            Body::Dictionary { ids, .. } => {
                plain.push(width as u8);
                hybrid(ids[value..value + present].iter().copied(), width, &mut plain);
            }
            Body::Plain { bytes, width } => plain.extend_from_slice(&bytes[value * width..(value + present) * width]),
        }
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
    let mut metadata = ColumnChunkMetaData::builder(descr.clone())
        .set_compression(if packed { Compression::ZSTD(ZstdLevel::try_new(compressor.level)?) } else { Compression::UNCOMPRESSED })
        .set_encodings(if packed {
            vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY]
        } else {
            vec![Encoding::PLAIN, Encoding::RLE]
        })
        .set_total_compressed_size(compressed as i64)
        .set_total_uncompressed_size(uncompressed as i64)
        .set_num_values(entries as i64)
        .set_dictionary_page_offset(packed.then_some(0))
        .set_data_page_offset(data_offset.unwrap_or(0) as i64);
    if let Some(s) = about.statistics {
        metadata = metadata.set_statistics(s);
    }
    let metadata = metadata.build()?;
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
pub fn texts(distinct: &[Bytes], nulls: u64) -> (Vec<u8>, Statistics) {
    let mut plain = Vec::with_capacity(distinct.iter().map(|d| d.len() + 4).sum());
    for d in distinct {
        plain.extend_from_slice(&(d.len() as u32).to_le_bytes());
        plain.extend_from_slice(d);
    }
    let extreme = |v: Option<&Bytes>| v.filter(|v| v.len() <= MAX_STATISTIC_BYTES).map(|v| ByteArray::from(v.clone()));
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
            hybrid(values.iter().copied(), width, &mut out);
            let mut back: Vec<u32> = Vec::new();
            crate::columnar::hybrid::decode(&out, width, values.len(), &mut back).unwrap();
            prop_assert_eq!(back, values);
        }
    }
}
