//! `manifest.json` in the data folder: which blocks wait for their upload, and where the log begins to count.
//!
//! Written whole, so that a flush takes effect at one moment, and kept twice (`crate::sealed`).

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strandline_wal::fs::Fs;

use super::block::describe::Owner;
use super::block::meta::{BlockMeta, META_FILE};
use super::block::reader::Location;
use super::blocks::{self, BlockHandle};
use super::options::TraceStoreOptions;
use crate::bucket::CachedBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::sealed;

const NAME: &str = "manifest.json";

/// A block that waits for its upload and can't be read, with what is wrong.
pub struct Lost {
    pub ulid: String,
    pub why: String,
}

/// State of the data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the format.
    pub version: u32,
    /// Records in segments below this one are in blocks.
    pub wal_floor: u64,
    /// Blocks that were written here and may not be in the bucket yet.
    pub staged: Vec<String>,
    /// A merged block that is on its way into the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<String>,
}

impl Manifest {
    /// Reads the manifest; an empty one if there is none.
    pub fn load(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Manifest> {
        let path = dir.join(NAME);
        let Some(m) = sealed::load::<Manifest>(fs, &path)? else { return Ok(Manifest { version: 1, ..Manifest::default() }) };
        if m.version > 1 {
            return Err(Error::invalid(format!("a manifest of version {}; this version reads 1", m.version)).at(&path));
        }
        Ok(m)
    }

    /// Writes it, durably.
    fn save(&self, fs: &Arc<dyn Fs>, dir: &Path) -> Result<()> {
        sealed::save(fs, &dir.join(NAME), self)
    }

    /// Changes it, here once it is changed on disk. Where that fails the disk may have either.
    pub fn change(&mut self, fs: &Arc<dyn Fs>, dir: &Path, how: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = self.clone();
        how(&mut next);
        next.save(fs, dir)?;
        *self = next;
        Ok(())
    }

    /// Handles of staged blocks that are not in `known`, and what is wrong with those that can't be read. Folders that no
    /// manifest names are what a crash left of a flush whose spans are still in the log: they are removed.
    pub fn staged(
        &self,
        o: &TraceStoreOptions,
        bucket: &CachedBucket,
        known: &[Arc<BlockHandle>],
    ) -> Result<(Vec<Arc<BlockHandle>>, Vec<Lost>)> {
        let (fs, dir) = (&o.fs, &o.dir.join("traces"));
        let (mut out, mut damaged, mut lost) = (Vec::new(), Vec::new(), self.staged.clone());
        for e in fs.read_dir(dir).map_err(|e| Error::io("listing staged blocks", dir, e))? {
            let name = e.name().to_owned();
            if !e.is_dir {
                continue;
            }
            if !self.staged.contains(&name) {
                fs.remove_dir_all(&e.path).map_err(|err| Error::io("removing an unfinished block", &e.path, err))?;
                continue;
            }
            lost.retain(|u| *u != name);
            if known.iter().any(|k| k.meta.ulid == name) {
                continue;
            }
            match described(o, &e.path, &name) {
                Ok(meta) => out.push(BlockHandle::staged(meta, fs.clone(), e.path.clone(), bucket.clone())),
                Err(e) if e.is_retryable() => return Err(e),
                Err(e) => damaged.push(Lost { ulid: name, why: e.to_string() }),
            }
        }
        lost.retain(|u| !known.iter().any(|h| h.meta.ulid == *u) && !self.is_superseded(u, known));
        let gone = |ulid: String| Lost { why: format!("{}: block {ulid} was to be uploaded and is gone", dir.display()), ulid };
        damaged.extend(lost.into_iter().map(gone));
        Ok((out, damaged))
    }

    /// Merged or removed since: its folder went before the manifest was written anew.
    fn is_superseded(&self, ulid: &str, known: &[Arc<BlockHandle>]) -> bool {
        known.iter().any(|k| k.meta.sources.iter().any(|s| s == ulid))
    }
}

/// The description of a staged block; a damaged one is made anew, on the disk too.
fn described(o: &TraceStoreOptions, dir: &Path, ulid: &str) -> Result<BlockMeta> {
    let path = dir.join(META_FILE);
    let json = o.fs.read(&path).map_err(|e| Error::io("reading a staged block", &path, e));
    match json.and_then(|json| BlockMeta::parse(&json)) {
        Err(e) if matches!(e.kind, ErrorKind::Corrupt | ErrorKind::NotFound) => {
            let owner = Owner { ulid, tenant: &o.tenant, writer_id: &o.writer_id, window_ms: o.window_ms };
            let meta = blocks::describe_at(&owner, &Location::Folder(o.fs.clone(), dir.to_owned()), &o.fs, &e.at(&path))?;
            o.fs.write_atomic(&path, &meta.to_json()?).map_err(|e| Error::io("mending a block's description", &path, e))?;
            Ok(meta)
        }
        parsed => parsed.map_err(|e| e.at(&path)),
    }
}
