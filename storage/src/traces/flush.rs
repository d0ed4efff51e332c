//! Live spans to blocks: one for each window that they start in.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::fs::Fs;

use super::block::layout::Sampler;
use super::block::meta::BlockMeta;
use super::block::writer::{BlockIdentity, BlockWriter, WriteOptions};
use super::live::{GroupNumbers, Live, LiveBody, LiveSpan, Owner};
use super::otlp::WireError;
use crate::error::{Error, Result};
use crate::model::TraceId;

/// Spans that the choice of shredded columns is made by, about.
const SAMPLE_SPANS: u64 = 20_000;

/// What all blocks of a flush share.
pub struct FlushTarget<'a> {
    /// Where files are written.
    pub fs: &'a Arc<dyn Fs>,
    /// Folder of staged blocks.
    pub dir: &'a Path,
    /// Whose spans.
    pub tenant: &'a str,
    /// The process that compacts and deletes them.
    pub writer_id: &'a str,
    /// Length of a window.
    pub window_ms: i64,
    /// How they are written.
    pub options: &'a WriteOptions,
}

type SpanRef = (Arc<LiveBody>, u32);

fn wire(e: WireError) -> Error {
    Error::corrupt(e.to_string())
}

fn of(r: &SpanRef) -> &LiveSpan {
    &r.0.spans[r.1 as usize]
}

fn window_of(start: u64, window_ms: i64) -> i64 {
    let ms = (start / 1_000_000) as i64;
    ms - ms.rem_euclid(window_ms)
}

/// Spans of a trace in a window, by start and id, identical ones once.
fn ordered(lives: &[Arc<Live>], trace: u128, window: i64, window_ms: i64) -> Result<Vec<SpanRef>> {
    let id = TraceId(trace.to_be_bytes());
    let mut refs: Vec<SpanRef> = lives.iter().flat_map(|l| l.trace(id)).filter(|r| window_of(of(r).start, window_ms) == window).collect();
    refs.sort_by_key(|r| of(r).start);
    if refs.windows(2).any(|w| of(&w[0]).start == of(&w[1]).start) {
        // Several at one time: by id, then content, so that the order does not depend on arrival.
        let mut owner = Owner::default();
        let mut spans = refs.into_iter().map(|r| Ok((owner.span(&r.0, of(&r))?, r))).collect::<Result<Vec<_>>>()?;
        spans.sort_by(|a, b| a.0.cmp(&b.0));
        spans.dedup_by(|a, b| a.0 == b.0);
        refs = spans.into_iter().map(|s| s.1).collect();
    }
    Ok(refs)
}

/// Writes blocks of all spans of `lives`; `ulid` names them.
pub fn write_blocks(target: &FlushTarget<'_>, lives: &[Arc<Live>], mut ulid: impl FnMut() -> String) -> Result<Vec<BlockMeta>> {
    let mut windows: BTreeMap<i64, (Vec<u128>, u64)> = BTreeMap::new();
    for body in lives.iter().flat_map(|l| l.bodies()) {
        for s in &body.spans {
            let w = windows.entry(window_of(s.start, target.window_ms)).or_default();
            w.1 += 1;
            let id = u128::from_be_bytes(s.trace_id);
            if w.0.last() != Some(&id) {
                w.0.push(id);
            }
            // Batches come by resource, so that a trace is met again and again.
            if w.0.len() >= 1 << 16 && w.0.len().is_power_of_two() {
                w.0.sort_unstable();
                w.0.dedup();
            }
        }
    }
    let mut by_content = GroupNumbers::default();
    let mut numbers: foldhash::HashMap<usize, Vec<u32>> = foldhash::HashMap::default();
    for body in lives.iter().flat_map(|l| l.bodies()) {
        numbers.insert(Arc::as_ptr(body) as usize, body.number_groups(&mut by_content));
    }
    let mut out = Vec::new();
    for (window, (mut traces, spans)) in windows {
        traces.sort_unstable();
        traces.dedup();
        let mut sampler = Sampler::default();
        let every = (spans / SAMPLE_SPANS).max(1) as usize;
        for trace in traces.iter().step_by(every) {
            for r in ordered(lives, *trace, window, target.window_ms)? {
                let g = r.0.groups(of(&r)).0;
                sampler.outer(super::otlp::attributes(g.resource.buf, 1)).map_err(wire)?;
                sampler.outer(super::otlp::attributes(g.scope.buf, 3)).map_err(wire)?;
                sampler.span(&r.0.raw(of(&r))?).map_err(wire)?;
            }
        }
        let name = ulid();
        let identity = BlockIdentity {
            ulid: name.clone(),
            tenant: target.tenant.to_owned(),
            writer_id: target.writer_id.to_owned(),
            window_start_ms: window,
            window_ms: target.window_ms,
            level: 0,
            sources: Vec::new(),
        };
        let size = (spans, traces.len() as u64);
        let dir = target.dir.join(&name);
        let mut w = BlockWriter::create(target.fs.clone(), &dir, identity, sampler.layout()?, target.options.clone(), size)?;
        for trace in traces {
            for r in ordered(lives, trace, window, target.window_ms)? {
                let (groups, number) = r.0.groups(of(&r));
                let of_body = numbers.get(&(Arc::as_ptr(&r.0) as usize)).and_then(|n| n.get(number as usize));
                let key = of_body.copied().ok_or_else(|| Error::corrupt("a span of no resource"))?;
                w.push(&r.0.raw(of(&r))?, &groups, u64::from(key))?;
            }
        }
        out.push(w.finish()?);
    }
    Ok(out)
}
