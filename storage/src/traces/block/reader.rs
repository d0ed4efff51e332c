//! An open block: its footer, bloom filters and page indexes, and its leaf columns by path.

use std::sync::Arc;

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::data_type::ByteArray;
use parquet::file::metadata::ParquetMetaData;

use super::layout::{GROUPS, Group, Layout};
use super::meta::{BlockMeta, SPANS_FILE};
use super::shape::Shape;
use crate::bucket::CachedBucket;
use crate::columnar::file::{CheckedFile, Part, Source};
use crate::columnar::footer::{self, Footer, Stats};
use crate::columnar::leaf::{self, Item, Leaf};
use crate::columnar::parquet_error;
use crate::error::{Error, Result};
use crate::model::TraceId;
use crate::read::{AttributeScope, Condition, Field, Value};
use strandline_wal::fs::Fs;

/// Names of the columns that hold a group's VARIANT.
pub const VARIANT_PATHS: [&[&str]; 3] =
    [&["span_attributes"], &["events", "list", "element", "attributes"], &["links", "list", "element", "attributes"]];

/// An entry of a list while it is gathered: its levels, where it stands, and a value.
const ENTRY_BYTES: u64 = 32;
/// A value of a shredded key, and where it stands.
const VALUE_BYTES: u64 = 12;

