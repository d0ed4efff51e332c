//! Merging blocks of one window into one, trace by trace.

use std::path::Path;
use std::sync::Arc;

use super::order::Order;
use crate::error::{Error, Result};
use crate::traces::block::layout::Sampler;
use crate::traces::block::meta::{META_FILE, SPANS_FILE};
use crate::traces::block::survey::survey;
use crate::traces::block::writer::{BlockIdentity, BlockWriter};
use crate::traces::blocks::{self, BlockHandle};
use crate::traces::store::TraceStore;

impl TraceStore {
    /// Merges until nothing is left to merge, merges have to give way, or `most` have run. Gives how many did.
    pub fn compact(&self, most: usize) -> Result<usize> {
        self.0.check_open()?;
        let _tidying = self.0.tidying.lock();
        self.merge_all(self.options().clock.now_ms(), most)
    }

    /// The same for who tidies up anyway.
    pub(in crate::traces) fn merge_all(&self, now_ms: i64, most: usize) -> Result<usize> {
        self.end_merge_cut_short(now_ms)?;
        for n in 0..most {
            let all = self.blocks();
            let metas: Vec<_> = all.iter().filter(|b| !b.staged && self.owns(&b.meta, now_ms)).map(|b| &b.meta).collect();
            let o = self.options();
            let Some(plan) = super::plan::merge(&metas, now_ms, o.compact_blocks, self.is_busy()) else { return Ok(n) };
            let inputs: Vec<_> = all.iter().filter(|b| plan.blocks.contains(&b.meta.ulid)).cloned().collect();
            if !self.merge(&inputs, plan.urgent)? {
                return Ok(n);
            }
            self.0.check_open()?;
            for b in &inputs {
                blocks::mark(o, &b.meta.ulid, now_ms)?;
            }
        }
        Ok(most)
    }

    /// What goes into the bucket unnamed by anything else is named in the manifest meanwhile.
    fn note_merge(&self, ulid: Option<&str>) -> Result<()> {
        let o = self.options();
        let mut manifest = self.0.maintenance.lock();
        self.0.check_open()?;
        manifest.change(&o.fs, &o.dir.join("traces"), |m| m.merging = ulid.map(str::to_owned))
    }

    /// Without its description nobody reads a merged block, and nobody else would remove its spans.
    fn end_merge_cut_short(&self, now_ms: i64) -> Result<()> {
        let Some(ulid) = self.0.maintenance.lock().merging.clone() else { return Ok(()) };
        blocks::reject_half(self.options(), &ulid, now_ms)?;
        self.note_merge(None)
    }

    fn is_busy(&self) -> bool {
        self.0.pace.lock().is_busy(self.options().clock.now_ms())
    }

    /// Merges blocks into one. False if it gave way, which an urgent one never does: nothing has changed then. Nothing stays
    /// of one that fails: each try has a name of its own.
    fn merge(&self, inputs: &[Arc<BlockHandle>], urgent: bool) -> Result<bool> {
        let o = self.options();
        let ulid = self.next_ulid();
        let dir = o.dir.join("traces").join(&ulid);
        let done = self.merge_as(&ulid, &dir, inputs, urgent);
        // Once closed, the folder is another's.
        if !matches!(done, Ok(true)) && self.0.check_open().is_ok() && o.fs.exists(&dir) {
            o.fs.remove_dir_all(&dir).map_err(|e| Error::io("removing an unfinished merge", &dir, e))?;
        }
        done
    }

    fn merge_as(&self, ulid: &str, dir: &Path, inputs: &[Arc<BlockHandle>], urgent: bool) -> Result<bool> {
        let o = self.options();
        let opened = inputs.iter().map(|b| b.open()).collect::<Result<Vec<_>>>()?;
        let mut sampler = Sampler::default();
        opened.iter().try_for_each(|b| survey(b, &mut sampler))?;
        let sum = |f: fn(&BlockHandle) -> u64| inputs.iter().map(|b| f(b)).sum::<u64>();
        let identity = BlockIdentity {
            ulid: ulid.to_owned(),
            tenant: o.tenant.clone(),
            writer_id: o.writer_id.clone(),
            window_start_ms: inputs[0].meta.window_start_ms,
            window_ms: inputs[0].meta.window_ms,
            level: inputs.iter().map(|b| b.meta.level).max().unwrap_or(0) + 1,
            sources: inputs.iter().flat_map(|b| std::iter::once(b.meta.ulid.clone()).chain(b.meta.sources.clone())).collect(),
        };
        let size = (sum(|b| b.meta.spans), sum(|b| b.meta.traces));
        let mut writer = BlockWriter::create(o.fs.clone(), dir, identity, sampler.layout()?, o.compact_write.clone(), size)?;
        let mut order = Order::new(opened, &o.compact_write)?;
        while let Some((rows, traces)) = order.next_group()? {
            self.0.check_open()?;
            if !urgent && self.is_busy() {
                return Ok(false);
            }
            writer.gather(&rows, traces)?;
        }
        let meta = writer.finish()?;
        let prefix = blocks::prefix(&o.tenant, ulid);
        self.note_merge(Some(ulid))?;
        o.bucket.put_file(&format!("{prefix}{SPANS_FILE}"), &dir.join(SPANS_FILE))?;
        o.bucket.put_file(&format!("{prefix}{META_FILE}"), &dir.join(META_FILE))?;
        let merged = BlockHandle::in_bucket(meta, o.fs.clone(), self.0.bucket.clone());
        let old: Vec<&str> = inputs.iter().map(|b| b.meta.ulid.as_str()).collect();
        self.replace(&old, Some(merged));
        self.note_merge(None)?;
        o.fs.remove_dir_all(dir).map(|()| true).map_err(|e| Error::io("removing a merged block's copy", dir, e))
    }
}
