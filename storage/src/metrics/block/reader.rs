//! An open block and selections on it.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_wal::fs::Fs;

use super::chunks::{ChunkReader, segment_name};
use super::endings::{Ending, Endings};
use super::index::{ChunkMeta, IndexReader, SeriesEntry};
use super::meta::BlockMeta;
use super::source::{LocalSource, RangeRead};
use super::tombstones::{self, Tombstones};
use super::{CHUNKS, INDEX, META, TOMBSTONES};
use crate::chunk::{self, Encoding};
use crate::error::{Error, Result};
use crate::model::{Labels, Matcher, TimeRange, is_stale};
use crate::read::{Newest, SampleBuf};

/// An open, immutable block.
pub struct Block {
    meta: BlockMeta,
    index: IndexReader,
    chunks: ChunkReader,
    tombstones: Tombstones,
    endings: Arc<Endings>,
    /// Tells blocks of this process apart.
    id: u64,
}

/// The entry a thread read last: labels and samples of a series are mostly asked for one after the other.
#[derive(Default)]
struct LastEntry {
    block: u64,
    reference: u32,
    entry: SeriesEntry,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static ENTRY: RefCell<LastEntry> = RefCell::default();
}

impl Block {
    /// Opens a block in a local folder.
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Self> {
        let meta_path = dir.join(META);
        let json = fs.read(&meta_path).map_err(|e| Error::io("reading meta.json", &meta_path, e))?;
        Self::open_described(fs, dir, BlockMeta::parse(&json).map_err(|e| e.at(&meta_path))?)
    }

