//! An open block and selections on it.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::fs::Fs;

use super::chunks::{ChunkReader, segment_name};
use super::index::{IndexReader, SeriesEntry};
use super::meta::BlockMeta;
use super::source::{LocalSource, RangeRead};
use super::tombstones::{self, Tombstones};
use super::{CHUNKS, INDEX, META, TOMBSTONES};
use crate::chunk;
use crate::error::{Error, Result};
use crate::model::{Labels, Matcher, TimeRange};
use crate::read::SampleBuf;

/// An open, immutable block.
pub struct Block {
    meta: BlockMeta,
    index: IndexReader,
    chunks: ChunkReader,
    tombstones: Tombstones,
}

thread_local! {
    static ENTRY: RefCell<SeriesEntry> = RefCell::default();
}

impl Block {
    /// Opens a block in a local folder.
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Self> {
        let meta_path = dir.join(META);
        let json = fs.read(&meta_path).map_err(|e| Error::io("reading meta.json", &meta_path, e))?;
        let meta = BlockMeta::parse(&json).map_err(|e| e.at(&meta_path))?;
        let open = |p: &Path| -> Result<Arc<dyn RangeRead>> {
            let f = fs.open(p).map_err(|e| Error::io("opening a block", p, e))?;
            Ok(Arc::new(LocalSource::new(f, p.display().to_string())))
        };
        let mut segments = Vec::new();
        let chunk_dir = dir.join(CHUNKS);
        while fs.exists(&chunk_dir.join(segment_name(segments.len()))) {
            segments.push(open(&chunk_dir.join(segment_name(segments.len())))?);
        }
        let tombstones_path = dir.join(TOMBSTONES);
        let tombstones = match fs.read(&tombstones_path) {
            Ok(b) => tombstones::decode(&b).map_err(|e| e.at(&tombstones_path))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Tombstones::new(),
            Err(e) => return Err(Error::io("reading tombstones", &tombstones_path, e)),
        };
        Self::from_parts(meta, open(&dir.join(INDEX))?, segments, tombstones)
    }

    /// A block out of open files, local or not.
    pub fn from_parts(
        meta: BlockMeta,
        index: Arc<dyn RangeRead>,
        segments: Vec<Arc<dyn RangeRead>>,
        tombstones: Tombstones,
    ) -> Result<Self> {
        let chunks = ChunkReader::new(segments);
        Ok(Block { meta, index: IndexReader::open(index)?, chunks, tombstones })
    }

    /// Its description.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }
    /// Its index.
    pub fn index(&self) -> &IndexReader {
        &self.index
    }
    /// Its chunks.
    pub fn chunks(&self) -> &ChunkReader {
        &self.chunks
    }
    /// Deletes that came with it.
    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Reads everything once and checks every checksum and the order of samples.
    pub fn verify(&self) -> Result<()> {
        self.chunks.check_headers()?;
        let mut entry = SeriesEntry::default();
        let mut out = SampleBuf::default();
        let mut before: Option<Labels> = None;
        for r in self.index.all()? {
            self.index.series(r, &mut entry)?;
            let labels = self.index.labels(&entry)?;
            if before.as_ref().is_some_and(|b| *b >= labels) {
                return Err(Error::corrupt(format!("series {labels} is out of order")));
            }
            out.clear();
            for c in &entry.chunks {
                let n = out.len();
                self.chunks.with(c.reference, 1024, |e, data| chunk::decode(e, data, TimeRange::all(), &mut out))?;
                let times = &out.t[n..];
                if times.first() != Some(&c.range.min_ms) || times.last() != Some(&c.range.max_ms) || !out.t.is_sorted_by(|a, b| a < b) {
                    return Err(Error::corrupt(format!("a chunk of series {labels} does not hold the times the index says")));
                }
            }
            before = Some(labels);
        }
        Ok(())
    }

    /// Series that pass the matchers.
    pub fn select(self: &Arc<Self>, matchers: &[Matcher]) -> Result<BlockSelection> {
        Ok(BlockSelection { block: self.clone(), refs: self.index.select(matchers)?.iter().collect() })
    }
}

