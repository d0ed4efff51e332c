//! The blocks a store reads, opened when first needed.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use strandline_wal::fs::Fs;

use super::block::meta::{BlockMeta, DELETION_MARK_FILE, META_FILE};
use super::block::reader::{Location, OpenBlock};
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};

/// A block of the store.
pub struct BlockHandle {
    /// Its description.
    pub meta: BlockMeta,
    /// Whether it lies in a local folder, not in the bucket yet.
    pub staged: bool,
    location: Location,
    /// Where it is found once it has left its folder for the bucket.
    later: Option<Location>,
    fs: Arc<dyn Fs>,
    open: Mutex<Option<Arc<OpenBlock>>>,
}

impl BlockHandle {
    /// A block that waits for its upload.
    pub fn staged(meta: BlockMeta, fs: Arc<dyn Fs>, dir: PathBuf, bucket: Arc<dyn Bucket>) -> Arc<Self> {
        let location = Location::Folder(fs.clone(), dir);
        let later = Some(Location::Bucket(bucket, prefix(&meta.tenant, &meta.ulid)));
        Arc::new(BlockHandle { meta, staged: true, location, later, fs, open: Mutex::new(None) })
    }
    /// A block in the bucket.
    pub fn in_bucket(meta: BlockMeta, fs: Arc<dyn Fs>, bucket: Arc<dyn Bucket>) -> Arc<Self> {
        let location = Location::Bucket(bucket, prefix(&meta.tenant, &meta.ulid));
        Arc::new(BlockHandle { meta, staged: false, location, later: None, fs, open: Mutex::new(None) })
    }
    /// The block, opened once.
    pub fn open(&self) -> Result<Arc<OpenBlock>> {
        let mut open = self.open.lock();
        if let Some(b) = &*open {
            return Ok(b.clone());
        }
        let at = |location| OpenBlock::open(self.meta.clone(), location, &self.fs);
        let b = match (at(&self.location), &self.later) {
            (Err(e), Some(later)) if e.kind == ErrorKind::NotFound => at(later)?,
            (opened, _) => opened?,
        };
        let b = Arc::new(b);
        *open = Some(b.clone());
        Ok(b)
    }
    /// Memory of the open block.
    pub fn memory_bytes(&self) -> usize {
        self.open.lock().as_ref().map_or(0, |b| b.memory_bytes())
    }
    /// Forgets what was opened; it is opened again when needed.
    pub fn forget(&self) {
        *self.open.lock() = None;
    }
}

/// Key that a block's objects begin with.
pub fn prefix(tenant: &str, ulid: &str) -> String {
    format!("traces/{tenant}/{ulid}/")
}

/// The blocks in the bucket that count: described, of a known format, not marked for deletion, not merged into others.
pub fn list(fs: &Arc<dyn Fs>, bucket: &Arc<dyn Bucket>, tenant: &str) -> Result<Vec<Arc<BlockHandle>>> {
    let mut metas = Vec::new();
    for ulid in bucket.list_folders(&format!("traces/{tenant}/"))? {
        let prefix = prefix(tenant, &ulid);
        let json = match bucket.get(&format!("{prefix}{META_FILE}")) {
            Ok(j) => j,
            // An upload under way, or a removal: it does not count.
            Err(e) if e.kind == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        match bucket.size(&format!("{prefix}{DELETION_MARK_FILE}")) {
            Ok(_) => continue,
            Err(e) if e.kind == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        metas.push(BlockMeta::parse(&json).map_err(|e| e.at(format!("{prefix}{META_FILE}")))?);
    }
    let merged: foldhash::HashSet<String> = metas.iter().flat_map(|m: &BlockMeta| m.sources.clone()).collect();
    metas.retain(|m| !merged.contains(&m.ulid));
    Ok(metas.into_iter().map(|m| BlockHandle::in_bucket(m, fs.clone(), bucket.clone())).collect())
}

/// Marks a block as to be removed; its objects stay for a while.
pub fn mark(bucket: &Arc<dyn Bucket>, meta: &BlockMeta, now_ms: i64) -> Result<()> {
    let json = format!("{{\"version\":1,\"ulid\":\"{}\",\"deletion_time_ms\":{now_ms}}}", meta.ulid);
    bucket.put(&format!("{}{DELETION_MARK_FILE}", prefix(&meta.tenant, &meta.ulid)), json.into())
}

/// Removes marked blocks of `writer_id` whose mark is old enough; returns how many.
pub fn sweep(bucket: &Arc<dyn Bucket>, tenant: &str, writer_id: &str, now_ms: i64, delay_ms: i64) -> Result<usize> {
    let mut removed = 0;
    for ulid in bucket.list_folders(&format!("traces/{tenant}/"))? {
        let prefix = prefix(tenant, &ulid);
        let json = match bucket.get(&format!("{prefix}{DELETION_MARK_FILE}")) {
            Ok(j) => j,
            Err(e) if e.kind == ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let marked: serde_json::Value =
            serde_json::from_slice(&json).map_err(|e| Error::corrupt(format!("a damaged deletion mark: {e}")))?;
        let at = marked["deletion_time_ms"].as_i64().unwrap_or(i64::MAX);
        let ours = match bucket.get(&format!("{prefix}{META_FILE}")) {
            Ok(m) => BlockMeta::parse(&m)?.writer_id == writer_id,
            // The description goes first: a removal that was cut short is ended.
            Err(e) if e.kind == ErrorKind::NotFound => true,
            Err(e) => return Err(e),
        };
        if !ours || now_ms.saturating_sub(at) < delay_ms {
            continue;
        }
        bucket.delete(&format!("{prefix}{META_FILE}"))?;
        for object in bucket.list(&prefix)? {
            if !object.key.ends_with(DELETION_MARK_FILE) {
                bucket.delete(&object.key)?;
            }
        }
        bucket.delete(&format!("{prefix}{DELETION_MARK_FILE}"))?;
        removed += 1;
    }
    Ok(removed)
}