/// A block that can be read.
pub struct OpenBlock {
    /// Its description.
    pub meta: BlockMeta,
    file: CheckedFile,
    footer: Footer,
    shape: Arc<Shape>,
    blooms: Vec<Option<Sbbf>>,
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
        let metadata = footer::parse(&bytes, meta.size_bytes).map_err(|e| e.at(file.name()))?;
        let shape = Shape::of(&metadata.file_metadata().schema_descr_ptr()).map_err(|e| e.at(file.name()))?;
        let footer = Footer::new(&metadata, shape.schema.clone(), meta.size_bytes).map_err(|e| e.at(file.name()))?;
        let trace_id = *shape.leaves.get("trace_id").ok_or_else(|| Error::corrupt("a block without trace ids").at(file.name()))?;
        let blooms = metadata.row_groups().iter().map(|g| Sbbf::read_from_column_chunk(g.column(trace_id), &tail));
        // A filter of no blocks says nothing, and can't be asked.
        let blooms = blooms.map(|b| b.map(|b| b.filter(|b| b.num_blocks() > 0)));
        let blooms = blooms.collect::<std::result::Result<_, _>>().map_err(fail)?;
        Ok(OpenBlock { meta, file, footer, shape, blooms })
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
        self.footer.end_of_columns()
    }

    /// Bytes its footer, indexes and filters take in memory.
    pub fn memory_bytes(&self) -> usize {
        let blooms: usize = self.blooms.iter().flatten().map(|b| b.num_blocks() * 32).sum();
        self.footer.memory_bytes() + blooms + self.meta.checksums.len()
    }
    /// What it shreds.
    pub fn layout(&self) -> &Layout {
        &self.shape.layout
    }
    /// Number of row groups.
    pub fn row_groups(&self) -> usize {
        self.footer.row_groups()
    }
    /// Rows of a row group.
    pub fn rows(&self, group: usize) -> usize {
        self.footer.rows(group)
    }
    /// Whether reads go over a network.
    pub fn is_remote(&self) -> bool {
        self.file.is_remote()
    }
    /// The leaf column at a path.
    pub fn leaf(&self, path: &[&str]) -> Option<usize> {
        self.shape.leaves.get(&key(path)).copied()
    }
    /// The leaf column at a path that every block has.
    pub fn need_leaf(&self, path: &[&str]) -> Result<usize> {
        self.leaf(path).ok_or_else(|| Error::corrupt(format!("a block without the column {}", path.join("."))))
    }
    /// Statistics of a column in a row group.
    fn statistics(&self, group: usize, leaf: usize) -> Option<Stats<'_>> {
        self.footer.stats(group, leaf)
    }
    /// Whether a column holds no value in a row group.
    pub fn is_all_null(&self, group: usize, leaf: usize) -> bool {
        let entries = self.footer.column(group, leaf).map(|c| c.entries as u64);
        entries.is_ok_and(|n| self.statistics(group, leaf).and_then(|s| s.nulls) == Some(n))
    }

    /// Values of a column in a row group; entries, if it does not say how many of them have none.
    pub fn values(&self, group: usize, leaf: usize) -> u64 {
        self.entries(group, leaf).saturating_sub(self.statistics(group, leaf).and_then(|s| s.nulls).unwrap_or(0))
    }

    /// What a row of a row group takes in memory while it is gathered into another, about: what it is unpacked, and the
    /// VARIANT group that has most values, which are gathered together.
    pub fn row_bytes(&self, group: usize) -> usize {
        let values = |g: Group| {
            let prefix = VARIANT_PATHS[g as usize];
            let entries = self.leaf(&[prefix, &["metadata"]].concat()).map_or(0, |leaf| self.entries(group, leaf));
            let keys = self.layout().keys[g as usize].iter();
            let typed = keys.filter_map(|k| self.leaf(&[prefix, &["typed_value", &k.name, "typed_value"]].concat()));
            entries * ENTRY_BYTES + typed.map(|leaf| self.values(group, leaf)).sum::<u64>() * VALUE_BYTES
        };
        let most = GROUPS.into_iter().map(values).max().unwrap_or(0);
        self.footer.row_bytes(group) + usize::try_from(most).unwrap_or(usize::MAX) / self.rows(group).max(1)
    }

    fn entries(&self, group: usize, leaf: usize) -> u64 {
        self.footer.column(group, leaf).map_or(0, |c| c.entries as u64)
    }

    /// The value of a flat column that holds one in all rows of a row group, as it is encoded.
    pub fn constant(&self, group: usize, leaf: usize) -> Option<&[u8]> {
        let s = self.statistics(group, leaf)?;
        let flat = self.footer.column(group, leaf).ok()?.descr.max_rep_level() == 0;
        s.min.filter(|_| flat && s.exact && s.nulls == Some(0) && s.min == s.max)
    }

    /// Where columns of row groups lie.
    pub fn ranges(&self, groups: &[usize], leaves: &[usize]) -> Vec<(u64, usize)> {
        let chunks = groups.iter().flat_map(|g| leaves.iter().filter_map(|leaf| self.footer.column(*g, *leaf).ok()));
        chunks.filter_map(|c| Some((c.start, usize::try_from(c.len).ok()?))).collect()
    }
    /// Says what will be read soon.
    pub fn prefetch_ranges(&self, ranges: &[(u64, usize)]) {
        self.file.prefetch(ranges);
    }

    /// The path of a leaf column, as [`OpenBlock::leaf_at`] takes it.
    pub fn path(&self, leaf: usize) -> String {
        self.footer.schema().column(leaf).path().parts().join("\0")
    }
    /// The leaf column of a path of [`OpenBlock::path`].
    pub fn leaf_at(&self, path: &str) -> Option<usize> {
        self.shape.leaves.get(path).copied()
    }

    /// Where a row group lies.
    pub fn group_range(&self, group: usize) -> (u64, usize) {
        let (start, end) = self.footer.places(group).fold((u64::MAX, 0), |(s, e), (o, n)| (s.min(o), e.max(o.saturating_add(n))));
        (start, usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX))
    }

    /// The whole of a row group in one read, for blocks that lie far away.
    pub fn read_group(&self, group: usize) -> Result<Part> {
        let (start, len) = self.group_range(group);
        Ok(Part { offset: start, bytes: self.file.read(start, len)?, file_len: self.meta.size_bytes })
    }

    fn chunk(&self, column: &footer::Column<'_>, loaded: Option<&Part>) -> Result<Part> {
        if let Some(p) = loaded {
            return Ok(p.clone());
        }
        let bytes = self.file.read(column.start, usize::try_from(column.len).unwrap_or(usize::MAX))?;
        Ok(Part { offset: column.start, bytes, file_len: self.meta.size_bytes })
    }

    /// A column of a row group. `loaded` is the row group, if it was read whole.
    pub fn read<T: Item>(&self, group: usize, leaf: usize, loaded: Option<&Part>) -> Result<Leaf<T>> {
        let column = self.footer.column(group, leaf)?;
        leaf::read(self.chunk(&column, loaded)?, &column, self.rows(group)).map_err(|e| e.at(self.file.name()))
    }

    /// The pages of a column that hold some rows of a row group, and the row they begin at.
    pub fn read_rows<T: Item>(
        &self,
        group: usize,
        leaf: usize,
        loaded: Option<&Part>,
        rows: std::ops::Range<usize>,
    ) -> Result<(Leaf<T>, usize)> {
        let column = self.footer.column(group, leaf)?;
        if column.pages.is_empty() {
            return Ok((self.read(group, leaf, loaded)?, 0));
        }
        leaf::read_rows(self.chunk(&column, loaded)?, &column, self.rows(group), rows).map_err(|e| e.at(self.file.name()))
    }

    /// Bytes of a column in a row group.
    pub fn column_bytes(&self, group: usize, leaf: usize) -> u64 {
        self.footer.column(group, leaf).map_or(0, |c| c.len)
    }

    /// Row groups that may hold a trace, by first and last id and by bloom filter: no read at all.
    pub fn groups_with(&self, id: TraceId) -> Vec<usize> {
        let Some(leaf) = self.leaf(&["trace_id"]) else { return Vec::new() };
        let holds = |g: &usize| {
            if let Some(Stats { min: Some(min), max: Some(max), .. }) = self.statistics(*g, leaf)
                && (id.0.as_slice() < min || id.0.as_slice() > max)
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

/// Passing over row groups by what statistics say.
impl OpenBlock {
    /// Row groups whose ids may lie in the inclusive range.
    pub fn groups_between(&self, first: u128, last: u128) -> Vec<usize> {
        let Some(leaf) = self.leaf(&["trace_id"]) else { return Vec::new() };
        let (first, last) = (first.to_be_bytes(), last.to_be_bytes());
        let overlaps = |g: &usize| match self.statistics(*g, leaf) {
            Some(s) => s.min.is_none_or(|m| m <= last.as_slice()) && s.max.is_none_or(|m| m >= first.as_slice()),
            None => true,
        };
        (0..self.row_groups()).filter(overlaps).collect()
    }

    /// Whether a trace fills more than one row group.
    pub fn has_split_trace(&self) -> bool {
        let Some(leaf) = self.leaf(&["trace_id"]) else { return false };
        (1..self.row_groups()).any(|g| match (self.statistics(g - 1, leaf), self.statistics(g, leaf)) {
            (Some(a), Some(b)) => a.max == b.min,
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
        match condition {
            Condition::Equals(_, Value::String(text)) => {
                let s = self.statistics(group, leaf)?;
                let of_text = self.footer.schema().column(leaf).physical_type() == parquet::basic::Type::BYTE_ARRAY;
                of_text.then_some(s.min? <= text.as_bytes() && s.max? >= text.as_bytes())
            }
            Condition::Equals(_, v) => {
                let v = match v {
                    Value::Int(i) => *i as f64,
                    Value::Float(f) => *f,
                    _ => return None,
                };
                let (min, max) = self.footer.numbers(group, leaf)?;
                Some(min <= v && v <= max)
            }
            Condition::AtLeast(_, v) => self.footer.numbers(group, leaf).map(|(_, max)| max >= *v),
            Condition::AtMost(_, v) => self.footer.numbers(group, leaf).map(|(min, _)| min <= *v),
        }
    }
}
