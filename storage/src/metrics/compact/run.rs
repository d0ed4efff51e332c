//! Acting out a compaction: the merged block is written beside its sources, the manifest swaps them, and the sources
//! in the bucket are marked. A crash at any step leaves either the sources or the result.

use std::sync::Arc;

use super::plan::{self, PlanBlock, Ranges, Step};
use crate::bucket::made_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::block::index::{SeriesEntry, SymbolTable};
use crate::metrics::block::{Block, BlockMeta, BlockWriter, ParentBlock, TOMBSTONES, encode_tombstones, remove_ranges};
use crate::metrics::deletes::Delete;
use crate::metrics::flush::{Chunks, apart, encode};
use crate::metrics::manifest::{LocalBlock, Obsolete};
use crate::metrics::merge;
use crate::metrics::store::{MetricStore, Work};
use crate::metrics::version::BlockEntry;
use crate::model::{Labels, TimeRange};
use crate::read::SampleBuf;
use crate::{chunk, model};

/// Chunks smaller than this are joined with their neighbours.
const SMALL_CHUNK: usize = 60;

impl MetricStore {
    fn plan_blocks(&self) -> Vec<PlanBlock> {
        let v = self.version();
        let now_ms = self.0.options.clock.now_ms();
        let pending = |m: &BlockMeta| v.deletes.iter().filter(|d| d.concerns(m)).count();
        v.blocks
            .iter()
            .map(|b| PlanBlock {
                ulid: b.meta.ulid.clone(),
                range: b.meta.range(),
                level: b.meta.compaction.level,
                written_ms: made_ms(&b.meta.ulid).unwrap_or(0),
                size_bytes: b.meta.size_bytes(),
                ours: self.0.ownership.owns(b.meta.writer(), &b.meta.ulid, now_ms),
                pending_deletes: pending(&b.meta),
            })
            .collect()
    }

    /// Runs compactions until there is nothing to do, at most `most`, without waiting for senders that may be catching up.
    /// Gives how many ran.
    pub fn compact(&self, most: usize) -> Result<usize> {
        self.check_open()?;
        let mut work = self.0.work.lock();
        let mut n = 0;
        while n < most && self.compact_once(&mut work, 0)? {
            n += 1;
        }
        Ok(n)
    }

    /// How long it takes from the end of a range to when hardly anything comes for it.
    pub(in crate::metrics) fn settle_ms(&self) -> i64 {
        let rules = &self.0.options.rules;
        rules.out_of_order_window_ms.min(rules.range_ms) / 4
    }

    pub(in crate::metrics) fn compact_once(&self, work: &mut Work, quiet_ms: i64) -> Result<bool> {
        let o = &self.0.options;
        let step = plan::compaction(
            &self.plan_blocks().into_iter().filter(|b| !work.damaged.contains(&b.ulid)).collect::<Vec<_>>(),
            o.clock.now_ms(),
            Ranges { base_ms: o.rules.range_ms, max_ms: o.max_block_range_ms, settle_ms: self.settle_ms(), quiet_ms },
        );
        match step {
            Some(s) => self.run_step(&s, work).inspect_err(|e| set_aside(e, &s, work)).map(|()| true),
            None => Ok(false),
        }
    }

    /// Applies retention. Gives how many blocks went.
    pub(in crate::metrics) fn apply_retention(&self, work: &mut Work) -> Result<usize> {
        let o = &self.0.options;
        let gone = plan::retention(&self.plan_blocks(), o.clock.past_ms(), o.retention_ms, o.retention_bytes);
        if gone.is_empty() {
            return Ok(0);
        }
        let n = gone.len();
        self.swap(&gone, None, "retention", work)?;
        Ok(n)
    }

