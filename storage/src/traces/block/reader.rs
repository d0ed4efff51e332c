//! An open block: its footer, bloom filters and page indexes, and its leaf columns by path.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use parquet::bloom_filter::Sbbf;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;

use super::layout::{GROUPS, Layout, ShredKey, ShredType};
use super::meta::{BlockMeta, SPANS_FILE};
use crate::bucket::CachedBucket;
use crate::columnar::file::{CheckedFile, Part, Source};
use crate::columnar::leaf::{self, Item, Leaf};
use crate::columnar::parquet_error;
use crate::error::{Error, Result};
use crate::model::TraceId;
use crate::read::{AttributeScope, Condition, Field, Value};
use strandline_wal::fs::Fs;

/// Names of the columns that hold a group's VARIANT.
pub const VARIANT_PATHS: [&[&str]; 3] =
    [&["span_attributes"], &["events", "list", "element", "attributes"], &["links", "list", "element", "attributes"]];

/// A block that can be read.
pub struct OpenBlock {
    /// Its description.
    pub meta: BlockMeta,
    file: CheckedFile,
    metadata: ParquetMetaData,
    /// Leaf numbers by path, its parts joined by NUL.
    leaves: HashMap<String, usize>,
    blooms: Vec<Option<Sbbf>>,
    /// What it shreds, as its schema has it.
    pub layout: Layout,
}

/// Where a block's files are.
pub enum Location {
    /// In a folder.
    Folder(Arc<dyn Fs>, std::path::PathBuf),
    /// In a bucket, below a key that ends in `/`.
    Bucket(CachedBucket, String),
}

/// Where the tail of a file begins, of which the footer is this.
pub(super) fn end_of_columns(metadata: &ParquetMetaData) -> u64 {
    let ends = metadata.row_groups().iter().flat_map(|g| g.columns()).map(|c| {
        let (start, len) = c.byte_range();
        start + len
    });
    ends.max().unwrap_or(0)
}

fn key(path: &[&str]) -> String {
    path.join("\0")
}

impl OpenBlock {
    /// Opens a block by one read of its file's tail.
    pub fn open(meta: BlockMeta, location: &Location, fs: &Arc<dyn Fs>) -> Result<OpenBlock> {
        let open_local = |fs: &Arc<dyn Fs>, path: std::path::PathBuf| {
            let f = fs.open(&path).map_err(|e| Error::io("opening a block", &path, e))?;
            Ok::<_, Error>((Source::Local(f), path))
        };
        let (source, name) = match location {
            Location::Folder(fs, dir) => open_local(fs, dir.join(SPANS_FILE))?,
            Location::Bucket(bucket, prefix) => {
                let object = format!("{prefix}{SPANS_FILE}");
                match bucket.bucket.local_path(&object) {
                    Some(path) => open_local(fs, path)?,
                    None => (Source::Bucket(bucket.clone(), object.clone()), format!("{}/{object}", bucket.bucket.name()).into()),
                }
            }
        };
        let file = CheckedFile::new(source, name, meta.size_bytes, meta.sums()?)?;
        let tail_len = meta.size_bytes.checked_sub(meta.tail_offset).and_then(|n| usize::try_from(n).ok());
        let tail_len = tail_len.ok_or_else(|| Error::corrupt("the tail lies beyond the file").at(file.name()))?;
        let bytes = file.read(meta.tail_offset, tail_len)?;
        let tail = Part { offset: meta.tail_offset, bytes: bytes.clone(), file_len: meta.size_bytes };
        let fail = |e| parquet_error("reading a block's footer", e).at(file.name());
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse_sized(&bytes, meta.size_bytes).map_err(fail)?;
        let metadata = reader.finish().map_err(fail)?;
        crate::columnar::check::places(&metadata, meta.size_bytes).map_err(|e| e.at(file.name()))?;
        let mut leaves = HashMap::default();
        for (i, c) in metadata.file_metadata().schema_descr().columns().iter().enumerate() {
            leaves.insert(c.path().parts().join("\0"), i);
        }
        let trace_id = *leaves.get("trace_id").ok_or_else(|| Error::corrupt("a block without trace ids").at(file.name()))?;
        let blooms = metadata.row_groups().iter().map(|g| Sbbf::read_from_column_chunk(g.column(trace_id), &tail));
        // A filter of no blocks says nothing, and can't be asked.
        let blooms = blooms.map(|b| b.map(|b| b.filter(|b| b.num_blocks() > 0)));
        let blooms = blooms.collect::<std::result::Result<_, _>>().map_err(fail)?;
        let layout = layout_of(&metadata);
        Ok(OpenBlock { meta, file, metadata, leaves, blooms, layout })
    }

