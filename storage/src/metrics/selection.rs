//! A selection over head and blocks: series joined by their labels, samples joined by time.

use std::cmp::Ordering;
use std::sync::Arc;

use super::block::BlockSelection;
use super::deletes::Delete;
use super::head::{Head, HeadSelection};
use super::merge;
use super::version::Version;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Labels, TimeRange, compare_packed, pack};
use crate::read::{Newest, SampleBuf, SelectRequest, SeriesSelection, Warnings};

const NONE: u32 = u32::MAX;

/// Where the parts of one series lie.
struct Joined {
    head: u32,
    /// (block, series in its selection), by first time of the block.
    blocks: Vec<(u16, u32)>,
}

enum Shape {
    /// Only the head has series.
    Head,
    /// Only one block has.
    Block,
    Joined(Vec<Joined>),
}

/// Series of a version that passed a request.
pub struct MetricSelection {
    range: TimeRange,
    head: HeadSelection,
    blocks: Vec<BlockSelection>,
    shape: Shape,
    deletes: Vec<Arc<Delete>>,
    warnings: Warnings,
    _version: Arc<Version>,
}

impl MetricSelection {
    /// Selects on a version. Blocks outside the range are not touched.
    pub fn new(head: &Arc<Head>, version: Arc<Version>, request: &SelectRequest) -> Result<Self> {
        let range = request.range;
        let mut warnings = Warnings::new();
        match &version.incomplete {
            Some(why) if request.partial => warnings.push(why.clone()),
            Some(why) => return Err(Error::new(ErrorKind::Unavailable, format!("{why}: the answer could miss data"))),
            None => {}
        }
        let mut blocks = Vec::new();
        for b in version.blocks.iter().filter(|b| b.meta.range().overlaps(range)) {
            match b.open().and_then(|b| b.select(&request.matchers)) {
                Ok(s) if s.is_empty() => {}
                Ok(s) => blocks.push(s),
                Err(e) if request.partial => warnings.push(format!("block {} could not be read: {e}", b.meta.ulid)),
                Err(e) => return Err(e),
            }
        }
        let joined = !blocks.is_empty();
        let mut head_sel = head.select(version.pin.clone(), version.flushed_epoch, &request.matchers, request.sorted && !joined);
        if joined {
            head_sel.retain_in(range);
            head_sel.sort();
        }
        let shape = match (head_sel.is_empty(), blocks.len()) {
            (_, 0) => Shape::Head,
            (true, 1) => Shape::Block,
            _ => Shape::Joined(join(&head_sel, &blocks)?),
        };
        let deletes = version.deletes.iter().filter(|d| d.range().overlaps(range)).cloned().collect();
        Ok(MetricSelection { range, head: head_sel, blocks, shape, deletes, warnings, _version: version })
    }

    /// The newest sample over the parts of a series; `None` if two of the same time must be settled.
    fn newest_joined(&self, j: &Joined, range: TimeRange, scratch: &mut SampleBuf) -> Result<Option<Option<Newest>>> {
        let mut best: Option<Newest> = None;
        let mut tie = false;
        let mut see = |n: Option<Newest>| {
            let Some(n) = n else { return };
            match &best {
                Some(b) if b.t >= n.t => tie |= b.t == n.t,
                _ => (best, tie) = (Some(n), false),
            }
        };
        if j.head != NONE {
            match self.head.newest(j.head as usize, range) {
                Some(n) => see(Some(n)),
                None => {
                    scratch.clear();
                    if !self.head.read(j.head as usize, range, scratch)? {
                        return Ok(None);
                    }
                    see(scratch.last());
                }
            }
        }
        for (k, at) in &j.blocks {
            see(self.blocks[*k as usize].newest(*at as usize, range, scratch)?);
        }
        Ok((!tie).then_some(best))
    }

    fn hide_deleted(&self, i: usize, out: &mut SampleBuf) {
        if self.deletes.is_empty() || out.is_empty() {
            return;
        }
        let labels = self.labels(i);
        let gone: Vec<TimeRange> = self.deletes.iter().filter(|d| d.covers(&labels)).map(|d| d.range()).collect();
        super::block::remove_ranges(out, &gone);
    }
}

/// Where the merging of a label-ordered list stands.
struct Cursor<'a> {
    /// `None` is the head.
    block: Option<&'a BlockSelection>,
    head: &'a HeadSelection,
    at: usize,
    len: usize,
    /// The labels there, packed.
    key: Vec<u8>,
}

impl<'a> Cursor<'a> {
    fn new(head: &'a HeadSelection, block: Option<&'a BlockSelection>) -> Result<Self> {
        let len = block.map_or(head.len(), BlockSelection::len);
        let mut c = Cursor { block, head, at: 0, len, key: Vec::new() };
        c.read()?;
        Ok(c)
    }

