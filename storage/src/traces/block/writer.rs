//! Writes a block: spans come sorted by trace, row groups stream to the file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use strandline_wal::fs::{Fs, IoWriter};

use super::builder::RowGroup;
use super::gather::Gathered;
use super::layout::Layout;
use super::meta::{BlockMeta, META_FILE, SPANS_FILE, sums_to_text};
use super::reader::end_of_columns;
use super::schema::{FORMAT_VERSION, schema};
use super::shred::Names;
use crate::columnar::encode::FREE_DICTIONARY_BYTES;
use crate::columnar::file::Sums;
use crate::columnar::parquet_error;
use crate::columnar::write::Scratch;
use crate::error::{Error, Result};
use crate::traces::otlp::{Groups, RawSpan};

/// Rows of a page at most.
const PAGE_ROWS: usize = 16 << 10;

/// What a row group takes in memory is added up after so many bytes of spans at most.
const WEIGH_BYTES: usize = 1 << 20;

/// How blocks are written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Spans in a row group, about: groups end where a trace does.
    pub row_group_spans: usize,
    /// A row group is cut where it holds so many bytes in memory.
    pub row_group_bytes: usize,
    /// Level of zstd.
    pub zstd_level: i32,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions { row_group_spans: 64 << 10, row_group_bytes: 8 << 20, zstd_level: 3 }
    }
}

/// Whose block it is, and which window it covers.
#[derive(Clone, Debug)]
pub struct BlockIdentity {
    /// The block's name.
    pub ulid: String,
    /// Whose spans.
    pub tenant: String,
    /// The process that compacts and deletes it.
    pub writer_id: String,
    /// Start of the window, Unix milliseconds.
    pub window_start_ms: i64,
    /// Length of the window.
    pub window_ms: i64,
    /// How often its spans were merged.
    pub level: u32,
    /// Blocks it was merged from.
    pub sources: Vec<String>,
}

/// Sums what is written.
struct SumWriter {
    file: IoWriter,
    sums: Sums,
}

