//! Writes a block into a folder: chunks, index, meta.json, everything synced before the folder gets its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use strandline_wal::fs::Fs;

use super::chunks::ChunkWriter;
use super::index::{IndexWriter, SymbolTable};
use super::meta::{BlockMeta, IndexStats, ThanosFile, ThanosMeta};
use super::{CHUNKS, INDEX, META};
use crate::chunk::{self, Encoding};
use crate::error::{Error, Result};
use crate::model::{Labels, TimeRange};

/// A block under construction, in a folder beside its final one.
pub struct BlockWriter {
    fs: Arc<dyn Fs>,
    tmp: PathBuf,
    target: PathBuf,
    chunks: ChunkWriter,
    index: IndexWriter,
    meta: BlockMeta,
    chunk_max: u64,
    /// First and last sample; empty (min > max) until there is one.
    samples: TimeRange,
}

impl BlockWriter {
    /// Starts the block that `meta` describes under `parent`; `symbols` holds every string to come.
    pub fn create(fs: Arc<dyn Fs>, parent: &Path, meta: BlockMeta, mut symbols: SymbolTable) -> Result<Self> {
        let target = parent.join(&meta.ulid);
        let tmp = parent.join(format!("{}.tmp", meta.ulid));
        let chunk_dir = tmp.join(CHUNKS);
        symbols.seal();
        let made = fs.create_dir_all(&chunk_dir).map_err(|e| Error::io("creating a block's folder", &tmp, e));
        let made = made.and_then(|()| IndexWriter::create(&fs, &tmp.join(INDEX), symbols));
        let index = made.inspect_err(|_| discard(&*fs, &tmp))?;
        let chunks = ChunkWriter::new(fs.clone(), &chunk_dir);
        let samples = TimeRange::new(i64::MAX, i64::MIN);
        Ok(BlockWriter { fs, tmp, target, chunks, index, meta, chunk_max: 0, samples })
    }

    /// Adds a series, in label order; its chunks in time order and apart from one another.
    pub fn add(&mut self, labels: &Labels, chunks: &[(Encoding, TimeRange, Bytes)]) -> Result<()> {
        let mut places = Vec::with_capacity(chunks.len());
        for (encoding, range, data) in chunks {
            places.push((*range, self.chunks.write(*encoding, data)?));
            self.samples = TimeRange::new(self.samples.min_ms.min(range.min_ms), self.samples.max_ms.max(range.max_ms));
            self.chunk_max = self.chunk_max.max(data.len() as u64 + 16);
            let n = chunk::num_samples(data) as u64;
            let s = &mut self.meta.stats;
            s.num_samples += n;
            if encoding.is_float() {
                s.num_float_samples += n;
            } else {
                s.num_histogram_samples += n;
            }
            s.num_chunks += 1;
        }
        self.index.add(labels, &places)?;
        self.meta.stats.num_series += 1;
        Ok(())
    }

    /// Series so far.
    pub fn num_series(&self) -> u64 {
        self.meta.stats.num_series
    }

    /// Completes the block under its name. A block without series is not kept: `None`. Nothing stays of one that can't be
    /// completed: each try has a name of its own, and a full disk would be filled further.
    pub fn finish(self) -> Result<Option<BlockMeta>> {
        let (fs, tmp, target) = (self.fs.clone(), self.tmp.clone(), self.target.clone());
        self.complete().inspect_err(|_| [tmp, target].iter().for_each(|dir| discard(&*fs, dir)))
    }

    fn complete(mut self) -> Result<Option<BlockMeta>> {
        let io = |doing: &'static str, p: &Path| {
            let p = p.to_owned();
            move |e| Error::io(doing, &p, e)
        };
        if self.meta.stats.num_series == 0 {
            drop(self.index);
            self.fs.remove_dir_all(&self.tmp).map_err(io("removing an empty block", &self.tmp))?;
            return Ok(None);
        }
        let series_max_size = self.index.series_max_size;
        let mut files: Vec<ThanosFile> = Vec::new();
        for (name, size_bytes) in self.chunks.finish()? {
            files.push(ThanosFile { rel_path: format!("{CHUNKS}/{name}"), size_bytes });
        }
        let index_bytes = self.index.finish()?;
        files.push(ThanosFile { rel_path: INDEX.into(), size_bytes: index_bytes });
        files.push(ThanosFile { rel_path: META.into(), size_bytes: 0 });
        let thanos = self.meta.thanos.get_or_insert_with(ThanosMeta::default);
        thanos.version = 1;
        thanos.files = files;
        thanos.index_stats = IndexStats { series_max_size, chunk_max_size: self.chunk_max };
        if let Some(s) = self.meta.strandline.as_mut().filter(|_| self.samples.min_ms <= self.samples.max_ms) {
            s.samples_ms = Some((self.samples.min_ms, self.samples.max_ms));
        }
        let meta_path = self.tmp.join(META);
        self.fs.write_atomic(&meta_path, &self.meta.to_json()).map_err(io("writing meta.json", &meta_path))?;
        self.fs.rename(&self.tmp, &self.target).map_err(io("publishing a block", &self.target))?;
        let parent = self.target.parent().unwrap_or(Path::new("."));
        self.fs.sync_dir(parent).map_err(io("syncing the block folder", parent))?;
        Ok(Some(self.meta))
    }

    /// Gives up and removes what was written.
    pub fn abort(self) {
        let (fs, tmp) = (self.fs.clone(), self.tmp.clone());
        drop(self);
        discard(&*fs, &tmp);
    }
}

/// Removes what no manifest names. What stays all the same is removed at the next start.
fn discard(fs: &dyn Fs, dir: &Path) {
    let _ = fs.remove_dir_all(dir);
}
