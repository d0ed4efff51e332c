//! THE write path: resolve and validate, log, apply, publish, acknowledge; nothing else writes.
//!
//! Accept or refuse is decided under the stripe's lock, in the order of the log, counting batches still in flight.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll};
use strandline_wal::sync::atomic::Ordering;

use strandline_wal::Ticket;

use super::batch::{Batch, Rejected, SeriesHandle, SeriesKey};
use super::pin::Pin;
use super::series::{Series, Value};
use super::stripe::{PendingBatch, PendingFloat, PendingItem, Refusal, Verdict};
use super::{Head, STRIPES, Slots, wal_error};
use crate::clock::Times;
use crate::error::{Error, ErrorKind, Result};
use crate::index::{NO_SLOT, RawLabels, RawPair, canonical};
use crate::metrics::record::{AnyHistogram, FloatRecord, RecordWriter};
use crate::model::{HistogramError, Labels, METRIC_NAME};

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
    /// The outcome hangs on records in the log's queue that are not this batch's samples.
    in_flight: bool,
    /// Items whose series was dropped between finding it and locking it.
    again: Vec<u32>,
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
        let ticket = (w.stripes != 0 || w.in_flight).then(|| self.wal.ticket());
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
        let slot = self.find_or_create(&mut self.creation.lock(), &batch.raw, false).map_err(|(why, detail)| {
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
            for i in some {
                match self.find_or_create(&mut slots, batch.raw_of(&batch.series[*i]), batch.require_name) {
                    Ok(slot) => w.slots[*i] = slot,
                    Err((why, detail)) => {
                        refused.insert(*i as u32, (why, detail.into()));
                    }
                }
            }
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

    fn find_or_create(&self, slots: &mut Slots, raw: &[u8], require_name: bool) -> std::result::Result<u32, (Refusal, String)> {
        let labels = self.check_labels(raw, require_name).map_err(|e| (Refusal::InvalidLabels, e))?;
        let mut sorted = Vec::with_capacity(raw.len());
        canonical(labels.iter().copied(), &mut sorted);
        let hash = {
            let registry = self.registry.read();
            let hash = registry.hasher().hash(&sorted);
            if let Some(slot) = registry.find(hash, &sorted) {
                return Ok(slot);
            }
            let full = self.full.load(Ordering::Relaxed);
            if full || registry.len() >= self.limits.max_series {
                let pairs = labels.iter().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v)));
                let labels = Labels::from_pairs(pairs);
                let text = match full {
                    true => format!("there is no memory left for more series; {labels} is new"),
                    false => format!("the limit of {} active series is reached; {labels} is new", self.limits.max_series),
                };
                return Err((Refusal::SeriesLimit, text));
            }
            hash
        };
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        });
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (stripe, index) = Self::stripe_of(slot);
        {
            let mut s = self.stripes[stripe].lock();
            while s.series.len() <= index as usize {
                s.series.push(Series::default());
            }
            if let Some(x) = s.series.get_mut(index as usize) {
                *x = Series::new(id);
            }
        }
        let mut registry = self.registry.write();
        registry.insert(slot, hash, &sorted);
        registry.settle();
        Ok(slot)
    }

    /// The pairs sorted by name, without empty values; all UTF-8.
    fn check_labels<'a>(&self, raw: &'a [u8], require_name: bool) -> std::result::Result<Vec<RawPair<'a>>, String> {
        let l = &self.limits;
        let ascii = raw.is_ascii();
        let mut pairs: Vec<RawPair<'a>> = Vec::with_capacity(16);
        for p in RawLabels(raw) {
            let Some((n, v)) = p else { return Err("the labels are not decodable".into()) };
            if !ascii && (std::str::from_utf8(n).is_err() || std::str::from_utf8(v).is_err()) {
                return Err("a label is not UTF-8".into());
            }
            if n.is_empty() {
                return Err("a label has no name".into());
            }
            if n.len() > l.max_label_name_bytes {
                return Err(format!("label name of {} bytes is longer than {}", n.len(), l.max_label_name_bytes));
            }
            if v.len() > l.max_label_value_bytes {
                let n = String::from_utf8_lossy(n);
                return Err(format!("value of label {n} has {} bytes, more than {}", v.len(), l.max_label_value_bytes));
            }
            if !v.is_empty() {
                pairs.push((n, v));
            }
        }
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            pairs.sort_by_key(|p| p.0);
        }
        if let Some(d) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(format!("label {} stands twice", String::from_utf8_lossy(d[0].0)));
        }
        if pairs.len() > l.max_labels {
            return Err(format!("{} labels are more than {}", pairs.len(), l.max_labels));
        }
        if pairs.is_empty() {
            return Err("the series has no labels".into());
        }
        let named = pairs.binary_search_by_key(&METRIC_NAME.as_bytes(), |p| p.0).is_ok();
        if require_name && !named {
            return Err("the series has no metric name".into());
        }
        Ok(pairs)
    }

    fn write_stripes(&self, batch: &Batch, order: &ByStripe, w: &mut Work) -> Result<()> {
        let times = self.clock.times();
        let mut record = RecordWriter::default();
        let mut floats = Vec::new();
        for (k, items) in order.stripes().filter(|(_, i)| !i.is_empty()) {
            record.clear();
            self.write_stripe(k, batch, items, times, &mut record, &mut floats, w)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn write_stripe(
        &self,
        k: usize,
        batch: &Batch,
        items: &[u32],
        times: Times,
        record: &mut RecordWriter,
        floats: &mut Vec<FloatRecord>,
        w: &mut Work,
    ) -> Result<()> {
        let mut deltas: Vec<FloatRecord> = Vec::new();
        let (mut histograms, mut delta_histograms) = (Vec::new(), Vec::new());
        let mut pending = PendingBatch::default();
        let mut labels = Vec::new();
        floats.clear();
        let mut s = self.stripes[k].lock();
        if !s.pending.is_empty() {
            s.apply(&self.rules, &|seq| self.decided(seq));
        }
        // As `Stripe::warm`: the records first, all together.
        let index_of = |i: &u32| w.slots[batch.items[*i as usize].series as usize] / STRIPES as u32;
        std::hint::black_box(items.iter().fold(0, |x, i| x ^ s.series.get(index_of(i) as usize).map_or(0, |r| r.id)));
        for i in items {
            let item = &batch.items[*i as usize];
            let slot = w.slots[item.series as usize];
            let index = slot / STRIPES as u32;
            let Some(x) = s.series.get(index as usize) else { continue };
            let (id, was_logged) = (x.id, x.logged);
            let stale_handle = matches!(batch.series[item.series as usize], SeriesKey::Handle(h) if h.id != id);
            if stale_handle {
                let detail = Some("the handle's series was dropped; resolve it again".into());
                w.rejected.push(Rejected { item: *i, why: Refusal::InvalidLabels, detail });
                continue;
            }
            if id == 0 {
                w.again.push(*i);
                continue;
            }
            let contradiction = contradiction(&item.value);
            let verdict = match contradiction {
                Some(_) => Verdict::Refuse(Refusal::InvalidHistogram),
                None => s.admit(x, index, item.t, &item.value, times, &self.rules, &pending),
            };
            match verdict {
                Verdict::Known => {
                    // This batch's own samples are waited for anyway.
                    w.in_flight |= x.pending > 0;
                    w.accepted += 1;
                    continue;
                }
                Verdict::Refuse(why) => {
                    let detail = contradiction.map(|e| format!("{}: {e}", why.message()).into());
                    w.rejected.push(Rejected { item: *i, why, detail });
                    continue;
                }
                Verdict::Store => w.accepted += 1,
            }
            if !was_logged {
                labels.clear();
                self.registry.read().pack(slot, &mut labels);
                record.series_packed(id, &labels);
                pending.logged.push(index);
            }
            if let Some(x) = s.series.get_mut(index as usize) {
                x.logged = true;
                x.pending = x.pending.saturating_add(1);
            }
            let st = if self.rules.start_timestamps { item.st } else { 0 };
            match &item.value {
                Value::Float(v) => floats.push(FloatRecord { id, t: item.t, st, v: *v }),
                Value::Delta(v) => deltas.push(FloatRecord { id, t: item.t, st: item.st, v: *v }),
                Value::Histogram(h) => histograms.push((id, item.t, st, h)),
                Value::DeltaHistogram(h) => delta_histograms.push((id, item.t, h)),
            }
            match item.value {
                Value::Float(v) if !self.rules.xor2 => {
                    if pending.floats.capacity() == 0 {
                        pending.floats.reserve_exact(items.len());
                    }
                    pending.floats.push(PendingFloat { t: item.t, v, index });
                }
                _ => pending.rest.push(PendingItem { index, t: item.t, st, value: item.value.clone() }),
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        record.floats(floats);
        record.deltas(&deltas);
        for (id, t, st, h) in histograms {
            record.histogram(id, t, st, h);
        }
        for (id, t, h) in delta_histograms {
            record.delta_histogram(id, t, h);
        }
        match self.wal.append(&record.out) {
            // The ticket of the whole batch is taken at its end; a sequence covers all before it.
            Ok(ticket) => {
                pending.seq = ticket.seq();
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

    fn write_extras(&self, batch: &Batch, w: &mut Work) -> Result<()> {
        if batch.exemplars.is_empty() && batch.metadata.is_empty() {
            return Ok(());
        }
        let mut record = RecordWriter::default();
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
            let _covered_by_the_batch_ticket = self.wal.append(&record.out).map_err(wal_error)?;
            w.in_flight = true;
        }
        Ok(())
    }

    fn settle(&self, stripes: u16, outcome: std::result::Result<(), strandline_wal::WalError>) -> Result<()> {
        if let Err(e) = outcome {
            self.roll_back();
            return Err(wal_error(e));
        }
        for k in (0..STRIPES).filter(|k| stripes & (1 << k) != 0) {
            let mut s = self.stripes[k].lock();
            s.apply(&self.rules, &|seq| self.decided(seq));
        }
        Ok(())
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
