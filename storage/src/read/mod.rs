//! The seam between storage and query: what a query engine may ask, and nothing about how it is kept.

mod series;
#[cfg(feature = "traces")]
mod spans;

pub use series::{ExemplarSeries, LabelQuery, Newest, SampleBuf, SelectRequest, SeriesSelection, SeriesSource, Warnings};
#[cfg(feature = "traces")]
pub(crate) use spans::hex;
#[cfg(feature = "traces")]
pub use spans::{
    AttributeScope, Column, Condition, Field, RowBatch, ScanRequest, ScanStats, SpanBatch, SpanIds, SpanSource, Value, Visit, field_of,
};
