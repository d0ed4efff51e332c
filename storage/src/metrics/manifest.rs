//! The manifest: which local blocks exist, and from which log segment on the head must be rebuilt.
//!
//! It is swapped in one rename after a flush or compaction has put its blocks in place: what it does not name does
//! not exist, and is removed at the next start. It is kept twice (`crate::sealed`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strandline_wal::fs::Fs;

use super::block::BlockMeta;
use crate::error::{Error, Result};
use crate::sealed;

/// A block in the local folder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct LocalBlock {
    /// Folder name.
    pub ulid: String,
    /// In the bucket too, since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded_ms: Option<i64>,
    /// The deletes that its description names, in case that is damaged: nothing else of the block tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deletes_applied: Vec<String>,
}

impl LocalBlock {
    /// A block that has just been written.
    pub fn new(meta: &BlockMeta) -> Self {
        let deletes_applied = meta.strandline.as_ref().map(|s| s.deletes_applied.clone()).unwrap_or_default();
        LocalBlock { ulid: meta.ulid.clone(), uploaded_ms: None, deletes_applied }
    }
}

/// A block that compaction has replaced and that must still be marked and removed in the bucket.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Obsolete {
    /// Folder name.
    pub ulid: String,
    /// Why, for the mark.
    pub reason: String,
}

/// The state of a store's folder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Manifest {
    /// Of this file.
    pub version: u32,
    /// Records in segments below are in blocks.
    pub wal_floor: u64,
    /// Series ids from here on were never used.
    pub next_series_id: u64,
    /// Names of blocks given out so far: none is given twice, also where the clock stands still over a restart.
    #[serde(default)]
    pub names: u64,
    /// Local blocks.
    pub blocks: Vec<LocalBlock>,
    /// Blocks of ours in the bucket that are no longer wanted.
    #[serde(default)]
    pub obsolete: Vec<Obsolete>,
}

impl Default for Manifest {
    fn default() -> Self {
        Manifest { version: 1, wal_floor: 0, next_series_id: 1, names: 0, blocks: Vec::new(), obsolete: Vec::new() }
    }
}

impl Manifest {
    fn path(dir: &Path) -> PathBuf {
        dir.join("manifest.json")
    }

    /// Reads it; an absent one is that of an empty store.
    pub fn load(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Self> {
        let path = Self::path(dir);
        let Some(m) = sealed::load::<Manifest>(fs, &path)? else { return Ok(Self::default()) };
        if m.version != 1 {
            return Err(Error::invalid(format!("the manifest has version {}, this binary knows 1: use a newer one", m.version)).at(&path));
        }
        Ok(m)
    }

    /// Writes it, durably and in one step.
    pub fn save(&self, fs: &Arc<dyn Fs>, dir: &Path) -> Result<()> {
        sealed::save(fs, &Self::path(dir), self)
    }
}
