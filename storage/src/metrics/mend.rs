//! Blocks whose description is damaged: it is made anew from the index and the chunks, which have checksums of their own.
//! A block without a writer is tended by whoever holds the tenant's lease.
//!
//! Which deletes a block has behind it nothing in the block tells. Of a local one the manifest knows, of one in the bucket the
//! list of its blocks that is kept here. Where neither does (a new machine), all deletes of its time are applied to it: what
//! was deleted must not come back, and that costs what was sent after a delete for the time that had been deleted.

use std::path::Path;

use super::block::{self, Block, BlockMeta};
use super::deletes::Delete;
use super::manifest::Manifest;
use super::remote::Opener;
use super::store::MetricStore;
use super::version::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::sealed;

impl MetricStore {
    /// The description of a local block; a damaged one is made anew, on the disk too.
    pub(super) fn local_meta(&self, ulid: &str) -> Result<BlockMeta> {
        let fs = &self.0.options.fs;
        let dir = self.local_dir().join(ulid);
        let path = dir.join(block::META);
        let json = fs.read(&path).map_err(|e| Error::io("reading meta.json", &path, e));
        match json.and_then(|j| BlockMeta::parse(&j)) {
            Err(e) if is_damage(&e) => {
                let why = e.at(&path);
                let mut meta = self.described(ulid, Place::Local(dir), &why)?;
                let named = Manifest::load(fs, &self.0.options.dir.join("metrics"))?.blocks.into_iter().find(|b| b.ulid == ulid);
                let deletes_applied = named.map(|b| b.deletes_applied).unwrap_or_default();
                meta.strandline = Some(block::StrandlineMeta { writer: self.0.writer.clone(), deletes_applied, ..Default::default() });
                fs.write_atomic(&path, &meta.to_json()).map_err(|e| Error::io("mending meta.json", &path, e))?;
                Ok(meta)
            }
            parsed => parsed.map_err(|e| e.at(&path)),
        }
    }

    /// The description of a block of the bucket; a damaged one is made anew, in the bucket too.
    pub(super) fn bucket_meta(&self, ulid: &str, json: &[u8]) -> Result<BlockMeta> {
        let prefix = format!("{}/{ulid}", self.bucket_prefix());
        match BlockMeta::parse(json) {
            Err(e) if is_damage(&e) => {
                let why = e.at(format!("{prefix}/{}", block::META));
                let key = format!("{prefix}/{}", block::META);
                let meta = match self.remembered().into_iter().flatten().find(|m| m.ulid == ulid) {
                    Some(meta) => {
                        tracing::error!(block = ulid, error = %why, "a block's description is damaged; it is written anew as it is remembered here");
                        meta
                    }
                    None => self.described(ulid, Place::Bucket(prefix), &why)?,
                };
                if let Some(b) = self.0.options.bucket.as_ref().filter(|_| !self.0.options.read_only)
                    && let Err(e) = b.put(&key, meta.to_json().into())
                {
                    tracing::warn!(error = %e, key, "the description that was made anew could not be put there; it is made again when needed");
                }
                Ok(meta)
            }
            parsed => parsed.map_err(|e| e.at(format!("{prefix}/{}", block::META))),
        }
    }

    fn described(&self, ulid: &str, place: Place, why: &Error) -> Result<BlockMeta> {
        let unknown = BlockMeta { ulid: ulid.to_owned(), version: 1, ..BlockMeta::default() };
        let made = self.0.opener.open(&unknown, &place).and_then(|b| b.describe(ulid));
        match made {
            Ok(m) => {
                tracing::error!(block = ulid, error = %why, "a block's description is damaged; it was made anew from its index");
                Ok(m)
            }
            Err(e) => Err(Error::new(e.kind, format!("{why}; nor can it be made anew from the block itself: {e}"))),
        }
    }

    /// The deletes that lie here. Each is kept twice; one of which both are damaged is set aside, and the bucket asked.
    pub(super) fn read_deletes(&self, dir: &Path) -> Result<Vec<Delete>> {
        let fs = &self.0.options.fs;
        let entries = fs.read_dir(dir).map_err(|e| Error::io("listing deletes", dir, e))?;
        let stem = |name: &str| name.strip_suffix(".json").map(|n| n.trim_end_matches("-copy").to_owned());
        let names: std::collections::BTreeSet<String> = entries.iter().filter_map(|e| stem(e.name())).collect();
        let mut all = Vec::new();
        for name in names {
            let path = dir.join(format!("{name}.json"));
            match sealed::load(fs, &path).and_then(|spec| spec.map(Delete::of).transpose()) {
                Ok(d) => all.extend(d),
                Err(e) if e.kind == ErrorKind::Corrupt => {
                    tracing::error!(error = %e.at(&path), "a delete is damaged, twice: what it hid is seen again unless the bucket has it; set aside");
                    let aside = dir.join(format!("{name}.damaged"));
                    fs.rename(&path, &aside).map_err(|e| Error::io("setting a damaged delete aside", &aside, e))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}

/// Whether a file says another thing than what was written, or is gone.
pub(super) fn is_damage(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::Corrupt | ErrorKind::NotFound)
}

impl Block {
    /// A description out of what the block holds.
    fn describe(&self, ulid: &str) -> Result<BlockMeta> {
        let mut meta = BlockMeta { ulid: ulid.to_owned(), version: 1, min_time: i64::MAX, max_time: i64::MIN, ..BlockMeta::default() };
        meta.compaction = block::Compaction { level: 1, sources: vec![ulid.to_owned()], ..Default::default() };
        let mut entry = block::index::SeriesEntry::default();
        for r in self.index().all()? {
            self.index().series(r, &mut entry)?;
            meta.stats.num_series += 1;
            for c in &entry.chunks {
                meta.min_time = meta.min_time.min(c.range.min_ms);
                meta.max_time = meta.max_time.max(c.range.max_ms + 1);
                meta.stats.num_chunks += 1;
                // Every encoding begins with the number of samples.
                let n = |_, data: &[u8]| Ok(data.first_chunk().map_or(0, |n| u64::from(u16::from_be_bytes(*n))));
                meta.stats.num_samples += self.chunks().with(c.reference, 1024, n)?;
            }
        }
        if meta.min_time > meta.max_time {
            return Err(Error::corrupt("its index names no chunk"));
        }
        let mut files: Vec<_> = self
            .chunks()
            .sizes()
            .into_iter()
            .enumerate()
            .map(|(i, n)| (format!("{}/{}", block::CHUNKS, block::chunks::segment_name(i)), n))
            .collect();
        files.push((block::INDEX.into(), self.index().size_bytes()));
        files.push((block::META.into(), 0));
        let files = files.into_iter().map(|(rel_path, size_bytes)| block::ThanosFile { rel_path, size_bytes }).collect();
        meta.thanos = Some(block::ThanosMeta { version: 1, files, ..Default::default() });
        Ok(meta)
    }
}
