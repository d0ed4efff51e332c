//! What a store does on the side: flush by size and age, upload, merge, retention, removal.

use std::sync::Arc;

use super::block::meta::{META_FILE, SPANS_FILE};
use super::blocks::{self, BlockHandle};
use super::manifest::Manifest;
use super::store::TraceStore;
use crate::error::{Error, Result};

impl TraceStore {
    /// One round of upkeep; call it every few seconds from a thread of its own. Failures of one errand do not keep the
    /// others from being run; the first is returned.
    pub fn maintain(&self) -> Result<()> {
        let inner = &self.0;
        inner.check_writable()?;
        // A flush must not wait for a merge: spans pile up meanwhile.
        let _tidying = inner.tidying.lock();
        let mut manifest = inner.maintenance.lock();
        let now = inner.options.clock.now_ms();
        let due = {
            let s = inner.state.read();
            let old = s.live.oldest_ms.is_some_and(|t| now - t >= inner.options.flush_age_ms);
            old || !s.frozen.is_empty() || s.live.memory_bytes() >= inner.options.flush_bytes
        };
        let mut first = if due { self.cut(&mut manifest) } else { Ok(()) };
        let mut errand = |done: Result<()>| {
            if first.is_ok() {
                first = done;
            }
        };
        errand(self.list_late());
        errand(self.upload(&mut manifest));
        drop(manifest);
        errand(self.retain(now));
        if inner.options.compaction {
            errand(self.compact(now));
        }
        let swept =
            blocks::sweep(&inner.options.bucket, &inner.options.tenant, &inner.options.writer_id, now, inner.options.delete_delay_ms);
        errand(swept.map(|_| ()));
        first
    }

    /// Lists the bucket if that failed at opening.
    fn list_late(&self) -> Result<()> {
        let o = &self.0.options;
        if self.0.state.read().unlisted.is_none() {
            return Ok(());
        }
        let mut found = blocks::list(&o.fs, &o.bucket, &o.tenant)?;
        let mut s = self.0.state.write();
        found.retain(|b| !s.blocks.iter().any(|k| k.meta.ulid == b.meta.ulid));
        found.extend(s.blocks.iter().cloned());
        s.blocks = Arc::new(found);
        s.unlisted = None;
        Ok(())
    }

    /// Staged blocks to the bucket: the data, then its description.
    pub(super) fn upload(&self, manifest: &mut Manifest) -> Result<()> {
        let inner = &self.0;
        let dir = inner.options.dir.join("traces");
        for ulid in manifest.staged.clone() {
            let at = dir.join(&ulid);
            let handle = self.blocks().iter().find(|b| b.meta.ulid == ulid && b.staged).cloned();
            if let Some(h) = handle {
                let prefix = blocks::prefix(&inner.options.tenant, &ulid);
                inner.options.bucket.put_file(&format!("{prefix}{SPANS_FILE}"), &at.join(SPANS_FILE))?;
                inner.options.bucket.put_file(&format!("{prefix}{META_FILE}"), &at.join(META_FILE))?;
                let uploaded = BlockHandle::in_bucket(h.meta.clone(), inner.options.fs.clone(), inner.options.bucket.clone());
                self.replace(&[ulid.as_str()], Some(uploaded));
            }
            manifest.staged.retain(|u| *u != ulid);
            manifest.save(&inner.options.fs, &dir)?;
            if inner.options.fs.exists(&at) {
                inner.options.fs.remove_dir_all(&at).map_err(|e| Error::io("removing an uploaded block's copy", &at, e))?;
            }
        }
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
        let metas: Vec<_> = all.iter().map(|b| &b.meta).collect();
        for ulid in super::compact::plan::expired(&metas, now_ms, o.retention_ms, o.retention_bytes) {
            let Some(b) = all.iter().find(|b| b.meta.ulid == ulid && !b.staged && b.meta.writer_id == o.writer_id) else { continue };
            blocks::mark(&o.bucket, &b.meta, now_ms)?;
            self.replace(&[&ulid], None);
        }
        Ok(())
    }
}
