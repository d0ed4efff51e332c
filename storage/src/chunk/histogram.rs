//! Encoding 2: integer native histograms; buckets as deltas of deltas.

use std::sync::Arc;

use super::hist_layout::{Layout, reset_flags, reset_hint, widen};
use super::{cut_short, num_samples, xor_value};
use crate::codec::{BitReader, BitWriter};
use crate::error::Result;
use crate::model::{BucketSpan, CounterReset, Histogram, TimeRange};
use crate::read::SampleBuf;

/// The state of an open histogram chunk.
#[derive(Clone, Debug)]
pub struct HistogramAppender {
    buf: Vec<u8>,
    free: u8,
    n: u16,
    reset: CounterReset,
    layout: Layout,
    t: i64,
    t_delta: i64,
    last: Histogram,
    count_delta: i64,
    zero_delta: i64,
    bucket_deltas: Vec<i64>,
    lead: u8,
    trail: u8,
}

pub(super) fn layout_of(h: &Histogram) -> Layout {
    Layout {
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        positive: h.positive_spans.clone(),
        negative: h.negative_spans.clone(),
        custom: h.custom_values.clone(),
    }
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

/// A histogram with its buckets spread over a wider layout.
fn spread(h: &Histogram, to: &Layout) -> Histogram {
    let move_to = |b: &[i64], from: &[BucketSpan], to: &[BucketSpan]| deltas(&widen(&absolute(b), from, to));
    Histogram {
        positive_buckets: move_to(&h.positive_buckets, &h.positive_spans, &to.positive),
        negative_buckets: move_to(&h.negative_buckets, &h.negative_spans, &to.negative),
        positive_spans: to.positive.clone(),
        negative_spans: to.negative.clone(),
        ..h.clone()
    }
}

impl HistogramAppender {
    /// A chunk that begins with `h`; its hint (or `reset`, if known better) goes into the header.
    pub fn new(t: i64, h: &Histogram, reset: CounterReset) -> Self {
        Self::with_layout(t, h, reset, layout_of(h))
    }

    fn with_layout(t: i64, h: &Histogram, reset: CounterReset, layout: Layout) -> Self {
        let n_buckets = layout.buckets().0 + layout.buckets().1;
        let mut a = HistogramAppender {
            buf: vec![0, 0, reset_flags(reset)],
            free: 0,
            n: 0,
            reset,
            layout,
            t,
            t_delta: 0,
            last: Histogram::default(),
            count_delta: 0,
            zero_delta: 0,
            bucket_deltas: vec![0; n_buckets],
            lead: xor_value::NO_WINDOW,
            trail: 0,
        };
        let mut w = BitWriter::new(&mut a.buf, &mut a.free);
        a.layout.write(&mut w);
        a.put(t, h);
        a
    }

    /// Appends if the histogram can go on in this chunk; false if a new chunk must begin. `reset` then is what the
    /// new chunk's header should say.
    pub fn append(&mut self, t: i64, h: &Histogram) -> std::result::Result<(), CounterReset> {
        let gauge = h.counter_reset == CounterReset::Gauge;
        if gauge != (self.reset == CounterReset::Gauge) {
            return Err(if gauge { CounterReset::Gauge } else { CounterReset::Unknown });
        }
        let fresh = if gauge { CounterReset::Gauge } else { CounterReset::Unknown };
        if h.is_stale() {
            self.put(t, &Histogram { sum: h.sum, ..Histogram::default() });
            return Ok(());
        }
        if self.last.is_stale() {
            return Err(fresh);
        }
        if h.counter_reset == CounterReset::Reset {
            return Err(CounterReset::Reset);
        }
        let wanted = layout_of(h);
        if !self.layout.compatible(&wanted) {
            // Another schema or threshold can hide a reset either way.
            return Err(if gauge { fresh } else { CounterReset::Reset });
        }
        if self.layout == wanted {
            if !gauge && self.fell(h) {
                return Err(CounterReset::Reset);
            }
            self.put(t, h);
            return Ok(());
        }
        let union = self.layout.union(&wanted);
        let h = spread(h, &union);
        if union != self.layout {
            let widened = self.recoded(union).ok_or(fresh)?;
            *self = widened;
        }
        if !gauge && self.fell(&h) {
            return Err(CounterReset::Reset);
        }
        self.put(t, &h);
        Ok(())
    }

    /// Whether any count fell; `h` has the chunk's layout.
    fn fell(&self, h: &Histogram) -> bool {
        let down = |new: &[i64], old: &[i64]| absolute(new).iter().zip(absolute(old)).any(|(n, o)| *n < o);
        h.count < self.last.count
            || h.zero_count < self.last.zero_count
            || down(&h.positive_buckets, &self.last.positive_buckets)
            || down(&h.negative_buckets, &self.last.negative_buckets)
    }

    fn recoded(&self, layout: Layout) -> Option<Self> {
        let mut samples = Vec::new();
        decode_histogram_ints(&self.buf, &mut |t, h| samples.push((t, h))).ok()?;
        let mut it = samples.iter();
        let (t, h) = it.next()?;
        let mut a = Self::with_layout(*t, &spread(h, &layout), self.reset, layout.clone());
        for (t, h) in it {
            a.put(*t, &spread(h, &layout));
        }
        Some(a)
    }

    fn put(&mut self, t: i64, h: &Histogram) {
        let stale = h.is_stale();
        let mut w = BitWriter::new(&mut self.buf, &mut self.free);
        let buckets = h.positive_buckets.iter().chain(&h.negative_buckets);
        if self.n == 0 {
            w.varbit_int(t);
            w.varbit_uint(h.count);
            w.varbit_uint(h.zero_count);
            w.bits(h.sum.to_bits(), 64);
            buckets.for_each(|b| w.varbit_int(*b));
        } else {
            let t_delta = t.wrapping_sub(self.t);
            let (mut count_delta, mut zero_delta) = (0, 0);
            if !stale {
                count_delta = h.count.wrapping_sub(self.last.count) as i64;
                zero_delta = h.zero_count.wrapping_sub(self.last.zero_count) as i64;
            }
            if self.n == 1 {
                w.varbit_int(t_delta);
                w.varbit_int(count_delta);
                w.varbit_int(zero_delta);
            } else {
                w.varbit_int(t_delta.wrapping_sub(self.t_delta));
                w.varbit_int(if stale { 0 } else { count_delta.wrapping_sub(self.count_delta) });
                w.varbit_int(if stale { 0 } else { zero_delta.wrapping_sub(self.zero_delta) });
            }
            xor_value::write(&mut w, h.sum.to_bits(), self.last.sum.to_bits(), &mut self.lead, &mut self.trail);
            let before = self.last.positive_buckets.iter().chain(&self.last.negative_buckets);
            for ((b, old), d) in buckets.zip(before).zip(&mut self.bucket_deltas) {
                let delta = b.wrapping_sub(*old);
                w.varbit_int(if self.n == 1 { delta } else { delta.wrapping_sub(*d) });
                *d = delta;
            }
            (self.t_delta, self.count_delta, self.zero_delta) = (t_delta, count_delta, zero_delta);
        }
        self.t = t;
        self.last = h.clone();
        self.n += 1;
        self.buf[..2].copy_from_slice(&self.n.to_be_bytes());
    }

    /// The chunk so far.
    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }
    /// Number of samples.
    pub fn len(&self) -> u16 {
        self.n
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
    /// The last sample.
    pub fn last(&self) -> (i64, &Histogram) {
        (self.t, &self.last)
    }
}

/// Appends to `out` the histograms of a chunk that lie in `range`, with float counts.
pub fn decode_histogram(data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    decode_histogram_ints(data, &mut |t, h| {
        if range.contains(t) {
            out.push_histogram(t, Arc::new(h.to_float()), 0);
        }
    })
}

/// Calls `f` with every histogram of a chunk.
pub fn decode_histogram_ints(data: &[u8], f: &mut dyn FnMut(i64, Histogram)) -> Result<()> {
    let n = num_samples(data);
    if n == 0 {
        return Ok(());
    }
    let Some((flags, rest)) = data.get(2..).and_then(|d| d.split_first()) else { return Err(cut_short("histogram")) };
    read_all(*flags, rest, n, f).ok_or_else(|| cut_short("histogram"))
}

fn read_all(flags: u8, data: &[u8], n: usize, f: &mut dyn FnMut(i64, Histogram)) -> Option<()> {
    let mut r = BitReader::new(data);
    let layout = Layout::read(&mut r)?;
    let (np, nn) = layout.buckets();
    let mut t = r.varbit_int()?;
    let mut count = r.varbit_uint()?;
    let mut zero = r.varbit_uint()?;
    let mut sum = r.bits(64)?;
    let mut buckets = vec![0i64; np + nn];
    for b in &mut buckets {
        *b = r.varbit_int()?;
    }
    let mut bucket_deltas = vec![0i64; np + nn];
    let (mut t_delta, mut count_delta, mut zero_delta) = (0i64, 0i64, 0i64);
    let (mut lead, mut trail) = (xor_value::NO_WINDOW, 0u8);
    for i in 0..n {
        if i > 0 {
            let (dt, dc, dz) = (r.varbit_int()?, r.varbit_int()?, r.varbit_int()?);
            if i == 1 {
                (t_delta, count_delta, zero_delta) = (dt, dc, dz);
            } else {
                t_delta = t_delta.wrapping_add(dt);
                count_delta = count_delta.wrapping_add(dc);
                zero_delta = zero_delta.wrapping_add(dz);
            }
            t = t.wrapping_add(t_delta);
            count = count.wrapping_add(count_delta as u64);
            zero = zero.wrapping_add(zero_delta as u64);
            sum = xor_value::read(&mut r, sum, &mut lead, &mut trail)?;
        }
        if crate::model::is_stale(f64::from_bits(sum)) {
            f(t, Histogram { sum: f64::from_bits(sum), counter_reset: reset_hint(flags, i), ..Histogram::default() });
            continue;
        }
        if i > 0 {
            for (b, d) in buckets.iter_mut().zip(&mut bucket_deltas) {
                let x = r.varbit_int()?;
                *d = if i == 1 { x } else { d.wrapping_add(x) };
                *b = b.wrapping_add(*d);
            }
        }
        f(
            t,
            Histogram {
                schema: layout.schema,
                counter_reset: reset_hint(flags, i),
                zero_threshold: layout.zero_threshold,
                zero_count: zero,
                count,
                sum: f64::from_bits(sum),
                positive_spans: layout.positive.clone(),
                negative_spans: layout.negative.clone(),
                positive_buckets: buckets[..np].to_vec(),
                negative_buckets: buckets[np..].to_vec(),
                custom_values: layout.custom.clone(),
            },
        );
    }
    Some(())
}