    /// Opens a block in a local folder of which the description is known.
    pub(crate) fn open_described(fs: &Arc<dyn Fs>, dir: &Path, meta: BlockMeta) -> Result<Self> {
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
        let index = IndexReader::open(index)?;
        let endings = Arc::<Endings>::default();
        endings.opened(&index)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Block { meta, index, chunks, tombstones, endings, id })
    }

    /// Shares what is known of how its series end.
    pub(crate) fn share(mut self, endings: Arc<Endings>) -> Result<Self> {
        endings.opened(&self.index)?;
        self.endings = endings;
        Ok(self)
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
    /// Bytes kept in memory for it.
    pub fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.endings.memory_bytes()
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
    fn with_entry<R>(&self, i: usize, f: impl FnOnce(&SeriesEntry) -> Result<R>) -> Result<R> {
        let (id, reference) = (self.block.id, self.refs[i]);
        ENTRY.with_borrow_mut(|last| {
            if (last.block, last.reference) != (id, reference) {
                last.block = 0;
                self.block.index.series(reference, &mut last.entry)?;
                (last.block, last.reference) = (id, reference);
            }
            f(&last.entry)
        })
    }
    /// Labels of series `i`.
    pub fn labels(&self, i: usize) -> Result<Labels> {
        self.with_entry(i, |e| self.block.index.labels(e))
    }
    /// Calls `f` with the labels of series `i`.
    pub fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) -> Result<()> {
        self.with_entry(i, |e| {
            for (n, v) in &e.labels {
                f(self.block.index.symbol(*n)?, self.block.index.symbol(*v)?);
            }
            Ok(())
        })
    }
    /// Calls `f` with the symbol numbers of the labels of series `i`.
    pub fn visit_symbols(&self, i: usize, f: &mut dyn FnMut(u32, u32)) -> Result<()> {
        self.with_entry(i, |e| {
            e.labels.iter().for_each(|(n, v)| f(*n, *v));
            Ok(())
        })
    }
    /// The first series from `i` on that has a chunk in `range`, and its entry; the number of series if none has.
    pub fn next_in(&self, i: usize, range: TimeRange, entry: &mut SeriesEntry) -> Result<usize> {
        for (k, reference) in self.refs.iter().enumerate().skip(i) {
            self.block.index.series(*reference, entry)?;
            if entry.chunks.iter().any(|c| c.range.overlaps(range)) {
                return Ok(k);
            }
        }
        Ok(self.refs.len())
    }
    /// Keeps these series alone.
    pub fn keep(&mut self, series: impl Iterator<Item = usize>) {
        self.refs = series.map(|i| self.refs[i]).collect();
    }
    /// Appends the samples of series `i` in `range` to `out`, deletes taken out.
    pub fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()> {
        let start = out.len();
        self.with_entry(i, |e| {
            for (k, c) in e.chunks.iter().enumerate().filter(|(_, c)| c.range.overlaps(range)) {
                self.block.chunks.with(c.reference, size_hint(e, k), |enc, data| chunk::decode(enc, data, range, out))?;
            }
            Ok(())
        })?;
        if let Some(gone) = self.block.tombstones.get(&(self.refs[i] as u64)) {
            remove(out, start, gone);
        }
        Ok(())
    }

    /// Reads all that a query of `range` could read, for its checksums.
    pub fn check(&self, range: TimeRange) -> Result<()> {
        let mut out = SampleBuf::default();
        for i in 0..self.len() {
            out.clear();
            self.visit_labels(i, &mut |_, _| {})?;
            self.read(i, range, &mut out)?;
        }
        Ok(())
    }

    /// The newest sample of series `i` in `range`, decoding no more than its chunk.
    pub fn newest(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<Option<Newest>> {
        if self.block.tombstones.contains_key(&(self.refs[i] as u64)) {
            scratch.clear();
            self.read(i, range, scratch)?;
            return Ok(scratch.last());
        }
        self.with_entry(i, |e| match newest_chunk(&e.chunks, range) {
            Some(k) => self.newest_of(i, e, k, range, scratch),
            None => Ok(None),
        })
    }

    fn newest_of(&self, i: usize, e: &SeriesEntry, k: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<Option<Newest>> {
        self.block.chunks.with(e.chunks[k].reference, size_hint(e, k), |enc, data| {
            if enc != Encoding::Xor {
                scratch.clear();
                chunk::decode(enc, data, range, scratch)?;
                return Ok(scratch.last());
            }
            let Some((t, v, last)) = chunk::last_of_xor(data, range.max_ms)? else { return Ok(None) };
            if last && k + 1 == e.chunks.len() {
                self.block.endings.set(self.refs[i], if is_stale(v) { Ending::Stale } else { Ending::Value });
            }
            Ok((t >= range.min_ms).then_some(Newest { t, v, st: 0, h: None }))
        })
    }

    /// When series `i` has its newest sample in `range`, and whether that is a value, decoding nothing where it is known
    /// how the series ends.
    pub fn newest_kind(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<Option<(i64, bool)>> {
        let kind = |n: Option<Newest>| n.map(|n| (n.t, !n.is_stale()));
        if self.block.tombstones.contains_key(&(self.refs[i] as u64)) {
            return Ok(kind(self.newest(i, range, scratch)?));
        }
        self.with_entry(i, |e| {
            let Some(k) = newest_chunk(&e.chunks, range) else { return Ok(None) };
            let end = e.chunks[k].range.max_ms;
            if k + 1 == e.chunks.len() && end <= range.max_ms {
                match self.block.endings.get(self.refs[i]) {
                    Ending::Value => return Ok(Some((end, true))),
                    Ending::Stale => return Ok(Some((end, false))),
                    Ending::Unknown => {}
                }
            }
            Ok(kind(self.newest_of(i, e, k, range, scratch)?))
        })
    }

    /// Announces the chunks of series `from..to` in `range`.
    pub fn prefetch(&self, from: usize, to: usize, range: TimeRange) {
        if self.block.chunks.is_mapped() {
            return;
        }
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

/// The last chunk that may hold the newest sample of the range. Chunks of a series don't overlap.
fn newest_chunk(chunks: &[ChunkMeta], range: TimeRange) -> Option<usize> {
    let k = chunks.iter().rposition(|c| c.range.min_ms <= range.max_ms)?;
    (chunks[k].range.max_ms >= range.min_ms).then_some(k)
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
