//! The store as a source of batches: live spans and blocks, traces that lie in several places put together.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::block::batch::BlockBatch;
use super::block::reader::OpenBlock;
use super::block::rows::Rows;
use super::blocks::BlockHandle;
use super::live::{LiveBody, Owner};
use super::live_batch::{LiveBatch, LiveGroups, LiveRef};
use super::merged::{MergedBatch, Place};
use super::shared::{At, Groups, Ids, Shared, TracesOfGroup};
use super::store::TraceStore;
use super::together::{self, FAR_BLOCKS};
use crate::error::Result;
use crate::model::{Span, Trace, TraceId};
use crate::read::{AttributeScope, RowBatch, ScanRequest, ScanStats, SpanBatch, SpanSource, Visit, Warnings};

/// Spans of a batch of live ones, about: few enough for their bytes to stay near while one column after the other is read.
const LIVE_BATCH_SPANS: usize = 2 << 10;
/// Row groups whose columns are read ahead together.
const AHEAD: usize = 4;
/// Rows that are read to put traces of several places together, at a time.
const MERGED_ROWS: usize = 128 << 10;

/// Traces to be put together, by rising id, and where they lie.
#[derive(Default)]
struct Gather {
    ids: Vec<u128>,
    /// By row group: the range of its traces that holds them.
    places: BTreeMap<At, (Arc<TracesOfGroup>, Range<usize>)>,
    /// Rows of all the ranges.
    rows: usize,
}

impl Gather {
    /// By how many rows.
    fn grows(&self, at: At, id: u128, traces: &TracesOfGroup) -> usize {
        let Ok(i) = traces.0.binary_search(&id) else { return 0 };
        (traces.1[i + 1] - traces.1[self.places.get(&at).map_or(i, |p| p.1.end)]) as usize
    }

    fn add(&mut self, at: At, id: u128, traces: Arc<TracesOfGroup>) {
        let Ok(i) = traces.0.binary_search(&id) else { return };
        let (traces, range) = self.places.entry(at).or_insert((traces, i..i));
        self.rows += (traces.1[i + 1] - traces.1[range.end]) as usize;
        range.end = i + 1;
    }
}

/// The spans of a trace in a block; none if there are more than `most`.
pub(super) fn trace_in(handle: &BlockHandle, id: TraceId, most: usize) -> Result<Option<Vec<Span>>> {
    let block = handle.open()?;
    let mut out = Vec::new();
    for g in block.groups_with(id) {
        let loaded = if block.is_remote() { Some(block.read_group(g)?) } else { None };
        let (ids, offsets) = block.traces(g, loaded.as_ref())?;
        let Ok(i) = ids.binary_search(&u128::from_be_bytes(id.0)) else { continue };
        let range = offsets[i] as usize..offsets[i + 1] as usize;
        if out.len() + range.len() > most {
            return Ok(None);
        }
        let mut rows = Rows::read(&block, g, loaded.as_ref(), range)?;
        for r in 0..rows.len() {
            out.push(rows.span(r)?);
        }
    }
    Ok(Some(out))
}

/// Reads what holds a trace of all blocks that lie far away.
pub(super) fn fetch_trace(blocks: &[Arc<BlockHandle>], id: TraceId) {
    together::fetch(blocks, |b| b.groups_with(id).into_iter().map(|g| b.group_range(g)).collect());
}

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

/// A block and its open file.
type OpenHandle = (Arc<BlockHandle>, Arc<OpenBlock>);

/// The number of the live spans as a source; blocks are numbered from zero.
const LIVE: u32 = u32::MAX;

/// Row groups that may hold what is searched for.
fn wanted_groups(block: &OpenBlock, request: &ScanRequest) -> Vec<usize> {
    (0..block.row_groups()).filter(|g| block.may_satisfy(*g, &request.conditions)).collect()
}

