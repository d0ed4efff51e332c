//! Encoding 2: integer native histograms; counts and buckets as deltas of deltas.

use std::sync::Arc;

use super::hist_chunk::{HistogramChunk, PackedHistogram, each};
use super::hist_layout::{Layout, Shape, widen};
use super::xor_value;
use crate::codec::{BitReader, BitWriter};
use crate::error::Result;
use crate::model::{BucketSpan, CounterReset, Histogram, TimeRange};
use crate::read::SampleBuf;

/// An open chunk of integer histograms.
pub type HistogramAppender = HistogramChunk<Histogram>;

/// The last step of every count, and the window of the sum.
#[derive(Clone, Debug)]
pub struct Deltas {
    count: i64,
    zero: i64,
    buckets: Vec<i64>,
    lead: u8,
    trail: u8,
}

impl Deltas {
    fn new(buckets: usize) -> Self {
        Deltas { count: 0, zero: 0, buckets: vec![0; buckets], lead: xor_value::NO_WINDOW, trail: 0 }
    }
}

/// What was read of the last histogram; buckets are deltas within it, as in the chunk.
pub struct IntsRead {
    count: u64,
    zero: u64,
    sum: u64,
    buckets: Vec<i64>,
    deltas: Deltas,
}

fn absolute(deltas: &[i64]) -> Vec<i64> {
    deltas
        .iter()
        .scan(0i64, |c, d| {
            *c = c.wrapping_add(*d);
            Some(*c)
        })
        .collect()
}

fn deltas(absolute: &[i64]) -> Vec<i64> {
    let mut before = 0;
    absolute.iter().map(|c| c.wrapping_sub(std::mem::replace(&mut before, *c))).collect()
}

impl PackedHistogram for Histogram {
    type Written = Deltas;
    type Read = IntsRead;
    const NAME: &'static str = "histogram";

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
        let move_to = |b: &[i64], from: &[BucketSpan], to: &[BucketSpan]| deltas(&widen(&absolute(b), from, to));
        Histogram {
            positive_buckets: move_to(&self.positive_buckets, &self.positive_spans, &to.positive),
            negative_buckets: move_to(&self.negative_buckets, &self.negative_spans, &to.negative),
            positive_spans: to.positive.clone(),
            negative_spans: to.negative.clone(),
            ..self.clone()
        }
    }

    fn hint(&self) -> CounterReset {
        self.counter_reset
    }

    fn is_stale(&self) -> bool {
        Histogram::is_stale(self)
    }

    fn only_marker(&self) -> Self {
        Histogram { sum: self.sum, ..Histogram::default() }
    }

    fn fell_since(&self, before: &Self) -> bool {
        // Buckets are deltas: how far each lies above its own of before adds up the same way.
        let down = |new: &[i64], old: &[i64]| {
            let mut above = 0i64;
            new.iter().zip(old).any(|(n, o)| {
                above = above.wrapping_add(n.wrapping_sub(*o));
                above < 0
            })
        };
        self.count < before.count
            || self.zero_count < before.zero_count
            || down(&self.positive_buckets, &before.positive_buckets)
            || down(&self.negative_buckets, &before.negative_buckets)
    }

    fn write_first(&self, w: &mut BitWriter<'_>) -> Deltas {
        w.varbit_uint(self.count);
        w.varbit_uint(self.zero_count);
        w.bits(self.sum.to_bits(), 64);
        self.positive_buckets.iter().chain(&self.negative_buckets).for_each(|b| w.varbit_int(*b));
        Deltas::new(self.positive_buckets.len() + self.negative_buckets.len())
    }

    fn write_next(&self, w: &mut BitWriter<'_>, n: u16, before: &Self, last: &mut Deltas) {
        let mut step = |delta: i64, last: &mut i64| {
            w.varbit_int(if n == 1 { delta } else { delta.wrapping_sub(*last) });
            *last = delta;
        };
        if self.is_stale() {
            // Its counts mean nothing: two zero bits, and nothing follows it in the chunk but other markers.
            (last.count, last.zero) = (0, 0);
            step(0, &mut last.count);
            step(0, &mut last.zero);
        } else {
            step(self.count.wrapping_sub(before.count) as i64, &mut last.count);
            step(self.zero_count.wrapping_sub(before.zero_count) as i64, &mut last.zero);
        }
        xor_value::write(w, self.sum.to_bits(), before.sum.to_bits(), &mut last.lead, &mut last.trail);
        let buckets = self.positive_buckets.iter().chain(&self.negative_buckets);
        let before = before.positive_buckets.iter().chain(&before.negative_buckets);
        for ((b, old), last) in buckets.zip(before).zip(&mut last.buckets) {
            let delta = b.wrapping_sub(*old);
            w.varbit_int(if n == 1 { delta } else { delta.wrapping_sub(*last) });
            *last = delta;
        }
    }

    fn read_first(r: &mut BitReader<'_>, buckets: usize) -> Option<IntsRead> {
        let (count, zero, sum) = (r.varbit_uint()?, r.varbit_uint()?, r.bits(64)?);
        let mut read = IntsRead { count, zero, sum, buckets: vec![0; buckets], deltas: Deltas::new(buckets) };
        for b in &mut read.buckets {
            *b = r.varbit_int()?;
        }
        Some(read)
    }

    fn read_next(r: &mut BitReader<'_>, n: usize, read: &mut IntsRead) -> Option<()> {
        let d = &mut read.deltas;
        let step = |last: &mut i64, x: i64| *last = if n == 1 { x } else { last.wrapping_add(x) };
        step(&mut d.count, r.varbit_int()?);
        step(&mut d.zero, r.varbit_int()?);
        read.count = read.count.wrapping_add(d.count as u64);
        read.zero = read.zero.wrapping_add(d.zero as u64);
        read.sum = xor_value::read(r, read.sum, &mut d.lead, &mut d.trail)?;
        Some(())
    }

    fn read_buckets(r: &mut BitReader<'_>, n: usize, read: &mut IntsRead) -> Option<()> {
        for (b, d) in read.buckets.iter_mut().zip(&mut read.deltas.buckets) {
            let x = r.varbit_int()?;
            *d = if n == 1 { x } else { d.wrapping_add(x) };
            *b = b.wrapping_add(*d);
        }
        Some(())
    }

    fn sum(read: &IntsRead) -> f64 {
        f64::from_bits(read.sum)
    }

    fn marker(sum: f64, hint: CounterReset) -> Self {
        Histogram { sum, counter_reset: hint, ..Histogram::default() }
    }

    fn histogram(read: &IntsRead, layout: &Layout, hint: CounterReset) -> Self {
        let (positive, negative) = read.buckets.split_at(layout.buckets().0);
        Histogram {
            schema: layout.schema,
            counter_reset: hint,
            zero_threshold: layout.zero_threshold,
            zero_count: read.zero,
            count: read.count,
            sum: f64::from_bits(read.sum),
            positive_spans: layout.positive.clone(),
            negative_spans: layout.negative.clone(),
            positive_buckets: positive.to_vec(),
            negative_buckets: negative.to_vec(),
            custom_values: layout.custom.clone(),
        }
    }
}

/// Appends to `out` the histograms of a chunk that lie in `range`, with float counts.
pub fn decode_histogram(data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    each::<Histogram>(data, &mut |t, h| {
        if range.contains(t) {
            out.push_histogram(t, Arc::new(h.to_float()), 0);
        }
    })
}
