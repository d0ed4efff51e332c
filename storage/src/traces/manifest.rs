//! `manifest.json` in the data folder: which blocks wait for their upload, and where the log begins to count.
//!
//! Written whole, so that a flush takes effect at one moment.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strandline_wal::fs::Fs;

use super::block::meta::{BlockMeta, META_FILE};
use super::blocks::BlockHandle;
use crate::bucket::CachedBucket;
use crate::error::{Error, Result};

const NAME: &str = "manifest.json";

/// State of the data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the format.
    pub version: u32,
    /// Records in segments below this one are in blocks.
    pub wal_floor: u64,
    /// Blocks that were written here and may not be in the bucket yet.
    pub staged: Vec<String>,
}

impl Manifest {
    /// Reads the manifest; an empty one if there is none.
    pub fn load(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Manifest> {
        let path = dir.join(NAME);
        if !fs.exists(&path) {
            return Ok(Manifest { version: 1, ..Manifest::default() });
        }
        let json = fs.read(&path).map_err(|e| Error::io("reading the manifest", &path, e))?;
        let m: Manifest = serde_json::from_slice(&json).map_err(|e| Error::corrupt(format!("a damaged manifest: {e}")).at(&path))?;
        if m.version > 1 {
            return Err(Error::invalid(format!("a manifest of version {}; this version reads 1", m.version)).at(&path));
        }
        Ok(m)
    }

    /// Writes it, durably.
    fn save(&self, fs: &Arc<dyn Fs>, dir: &Path) -> Result<()> {
        let path = dir.join(NAME);
        let json = serde_json::to_vec(self).map_err(|e| Error::invalid(format!("writing the manifest: {e}")))?;
        fs.write_atomic(&path, &json).map_err(|e| Error::io("writing the manifest", &path, e))
    }

    /// Changes it, here once it is changed on disk. Where that fails the disk may have either.
    pub fn change(&mut self, fs: &Arc<dyn Fs>, dir: &Path, how: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = self.clone();
        how(&mut next);
        next.save(fs, dir)?;
        *self = next;
        Ok(())
    }

    /// Handles of staged blocks that are not in `known`. Folders that no manifest names are what a crash left of a
    /// flush whose spans are still in the log: they are removed.
    pub fn staged(&self, fs: &Arc<dyn Fs>, dir: &Path, bucket: &CachedBucket, known: &[Arc<BlockHandle>]) -> Result<Vec<Arc<BlockHandle>>> {
        let mut out = Vec::new();
        for e in fs.read_dir(dir).map_err(|e| Error::io("listing staged blocks", dir, e))? {
            let name = e.name().to_owned();
            if !e.is_dir {
                continue;
            }
            if !self.staged.contains(&name) {
                fs.remove_dir_all(&e.path).map_err(|err| Error::io("removing an unfinished block", &e.path, err))?;
                continue;
            }
            if known.iter().any(|k| k.meta.ulid == name) {
                continue;
            }
            let path = e.path.join(META_FILE);
            let json = fs.read(&path).map_err(|e| Error::io("reading a staged block", &path, e))?;
            let meta = BlockMeta::parse(&json).map_err(|e| e.at(&path))?;
            out.push(BlockHandle::staged(meta, fs.clone(), e.path.clone(), bucket.clone()));
        }
        let found = |u: &String| known.iter().chain(&out).any(|h| h.meta.ulid == *u) || self.is_superseded(u, known);
        if let Some(lost) = self.staged.iter().find(|u| !found(u)) {
            return Err(Error::corrupt(format!("block {lost} is neither staged nor in the bucket")).at(dir));
        }
        Ok(out)
    }

    /// Merged or removed since: its folder went before the manifest was written anew.
    fn is_superseded(&self, ulid: &str, known: &[Arc<BlockHandle>]) -> bool {
        known.iter().any(|k| k.meta.sources.iter().any(|s| s == ulid))
    }
}
