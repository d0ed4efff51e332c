//! Reading the head: a selection of series under a pin.
//!
//! Open chunks are copied under the stripe's lock and decoded outside it; finished chunks are read where they lie.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use strandline_wal::fs::FileRead;

use super::pin::Pin;
use super::series::Value;
use super::{AnyHistogram, Head};
use crate::chunk::{self, Encoding};
use crate::error::{Error, Result};
use crate::model::{Labels, Matcher, TimeRange};
use crate::read::{Newest, SampleBuf};

/// Series of the head that passed a selection.
pub struct HeadSelection {
    head: Arc<Head>,
    _pin: Pin,
    flushed: u8,
    slots: Vec<u32>,
}

/// What was copied of a series under its lock.
#[derive(Default)]
struct Copied {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    late: Vec<(i64, i64, Value)>,
}

struct Part {
    encoding: Encoding,
    min_t: i64,
    place: Place,
}

enum Place {
    Copy { from: usize, to: usize },
    File { file: u32, at: u32, len: usize },
}

strandline_wal::sync::thread_local! {
    static SCRATCH: RefCell<Copied> = RefCell::default();
}

impl Head {
    /// Selects under `pin` (taken with the version whose flushed epoch is given). Series without data in the range asked
    /// for may be among them.
    pub fn select(self: &Arc<Self>, pin: Pin, flushed: u8, matchers: &[Matcher]) -> HeadSelection {
        let slots: Vec<u32> = self.registry.read().select(matchers).iter().collect();
        HeadSelection { head: self.clone(), _pin: pin, flushed, slots }
    }

    /// No series at all.
    pub fn select_none(self: &Arc<Self>, pin: Pin, flushed: u8) -> HeadSelection {
        HeadSelection { head: self.clone(), _pin: pin, flushed, slots: Vec::new() }
    }
}

impl HeadSelection {
    /// Number of series.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// Labels of series `i`.
    pub fn labels(&self, i: usize) -> Labels {
        self.head.registry.read().labels(self.slots[i])
    }
    /// Calls `f` with the labels of series `i`.
    pub fn visit_labels(&self, i: usize, f: &mut dyn FnMut(&str, &str)) {
        self.head.registry.read().visit(self.slots[i], f);
    }
    /// Calls `f` with the symbol numbers of the labels of series `i`.
    pub fn visit_symbols(&self, i: usize, f: &mut dyn FnMut(u32, u32)) -> bool {
        self.head.registry.read().visit_symbols(self.slots[i], f);
        true
    }

    /// Puts the series into label order.
    pub fn sort(&mut self) {
        let registry = self.head.registry.read();
        self.head.order.lock().sort(&registry, &mut self.slots);
    }

    /// Symbol numbers of the labels of some series, all behind one another, and where those of each series end.
    pub fn symbols_of(&self, series: Range<usize>, pairs: &mut Vec<(u32, u32)>, ends: &mut Vec<u32>) {
        pairs.clear();
        ends.clear();
        let registry = self.head.registry.read();
        for slot in &self.slots[series] {
            registry.visit_symbols(*slot, &mut |n, v| pairs.push((n, v)));
            ends.push(pairs.len() as u32);
        }
    }

    /// The string of a symbol number.
    pub fn with_symbol<R>(&self, symbol: u32, f: impl FnOnce(&str) -> R) -> R {
        f(self.head.registry.read().symbol(symbol))
    }

    /// One beyond the highest symbol number.
    pub fn symbols_len(&self) -> usize {
        self.head.registry.read().symbols_len()
    }

    /// Keeps the series that have samples in `range`.
    pub fn retain_in(&mut self, range: TimeRange) {
        let (head, flushed) = (self.head.clone(), self.flushed);
        self.slots.retain(|slot| head.has_samples(*slot, flushed, range));
    }

    /// Appends the samples of series `i` in `range` to `out`; false if they may be out of order.
    pub fn read(&self, i: usize, range: TimeRange, out: &mut SampleBuf) -> Result<bool> {
        SCRATCH.with(|c| {
            let c = &mut *c.borrow_mut();
            c.bytes.clear();
            c.parts.clear();
            c.late.clear();
            self.copy(self.slots[i], range, c);
            c.parts.sort_by_key(|p| p.min_t);
            let mut file: Option<(u32, Arc<dyn FileRead>)> = None;
            let mut ordered = true;
            for p in &c.parts {
                ordered &= out.t.last().is_none_or(|t| *t < p.min_t);
                match p.place {
                    Place::Copy { from, to } => chunk::decode(p.encoding, &c.bytes[from..to], range, out)?,
                    Place::File { file: n, at, len } => {
                        if file.as_ref().is_none_or(|(m, _)| *m != n) {
                            file = Some((n, self.head.spill.file(n)?));
                        }
                        if let Some((_, f)) = &file {
                            let data = f.read_at(at as u64, len).map_err(|e| Error::io("reading a head chunk file", "head", e))?;
                            chunk::decode(p.encoding, &data, range, out)?;
                        }
                    }
                }
            }
            for (t, st, v) in c.late.drain(..) {
                ordered &= out.t.last().is_none_or(|l| *l < t);
                push(out, t, st, &v);
            }
            Ok(ordered)
        })
    }

