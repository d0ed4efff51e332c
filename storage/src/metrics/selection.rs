//! A selection over head and blocks: series joined by their labels, samples joined by time.

use std::sync::Arc;

use super::block::BlockSelection;
use super::deletes::Delete;
use super::head::{Head, HeadSelection};
use super::join::{HEAD, Joined, Part, join};
use super::merge;
use super::version::Version;
use crate::error::Result;
use crate::model::{Labels, TimeRange};
use crate::read::{Newest, SampleBuf, SelectRequest, SeriesSelection, Warnings};

enum Shape {
    /// Only the head has series.
    Head,
    /// Only one block has.
    Block,
    Joined(Joined),
}

/// Series of a version that passed a request.
pub struct MetricSelection {
    range: TimeRange,
    head: HeadSelection,
    /// By the time of their first sample.
    blocks: Vec<BlockSelection>,
    /// By block, when the last sample is of it and all before.
    ends: Vec<i64>,
    shape: Shape,
    /// By block, those that concern it; nothing where none does.
    deletes: Vec<Vec<Arc<Delete>>>,
    warnings: Warnings,
    _version: Arc<Version>,
}

impl MetricSelection {
    /// Selects on a version. Blocks outside the range are not touched. For a partial answer blocks are read once before:
    /// one in which anything that was asked for is damaged is left out and named.
    pub fn new(head: &Arc<Head>, version: Arc<Version>, request: &SelectRequest) -> Result<Self> {
        let range = request.range;
        let mut warnings = Warnings::new();
        version.complete(request.partial, &mut warnings)?;
        let mut blocks = Vec::new();
        for b in version.blocks.iter().filter(|b| b.meta.samples_range().overlaps(range)) {
            let sound = |s: BlockSelection| if request.partial { s.check(range).map(|()| s) } else { Ok(s) };
            match b.open().and_then(|b| b.select(&request.matchers)).and_then(sound) {
                Ok(s) if s.is_empty() => {}
                Ok(s) => {
                    let deletes = version.deletes.iter().filter(|d| d.range().overlaps(range) && d.concerns(&b.meta));
                    blocks.push((b.meta.samples_range(), s, deletes.cloned().collect()));
                }
                Err(e) if request.partial => warnings.push(format!("block {} could not be read: {e}", b.meta.ulid)),
                Err(e) => return Err(e),
            }
        }
        blocks.sort_by_key(|(samples, ..)| samples.min_ms);
        let newest_by = |before: &mut i64, samples: &TimeRange| {
            *before = samples.max_ms.max(*before);
            Some(*before)
        };
        let ends = blocks.iter().map(|(samples, ..)| samples).scan(i64::MIN, newest_by).collect();
        let (blocks, mut deletes): (_, Vec<Vec<_>>) = blocks.into_iter().map(|(_, b, d)| (b, d)).unzip();
        if deletes.iter().all(|d| d.is_empty()) {
            deletes.clear();
        }
        let (pin, flushed) = (version.pin.clone(), version.flushed_epoch);
        let mut s = MetricSelection {
            range,
            head: match head.may_hold(range, flushed) {
                true => head.select(pin, flushed, &request.matchers),
                false => head.select_none(pin, flushed),
            },
            blocks,
            ends,
            shape: Shape::Head,
            deletes,
            warnings,
            _version: version,
        };
        s.put_together(request.sorted)?;
        Ok(s)
    }

    /// Joins what lies in several places. What turns out to lie in one alone is read as if there were no other.
    fn put_together(&mut self, sorted: bool) -> Result<()> {
        let joined = !self.blocks.is_empty();
        if joined {
            // As they lie in memory, before they are sorted.
            self.head.retain_in(self.range);
        }
        if joined || sorted {
            self.head.sort();
        }
        if !joined {
            return Ok(());
        }
        if self.head.is_empty() && self.blocks.len() == 1 {
            self.shape = Shape::Block;
            return Ok(());
        }
        let joined = join(&self.head, &self.blocks, self.range)?;
        self.shape = match joined.only_place() {
            None => Shape::Joined(joined),
            Some(HEAD) => Shape::Head,
            Some(k) => {
                let mut only = self.blocks.swap_remove(k as usize);
                only.keep((0..joined.len()).map(|i| joined.last(i).at as usize));
                self.blocks = vec![only];
                if !self.deletes.is_empty() {
                    self.deletes = vec![self.deletes.swap_remove(k as usize)];
                }
                Shape::Block
            }
        };
        Ok(())
    }

