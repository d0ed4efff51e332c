//! The store as a source of batches: live spans and blocks, traces that lie in several places put together.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::block::batch::BlockBatch;
use super::block::reader::OpenBlock;
use super::block::rows::Rows;
use super::blocks::BlockHandle;
use super::live::{LiveBody, Owner};
use super::merged::{MergedBatch, Place};
use super::store::TraceStore;
use crate::error::Result;
use crate::model::{Span, Trace, TraceId};
use crate::read::{AttributeScope, RowBatch, ScanRequest, ScanStats, SpanBatch, SpanSource, Visit, Warnings};

/// Spans of a batch of live ones, about.
const LIVE_BATCH_SPANS: usize = 16 << 10;
/// Row groups whose columns are read ahead together.
const AHEAD: usize = 4;
/// Traces put together at a time.
const MERGED_TRACES: usize = 2048;

/// The spans of a trace in a block.
pub(super) fn trace_in(handle: &BlockHandle, id: TraceId) -> Result<Vec<Span>> {
    let block = handle.open()?;
    let mut out = Vec::new();
    for g in block.groups_with(id) {
        let loaded = if block.is_remote() { Some(block.read_group(g)?) } else { None };
        let (ids, offsets) = block.traces(g, loaded.as_ref())?;
        let Ok(i) = ids.binary_search(&u128::from_be_bytes(id.0)) else { continue };
        let mut rows = Rows::read(&block, g, loaded.as_ref(), offsets[i] as usize..offsets[i + 1] as usize)?;
        for r in 0..rows.len() {
            out.push(rows.span(r)?);
        }
    }
    Ok(out)
}

/// A live span: its trace, its start, and where it lies.
type LiveRef = (u128, u64, u32, u32);

/// What a scan reads, taken at one moment.
struct Snapshot {
    bodies: Vec<Arc<LiveBody>>,
    /// Sorted.
    live: Vec<LiveRef>,
    /// Newest first.
    blocks: Vec<Arc<BlockHandle>>,
    /// Blocks that hold spans of the traces of the others, and no trace of their own that counts.
    beyond: Vec<Arc<BlockHandle>>,
    /// Why it may miss something, if that is wanted all the same.
    incomplete: Option<String>,
}

impl Snapshot {
    fn take(store: &TraceStore, r: &ScanRequest) -> Result<Snapshot> {
        let (bodies, all, incomplete) = {
            let s = store.0.state.read();
            if !r.partial {
                s.complete()?;
            }
            let mut bodies: Vec<Arc<LiveBody>> = s.frozen.iter().flat_map(|l| l.bodies().iter().cloned()).collect();
            bodies.extend(s.live.bodies().iter().cloned());
            (bodies, s.blocks.clone(), s.incomplete())
        };
        let (lo, hi) = match r.whole_traces {
            true => (r.min_nano.saturating_sub(r.max_trace_nano), r.max_nano.saturating_add(r.max_trace_nano)),
            false => (r.min_nano, r.max_nano),
        };
        let mut live = Vec::new();
        for (b, body) in bodies.iter().enumerate() {
            for (i, s) in body.spans.iter().enumerate().filter(|(_, s)| s.start >= lo && s.start <= hi) {
                live.push((u128::from_be_bytes(s.trace_id), s.start, b as u32, i as u32));
            }
        }
        live.sort_unstable();
        let (mut blocks, mut beyond): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        for b in all.iter() {
            if b.meta.overlaps(r.min_nano, r.max_nano) {
                blocks.push(b.clone());
            } else if r.whole_traces && b.meta.overlaps(lo, hi) {
                beyond.push(b.clone());
            }
        }
        blocks.sort_by_key(|b| Reverse((b.meta.max_start_unix_nano, b.meta.ulid.clone())));
        Ok(Snapshot { bodies, live, blocks, beyond, incomplete })
    }

    fn live_traces(&self, refs: &[LiveRef], owner: &mut Owner) -> Result<Vec<Trace>> {
        let mut out = Vec::new();
        for t in refs.chunk_by(|a, b| a.0 == b.0) {
            let spans = t.iter().map(|(_, _, b, i)| {
                let body = &self.bodies[*b as usize];
                owner.span(body, &body.spans[*i as usize])
            });
            out.push(Trace::new(TraceId(t[0].0.to_be_bytes()), spans.collect::<Result<_>>()?));
        }
        Ok(out)
    }

    fn live_of(&self, id: u128) -> &[LiveRef] {
        let from = self.live.partition_point(|r| r.0 < id);
        let to = from + self.live[from..].partition_point(|r| r.0 == id);
        &self.live[from..to]
    }
}

/// A source's trace ids in order, one row group at a time.
struct Ids {
    block: Option<Arc<OpenBlock>>,
    group: usize,
    ids: Vec<u128>,
    at: usize,
}

impl Ids {
    fn next(&mut self) -> Result<Option<u128>> {
        while self.at >= self.ids.len() {
            let Some(b) = self.block.as_ref().filter(|b| self.group < b.row_groups()) else { return Ok(None) };
            self.ids = b.traces(self.group, None)?.0;
            self.group += 1;
            self.at = 0;
        }
        self.at += 1;
        Ok(Some(self.ids[self.at - 1]))
    }
}