    fn copy(&self, slot: u32, range: TimeRange, c: &mut Copied) {
        let (stripe, index) = Head::stripe_of(slot);
        let mut s = self.head.stripes[stripe].lock();
        let s = &mut *s;
        let Some(x) = s.series.get_mut(index as usize) else { return };
        for k in x.sealed().iter().filter(|k| k.range().overlaps(range) && !self.head.is_flushed(k.epoch(), self.flushed)) {
            let place = if k.file == 0 {
                let from = c.bytes.len();
                c.bytes.extend_from_slice(s.heap.get(k.at));
                Place::Copy { from, to: c.bytes.len() }
            } else {
                Place::File { file: k.file, at: k.at, len: k.len() }
            };
            c.parts.push(Part { encoding: k.encoding(), min_t: k.min_t, place });
        }
        let min_t = x.open_min_t().unwrap_or(i64::MIN);
        if x.last_t() >= range.min_ms
            && let Some((encoding, data)) = x.open_chunk()
        {
            let from = c.bytes.len();
            c.bytes.extend_from_slice(data);
            c.parts.push(Part { encoding, min_t, place: Place::Copy { from, to: c.bytes.len() } });
        }
        if let Some(e) = &x.extra {
            c.late.extend(e.late.iter().filter(|l| range.contains(l.0)).cloned());
        }
    }

    /// The newest sample, if the open chunk can tell it without decoding; `None` means: read.
    pub fn newest(&self, i: usize, range: TimeRange) -> Option<Newest> {
        let (stripe, index) = Head::stripe_of(self.slots[i]);
        let s = self.head.stripes[stripe].lock();
        let x = s.series.get(index as usize)?;
        let t = x.last_t();
        // The length lies in the record: nothing of the chunk itself is touched.
        if x.open_bytes() == 0 {
            return None;
        }
        // Late samples are older than the last by nature.
        if !range.contains(t) || self.head.rules.xor2 {
            return None;
        }
        Some(Newest { t, v: x.last_float()?, st: 0, h: None })
    }
}

impl Head {
    /// Whether a reader that sees what `flushed` says may find samples in `range`; judged by hulls alone.
    pub fn may_hold(&self, range: TimeRange, flushed: u8) -> bool {
        let open = |s: &super::Stripe| s.min_t <= s.max_t && TimeRange::new(s.min_t, s.max_t).overlaps(range);
        self.stripes.iter().any(|s| open(&s.lock()))
            || self.cuts.lock().iter().any(|(e, cut)| !self.is_flushed(*e, flushed) && cut.overlaps(range))
    }

    fn has_samples(&self, slot: u32, flushed: u8, range: TimeRange) -> bool {
        let (stripe, index) = Self::stripe_of(slot);
        let s = self.stripes[stripe].lock();
        let Some(x) = s.series.get(index as usize) else { return false };
        let last = x.last_t();
        // The first time lies in the chunk; mostly the record alone can tell.
        let open = x.open_bytes() > 0 && last >= range.min_ms;
        open && (last <= range.max_ms || x.open_min_t().is_some_and(|t| t <= range.max_ms))
            || x.sealed().iter().any(|k| k.range().overlaps(range) && !self.is_flushed(k.epoch(), flushed))
            || x.extra.as_ref().is_some_and(|e| e.late.iter().any(|l| range.contains(l.0)))
    }
}

/// Appends one sample of either type.
pub(crate) fn push(out: &mut SampleBuf, t: i64, st: i64, v: &Value) {
    match v {
        Value::Float(v) | Value::Delta(v) => out.push(t, *v, st),
        Value::DeltaHistogram(h) | Value::Histogram(AnyHistogram::Int(h)) => out.push_histogram(t, Arc::new(h.to_float()), st),
        Value::Histogram(AnyHistogram::Float(h)) => out.push_histogram(t, h.clone(), st),
    }
}