/// The columns of some paths that a block has.
fn wanted_leaves(block: &OpenBlock, asked: &BTreeSet<String>) -> Vec<usize> {
    asked.iter().filter_map(|path| block.leaf_at(path)).collect()
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

    /// For a partial answer blocks are read once before: one that is damaged anywhere is left out and named.
    fn open(&mut self, handles: &[Arc<BlockHandle>]) -> Result<Vec<OpenHandle>> {
        let mut out = Vec::new();
        let sound = |b: Arc<OpenBlock>| if self.request.partial { b.check().map(|()| b) } else { Ok(b) };
        for h in handles {
            match h.open().and_then(sound) {
                Ok(b) => out.push((h.clone(), b)),
                Err(e) if self.request.partial => self.stats.warnings.push(format!("block {}: {e}", h.meta.ulid)),
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }

    fn run(&mut self) -> Result<()> {
        let snapshot = self.snapshot;
        if self.request.whole_traces || snapshot.blocks.len() > 1 {
            let all: Vec<_> = snapshot.blocks.iter().chain(&snapshot.beyond).cloned().collect();
            together::fetch(&all, |b| b.ranges(&(0..b.row_groups()).collect::<Vec<_>>(), &Vec::from_iter(b.leaf(&["trace_id"]))));
        }
        let mut all = self.open(&snapshot.blocks)?;
        let own = all.len();
        all.extend(self.open(&snapshot.beyond)?);
        self.stats.blocks = own as u32;
        let both = self.shared(&all, own)?;
        if self.live(&both)? {
            return Ok(());
        }
        for (i, (handle, block)) in all[..own].iter().enumerate() {
            if handle.meta.max_start_unix_nano < self.not_before {
                continue;
            }
            // The first one told which columns are asked for.
            if i % FAR_BLOCKS == 1 {
                let next: Vec<_> = all[i..own.min(i + FAR_BLOCKS)].iter().map(|b| b.0.clone()).collect();
                let (request, asked) = (self.request, &self.asked);
                together::fetch(&next, |b| {
                    let mut groups = wanted_groups(b, request);
                    groups.truncate(AHEAD);
                    b.ranges(&groups, &wanted_leaves(b, asked))
                });
            }
            if self.block(block, &both)? {
                return Ok(());
            }
        }
        // Last, as they are dear: by now it is known how new a trace must be.
        self.merged(&both, &all)?;
        Ok(())
    }

    /// Traces that must be put together from several places.
    fn shared(&self, blocks: &[OpenHandle], beyond: usize) -> Result<Shared> {
        let mut sources: Vec<Ids> = blocks.iter().zip(0..).map(|(b, n)| Ids::of_block(n, b.1.clone())).collect();
        let mut live: Vec<u128> = self.snapshot.live.iter().map(|r| r.0).collect();
        live.dedup();
        if !live.is_empty() {
            sources.push(Ids::rising(LIVE, live));
        }
        if sources.len() < 2 && !blocks.iter().any(|b| b.1.has_split_trace()) {
            return Ok(Shared::default());
        }
        if self.request.whole_traces {
            // What lies beyond alone is shown by nobody.
            return Shared::find(sources, |_, at| at.iter().any(|(n, _)| *n == LIVE || (*n as usize) < beyond));
        }
        // Identical spans start in the same window: blocks of different windows share nothing that counts twice.
        let window = |n: u32| (n != LIVE).then(|| blocks[n as usize].0.meta.window_start_ms);
        Shared::find(sources, |id, at| {
            at.iter().enumerate().any(|(i, (n, _))| match window(*n) {
                None => false,
                Some(w) => at[i + 1..].iter().any(|(other, _)| match window(*other) {
                    Some(v) => v == w,
                    None => {
                        let (from, to) =
                            (w.max(0) as u64 * 1_000_000, (w + blocks[*n as usize].0.meta.window_ms).max(0) as u64 * 1_000_000);
                        self.snapshot.live_of(id).iter().any(|r| r.1 >= from && r.1 < to)
                    }
                }),
            })
        })
    }

    /// Traces that lie among the live spans alone.
    fn live(&mut self, both: &Shared) -> Result<bool> {
        let mut some: Vec<LiveRef> = Vec::new();
        let snapshot = self.snapshot;
        let groups = LiveGroups::new(&snapshot.bodies);
        for t in snapshot.live.chunk_by(|a, b| a.0 == b.0) {
            if !both.contains(t[0].0) {
                some.extend_from_slice(t);
            }
            if some.len() >= LIVE_BATCH_SPANS {
                if self.show(&LiveBatch::new(&groups, &some)?, || 0)? {
                    return Ok(true);
                }
                some.clear();
            }
        }
        self.show(&LiveBatch::new(&groups, &some)?, || 0)
    }

    /// Traces that lie in several places: a range of ids after the other, so that each row is read once or twice.
    fn merged(&mut self, both: &Shared, blocks: &[OpenHandle]) -> Result<bool> {
        let newest = |(n, _): &At| blocks.get(*n as usize).map_or(u64::MAX, |b| b.0.meta.max_start_unix_nano);
        let (mut groups, mut some) = (Groups::default(), Gather::default());
        for (id, at) in both.each() {
            if at.iter().map(newest).max() < Some(self.not_before) {
                continue;
            }
            let mut places = Vec::new();
            for at in at.iter().copied() {
                let Some((_, block)) = blocks.get(at.0 as usize) else { continue };
                places.push((at, groups.traces(at, block)?));
            }
            let more: usize = places.iter().map(|(at, traces)| some.grows(*at, id, traces)).sum();
            if some.rows + more > MERGED_ROWS && !some.ids.is_empty() && self.show_merged(std::mem::take(&mut some), blocks)? {
                return Ok(true);
            }
            some.ids.push(id);
            places.into_iter().for_each(|(at, traces)| some.add(at, id, traces));
        }
        self.show_merged(some, blocks)
    }

    fn show_merged(&mut self, some: Gather, blocks: &[OpenHandle]) -> Result<bool> {
        self.fetch_merged(&some, blocks);
        let mut places = Vec::new();
        for (at, (traces, range)) in some.places {
            let block = blocks[at.0 as usize].1.clone();
            places.push(Place::Block(BlockBatch::of_traces(block, at.1 as usize, None, (&traces.0, &traces.1), range)?));
        }
        let refs: Vec<LiveRef> = some.ids.iter().flat_map(|id| self.snapshot.live_of(*id)).copied().collect();
        if !refs.is_empty() {
            places.push(Place::live(self.snapshot.live_traces(&refs, &mut Owner::default())?));
        }
        let batch = MergedBatch::new(places, &some.ids)?;
        self.show(&batch, || batch.bytes_read())
    }

    /// Has what was asked for before, and what the order is told by, read from all places that are far away.
    fn fetch_merged(&self, some: &Gather, blocks: &[OpenHandle]) {
        let mut far: BTreeMap<&str, (Arc<BlockHandle>, Vec<usize>)> = BTreeMap::new();
        for at in some.places.keys() {
            let (handle, block) = &blocks[at.0 as usize];
            if block.is_remote() {
                far.entry(&handle.meta.ulid).or_insert_with(|| (handle.clone(), Vec::new())).1.push(at.1 as usize);
            }
        }
        let mut asked = self.asked.clone();
        asked.insert("start_time_unix_nano".to_owned());
        let handles: Vec<_> = far.values().map(|f| f.0.clone()).collect();
        together::fetch(&handles, |b| {
            let groups = far.get(b.meta.ulid.as_str()).map_or(&[][..], |f| &f.1);
            b.ranges(groups, &wanted_leaves(b, &asked))
        });
    }

    fn block(&mut self, block: &Arc<OpenBlock>, both: &Shared) -> Result<bool> {
        let groups = wanted_groups(block, self.request);
        for (i, g) in groups.iter().copied().enumerate() {
            self.look_ahead(block, &groups, i);
            let mut batch = BlockBatch::new(block.clone(), g, None)?;
            if !both.is_empty() {
                let excluded: Vec<bool> = batch.ids_of_traces().iter().map(|id| both.contains(*id)).collect();
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
        let ranges = block.ranges(&groups[at..(at + ahead).min(groups.len())], &wanted_leaves(block, &self.asked));
        block.prefetch_ranges(&ranges);
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
        fetch_trace(&blocks, id);
        let mut places = Vec::new();
        for handle in blocks.iter() {
            let block = handle.open()?;
            for g in block.groups_with(id) {
                let loaded = if block.is_remote() { Some(block.read_group(g)?) } else { None };
                let traces = block.traces(g, loaded.as_ref())?;
                if let Ok(i) = traces.0.binary_search(&u128::from_be_bytes(id.0)) {
                    places.push(Place::Block(BlockBatch::of_traces(block.clone(), g, loaded, (&traces.0, &traces.1), i..i + 1)?));
                }
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