/// Series of a block, in label order.
pub struct BlockSelection {
    block: Arc<Block>,
    refs: Vec<u32>,
}

impl BlockSelection {
    /// Number of series.
    pub fn len(&self) -> usize {
        self.refs.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }
    /// The block.
    pub fn block(&self) -> &Arc<Block> {
        &self.block
    }
    /// The index reference of series `i`.
    pub fn reference(&self, i: usize) -> u32 {
        self.refs[i]
    }
    /// Labels of series `i`.
    pub fn labels(&self, i: usize) -> Result<Labels> {
        ENTRY.with_borrow_mut(|e| {
            self.block.index.series(self.refs[i], e)?;
            self.block.index.labels(e)
        })
    }
    /// Calls `f` with the labels of series `i`.
    pub fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) -> Result<()> {
        ENTRY.with_borrow_mut(|e| {
            self.block.index.series(self.refs[i], e)?;
            for (n, v) in &e.labels {
                f(self.block.index.symbol(*n)?, self.block.index.symbol(*v)?);
            }
            Ok(())
        })
    }
    /// Whether series `i` has a chunk in `range`.
    pub fn has_chunks(&self, i: usize, range: TimeRange) -> Result<bool> {
        ENTRY.with_borrow_mut(|e| {
            self.block.index.series(self.refs[i], e)?;
            Ok(e.chunks.iter().any(|c| c.range.overlaps(range)))
        })
    }
    /// Appends the samples of series `i` in `range` to `out`, deletes taken out.
    pub fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()> {
        let start = out.len();
        let mut e = ENTRY.take();
        let done = self.read_entry(i, range, out, &mut e);
        ENTRY.set(e);
        done?;
        if let Some(gone) = self.block.tombstones.get(&(self.refs[i] as u64)) {
            remove(out, start, gone);
        }
        Ok(())
    }

    fn read_entry(&self, i: usize, range: TimeRange, out: &mut SampleBuf, e: &mut SeriesEntry) -> Result<()> {
        self.block.index.series(self.refs[i], e)?;
        for (k, c) in e.chunks.iter().enumerate().filter(|(_, c)| c.range.overlaps(range)) {
            self.block.chunks.with(c.reference, size_hint(e, k), |enc, data| chunk::decode(enc, data, range, out))?;
        }
        Ok(())
    }

    /// Announces the chunks of series `from..to` in `range`.
    pub fn prefetch(&self, from: usize, to: usize, range: TimeRange) {
        let mut wanted = Vec::new();
        let mut e = SeriesEntry::default();
        for r in self.refs.get(from..to.min(self.refs.len())).unwrap_or(&[]) {
            if self.block.index.series(*r, &mut e).is_ok() {
                let hits = e.chunks.iter().enumerate().filter(|(_, c)| c.range.overlaps(range));
                wanted.extend(hits.map(|(k, c)| (c.reference, size_hint(&e, k))));
            }
        }
        self.block.chunks.prefetch(wanted);
    }
}

/// Chunks of a series lie behind one another: the next one's offset tells a size.
fn size_hint(e: &SeriesEntry, k: usize) -> usize {
    let next = e.chunks.get(k + 1).map(|n| n.reference.wrapping_sub(e.chunks[k].reference));
    next.filter(|d| *d < 1 << 20).unwrap_or(1024) as usize
}

/// Takes deleted stretches out of the samples from `start` on.
pub(crate) fn remove(out: &mut SampleBuf, start: usize, gone: &[TimeRange]) {
    let keep: Vec<bool> = out.t[start..].iter().map(|t| !gone.iter().any(|g| g.contains(*t))).collect();
    if keep.iter().all(|k| *k) {
        return;
    }
    fn retain<T>(v: &mut Vec<T>, start: usize, keep: &[bool]) {
        if v.len() <= start {
            return;
        }
        let mut i = 0;
        v.retain(|_| {
            i += 1;
            i <= start || keep[i - 1 - start]
        });
    }
    retain(&mut out.v, start, &keep);
    retain(&mut out.st, start, &keep);
    retain(&mut out.h, start, &keep);
    retain(&mut out.t, start, &keep);
}
