//! What is common to all histograms of a chunk: schema, zero threshold, spans, custom bounds.

use std::sync::Arc;

use crate::codec::{BitReader, BitWriter};
use crate::model::{BucketSpan, CUSTOM_BUCKETS_SCHEMA, CounterReset};

/// More buckets than this can't come from a histogram that we or Prometheus wrote.
const MAX_BUCKETS: u64 = 65_536;

/// Schema, zero bucket width, and where buckets lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// -4..=8 or -53.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Positive spans.
    pub positive: Vec<BucketSpan>,
    /// Negative spans.
    pub negative: Vec<BucketSpan>,
    /// Custom bounds.
    pub custom: Arc<[f64]>,
}

/// The same, borrowed from a histogram.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// -4..=8 or -53.
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Positive spans.
    pub positive: &'a [BucketSpan],
    /// Negative spans.
    pub negative: &'a [BucketSpan],
    /// Custom bounds.
    pub custom: &'a Arc<[f64]>,
}

impl Shape<'_> {
    /// Whether it is this layout.
    pub fn is(&self, l: &Layout) -> bool {
        self.schema == l.schema
            && self.zero_threshold == l.zero_threshold
            && self.positive == l.positive
            && self.negative == l.negative
            && *self.custom == l.custom
    }

    /// Kept.
    pub fn layout(&self) -> Layout {
        Layout {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            positive: self.positive.to_vec(),
            negative: self.negative.to_vec(),
            custom: self.custom.clone(),
        }
    }
}

/// Flags byte: the upper two bits say what is known of a reset before the chunk.
pub(super) fn reset_flags(r: CounterReset) -> u8 {
    match r {
        CounterReset::Unknown => 0,
        CounterReset::NotReset => 0b0100_0000,
        CounterReset::Reset => 0b1000_0000,
        CounterReset::Gauge => 0b1100_0000,
    }
}

/// The hint of sample `i`. Nothing is said of the first one, whatever the header says: the chunk before it may have
/// been dropped, or written later.
pub(super) fn reset_hint(flags: u8, i: usize) -> CounterReset {
    match flags & 0b1100_0000 {
        0b1100_0000 => CounterReset::Gauge,
        _ if i > 0 => CounterReset::NotReset,
        _ => CounterReset::Unknown,
    }
}

impl Layout {
    /// Number of (positive, negative) buckets.
    pub fn buckets(&self) -> (usize, usize) {
        let n = |s: &[BucketSpan]| s.iter().map(|s| s.length as usize).sum();
        (n(&self.positive), n(&self.negative))
    }

    /// Whether histograms of the two can share a chunk, maybe after widening the spans.
    pub fn compatible(&self, o: &Layout) -> bool {
        let same_custom =
            self.custom.len() == o.custom.len() && self.custom.iter().zip(o.custom.iter()).all(|(a, b)| a.to_bits() == b.to_bits());
        self.schema == o.schema && self.zero_threshold == o.zero_threshold && same_custom
    }

    /// The layout that has the buckets of both.
    pub fn union(&self, o: &Layout) -> Layout {
        let join = |a: &[BucketSpan], b: &[BucketSpan]| {
            let mut all = indices(a);
            all.extend(indices(b));
            all.sort_unstable();
            all.dedup();
            spans_of(&all)
        };
        Layout { positive: join(&self.positive, &o.positive), negative: join(&self.negative, &o.negative), ..self.clone() }
    }

