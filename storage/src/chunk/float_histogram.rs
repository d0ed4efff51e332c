//! Encoding 3: float native histograms; every number is XORed with the one before.

use std::sync::Arc;

use super::hist_layout::{Layout, reset_flags, reset_hint, widen};
use super::{cut_short, num_samples, xor_value};
use crate::codec::{BitReader, BitWriter};
use crate::error::Result;
use crate::model::{CounterReset, FloatHistogram, TimeRange};
use crate::read::SampleBuf;

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
    fn write(&mut self, w: &mut BitWriter<'_>, v: f64) {
        xor_value::write(w, v.to_bits(), self.bits, &mut self.lead, &mut self.trail);
        self.bits = v.to_bits();
    }
    fn read(&mut self, r: &mut BitReader<'_>) -> Option<f64> {
        self.bits = xor_value::read(r, self.bits, &mut self.lead, &mut self.trail)?;
        Some(f64::from_bits(self.bits))
    }
    fn value(self) -> f64 {
        f64::from_bits(self.bits)
    }
}

/// The state of an open float histogram chunk.
#[derive(Clone, Debug)]
pub struct FloatHistogramAppender {
    buf: Vec<u8>,
    free: u8,
    n: u16,
    reset: CounterReset,
    layout: Layout,
    t: i64,
    t_delta: i64,
    last: FloatHistogram,
    count: Xored,
    zero: Xored,
    sum: Xored,
    buckets: Vec<Xored>,
}

fn layout_of(h: &FloatHistogram) -> Layout {
    Layout {
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        positive: h.positive_spans.clone(),
        negative: h.negative_spans.clone(),
        custom: h.custom_values.clone(),
    }
}

fn spread(h: &FloatHistogram, to: &Layout) -> FloatHistogram {
    FloatHistogram {
        positive_buckets: widen(&h.positive_buckets, &h.positive_spans, &to.positive),
        negative_buckets: widen(&h.negative_buckets, &h.negative_spans, &to.negative),
        positive_spans: to.positive.clone(),
        negative_spans: to.negative.clone(),
        ..h.clone()
    }
}

impl FloatHistogramAppender {
    /// A chunk that begins with `h`.
    pub fn new(t: i64, h: &FloatHistogram, reset: CounterReset) -> Self {
        Self::with_layout(t, h, reset, layout_of(h))
    }

    fn with_layout(t: i64, h: &FloatHistogram, reset: CounterReset, layout: Layout) -> Self {
        let mut a = FloatHistogramAppender {
            buf: vec![0, 0, reset_flags(reset)],
            free: 0,
            n: 0,
            reset,
            layout,
            t,
            t_delta: 0,
            last: FloatHistogram::default(),
            count: Xored::new(h.count),
            zero: Xored::new(h.zero_count),
            sum: Xored::new(h.sum),
            buckets: h.positive_buckets.iter().chain(&h.negative_buckets).map(|b| Xored::new(*b)).collect(),
        };
        let mut w = BitWriter::new(&mut a.buf, &mut a.free);
        a.layout.write(&mut w);
        w.varbit_int(t);
        for v in [h.count, h.zero_count, h.sum].iter().chain(&h.positive_buckets).chain(&h.negative_buckets) {
            w.bits(v.to_bits(), 64);
        }
        a.ended(t, h);
        a
    }

    /// Appends if the histogram can go on in this chunk; otherwise says what the next chunk's header should say.
    pub fn append(&mut self, t: i64, h: &FloatHistogram) -> std::result::Result<(), CounterReset> {
        let gauge = h.counter_reset == CounterReset::Gauge;
        let fresh = if gauge { CounterReset::Gauge } else { CounterReset::Unknown };
        if gauge != (self.reset == CounterReset::Gauge) {
            return Err(fresh);
        }
        if h.is_stale() {
            self.put(t, &FloatHistogram { sum: h.sum, ..FloatHistogram::default() });
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
            return Err(if gauge { fresh } else { CounterReset::Reset });
        }
        let union = if self.layout == wanted { wanted } else { self.layout.union(&wanted) };
        let spread_h;
        let h = if layout_of(h) == union {
            h
        } else {
            spread_h = spread(h, &union);
            &spread_h
        };
        if union != self.layout {
            *self = self.recoded(union).ok_or(fresh)?;
        }
        if !gauge && self.fell(h) {
            return Err(CounterReset::Reset);
        }
        self.put(t, h);
        Ok(())
    }

