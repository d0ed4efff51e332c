//! One series in memory: its open chunk, and where its sealed chunks lie.

use std::sync::Arc;

use super::spill::ChunkHeap;
use crate::chunk::{self, Encoding, FloatHistogramAppender, HistogramAppender, Xor2Appender, XorAppender};
use crate::metrics::record::AnyHistogram;
use crate::model::{CounterReset, Histogram, TimeRange};
use crate::read::SampleBuf;

/// The value of an item to append.
#[derive(Clone, Debug)]
pub enum Value {
    /// A float.
    Float(f64),
    /// An increase over the time since the last point; the head adds it up.
    Delta(f64),
    /// A native histogram.
    Histogram(AnyHistogram),
    /// The observations since the last point; the head adds them up.
    DeltaHistogram(Arc<Histogram>),
}

/// The chunk that takes new samples. Floats of the default encoding lie in the series record itself.
#[derive(Debug)]
pub enum OpenChunk {
    Xor(XorAppender),
    Other(Box<OtherChunk>),
}

#[derive(Debug)]
pub enum OtherChunk {
    Xor2(Xor2Appender),
    Histogram(HistogramAppender),
    FloatHistogram(FloatHistogramAppender),
    /// Sealed away; the last time is still known.
    Empty(i64),
}

impl OtherChunk {
    fn encoding(&self) -> Option<Encoding> {
        match self {
            OtherChunk::Xor2(_) => Some(Encoding::Xor2),
            OtherChunk::Histogram(_) => Some(Encoding::Histogram),
            OtherChunk::FloatHistogram(_) => Some(Encoding::FloatHistogram),
            OtherChunk::Empty(_) => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            OtherChunk::Xor2(a) => a.bytes(),
            OtherChunk::Histogram(a) => a.bytes(),
            OtherChunk::FloatHistogram(a) => a.bytes(),
            OtherChunk::Empty(_) => &[],
        }
    }
}

/// A finished chunk: 24 bytes, its data in the stripe's heap or in a spill file.
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    pub min_t: i64,
    span_ms: u32,
    /// Length (20 bits), encoding (4 bits), cut epoch (8 bits).
    packed: u32,
    /// 0: the stripe's heap; else a spill file.
    pub file: u32,
    /// Index in the heap or offset in the file.
    pub at: u32,
}

/// No chunk is larger; [`OpenChunk`] seals long before.
pub const MAX_CHUNK_BYTES: usize = (1 << 20) - 1;

impl Sealed {
    pub fn new(range: TimeRange, encoding: Encoding, len: usize, file: u32, at: u32) -> Self {
        let span_ms = (range.max_ms - range.min_ms) as u32;
        Sealed { min_t: range.min_ms, span_ms, packed: (len.min(MAX_CHUNK_BYTES) as u32) | (encoding as u32) << 20, file, at }
    }
    pub fn max_t(&self) -> i64 {
        self.min_t + self.span_ms as i64
    }
    pub fn range(&self) -> TimeRange {
        TimeRange::new(self.min_t, self.max_t())
    }
    pub fn len(&self) -> usize {
        (self.packed & 0xf_ffff) as usize
    }
    pub fn encoding(&self) -> Encoding {
        match (self.packed >> 20) & 0xf {
            2 => Encoding::Histogram,
            3 => Encoding::FloatHistogram,
            4 => Encoding::Xor2,
            _ => Encoding::Xor,
        }
    }
    /// 0 until a flush took it.
    pub fn epoch(&self) -> u8 {
        (self.packed >> 24) as u8
    }
    pub fn set_epoch(&mut self, epoch: u8) {
        self.packed = (self.packed & 0xff_ffff) | (epoch as u32) << 24;
    }
}

/// What only some series have, behind one pointer.
#[derive(Debug, Default)]
pub struct Extra {
    pub sealed: Vec<Sealed>,
    /// Late samples, sorted by time, until there are enough for a chunk.
    pub late: Vec<(i64, i64, Value)>,
    pub delta: Option<DeltaState>,
    pub delta_histogram: Option<Box<(i64, Histogram)>>,
}

