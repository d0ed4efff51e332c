//! The seam between storage and query: what a query engine may ask, and nothing about how it is kept.

mod series;

pub use series::{ExemplarSeries, LabelQuery, Newest, SampleBuf, SelectRequest, SeriesSelection, SeriesSource, Warnings};
