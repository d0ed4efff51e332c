//! A share of the series under one lock: admit, apply, roll back, seal.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pending::{InFlight, Known, PendingBatch, Queued, same};
use super::series::{AlignedRange, DeltaState, Extra, Finished, LATE_CHUNK, LATE_SUM_CHUNK, Sealed, Series, Value};
use super::spill::{ChunkHeap, Spill};
use crate::chunk;
use crate::clock::Times;
use crate::error::Result;
use crate::index::Slab;
use crate::metrics::record::AnyHistogram;
use crate::model::{Histogram, TimeRange};
use crate::read::SampleBuf;

/// How the head takes samples.
#[derive(Clone, Copy, Debug)]
pub struct HeadRules {
    /// Width of aligned ranges.
    pub range_ms: i64,
    /// How much older than its series' last a sample may be.
    pub out_of_order_window_ms: i64,
    /// How old a sample may be against the clock.
    pub max_sample_age_ms: i64,
    /// How far ahead of the clock a sample may be.
    pub max_future_ms: i64,
    /// Encode floats as XOR2.
    pub xor2: bool,
    /// Keep start timestamps; XOR2 alone has room for them.
    pub start_timestamps: bool,
}

/// Why a sample was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Older than its series' last sample by more than the window.
    OutOfOrder,
    /// Older than `max_sample_age`.
    TooOld,
    /// Ahead of the clock by more than the tolerance.
    TooFarInFuture,
    /// The series has another value at that time.
    Duplicate,
    /// The histogram contradicts itself.
    InvalidHistogram,
    /// The labels are none, without a metric name where there must be one, or not UTF-8.
    InvalidLabels,
    /// A label stands twice.
    DuplicateLabel,
    /// More labels than `max_labels`.
    TooManyLabels,
    /// A name or a value is longer than allowed.
    LabelTooLong,
    /// The series of a handle was dropped since.
    StaleHandle,
    /// The limit of series is reached.
    SeriesLimit,
    /// The limit of accumulated delta series is reached.
    DeltaLimit,
}

impl Refusal {
    /// A word for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::OutOfOrder => "out_of_order",
            Refusal::TooOld => "too_old",
            Refusal::TooFarInFuture => "too_far_in_future",
            Refusal::Duplicate => "duplicate_timestamp",
            Refusal::InvalidHistogram => "invalid_histogram",
            Refusal::InvalidLabels => "invalid_labels",
            Refusal::DuplicateLabel => "duplicate_label",
            Refusal::TooManyLabels => "too_many_labels",
            Refusal::LabelTooLong => "label_too_long",
            Refusal::StaleHandle => "stale_handle",
            Refusal::SeriesLimit => "series_limit",
            Refusal::DeltaLimit => "delta_limit",
        }
    }
    /// A sentence for senders.
    pub fn message(self) -> &'static str {
        match self {
            Refusal::OutOfOrder => "out of order sample: older than the series' last by more than out_of_order_window",
            Refusal::TooOld => "sample too old: beyond max_sample_age",
            Refusal::TooFarInFuture => "sample too far in the future: check the sender's clock",
            Refusal::Duplicate => "duplicate sample for timestamp: another value is stored for that time",
            Refusal::InvalidHistogram => "the histogram contradicts itself",
            Refusal::InvalidLabels => "the labels are not valid",
            Refusal::DuplicateLabel => "a label stands twice",
            Refusal::TooManyLabels => "the series has too many labels",
            Refusal::LabelTooLong => "a label is too long",
            Refusal::StaleHandle => "the handle's series was dropped; resolve it again",
            Refusal::SeriesLimit => "the limit of active series is reached",
            Refusal::DeltaLimit => "the limit of series with delta temporality is reached",
        }
    }
}

/// What becomes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Store,
    /// The same sample is there (or on its way): nothing to do, and no fault of the sender.
    Known,
    Refuse(Refusal),
}

/// What a sample is judged by besides its series.
pub struct Moment<'a> {
    pub times: Times,
    pub rules: &'a HeadRules,
    /// Items admitted with it, not in the queue yet.
    pub batch: &'a PendingBatch,
    pub in_flight: &'a mut InFlight,
}

/// So many appends are prepared for at once.
pub const WARM: usize = 32;

/// Series under one lock, by index in the stripe.
#[derive(Debug, Default)]
pub struct Stripe {
    pub series: Slab<Series>,
    pub heap: ChunkHeap,
    pub pending: VecDeque<PendingBatch>,
    pub samples: u64,
    /// Series with a running sum, and how many there may be.
    pub sums: usize,
    pub max_sums: usize,
    pub chunks: u64,
    pub min_t: i64,
    pub max_t: i64,
    /// Where the aligned range begins that the last sample was put into.
    range_start_ms: i64,
}