    fn run_step(&self, step: &Step, work: &mut Work) -> Result<()> {
        let v = self.version();
        let entries: Vec<Arc<BlockEntry>> = v.blocks.iter().filter(|b| step.inputs.contains(&b.meta.ulid)).cloned().collect();
        let blocks = entries.iter().map(|e| e.open()).collect::<Result<Vec<_>>>()?;
        let hull = entries.iter().fold(TimeRange::new(i64::MAX, i64::MIN), |r, e| {
            TimeRange::new(r.min_ms.min(e.meta.min_time), r.max_ms.max(e.meta.max_time - 1))
        });
        let level = entries.iter().map(|e| e.meta.compaction.level).max().unwrap_or(0) + 1;
        let mut sources: Vec<String> = entries.iter().flat_map(|e| e.meta.compaction.sources.clone()).collect();
        sources.sort();
        sources.dedup();
        let mut meta = self.block_meta(self.new_ulid(), hull, level, sources);
        meta.compaction.parents = entries
            .iter()
            .map(|e| ParentBlock { ulid: e.meta.ulid.clone(), min_time: e.meta.min_time, max_time: e.meta.max_time })
            .collect();
        let deletes_of = |e: &BlockEntry| v.deletes.iter().filter(|d| d.concerns(&e.meta)).cloned().collect();
        let sources = blocks.into_iter().zip(&entries).map(|(block, e)| Source { block, deletes: deletes_of(e) }).collect();
        let written = self.merge(sources, &[], meta.behind(&v.deletes))?;
        let names: Vec<String> = entries.iter().map(|e| e.meta.ulid.clone()).collect();
        tracing::info!(inputs = names.len(), output = written.as_ref().map(|m| m.ulid.as_str()), "compacted metric blocks");
        self.swap(&names, written, "compacted", work)
    }

    /// One pass over all blocks in label order. `added` are labels that every series gets that has none of that name.
    pub(in crate::metrics) fn merge(&self, sources: Vec<Source>, added: &[(String, String)], meta: BlockMeta) -> Result<Option<BlockMeta>> {
        let mut symbols = SymbolTable::default();
        for s in &sources {
            s.block.index().each_symbol(&mut |s| symbols.add(s))?;
        }
        added.iter().flat_map(|(n, v)| [n, v]).for_each(|s| symbols.add(s));
        let cursors = sources.iter().map(|s| Cursor::new(s, added)).collect::<Result<Vec<_>>>()?;
        let mut w = BlockWriter::create(self.0.options.fs.clone(), &self.local_dir(), meta, symbols)?;
        match self.merge_into(cursors, &mut w) {
            Ok(()) => w.finish(),
            Err(e) => {
                w.abort();
                Err(e)
            }
        }
    }

    fn merge_into(&self, mut cursors: Vec<Cursor<'_>>, w: &mut BlockWriter) -> Result<()> {
        while let Some(labels) = cursors.iter().filter_map(|c| c.labels.as_ref()).min().cloned() {
            let mut chunks = Chunks::new();
            for c in cursors.iter_mut().filter(|c| c.labels.as_ref() == Some(&labels)) {
                c.take(&mut chunks)?;
            }
            chunks.sort_by_key(|(_, r, _)| (r.min_ms, r.max_ms));
            let chunks = self.settle(chunks)?;
            if !chunks.is_empty() {
                w.add(&labels, &chunks)?;
            }
        }
        Ok(())
    }

    /// Chunks as they are where they can stay; otherwise decoded, joined and encoded anew.
    fn settle(&self, chunks: Chunks) -> Result<Chunks> {
        let small = |c: &(chunk::Encoding, TimeRange, bytes::Bytes)| c.0.is_float() && chunk::num_samples(&c.2) < SMALL_CHUNK;
        let fragmented = chunks.windows(2).any(|w| small(&w[0]) && small(&w[1]));
        if !fragmented && apart(&chunks) {
            return Ok(chunks);
        }
        let mut buf = SampleBuf::default();
        for (e, _, data) in &chunks {
            chunk::decode(*e, data, model::TimeRange::all(), &mut buf)?;
        }
        merge::settle(&mut buf);
        let rules = self.0.head.rules();
        Ok(encode(&buf, rules.range_ms, rules.xor2))
    }

    /// Replaces blocks by one (or none): manifest, version, then whatever must be marked or removed.
    pub(in crate::metrics) fn swap(&self, gone: &[String], written: Option<BlockMeta>, reason: &str, work: &mut Work) -> Result<()> {
        let name = written.as_ref().map(|m| m.ulid.clone());
        self.name_instead(gone, written, reason, work).inspect_err(|_| self.discard_unnamed(name.as_slice()))?;
        let old: Vec<Arc<BlockEntry>> = self.version().blocks.iter().filter(|b| gone.contains(&b.meta.ulid)).cloned().collect();
        self.rebuild_version(work)?;
        self.bury(old);
        Ok(())
    }

