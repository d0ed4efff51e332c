//! Native histograms: exponential (schemas -4..=8) and custom bounds (schema -53).

use std::sync::Arc;

/// Schema number of histograms with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// What is known of a reset between this histogram and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CounterReset {
    /// Must be found by comparing.
    #[default]
    Unknown,
    /// A reset lies between.
    Reset,
    /// No reset lies between.
    NotReset,
    /// A gauge: resets mean nothing.
    Gauge,
}

/// `length` consecutive buckets, `offset` buckets after the end of the span before
/// (after index 0 for the first).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BucketSpan {
    /// Gap to the span before; only the first may be negative.
    pub offset: i32,
    /// Buckets in it.
    pub length: u32,
}

/// A histogram of integer counts. Buckets hold deltas: the first absolute, the others to the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// -4..=8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// What is known of a reset before it.
    pub counter_reset: CounterReset,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: u64,
    /// All observations.
    pub count: u64,
    /// Sum of observations; the staleness marker makes the histogram stale.
    pub sum: f64,
    /// Where the positive buckets lie.
    pub positive_spans: Vec<BucketSpan>,
    /// Where the negative buckets lie.
    pub negative_spans: Vec<BucketSpan>,
    /// Delta-coded positive counts.
    pub positive_buckets: Vec<i64>,
    /// Delta-coded negative counts.
    pub negative_buckets: Vec<i64>,
    /// Upper bounds of custom buckets; empty for exponential schemas.
    pub custom_values: Arc<[f64]>,
}

/// A histogram of float counts; buckets hold absolute counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FloatHistogram {
    /// -4..=8, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// What is known of a reset before it.
    pub counter_reset: CounterReset,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations.
    pub count: f64,
    /// Sum of observations; the staleness marker makes the histogram stale.
    pub sum: f64,
    /// Where the positive buckets lie.
    pub positive_spans: Vec<BucketSpan>,
    /// Where the negative buckets lie.
    pub negative_spans: Vec<BucketSpan>,
    /// Absolute positive counts.
    pub positive_buckets: Vec<f64>,
    /// Absolute negative counts.
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of custom buckets; empty for exponential schemas.
    pub custom_values: Arc<[f64]>,
}

