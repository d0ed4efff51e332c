//! Plain data that every layer speaks of: labels, matchers, samples, histograms.

mod exemplar;
mod histogram;
mod histogram_resolution;
mod histogram_sum;
mod labels;
mod matcher;
mod re2;
mod sample;
#[cfg(feature = "traces")]
mod span;
#[cfg(feature = "traces")]
mod span_builder;

pub use exemplar::Exemplar;
pub use histogram::{BucketSpan, CUSTOM_BUCKETS_SCHEMA, CounterReset, FloatHistogram, Histogram, HistogramError};
pub use labels::{Labels, LabelsBuilder, METRIC_NAME};
pub use matcher::{MatchOp, Matcher, MatcherError, Regex};
pub use sample::{MetricKind, MetricMetadata, STALE_NAN, Sample, TimeRange, is_stale, stale_nan};
#[cfg(feature = "traces")]
pub use span::{
    AttributeValue, Attributes, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, Trace, TraceId, find as find_attribute, sort_attributes,
};
#[cfg(feature = "traces")]
pub use span_builder::SpanKind;