    /// The manifest's part of [`MetricStore::swap`].
    fn name_instead(&self, gone: &[String], written: Option<BlockMeta>, reason: &str, work: &Work) -> Result<()> {
        let mut manifest = self.0.manifest.lock();
        let mut next = manifest.clone();
        for g in gone {
            let local = next.blocks.iter().position(|b| b.ulid == *g).map(|i| next.blocks.remove(i));
            // Of an upload that failed the bucket may hold a part, which nobody else would remove.
            let in_bucket = local.as_ref().is_none_or(|l| l.uploaded_ms.is_some()) || work.begun.contains(g);
            if in_bucket {
                next.obsolete.push(Obsolete { ulid: g.clone(), reason: reason.to_owned() });
            }
        }
        if let Some(m) = written {
            next.blocks.push(LocalBlock::new(&m));
        }
        self.save(&mut manifest, next)
    }
}

/// A damaged block is not tried again by this process: queries that need it say where the damage is.
fn set_aside(e: &Error, step: &Step, work: &mut Work) {
    if e.kind == ErrorKind::Corrupt
        && let Some(ulid) = step.inputs.iter().find(|u| e.to_string().contains(u.as_str()))
    {
        tracing::error!(block = ulid, error = %e, "a block is damaged; it is left out of compaction");
        work.damaged.push(ulid.clone());
    }
}

/// A block to be merged, and the deletes that concern it.
pub(in crate::metrics) struct Source {
    pub block: Arc<Block>,
    pub deletes: Vec<Arc<Delete>>,
}

/// A block being read series by series.
struct Cursor<'a> {
    source: &'a Source,
    order: Order,
    entry: SeriesEntry,
    labels: Option<Labels>,
    reference: u32,
}

enum Order {
    /// As the block has them.
    Own(roaring::bitmap::IntoIter),
    /// With labels added, which can change their order.
    Sorted(std::vec::IntoIter<(Labels, u32)>),
}

impl<'a> Cursor<'a> {
    fn new(source: &'a Source, added: &[(String, String)]) -> Result<Self> {
        let order = Order::Own(source.block.index().all()?.into_iter());
        let mut c = Cursor { source, order, entry: SeriesEntry::default(), labels: None, reference: 0 };
        c.advance()?;
        if !added.is_empty() {
            let mut all = Vec::new();
            while let Some(own) = c.labels.take() {
                let mut b = own.to_builder();
                for (n, v) in added.iter().filter(|(n, _)| own.get(n).is_none()) {
                    b.set(n, v);
                }
                all.push((b.build(), c.reference));
                c.advance()?;
            }
            all.sort_unstable();
            c.order = Order::Sorted(all.into_iter());
            c.advance()?;
        }
        Ok(c)
    }

    fn advance(&mut self) -> Result<()> {
        let index = self.source.block.index();
        let next = match &mut self.order {
            Order::Own(refs) => refs.next().map(|r| (None, r)),
            Order::Sorted(all) => all.next().map(|(labels, r)| (Some(labels), r)),
        };
        self.labels = match next {
            Some((labels, r)) => {
                index.series(r, &mut self.entry)?;
                self.reference = r;
                Some(labels.map_or_else(|| index.labels(&self.entry), Ok)?)
            }
            None => None,
        };
        Ok(())
    }

    fn take(&mut self, out: &mut Chunks) -> Result<()> {
        let Source { block, deletes } = self.source;
        let covers = |d: &&Arc<Delete>| self.labels.as_ref().is_some_and(|l| d.covers(l));
        let mut gone: Vec<TimeRange> = deletes.iter().filter(covers).map(|d| d.range()).collect();
        gone.extend(block.tombstones().get(&(self.reference as u64)).into_iter().flatten());
        for c in &self.entry.chunks {
            block.chunks().with(c.reference, 1024, |e, data| {
                if gone.iter().any(|t| t.overlaps(c.range)) {
                    let mut buf = SampleBuf::default();
                    chunk::decode(e, data, TimeRange::all(), &mut buf)?;
                    remove_ranges(&mut buf, 0, &gone);
                    out.extend(encode(&buf, i64::MAX / 4, e == chunk::Encoding::Xor2));
                } else {
                    out.push((e, c.range, bytes::Bytes::copy_from_slice(data)));
                }
                Ok(())
            })?;
        }
        self.advance()
    }
}