impl Extra {
    /// When the last increase ended that is in a running sum.
    pub fn delta_last_t(&self) -> Option<i64> {
        let t = self.delta.map(|d| d.last_t).max(self.delta_histogram.as_ref().map(|d| d.0));
        t.filter(|t| *t != i64::MIN)
    }
}

/// The running sum of a series that comes as increases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeltaState {
    pub last_t: i64,
    pub sum: f64,
}

/// The aligned range that a sample lies in.
#[derive(Clone, Copy, Debug)]
pub struct AlignedRange {
    pub start_ms: i64,
    pub width_ms: i64,
}

impl AlignedRange {
    /// The one that holds `t`. Where one begins is `likely_ms`: if it is this one nothing is divided.
    #[inline]
    pub fn of(t: i64, width_ms: i64, likely_ms: i64) -> Self {
        let inside = (t.wrapping_sub(likely_ms) as u64) < width_ms as u64;
        AlignedRange { start_ms: if inside { likely_ms } else { TimeRange::aligned(t, width_ms).min_ms }, width_ms }
    }
}

/// A series record.
#[derive(Debug)]
pub struct Series {
    /// The reference in the WAL; never reused. 0: the slot is empty.
    pub id: u64,
    pub open: OpenChunk,
    pub extra: Option<Box<Extra>>,
    /// Where the open chunk should end, as an offset in its range.
    next_at: u32,
    /// Batches in flight that hold samples of it.
    pub pending: u16,
    /// Its labels stand in the WAL since the last cut.
    pub logged: bool,
}

impl Default for Series {
    fn default() -> Self {
        Series { id: 0, open: OpenChunk::Xor(XorAppender::default()), extra: None, next_at: 0, pending: 0, logged: false }
    }
}

/// With so many samples the end of a chunk is planned.
const PLANNED_AT: u16 = chunk::TARGET_SAMPLES / 4;

/// Late samples become a chunk at this many.
pub const LATE_CHUNK: usize = 32;

/// Those of a running sum, which are looked through for what was counted.
pub const LATE_SUM_CHUNK: usize = 128;

