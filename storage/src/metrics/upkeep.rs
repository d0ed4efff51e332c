//! What is done from time to time: spill, flush, compact, upload, retain, look at the bucket.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::block::{self, BlockMeta};
use super::deletes::Delete;
use super::manifest::{Manifest, Obsolete};
use super::mend::is_damage;
use super::store::{MetricStore, Work};
use super::version::{BlockEntry, Place};
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::model::TimeRange;
use crate::sealed;

/// Thanos' and Mimir's mark.
#[derive(Serialize, Deserialize)]
struct DeletionMark {
    id: String,
    version: u32,
    details: String,
    deletion_time: i64,
    /// Who will remove it; nobody in marks of other programs.
    #[serde(default)]
    marked_by: String,
}

/// The bucket's blocks as they were last listed.
#[derive(Serialize, Deserialize)]
struct Known {
    blocks: Vec<BlockMeta>,
}

const MIN_BACKOFF_MS: i64 = 1_000;
const MAX_BACKOFF_MS: i64 = 300_000;
const LEASE_RETRY_MS: i64 = 60_000;

impl MetricStore {
    /// One turn of upkeep. Call it every second or so; it does what is due. Trouble with the bucket is remembered
    /// and tried again later; trouble with the disk is the answer.
    pub fn maintain(&self) -> Result<()> {
        self.flush_due()?;
        self.tend()
    }

    /// Spills, flushes and gives back memory, where that is due. Waits for no bucket: whoever keeps threads calls it from
    /// another than [`MetricStore::tend`].
    pub fn flush_due(&self) -> Result<()> {
        self.check_open()?;
        self.0.head.apply_decided();
        let spilled = self.0.head.spill(self.0.options.spill_bytes);
        self.collect();
        let flushed = if self.is_due() { self.flush() } else { Ok(()) };
        flushed.and(spilled)
    }

    /// Upkeep but for flushes: merges, retention, the bucket. One that fails keeps none of the others from being run: what
    /// retention removes may be the room that a merge lacks. The first failure is returned.
    pub fn tend(&self) -> Result<()> {
        self.check_open()?;
        let mut work = self.0.work.lock();
        let mut merged = Ok(());
        if self.0.options.compaction {
            self.tend_lease(&mut work);
            merged = self.compact_once(&mut work, self.settle_ms()).map(|_| ());
        }
        let mut retained = self.apply_retention(&mut work).map(|_| ());
        if self.0.options.bucket.is_none() {
            retained = retained.and(self.forget_deletes(&mut work));
        }
        self.tend_bucket(&mut work);
        merged.and(retained)
    }

    /// A finished range (with a tenth of its width for stragglers), or too much memory.
    fn is_due(&self) -> bool {
        let s = self.0.head.stats();
        s.min_t <= s.max_t && (self.range_is_due(s.min_t, s.max_t) || self.memory_is_due())
    }

    /// Once for each range that the clock finishes: with a sender that catches up, the head always holds samples of
    /// finished ranges, and a flush takes along everybody's.
    fn range_is_due(&self, min_t: i64, max_t: i64) -> bool {
        let o = &self.0.options;
        let width = o.rules.range_ms;
        let now_ms = o.clock.now_ms();
        let end = TimeRange::aligned(min_t, width).max_ms.saturating_add(1);
        if max_t < end || now_ms < end.saturating_add(width / 10) {
            return false;
        }
        let newest_turn_ms = (now_ms - width / 10).div_euclid(width) * width + width / 10;
        let last = *self.0.last_flush.lock();
        // A flush that lies ahead of the clock tells that it was set back, and nothing else.
        last.is_none_or(|f| f.at_ms < newest_turn_ms || f.at_ms > now_ms)
    }

    /// More than allowed, and a good part of it has come since the last flush: what that one left, the next one leaves too.
    fn memory_is_due(&self) -> bool {
        let max = self.0.options.head_max_bytes;
        self.heap_bytes_estimate() > max && self.flushable_bytes() > max / 4
    }

