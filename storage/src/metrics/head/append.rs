//! THE write path: resolve and validate, log, apply, publish, acknowledge; nothing else writes.
//!
//! Accept or refuse is decided under the stripe's lock, in the order of the log, counting batches still in flight.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll};

use strandline_wal::Ticket;
use strandline_wal::sync::atomic::Ordering;

use super::batch::{Batch, Item, Rejected, SeriesHandle, SeriesKey};
use super::pending::{InFlight, PendingBatch, PendingFloat, PendingItem};
use super::pin::Pin;
use super::series::Value;
use super::stripe::{HeadRules, Moment, Refusal, Stripe, Verdict};
use super::{Head, STRIPES, wal_error};
use crate::clock::Times;
use crate::error::{Error, ErrorKind, Result};
use crate::index::NO_SLOT;
use crate::metrics::record::{AnyHistogram, FloatRecord, RecordWriter};
use crate::model::{Histogram, HistogramError, Labels};

const NONE: u32 = NO_SLOT;

/// So many new series are made before others may make some: a millisecond, about.
const MADE_AT_ONCE: usize = 1024;

/// The outcome of an append before it is durable.
pub struct Appended {
    /// Samples taken, those included that were there already.
    pub accepted: u64,
    /// Samples refused, each alone.
    pub rejected: Vec<Rejected>,
    /// Exemplars taken.
    pub exemplars: u64,
    /// Wait for it before acknowledging.
    pub commit: Commit,
}

/// A commit under way: wait on a thread, or await. Only then the samples are durable, and visible.
#[must_use = "samples are durable and visible once the commit is waited for"]
pub struct Commit {
    head: Arc<Head>,
    ticket: Option<Ticket>,
    stripes: u16,
}

impl Commit {
    /// Blocks until all is durable and applied.
    pub fn wait(mut self) -> Result<()> {
        let outcome = self.ticket.take().map_or(Ok(()), |t| t.wait());
        self.head.settle(self.stripes, outcome)
    }
}

impl Future for Commit {
    type Output = Result<()>;
    fn poll(mut self: StdPin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = match &mut self.ticket {
            None => Ok(()),
            Some(t) => match StdPin::new(t).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(r) => r,
            },
        };
        self.ticket = None;
        Poll::Ready(self.head.settle(self.stripes, outcome))
    }
}

/// Scratch of one append.
#[derive(Default)]
struct Work {
    slots: Vec<u32>,
    rejected: Vec<Rejected>,
    accepted: u64,
    exemplars: u64,
    stripes: u16,
    /// The first record of the log that the outcome hangs on: of this batch, or of one in flight that a sample was judged by.
    /// Between it and the last one others may roll back and go on, so all of them must be waited for.
    first_seq: Option<u64>,
    /// Items whose series was dropped between finding it and locking it.
    again: Vec<u32>,
}

impl Work {
    fn hangs_on(&mut self, seq: u64) {
        self.first_seq = Some(self.first_seq.map_or(seq, |f| f.min(seq)));
    }
}

impl Head {
    /// Appends a batch. What can't be taken is refused alone. The error is for the batch as a whole: then nothing
    /// was acknowledged and the same batch may be sent again.
    pub fn append(self: &Arc<Self>, batch: &Batch) -> Result<Appended> {
        let _pin: Pin = self.pin();
        let mut w = Work { slots: vec![NONE; batch.series.len()], ..Work::default() };
        self.resolve(batch, &mut w)?;
        let order = ByStripe::of(batch.items.iter().enumerate().map(|(i, item)| (i as u32, w.slots[item.series as usize])));
        self.write_stripes(batch, &order, &mut w)?;
        if !w.again.is_empty() {
            // A drop raced with us. It holds this lock until the index has forgotten the series too; once more by name then
            // makes the series anew.
            drop(self.creation.lock());
            let again = std::mem::take(&mut w.again);
            w.slots.iter_mut().for_each(|s| *s = NONE);
            self.resolve(batch, &mut w)?;
            let order = ByStripe::of(again.iter().map(|i| (*i, w.slots[batch.items[*i as usize].series as usize])));
            self.write_stripes(batch, &order, &mut w)?;
            if !w.again.is_empty() {
                return Err(Error::new(ErrorKind::Unavailable, "series were dropped while being written; send the batch again"));
            }
        }
        self.write_extras(batch, &mut w)?;
        // What is known already needs no waiting, unless it is known from a batch that is still in flight.
        let ticket = w.first_seq.map(|first| self.wal.ticket_from(first));
        Ok(Appended {
            accepted: w.accepted,
            rejected: w.rejected,
            exemplars: w.exemplars,
            commit: Commit { head: self.clone(), ticket, stripes: w.stripes },
        })
    }