/// Why a histogram contradicts itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum HistogramError {
    #[error("schema {0} is not one of -4..=8 or -53")]
    Schema(i32),
    #[error("{side} spans cover {spans} buckets but {buckets} are given")]
    SpanLength { side: &'static str, spans: u64, buckets: usize },
    #[error("{side} span {index} has negative offset {offset}")]
    SpanOffset { side: &'static str, index: usize, offset: i32 },
    #[error("{side} bucket {index} has negative count {count}")]
    NegativeCount { side: &'static str, index: usize, count: f64 },
    #[error("the count of {what} is {count}")]
    NegativeTotal { what: &'static str, count: f64 },
    #[error("{buckets} observations in buckets but the count is {count}")]
    CountMismatch { buckets: f64, count: f64 },
    #[error("custom bounds must rise strictly and be finite (bound {0})")]
    CustomBounds(usize),
    #[error("{0}")]
    CustomShape(&'static str),
    #[error("the zero bucket's threshold {0} is not a number from 0 on")]
    ZeroThreshold(f64),
    #[error("{0} buckets are more than the {1} allowed")]
    TooManyBuckets(u64, u64),
}

/// More buckets than this in one histogram are refused.
const MAX_BUCKETS: u64 = 65_536;

impl Histogram {
    /// Whether it is the staleness marker.
    pub fn is_stale(&self) -> bool {
        super::is_stale(self.sum)
    }

    /// Whether bounds are custom.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// The same observations with float counts.
    pub fn to_float(&self) -> FloatHistogram {
        let absolute = |d: &[i64]| {
            let mut c = 0i64;
            d.iter()
                .map(|x| {
                    c = c.wrapping_add(*x);
                    c as f64
                })
                .collect()
        };
        FloatHistogram {
            schema: self.schema,
            counter_reset: self.counter_reset,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count as f64,
            count: self.count as f64,
            sum: self.sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            positive_buckets: absolute(&self.positive_buckets),
            negative_buckets: absolute(&self.negative_buckets),
            custom_values: self.custom_values.clone(),
        }
    }

    /// Checks that spans, buckets and counts agree.
    pub fn validate(&self) -> Result<(), HistogramError> {
        shape(
            self.schema,
            &self.positive_spans,
            &self.negative_spans,
            self.positive_buckets.len(),
            self.negative_buckets.len(),
            &self.custom_values,
        )?;
        zero_bucket(self.zero_threshold)?;
        if self.uses_custom_buckets() && (self.zero_count != 0 || self.zero_threshold != 0.0) {
            return Err(HistogramError::CustomShape("custom bounds allow no zero bucket"));
        }
        let mut total = self.zero_count as i128;
        for (side, d) in [("positive", &self.positive_buckets), ("negative", &self.negative_buckets)] {
            let mut c = 0i128;
            for (index, x) in d.iter().enumerate() {
                c += *x as i128;
                if c < 0 {
                    return Err(HistogramError::NegativeCount { side, index, count: c as f64 });
                }
                total += c;
            }
        }
        // A NaN observation counts but falls into no bucket.
        let agree = if self.sum.is_nan() { total <= self.count as i128 } else { total == self.count as i128 };
        if !agree && !self.is_stale() {
            return Err(HistogramError::CountMismatch { buckets: total as f64, count: self.count as f64 });
        }
        Ok(())
    }
}

impl FloatHistogram {
    /// Whether it is the staleness marker.
    pub fn is_stale(&self) -> bool {
        super::is_stale(self.sum)
    }

    /// Whether bounds are custom.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// All that it says as numbers, by the bits of floats, but what is known of a reset: two that mean the same have the same,
    /// whatever empty buckets they were written with. For equality and for an order, which NaN would disturb.
    pub fn content(&self) -> impl Iterator<Item = u64> {
        let side = |spans, counts| {
            let full = buckets(spans, counts).filter(|(_, c)| *c != 0.0);
            full.flat_map(|(i, c)| [i as u64, c.to_bits()]).chain([u64::MAX])
        };
        let scalars = [self.sum, self.count, self.zero_count, self.zero_threshold].map(f64::to_bits);
        (scalars.into_iter().chain([self.schema as u64]))
            .chain(side(&self.positive_spans, &self.positive_buckets))
            .chain(side(&self.negative_spans, &self.negative_buckets))
            .chain(self.custom_values.iter().map(|v| v.to_bits()))
    }

    /// Checks that spans and buckets agree and no count is negative. Of NaN nothing is said: it is what recording rules make.
    pub fn validate(&self) -> Result<(), HistogramError> {
        shape(
            self.schema,
            &self.positive_spans,
            &self.negative_spans,
            self.positive_buckets.len(),
            self.negative_buckets.len(),
            &self.custom_values,
        )?;
        zero_bucket(self.zero_threshold)?;
        if self.uses_custom_buckets() && (self.zero_count != 0.0 || self.zero_threshold != 0.0) {
            return Err(HistogramError::CustomShape("custom bounds allow no zero bucket"));
        }
        if self.counter_reset == CounterReset::Gauge {
            return Ok(());
        }
        for (what, count) in [("the zero bucket", self.zero_count), ("all buckets", self.count)] {
            if count < 0.0 {
                return Err(HistogramError::NegativeTotal { what, count });
            }
        }
        for (side, d) in [("positive", &self.positive_buckets), ("negative", &self.negative_buckets)] {
            if let Some((index, count)) = d.iter().copied().enumerate().find(|(_, c)| *c < 0.0) {
                return Err(HistogramError::NegativeCount { side, index, count });
            }
        }
        Ok(())
    }
}

/// Index and count of each bucket.
fn buckets<'a>(spans: &'a [BucketSpan], counts: &'a [f64]) -> impl Iterator<Item = (i64, f64)> + 'a {
    let mut next = 0i64;
    let indices = spans.iter().flat_map(move |s| {
        let first = next + i64::from(s.offset);
        next = first + i64::from(s.length);
        first..next
    });
    indices.zip(counts.iter().copied())
}

fn zero_bucket(threshold: f64) -> Result<(), HistogramError> {
    // NaN is less than nothing.
    if threshold >= 0.0 { Ok(()) } else { Err(HistogramError::ZeroThreshold(threshold)) }
}

fn shape(schema: i32, pos: &[BucketSpan], neg: &[BucketSpan], n_pos: usize, n_neg: usize, custom: &[f64]) -> Result<(), HistogramError> {
    let custom_schema = schema == CUSTOM_BUCKETS_SCHEMA;
    if !custom_schema && !(-4..=8).contains(&schema) {
        return Err(HistogramError::Schema(schema));
    }
    for (side, spans, buckets) in [("positive", pos, n_pos), ("negative", neg, n_neg)] {
        let total: u64 = spans.iter().map(|s| s.length as u64).sum();
        if total > MAX_BUCKETS {
            return Err(HistogramError::TooManyBuckets(total, MAX_BUCKETS));
        }
        if total != buckets as u64 {
            return Err(HistogramError::SpanLength { side, spans: total, buckets });
        }
        for (index, s) in spans.iter().enumerate() {
            if s.offset < 0 && (index > 0 || custom_schema) {
                return Err(HistogramError::SpanOffset { side, index, offset: s.offset });
            }
        }
    }
    if !custom_schema {
        if !custom.is_empty() {
            return Err(HistogramError::CustomShape("exponential schemas have no custom bounds"));
        }
        return Ok(());
    }
    if n_neg > 0 || !neg.is_empty() {
        return Err(HistogramError::CustomShape("custom bounds allow no negative buckets"));
    }
    let mut prev = f64::NEG_INFINITY;
    for (i, b) in custom.iter().enumerate() {
        if !b.is_finite() || *b <= prev {
            return Err(HistogramError::CustomBounds(i));
        }
        prev = *b;
    }
    let reach: i64 = pos.iter().map(|s| s.offset as i64 + s.length as i64).sum();
    if reach > custom.len() as i64 + 1 {
        return Err(HistogramError::CustomShape("more buckets than custom bounds allow"));
    }
    Ok(())
}
