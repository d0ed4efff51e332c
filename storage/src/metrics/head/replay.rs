//! Rebuilding the head from the log. Records hold only what was admitted, in order, so replay puts every sample
//! through the same door as the live path and decides the same.

use hashbrown::HashMap;

use super::crew::{Crew, Op, RareOp};
use super::extras::{ExemplarStore, MetadataStore};
use super::series::{DeltaState, Value};
use super::stripe::{HeadRules, Stripe, WARM};
use super::{HeadLimits, STRIPES, Slots};
use crate::error::Result;
use crate::index::{RawPair, Registry, put_canonical};
use crate::metrics::record::{self, Entry, FloatRecord};

/// Slots by series id. Ids rise from a first one and most lie near it: those are looked up without hashing.
#[derive(Default)]
struct SlotsById {
    base: Option<u64>,
    near: Vec<u32>,
    far: HashMap<u64, u32, foldhash::fast::RandomState>,
}

/// So many ids behind the first are kept densely.
const NEAR: u64 = 4 << 20;

impl SlotsById {
    #[inline]
    fn offset(&self, id: u64) -> Option<usize> {
        id.checked_sub(self.base?).filter(|d| *d < NEAR).map(|d| d as usize)
    }
    #[inline]
    fn get(&self, id: u64) -> Option<u32> {
        match self.offset(id) {
            Some(d) => self.near.get(d).copied().filter(|s| *s != u32::MAX),
            None => self.far.get(&id).copied(),
        }
    }
    fn insert(&mut self, id: u64, slot: u32) {
        self.base.get_or_insert(id);
        match self.offset(id) {
            Some(d) => {
                if self.near.len() <= d {
                    self.near.resize(d + 1, u32::MAX);
                }
                self.near[d] = slot;
            }
            None => {
                self.far.insert(id, slot);
            }
        }
    }
}

/// Smaller logs are not worth the threads.
const CREW_FROM: u64 = 200_000;

/// A series of which the log tells.
struct Defined {
    id: u64,
    hash: u32,
    /// Where its canonical bytes end.
    end: usize,
}

/// A head under reconstruction.
pub struct Replay {
    pub(super) registry: Registry,
    pub(super) stripes: Vec<Stripe>,
    pub(super) slots: Slots,
    pub(super) next_id: u64,
    pub(super) exemplars: ExemplarStore,
    pub(super) metadata: MetadataStore,
    rules: HeadRules,
    by_id: SlotsById,
    scratch: Vec<FloatRecord>,
    /// Series that stand one after another in a record, and their canonical bytes.
    defined: Vec<Defined>,
    raw: Vec<u8>,
    /// Threads that apply, once there is enough to do.
    crew: Option<Crew>,
    /// Samples seen.
    pub samples: u64,
    /// Samples of series whose definition was damaged away.
    pub orphans: u64,
}

impl Replay {
    /// An empty head.
    pub fn new(rules: HeadRules, limits: &HeadLimits) -> Self {
        Replay {
            registry: Registry::default(),
            stripes: (0..STRIPES).map(|_| Stripe::new()).collect(),
            slots: Slots::default(),
            next_id: 1,
            exemplars: ExemplarStore::new(limits.max_exemplars),
            metadata: MetadataStore::new(limits.max_metadata),
            rules,
            by_id: SlotsById::default(),
            scratch: Vec::new(),
            defined: Vec::new(),
            raw: Vec::new(),
            crew: None,
            samples: 0,
            orphans: 0,
        }
    }

