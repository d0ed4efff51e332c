//! A flush seen from the head: cut, read what was cut, and drop it once blocks hold it.
//!
//! The cut is exact: with all stripes locked, what is queued is committed and applied, the log rotates, and every
//! sealed chunk gets the cut's epoch. Records below the new segment and chunks with the epoch are the same samples.

use strandline_wal::sync::MutexGuard;
use strandline_wal::sync::atomic::Ordering;

use super::series::{Sealed, Series};
use super::{Head, STRIPES, Stripe, wal_error};
use crate::chunk::Encoding;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::block::Ending;
use crate::metrics::record::RecordWriter;
use crate::model::{Labels, TimeRange, is_stale};

/// A cut that was made.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub(crate) epoch: u8,
    /// Records below this segment are in the cut.
    pub wal_segment: u64,
    /// Times the cut spans; empty (min > max) if it holds nothing.
    pub range: TimeRange,
}

/// One series of a cut.
#[derive(Default)]
pub struct FrozenSeries {
    /// Its labels.
    pub labels: Labels,
    /// Encoding, range, and bytes of its chunks, by first time.
    pub chunks: Vec<(Encoding, TimeRange, bytes::Bytes)>,
    /// What the last sample of the last chunk is, if that is known without decoding.
    pub(crate) ending: Ending,
}

/// While new series are refused, those idle for so long make room: whoever sends once in five minutes keeps his.
const IDLE_WHEN_FULL_MS: i64 = 6 * 60_000;

/// Epochs are told apart by which lies behind the other on a circle of 255: so many flushes may wait for a reader.
const MAX_HELD: usize = 100;

