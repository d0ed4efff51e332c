//! Chunks of native histograms, integer and float alike: when a histogram can go on in the open chunk, how the chunk is
//! widened for new buckets, and the order of what lies in it. How numbers are packed is what `PackedHistogram` adds.

use std::fmt::Debug;

use super::hist_layout::{Layout, Shape, reset_flags, reset_hint};
use super::{cut_short, num_samples};
use crate::codec::{BitReader, BitWriter};
use crate::error::Result;
use crate::model::CounterReset;

/// A kind of histogram that can be packed into a chunk.
pub trait PackedHistogram: Clone + Default {
    /// What the encoder of the next histogram must know, besides the last one.
    type Written: Clone + Debug;
    /// What the decoder has read of the last histogram.
    type Read;
    /// Names the kind in errors.
    const NAME: &'static str;

    /// Where its buckets lie.
    fn shape(&self) -> Shape<'_>;
    /// Becomes what `other` is; its vectors are kept.
    fn assign(&mut self, other: &Self);
    /// The same observations with the buckets of a wider layout.
    fn spread(&self, to: &Layout) -> Self;
    /// What it says of a reset before it.
    fn hint(&self) -> CounterReset;
    /// Whether it is a staleness marker.
    fn is_stale(&self) -> bool;
    /// The marker itself, without anything else.
    fn only_marker(&self) -> Self;
    /// Whether any count is below that of `before`, which has the same layout.
    fn fell_since(&self, before: &Self) -> bool;