    /// The newest of what `look` finds in the parts of a series, as the time and something about it; parts that can
    /// only be older are not looked at. `None` if two of the same time must be settled, or `look` can't tell.
    fn newest_joined<T>(&self, parts: &[Part], mut look: impl FnMut(Part) -> Result<Look<T>>) -> Result<Option<Option<T>>> {
        let mut best: Option<(i64, T)> = None;
        let mut tie = false;
        for part in parts.iter().rev() {
            let end = self.ends.get(part.place as usize).copied().unwrap_or(i64::MAX);
            if best.as_ref().is_some_and(|(t, _)| *t > end) {
                break;
            }
            match look(*part)? {
                Look::Nothing => {}
                Look::Unclear => return Ok(None),
                Look::At(t, found) => match &best {
                    Some((newest, _)) if *newest >= t => tie |= *newest == t,
                    _ => (best, tie) = (Some((t, found)), false),
                },
            }
        }
        Ok((!tie).then(|| best.map(|(_, found)| found)))
    }

    fn look_for_newest(&self, part: Part, range: TimeRange, scratch: &mut SampleBuf) -> Result<Look<Newest>> {
        let found = if part.place != HEAD {
            self.blocks[part.place as usize].newest(part.at as usize, range, scratch)?
        } else if let Some(n) = self.head.newest(part.at as usize, range) {
            Some(n)
        } else {
            scratch.clear();
            if !self.head.read(part.at as usize, range, scratch)? {
                return Ok(Look::Unclear);
            }
            scratch.last()
        };
        Ok(found.map_or(Look::Nothing, |n| Look::At(n.t, n)))
    }

    fn look_for_kind(&self, part: Part, range: TimeRange, scratch: &mut SampleBuf) -> Result<Look<bool>> {
        if part.place != HEAD {
            let found = self.blocks[part.place as usize].newest_kind(part.at as usize, range, scratch)?;
            return Ok(found.map_or(Look::Nothing, |(t, live)| Look::At(t, live)));
        }
        Ok(match self.look_for_newest(part, range, scratch)? {
            Look::At(t, n) => Look::At(t, !n.is_stale()),
            Look::Nothing => Look::Nothing,
            Look::Unclear => Look::Unclear,
        })
    }

    /// Takes out of series `i` what was deleted of block `k`, whose samples are those from the `from`th on.
    fn hide_deleted(&self, i: usize, k: usize, out: &mut SampleBuf, from: usize) {
        let Some(deletes) = self.deletes.get(k).filter(|d| !d.is_empty() && out.len() > from) else { return };
        let labels = self.labels(i);
        let gone: Vec<TimeRange> = deletes.iter().filter(|d| d.covers(&labels)).map(|d| d.range()).collect();
        super::block::remove_ranges(out, from, &gone);
    }
}

/// What a part of a series tells.
enum Look<T> {
    Nothing,
    At(i64, T),
    /// Not without settling its samples.
    Unclear,
}

impl SeriesSelection for MetricSelection {
    fn len(&self) -> usize {
        match &self.shape {
            Shape::Head => self.head.len(),
            Shape::Block => self.blocks[0].len(),
            Shape::Joined(j) => j.len(),
        }
    }

    fn labels(&self, i: usize) -> Labels {
        match &self.shape {
            Shape::Head => self.head.labels(i),
            // Damage of an entry shows again, as an error, when its samples are read.
            Shape::Block => self.blocks[0].labels(i).unwrap_or_default(),
            Shape::Joined(j) => match j.last(i) {
                Part { place: HEAD, at } => self.head.labels(at as usize),
                Part { place, at } => self.blocks[place as usize].labels(at as usize).unwrap_or_default(),
            },
        }
    }

    fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) {
        match &self.shape {
            Shape::Head => self.head.visit_labels(i, f),
            Shape::Block => {
                let _ = self.blocks[0].visit_labels(i, f);
            }
            Shape::Joined(j) => match j.last(i) {
                Part { place: HEAD, at } => self.head.visit_labels(at as usize, f),
                Part { place, at } => {
                    let _ = self.blocks[place as usize].visit_labels(at as usize, f);
                }
            },
        }
    }

    fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        let ordered = match &self.shape {
            Shape::Head => self.head.read(i, range, out)?,
            Shape::Block => {
                self.blocks[0].read(i, range, out)?;
                self.hide_deleted(i, 0, out, 0);
                true
            }
            Shape::Joined(j) => {
                for part in j.parts(i) {
                    let from = out.len();
                    match part.place {
                        HEAD => _ = self.head.read(part.at as usize, range, out)?,
                        k => {
                            self.blocks[k as usize].read(part.at as usize, range, out)?;
                            self.hide_deleted(i, k as usize, out, from);
                        }
                    }
                    merge::forget_hint(out, from);
                }
                false
            }
        };
        if !ordered {
            merge::settle(out);
        }
        Ok(())
    }

    fn newest(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<Option<Newest>> {
        if self.deletes.is_empty() {
            match &self.shape {
                Shape::Head => {
                    if let Some(n) = self.head.newest(i, range) {
                        return Ok(Some(n));
                    }
                }
                Shape::Block => return self.blocks[0].newest(i, range, scratch),
                Shape::Joined(j) => {
                    if let Some(n) = self.newest_joined(j.parts(i), |p| self.look_for_newest(p, range, scratch))? {
                        return Ok(n);
                    }
                }
            }
        }
        self.read(i, range, scratch)?;
        Ok(scratch.last())
    }

    fn is_live(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<bool> {
        if self.deletes.is_empty() {
            match &self.shape {
                Shape::Head => {}
                Shape::Block => return Ok(self.blocks[0].newest_kind(i, range, scratch)?.is_some_and(|(_, live)| live)),
                Shape::Joined(j) => {
                    if let Some(live) = self.newest_joined(j.parts(i), |p| self.look_for_kind(p, range, scratch))? {
                        return Ok(live.unwrap_or(false));
                    }
                }
            }
        }
        Ok(self.newest(i, range, scratch)?.is_some_and(|n| !n.is_stale()))
    }

    fn visit_symbols(&self, i: usize, f: &mut dyn FnMut(u32, u32)) -> bool {
        match &self.shape {
            Shape::Head => self.head.visit_symbols(i, f),
            Shape::Block => self.blocks[0].visit_symbols(i, f).is_ok(),
            Shape::Joined(j) => {
                let Part { place, at } = j.last(i);
                let mut known = true;
                let mut pass = |n: u32, v: u32| match (j.number(place, n), j.number(place, v)) {
                    (Some(n), Some(v)) => f(n, v),
                    _ => known = false,
                };
                let visited = match place {
                    HEAD => self.head.visit_symbols(at as usize, &mut pass),
                    k => self.blocks[k as usize].visit_symbols(at as usize, &mut pass).is_ok(),
                };
                visited && known
            }
        }
    }

    fn prefetch(&self, from: usize, to: usize) {
        match &self.shape {
            Shape::Head => {}
            Shape::Block => self.blocks[0].prefetch(from, to, self.range),
            Shape::Joined(j) => {
                let parts = j.between(from, to);
                for (k, b) in self.blocks.iter().enumerate() {
                    let of = || parts.iter().filter(|p| p.place as usize == k).map(|p| p.at as usize);
                    if let (Some(a), Some(z)) = (of().min(), of().max()) {
                        b.prefetch(a, z + 1, self.range);
                    }
                }
            }
        }
    }

    fn warnings(&self) -> Warnings {
        self.warnings.clone()
    }
}