    /// Ids must rise over the life of the store, also across truncated logs.
    pub fn reserve_ids(&mut self, next_id: u64) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Takes one record of the log.
    pub fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let done = record::decode(bytes, &mut scratch, &mut |e| self.entry(e));
        self.scratch = scratch;
        self.register();
        done
    }

    fn entry(&mut self, e: Entry<'_>) {
        if let Entry::Series { id, labels } = e {
            return self.define(id, labels);
        }
        self.register();
        match e {
            Entry::Series { .. } => {}
            Entry::Floats(items) => self.floats(items),
            Entry::Deltas(items) => {
                for i in items {
                    self.sample(i.id, i.t, i.st, Value::Delta(i.v));
                }
            }
            Entry::Histogram { id, t, st, h } => self.sample(id, t, st, Value::Histogram(h)),
            Entry::Exemplar { id, exemplar } => {
                if let Some(slot) = self.by_id.get(id) {
                    self.exemplars.push(id, &self.registry.labels(slot), exemplar);
                }
            }
            Entry::Metadata { family, metadata } => self.metadata.insert(&family, metadata),
            Entry::DeltaHistogram { id, t, h } => self.sample(id, t, 0, Value::DeltaHistogram(h)),
            Entry::DeltaHistogramState { id, last_t, h } => {
                if let Some(slot) = self.by_id.get(id) {
                    self.put(Op::Rare(Box::new(RareOp::DeltaHistogram { slot, state: Box::new((last_t, h)) })));
                }
            }
            Entry::DeltaState { id, last_t, sum } => {
                if let Some(slot) = self.by_id.get(id) {
                    self.put(Op::Rare(Box::new(RareOp::Delta { slot, state: DeltaState { last_t, sum } })));
                }
            }
        }
    }

    /// Operations on a series are applied in their order, here or by the thread that has its stripe.
    #[inline]
    fn put(&mut self, op: Op) {
        if self.crew.is_none() && self.samples > CREW_FROM {
            self.crew = Crew::start(&mut self.stripes, self.rules);
        }
        match &mut self.crew {
            Some(c) => c.send(op),
            None => op.apply_to(&mut self.stripes, &self.rules),
        }
    }

    /// Waits until everything is applied.
    pub fn finish(&mut self) -> Result<()> {
        self.registry.settle();
        match self.crew.take() {
            Some(c) => c.join(&mut self.stripes),
            None => Ok(()),
        }
    }

    /// Notes a series for [`Replay::register`].
    fn define(&mut self, id: u64, labels: &[RawPair<'_>]) {
        self.next_id = self.next_id.max(id + 1);
        if self.by_id.get(id).is_some() {
            return;
        }
        let start = self.raw.len();
        labels.iter().for_each(|(n, v)| put_canonical(n, v, &mut self.raw));
        let hash = self.registry.hasher().hash(&self.raw[start..]);
        self.defined.push(Defined { id, hash, end: self.raw.len() });
    }

    /// Puts the series that were defined into the index, in steps over all of them: the reads of one don't wait for those
    /// of another.
    fn register(&mut self) {
        if self.defined.is_empty() {
            return;
        }
        let mut start = 0;
        let defined = std::mem::take(&mut self.defined);
        for some in defined.chunks(WARM) {
            self.registry.warm(some.iter().map(|d| d.hash));
            for d in some {
                let canonical = &self.raw[start..d.end];
                start = d.end;
                if self.by_id.get(d.id).is_some() {
                    continue;
                }
                // A series that was dropped and came again has a new id and the same labels: one series here.
                let slot = match self.registry.find(d.hash, canonical) {
                    Some(slot) => slot,
                    None => {
                        let slot = self.slots.next;
                        self.slots.next += 1;
                        self.registry.insert(slot, d.hash, canonical);
                        slot
                    }
                };
                self.put(Op::Define { slot, id: d.id });
                self.by_id.insert(d.id, slot);
            }
        }
        self.raw.clear();
        self.defined = defined;
        self.defined.clear();
    }

    fn sample(&mut self, id: u64, t: i64, st: i64, v: Value) {
        self.samples += 1;
        match self.by_id.get(id) {
            Some(slot) => self.put(Op::Rare(Box::new(RareOp::Sample { slot, t, st, v }))),
            None => self.orphans += 1,
        }
    }

    fn floats(&mut self, items: &[FloatRecord]) {
        for i in items {
            if i.st != 0 {
                self.sample(i.id, i.t, i.st, Value::Float(i.v));
                continue;
            }
            self.samples += 1;
            match (self.by_id.get(i.id), &mut self.crew) {
                (Some(slot), Some(crew)) => crew.send(Op::Float { slot, t: i.t, v: i.v }),
                (Some(slot), None) => self.put(Op::Float { slot, t: i.t, v: i.v }),
                (None, _) => self.orphans += 1,
            }
        }
    }
}