    fn tend_bucket(&self, work: &mut Work) {
        let now_ms = self.0.options.clock.now_ms();
        // What lies farther ahead than any wait was set before the clock was set back.
        let waiting = (1..=MAX_BACKOFF_MS).contains(&work.retry_at_ms.saturating_sub(now_ms));
        if self.0.options.bucket.is_none() || waiting {
            return;
        }
        let mut done = self.upload_deletes().and_then(|()| self.upload_pending(work));
        done = done.and_then(|()| self.adopt_unwanted(work)).and_then(|()| self.tend_obsolete(work));
        done = done.and_then(|()| self.forget_deletes(work));
        let since_ms = now_ms.saturating_sub(work.last_sync_ms);
        if done.is_ok() && (!work.listed || !(0..self.0.options.sync_interval_ms).contains(&since_ms)) {
            done = self.sync_bucket(work);
            if let Err(e) = self.rebuild_version(work) {
                tracing::error!(error = %e, "blocks could not be listed");
            }
            if let (true, Some(bucket)) = (self.0.options.compaction, self.0.options.bucket.clone()) {
                done = done.and_then(|()| self.tend_halves(&*bucket, work));
            }
        }
        match done {
            Ok(()) => self.bucket_fine(work),
            Err(e) => self.bucket_failed(work, &e),
        }
    }

    /// Removes what lost machines left of their uploads.
    fn tend_halves(&self, bucket: &dyn Bucket, work: &mut Work) -> Result<()> {
        let ours = self.0.manifest.lock().blocks.clone();
        let found: Vec<String> = std::mem::take(&mut work.half).into_iter().filter(|u| !ours.iter().any(|b| b.ulid == *u)).collect();
        let past_ms = self.0.options.clock.past_ms();
        work.halves.tend(bucket, (&self.bucket_prefix(), block::META), &found, &self.0.ownership, past_ms)
    }

    /// Blocks that other writers have left in the bucket are for whoever holds the lease. A lease that can't be had (a bucket
    /// without conditional puts, or that lets nobody write there) holds up nothing else.
    fn tend_lease(&self, work: &mut Work) {
        let now_ms = self.0.options.clock.now_ms();
        if (1..=LEASE_RETRY_MS).contains(&work.lease_retry_at_ms.saturating_sub(now_ms)) {
            return;
        }
        let v = self.version();
        let unwanted = work.unwanted.iter().map(|(by, ulid)| (Some(&**by), &**ulid));
        if let Err(e) = self.0.ownership.tend(v.blocks.iter().map(|b| (b.meta.writer(), &*b.meta.ulid)).chain(unwanted), now_ms) {
            if work.lease_retry_at_ms == 0 {
                tracing::warn!(error = %e, "the lease can't be had; blocks that other writers have left wait");
            }
            work.lease_retry_at_ms = now_ms.saturating_add(LEASE_RETRY_MS);
        } else {
            work.lease_retry_at_ms = 0;
        }
    }

    fn bucket_fine(&self, work: &mut Work) {
        work.backoff_ms = 0;
        work.retry_at_ms = 0;
        if self.0.bucket_error.lock().take().is_some() {
            tracing::info!("the bucket answers again");
        }
    }