/// Whether an increase that ends at `t` is no retry of one within a sum that ends at `last_t`. Replay asks the same, without
/// a clock.
fn is_set_back(t: i64, last_t: i64) -> bool {
    last_t.saturating_sub(t) > 2 * 3_600_000
}

/// No observations, with the bounds of `h`.
fn empty_like(h: &Histogram) -> Histogram {
    Histogram { schema: h.schema, zero_threshold: h.zero_threshold, custom_values: h.custom_values.clone(), ..Histogram::default() }
}

impl Stripe {
    pub fn new() -> Self {
        Stripe { max_sums: usize::MAX, min_t: i64::MAX, max_t: i64::MIN, ..Stripe::default() }
    }

    /// What is queued of a series, of which `own` are of the batch that is being judged.
    fn queued<'a>(&'a self, s: &Series, index: u32, own: usize, in_flight: &'a mut InFlight) -> Queued<'a> {
        if s.pending as usize > own { in_flight.of(&self.pending, index) } else { Queued::default() }
    }

    /// Decides on a sample, counting what is still pending here and in `batch` (not yet in the queue).
    #[inline]
    pub fn admit(&self, s: &Series, index: u32, t: i64, v: &Value, m: &mut Moment<'_>) -> Verdict {
        let (times, rules) = (m.times, m.rules);
        if t > times.latest_ms.saturating_add(rules.max_future_ms) {
            return Verdict::Refuse(Refusal::TooFarInFuture);
        }
        if t < times.earliest_ms.saturating_sub(rules.max_sample_age_ms) {
            return Verdict::Refuse(Refusal::TooOld);
        }
        if let Value::Delta(_) | Value::DeltaHistogram(_) = v {
            return self.admit_delta(s, index, t, v, m);
        }
        let (own, own_t) = m.batch.run_of(index);
        let last_t = s.last_t().max(own_t.unwrap_or(i64::MIN));
        // Nearly all there is: the next of a series of which nothing else is in flight.
        if t > last_t && s.pending as usize <= own {
            return Verdict::Store;
        }
        self.admit_among(s, index, t, v, m, (own, last_t))
    }

    /// Judges a sample of whose series others are in flight, or that is not the newest.
    #[inline(never)]
    fn admit_among(&self, s: &Series, index: u32, t: i64, v: &Value, m: &mut Moment<'_>, (own, last_t): (usize, i64)) -> Verdict {
        let (times, rules) = (m.times, m.rules);
        let judge = |known: Known<'_>| if known.is(v) { Verdict::Known } else { Verdict::Refuse(Refusal::Duplicate) };
        let queued = self.queued(s, index, own, m.in_flight);
        let last_t = last_t.max(queued.newest_t().unwrap_or(i64::MIN));
        if t > last_t {
            return Verdict::Store;
        }
        if let Some(known) = m.batch.of_run_at(index, t).or_else(|| queued.at(t)) {
            return judge(known);
        }
        if t == last_t
            && let (Some(f), Value::Float(_)) = (s.last_float(), v)
        {
            return judge(Known::Float(f));
        }
        // What lies farther ahead than a sample may was taken before the clock was set back, and keeps nothing out.
        let newest_t = last_t.min(times.now_ms.saturating_add(rules.max_future_ms));
        if t < newest_t.saturating_sub(rules.out_of_order_window_ms) {
            return Verdict::Refuse(Refusal::OutOfOrder);
        }
        self.admit_late(s, t, v)
    }

    /// A late sample may be there already: among the late ones, in the open chunk, or in one on the heap. What lies in files is
    /// not looked at: of what has one time there, readers take one, always the same.
    fn admit_late(&self, s: &Series, t: i64, v: &Value) -> Verdict {
        let judge = |stored: &Value| if same(stored, v) { Verdict::Known } else { Verdict::Refuse(Refusal::Duplicate) };
        if let Some(e) = &s.extra
            && let Ok(i) = e.late.binary_search_by_key(&t, |l| l.0)
        {
            return judge(&e.late[i].2);
        }
        let in_chunk = |encoding, data: &[u8]| {
            let mut out = SampleBuf::default();
            chunk::decode(encoding, data, TimeRange::new(t, t), &mut out).ok()?;
            match out.histogram(0) {
                Some(h) => Some(Value::Histogram(AnyHistogram::Float(h.clone()))),
                None => out.v.first().map(|v| Value::Float(*v)),
            }
        };
        let open = || s.open_copy().filter(|_| s.open_min_t().is_some_and(|m| m <= t)).and_then(|(e, data)| in_chunk(e, &data));
        let on_heap = || {
            s.sealed()
                .iter()
                .filter(|c| c.file == 0 && c.epoch() == 0 && c.range().contains(t))
                .find_map(|c| in_chunk(c.encoding(), self.heap.get(c.at)))
        };
        open().or_else(on_heap).map_or(Verdict::Store, |stored| judge(&stored))
    }

