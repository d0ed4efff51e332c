//! Samples, staleness, time ranges, metric metadata.

/// Bits of the NaN that marks a series as stale.
pub const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// The staleness marker as a value.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN)
}

/// Whether `v` is the staleness marker; other NaNs are ordinary values.
#[inline]
pub fn is_stale(v: f64) -> bool {
    v.to_bits() == STALE_NAN
}

/// A float sample: Unix milliseconds and value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Unix milliseconds.
    pub t: i64,
    /// The value, NaN payload kept.
    pub v: f64,
}

/// Milliseconds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// First millisecond.
    pub min_ms: i64,
    /// Last millisecond.
    pub max_ms: i64,
}

impl TimeRange {
    /// A range; empty where `min_ms > max_ms`.
    pub fn new(min_ms: i64, max_ms: i64) -> Self {
        TimeRange { min_ms, max_ms }
    }
    /// All of time.
    pub fn all() -> Self {
        TimeRange { min_ms: i64::MIN, max_ms: i64::MAX }
    }
    /// The range of this width that `t` lies in, as all of time is cut from the epoch on; what lies beyond the numbers is cut off.
    pub fn aligned(t: i64, width_ms: i64) -> Self {
        let min_ms = t.div_euclid(width_ms).saturating_mul(width_ms);
        TimeRange { min_ms, max_ms: min_ms.saturating_add(width_ms - 1) }
    }
    /// Whether the ranges share a millisecond.
    pub fn overlaps(&self, other: TimeRange) -> bool {
        self.min_ms <= other.max_ms && other.min_ms <= self.max_ms
    }
    /// Whether `t` lies in it.
    pub fn contains(&self, t: i64) -> bool {
        self.min_ms <= t && t <= self.max_ms
    }
}

/// What a metric family is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetricKind {
    /// Not said.
    #[default]
    Unknown,
    /// Monotonic.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Classic or native histogram.
    Histogram,
    /// Histogram whose buckets may fall.
    GaugeHistogram,
    /// Quantiles computed by the client.
    Summary,
    /// Constant 1, labels carry the facts.
    Info,
    /// One of several states.
    StateSet,
}

impl MetricKind {
    /// The word Prometheus uses in `/api/v1/metadata` and exposition formats.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricKind::Unknown => "unknown",
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::GaugeHistogram => "gaugehistogram",
            MetricKind::Summary => "summary",
            MetricKind::Info => "info",
            MetricKind::StateSet => "stateset",
        }
    }
}

/// Type, help and unit of a metric family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricMetadata {
    /// What it is.
    pub kind: MetricKind,
    /// Help text.
    pub help: String,
    /// Unit, e.g. `seconds`.
    pub unit: String,
}
