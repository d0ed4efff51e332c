//! The blocks a store reads, opened when first needed.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use strandline_wal::fs::Fs;

use super::block::describe::{self, Owner};
use super::block::meta::{BlockMeta, DELETION_MARK_FILE, META_FILE};
use super::block::reader::{Location, OpenBlock};
use super::options::TraceStoreOptions;
use crate::bucket::{Bucket, CachedBucket};
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
    pub fn staged(meta: BlockMeta, fs: Arc<dyn Fs>, dir: PathBuf, bucket: CachedBucket) -> Arc<Self> {
        let location = Location::Folder(fs.clone(), dir);
        let later = Some(Location::Bucket(bucket, prefix(&meta.tenant, &meta.ulid)));
        Arc::new(BlockHandle { meta, staged: true, location, later, fs, open: Mutex::new(None) })
    }
    /// A block in the bucket.
    pub fn in_bucket(meta: BlockMeta, fs: Arc<dyn Fs>, bucket: CachedBucket) -> Arc<Self> {
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
    /// Whether to open and read it costs requests over a network.
    pub fn is_far(&self) -> bool {
        match &self.location {
            Location::Folder(..) => false,
            Location::Bucket(bucket, _) => bucket.bucket.local_path("").is_none(),
        }
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

/// What a block's folder in the bucket holds.
pub enum Found {
    /// An upload under way, or a removal that has ended: it does not count.
    Nothing,
    /// A block.
    Block(Box<BlockMeta>),
    /// A block whose description says another thing than what was written.
    Damaged(Error),
    /// A block that is to be removed; its description may be gone already.
    Marked {
        /// Since when, Unix milliseconds.
        at_ms: i64,
        /// The writer that marked it and will remove it.
        by: String,
        /// Its description.
        meta: Option<Box<BlockMeta>>,
    },
}

/// Looks into a block's folder.
pub fn look(bucket: &Arc<dyn Bucket>, tenant: &str, ulid: &str) -> Result<Found> {
    let prefix = prefix(tenant, ulid);
    let read = |name: &str| match bucket.get(&format!("{prefix}{name}")) {
        Ok(j) => Ok(Some(j)),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let meta = match read(META_FILE)?.map(|json| BlockMeta::parse(&json)).transpose() {
        Err(e) if e.kind == ErrorKind::Corrupt => Err(e.at(format!("{prefix}{META_FILE}"))),
        parsed => Ok(parsed.map_err(|e| e.at(format!("{prefix}{META_FILE}")))?.map(Box::new)),
    };
    let Some(mark) = read(DELETION_MARK_FILE)? else {
        return Ok(meta.map_or_else(Found::Damaged, |m| m.map_or(Found::Nothing, Found::Block)));
    };
    let meta = meta.unwrap_or_default();
    // One that can't be read says at least that somebody marked the block: it is not read, and not removed either.
    let mark: serde_json::Value = serde_json::from_slice(&mark).unwrap_or_default();
    let by = mark["marked_by"].as_str().unwrap_or_default().to_owned();
    Ok(Found::Marked { at_ms: mark["deletion_time_ms"].as_i64().unwrap_or(i64::MAX), by, meta })
}

/// A tenant's folders in the bucket.
pub struct Around {
    /// All their names.
    pub names: Vec<String>,
    /// What those hold that were looked into.
    pub found: Vec<(String, Found)>,
}

/// Lists the tenant's folders and looks into those for which `wanted` says so.
///
/// A merge puts its result into the bucket before it marks what it merged. So folders that were marked after the
/// listing are made up for by one that came after it: the listing is repeated until it shows nothing new.
pub fn look_around(bucket: &Arc<dyn Bucket>, tenant: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Around> {
    let (mut seen, mut found) = (foldhash::HashSet::default(), Vec::new());
    loop {
        let names = bucket.list_folders(&format!("traces/{tenant}/"))?;
        let new: Vec<&String> = names.iter().filter(|n| seen.insert((*n).clone())).collect();
        if new.is_empty() {
            return Ok(Around { names, found });
        }
        for ulid in new.into_iter().filter(|n| wanted(n)) {
            found.push((ulid.clone(), look(bucket, tenant, ulid)?));
        }
    }
}

/// A block whose description is damaged, described anew, in the bucket too. Nobody is known to have written it: whoever
/// holds the tenant's lease tends it.
pub fn describe(o: &TraceStoreOptions, bucket: &CachedBucket, ulid: &str, why: &Error) -> Result<BlockMeta> {
    let location = Location::Bucket(bucket.clone(), prefix(&o.tenant, ulid));
    let owner = Owner { ulid, tenant: &o.tenant, writer_id: "", window_ms: o.window_ms };
    let meta = describe_at(&owner, &location, &o.fs, why)?;
    let key = format!("{}{META_FILE}", prefix(&o.tenant, ulid));
    if !o.read_only
        && let Err(e) = bucket.bucket.put(&key, meta.to_json()?.into())
    {
        tracing::warn!(error = %e, key, "the description that was made anew could not be put there; it is made again when needed");
    }
    Ok(meta)
}

/// The same of a block anywhere.
pub(super) fn describe_at(owner: &Owner<'_>, location: &Location, fs: &Arc<dyn Fs>, why: &Error) -> Result<BlockMeta> {
    let made = describe::describe(owner, location, fs);
    match &made {
        Ok(_) => tracing::error!(block = owner.ulid, error = %why, "a block's description is damaged; it was made anew from its spans"),
        Err(e) => return Err(Error::new(e.kind, format!("{why}; nor can it be made anew from the block itself: {e}"))),
    }
    made
}

/// The blocks in the bucket that count: described, of a known format, not marked for deletion, not merged into others.
/// With what is wrong with those that can't be read at all.
pub fn list(o: &TraceStoreOptions, bucket: &CachedBucket) -> Result<(Vec<Arc<BlockHandle>>, Vec<String>)> {
    let (mut metas, mut unknown) = (Vec::new(), Vec::new());
    for (ulid, found) in look_around(&bucket.bucket, &o.tenant, &|_| true)?.found {
        match found {
            Found::Block(m) => metas.push(*m),
            Found::Damaged(why) => match describe(o, bucket, &ulid, &why) {
                Ok(m) => metas.push(m),
                Err(e) if e.is_retryable() => return Err(e),
                Err(e) => unknown.push(e.to_string()),
            },
            Found::Nothing | Found::Marked { .. } => {}
        }
    }
    let merged: foldhash::HashSet<String> = metas.iter().flat_map(|m: &BlockMeta| m.sources.clone()).collect();
    metas.retain(|m| !merged.contains(&m.ulid));
    Ok((metas.into_iter().map(|m| BlockHandle::in_bucket(m, o.fs.clone(), bucket.clone())).collect(), unknown))
}

/// Marks a block as to be removed; its objects stay for a while.
pub fn mark(o: &TraceStoreOptions, ulid: &str, now_ms: i64) -> Result<()> {
    let json = serde_json::json!({"version": 1, "ulid": ulid, "deletion_time_ms": now_ms, "marked_by": o.writer_id}).to_string();
    // The first mark stands: whoever made it removes the block.
    o.bucket.put_if_absent(&format!("{}{DELETION_MARK_FILE}", prefix(&o.tenant, ulid)), json.into()).map(|_| ())
}

/// Makes sure that half a block is never taken for a whole one and is removed. Its description may still be under way: of a
/// request that was given up, or of a store that was closed meanwhile. So it is marked, and a mark stands before any
/// description; where that was faster, the block is whole.
pub fn reject_half(o: &TraceStoreOptions, ulid: &str, now_ms: i64) -> Result<()> {
    let prefix = prefix(&o.tenant, ulid);
    let is_whole = || match o.bucket.size(&format!("{prefix}{META_FILE}")) {
        Ok(_) => Ok(true),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    };
    if is_whole()? {
        return Ok(());
    }
    mark(o, ulid, now_ms)?;
    if is_whole()? { o.bucket.delete(&format!("{prefix}{DELETION_MARK_FILE}")) } else { Ok(()) }
}

/// Removes a marked block: the description first, the mark last.
pub fn remove(bucket: &Arc<dyn Bucket>, tenant: &str, ulid: &str) -> Result<()> {
    let prefix = prefix(tenant, ulid);
    bucket.delete(&format!("{prefix}{META_FILE}"))?;
    for object in bucket.list(&prefix)? {
        if !object.key.ends_with(DELETION_MARK_FILE) {
            bucket.delete(&object.key)?;
        }
    }
    bucket.delete(&format!("{prefix}{DELETION_MARK_FILE}"))
}