    /// A point that ends at or before what is accumulated is a retry, or came late ([`Stripe::admit_late_delta`]), unless it
    /// ends long before: then a clock was set back, or it was kept waiting, and that is said. Once all clocks agree that what
    /// is accumulated lies in the future, it begins anew.
    fn admit_delta(&self, s: &Series, index: u32, t: i64, v: &Value, m: &mut Moment<'_>) -> Verdict {
        let known = s.extra.as_ref().and_then(|e| e.delta_last_t());
        if known.is_none() && self.sums >= self.max_sums {
            return Verdict::Refuse(Refusal::DeltaLimit);
        }
        let future_t = m.times.latest_ms.saturating_add(m.rules.max_future_ms);
        let (own, in_batch) = m.batch.run_of(index);
        let in_flight = self.queued(s, index, own, m.in_flight).newest_t();
        let stored = Some(s.last_t()).filter(|t| *t <= future_t);
        let summed = known.max(in_batch).max(in_flight);
        let last = summed.max(stored).unwrap_or(i64::MIN);
        match (is_set_back(t, last), last > future_t) {
            _ if t > last => Verdict::Store,
            (true, true) => Verdict::Store,
            (false, false) if summed > Some(t) => self.admit_late_delta(s, index, t, v, last, m),
            (false, false) => Verdict::Known,
            _ => Verdict::Refuse(Refusal::OutOfOrder),
        }
    }

    /// A sender with several requests under way tries again in another order. Where nothing is stored at `t`, the increase was
    /// never counted: it is added to the sum, and a sample with the value before it stands for it, so that it is counted once.
    /// Where samples of that time have left the heap, or a cut has ended them, it counts as a retry.
    fn admit_late_delta(&self, s: &Series, index: u32, t: i64, v: &Value, last: i64, m: &mut Moment<'_>) -> Verdict {
        let (own, _) = m.batch.run_of(index);
        let queued = self.queued(s, index, own, m.in_flight);
        if m.batch.of_run_at(index, t).is_some() || queued.at(t).is_some() {
            return Verdict::Known;
        }
        // What is under way may end the open chunk before this is applied.
        let range = AlignedRange::of(last, m.rules.range_ms, self.range_start_ms);
        let stays = s.pending == 0 || s.stays_open(last, s.pending, range);
        match s.at_or_before(t, &self.heap) {
            None => Verdict::Known,
            Some((at, _)) if at == t => Verdict::Known,
            Some((_, before)) if stays && !before.is_nan() && matches!(v, Value::Delta(_)) => Verdict::Store,
            Some(_) => Verdict::Refuse(Refusal::OutOfOrder),
        }
    }

    /// Applies, in the order of their sequences, the batches that `done` says are durable. `done` gives `None` while a
    /// commit is undecided; failed batches are left for [`Stripe::roll_back`].
    pub fn apply(&mut self, rules: &HeadRules, done: &dyn Fn(u64) -> Option<bool>) {
        while let Some(b) = self.pending.front() {
            if done(b.seq) != Some(true) {
                return;
            }
            let Some(b) = self.pending.pop_front() else { return };
            for some in b.floats.chunks(WARM) {
                std::hint::black_box(some.iter().fold(0, |x, f| x ^ self.warm(f.index)));
                for f in some {
                    self.apply_float(f.index, f.t, f.v, rules);
                }
            }
            for i in b.rest {
                self.apply_one(i.index, i.t, i.st, i.value, rules);
            }
        }
    }

    /// Reads where the next sample of a series will be written. Such reads don't wait for one another, while appends
    /// that each miss the cache would: done for [`WARM`] series ahead, they are done in the time of a few.
    #[inline]
    pub fn warm(&self, index: u32) -> u8 {
        self.series.get(index as usize).map_or(0, |s| s.open_edge())
    }

    /// Drops all that is pending: its commit failed. Gives the series that must be logged again.
    pub fn roll_back(&mut self) {
        while let Some(b) = self.pending.pop_front() {
            self.forget(&b);
        }
    }

