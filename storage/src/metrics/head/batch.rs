//! What a caller hands to the head: series by their label bytes or by handle, and items of them.

use super::series::Value;
use super::stripe::Refusal;
use crate::model::{Exemplar, Labels, MetricMetadata};

/// A series that was resolved before. Cheap to copy; if the series was dropped since, the append says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesHandle {
    pub(crate) slot: u32,
    pub(crate) id: u64,
}

/// How a batch names a series.
#[derive(Clone, Copy, Debug)]
pub enum SeriesKey {
    /// Label bytes in [`Batch::raw`], as remote write encodes them; any order, looked up fastest when sorted.
    Raw {
        /// First byte.
        start: u32,
        /// Number of bytes.
        len: u32,
    },
    /// Resolved before.
    Handle(SeriesHandle),
}

/// One sample. Items of a series lie together, oldest first.
#[derive(Clone, Debug)]
pub struct Item {
    /// Index in [`Batch::series`].
    pub series: u32,
    /// Unix milliseconds.
    pub t: i64,
    /// Start timestamp, 0 if unknown.
    pub st: i64,
    /// The value.
    pub value: Value,
}

/// Samples, exemplars and metadata to append together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Label bytes that [`SeriesKey::Raw`] points into.
    pub raw: bytes::Bytes,
    /// Series by name or handle.
    pub series: Vec<SeriesKey>,
    /// Samples in the order of `series`.
    pub items: Vec<Item>,
    /// Exemplars by index of their series.
    pub exemplars: Vec<(u32, Exemplar)>,
    /// Metadata by metric family.
    pub metadata: Vec<(String, MetricMetadata)>,
    /// Refuse series without a metric name.
    pub require_name: bool,
}

impl Batch {
    /// The label bytes of a key that has them.
    pub(super) fn raw_of(&self, key: &SeriesKey) -> &[u8] {
        match *key {
            SeriesKey::Raw { start, len } => self.raw.get(start as usize..start as usize + len as usize).unwrap_or(&[]),
            SeriesKey::Handle(_) => &[],
        }
    }
}

/// Collects label bytes and items for a [`Batch`].
#[derive(Debug, Default)]
pub struct BatchBuilder {
    raw: Vec<u8>,
    scratch: Vec<u8>,
    batch: Batch,
}

impl BatchBuilder {
    /// Adds a series by its labels; gives its index in the batch.
    pub fn series(&mut self, labels: &Labels) -> u32 {
        self.series_from(labels.iter())
    }

    /// Adds a series by pairs sorted by name.
    pub fn series_from<'a>(&mut self, sorted: impl Iterator<Item = (&'a str, &'a str)>) -> u32 {
        crate::index::canonical(sorted, &mut self.scratch);
        let start = self.raw.len() as u32;
        self.raw.extend_from_slice(&self.scratch);
        self.batch.series.push(SeriesKey::Raw { start, len: self.scratch.len() as u32 });
        (self.batch.series.len() - 1) as u32
    }

    /// Adds a series by label bytes that `write` appends, as [`crate::index::put_canonical`] makes them, sorted by name.
    pub fn series_written(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        let start = self.raw.len();
        write(&mut self.raw);
        self.batch.series.push(SeriesKey::Raw { start: start as u32, len: (self.raw.len() - start) as u32 });
        (self.batch.series.len() - 1) as u32
    }

    /// Makes room for series of so many label bytes in all.
    pub fn reserve(&mut self, series: usize, raw_bytes: usize) {
        self.raw.reserve(raw_bytes);
        self.batch.series.reserve(series);
        self.batch.items.reserve(series);
    }

    /// Adds a series by its handle.
    #[inline]
    pub fn handle(&mut self, h: SeriesHandle) -> u32 {
        self.batch.series.push(SeriesKey::Handle(h));
        (self.batch.series.len() - 1) as u32
    }

    /// Adds a sample to a series of this batch; series must be filled one after another.
    #[inline]
    pub fn push(&mut self, series: u32, t: i64, st: i64, value: Value) {
        self.batch.items.push(Item { series, t, st, value });
    }

    /// Adds an exemplar.
    pub fn exemplar(&mut self, series: u32, e: Exemplar) {
        self.batch.exemplars.push((series, e));
    }

    /// Adds metadata of a metric family.
    pub fn metadata(&mut self, family: String, m: MetricMetadata) {
        self.batch.metadata.push((family, m));
    }

    /// Label bytes so far.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Samples so far.
    pub fn len(&self) -> usize {
        self.batch.items.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.batch.items.is_empty()
    }

    /// The batch.
    pub fn finish(mut self) -> Batch {
        self.batch.raw = self.raw.into();
        self.batch
    }
}

/// An item that was not taken.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Index in [`Batch::items`].
    pub item: u32,
    /// Why.
    pub why: Refusal,
    /// More about it, where the reason alone does not tell.
    pub detail: Option<Box<str>>,
}
