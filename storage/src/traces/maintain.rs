//! What a store does on the side: flush by size and age, upload, merge, retention, removal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::block::meta::{BlockMeta, META_FILE, SPANS_FILE};
use super::blocks::{self, Around, BlockHandle, Found};
use super::store::TraceStore;
use crate::error::{Error, ErrorKind, Result};

/// What a look at the bucket finds.
#[derive(Default)]
struct News {
    blocks: Vec<Arc<BlockHandle>>,
    /// What is wrong with those that can't be read.
    damaged: Vec<String>,
    /// Folders without a description.
    halves: Vec<String>,
}

impl TraceStore {
    /// One round of upkeep; call it every few seconds from a thread of its own. Failures of one errand do not keep the
    /// others from being run; the first is returned.
    pub fn maintain(&self) -> Result<()> {
        let flushed = self.flush_due();
        flushed.and(self.tend())
    }

    /// Upkeep but for flushes: what waits for the bucket or merges. Spans pile up meanwhile, so that whoever keeps
    /// threads calls [`TraceStore::flush_due`] from another.
    pub fn tend(&self) -> Result<()> {
        let inner = &self.0;
        inner.check_open()?;
        let _tidying = inner.tidying.lock();
        let now = inner.options.clock.now_ms();
        let mut first = self.refresh(now);
        let mut errand = |done: Result<()>| {
            if first.is_ok() {
                first = done;
            }
        };
        errand(self.upload());
        let all = self.blocks();
        errand(inner.ownership.tend(all.iter().map(|b| (Some(&*b.meta.writer_id), &*b.meta.ulid)), now));
        errand(self.retain(now));
        if inner.options.compaction {
            errand(self.merge_all(now, usize::MAX).map(|_| ()));
        }
        first
    }

    /// Has the next turn list the bucket, however lately that was done.
    pub(crate) fn look_again(&self) {
        self.0.synced_ms.store(i64::MIN, Ordering::Relaxed);
    }

    /// Whether a block is this store's to merge and remove.
    pub(super) fn owns(&self, meta: &BlockMeta, now_ms: i64) -> bool {
        self.0.ownership.owns(Some(&meta.writer_id), &meta.ulid, now_ms)
    }

    /// Now and then: finds blocks that other processes have put into the bucket, forgets those that are gone, and
    /// removes what was marked long enough ago. One listing, and a look at each folder that is not read.
    fn refresh(&self, now_ms: i64) -> Result<()> {
        let (inner, o) = (&self.0, &self.0.options);
        // A listing that lies ahead of the clock tells that it was set back, and nothing else.
        let since_ms = now_ms.saturating_sub(inner.synced_ms.load(Ordering::Relaxed));
        let due = !(0..o.sync_interval_ms).contains(&since_ms);
        if !due && inner.state.read().unlisted.is_none() {
            return Ok(());
        }
        // Before the listing, so that what a flush uploads meanwhile is not taken for gone.
        let known = self.blocks();
        let unknown = |ulid: &str| !known.iter().any(|b| b.meta.ulid == ulid);
        let Around { names, found } = blocks::look_around(&o.bucket, &o.tenant, &unknown)?;
        let mut news = News::default();
        for (ulid, found) in found {
            self.take_in(ulid, found, now_ms, &mut news)?;
        }
        let gone = |b: &BlockHandle| {
            let was_there = known.iter().any(|k| !k.staged && k.meta.ulid == b.meta.ulid);
            was_there && !b.staged && !names.contains(&b.meta.ulid)
        };
        let merged = {
            let mut s = inner.state.write();
            let mut all: Vec<_> = s.blocks.iter().filter(|b| !gone(b)).cloned().collect();
            all.extend(news.blocks.into_iter().filter(|f| !s.blocks.iter().any(|b| b.meta.ulid == f.meta.ulid)));
            let sources: foldhash::HashSet<String> = all.iter().flat_map(|b| b.meta.sources.clone()).collect();
            let (merged, read): (Vec<_>, Vec<_>) = all.into_iter().partition(|b| sources.contains(&b.meta.ulid));
            s.blocks = Arc::new(read);
            s.unlisted = None;
            s.damaged = news.damaged;
            merged
        };
        inner.synced_ms.store(now_ms, Ordering::Relaxed);
        // A merge that was cut short before it could mark what it had merged.
        for b in merged.iter().filter(|b| !b.staged && self.owns(&b.meta, now_ms)) {
            blocks::mark(o, &b.meta.ulid, now_ms)?;
        }
        if o.compaction { self.tend_halves(news.halves) } else { Ok(()) }
    }