    /// Takes back what was noted in the series of a batch that will not be applied.
    pub fn forget(&mut self, batch: &PendingBatch) {
        for index in batch.indices() {
            if let Some(s) = self.series.get_mut(index as usize) {
                s.pending = s.pending.saturating_sub(1);
            }
        }
        for index in &batch.logged {
            if let Some(s) = self.series.get_mut(*index as usize) {
                s.logged = false;
            }
        }
    }

    /// Puts a durable float without a start timestamp into its series; replay comes here too.
    #[inline]
    pub fn apply_float(&mut self, index: u32, t: i64, v: f64, rules: &HeadRules) {
        let Some(s) = self.series.get_mut(index as usize) else { return };
        if t <= s.last_t() {
            return self.apply_one(index, t, 0, Value::Float(v), rules);
        }
        s.pending = s.pending.saturating_sub(1);
        let range = AlignedRange::of(t, rules.range_ms, self.range_start_ms);
        let begins = s.open_bytes() == 0;
        let done = s.append_float(t, 0, v, range, rules.xor2);
        self.note(t, range);
        self.count_chunk(index, begins, done);
    }

    #[inline]
    fn note(&mut self, t: i64, range: AlignedRange) {
        self.range_start_ms = range.start_ms;
        self.samples += 1;
        self.min_t = self.min_t.min(t);
        self.max_t = self.max_t.max(t);
    }

    /// After an append that began a chunk, or ended one and began the next.
    #[inline]
    fn count_chunk(&mut self, index: u32, begins: bool, done: Option<Finished>) {
        self.chunks += (begins || done.is_some()) as u64;
        if let Some(done) = done {
            self.seal(index, done);
        }
    }

    /// Puts a durable sample into its series; replay comes here too.
    pub fn apply_one(&mut self, index: u32, t: i64, mut st: i64, mut value: Value, rules: &HeadRules) {
        let Some(s) = self.series.get_mut(index as usize) else { return };
        // In a replay nothing is pending.
        s.pending = s.pending.saturating_sub(1);
        if let Value::Delta(_) | Value::DeltaHistogram(_) = value {
            self.sums += s.extra().delta_last_t().is_none() as usize;
            // That of an increase would say that the sum begins anew with each.
            st = 0;
        }
        if let Value::Delta(d) = value {
            let mut state = s.extra().delta.unwrap_or(DeltaState { last_t: i64::MIN, sum: 0.0 });
            let late = t <= state.last_t && !is_set_back(t, state.last_t);
            state.sum += d;
            if late {
                match s.at_or_before(t, &self.heap) {
                    Some((at, _)) if at == t => return,
                    Some((_, before)) if !before.is_nan() => value = Value::Float(before),
                    // It was admitted beside other chunks, which a flush that failed had ended: it counts all the same.
                    _ => return s.extra().delta = Some(state),
                }
            } else {
                state.last_t = t;
                value = Value::Float(state.sum);
            }
            s.extra().delta = Some(state);
        } else if let Value::DeltaHistogram(h) = value {
            let state = s.extra().delta_histogram.get_or_insert_with(|| Box::new((i64::MIN, empty_like(&h))));
            if t <= state.0 && !is_set_back(t, state.0) {
                return;
            }
            state.0 = t;
            // Other bounds than before: the sum begins anew, which readers see as a reset.
            if !state.1.merge(&h) {
                state.1 = (*h).clone();
            }
            value = Value::Histogram(AnyHistogram::Int(Arc::new(state.1.clone())));
        }
        let range = AlignedRange::of(t, rules.range_ms, self.range_start_ms);
        if t > s.last_t() {
            let begins = s.open_bytes() == 0;
            let done = s.append(t, st, &value, range, rules.xor2);
            self.note(t, range);
            self.count_chunk(index, begins, done);
            return;
        }
        let most = if s.extra().delta.is_some() { LATE_SUM_CHUNK } else { LATE_CHUNK };
        let chunk_is_due = s.insert_late(t, st, &value) && s.extra().late.len() >= most;
        self.note(t, range);
        if chunk_is_due {
            self.seal_late(index, rules);
        }
    }

    /// In a replay: the series exists and bears this id. One that was dropped since comes again with a higher one, and with no
    /// sum of what was before. An exemplar may still name it by the old one, which changes nothing.
    pub fn define(&mut self, index: u32, id: u64) {
        while self.series.len() <= index as usize {
            self.series.push(Series::default());
        }
        let Some(s) = self.series.get_mut(index as usize).filter(|s| s.id < id) else { return };
        if s.id == 0 {
            *s = Series::new(id);
        }
        if s.id != id
            && let Some(e) = &mut s.extra
        {
            self.sums = self.sums.saturating_sub(e.delta_last_t().is_some() as usize);
            (e.delta, e.delta_histogram) = (None, None);
        }
        (s.id, s.logged) = (id, true);
    }