    /// Finds the handle of a series, making the series if need be.
    pub fn handle(self: &Arc<Self>, labels: &Labels) -> Result<SeriesHandle> {
        let mut b = super::BatchBuilder::default();
        b.series(labels);
        let batch = b.finish();
        let _pin = self.pin();
        let slot = self.find_or_create_one(&batch.raw).map_err(|(why, detail)| {
            let kind = if why == Refusal::SeriesLimit { ErrorKind::LimitExceeded } else { ErrorKind::Invalid };
            Error::new(kind, format!("series {labels}: {detail}"))
        })?;
        let (stripe, index) = Self::stripe_of(slot);
        let id = self.stripes[stripe].lock().series.get(index as usize).map_or(0, |s| s.id);
        Ok(SeriesHandle { slot, id })
    }

    fn resolve(&self, batch: &Batch, w: &mut Work) -> Result<()> {
        let mut missing = Vec::new();
        let mut raws: Vec<&[u8]> = Vec::with_capacity(batch.series.len());
        let mut at = Vec::with_capacity(batch.series.len());
        for (i, key) in batch.series.iter().enumerate() {
            match *key {
                SeriesKey::Handle(h) => w.slots[i] = h.slot,
                SeriesKey::Raw { .. } => {
                    raws.push(batch.raw_of(key));
                    at.push(i);
                }
            }
        }
        let mut found = Vec::with_capacity(raws.len());
        self.registry.read().find_all(&raws, &mut found);
        for (i, slot) in at.into_iter().zip(found) {
            if slot == NONE {
                missing.push(i);
            } else {
                w.slots[i] = slot;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let mut refused: HashMap<u32, (Refusal, Box<str>)> = HashMap::new();
        // Held for many of them, so that their slots follow one another: see `Registry::find_all`.
        for some in missing.chunks(MADE_AT_ONCE) {
            let mut slots = self.creation.lock();
            self.find_or_create(&mut slots, batch, some, &mut |i, made| match made {
                Ok(slot) => w.slots[i] = slot,
                Err((why, detail)) => {
                    refused.insert(i as u32, (why, detail.into()));
                }
            });
        }
        if !refused.is_empty() {
            for (i, item) in batch.items.iter().enumerate() {
                if let Some((why, detail)) = refused.get(&item.series) {
                    w.rejected.push(Rejected { item: i as u32, why: *why, detail: Some(detail.clone()) });
                }
            }
        }
        Ok(())
    }

    fn write_stripes(&self, batch: &Batch, order: &ByStripe, w: &mut Work) -> Result<()> {
        let times = self.clock.times();
        let mut draft = Draft::default();
        for (k, items) in order.stripes().filter(|(_, i)| !i.is_empty()) {
            self.write_stripe(k, batch, items, times, &mut draft, w)?;
        }
        Ok(())
    }

    fn write_stripe<'a>(&self, k: usize, batch: &'a Batch, items: &[u32], times: Times, draft: &mut Draft<'a>, w: &mut Work) -> Result<()> {
        let mut s = self.stripes[k].lock();
        if !s.pending.is_empty() {
            s.apply(&self.rules, &|seq| self.decided(seq));
        }
        // As `Stripe::warm`: the records first, all together.
        let index_of = |i: &u32| w.slots[batch.items[*i as usize].series as usize] / STRIPES as u32;
        std::hint::black_box(items.iter().fold(0, |x, i| x ^ s.series.get(index_of(i) as usize).map_or(0, |r| r.id)));
        let mut in_flight = InFlight::default();
        for i in items {
            let item = &batch.items[*i as usize];
            let slot = w.slots[item.series as usize];
            let index = slot / STRIPES as u32;
            let m = Moment { times, rules: &self.rules, batch: &draft.pending, in_flight: &mut in_flight };
            if !self.judge(&s, batch, *i, m, w) {
                continue;
            }
            let Some(x) = s.series.get_mut(index as usize) else { continue };
            if !x.logged {
                draft.labels.clear();
                self.registry.read().pack(slot, &mut draft.labels);
                draft.record.series_packed(x.id, &draft.labels);
                draft.pending.logged.push(index);
                x.logged = true;
            }
            x.pending = x.pending.saturating_add(1);
            draft.put(item, x.id, index, &self.rules, items.len());
        }
        if draft.pending.is_empty() {
            return Ok(());
        }
        let mut pending = draft.finish();
        let queued = self.wal.append(&draft.record.out);
        draft.record.clear();
        match queued {
            // The ticket of the whole batch is taken at its end.
            Ok(ticket) => {
                pending.seq = ticket.seq();
                w.hangs_on(pending.seq);
                s.pending.push_back(pending);
            }
            Err(e) => {
                s.forget(&pending);
                drop(s);
                self.roll_back();
                return Err(wal_error(e));
            }
        }
        w.stripes |= 1 << k;
        Ok(())
    }

    /// Whether item `i` is to be stored, counting what is in flight and what of its batch is `pending`; what becomes of the
    /// others is noted.
    #[inline]
    fn judge(&self, s: &Stripe, batch: &Batch, i: u32, mut m: Moment<'_>, w: &mut Work) -> bool {
        let item = &batch.items[i as usize];
        let index = w.slots[item.series as usize] / STRIPES as u32;
        let Some(x) = s.series.get(index as usize) else { return false };
        if matches!(batch.series[item.series as usize], SeriesKey::Handle(h) if h.id != x.id) {
            w.rejected.push(Rejected { item: i, why: Refusal::StaleHandle, detail: None });
            return false;
        }
        if x.id == 0 {
            w.again.push(i);
            return false;
        }
        let contradiction = contradiction(&item.value);
        let verdict = match contradiction {
            Some(_) => Verdict::Refuse(Refusal::InvalidHistogram),
            None => s.admit(x, index, item.t, &item.value, &mut m),
        };
        // What is judged by samples in flight holds only if they come to be. This batch's own are waited for anyway.
        if verdict != Verdict::Store
            && let Some(in_flight) = s.pending.front().filter(|_| x.pending > 0)
        {
            w.hangs_on(in_flight.seq);
            w.stripes |= 1 << (w.slots[item.series as usize] as usize % STRIPES);
        }
        match verdict {
            Verdict::Store | Verdict::Known => w.accepted += 1,
            Verdict::Refuse(why) => {
                let detail = contradiction.map(|e| format!("{}: {e}", why.message()).into());
                w.rejected.push(Rejected { item: i, why, detail });
            }
        }
        verdict == Verdict::Store
    }

    fn write_extras(&self, batch: &Batch, w: &mut Work) -> Result<()> {
        let unlogged = self.extras_unlogged.swap(false, Ordering::AcqRel);
        if !unlogged && batch.exemplars.is_empty() && batch.metadata.is_empty() {
            return Ok(());
        }
        // Held until the record is in the queue: whoever finds one of these known then hangs on it.
        let mut last_seq = self.extras_seq.lock();
        if self.wal.outcome(*last_seq).is_none() {
            w.hangs_on(*last_seq);
        }
        let mut record = RecordWriter::default();
        if unlogged {
            self.put_extras(&mut record);
        }
        for (series, e) in &batch.exemplars {
            let slot = w.slots.get(*series as usize).copied().unwrap_or(NONE);
            if slot == NONE {
                continue;
            }
            let (stripe, index) = Self::stripe_of(slot);
            let labels = self.registry.read().labels(slot);
            let id = self.stripes[stripe].lock().series.get(index as usize).map_or(0, |s| s.id);
            w.exemplars += 1;
            if id != 0 && self.exemplars.lock().push(id, &labels, e.clone()) {
                record.series(id, &labels);
                record.exemplar(id, e);
            }
        }
        for (family, m) in &batch.metadata {
            let mut store = self.metadata.lock();
            if store.is_new(family, m) {
                store.insert(family, m.clone());
                record.metadata(family, m);
            }
        }
        if !record.is_empty() {
            let queued = self.wal.append(&record.out).map_err(|e| {
                self.extras_unlogged.store(true, Ordering::Release);
                self.roll_back();
                wal_error(e)
            })?;
            *last_seq = queued.seq();
            w.hangs_on(queued.seq());
        }
        Ok(())
    }

    fn settle(&self, stripes: u16, outcome: std::result::Result<(), strandline_wal::WalError>) -> Result<()> {
        // Of a batch that failed too: a part may be durable, and known to others.
        for k in (0..STRIPES).filter(|k| stripes & (1 << k) != 0) {
            let mut s = self.stripes[k].lock();
            s.apply(&self.rules, &|seq| self.decided(seq));
        }
        outcome.map_err(|e| {
            self.roll_back();
            wal_error(e)
        })
    }
}

/// The record of a batch for one stripe while it is put together, and what waits for its commit. Used stripe after stripe.
#[derive(Default)]
struct Draft<'a> {
    record: RecordWriter,
    floats: Vec<FloatRecord>,
    deltas: Vec<FloatRecord>,
    histograms: Vec<(u64, i64, i64, &'a AnyHistogram)>,
    delta_histograms: Vec<(u64, i64, &'a Histogram)>,
    pending: PendingBatch,
    labels: Vec<u8>,
}

impl<'a> Draft<'a> {
    /// Adds an admitted item of the series `id` at `index`, one of `most`.
    #[inline]
    fn put(&mut self, item: &'a Item, id: u64, index: u32, rules: &HeadRules, most: usize) {
        let t = item.t;
        let st = if rules.start_timestamps { item.st } else { 0 };
        match &item.value {
            Value::Float(v) => {
                self.floats.push(FloatRecord { id, t, st, v: *v });
                if !rules.xor2 {
                    return self.pending.push_float(PendingFloat { t, v: *v, index }, most);
                }
            }
            Value::Delta(v) => self.deltas.push(FloatRecord { id, t, st: item.st, v: *v }),
            Value::Histogram(h) => self.histograms.push((id, t, st, h)),
            Value::DeltaHistogram(h) => self.delta_histograms.push((id, t, h)),
        }
        self.pending.push(PendingItem { index, t, st, value: item.value.clone() });
    }

    /// Completes the record.
    fn finish(&mut self) -> PendingBatch {
        self.record.floats(&self.floats);
        self.record.deltas(&self.deltas);
        self.histograms.drain(..).for_each(|(id, t, st, h)| self.record.histogram(id, t, st, h));
        self.delta_histograms.drain(..).for_each(|(id, t, h)| self.record.delta_histogram(id, t, h));
        self.floats.clear();
        self.deltas.clear();
        std::mem::take(&mut self.pending)
    }
}

/// How a histogram contradicts itself, if it does.
fn contradiction(v: &Value) -> Option<HistogramError> {
    match v {
        Value::DeltaHistogram(h) | Value::Histogram(AnyHistogram::Int(h)) => h.validate().err(),
        Value::Histogram(AnyHistogram::Float(h)) => h.validate().err(),
        _ => None,
    }
}

/// Item indices by stripe, order kept.
struct ByStripe {
    items: Vec<u32>,
    ends: [usize; STRIPES],
}

impl ByStripe {
    /// Items with their slots; those without one are left out.
    fn of(slots: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let known = slots.filter(|(_, slot)| *slot != NONE);
        let mut counts = [0usize; STRIPES];
        known.clone().for_each(|(_, slot)| counts[slot as usize % STRIPES] += 1);
        let mut at = [0usize; STRIPES];
        for k in 1..STRIPES {
            at[k] = at[k - 1] + counts[k - 1];
        }
        let mut items = vec![0; counts.iter().sum()];
        for (i, slot) in known {
            let next = &mut at[slot as usize % STRIPES];
            items[*next] = i;
            *next += 1;
        }
        ByStripe { items, ends: at }
    }

    fn stripes(&self) -> impl Iterator<Item = (usize, &[u32])> {
        (0..STRIPES).map(|k| (k, &self.items[k.checked_sub(1).map_or(0, |p| self.ends[p])..self.ends[k]]))
    }
}