    pub(super) fn write(&self, w: &mut BitWriter<'_>) {
        write_threshold(w, self.zero_threshold);
        w.varbit_int(self.schema as i64);
        for spans in [&self.positive, &self.negative] {
            w.varbit_uint(spans.len() as u64);
            for s in spans {
                w.varbit_uint(s.length as u64);
                w.varbit_int(s.offset as i64);
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            w.varbit_uint(self.custom.len() as u64);
            for b in self.custom.iter() {
                write_bound(w, *b);
            }
        }
    }

    pub(super) fn read(r: &mut BitReader<'_>) -> Option<Layout> {
        let zero_threshold = read_threshold(r)?;
        let schema = i32::try_from(r.varbit_int()?).ok()?;
        let positive = read_spans(r)?;
        let negative = read_spans(r)?;
        let mut custom = Vec::new();
        if schema == CUSTOM_BUCKETS_SCHEMA {
            let n = r.varbit_uint().filter(|n| *n <= MAX_BUCKETS)?;
            for _ in 0..n {
                custom.push(read_bound(r)?);
            }
        }
        Some(Layout { schema, zero_threshold, positive, negative, custom: custom.into() })
    }
}

fn read_spans(r: &mut BitReader<'_>) -> Option<Vec<BucketSpan>> {
    let n = r.varbit_uint().filter(|n| *n <= MAX_BUCKETS)?;
    let mut out = Vec::new();
    let mut total = 0u64;
    for _ in 0..n {
        let length = r.varbit_uint()?;
        total = total.checked_add(length).filter(|t| *t <= MAX_BUCKETS)?;
        out.push(BucketSpan { length: length as u32, offset: i32::try_from(r.varbit_int()?).ok()? });
    }
    Some(out)
}

/// 0 as a zero byte; powers of two from 2^-243 to 2^10 as 1..=254; else 255 and the float.
fn write_threshold(w: &mut BitWriter<'_>, z: f64) {
    if z == 0.0 {
        return w.bits(0, 8);
    }
    let bits = z.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022;
    if z > 0.0 && bits & ((1 << 52) - 1) == 0 && (-242..=11).contains(&exponent) {
        return w.bits((exponent + 243) as u64, 8);
    }
    w.bits(255, 8);
    w.bits(bits, 64);
}

fn read_threshold(r: &mut BitReader<'_>) -> Option<f64> {
    match r.bits(8)? {
        0 => Some(0.0),
        255 => Some(f64::from_bits(r.bits(64)?)),
        b => Some(2f64.powi(b as i32 - 243 - 1)),
    }
}

/// Bounds of few decimals are stored as thousandths plus one; others as a zero bit and the float.
fn write_bound(w: &mut BitWriter<'_>, b: f64) {
    let y = b * 1000.0;
    if (0.0..=33_554_430.0).contains(&y) && y.fract() == 0.0 && y / 1000.0 == b {
        w.varbit_uint(y as u64 + 1);
    } else {
        w.bit(false);
        w.bits(b.to_bits(), 64);
    }
}

fn read_bound(r: &mut BitReader<'_>) -> Option<f64> {
    match r.varbit_uint()? {
        0 => Some(f64::from_bits(r.bits(64)?)),
        y => Some((y - 1) as f64 / 1000.0),
    }
}

/// Bucket indices that spans cover.
pub(super) fn indices(spans: &[BucketSpan]) -> Vec<i32> {
    let mut out = Vec::new();
    let mut at = 0i32;
    for s in spans {
        at = at.wrapping_add(s.offset);
        for _ in 0..s.length {
            out.push(at);
            at = at.wrapping_add(1);
        }
    }
    out
}

/// The shortest spans that cover rising indices.
pub(super) fn spans_of(indices: &[i32]) -> Vec<BucketSpan> {
    let mut out: Vec<BucketSpan> = Vec::new();
    let mut end = 0i32;
    for i in indices {
        match out.last_mut() {
            Some(s) if *i == end => s.length += 1,
            _ => out.push(BucketSpan { offset: i - end, length: 1 }),
        }
        end = i + 1;
    }
    out
}

/// Moves counts from one set of spans to a wider one; new buckets are zero.
pub(super) fn widen<T: Copy + Default>(counts: &[T], from: &[BucketSpan], to: &[BucketSpan]) -> Vec<T> {
    let target = indices(to);
    let mut out = vec![T::default(); target.len()];
    let mut k = 0;
    for (i, c) in indices(from).into_iter().zip(counts) {
        while k < target.len() && target[k] < i {
            k += 1;
        }
        if k < target.len() && target[k] == i {
            out[k] = *c;
        }
    }
    out
}
