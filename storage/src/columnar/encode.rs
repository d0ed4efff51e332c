//! Dictionary-encoded columns of text, written page by page.
//!
//! The general writer looks every value up in a dictionary of its own; here the values are numbered already, so that a
//! page is its indices packed. Levels and indices are run-length and bit-packed hybrids, pages are of version 1.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
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

/// A column chunk and its metadata, offsets counted from its own first byte.
///
/// `distinct` are the values that `ids` number; `def` are the entries' definition levels, empty for required columns.
pub fn text_column(
    descr: &ColumnDescPtr,
    distinct: &[Bytes],
    ids: &[u32],
    def: &[i16],
    page_rows: usize,
    compressor: &mut PageCompressor,
) -> Result<(Bytes, ColumnCloseResult)> {
    let max_def = descr.max_def_level();
    let entries = if def.is_empty() { ids.len() } else { def.len() };
    let mut sink = TrackedWrite::new(Vec::new());
    let mut offsets = OffsetIndexBuilder::new();
    let (mut uncompressed, mut compressed, mut data_offset) = (0usize, 0usize, None);
    let mut pages = SerializedPageWriter::new(&mut sink);
    let mut plain = Vec::with_capacity(distinct.iter().map(|d| d.len() + 4).sum());
    for d in distinct {
        plain.extend_from_slice(&(d.len() as u32).to_le_bytes());
        plain.extend_from_slice(d);
    }
    let squeeze = |plain: &[u8], c: &mut PageCompressor| c.zstd.compress(plain).map(Bytes::from).map_err(ParquetError::from);
    let dictionary = Page::DictionaryPage {
        buf: squeeze(&plain, compressor)?,
        num_values: distinct.len() as u32,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    };
    let spec = pages.write_page(CompressedPage::new(dictionary, plain.len()))?;
    // A page counts with its header.
    uncompressed += spec.uncompressed_size;
    compressed += spec.compressed_size;
    let width = 32 - (distinct.len().saturating_sub(1) as u32).leading_zeros();
    let (mut row, mut value) = (0, 0);
    while row < entries || (entries == 0 && data_offset.is_none()) {
        let n = page_rows.min(entries - row);
        plain.clear();
        let mut present = n;
        if max_def > 0 {
            let levels = &def[row..row + n];
            present = levels.iter().filter(|d| **d == max_def).count();
            plain.extend_from_slice(&[0; 4]);
            hybrid(levels.iter().map(|d| *d as u32), 16 - (max_def as u16).leading_zeros(), &mut plain);
            let len = (plain.len() - 4) as u32;
            plain[..4].copy_from_slice(&len.to_le_bytes());
        }
        plain.push(width as u8);
        hybrid(ids[value..value + present].iter().copied(), width, &mut plain);
        let page = Page::DataPage {
            buf: squeeze(&plain, compressor)?,
            num_values: n as u32,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = pages.write_page(CompressedPage::new(page, plain.len()))?;
        uncompressed += spec.uncompressed_size;
        compressed += spec.compressed_size;
        data_offset.get_or_insert(spec.offset);
        offsets.append_row_count(n as i64);
        offsets.append_offset_and_size(spec.offset as i64, spec.compressed_size as i32);
        row += n;
        value += present;
    }
    let extreme = |v: Option<&Bytes>| v.filter(|v| v.len() <= MAX_STATISTIC_BYTES).map(|v| ByteArray::from(v.clone()));
    let nulls = (entries - ids.len()) as u64;
    let statistics = Statistics::byte_array(extreme(distinct.iter().min()), extreme(distinct.iter().max()), None, Some(nulls), false);
    let level = ZstdLevel::try_new(compressor.level)?;
    let metadata = ColumnChunkMetaData::builder(descr.clone())
        .set_compression(Compression::ZSTD(level))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
        .set_total_compressed_size(compressed as i64)
        .set_total_uncompressed_size(uncompressed as i64)
        .set_num_values(entries as i64)
        .set_dictionary_page_offset(Some(0))
        .set_data_page_offset(data_offset.unwrap_or(0) as i64)
        .set_statistics(statistics)
        .build()?;
    let bytes = Bytes::from(sink.into_inner()?);
    let close = ColumnCloseResult {
        bytes_written: bytes.len() as u64,
        rows_written: entries as u64,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: Some(offsets.build()),
    };
    Ok((bytes, close))
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