    /// A running sum as a cut left it in the log.
    pub fn restore_sum(&mut self, index: u32, set: impl FnOnce(&mut Extra)) {
        if let Some(s) = self.series.get_mut(index as usize) {
            self.sums += s.extra().delta_last_t().is_none() as usize;
            set(s.extra());
        }
    }

    fn seal_late(&mut self, index: u32, rules: &HeadRules) {
        let Some(s) = self.series.get_mut(index as usize) else { return };
        for done in s.finish_late(rules.range_ms, rules.xor2) {
            self.chunks += 1;
            self.seal(index, done);
        }
    }

    fn seal(&mut self, index: u32, done: Finished) {
        let len = done.data.len();
        let at = self.heap.insert(done.data.into_boxed_slice());
        if let Some(s) = self.series.get_mut(index as usize) {
            let sealed = &mut s.extra().sealed;
            if sealed.len() == sealed.capacity() {
                sealed.reserve_exact((sealed.len() / 2).max(2));
            }
            sealed.push(Sealed::new(done.range, done.encoding, len, 0, at));
        }
    }

    /// Ends every chunk and marks all that no flush took yet with `epoch`.
    pub fn cut(&mut self, epoch: u8, rules: &HeadRules) {
        for index in 0..self.series.len() as u32 {
            let Some(s) = self.series.get_mut(index as usize).filter(|s| s.id != 0) else { continue };
            s.logged = false;
            if let Some(done) = s.finish() {
                self.seal(index, done);
            }
            if self.series.get(index as usize).and_then(|s| s.extra.as_ref()).is_some_and(|e| !e.late.is_empty()) {
                self.seal_late(index, rules);
            }
            if let Some(e) = self.series.get_mut(index as usize).and_then(|s| s.extra.as_mut()) {
                e.sealed.iter_mut().filter(|c| c.epoch() == 0).for_each(|c| c.set_epoch(epoch));
            }
        }
        self.min_t = i64::MAX;
        self.max_t = i64::MIN;
    }

    /// Moves heap chunks of at least `min_bytes` in all into a file.
    pub fn spill(&mut self, spill: &Spill, min_bytes: usize) -> Result<()> {
        if self.heap.bytes() < min_bytes.max(1) {
            return Ok(());
        }
        let mut places = Vec::new();
        // An increase under way may have been admitted beside what is on the heap.
        let stays = |s: &Series| s.pending > 0 && s.extra.as_ref().is_some_and(|e| e.delta.is_some());
        for (index, s) in self.series.iter().enumerate().filter(|(_, s)| !stays(s)) {
            for (k, c) in s.sealed().iter().enumerate().filter(|(_, c)| c.file == 0) {
                places.push((index, k, c.at));
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let data: Vec<&[u8]> = places.iter().map(|(_, _, at)| self.heap.get(*at)).collect();
        let (file, offsets) = spill.write(&data)?;
        for ((index, k, at), offset) in places.into_iter().zip(offsets) {
            self.heap.remove(at);
            if let Some(c) = self.series.get_mut(index).and_then(|s| s.extra.as_mut()).and_then(|e| e.sealed.get_mut(k)) {
                c.file = file;
                c.at = offset;
            }
        }
        Ok(())
    }

    /// Drops chunks whose epoch `flushed` says is published. Gives the series that hold nothing any more.
    pub fn drop_flushed(&mut self, spill: &Spill, flushed: &dyn Fn(u8) -> bool) -> Vec<u32> {
        let mut empty = Vec::new();
        for index in 0..self.series.len() {
            let Some(s) = self.series.get_mut(index).filter(|s| s.id != 0) else { continue };
            if let Some(e) = &mut s.extra {
                let heap = &mut self.heap;
                let chunks = &mut self.chunks;
                e.sealed.retain(|c| {
                    let gone = c.epoch() != 0 && flushed(c.epoch());
                    if gone {
                        *chunks = chunks.saturating_sub(1);
                        if c.file == 0 { heap.remove(c.at) } else { spill.release(c.file) }
                    }
                    !gone
                });
                if e.sealed.is_empty() && e.late.is_empty() && e.delta_last_t().is_none() {
                    s.extra = None;
                } else {
                    e.sealed.shrink_to(e.sealed.len() + 1);
                }
            }
            let held = s.extra.as_ref().is_some_and(|e| !e.sealed.is_empty() || !e.late.is_empty());
            if s.pending == 0 && !held && s.open_bytes() == 0 {
                empty.push(index as u32);
            }
        }
        empty
    }
}