/// Ids that several of the sources hold, rising.
fn shared(mut sources: Vec<Ids>) -> Result<Vec<u128>> {
    let mut heap = BinaryHeap::new();
    for (i, s) in sources.iter_mut().enumerate() {
        if let Some(id) = s.next()? {
            heap.push(Reverse((id, i)));
        }
    }
    let (mut out, mut last) = (Vec::new(), None);
    while let Some(Reverse((id, i))) = heap.pop() {
        // Twice in one source too: a trace that fills row groups.
        if last.replace(id) == Some(id) && out.last() != Some(&id) {
            out.push(id);
        }
        if let Some(next) = sources[i].next()? {
            heap.push(Reverse((next, i)));
        }
    }
    Ok(out)
}

/// One scan under way.
struct Scan<'a> {
    snapshot: &'a Snapshot,
    request: &'a ScanRequest,
    stats: ScanStats,
    visit: &'a mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>,
    /// Traces that start earlier are not wanted any more.
    not_before: u64,
    /// Paths of the columns that the visitor has asked for.
    asked: BTreeSet<String>,
}

impl Scan<'_> {
    /// True if the visitor wants no more.
    fn show(&mut self, batch: &dyn SpanBatch, bytes: impl Fn() -> u64) -> Result<bool> {
        if batch.is_empty() {
            return Ok(false);
        }
        self.stats.spans += batch.len() as u64;
        self.stats.traces += batch.traces().len() as u64 - 1;
        let next = (self.visit)(batch)?;
        self.stats.bytes += bytes();
        match next {
            ControlFlow::Break(()) => Ok(true),
            ControlFlow::Continue(t) => {
                self.not_before = self.not_before.max(t);
                Ok(false)
            }
        }
    }

    fn open(&mut self, handles: &[Arc<BlockHandle>]) -> Result<Vec<(Arc<BlockHandle>, Arc<OpenBlock>)>> {
        let mut out = Vec::new();
        for h in handles {
            match h.open() {
                Ok(b) => out.push((h.clone(), b)),
                Err(e) if self.request.partial => self.stats.warnings.push(format!("block {}: {e}", h.meta.ulid)),
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }

    fn run(&mut self) -> Result<()> {
        let blocks = self.open(&self.snapshot.blocks)?;
        let beyond = self.open(&self.snapshot.beyond)?;
        self.stats.blocks = blocks.len() as u32;
        let both = self.shared(&blocks, &beyond)?;
        if self.live(&both)? || self.merged(&both, &blocks, &beyond)? {
            return Ok(());
        }
        for (handle, block) in &blocks {
            if handle.meta.max_start_unix_nano < self.not_before {
                continue;
            }
            if self.block(block, &both)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn shared(&self, blocks: &[(Arc<BlockHandle>, Arc<OpenBlock>)], beyond: &[(Arc<BlockHandle>, Arc<OpenBlock>)]) -> Result<Vec<u128>> {
        let giant = blocks.iter().chain(beyond).any(|b| b.1.has_split_trace());
        let ids = |b: &Arc<OpenBlock>| Ids { block: Some(b.clone()), group: 0, ids: Vec::new(), at: 0 };
        let mut live: Vec<u128> = self.snapshot.live.iter().map(|r| r.0).collect();
        live.dedup();
        let live_ids = |live: Vec<u128>| (!live.is_empty()).then_some(Ids { block: None, group: 0, ids: live, at: 0 });
        if self.request.whole_traces {
            let mut sources: Vec<Ids> = blocks.iter().chain(beyond).map(|b| ids(&b.1)).collect();
            sources.extend(live_ids(live));
            return if sources.len() > 1 || giant { shared(sources) } else { Ok(Vec::new()) };
        }
        // Identical spans start in the same window: blocks of different windows share nothing that counts twice.
        let mut windows: Vec<i64> = blocks.iter().map(|b| b.0.meta.window_start_ms).collect();
        windows.sort_unstable();
        windows.dedup();
        let mut out = Vec::new();
        for w in windows {
            let here: Vec<_> = blocks.iter().filter(|b| b.0.meta.window_start_ms == w).collect();
            let (from, to) = (w.max(0) as u64 * 1_000_000, (w + here[0].0.meta.window_ms).max(0) as u64 * 1_000_000);
            let mut sources: Vec<Ids> = here.iter().map(|b| ids(&b.1)).collect();
            let mut live: Vec<u128> = self.snapshot.live.iter().filter(|r| r.1 >= from && r.1 < to).map(|r| r.0).collect();
            live.dedup();
            sources.extend(live_ids(live));
            if sources.len() > 1 || giant {
                out.extend(shared(sources)?);
            }
        }
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    /// Traces that lie among the live spans alone.
    fn live(&mut self, both: &[u128]) -> Result<bool> {
        let mut owner = Owner::default();
        let mut some: Vec<LiveRef> = Vec::new();
        let snapshot = self.snapshot;
        for t in snapshot.live.chunk_by(|a, b| a.0 == b.0) {
            if both.binary_search(&t[0].0).is_err() {
                some.extend_from_slice(t);
            }
            if some.len() >= LIVE_BATCH_SPANS {
                let batch = RowBatch::new(snapshot.live_traces(&std::mem::take(&mut some), &mut owner)?);
                if self.show(&batch, || 0)? {
                    return Ok(true);
                }
            }
        }
        let batch = RowBatch::new(snapshot.live_traces(&some, &mut owner)?);
        self.show(&batch, || 0)
    }

    /// Traces that lie in several places.
    fn merged(
        &mut self,
        both: &[u128],
        blocks: &[(Arc<BlockHandle>, Arc<OpenBlock>)],
        beyond: &[(Arc<BlockHandle>, Arc<OpenBlock>)],
    ) -> Result<bool> {
        let snapshot = self.snapshot;
        for ids in both.chunks(MERGED_TRACES) {
            let mut places = Vec::new();
            let refs: Vec<LiveRef> = ids.iter().flat_map(|id| snapshot.live_of(*id)).copied().collect();
            if !refs.is_empty() {
                places.push(Place::live(snapshot.live_traces(&refs, &mut Owner::default())?));
            }
            let (first, last) = (ids[0], ids[ids.len() - 1]);
            for (_, block) in blocks.iter().chain(beyond) {
                for g in block.groups_between(first, last) {
                    places.push(Place::Block(BlockBatch::new(block.clone(), g, None)?));
                }
            }
            let batch = MergedBatch::new(places, ids)?;
            if self.show(&batch, || batch.bytes_read())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn block(&mut self, block: &Arc<OpenBlock>, both: &[u128]) -> Result<bool> {
        let groups: Vec<usize> = (0..block.row_groups()).filter(|g| block.may_satisfy(*g, &self.request.conditions)).collect();
        for (i, g) in groups.iter().copied().enumerate() {
            self.look_ahead(block, &groups, i);
            let mut batch = BlockBatch::new(block.clone(), g, None)?;
            if !both.is_empty() {
                let excluded: Vec<bool> = batch.ids_of_traces().iter().map(|id| both.binary_search(id).is_ok()).collect();
                batch.excluded = excluded.contains(&true).then_some(excluded);
            }
            let done = self.show(&batch, || batch.bytes_read())?;
            self.asked.extend(batch.leaves_read().into_iter().map(|leaf| block.path(leaf)));
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has the columns that were asked for before read for some row groups together. From the network that is waited for
    /// once; a disk reads while the row groups before are worked on.
    fn look_ahead(&self, block: &OpenBlock, groups: &[usize], at: usize) {
        if !at.is_multiple_of(AHEAD) {
            return;
        }
        let ahead = if block.is_remote() { AHEAD } else { 2 * AHEAD };
        let leaves: Vec<usize> = self.asked.iter().filter_map(|path| block.leaf_at(path)).collect();
        block.prefetch(&groups[at..(at + ahead).min(groups.len())], &leaves);
    }
}

impl SpanSource for TraceStore {
    fn scan(&self, request: &ScanRequest, visit: &mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>) -> Result<ScanStats> {
        let snapshot = Snapshot::take(self, request)?;
        let mut scan = Scan {
            snapshot: &snapshot,
            request,
            stats: ScanStats { warnings: snapshot.incomplete.iter().cloned().collect(), ..ScanStats::default() },
            visit,
            not_before: 0,
            asked: BTreeSet::from(["trace_id".to_owned()]),
        };
        scan.run()?;
        let stats = scan.stats;
        self.trim_indexes(&self.blocks());
        Ok(stats)
    }

    fn trace(&self, id: TraceId) -> Result<Option<Trace>> {
        TraceStore::trace(self, id)
    }

    fn trace_partial(&self, id: TraceId) -> Result<(Option<Trace>, Warnings)> {
        TraceStore::trace_partial(self, id)
    }

    fn trace_batch(&self, id: TraceId) -> Result<Option<Box<dyn SpanBatch>>> {
        let (live, blocks) = self.places_of(id)?;
        let mut places = Vec::new();
        for handle in blocks.iter() {
            let block = handle.open()?;
            for g in block.groups_with(id) {
                let loaded = if block.is_remote() { Some(block.read_group(g)?) } else { None };
                places.push(Place::Block(BlockBatch::new(block.clone(), g, loaded)?));
            }
        }
        self.trim_indexes(&blocks);
        if !live.is_empty() {
            let trace = vec![Trace::new(id, live)];
            if places.is_empty() {
                return Ok(Some(Box::new(RowBatch::new(trace))));
            }
            places.push(Place::live(trace));
        }
        let batch = MergedBatch::new(places, &[u128::from_be_bytes(id.0)])?;
        Ok(if batch.is_empty() { None } else { Some(Box::new(batch)) })
    }

    fn attribute_keys(&self, min_nano: u64, max_nano: u64) -> Result<Vec<(AttributeScope, Vec<String>)>> {
        super::keys::attribute_keys(self, min_nano, max_nano)
    }
}