    /// Reads the whole file for its checksums.
    pub fn check(&self) -> Result<()> {
        const PIECE: u64 = 4 << 20;
        let mut at = 0;
        while at < self.meta.size_bytes {
            let n = PIECE.min(self.meta.size_bytes - at);
            self.file.read(at, n as usize)?;
            at += n;
        }
        Ok(())
    }

    /// Where columns end, and page indexes, filters and the footer begin.
    pub fn tail_offset(&self) -> u64 {
        end_of_columns(&self.metadata)
    }

    /// Bytes its footer, indexes and filters take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.metadata.memory_size() + (self.meta.size_bytes - self.meta.tail_offset) as usize
    }
    /// Number of row groups.
    pub fn row_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }
    /// Rows of a row group.
    pub fn rows(&self, group: usize) -> usize {
        usize::try_from(self.metadata.row_group(group).num_rows()).unwrap_or(0)
    }
    /// Whether reads go over a network.
    pub fn is_remote(&self) -> bool {
        self.file.is_remote()
    }
    /// The leaf column at a path.
    pub fn leaf(&self, path: &[&str]) -> Option<usize> {
        self.leaves.get(&key(path)).copied()
    }
    /// Statistics of a column in a row group.
    pub fn statistics(&self, group: usize, leaf: usize) -> Option<&Statistics> {
        self.metadata.row_group(group).column(leaf).statistics()
    }
    /// Whether a column holds no value in a row group.
    pub fn is_all_null(&self, group: usize, leaf: usize) -> bool {
        let c = self.metadata.row_group(group).column(leaf);
        let nulls = c.statistics().and_then(Statistics::null_count_opt);
        nulls.is_some_and(|n| i64::try_from(n) == Ok(c.num_values()))
    }

    /// Values of a column in a row group; entries, if it does not say how many of them have none.
    pub fn values(&self, group: usize, leaf: usize) -> u64 {
        let c = self.metadata.row_group(group).column(leaf);
        let nulls = c.statistics().and_then(Statistics::null_count_opt).unwrap_or(0);
        u64::try_from(c.num_values()).unwrap_or(0).saturating_sub(nulls)
    }

    /// What a row of a row group takes unpacked, about.
    pub fn row_bytes(&self, group: usize) -> usize {
        let g = self.metadata.row_group(group);
        usize::try_from(g.total_byte_size()).unwrap_or(usize::MAX) / self.rows(group).max(1)
    }

    /// Statistics of a flat column that holds one value in all rows of a row group.
    pub fn constant(&self, group: usize, leaf: usize) -> Option<&Statistics> {
        let c = self.metadata.row_group(group).column(leaf);
        let s = c.statistics()?;
        let exact = s.min_is_exact() && s.max_is_exact() && s.null_count_opt() == Some(0);
        let same = s.min_bytes_opt().is_some() && s.min_bytes_opt() == s.max_bytes_opt();
        (exact && same && c.column_descr().max_rep_level() == 0).then_some(s)
    }

    /// Where columns of row groups lie.
    pub fn ranges(&self, groups: &[usize], leaves: &[usize]) -> Vec<(u64, usize)> {
        let chunks = groups.iter().flat_map(|g| leaves.iter().map(|leaf| self.metadata.row_group(*g).column(*leaf).byte_range()));
        chunks.filter_map(|(start, len)| Some((start, usize::try_from(len).ok()?))).collect()
    }
    /// Says what will be read soon.
    pub fn prefetch_ranges(&self, ranges: &[(u64, usize)]) {
        self.file.prefetch(ranges);
    }

    /// The path of a leaf column, as [`OpenBlock::leaf_at`] takes it.
    pub fn path(&self, leaf: usize) -> String {
        self.metadata.file_metadata().schema_descr().column(leaf).path().parts().join("\0")
    }
    /// The leaf column of a path of [`OpenBlock::path`].
    pub fn leaf_at(&self, path: &str) -> Option<usize> {
        self.leaves.get(path).copied()
    }

    /// Where a row group lies.
    pub fn group_range(&self, group: usize) -> (u64, usize) {
        let ranges = self.metadata.row_group(group).columns().iter().map(|c| c.byte_range());
        let (start, end) = ranges.fold((u64::MAX, 0), |(s, e), (o, n)| (s.min(o), e.max(o.saturating_add(n))));
        (start, usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX))
    }

    /// The whole of a row group in one read, for blocks that lie far away.
    pub fn read_group(&self, group: usize) -> Result<Part> {
        let (start, len) = self.group_range(group);
        Ok(Part { offset: start, bytes: self.file.read(start, len)?, file_len: self.meta.size_bytes })
    }

    fn chunk(&self, group: usize, leaf: usize, loaded: Option<&Part>) -> Result<Part> {
        if let Some(p) = loaded {
            return Ok(p.clone());
        }
        let (start, len) = self.metadata.row_group(group).column(leaf).byte_range();
        let bytes = self.file.read(start, usize::try_from(len).unwrap_or(usize::MAX))?;
        Ok(Part { offset: start, bytes, file_len: self.meta.size_bytes })
    }

    /// A column of a row group. `loaded` is the row group, if it was read whole.
    pub fn read<T: Item>(&self, group: usize, leaf: usize, loaded: Option<&Part>) -> Result<Leaf<T>> {
        let part = self.chunk(group, leaf, loaded)?;
        leaf::read(part, self.metadata.row_group(group).column(leaf), self.rows(group)).map_err(|e| e.at(self.file.name()))
    }

    /// The pages of a column that hold some rows of a row group, and the row they begin at.
    pub fn read_rows<T: Item>(
        &self,
        group: usize,
        leaf: usize,
        loaded: Option<&Part>,
        rows: std::ops::Range<usize>,
    ) -> Result<(Leaf<T>, usize)> {
        let index = self.metadata.page_index_for_row_group(group);
        let pages = index.offset_index(leaf).map(|o| o.page_locations());
        let Some(pages) = pages.filter(|p| !p.is_empty()) else { return Ok((self.read(group, leaf, loaded)?, 0)) };
        let part = self.chunk(group, leaf, loaded)?;
        let column = self.metadata.row_group(group).column(leaf);
        leaf::read_rows(part, column, pages, self.rows(group), rows).map_err(|e| e.at(self.file.name()))
    }

    /// Bytes of a column in a row group.
    pub fn column_bytes(&self, group: usize, leaf: usize) -> u64 {
        self.metadata.row_group(group).column(leaf).byte_range().1
    }

    /// Row groups that may hold a trace, by first and last id and by bloom filter: no read at all.
    pub fn groups_with(&self, id: TraceId) -> Vec<usize> {
        let Some(leaf) = self.leaf(&["trace_id"]) else { return Vec::new() };
        let holds = |g: &usize| {
            if let Some(Statistics::FixedLenByteArray(s)) = self.statistics(*g, leaf)
                && let (Some(min), Some(max)) = (s.min_opt(), s.max_opt())
                && (id.0.as_slice() < min.data() || id.0.as_slice() > max.data())
            {
                return false;
            }
            self.blooms.get(*g).and_then(Option::as_ref).is_none_or(|b| b.check(&ByteArray::from(Bytes::copy_from_slice(&id.0))))
        };
        (0..self.row_groups()).filter(holds).collect()
    }

    /// Ids of a row group's traces in order, and the first row of each with the number of rows at the end.
    pub fn traces(&self, group: usize, loaded: Option<&Part>) -> Result<(Vec<u128>, Vec<u32>)> {
        let leaf = self.leaf(&["trace_id"]).ok_or_else(|| Error::corrupt("a block without trace ids").at(self.file.name()))?;
        let ids = self.read::<u128>(group, leaf, loaded)?;
        let (mut traces, mut offsets) = (Vec::new(), Vec::new());
        let mut last = None;
        for (row, i) in ids.idx.iter().enumerate() {
            if last != Some(*i) {
                last = Some(*i);
                let id = ids.dict[*i as usize];
                // Behind the dictionary ids repeat.
                if traces.last() != Some(&id) {
                    traces.push(id);
                    offsets.push(row as u32);
                }
            }
        }
        offsets.push(ids.idx.len() as u32);
        if traces.windows(2).any(|w| w[0] >= w[1]) {
            return Err(Error::corrupt("traces out of order").at(self.file.name()));
        }
        Ok((traces, offsets))
    }
}