impl Head {
    /// Cuts everything the head holds, for a flush. Appends wait meanwhile.
    pub fn cut(&self) -> Result<Cut> {
        if self.is_held() {
            let text = format!("a snapshot has been kept open over the last {MAX_HELD} flushes, whose chunks can't leave memory: close it");
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        // Whatever failed before must be out of the way; and whatever fails here must not stay in it.
        self.roll_back();
        self.cut_locked().inspect_err(|_| self.roll_back())
    }

    /// Whether so many flushes wait for a reader that [`Head::collect`] must come before the next.
    pub fn is_held(&self) -> bool {
        self.droppable.lock().len() >= MAX_HELD
    }

    fn cut_locked(&self) -> Result<Cut> {
        let mut all: Vec<_> = self.stripes.iter().map(|s| s.lock()).collect();
        self.wal.commit().map_err(wal_error)?;
        for s in &mut all {
            s.apply(&self.rules, &|seq| self.decided(seq));
        }
        let range =
            all.iter().fold(TimeRange::new(i64::MAX, i64::MIN), |r, s| TimeRange::new(r.min_ms.min(s.min_t), r.max_ms.max(s.max_t)));
        let wal_segment = self.wal.rotate().map_err(wal_error)?;
        let carried = self.carry(&all)?;
        // From here on nothing can fail: a cut that is half made would belong to no flush.
        // 1..=255, around and around. A cut that came to nothing has used up none: far ahead of what is flushed, one would look
        // as if it lay behind.
        let epoch = self.flushed_epoch() % 255 + 1;
        // Before the stripes forget: `may_hold` looks at them first. Such a cut's samples are among these again.
        let mut cuts = self.cuts.lock();
        cuts.retain(|(e, _)| *e != epoch);
        cuts.push((epoch, range));
        drop(cuts);
        all.iter_mut().for_each(|s| s.cut(epoch, &self.rules));
        for (k, index) in carried {
            if let Some(x) = all[k].series.get_mut(index) {
                x.logged = true;
            }
        }
        Ok(Cut { epoch, wal_segment, range })
    }

    /// What must outlive the segments that are about to go is written into the new one: running sums, exemplars, metadata.
    /// Gives the series, by stripe and index, whose labels stand there now.
    fn carry(&self, all: &[MutexGuard<'_, Stripe>]) -> Result<Vec<(usize, usize)>> {
        let mut record = RecordWriter::default();
        let mut carried = Vec::new();
        for (k, s) in all.iter().enumerate() {
            record.clear();
            let registry = self.registry.read();
            for (index, x) in s.series.iter().enumerate().filter(|(_, x)| x.id != 0) {
                let Some(e) = x.extra.as_ref().filter(|e| e.delta_last_t().is_some()) else { continue };
                record.series(x.id, &registry.labels((index * STRIPES + k) as u32));
                if let Some(d) = e.delta {
                    record.delta_state(x.id, d.last_t, d.sum);
                }
                if let Some(d) = &e.delta_histogram {
                    record.delta_histogram_state(x.id, d.0, &d.1);
                }
                carried.push((k, index));
            }
            drop(registry);
            self.log_carried(&record)?;
        }
        record.clear();
        self.put_extras(&mut record);
        self.log_carried(&record)?;
        self.wal.commit().map_err(wal_error)?;
        Ok(carried)
    }

    fn log_carried(&self, record: &RecordWriter) -> Result<()> {
        if !record.is_empty() {
            let _committed_with_the_last = self.wal.append(&record.out).map_err(wal_error)?;
        }
        Ok(())
    }

    /// All exemplars and metadata.
    pub(super) fn put_extras(&self, record: &mut RecordWriter) {
        for (id, labels, e) in self.exemplars.lock().iter() {
            record.series(id, labels);
            record.exemplar(id, e);
        }
        for (family, all) in self.metadata.lock().iter() {
            all.iter().for_each(|m| record.metadata(family, m));
        }
    }

    /// Slots that hold chunks of a cut, in label order.
    pub fn cut_slots(&self, cut: &Cut) -> Vec<u32> {
        let mut slots = Vec::new();
        for (k, stripe) in self.stripes.iter().enumerate() {
            let s = stripe.lock();
            for (index, x) in s.series.iter().enumerate() {
                if x.id != 0 && x.sealed().iter().any(|c| c.epoch() == cut.epoch) {
                    slots.push((index * STRIPES + k) as u32);
                }
            }
        }
        let registry = self.registry.read();
        slots.sort_unstable_by(|a, b| registry.compare(*a, *b));
        slots
    }

    /// Whether a series has chunks in a cut that overlap `range`.
    pub fn cut_holds(&self, cut: &Cut, slot: u32, range: TimeRange) -> bool {
        let (stripe, index) = Self::stripe_of(slot);
        let s = self.stripes[stripe].lock();
        s.series.get(index as usize).is_some_and(|x| x.sealed().iter().any(|c| c.epoch() == cut.epoch && c.range().overlaps(range)))
    }

    /// The chunks of one series in a cut that overlap `range`.
    pub fn frozen(&self, cut: &Cut, slot: u32, range: TimeRange) -> Result<FrozenSeries> {
        let (stripe, index) = Self::stripe_of(slot);
        let mut chunks = Vec::new();
        let mut in_files: Vec<Sealed> = Vec::new();
        let newest;
        {
            let s = self.stripes[stripe].lock();
            let Some(x) = s.series.get(index as usize) else { return Ok(FrozenSeries::default()) };
            newest = x.last_float().map(|v| (x.last_t(), v));
            for c in x.sealed().iter().filter(|c| c.epoch() == cut.epoch && c.range().overlaps(range)) {
                if c.file == 0 {
                    chunks.push((c.encoding(), c.range(), bytes::Bytes::copy_from_slice(s.heap.get(c.at))));
                } else {
                    in_files.push(*c);
                }
            }
        }
        for c in in_files {
            let data = self.spill.file(c.file)?.read_at(c.at as u64, c.len());
            let data = data.map_err(|e| crate::Error::io("reading a head chunk file", "head", e))?;
            chunks.push((c.encoding(), c.range(), data));
        }
        chunks.sort_by_key(|(_, r, _)| (r.min_ms, r.max_ms));
        let end = chunks.iter().map(|(_, r, _)| r.max_ms).max();
        let ending = match newest.filter(|(t, _)| Some(*t) == end) {
            Some((_, v)) if is_stale(v) => Ending::Stale,
            Some(_) => Ending::Value,
            None => Ending::Unknown,
        };
        Ok(FrozenSeries { labels: self.registry.read().labels(slot), chunks, ending })
    }

    /// The aligned ranges that chunks of a cut lie in.
    pub fn cut_ranges(&self, cut: &Cut) -> Vec<TimeRange> {
        let width = self.rules.range_ms;
        let mut starts = std::collections::BTreeSet::new();
        for stripe in &self.stripes {
            for x in stripe.lock().series.iter().filter(|x| x.id != 0) {
                // Chunks never cross a range.
                let of_cut = x.sealed().iter().filter(|c| c.epoch() == cut.epoch);
                starts.extend(of_cut.map(|c| TimeRange::aligned(c.min_t, width).min_ms));
            }
        }
        starts.into_iter().map(|s| TimeRange::aligned(s, width)).collect()
    }

    /// The cut's blocks could not be made: its chunks belong to the next cut.
    pub fn uncut(&self, cut: &Cut) {
        for stripe in &self.stripes {
            let mut s = stripe.lock();
            let (mut min_t, mut max_t) = (i64::MAX, i64::MIN);
            for e in s.series.iter_mut().filter_map(|x| x.extra.as_mut()) {
                for c in e.sealed.iter_mut().filter(|c| c.epoch() == cut.epoch) {
                    c.set_epoch(0);
                    min_t = min_t.min(c.min_t);
                    max_t = max_t.max(c.max_t());
                }
            }
            s.min_t = s.min_t.min(min_t);
            s.max_t = s.max_t.max(max_t);
        }
    }

    /// Ids from here on were never used.
    pub fn next_series_id(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// The cut's blocks are published under a new version: readers of it skip the cut's chunks here.
    /// Call it with the version's swap, under one lock.
    pub fn published(&self, cut: &Cut) {
        self.flushed.store(cut.epoch, Ordering::Release);
        let n = self.pins.advance();
        self.droppable.lock().push((n, cut.epoch));
    }

    /// The flushed epoch, for a new version.
    pub fn flushed_epoch(&self) -> u8 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Gives back what no reader can see any more: flushed chunks, series without samples that were idle for
    /// `idle_ms`, or less while others are refused for them, and the slots of those dropped before. True if series went: then a version with a new pin lets
    /// their slots go as soon as the last older reader is done.
    pub fn collect(&self, idle_ms: i64) -> bool {
        let oldest = self.pins.oldest();
        let due: Vec<u8> = {
            let mut d = self.droppable.lock();
            let due = d.iter().filter(|(n, _)| *n <= oldest).map(|(_, e)| *e).collect();
            d.retain(|(n, _)| *n > oldest);
            due
        };
        self.cuts.lock().retain(|(e, _)| !due.iter().any(|d| self.is_flushed(*e, *d)));
        self.free_limbo(oldest);
        if due.is_empty() && idle_ms > 0 && self.droppable.lock().is_empty() && !self.any_idle() {
            return false;
        }
        let now = self.clock.past_ms();
        let kept_sums = now.saturating_sub(idle_ms + 3_600_000);
        let horizon = now.saturating_sub(if self.is_full() { idle_ms.min(IDLE_WHEN_FULL_MS) } else { idle_ms });
        let mut slots = self.creation.lock();
        let mut dropped = Vec::new();
        for (k, stripe) in self.stripes.iter().enumerate() {
            let mut s = stripe.lock();
            let empty = s.drop_flushed(&self.spill, &|e| due.contains(&e));
            for index in empty {
                let Some(x) = s.series.get_mut(index as usize) else { continue };
                let last_delta = x.extra.as_ref().and_then(|e| e.delta_last_t());
                let keeps_delta = last_delta.is_some_and(|t| t > kept_sums);
                if x.last_t() <= horizon && !keeps_delta {
                    // From here on an appender that found the slot sees that it is dead, and looks again.
                    *x = Series::default();
                    s.sums = s.sums.saturating_sub(last_delta.is_some() as usize);
                    dropped.push(index * STRIPES as u32 + k as u32);
                }
            }
        }
        if dropped.is_empty() {
            return false;
        }
        let mut registry = self.registry.write();
        dropped.iter().for_each(|slot| registry.remove(*slot));
        drop(registry);
        let n = self.pins.advance();
        slots.limbo.push((n, dropped));
        true
    }

    fn any_idle(&self) -> bool {
        self.stripes.iter().any(|s| s.lock().series.iter().any(|x| x.id != 0 && x.open_bytes() == 0 && x.extra.is_none()))
    }

    fn free_limbo(&self, oldest: u64) {
        let mut slots = self.creation.lock();
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut slots.limbo).into_iter().partition(|(n, _)| *n <= oldest);
        slots.limbo = rest;
        if due.is_empty() {
            return;
        }
        let freed: Vec<u32> = due.into_iter().flat_map(|(_, s)| s).collect();
        self.registry.write().free(&freed);
        slots.free.extend(freed);
        // Taken from the end: series that come together get slots that rise.
        slots.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("series", &self.registry.read().len()).finish_non_exhaustive()
    }
}
