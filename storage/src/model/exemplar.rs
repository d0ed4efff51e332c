//! Exemplars.

use super::Labels;

/// A sample's witness, usually a trace id.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// The exemplar's own labels, e.g. `trace_id`.
    pub labels: Labels,
    /// The observed value.
    pub v: f64,
    /// Unix milliseconds.
    pub t: i64,
}