    /// Writes the numbers of a chunk's first histogram.
    fn write_first(&self, w: &mut BitWriter<'_>) -> Self::Written;
    /// Writes the numbers of the `n`th histogram (from 1) behind those of `before`.
    fn write_next(&self, w: &mut BitWriter<'_>, n: u16, before: &Self, written: &mut Self::Written);

    /// Reads the numbers of a chunk's first histogram.
    fn read_first(r: &mut BitReader<'_>, buckets: usize) -> Option<Self::Read>;
    /// Reads counts and sum of the `n`th histogram (from 1).
    fn read_next(r: &mut BitReader<'_>, n: usize, read: &mut Self::Read) -> Option<()>;
    /// Reads its buckets, which staleness markers don't have.
    fn read_buckets(r: &mut BitReader<'_>, n: usize, read: &mut Self::Read) -> Option<()>;
    /// The sum that was read last.
    fn sum(read: &Self::Read) -> f64;
    /// The staleness marker that was read last.
    fn marker(sum: f64, hint: CounterReset) -> Self;
    /// The histogram that was read last.
    fn histogram(read: &Self::Read, layout: &Layout, hint: CounterReset) -> Self;
}

/// The state of an open chunk of histograms.
#[derive(Clone, Debug)]
pub struct HistogramChunk<H: PackedHistogram> {
    buf: Vec<u8>,
    free: u8,
    n: u16,
    reset: CounterReset,
    layout: Layout,
    t: i64,
    t_delta: i64,
    last: H,
    written: H::Written,
}

impl<H: PackedHistogram> HistogramChunk<H> {
    /// A chunk that begins with `h`; `reset` goes into the header.
    pub fn new(t: i64, h: &H, reset: CounterReset) -> Self {
        Self::with_layout(t, h, reset, h.shape().layout())
    }

    fn with_layout(t: i64, h: &H, reset: CounterReset, layout: Layout) -> Self {
        let (mut buf, mut free) = (vec![0, 1, reset_flags(reset)], 0);
        let mut w = BitWriter::new(&mut buf, &mut free);
        layout.write(&mut w);
        w.varbit_int(t);
        let written = h.write_first(&mut w);
        HistogramChunk { buf, free, n: 1, reset, layout, t, t_delta: 0, last: h.clone(), written }
    }

    /// Appends if the histogram can go on in this chunk; otherwise says what the header of the next chunk should say.
    pub fn append(&mut self, t: i64, h: &H) -> std::result::Result<(), CounterReset> {
        let gauge = h.hint() == CounterReset::Gauge;
        let fresh = if gauge { CounterReset::Gauge } else { CounterReset::Unknown };
        if gauge != (self.reset == CounterReset::Gauge) {
            return Err(fresh);
        }
        if h.is_stale() {
            self.put(t, &h.only_marker());
            return Ok(());
        }
        if self.last.is_stale() {
            return Err(fresh);
        }
        if h.hint() == CounterReset::Reset {
            return Err(CounterReset::Reset);
        }
        let spread;
        let h = if h.shape().is(&self.layout) {
            h
        } else {
            let wanted = h.shape().layout();
            if !self.layout.compatible(&wanted) {
                // Another schema or threshold can hide a reset either way.
                return Err(if gauge { fresh } else { CounterReset::Reset });
            }
            let union = self.layout.union(&wanted);
            spread = h.spread(&union);
            if union != self.layout {
                *self = self.widened(union).ok_or(fresh)?;
            }
            &spread
        };
        if !gauge && h.fell_since(&self.last) {
            return Err(CounterReset::Reset);
        }
        self.put(t, h);
        Ok(())
    }

    /// The same histograms with the buckets of a wider layout.
    fn widened(&self, layout: Layout) -> Option<Self> {
        let mut out: Option<Self> = None;
        let header = self.reset;
        each::<H>(&self.buf, &mut |t, h| {
            let h = h.spread(&layout);
            match &mut out {
                Some(chunk) => chunk.put(t, &h),
                None => out = Some(Self::with_layout(t, &h, header, layout.clone())),
            }
        })
        .ok()?;
        out
    }

    fn put(&mut self, t: i64, h: &H) {
        let t_delta = t.wrapping_sub(self.t);
        let mut w = BitWriter::new(&mut self.buf, &mut self.free);
        w.varbit_int(if self.n == 1 { t_delta } else { t_delta.wrapping_sub(self.t_delta) });
        h.write_next(&mut w, self.n, &self.last, &mut self.written);
        self.last.assign(h);
        (self.t, self.t_delta) = (t, t_delta);
        self.n += 1;
        self.buf[..2].copy_from_slice(&self.n.to_be_bytes());
    }

    /// The chunk so far.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }
    /// Number of samples: one at least.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u16 {
        self.n
    }
    /// The last sample.
    pub fn last(&self) -> (i64, &H) {
        (self.t, &self.last)
    }
}

/// Calls `f` with every histogram of a chunk.
pub(super) fn each<H: PackedHistogram>(data: &[u8], f: &mut dyn FnMut(i64, H)) -> Result<()> {
    let n = num_samples(data);
    if n == 0 {
        return Ok(());
    }
    let Some((flags, rest)) = data.get(2..).and_then(|d| d.split_first()) else { return Err(cut_short(H::NAME)) };
    read_all(*flags, rest, n, f).ok_or_else(|| cut_short(H::NAME))
}

fn read_all<H: PackedHistogram>(flags: u8, data: &[u8], n: usize, f: &mut dyn FnMut(i64, H)) -> Option<()> {
    let mut r = BitReader::new(data);
    let layout = Layout::read(&mut r)?;
    let (positive, negative) = layout.buckets();
    let (mut t, mut t_delta) = (r.varbit_int()?, 0i64);
    let mut read = H::read_first(&mut r, positive + negative)?;
    for i in 0..n {
        if i > 0 {
            let x = r.varbit_int()?;
            t_delta = if i == 1 { x } else { t_delta.wrapping_add(x) };
            t = t.wrapping_add(t_delta);
            H::read_next(&mut r, i, &mut read)?;
        }
        let hint = reset_hint(flags, i);
        if crate::model::is_stale(H::sum(&read)) {
            f(t, H::marker(H::sum(&read), hint));
            continue;
        }
        if i > 0 {
            H::read_buckets(&mut r, i, &mut read)?;
        }
        f(t, H::histogram(&read, &layout, hint));
    }
    Some(())
}
