//! Merging blocks of one window into one, trace by trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::model::{Resource, Scope, Span};
use crate::traces::block::layout::Sampler;
use crate::traces::block::meta::{META_FILE, SPANS_FILE};
use crate::traces::block::reader::OpenBlock;
use crate::traces::block::rows::Rows;
use crate::traces::block::writer::{BlockIdentity, BlockWriter};
use crate::traces::blocks::{self, BlockHandle};
use crate::traces::otlp::{Groups, RawSpan, WireError, attributes, decode_spans, encode_request};
use crate::traces::store::TraceStore;

/// Rows that an input holds decoded at a time.
const WINDOW_ROWS: usize = 2048;

/// After so many spans a merge looks whether it should go on.
const LOOK_SPANS: usize = 4096;

/// A block read from front to back, some rows at a time.
struct Input {
    block: Arc<OpenBlock>,
    group: usize,
    next_row: usize,
    rows: Option<Rows>,
    at: usize,
}

impl Input {
    fn new(block: Arc<OpenBlock>) -> Self {
        Input { block, group: 0, next_row: 0, rows: None, at: 0 }
    }

    /// The trace of the next span; none at the end.
    fn peek(&mut self) -> Result<Option<[u8; 16]>> {
        loop {
            if let Some(r) = self.rows.as_ref().filter(|r| self.at < r.len()) {
                return Ok(Some(r.trace_id(self.at).0));
            }
            if self.group >= self.block.row_groups() {
                return Ok(None);
            }
            let n = self.block.rows(self.group);
            if self.next_row >= n {
                self.group += 1;
                self.next_row = 0;
                continue;
            }
            let end = (self.next_row + WINDOW_ROWS).min(n);
            self.rows = None;
            self.rows = Some(Rows::read(&self.block, self.group, None, self.next_row..end)?);
            self.next_row = end;
            self.at = 0;
        }
    }

    fn take(&mut self) -> Result<Option<Span>> {
        self.at += 1;
        self.rows.as_mut().map(|r| r.span(self.at - 1)).transpose()
    }
}

fn wire(e: WireError) -> Error {
    Error::corrupt(e.to_string())
}

type Outer = (Arc<Resource>, Arc<Scope>);

/// Numbers of resources and scopes by content; by address where one was met before (which it keeps alive).
#[derive(Default)]
struct Keys {
    by_address: foldhash::HashMap<(usize, usize), (u64, Outer)>,
    by_content: BTreeMap<Outer, u64>,
}

impl Keys {
    fn of(&mut self, s: &Span) -> u64 {
        let address = (Arc::as_ptr(&s.resource) as usize, Arc::as_ptr(&s.scope) as usize);
        if let Some(k) = self.by_address.get(&address) {
            return k.0;
        }
        let outer = (s.resource.clone(), s.scope.clone());
        let n = self.by_content.len() as u64;
        let key = *self.by_content.entry(outer.clone()).or_insert(n);
        if self.by_address.len() >= 4096 {
            self.by_address.clear();
        }
        self.by_address.insert(address, (key, outer));
        key
    }
}

/// Calls `f` with each span as it would be on the wire, and the number of its resource and scope.
fn each(spans: &[Span], keys: &mut Keys, mut f: impl FnMut(&RawSpan<'_>, &Groups<'_>, u64) -> Result<()>) -> Result<()> {
    // One by one, so that they keep their order.
    for s in spans {
        let key = keys.of(s);
        let request = encode_request([s]);
        let mut state = (Groups::default(), Ok(()));
        decode_spans(
            &request,
            &mut state,
            |st, g| {
                st.0 = g;
                Ok(())
            },
            |st, raw| {
                st.1 = f(&raw, &st.0, key);
                Ok(())
            },
        )
        .map_err(wire)?;
        state.1?;
    }
    Ok(())
}