    fn read(&mut self) -> Result<()> {
        self.key.clear();
        if self.at >= self.len {
            return Ok(());
        }
        let key = &mut self.key;
        let mut put = |n: &str, v: &str| pack(key, n, v);
        match self.block {
            Some(b) => b.visit_labels(self.at, &mut put),
            None => {
                self.head.visit_labels(self.at, &mut put);
                Ok(())
            }
        }
    }
}

/// Merges label-ordered lists.
fn join(head: &HeadSelection, blocks: &[BlockSelection]) -> Result<Vec<Joined>> {
    let mut cursors = Vec::with_capacity(blocks.len() + 1);
    for b in blocks {
        cursors.push(Cursor::new(head, Some(b))?);
    }
    cursors.push(Cursor::new(head, None)?);
    let mut out = Vec::new();
    let mut first: Vec<usize> = Vec::new();
    loop {
        first.clear();
        for (k, c) in cursors.iter().enumerate().filter(|(_, c)| c.at < c.len) {
            match first.first().map_or(Ordering::Less, |f| compare_packed(&c.key, &cursors[*f].key)) {
                Ordering::Less => {
                    first.clear();
                    first.push(k);
                }
                Ordering::Equal => first.push(k),
                Ordering::Greater => {}
            }
        }
        if first.is_empty() {
            return Ok(out);
        }
        let mut j = Joined { head: NONE, blocks: Vec::with_capacity(first.len()) };
        for k in &first {
            let c = &mut cursors[*k];
            match c.block {
                Some(_) => j.blocks.push((*k as u16, c.at as u32)),
                None => j.head = c.at as u32,
            }
            c.at += 1;
            c.read()?;
        }
        out.push(j);
    }
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
            Shape::Joined(j) => match j[i].blocks.first() {
                _ if j[i].head != NONE => self.head.labels(j[i].head as usize),
                Some((k, at)) => self.blocks[*k as usize].labels(*at as usize).unwrap_or_default(),
                None => Labels::empty(),
            },
        }
    }

    fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) {
        match &self.shape {
            Shape::Head => self.head.visit_labels(i, f),
            Shape::Block => {
                let _ = self.blocks[0].visit_labels(i, f);
            }
            Shape::Joined(j) => match j[i].blocks.first() {
                _ if j[i].head != NONE => self.head.visit_labels(j[i].head as usize, f),
                Some((k, at)) => {
                    let _ = self.blocks[*k as usize].visit_labels(*at as usize, f);
                }
                None => {}
            },
        }
    }

    fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        let ordered = match &self.shape {
            Shape::Head => self.head.read(i, range, out)?,
            Shape::Block => {
                self.blocks[0].read(i, range, out)?;
                true
            }
            Shape::Joined(j) => {
                for (k, at) in &j[i].blocks {
                    self.blocks[*k as usize].read(*at as usize, range, out)?;
                }
                if j[i].head != NONE {
                    self.head.read(j[i].head as usize, range, out)?;
                }
                false
            }
        };
        if !ordered {
            merge::settle(out);
        }
        self.hide_deleted(i, out);
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
                    if let Some(n) = self.newest_joined(&j[i], range, scratch)? {
                        return Ok(n);
                    }
                }
            }
        }
        self.read(i, range, scratch)?;
        Ok(scratch.last())
    }

    fn is_live(&self, i: usize, range: TimeRange, scratch: &mut SampleBuf) -> Result<bool> {
        if let (Shape::Block, true) = (&self.shape, self.deletes.is_empty())
            && let Some(live) = self.blocks[0].is_live(i, range, scratch)?
        {
            return Ok(live);
        }
        Ok(self.newest(i, range, scratch)?.is_some_and(|n| !n.is_stale()))
    }

    fn visit_symbols(&self, i: usize, f: &mut dyn FnMut(u32, u32)) -> bool {
        match &self.shape {
            Shape::Head => self.head.visit_symbols(i, f),
            Shape::Block => self.blocks[0].visit_symbols(i, f).is_ok(),
            Shape::Joined(_) => false,
        }
    }

    fn prefetch(&self, from: usize, to: usize) {
        match &self.shape {
            Shape::Head => {}
            Shape::Block => self.blocks[0].prefetch(from, to, self.range),
            Shape::Joined(j) => {
                let part = &j[from.min(j.len())..to.min(j.len())];
                for (k, b) in self.blocks.iter().enumerate() {
                    let of = || part.iter().flat_map(|x| &x.blocks).filter(|(n, _)| *n as usize == k).map(|(_, i)| *i as usize);
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
