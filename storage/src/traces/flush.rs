//! Live spans to blocks: one for each window that they start in.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::fs::Fs;

use super::block::layout::{Layout, Sampler};
use super::block::meta::BlockMeta;
use super::block::writer::{BlockIdentity, BlockWriter, WriteOptions};
use super::live::{GroupNumbers, Live, LiveBody, LiveSpan, Owner};
use super::otlp::wire;
use crate::error::{Error, Result};
use crate::model::TraceId;

/// Spans that the choice of shredded columns is made by, about.
const SAMPLE_SPANS: u64 = 20_000;

/// Traces that are looked up together.
const TRACES_AT_ONCE: usize = 16;

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

/// A live span: which of the lives, its body there, and where it lies.
#[derive(Clone, Copy)]
struct SpanRef<'a> {
    life: u32,
    body: u32,
    at: &'a LiveBody,
    span: &'a LiveSpan,
}

fn window_of(start: u64, window_ms: i64) -> i64 {
    let ms = (start / 1_000_000) as i64;
    ms - ms.rem_euclid(window_ms)
}

/// Gathers the spans of a trace in a window, by start and id, identical ones once.
fn ordered<'a>(lives: &'a [Arc<Live>], trace: u128, window: i64, window_ms: i64, refs: &mut Vec<SpanRef<'a>>) -> Result<()> {
    refs.clear();
    for (life, l) in lives.iter().enumerate() {
        let found = l.places(TraceId(trace.to_be_bytes())).map(|(body, at, span)| SpanRef { life: life as u32, body, at, span });
        refs.extend(found.filter(|r| window_of(r.span.start, window_ms) == window));
    }
    refs.sort_by_key(|r| r.span.start);
    if refs.windows(2).any(|w| w[0].span.start == w[1].span.start) {
        // Several at one time: by id, then content, so that the order does not depend on arrival.
        let mut owner = Owner::default();
        let mut spans = refs.iter().map(|r| Ok((owner.span(r.at, r.span)?, *r))).collect::<Result<Vec<_>>>()?;
        spans.sort_by(|a, b| a.0.cmp(&b.0));
        spans.dedup_by(|a, b| a.0 == b.0);
        refs.clear();
        refs.extend(spans.into_iter().map(|s| s.1));
    }
    Ok(())
}

/// What a window holds of spans: ids of their traces, rising, and their number.
#[derive(Default)]
struct Window {
    traces: Vec<u128>,
    spans: u64,
}

fn windows(lives: &[Arc<Live>], window_ms: i64) -> BTreeMap<i64, Window> {
    let mut windows: BTreeMap<i64, Window> = BTreeMap::new();
    for body in lives.iter().flat_map(|l| l.bodies()) {
        for s in &body.spans {
            let w = windows.entry(window_of(s.start, window_ms)).or_default();
            w.spans += 1;
            let id = u128::from_be_bytes(s.trace_id);
            if w.traces.last() != Some(&id) {
                w.traces.push(id);
            }
            // Batches come by resource, so that a trace is met again and again.
            if w.traces.len() >= 1 << 16 && w.traces.len().is_power_of_two() {
                w.traces.sort_unstable();
                w.traces.dedup();
            }
        }
    }
    for w in windows.values_mut() {
        w.traces.sort_unstable();
        w.traces.dedup();
    }
    windows
}

/// The layout that fits a sample of a window's spans.
fn layout(lives: &[Arc<Live>], start_ms: i64, window: &Window, window_ms: i64) -> Result<Layout> {
    let (mut sampler, mut refs) = (Sampler::default(), Vec::new());
    let every = (window.spans / SAMPLE_SPANS).max(1) as usize;
    for trace in window.traces.iter().step_by(every) {
        ordered(lives, *trace, start_ms, window_ms, &mut refs)?;
        for r in &refs {
            let g = r.at.groups(r.span).0;
            sampler.outer(super::otlp::attributes(g.resource.buf, 1)).map_err(wire)?;
            sampler.outer(super::otlp::attributes(g.scope.buf, 3)).map_err(wire)?;
            sampler.span(&r.at.raw(r.span)?).map_err(wire)?;
        }
    }
    sampler.layout()
}

/// Writes blocks of all spans of `lives`; `ulid` names them.
pub fn write_blocks(target: &FlushTarget<'_>, lives: &[Arc<Live>], mut ulid: impl FnMut() -> String) -> Result<Vec<BlockMeta>> {
    let mut by_content = GroupNumbers::default();
    let mut numbers: Vec<Vec<Vec<u32>>> = Vec::new();
    for l in lives {
        numbers.push(l.bodies().iter().map(|b| b.number_groups(&mut by_content)).collect());
    }
    let (mut refs, mut out) = (Vec::new(), Vec::new());
    for (start_ms, window) in windows(lives, target.window_ms) {
        let layout = layout(lives, start_ms, &window, target.window_ms)?;
        let name = ulid();
        let dir = target.dir.join(&name);
        let identity = BlockIdentity {
            ulid: name,
            tenant: target.tenant.to_owned(),
            writer_id: target.writer_id.to_owned(),
            window_start_ms: start_ms,
            window_ms: target.window_ms,
            level: 0,
            sources: Vec::new(),
        };
        let size = (window.spans, window.traces.len() as u64);
        let mut w = BlockWriter::create(target.fs.clone(), &dir, identity, layout, target.options.clone(), size)?;
        for some in window.traces.chunks(TRACES_AT_ONCE) {
            std::hint::black_box(lives.iter().fold(0, |x, l| x ^ l.warm(some)));
            for trace in some {
                ordered(lives, *trace, start_ms, target.window_ms, &mut refs)?;
                std::hint::black_box(refs.iter().fold(0, |x, r| x ^ r.at.warm(r.span)));
                for r in &refs {
                    let (groups, number) = r.at.groups(r.span);
                    let key = numbers[r.life as usize][r.body as usize].get(number as usize);
                    let key = *key.ok_or_else(|| Error::corrupt("a span of no resource"))?;
                    w.push(&r.at.raw(r.span)?, &groups, u64::from(key))?;
                }
            }
        }
        out.push(w.finish()?);
    }
    Ok(out)
}