impl MetricStore {
    /// Rewrites every block of ours that a delete still concerns.
    pub fn clean_tombstones(&self) -> Result<()> {
        self.check_open()?;
        let mut work = self.0.work.lock();
        self.flush()?;
        while let Some(b) = self.plan_blocks().into_iter().find(|b| b.ours && b.pending_deletes > 0) {
            self.run_step(&Step { inputs: vec![b.ulid], range: b.range }, &mut work)?;
        }
        Ok(())
    }

    /// Copies (by hard link) every block into `snapshots/<name>` of the data folder, after a flush. Gives the name.
    pub fn snapshot(&self) -> Result<String> {
        self.check_open()?;
        let _alone = self.0.work.lock();
        self.flush()?;
        let name = self.new_ulid();
        let fs = &self.0.options.fs;
        let dir = self.0.options.dir.join("snapshots").join(&name);
        let io = |e| Error::io("writing a snapshot", &dir, e);
        fs.create_dir_durably(&dir).map_err(io)?;
        for b in self.blocks() {
            let target = dir.join(&b.meta.ulid);
            self.link_block(&b, &target).map_err(|e| e.at(&target))?;
        }
        fs.sync_dir(&dir).map_err(io)?;
        Ok(name)
    }

    /// Puts the files of a block into a folder: linked where the block is local, fetched where it is not.
    pub(in crate::metrics) fn link_block(&self, b: &BlockEntry, target: &std::path::Path) -> Result<()> {
        use crate::metrics::version::Place;
        let fs = &self.0.options.fs;
        let io = |e| Error::io("copying a block", target, e);
        fs.create_dir_all(&target.join(crate::metrics::block::CHUNKS)).map_err(io)?;
        let files = b.meta.thanos.as_ref().map_or(&[][..], |t| &t.files);
        for f in files {
            let to = target.join(&f.rel_path);
            let local = match &b.place {
                Place::Local(dir) => Some(dir.join(&f.rel_path)),
                Place::Bucket(prefix) => self.0.options.bucket.as_ref().and_then(|k| k.local_path(&format!("{prefix}/{}", f.rel_path))),
            };
            match (local, &b.place, &self.0.options.bucket) {
                (Some(from), _, _) => fs.hard_link(&from, &to).map_err(io)?,
                (None, Place::Bucket(prefix), Some(bucket)) => bucket.get_file(&format!("{prefix}/{}", f.rel_path), &**fs, &to)?,
                _ => return Err(Error::new(ErrorKind::Unavailable, "there is no bucket")),
            }
        }
        self.copy_tombstones(b, target)?;
        [&target.join(crate::metrics::block::CHUNKS), target].into_iter().try_for_each(|d| fs.sync_dir(d)).map_err(io)
    }
}

impl MetricStore {
    /// Whoever reads the copy knows nothing of our deletes: those that are not applied yet become its tombstones.
    fn copy_tombstones(&self, b: &BlockEntry, target: &std::path::Path) -> Result<()> {
        let block = b.open()?;
        let mut all = block.tombstones().clone();
        for d in self.version().deletes.iter().filter(|d| d.concerns(&b.meta)) {
            for reference in block.index().select(d.matchers())? {
                all.entry(reference.into()).or_default().push(d.range());
            }
        }
        if all.is_empty() {
            return Ok(());
        }
        let path = target.join(TOMBSTONES);
        self.0.options.fs.write_atomic(&path, &encode_tombstones(&all)).map_err(|e| Error::io("writing tombstones", &path, e))
    }

    /// Puts a copy of a block into a folder of its own.
    pub fn copy_block(&self, b: &BlockEntry, target: &std::path::Path) -> Result<()> {
        self.link_block(b, target)
    }
}
