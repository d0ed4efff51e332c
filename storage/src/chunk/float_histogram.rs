//! Encoding 3: float native histograms; every number is XORed with the one before.

use std::sync::Arc;

use super::hist_chunk::{HistogramChunk, PackedHistogram, each};
use super::hist_layout::{Layout, Shape, widen};
use super::xor_value;
use crate::codec::{BitReader, BitWriter};
use crate::error::Result;
use crate::model::{CounterReset, FloatHistogram, TimeRange};
use crate::read::SampleBuf;

/// An open chunk of float histograms.
pub type FloatHistogramAppender = HistogramChunk<FloatHistogram>;

/// A value with its own XOR window.
#[derive(Clone, Copy, Debug)]
struct Xored {
    bits: u64,
    lead: u8,
    trail: u8,
}

impl Xored {
    fn new(v: f64) -> Self {
        Xored { bits: v.to_bits(), lead: xor_value::NO_WINDOW, trail: 0 }
    }
    fn read_first(r: &mut BitReader<'_>) -> Option<Self> {
        Some(Self::new(f64::from_bits(r.bits(64)?)))
    }
    fn write(&mut self, w: &mut BitWriter<'_>, v: f64) {
        xor_value::write(w, v.to_bits(), self.bits, &mut self.lead, &mut self.trail);
        self.bits = v.to_bits();
    }
    fn read(&mut self, r: &mut BitReader<'_>) -> Option<()> {
        self.bits = xor_value::read(r, self.bits, &mut self.lead, &mut self.trail)?;
        Some(())
    }
    fn value(self) -> f64 {
        f64::from_bits(self.bits)
    }
}

/// The numbers of the last histogram, each with its window.
#[derive(Clone, Debug)]
pub struct Floats {
    count: Xored,
    zero: Xored,
    sum: Xored,
    buckets: Vec<Xored>,
}

impl PackedHistogram for FloatHistogram {
    type Written = Floats;
    type Read = Floats;
    const NAME: &'static str = "float histogram";

    fn shape(&self) -> Shape<'_> {
        Shape {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            positive: &self.positive_spans,
            negative: &self.negative_spans,
            custom: &self.custom_values,
        }
    }

    fn assign(&mut self, other: &Self) {
        self.positive_spans.clone_from(&other.positive_spans);
        self.negative_spans.clone_from(&other.negative_spans);
        self.positive_buckets.clone_from(&other.positive_buckets);
        self.negative_buckets.clone_from(&other.negative_buckets);
        if self.custom_values != other.custom_values {
            self.custom_values = other.custom_values.clone();
        }
        (self.schema, self.counter_reset, self.zero_threshold) = (other.schema, other.counter_reset, other.zero_threshold);
        (self.zero_count, self.count, self.sum) = (other.zero_count, other.count, other.sum);
    }

    fn spread(&self, to: &Layout) -> Self {
        FloatHistogram {
            positive_buckets: widen(&self.positive_buckets, &self.positive_spans, &to.positive),
            negative_buckets: widen(&self.negative_buckets, &self.negative_spans, &to.negative),
            positive_spans: to.positive.clone(),
            negative_spans: to.negative.clone(),
            ..self.clone()
        }
    }

    fn hint(&self) -> CounterReset {
        self.counter_reset
    }

    fn is_stale(&self) -> bool {
        FloatHistogram::is_stale(self)
    }

    fn only_marker(&self) -> Self {
        FloatHistogram { sum: self.sum, ..FloatHistogram::default() }
    }

    fn fell_since(&self, before: &Self) -> bool {
        let down = |new: &[f64], old: &[f64]| new.iter().zip(old).any(|(n, o)| n < o);
        self.count < before.count
            || self.zero_count < before.zero_count
            || down(&self.positive_buckets, &before.positive_buckets)
            || down(&self.negative_buckets, &before.negative_buckets)
    }

    fn write_first(&self, w: &mut BitWriter<'_>) -> Floats {
        let buckets = || self.positive_buckets.iter().chain(&self.negative_buckets);
        for v in [self.count, self.zero_count, self.sum].iter().chain(buckets()) {
            w.bits(v.to_bits(), 64);
        }
        Floats {
            count: Xored::new(self.count),
            zero: Xored::new(self.zero_count),
            sum: Xored::new(self.sum),
            buckets: buckets().map(|b| Xored::new(*b)).collect(),
        }
    }

    fn write_next(&self, w: &mut BitWriter<'_>, _n: u16, _before: &Self, written: &mut Floats) {
        written.count.write(w, self.count);
        written.zero.write(w, self.zero_count);
        written.sum.write(w, self.sum);
        for (x, b) in written.buckets.iter_mut().zip(self.positive_buckets.iter().chain(&self.negative_buckets)) {
            x.write(w, *b);
        }
    }

    fn read_first(r: &mut BitReader<'_>, buckets: usize) -> Option<Floats> {
        let (count, zero, sum) = (Xored::read_first(r)?, Xored::read_first(r)?, Xored::read_first(r)?);
        let buckets = (0..buckets).map(|_| Xored::read_first(r)).collect::<Option<_>>()?;
        Some(Floats { count, zero, sum, buckets })
    }

    fn read_next(r: &mut BitReader<'_>, _n: usize, read: &mut Floats) -> Option<()> {
        read.count.read(r)?;
        read.zero.read(r)?;
        read.sum.read(r)
    }

    fn read_buckets(r: &mut BitReader<'_>, _n: usize, read: &mut Floats) -> Option<()> {
        read.buckets.iter_mut().try_for_each(|b| b.read(r))
    }

    fn sum(read: &Floats) -> f64 {
        read.sum.value()
    }

    fn marker(sum: f64, hint: CounterReset) -> Self {
        FloatHistogram { sum, counter_reset: hint, ..FloatHistogram::default() }
    }

    fn histogram(read: &Floats, layout: &Layout, hint: CounterReset) -> Self {
        let values = |b: &[Xored]| b.iter().map(|x| x.value()).collect();
        let (positive, negative) = read.buckets.split_at(layout.buckets().0);
        FloatHistogram {
            schema: layout.schema,
            counter_reset: hint,
            zero_threshold: layout.zero_threshold,
            zero_count: read.zero.value(),
            count: read.count.value(),
            sum: read.sum.value(),
            positive_spans: layout.positive.clone(),
            negative_spans: layout.negative.clone(),
            positive_buckets: values(positive),
            negative_buckets: values(negative),
            custom_values: layout.custom.clone(),
        }
    }
}

/// Appends to `out` the histograms of a chunk that lie in `range`.
pub fn decode_float_histogram(data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    each::<FloatHistogram>(data, &mut |t, h| {
        if range.contains(t) {
            out.push_histogram(t, Arc::new(h), 0);
        }
    })
}