    fn fell(&self, h: &FloatHistogram) -> bool {
        let down = |new: &[f64], old: &[f64]| new.iter().zip(old).any(|(n, o)| n < o);
        h.count < self.last.count
            || h.zero_count < self.last.zero_count
            || down(&h.positive_buckets, &self.last.positive_buckets)
            || down(&h.negative_buckets, &self.last.negative_buckets)
    }

    fn recoded(&self, layout: Layout) -> Option<Self> {
        let mut samples = Vec::new();
        each(&self.buf, &mut |t, h| samples.push((t, h))).ok()?;
        let mut it = samples.iter();
        let (t, h) = it.next()?;
        let mut a = Self::with_layout(*t, &spread(h, &layout), self.reset, layout.clone());
        for (t, h) in it {
            a.put(*t, &spread(h, &layout));
        }
        Some(a)
    }

    fn put(&mut self, t: i64, h: &FloatHistogram) {
        let t_delta = t.wrapping_sub(self.t);
        let mut w = BitWriter::new(&mut self.buf, &mut self.free);
        w.varbit_int(if self.n == 1 { t_delta } else { t_delta.wrapping_sub(self.t_delta) });
        self.count.write(&mut w, h.count);
        self.zero.write(&mut w, h.zero_count);
        self.sum.write(&mut w, h.sum);
        for (x, b) in self.buckets.iter_mut().zip(h.positive_buckets.iter().chain(&h.negative_buckets)) {
            x.write(&mut w, *b);
        }
        self.t_delta = t_delta;
        self.ended(t, h);
    }

    fn ended(&mut self, t: i64, h: &FloatHistogram) {
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
    pub fn last(&self) -> (i64, &FloatHistogram) {
        (self.t, &self.last)
    }
}

/// Appends to `out` the histograms of a chunk that lie in `range`.
pub fn decode_float_histogram(data: &[u8], range: TimeRange, out: &mut SampleBuf) -> Result<()> {
    each(data, &mut |t, h| {
        if range.contains(t) {
            out.push_histogram(t, Arc::new(h), 0);
        }
    })
}

fn each(data: &[u8], f: &mut dyn FnMut(i64, FloatHistogram)) -> Result<()> {
    let n = num_samples(data);
    if n == 0 {
        return Ok(());
    }
    let Some((flags, rest)) = data.get(2..).and_then(|d| d.split_first()) else { return Err(cut_short("float histogram")) };
    read_all(*flags, rest, n, f).ok_or_else(|| cut_short("float histogram"))
}

fn read_all(flags: u8, data: &[u8], n: usize, f: &mut dyn FnMut(i64, FloatHistogram)) -> Option<()> {
    let mut r = BitReader::new(data);
    let layout = Layout::read(&mut r)?;
    let (np, nn) = layout.buckets();
    let mut t = r.varbit_int()?;
    let first = |r: &mut BitReader<'_>| Some(Xored::new(f64::from_bits(r.bits(64)?)));
    let (mut count, mut zero, mut sum) = (first(&mut r)?, first(&mut r)?, first(&mut r)?);
    let mut buckets = Vec::new();
    for _ in 0..np + nn {
        buckets.push(first(&mut r)?);
    }
    let mut t_delta = 0i64;
    for i in 0..n {
        if i > 0 {
            let x = r.varbit_int()?;
            t_delta = if i == 1 { x } else { t_delta.wrapping_add(x) };
            t = t.wrapping_add(t_delta);
            count.read(&mut r)?;
            zero.read(&mut r)?;
            sum.read(&mut r)?;
        }
        if crate::model::is_stale(sum.value()) {
            f(t, FloatHistogram { sum: sum.value(), counter_reset: reset_hint(flags, i), ..FloatHistogram::default() });
            continue;
        }
        if i > 0 {
            for b in &mut buckets {
                b.read(&mut r)?;
            }
        }
        let values = |b: &[Xored]| b.iter().map(|x| x.value()).collect();
        f(
            t,
            FloatHistogram {
                schema: layout.schema,
                counter_reset: reset_hint(flags, i),
                zero_threshold: layout.zero_threshold,
                zero_count: zero.value(),
                count: count.value(),
                sum: sum.value(),
                positive_spans: layout.positive.clone(),
                negative_spans: layout.negative.clone(),
                positive_buckets: values(&buckets[..np]),
                negative_buckets: values(&buckets[np..]),
                custom_values: layout.custom.clone(),
            },
        );
    }
    Some(())
}