/// What the schema says is shredded.
fn layout_of(metadata: &ParquetMetaData) -> Layout {
    let mut layout = Layout::default();
    for c in metadata.file_metadata().schema_descr().columns() {
        let parts: Vec<&str> = c.path().parts().iter().map(String::as_str).collect();
        for g in GROUPS {
            let prefix = VARIANT_PATHS[g as usize];
            let Some(["typed_value", name, "typed_value"]) = parts.strip_prefix(prefix) else { continue };
            let ty = match c.physical_type() {
                parquet::basic::Type::BYTE_ARRAY => ShredType::String,
                parquet::basic::Type::INT64 => ShredType::Int,
                parquet::basic::Type::DOUBLE => ShredType::Double,
                parquet::basic::Type::BOOLEAN => ShredType::Bool,
                _ => continue,
            };
            layout.keys[g as usize].push(ShredKey { name: (*name).to_owned(), ty });
        }
    }
    layout
}

/// Passing over row groups by what statistics say.
impl OpenBlock {
    /// Row groups whose ids may lie in the inclusive range.
    pub fn groups_between(&self, first: u128, last: u128) -> Vec<usize> {
        let Some(leaf) = self.leaf(&["trace_id"]) else { return Vec::new() };
        let (first, last) = (first.to_be_bytes(), last.to_be_bytes());
        let overlaps = |g: &usize| match self.statistics(*g, leaf) {
            Some(Statistics::FixedLenByteArray(s)) => {
                s.min_opt().is_none_or(|m| m.data() <= last.as_slice()) && s.max_opt().is_none_or(|m| m.data() >= first.as_slice())
            }
            _ => true,
        };
        (0..self.row_groups()).filter(overlaps).collect()
    }