    pub(super) fn bucket_failed(&self, work: &mut Work, e: &Error) {
        work.backoff_ms = (work.backoff_ms * 2).clamp(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
        work.retry_at_ms = self.0.options.clock.now_ms() + work.backoff_ms;
        let mut last = self.0.bucket_error.lock();
        if last.is_none() {
            tracing::warn!(error = %e, retry_in_ms = work.backoff_ms, "the bucket can't be reached; data stays on the local disk until it can");
        }
        *last = Some(e.to_string());
    }

    /// Uploads everything that is not in the bucket yet; the error says what failed. For `flush` on request.
    pub fn upload(&self) -> Result<()> {
        self.check_open()?;
        let mut work = self.0.work.lock();
        if self.0.options.bucket.is_none() {
            return Ok(());
        }
        match self.upload_deletes().and_then(|()| self.upload_pending(&mut work)) {
            Ok(()) => {
                self.bucket_fine(&mut work);
                Ok(())
            }
            Err(e) => {
                self.bucket_failed(&mut work, &e);
                Err(e)
            }
        }
    }

    fn upload_pending(&self, work: &mut Work) -> Result<()> {
        let Some(bucket) = &self.0.options.bucket else { return Ok(()) };
        let waiting: Vec<String> = {
            let m = self.0.manifest.lock();
            m.blocks.iter().filter(|b| b.uploaded_ms.is_none()).map(|b| b.ulid.clone()).collect()
        };
        for ulid in waiting {
            let dir = self.local_dir().join(&ulid);
            let prefix = format!("{}/{ulid}", self.bucket_prefix());
            let meta = match self.local_meta(&ulid) {
                Ok(m) => m,
                // It stays here; queries say what is wrong with it.
                Err(e) if is_damage(&e) => continue,
                Err(e) => return Err(e),
            };
            work.begun.insert(ulid.clone());
            // meta.json is last in the list: a block without it does not exist for readers.
            for f in meta.thanos.as_ref().map_or(&[][..], |t| &t.files) {
                bucket.put_file(&format!("{prefix}/{}", f.rel_path), &dir.join(&f.rel_path))?;
            }
            work.bucket_blocks.retain(|b| b.ulid != ulid);
            work.bucket_blocks.push(meta);
            self.0.names.lock().in_bucket.push(ulid.clone());
            self.mark_uploaded(&ulid)?;
            work.begun.remove(&ulid);
        }
        self.drop_local(work)
    }

    fn mark_uploaded(&self, ulid: &str) -> Result<()> {
        let now_ms = self.0.options.clock.now_ms();
        let mut manifest = self.0.manifest.lock();
        let mut next = manifest.clone();
        if let Some(b) = next.blocks.iter_mut().find(|b| b.ulid == ulid) {
            b.uploaded_ms = Some(now_ms);
        }
        self.save(&mut manifest, next)
    }

    /// Local copies go `local_retention` after the upload; at once if the bucket is a folder here.
    fn drop_local(&self, work: &mut Work) -> Result<()> {
        let o = &self.0.options;
        let here = o.bucket.as_ref().is_some_and(|b| b.local_path("").is_some());
        let keep_ms = if here { 0 } else { o.local_retention_ms };
        let now_ms = o.clock.now_ms();
        let mut dropped = Vec::new();
        {
            let mut manifest = self.0.manifest.lock();
            let mut next = manifest.clone();
            next.blocks.retain(|b| {
                // Only what the list of the bucket holds: after a start without the bucket it may be an old one.
                let listed = work.bucket_blocks.iter().any(|k| k.ulid == b.ulid) || self.is_merged(&b.ulid, work);
                let goes = listed && b.uploaded_ms.is_some_and(|t| t + keep_ms <= now_ms);
                if goes {
                    dropped.push(b.ulid.clone());
                }
                !goes
            });
            if dropped.is_empty() {
                return Ok(());
            }
            // From here on only the bucket has them: a start while it is down must know of them all the same.
            self.remember_bucket(work, &manifest)?;
            self.save(&mut manifest, next)?;
        }
        let old: Vec<Arc<BlockEntry>> = self.version().blocks.iter().filter(|b| dropped.contains(&b.meta.ulid)).cloned().collect();
        self.rebuild_version(work)?;
        // Of those that another process has merged no version knows.
        for ulid in dropped.iter().filter(|u| !old.iter().any(|b| b.meta.ulid == **u)) {
            self.remove_local(&self.local_dir().join(ulid));
        }
        self.bury(old);
        Ok(())
    }

    /// As [`crate::Engine::give_up`], of metric blocks.
    pub fn give_up(&self, ulid: &str) -> Result<()> {
        let (work, o) = (self.0.work.lock(), &self.0.options);
        {
            let mut manifest = self.0.manifest.lock();
            let is_lost = manifest.blocks.iter().any(|b| b.ulid == ulid) && self.local_meta(ulid).is_err_and(|e| is_damage(&e));
            if !is_lost {
                return Err(Error::new(ErrorKind::NotFound, format!("no block {ulid} lies here that can't be read")));
            }
            self.check_open()?;
            sealed::put_aside(&o.fs, &self.local_dir().join(ulid), &o.dir.join(crate::engine::GIVEN_UP))?;
            let mut next = manifest.clone();
            next.blocks.retain(|b| b.ulid != ulid);
            self.save(&mut manifest, next)?;
        }
        self.rebuild_version(&work)
    }

    /// Whether another process has merged a block of ours and removed it from the bucket since.
    fn is_merged(&self, ulid: &str, work: &Work) -> bool {
        let Ok(own) = self.local_meta(ulid) else { return false };
        let (level, sources) = (own.compaction.level, &own.compaction.sources);
        let holds = |k: &BlockMeta| k.compaction.level > level && sources.iter().all(|s| k.compaction.sources.contains(s));
        work.bucket_blocks.iter().any(holds)
    }

    /// Removes local folders of blocks that no version names any more. Readers that opened them keep their files;
    /// those that did not find the block in the bucket, or fail and are asked again.
    pub(super) fn bury(&self, blocks: Vec<Arc<BlockEntry>>) {
        for b in blocks {
            // Opened before its files go, so that a reader on an older version still can read it.
            let _ = b.open();
            if let Place::Local(dir) = &b.place {
                self.remove_local(dir);
            }
        }
    }

    fn remove_local(&self, dir: &std::path::Path) {
        if let Err(e) = self.0.options.fs.remove_dir_all(dir)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, dir = %dir.display(), "a replaced block could not be removed; the next start will");
        }
    }

    /// Takes over what is to be removed from the bucket and whose writer does not do it.
    fn adopt_unwanted(&self, work: &Work) -> Result<()> {
        let now_ms = self.0.options.clock.now_ms();
        let mut manifest = self.0.manifest.lock();
        let owned = |(by, ulid): &&(String, String)| {
            self.0.ownership.owns(Some(by), ulid, now_ms) && !manifest.obsolete.iter().any(|o| o.ulid == *ulid)
        };
        let found: Vec<Obsolete> = work
            .unwanted
            .iter()
            .filter(owned)
            .map(|(_, ulid)| Obsolete { ulid: ulid.clone(), reason: "left by its writer".into() })
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        let mut next = manifest.clone();
        next.obsolete.extend(found);
        self.save(&mut manifest, next)
    }

    /// Marks blocks that were replaced, and removes them when their time has come: meta.json first.
    fn tend_obsolete(&self, work: &mut Work) -> Result<()> {
        let Some(bucket) = &self.0.options.bucket else { return Ok(()) };
        let obsolete: Vec<Obsolete> = self.0.manifest.lock().obsolete.clone();
        for o in obsolete {
            let prefix = format!("{}/{}", self.bucket_prefix(), o.ulid);
            let mark_key = format!("{prefix}/deletion-mark.json");
            let now_s = self.0.options.clock.now_ms() / 1000;
            // Asked for once: it is looked at every turn, for as long as the block waits for its end.
            let marked_s = match work.marked_s.get(&o.ulid) {
                Some(s) => Some(*s),
                None => match bucket.get(&mark_key) {
                    Ok(b) => serde_json::from_slice::<DeletionMark>(&b).ok().map(|m| m.deletion_time),
                    Err(e) if e.kind == ErrorKind::NotFound => None,
                    Err(e) => return Err(e),
                },
            };
            work.marked_s.extend(marked_s.map(|s| (o.ulid.clone(), s)));
            match marked_s {
                None => {
                    let m = DeletionMark {
                        id: o.ulid.clone(),
                        version: 1,
                        details: o.reason.clone(),
                        deletion_time: now_s,
                        marked_by: self.0.writer.clone(),
                    };
                    let json = bytes::Bytes::from(serde_json::to_vec(&m).unwrap_or_default());
                    bucket.put(&mark_key, json.clone())?;
                    bucket.put(&format!("{}/markers/{}-deletion-mark.json", self.bucket_prefix(), o.ulid), json)?;
                    work.marked_s.insert(o.ulid, now_s);
                }
                Some(s) if self.0.options.clock.past_ms().saturating_sub(s.saturating_mul(1000)) >= self.0.options.delete_delay_ms => {
                    // Forgotten first: a start while the bucket is down must not look for what is gone.
                    work.bucket_blocks.retain(|b| b.ulid != o.ulid);
                    self.remember_bucket(work, &self.0.manifest.lock())?;
                    self.remove_from_bucket(&**bucket, &prefix, &o.ulid)?;
                    let mut manifest = self.0.manifest.lock();
                    let mut next = manifest.clone();
                    next.obsolete.retain(|x| x.ulid != o.ulid);
                    self.save(&mut manifest, next)?;
                    work.marked_s.remove(&o.ulid);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn remove_from_bucket(&self, bucket: &dyn Bucket, prefix: &str, ulid: &str) -> Result<()> {
        bucket.delete(&format!("{prefix}/{}", block::META))?;
        let mark = format!("{prefix}/deletion-mark.json");
        for o in bucket.list(&format!("{prefix}/"))?.iter().filter(|o| o.key != mark) {
            bucket.delete(&o.key)?;
        }
        bucket.delete(&mark)?;
        bucket.delete(&format!("{}/markers/{ulid}-deletion-mark.json", self.bucket_prefix()))
    }

    fn known_path(&self) -> PathBuf {
        self.0.options.dir.join("metrics").join("bucket-blocks.json")
    }

    /// Keeps the list of the bucket's blocks for a start while the bucket is down; the bucket itself is the truth. A close waits
    /// for it: what comes later would be written over the list of the folder's next owner.
    fn remember_bucket(&self, work: &Work, _manifest: &Manifest) -> Result<()> {
        self.check_open()?;
        let path = self.known_path();
        let json = sealed::to_json(&Known { blocks: work.bucket_blocks.clone() })?;
        self.0.options.fs.write_atomic(&path, &json).map_err(|e| Error::io("keeping the list of the bucket's blocks", &path, e))
    }

    /// The bucket's blocks as they were kept last; none if they never were.
    pub(super) fn remembered(&self) -> Option<Vec<BlockMeta>> {
        let json = self.0.options.fs.read(&self.known_path()).ok()?;
        sealed::from_json::<Known>(&json).ok().map(|k| k.blocks)
    }

    /// Lists the bucket. If it can't be reached, what was known last stands in; a store that never saw its bucket
    /// says so in every query.
    pub(super) fn sync_bucket(&self, work: &mut Work) -> Result<()> {
        let Some(bucket) = self.0.options.bucket.clone() else {
            work.listed = true;
            return Ok(());
        };
        let now_ms = self.0.options.clock.now_ms();
        let done = match self.list_bucket(&*bucket, work) {
            Ok((list, unknown)) => {
                work.last_sync_ms = now_ms;
                self.find_unwanted(&list, work);
                let changed = !work.listed || list != work.bucket_blocks;
                work.unknown = unknown;
                work.bucket_blocks = list;
                work.listed = true;
                if changed
                    && !self.0.options.read_only
                    && let Err(e) = self.remember_bucket(work, &self.0.manifest.lock())
                {
                    tracing::warn!(error = %e, "the list of the bucket's blocks could not be kept");
                }
                Ok(())
            }
            Err(e) => {
                if !work.listed
                    && let Some(blocks) = self.remembered()
                {
                    work.bucket_blocks = blocks;
                    work.listed = true;
                }
                Err(e)
            }
        };
        self.0.names.lock().in_bucket = work.bucket_blocks.iter().map(|b| b.ulid.clone()).collect();
        let incomplete = self.what_is_missing(work, &work.unknown);
        let mut v = self.0.version.write();
        if v.incomplete != incomplete {
            *v = Arc::new(super::version::Version { incomplete, ..(**v).clone() });
        }
        done
    }

    /// Why answers may miss something.
    pub(super) fn what_is_missing(&self, work: &Work, unknown: &[String]) -> Option<String> {
        let bucket = self.0.options.bucket.as_ref().filter(|_| !work.listed);
        let unlisted = bucket.map(|b| format!("{} was never reached, so its blocks are unknown", b.name()));
        let why: Vec<String> = unlisted.into_iter().chain(unknown.iter().cloned()).collect();
        (!why.is_empty()).then(|| why.join("; "))
    }

    /// What writers of this kind have merged or marked. A merge that was cut short has marked nothing yet.
    fn find_unwanted(&self, list: &[BlockMeta], work: &mut Work) {
        let parents: std::collections::HashSet<&str> = list.iter().flat_map(|b| &b.compaction.parents).map(|p| &*p.ulid).collect();
        let merged =
            list.iter().filter(|b| parents.contains(&*b.ulid)).map(|b| (b.writer().unwrap_or_default().to_owned(), b.ulid.clone()));
        let marked = work.marks.iter().map(|(ulid, by)| (by.clone(), ulid.clone()));
        // Of our own the manifest knows, but for one that was put back from a backup.
        let manifest = self.0.manifest.lock();
        let known = |u: &str| manifest.obsolete.iter().any(|o| o.ulid == u) || manifest.blocks.iter().any(|b| b.ulid == u);
        work.unwanted = merged.chain(marked).filter(|(by, ulid)| *by != self.0.writer || !known(ulid)).collect();
    }

    /// Who marked the blocks that are about to go; each mark is read once.
    fn read_marks(&self, bucket: &dyn Bucket, markers: &[crate::bucket::ObjectInfo], work: &mut Work) -> Result<()> {
        let names = markers.iter().filter_map(|m| Some((&m.key, m.key.rsplit('/').next()?.strip_suffix("-deletion-mark.json")?)));
        let mut marks = std::collections::HashMap::new();
        for (key, ulid) in names {
            let by = match work.marks.remove(ulid) {
                Some(by) => by,
                None => match bucket.get(key) {
                    Ok(json) => serde_json::from_slice::<DeletionMark>(&json).map_or_else(|_| String::new(), |m| m.marked_by),
                    Err(e) if e.kind == ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                },
            };
            marks.insert(ulid.to_owned(), by);
        }
        work.marks = marks;
        Ok(())
    }

    /// The blocks of the bucket, and what is wrong with those that can't be described.
    fn list_bucket(&self, bucket: &dyn Bucket, work: &mut Work) -> Result<(Vec<BlockMeta>, Vec<String>)> {
        let (mut out, mut unknown, mut half) = (Vec::new(), Vec::new(), Vec::new());
        // Marked blocks are about to go: what replaces them is there already.
        let markers = bucket.list(&format!("{}/markers/", self.bucket_prefix()))?;
        self.read_marks(bucket, &markers, work)?;
        let marked = |name: &str| markers.iter().any(|m| m.key.rsplit('/').next().is_some_and(|f| f.starts_with(name)));
        for name in bucket.list_folders(&format!("{}/", self.bucket_prefix()))? {
            if name.parse::<ulid::Ulid>().is_err() || marked(&name) || work.downsampled.contains(&name) {
                continue;
            }
            if let Some(known) = work.bucket_blocks.iter().find(|b| b.ulid == name) {
                out.push(known.clone());
                continue;
            }
            match bucket.get(&format!("{}/{name}/{}", self.bucket_prefix(), block::META)) {
                Ok(json) => match self.bucket_meta(&name, &json) {
                    Ok(m) if m.is_downsampled() => drop(work.downsampled.insert(name)),
                    Ok(m) => out.push(m),
                    Err(e) if is_damage(&e) => unknown.push(e.to_string()),
                    Err(e) => return Err(e),
                },
                // Being uploaded, or being removed.
                Err(e) if e.kind == ErrorKind::NotFound => half.push(name),
                Err(e) => return Err(e),
            }
        }
        work.half = half;
        self.fetch_deletes(bucket, &work.forgotten)?;
        Ok((out, unknown))
    }

    /// Puts deletes into the bucket that it is not known to have.
    pub(super) fn upload_deletes(&self) -> Result<()> {
        let Some(bucket) = &self.0.options.bucket else { return Ok(()) };
        for d in &self.version().deletes {
            if self.0.deletes_in_bucket.lock().contains(&d.spec.ulid) {
                continue;
            }
            bucket.put_if_absent(&self.delete_key(&d.spec.ulid), d.to_json().into())?;
            self.0.deletes_in_bucket.lock().insert(d.spec.ulid.clone());
        }
        Ok(())
    }

    /// Deletes that were made elsewhere. They are kept here too: a start while the bucket is away must not show again what
    /// they hide.
    fn fetch_deletes(&self, bucket: &dyn Bucket, forgotten: &HashSet<String>) -> Result<()> {
        let mut fresh = Vec::new();
        let known = self.version();
        let mut there = std::collections::HashSet::new();
        for o in bucket.list(&format!("deletes/{}/", self.0.options.tenant))? {
            let name = o.key.rsplit('/').next().unwrap_or("").trim_end_matches(".json");
            there.insert(name.to_owned());
            if forgotten.contains(name) || known.deletes.iter().any(|d| d.spec.ulid == name) {
                continue;
            }
            match Delete::parse(&bucket.get(&o.key)?) {
                Ok(d) => fresh.push(Arc::new(d)),
                Err(e) => {
                    tracing::error!(error = %e.at(&o.key), "a delete in the bucket is damaged: what it hid is seen by nodes that know it from there")
                }
            }
        }
        let _no_flush_between = self.0.flushing.lock();
        for d in fresh.iter().filter(|_| !self.0.options.read_only) {
            self.flush_deleted(d)?;
            if let Err(e) = self.keep_delete(&d.spec) {
                tracing::warn!(error = %e, "a delete that was made elsewhere could not be kept here");
            }
        }
        {
            // One made meanwhile is put there once more at most.
            *self.0.deletes_in_bucket.lock() = there;
            let mut v = self.0.version.write();
            let mut next = (**v).clone();
            fresh.retain(|f| !next.deletes.iter().any(|d| d.spec.ulid == f.spec.ulid));
            if !fresh.is_empty() {
                next.deletes.extend(fresh);
                *v = Arc::new(next);
            }
        }
        Ok(())
    }
}