impl TraceStore {
    /// Merges until nothing is left to merge, or merges have to give way.
    pub(crate) fn compact(&self, now_ms: i64) -> Result<()> {
        loop {
            let all = self.blocks();
            let metas: Vec<_> = all.iter().filter(|b| !b.staged && self.owns(&b.meta, now_ms)).map(|b| &b.meta).collect();
            let o = self.options();
            let Some(names) = super::plan::merge(&metas, now_ms, o.compact_blocks, self.is_busy()) else { return Ok(()) };
            let inputs: Vec<_> = all.iter().filter(|b| names.contains(&b.meta.ulid)).cloned().collect();
            if !self.merge(&inputs)? {
                return Ok(());
            }
            self.0.check_open()?;
            for b in &inputs {
                blocks::mark(&o.bucket, &b.meta, &o.writer_id, now_ms)?;
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.0.pace.lock().is_busy(self.options().clock.now_ms())
    }

    /// Whether the merge of a block's window has to make room for what is more urgent.
    fn gives_way(&self, block: &BlockHandle) -> bool {
        let same = |b: &&Arc<BlockHandle>| b.meta.window_start_ms == block.meta.window_start_ms;
        self.is_busy() && self.blocks().iter().filter(same).count() < super::plan::TOO_MANY
    }

    /// Merges blocks into one. False if it gave way: nothing has changed then.
    fn merge(&self, inputs: &[Arc<BlockHandle>]) -> Result<bool> {
        let o = self.options();
        let opened = inputs.iter().map(|b| b.open()).collect::<Result<Vec<_>>>()?;
        let (mut sampler, mut keys) = (Sampler::default(), Keys::default());
        for block in &opened {
            for g in 0..block.row_groups() {
                // The first rows of each row group: traces lie in the order of random ids.
                let mut rows = Rows::read(block, g, None, 0..block.rows(g).min(WINDOW_ROWS))?;
                let spans = (0..rows.len()).map(|r| rows.span(r)).collect::<Result<Vec<_>>>()?;
                each(&spans, &mut keys, |raw, groups, _| {
                    sampler.outer(attributes(groups.resource.buf, 1)).map_err(wire)?;
                    sampler.outer(attributes(groups.scope.buf, 3)).map_err(wire)?;
                    sampler.span(raw).map_err(wire)
                })?;
            }
        }
        let sum = |f: fn(&BlockHandle) -> u64| inputs.iter().map(|b| f(b)).sum::<u64>();
        let ulid = self.next_ulid();
        let identity = BlockIdentity {
            ulid: ulid.clone(),
            tenant: o.tenant.clone(),
            writer_id: o.writer_id.clone(),
            window_start_ms: inputs[0].meta.window_start_ms,
            window_ms: inputs[0].meta.window_ms,
            level: inputs.iter().map(|b| b.meta.level).max().unwrap_or(0) + 1,
            sources: inputs.iter().flat_map(|b| std::iter::once(b.meta.ulid.clone()).chain(b.meta.sources.clone())).collect(),
        };
        let dir = o.dir.join("traces").join(&ulid);
        let size = (sum(|b| b.meta.spans), sum(|b| b.meta.traces));
        let mut writer = BlockWriter::create(o.fs.clone(), &dir, identity, sampler.layout()?, o.compact_write.clone(), size)?;
        let mut inputs_open: Vec<Input> = opened.into_iter().map(Input::new).collect();
        let (mut until_look, mut looked) = (LOOK_SPANS, Instant::now());
        loop {
            let mut first: Option<[u8; 16]> = None;
            for i in &mut inputs_open {
                if let Some(t) = i.peek()? {
                    first = Some(first.map_or(t, |f| f.min(t)));
                }
            }
            let Some(trace) = first else { break };
            let mut spans = Vec::new();
            for i in &mut inputs_open {
                while i.peek()? == Some(trace) {
                    spans.extend(i.take()?);
                }
            }
            spans.sort();
            spans.dedup();
            each(&spans, &mut keys, |raw, groups, key| writer.push(raw, groups, key))?;
            until_look = until_look.saturating_sub(spans.len());
            if until_look == 0 {
                until_look = LOOK_SPANS;
                self.0.check_open()?;
                if self.gives_way(&inputs[0]) {
                    drop(writer);
                    return o.fs.remove_dir_all(&dir).map(|()| false).map_err(|e| Error::io("removing a merge that gave way", &dir, e));
                }
                // What can't wait any longer takes half of a core.
                if self.is_busy() {
                    std::thread::park_timeout(looked.elapsed());
                }
                looked = Instant::now();
            }
        }
        let meta = writer.finish()?;
        let prefix = blocks::prefix(&o.tenant, &ulid);
        o.bucket.put_file(&format!("{prefix}{SPANS_FILE}"), &dir.join(SPANS_FILE))?;
        o.bucket.put_file(&format!("{prefix}{META_FILE}"), &dir.join(META_FILE))?;
        let merged = BlockHandle::in_bucket(meta, o.fs.clone(), self.0.bucket.clone());
        let old: Vec<&str> = inputs.iter().map(|b| b.meta.ulid.as_str()).collect();
        self.replace(&old, Some(merged));
        o.fs.remove_dir_all(&dir).map(|()| true).map_err(|e| Error::io("removing a merged block's copy", &dir, e))
    }
}