    /// Whether a trace fills more than one row group.
    pub fn has_split_trace(&self) -> bool {
        let Some(leaf) = self.leaf(&["trace_id"]) else { return false };
        (1..self.row_groups()).any(|g| match (self.statistics(g - 1, leaf), self.statistics(g, leaf)) {
            (Some(Statistics::FixedLenByteArray(a)), Some(Statistics::FixedLenByteArray(b))) => a.max_opt() == b.min_opt(),
            _ => true,
        })
    }

    /// Whether some span of a row group may satisfy all conditions.
    pub fn may_satisfy(&self, group: usize, conditions: &[Condition]) -> bool {
        conditions.iter().all(|c| self.may(group, c).unwrap_or(true))
    }

    /// None if the statistics do not tell.
    fn may(&self, group: usize, condition: &Condition) -> Option<bool> {
        let (Condition::Equals(field, _) | Condition::AtLeast(field, _) | Condition::AtMost(field, _)) = condition;
        let leaf = match field {
            Field::Name => self.leaf(&["name"])?,
            Field::Kind => self.leaf(&["kind"])?,
            Field::Status => self.leaf(&["status_code"])?,
            Field::Attribute(AttributeScope::Span, key) => {
                let Some(typed) = self.leaf(&["span_attributes", "typed_value", key, "typed_value"]) else {
                    let rest = self.leaf(&["span_attributes", "value"])?;
                    return self.is_all_null(group, rest).then_some(false);
                };
                let other = self.leaf(&["span_attributes", "typed_value", key, "value"])?;
                if !self.is_all_null(group, other) {
                    return None;
                }
                if self.is_all_null(group, typed) {
                    return Some(false);
                }
                typed
            }
            _ => return None,
        };
        let statistics = self.statistics(group, leaf)?;
        match (condition, statistics) {
            (Condition::Equals(_, Value::String(s)), Statistics::ByteArray(b)) => {
                Some(b.min_opt()?.data() <= s.as_bytes() && b.max_opt()?.data() >= s.as_bytes())
            }
            (Condition::Equals(_, v), _) => {
                let v = match v {
                    Value::Int(i) => *i as f64,
                    Value::Float(f) => *f,
                    _ => return None,
                };
                let (min, max) = numbers(statistics)?;
                Some(min <= v && v <= max)
            }
            (Condition::AtLeast(_, v), _) => numbers(statistics).map(|(_, max)| max >= *v),
            (Condition::AtMost(_, v), _) => numbers(statistics).map(|(min, _)| min <= *v),
        }
    }
}

fn numbers(s: &Statistics) -> Option<(f64, f64)> {
    match s {
        Statistics::Int32(s) => Some((f64::from(*s.min_opt()?), f64::from(*s.max_opt()?))),
        Statistics::Int64(s) => Some((*s.min_opt()? as f64, *s.max_opt()? as f64)),
        Statistics::Double(s) => Some((*s.min_opt()?, *s.max_opt()?)),
        _ => None,
    }
}
