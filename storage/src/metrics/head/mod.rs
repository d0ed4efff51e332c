//! The head: series in memory, from the moment a sample is durable until a flush has put it into a block.
//!
//! Lock order: creation, then one stripe (or all, in order), then the registry. The WAL's queue is taken under a
//! stripe's lock, so that the order of records of a series is the order in which they were admitted.

mod append;
mod batch;
mod create;
mod crew;
mod extras;
mod flush;
mod order;
mod pending;
mod pin;
mod replay;
mod series;
mod spill;
mod stripe;
mod view;

use std::path::Path;
use std::sync::Arc;

use strandline_wal::Wal;
use strandline_wal::fs::Fs;
use strandline_wal::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use strandline_wal::sync::{Mutex, RwLock};

use crate::clock::Clock;
use crate::error::Result;
use crate::index::{IndexMemory, Registry};
use crate::model::TimeRange;

pub(crate) use crate::error::wal_error;
pub use append::{Appended, Commit};
pub use batch::{Batch, BatchBuilder, Item, Rejected, SeriesHandle, SeriesKey};
pub use extras::{ExemplarStore, MetadataStore};
pub use flush::{Cut, FrozenSeries};
pub use pin::{Pin, Pins};
pub use replay::Replay;
pub use series::{Finished, Value, encode_run};
pub use stripe::{HeadRules, Refusal};
pub use view::HeadSelection;

pub use crate::metrics::record::AnyHistogram;
use order::Order;
use spill::Spill;
use stripe::Stripe;

/// Series are shared out over this many locks. A matter of memory only: nothing on disk depends on it.
pub(crate) const STRIPES: usize = 16;

/// Limits of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Series in memory at once; more are refused, those there go on.
    pub max_series: usize,
    /// Labels of a series.
    pub max_labels: usize,
    /// Bytes of a label name.
    pub max_label_name_bytes: usize,
    /// Bytes of a label value.
    pub max_label_value_bytes: usize,
    /// Exemplars kept.
    pub max_exemplars: usize,
    /// Metric families with metadata.
    pub max_metadata: usize,
    /// Series with accumulated deltas.
    pub max_delta_series: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            max_series: 10_000_000,
            max_labels: 128,
            max_label_name_bytes: 1024,
            max_label_value_bytes: 16_384,
            max_exemplars: 20_000,
            max_metadata: 50_000,
            max_delta_series: 1_000_000,
        }
    }
}

#[derive(Debug, Default)]
struct Slots {
    next: u32,
    free: Vec<u32>,
    /// Removed series, safe to reuse once the pins have passed the number.
    limbo: Vec<(u64, Vec<u32>)>,
}

/// The head of one tenant.
pub struct Head {
    wal: Wal,
    clock: Arc<dyn Clock>,
    rules: HeadRules,
    limits: HeadLimits,
    /// New series are refused for what others hold.
    full: AtomicBool,
    creation: Mutex<Slots>,
    next_id: AtomicU64,
    registry: RwLock<Registry>,
    stripes: Vec<Mutex<Stripe>>,
    spill: Spill,
    pins: Pins,
    rolling_back: Mutex<()>,
    order: Mutex<Order>,
    exemplars: Mutex<ExemplarStore>,
    /// A commit failed, and with it perhaps exemplars and metadata that are kept all the same: the next batch logs them all.
    extras_unlogged: AtomicBool,
    /// The last record of exemplars and metadata; 0 before the first. Taken before all other locks.
    extras_seq: Mutex<u64>,
    metadata: Mutex<MetadataStore>,
    /// The epoch of the last cut whose blocks are published.
    flushed: AtomicU8,
    /// Flushed chunks may be dropped once the pins have passed the number.
    droppable: Mutex<Vec<(u64, u8)>>,
    /// What was cut and is not dropped yet, by epoch; the stripes' hulls hold only what came since.
    cuts: Mutex<Vec<(u8, TimeRange)>>,
}

/// Heap bytes of the head by part; chunk bytes apart from what keeps them.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct HeadMemory {
    pub index: IndexMemory,
    pub series_bytes: usize,
    pub open_chunk_bytes: usize,
    pub open_chunk_content_bytes: usize,
    pub sealed_heap_bytes: usize,
    pub sealed_refs_bytes: usize,
    pub spilled_bytes: u64,
    pub wal_buffer_bytes: usize,
}

impl HeadMemory {
    /// All heap bytes.
    pub fn heap_bytes(&self) -> usize {
        self.overhead_bytes() + self.open_chunk_bytes + self.sealed_heap_bytes
    }
    /// Heap bytes besides chunks.
    pub fn overhead_bytes(&self) -> usize {
        let i = &self.index;
        i.symbols_bytes
            + i.pairs_bytes
            + i.postings_bytes
            + i.labels_bytes
            + i.table_bytes
            + self.series_bytes
            + self.sealed_refs_bytes
            + self.wal_buffer_bytes
    }
}

/// Counts of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HeadStats {
    pub series: usize,
    pub chunks: u64,
    pub samples: u64,
    /// `i64::MAX` if empty.
    pub min_t: i64,
    /// `i64::MIN` if empty.
    pub max_t: i64,
}

/// What a head needs from around it.
pub struct HeadParts {
    /// Files.
    pub fs: Arc<dyn Fs>,
    /// The log, opened with `hold_after_failure`.
    pub wal: Wal,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Rules of admission.
    pub rules: HeadRules,
    /// Limits.
    pub limits: HeadLimits,
}