    /// What one folder of the bucket holds that is not read: removed if its time has come, else told.
    fn take_in(&self, ulid: String, found: Found, now_ms: i64, news: &mut News) -> Result<()> {
        let (inner, o) = (&self.0, &self.0.options);
        let block = |meta: BlockMeta| BlockHandle::in_bucket(meta, o.fs.clone(), inner.bucket.clone());
        match found {
            Found::Nothing => news.halves.push(ulid),
            Found::Damaged(why) => match blocks::describe(o, &inner.bucket, &ulid, &why) {
                Ok(meta) => news.blocks.push(block(meta)),
                Err(e) if e.is_retryable() => return Err(e),
                Err(e) => news.damaged.push(e.to_string()),
            },
            Found::Block(meta) => news.blocks.push(block(*meta)),
            Found::Marked { at_ms, by, meta } => {
                if let Some(m) = &meta {
                    inner.ownership.tend(std::iter::once((Some(&*m.writer_id), &*ulid)), now_ms)?;
                }
                // The description goes first: without one, a removal was cut short and is ended.
                let ours = by == o.writer_id || meta.is_none_or(|m| self.owns(&m, now_ms));
                if ours && o.clock.past_ms().saturating_sub(at_ms) >= o.delete_delay_ms {
                    blocks::remove(&o.bucket, &o.tenant, &ulid)?;
                }
            }
        }
        Ok(())
    }

    /// Removes folders without a description once they are old and change no more, but for those of this store that are
    /// on their way.
    fn tend_halves(&self, mut halves: Vec<String>) -> Result<()> {
        let (inner, o) = (&self.0, &self.0.options);
        {
            let ours = inner.maintenance.lock();
            halves.retain(|u| !ours.staged.contains(u) && ours.merging.as_ref() != Some(u));
        }
        let below = format!("traces/{}", o.tenant);
        inner.halves.lock().tend(&*o.bucket, (&below, META_FILE), &halves, &inner.ownership, o.clock.past_ms())
    }

    /// Staged blocks to the bucket: the data, then its description. Flushes go on meanwhile.
    pub(super) fn upload(&self) -> Result<()> {
        let inner = &self.0;
        let fs = &inner.options.fs;
        let dir = inner.options.dir.join("traces");
        let _alone = inner.uploading.lock();
        let staged = inner.maintenance.lock().staged.clone();
        for ulid in staged {
            let at = dir.join(&ulid);
            let known = self.blocks();
            let handle = known.iter().find(|b| b.meta.ulid == ulid && b.staged).cloned();
            // One that could not be read is left for who can mend it.
            if handle.is_none() && !known.iter().any(|b| b.meta.ulid == ulid || b.meta.sources.contains(&ulid)) {
                continue;
            }
            if handle.is_some() {
                let prefix = blocks::prefix(&inner.options.tenant, &ulid);
                inner.options.bucket.put_file(&format!("{prefix}{SPANS_FILE}"), &at.join(SPANS_FILE))?;
                inner.options.bucket.put_file(&format!("{prefix}{META_FILE}"), &at.join(META_FILE))?;
            }
            let mut manifest = inner.maintenance.lock();
            inner.check_open()?;
            manifest.change(fs, &dir, |m| m.staged.retain(|u| *u != ulid))?;
            // Only now, so that nothing merges it while a restart would find it staged.
            if let Some(h) = handle {
                let uploaded = BlockHandle::in_bucket(h.meta.clone(), fs.clone(), inner.bucket.clone());
                self.replace(&[ulid.as_str()], Some(uploaded));
            }
            if fs.exists(&at) {
                fs.remove_dir_all(&at).map_err(|e| Error::io("removing an uploaded block's copy", &at, e))?;
            }
        }
        Ok(())
    }

    /// Accepts that a block which waited for its upload is lost: answers no longer miss it. What is left of it goes into
    /// `given-up` of the data folder. `NotFound` if no such block is damaged or gone.
    pub fn give_up(&self, ulid: &str) -> Result<()> {
        let (inner, o) = (&self.0, &self.0.options);
        let _alone = inner.uploading.lock();
        let mut manifest = inner.maintenance.lock();
        inner.check_open()?;
        let is_it = |l: &super::manifest::Lost| l.ulid == ulid;
        if !inner.state.read().damaged_here.iter().any(is_it) {
            return Err(Error::new(ErrorKind::NotFound, format!("no span block {ulid} waits here that can't be read")));
        }
        let dir = o.dir.join("traces");
        crate::sealed::put_aside(&o.fs, &dir.join(ulid), &o.dir.join(crate::engine::GIVEN_UP))?;
        manifest.change(&o.fs, &dir, |m| m.staged.retain(|u| u != ulid))?;
        inner.state.write().damaged_here.retain(|l| !is_it(l));
        Ok(())
    }

    /// Gives readers `new` instead of the blocks named, at one moment.
    pub(super) fn replace(&self, old: &[&str], new: Option<Arc<BlockHandle>>) {
        let mut s = self.0.state.write();
        let mut all: Vec<_> = s.blocks.iter().filter(|b| !old.contains(&b.meta.ulid.as_str())).cloned().collect();
        all.extend(new);
        s.blocks = Arc::new(all);
    }

    /// Removes blocks that retention lets go: marked in the bucket, no longer read.
    fn retain(&self, now_ms: i64) -> Result<()> {
        let o = &self.0.options;
        let all = self.blocks();
        let metas: Vec<_> = all.iter().filter(|b| self.owns(&b.meta, now_ms)).map(|b| &b.meta).collect();
        for ulid in super::compact::plan::expired(&metas, o.clock.past_ms(), o.retention_ms, o.retention_bytes) {
            let Some(b) = all.iter().find(|b| b.meta.ulid == ulid && !b.staged) else { continue };
            blocks::mark(o, &b.meta.ulid, now_ms)?;
            self.replace(&[&ulid], None);
        }
        Ok(())
    }
}