/// A chunk that was just finished.
pub struct Finished {
    /// First and last sample.
    pub range: TimeRange,
    /// How it is encoded.
    pub encoding: Encoding,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Series {
    pub fn new(id: u64) -> Self {
        Series { id, ..Series::default() }
    }

    /// The byte that the next float is written to: to have it in the cache.
    #[inline]
    pub fn open_edge(&self) -> u8 {
        match &self.open {
            OpenChunk::Xor(a) => a.edge(),
            OpenChunk::Other(_) => 0,
        }
    }

    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub fn sealed(&self) -> &[Sealed] {
        self.extra.as_ref().map_or(&[], |e| &e.sealed)
    }

    /// Time of the newest applied sample; `i64::MIN` if there never was one.
    #[inline]
    pub fn last_t(&self) -> i64 {
        match &self.open {
            OpenChunk::Xor(a) if self.ever(a) => a.last().0,
            OpenChunk::Xor(_) => i64::MIN,
            OpenChunk::Other(o) => match &**o {
                OtherChunk::Xor2(a) => a.last().0,
                OtherChunk::Histogram(a) => a.last().0,
                OtherChunk::FloatHistogram(a) => a.last().0,
                OtherChunk::Empty(t) => *t,
            },
        }
    }

    /// A fresh appender stands at (0, +0.0 with no samples): `next_at` tells it from one that was sealed.
    fn ever(&self, a: &XorAppender) -> bool {
        !a.is_empty() || self.next_at != 0
    }

    /// The newest applied float, if the newest sample is one.
    pub fn last_float(&self) -> Option<f64> {
        match &self.open {
            OpenChunk::Xor(a) if self.ever(a) => Some(a.last().1),
            OpenChunk::Xor(_) => None,
            OpenChunk::Other(o) => match &**o {
                OtherChunk::Xor2(a) => Some(a.last().1),
                _ => None,
            },
        }
    }

    /// The open chunk's bytes and encoding, if it holds a sample.
    pub fn open_chunk(&mut self) -> Option<(Encoding, &[u8])> {
        let (e, b): (Encoding, &[u8]) = match &mut self.open {
            OpenChunk::Xor(a) => (Encoding::Xor, a.bytes()),
            OpenChunk::Other(o) => (o.encoding()?, o.bytes()),
        };
        (!b.is_empty()).then_some((e, b))
    }

    /// A copy of the open chunk.
    pub fn open_copy(&self) -> Option<(Encoding, Vec<u8>)> {
        let (e, b) = match &self.open {
            OpenChunk::Xor(a) => (Encoding::Xor, a.clone().bytes().to_vec()),
            OpenChunk::Other(o) => (o.encoding()?, o.bytes().to_vec()),
        };
        (!b.is_empty()).then_some((e, b))
    }

    /// Bytes of the open chunk; 0 if it holds no sample.
    #[inline]
    pub fn open_bytes(&self) -> usize {
        match &self.open {
            OpenChunk::Xor(a) => a.size_bytes(),
            OpenChunk::Other(o) => o.bytes().len(),
        }
    }

    fn open_len(&self) -> u16 {
        match &self.open {
            OpenChunk::Xor(a) => a.len(),
            OpenChunk::Other(o) => chunk::num_samples(o.bytes()) as u16,
        }
    }

    /// The first sample's time of the open chunk.
    pub fn open_min_t(&self) -> Option<i64> {
        match &self.open {
            OpenChunk::Xor(a) => a.first_time(),
            OpenChunk::Other(o) => first_time(o.encoding()?, o.bytes()),
        }
    }

    /// Appends a sample later than all before, which lies in `range`; gives the chunk that had to end for it.
    pub fn append(&mut self, t: i64, st: i64, v: &Value, range: AlignedRange, xor2: bool) -> Option<Finished> {
        match v {
            Value::Float(v) | Value::Delta(v) => self.append_float(t, st, *v, range, xor2),
            Value::Histogram(h) => self.append_histogram(t, h, range),
            Value::DeltaHistogram(h) => self.append_histogram(t, &AnyHistogram::Int(h.clone()), range),
        }
    }

    /// As [`Series::append`], of a float.
    #[inline]
    pub fn append_float(&mut self, t: i64, st: i64, v: f64, range: AlignedRange, xor2: bool) -> Option<Finished> {
        let n = match &mut self.open {
            OpenChunk::Xor(a) if !xor2 => a.len(),
            OpenChunk::Other(o) if xor2 => match &**o {
                OtherChunk::Xor2(a) if a.takes(st) => a.len(),
                _ => 0,
            },
            _ => 0,
        };
        // Neither the first of its chunk nor one that the chunk's end is planned by.
        if n != 0
            && n + 1 != PLANNED_AT
            && !self.is_full(t, n, range)
            && let OpenChunk::Xor(a) = &mut self.open
        {
            a.append(t, v);
            return None;
        }
        self.append_planning(t, st, v, n, range, xor2)
    }

    fn append_planning(&mut self, t: i64, st: i64, v: f64, n: u16, range: AlignedRange, xor2: bool) -> Option<Finished> {
        let mut done = None;
        if n == 0 || self.is_full(t, n, range) {
            done = self.finish();
            self.begin_float(xor2);
        }
        match &mut self.open {
            OpenChunk::Xor(a) => a.append(t, v),
            OpenChunk::Other(o) => {
                if let OtherChunk::Xor2(a) = &mut **o {
                    a.append(t, v, st);
                }
            }
        }
        if done.is_some() || n == 0 {
            // Until a quarter is there, the end of the range is the plan.
            self.next_at = range.width_ms.min(u32::MAX as i64) as u32;
        } else if n + 1 == PLANNED_AT
            && let Some(first) = self.open_min_t()
        {
            let end = chunk::predicted_end(first, t, range.start_ms + range.width_ms);
            self.next_at = (end - range.start_ms).clamp(1, range.width_ms) as u32;
        }
        done
    }

    fn begin_float(&mut self, xor2: bool) {
        match (&self.open, xor2) {
            (OpenChunk::Xor(_), false) => {}
            (_, false) => self.open = OpenChunk::Xor(XorAppender::default()),
            (_, true) => self.open = OpenChunk::Other(Box::new(OtherChunk::Xor2(Xor2Appender::default()))),
        }
    }

    /// Whether the open chunk must end before a sample at `t`, which lies in `range`.
    #[inline]
    fn is_full(&self, t: i64, n: u16, range: AlignedRange) -> bool {
        let last = self.last_t();
        last < range.start_ms
            || t - range.start_ms >= self.next_at as i64
            || n >= chunk::MAX_SAMPLES
            || self.open_bytes() > chunk::MAX_BYTES - 20
            || (t - last) > u32::MAX as i64
    }

    fn append_histogram(&mut self, t: i64, h: &AnyHistogram, range: AlignedRange) -> Option<Finished> {
        let n = self.open_len();
        let bytes = self.open_bytes();
        let other_range = n > 0 && self.last_t() < range.start_ms;
        let full = other_range || (bytes >= 1024 && n >= 10) || bytes >= 1 << 16 || n >= chunk::MAX_SAMPLES;
        let mut reset = CounterReset::Unknown;
        if n > 0 && !full {
            let appended = match (&mut self.open, h) {
                (OpenChunk::Other(o), h) => match (&mut **o, h) {
                    (OtherChunk::Histogram(a), AnyHistogram::Int(h)) => Some(a.append(t, h)),
                    (OtherChunk::FloatHistogram(a), AnyHistogram::Float(h)) => Some(a.append(t, h)),
                    _ => None,
                },
                _ => None,
            };
            match appended {
                Some(Ok(())) => {
                    self.next_at = 1;
                    return None;
                }
                Some(Err(r)) => reset = r,
                None => {}
            }
        }
        let done = self.finish();
        let hint = |own: CounterReset| if own == CounterReset::Gauge || reset == CounterReset::Unknown { own } else { reset };
        let fresh = match h {
            AnyHistogram::Int(h) => OtherChunk::Histogram(HistogramAppender::new(t, h, hint(h.counter_reset))),
            AnyHistogram::Float(h) => OtherChunk::FloatHistogram(FloatHistogramAppender::new(t, h, hint(h.counter_reset))),
        };
        self.open = OpenChunk::Other(Box::new(fresh));
        self.next_at = 1;
        done
    }

    /// Ends the open chunk, if it holds a sample; the series still knows its last time.
    pub fn finish(&mut self) -> Option<Finished> {
        let range = TimeRange::new(self.open_min_t()?, self.last_t());
        let (encoding, data) = match &mut self.open {
            OpenChunk::Xor(a) => {
                self.next_at = self.next_at.max(1);
                (Encoding::Xor, a.take())
            }
            OpenChunk::Other(o) => {
                let whole = (o.encoding()?, o.bytes().to_vec());
                **o = OtherChunk::Empty(range.max_ms);
                whole
            }
        };
        Some(Finished { range, encoding, data })
    }

    /// Puts a late sample aside; gives a chunk when there are enough. False if the same time is there already.
    pub fn insert_late(&mut self, t: i64, st: i64, v: &Value) -> bool {
        let late = &mut self.extra().late;
        match late.binary_search_by_key(&t, |l| l.0) {
            Ok(_) => false,
            Err(at) => {
                late.insert(at, (t, st, v.clone()));
                true
            }
        }
    }

    /// Time and value (NaN of a histogram) of the last sample at `t` or before, if samples of that time are surely among the
    /// open chunk's, `heap`'s and the late ones. Of what a cut has ended a replay may know nothing: it is not asked.
    pub fn at_or_before(&self, t: i64, heap: &ChunkHeap) -> Option<(i64, f64)> {
        let mut found = None;
        let mut look = |encoding, data: &[u8]| {
            let mut out = SampleBuf::default();
            chunk::decode(encoding, data, TimeRange::new(i64::MIN, t), &mut out).ok()?;
            let last = (*out.t.last()?, *out.v.last()?);
            found = found.filter(|f: &(i64, f64)| f.0 >= last.0).or(Some(last));
            found.map(|f| f.0)
        };
        let mut at = i64::MIN;
        if self.open_min_t().is_some_and(|first| first <= t) {
            let (encoding, data) = self.open_copy()?;
            at = look(encoding, &data)?;
        }
        // The newest first, since most need not be read then.
        for c in self.sealed().iter().rev().filter(|c| c.min_t <= t) {
            if at < t && at <= c.max_t() {
                let in_heap = c.file == 0 && c.epoch() == 0;
                at = look(c.encoding(), in_heap.then(|| heap.get(c.at))?)?;
            }
        }
        let in_order = found?;
        let late = self.extra.as_ref().and_then(|e| {
            let behind = e.late.partition_point(|l| l.0 <= t);
            e.late.get(behind.checked_sub(1)?)
        });
        match late {
            Some((at, _, Value::Float(v))) if *at > in_order.0 => Some((*at, *v)),
            Some((at, ..)) if *at > in_order.0 => Some((*at, f64::NAN)),
            _ => Some(in_order),
        }
    }

    /// Whether the open chunk takes `more` samples up to one at `t` in `range`.
    pub fn stays_open(&self, t: i64, more: u16, range: AlignedRange) -> bool {
        !self.is_full(t, self.open_len().saturating_add(more), range)
    }

    /// The late samples as chunks of one type and one range each.
    pub fn finish_late(&mut self, range_ms: i64, xor2: bool) -> Vec<Finished> {
        let Some(e) = &mut self.extra else { return Vec::new() };
        let late = std::mem::take(&mut e.late);
        encode_run(&late, range_ms, xor2)
    }
}

/// Encodes samples in rising time into chunks as the head would.
pub fn encode_run(samples: &[(i64, i64, Value)], range_ms: i64, xor2: bool) -> Vec<Finished> {
    let mut s = Series::default();
    let mut range = AlignedRange { start_ms: 0, width_ms: range_ms };
    let mut out = Vec::new();
    for (t, st, v) in samples {
        range = AlignedRange::of(*t, range_ms, range.start_ms);
        out.extend(s.append(*t, *st, v, range, xor2));
    }
    out.extend(s.finish());
    out
}

/// The time of a chunk's first sample.
pub fn first_time(encoding: Encoding, data: &[u8]) -> Option<i64> {
    let head = match encoding {
        Encoding::Xor => 2,
        Encoding::Xor2 => 3,
        Encoding::Histogram | Encoding::FloatHistogram => {
            let mut out = crate::read::SampleBuf::default();
            chunk::decode(encoding, data, TimeRange::all(), &mut out).ok()?;
            return out.t.first().copied();
        }
    };
    crate::codec::BitReader::new(data.get(head..)?).varint()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_goes_by_the_size_of_a_series_record() {
        assert_eq!((size_of::<Series>(), size_of::<Sealed>()), (80, 24));
    }

    proptest! {
        #[test]
        fn a_likely_range_is_taken_only_if_it_holds_the_time(times in prop::collection::vec(any::<i32>(), 1..50), width_ms in 1i64..10_000) {
            let mut likely_ms = 0;
            for t in times.into_iter().flat_map(|t| [t as i64, t as i64 + 1, t as i64 + width_ms]) {
                let range = AlignedRange::of(t, width_ms, likely_ms);
                prop_assert_eq!(range.start_ms, t.div_euclid(width_ms) * width_ms);
                likely_ms = range.start_ms;
            }
        }
    }
}