impl Head {
    /// A head over an open log; `replayed` is what replay has built.
    pub fn new(parts: HeadParts, spill_dir: &Path, mut replayed: Replay) -> Result<Arc<Self>> {
        replayed.finish()?;
        let spill = Spill::open(parts.fs, spill_dir)?;
        let Replay { registry, mut stripes, slots, next_id, exemplars, metadata, .. } = replayed;
        stripes.iter_mut().for_each(|s| s.max_sums = parts.limits.max_delta_series.div_ceil(STRIPES));
        Ok(Arc::new(Head {
            wal: parts.wal,
            clock: parts.clock,
            rules: parts.rules,
            limits: parts.limits,
            full: AtomicBool::new(false),
            creation: Mutex::new(slots),
            next_id: AtomicU64::new(next_id),
            registry: RwLock::new(registry),
            stripes: stripes.into_iter().map(Mutex::new).collect(),
            spill,
            pins: Pins::default(),
            rolling_back: Mutex::new(()),
            order: Mutex::default(),
            cuts: Mutex::default(),
            exemplars: Mutex::new(exemplars),
            extras_unlogged: AtomicBool::new(false),
            extras_seq: Mutex::new(0),
            metadata: Mutex::new(metadata),
            flushed: AtomicU8::new(0),
            droppable: Mutex::new(Vec::new()),
        }))
    }

    /// The log.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The rules of admission.
    pub fn rules(&self) -> &HeadRules {
        &self.rules
    }

    /// Says whether new series are refused though [`HeadLimits::max_series`] is not reached: memory may be short.
    pub fn refuse_new_series(&self, refuse: bool) {
        self.full.store(refuse, Ordering::Relaxed);
    }

    /// Whether new series are refused.
    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed) || self.registry.read().len() >= self.limits.max_series
    }

    /// A pin on what readers see now.
    pub fn pin(&self) -> Pin {
        self.pins.pin()
    }

    fn stripe_of(slot: u32) -> (usize, u32) {
        (slot as usize % STRIPES, slot / STRIPES as u32)
    }

    /// Counts over all stripes.
    pub fn stats(&self) -> HeadStats {
        let mut s = HeadStats { series: self.registry.read().len(), min_t: i64::MAX, max_t: i64::MIN, ..HeadStats::default() };
        for stripe in &self.stripes {
            let st = stripe.lock();
            s.chunks += st.chunks;
            s.samples += st.samples;
            s.min_t = s.min_t.min(st.min_t);
            s.max_t = s.max_t.max(st.max_t);
        }
        s
    }

    /// Heap bytes by part; walks all series.
    pub fn memory(&self) -> HeadMemory {
        let mut m = HeadMemory { index: self.registry.read().memory(), spilled_bytes: self.spill.bytes(), ..HeadMemory::default() };
        m.wal_buffer_bytes = self.wal.memory_bytes();
        for stripe in &self.stripes {
            let st = stripe.lock();
            m.series_bytes += st.series.size_bytes();
            m.sealed_heap_bytes += st.heap.bytes();
            m.sealed_refs_bytes += st.heap.overhead_bytes();
            for s in st.series.iter() {
                if let series::OpenChunk::Xor(a) = &s.open {
                    m.open_chunk_bytes += a.capacity_bytes();
                }
                m.open_chunk_content_bytes += s.open_bytes();
                if let Some(e) = &s.extra {
                    m.sealed_refs_bytes += size_of::<series::Extra>() + e.sealed.capacity() * 24;
                }
            }
        }
        m
    }

    /// Heap bytes of finished chunks that were not moved to files yet: cheap.
    pub fn sealed_heap_bytes(&self) -> usize {
        self.stripes.iter().map(|s| s.lock().heap.bytes()).sum()
    }

    /// Moves finished chunks to files, stripe by stripe, where at least `min_bytes` are on the heap.
    pub fn spill(&self, min_bytes: usize) -> Result<()> {
        for s in &self.stripes {
            s.lock().spill(&self.spill, min_bytes)?;
        }
        Ok(())
    }

    /// Applies all that is durable and not applied yet.
    pub fn apply_decided(&self) {
        for s in &self.stripes {
            let mut s = s.lock();
            if !s.pending.is_empty() {
                s.apply(&self.rules, &|seq| self.decided(seq));
            }
        }
    }

    fn decided(&self, seq: u64) -> Option<bool> {
        self.wal.outcome(seq).map(|r| r.is_ok())
    }

    /// After a failed commit: forget what was queued, as if it had never come, and let appends go on.
    fn roll_back(&self) {
        let _one_at_a_time = self.rolling_back.lock();
        if self.wal.on_hold().is_none() {
            return;
        }
        let mut all: Vec<_> = self.stripes.iter().map(|s| s.lock()).collect();
        for s in &mut all {
            s.apply(&self.rules, &|seq| self.decided(seq));
            s.roll_back();
        }
        self.extras_unlogged.store(true, Ordering::Release);
        self.wal.resume();
    }

    /// Whether the epoch's blocks are published: then readers find the samples there.
    fn is_flushed(&self, epoch: u8, flushed: u8) -> bool {
        epoch != 0 && flushed != 0 && (flushed as i32 - epoch as i32).rem_euclid(255) < 128
    }

    /// The registry, for status pages and listings.
    pub fn with_registry<R>(&self, f: impl FnOnce(&Registry) -> R) -> R {
        f(&self.registry.read())
    }

    /// Exemplars.
    pub fn exemplars(&self) -> &Mutex<ExemplarStore> {
        &self.exemplars
    }

    /// Metadata.
    pub fn metadata(&self) -> &Mutex<MetadataStore> {
        &self.metadata
    }
}