impl Write for SumWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.sums.update(&buf[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A block being written.
pub struct BlockWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: SerializedFileWriter<SumWriter>,
    layout: Layout,
    names: Names,
    group: RowGroup,
    options: WriteOptions,
    scratch: Scratch,
    meta: BlockMeta,
    last_trace: [u8; 16],
    /// Bytes of spans since the row group was weighed last.
    unweighed_bytes: usize,
}

fn path(parts: &[&str]) -> ColumnPath {
    ColumnPath::new(parts.iter().map(|s| (*s).to_owned()).collect())
}

fn properties(layout_version: u32, options: &WriteOptions, traces_per_group: u64) -> Result<WriterProperties> {
    let zstd = ZstdLevel::try_new(options.zstd_level).map_err(|e| parquet_error("choosing a compression level", e))?;
    let trace_id = path(&["trace_id"]);
    let mut p = WriterProperties::builder()
        .set_created_by(format!("strandline {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(zstd))
        .set_dictionary_enabled(true)
        .set_dictionary_page_size_limit(FREE_DICTIONARY_BYTES)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(8 << 10)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_column_index_truncate_length(Some(64))
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_bloom_filter_for_dictionary_encoded_chunks(true)
        .set_write_path_in_schema(true)
        .set_key_value_metadata(Some(vec![KeyValue::new("strandline.format".into(), layout_version.to_string())]))
        .set_column_bloom_filter_enabled(trace_id.clone(), true)
        .set_column_bloom_filter_fpp(trace_id.clone(), 0.01)
        .set_column_bloom_filter_max_ndv(trace_id, traces_per_group.max(64));
    // Random bytes: neither a dictionary nor compression helps.
    let span_id = path(&["span_id"]);
    p = p
        .set_column_dictionary_enabled(span_id.clone(), false)
        .set_column_compression(span_id.clone(), Compression::UNCOMPRESSED)
        .set_column_statistics_enabled(span_id, EnabledStatistics::None);
    // The high bytes of times and durations repeat, the low ones are noise: split, they compress as they are.
    for name in ["start_time_unix_nano", "duration_nano"] {
        let c = path(&[name]);
        p = p
            .set_column_dictionary_enabled(c.clone(), false)
            .set_column_encoding(c.clone(), Encoding::BYTE_STREAM_SPLIT)
            .set_column_statistics_enabled(c, EnabledStatistics::Page);
    }
    Ok(p.build())
}

impl BlockWriter {
    /// Begins a block of about `spans` spans of `traces` traces in the folder `dir`, which is created.
    pub fn create(
        fs: Arc<dyn Fs>,
        dir: &Path,
        identity: BlockIdentity,
        layout: Layout,
        options: WriteOptions,
        (spans, traces): (u64, u64),
    ) -> Result<Self> {
        fs.create_dir_all(dir).map_err(|e| Error::io("creating a block's folder", dir, e))?;
        let file = dir.join(SPANS_FILE);
        let out = fs.create(&file).map_err(|e| Error::io("creating a block", &file, e))?;
        let sink = SumWriter { file: IoWriter::new(out), sums: Sums::default() };
        let groups = spans.div_ceil(options.row_group_spans as u64).max(1);
        let properties = properties(FORMAT_VERSION, &options, traces.div_ceil(groups) * 5 / 4)?;
        let schema = schema(&layout).map_err(|e| parquet_error("making a schema", e))?;
        let file = SerializedFileWriter::new(sink, schema, Arc::new(properties)).map_err(|e| parquet_error("beginning a block", e))?;
        let meta = BlockMeta {
            version: FORMAT_VERSION,
            ulid: identity.ulid,
            tenant: identity.tenant,
            writer_id: identity.writer_id,
            window_start_ms: identity.window_start_ms,
            window_ms: identity.window_ms,
            min_start_unix_nano: u64::MAX,
            max_start_unix_nano: 0,
            max_end_unix_nano: 0,
            spans: 0,
            traces: 0,
            size_bytes: 0,
            tail_offset: 0,
            level: identity.level,
            sources: identity.sources,
            checksums: String::new(),
        };
        let names = Names::new(layout.names.clone());
        let group = RowGroup::new(&layout);
        let scratch = Scratch::new(options.zstd_level, PAGE_ROWS).map_err(|e| Error::io("preparing compression", dir, e))?;
        Ok(BlockWriter {
            fs,
            dir: dir.to_owned(),
            file,
            layout,
            names,
            group,
            options,
            scratch,
            meta,
            last_trace: [0; 16],
            unweighed_bytes: 0,
        })
    }

    /// Adds a span; they come by trace id, then start time. `key` is the same for spans of one resource and scope.
    pub fn push(&mut self, span: &RawSpan<'_>, groups: &Groups<'_>, key: u64) -> Result<()> {
        let new_trace = self.meta.spans == 0 || span.trace_id != self.last_trace;
        if new_trace {
            self.meta.traces += 1;
            self.last_trace.copy_from_slice(span.trace_id);
        }
        let rows = self.group.rows();
        self.unweighed_bytes += span.buf.len();
        let weigh = rows % 1024 == 1023 || self.unweighed_bytes >= WEIGH_BYTES;
        let full = rows >= self.options.row_group_spans || (weigh && self.weigh() >= self.options.row_group_bytes);
        // A trace lies in one row group, unless it alone fills it.
        if rows > 0
            && full
            && (new_trace || rows >= 2 * self.options.row_group_spans || self.group.size_bytes() >= 2 * self.options.row_group_bytes)
        {
            self.cut()?;
        }
        self.meta.spans += 1;
        self.meta.min_start_unix_nano = self.meta.min_start_unix_nano.min(span.start);
        self.meta.max_start_unix_nano = self.meta.max_start_unix_nano.max(span.start);
        self.meta.max_end_unix_nano = self.meta.max_end_unix_nano.max(span.end);
        self.group.push(span, groups, key, &self.names)
    }

    /// Adds a row group of other blocks' rows, of which so many traces are new. They come in the same order.
    pub fn gather(&mut self, rows: &Gathered, traces: u64) -> Result<()> {
        if self.group.rows() > 0 {
            self.cut()?;
        }
        let times = rows.write(&mut self.file, &self.layout, &self.names, &mut self.scratch)?;
        self.meta.spans += rows.rows() as u64;
        self.meta.traces += traces;
        self.meta.min_start_unix_nano = self.meta.min_start_unix_nano.min(times.min_start);
        self.meta.max_start_unix_nano = self.meta.max_start_unix_nano.max(times.max_start);
        self.meta.max_end_unix_nano = self.meta.max_end_unix_nano.max(times.max_end);
        Ok(())
    }

    fn weigh(&mut self) -> usize {
        self.unweighed_bytes = 0;
        self.group.size_bytes()
    }

    fn cut(&mut self) -> Result<()> {
        self.group.write(&mut self.file, &mut self.scratch)?;
        self.group.clear();
        Ok(())
    }

    /// Ends the block and makes it durable: the data file, then `meta.json`.
    pub fn finish(mut self) -> Result<BlockMeta> {
        let doing = |e| parquet_error("ending a block", e);
        if self.group.rows() > 0 {
            self.cut()?;
        }
        let metadata = self.file.finish().map_err(doing)?;
        self.meta.tail_offset = end_of_columns(&metadata);
        self.file.flush().map_err(|e| Error::io("writing a block", &self.dir, e))?;
        let sink = self.file.inner_mut();
        let path = self.dir.join(SPANS_FILE);
        sink.file.sync().map_err(|e| Error::io("syncing a block", &path, e))?;
        self.meta.size_bytes = sink.file.written();
        self.meta.checksums = sums_to_text(&std::mem::take(&mut sink.sums).finish());
        let meta = self.dir.join(META_FILE);
        let json = self.meta.to_json()?;
        self.fs.write_atomic(&meta, &json).map_err(|e| Error::io("writing a block's description", &meta, e))?;
        if let Some(parent) = self.dir.parent() {
            self.fs.sync_dir(parent).map_err(|e| Error::io("syncing a folder", parent, e))?;
        }
        Ok(self.meta)
    }
}
