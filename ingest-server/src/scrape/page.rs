//! What a page holds, in whichever format it came.

use strandline_storage::metrics::head::Value;
use strandline_storage::model::{Exemplar, Labels, MetricMetadata};

/// A sample of a page.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Name and labels.
    pub labels: Labels,
    /// Value.
    pub value: Value,
    /// A time of its own.
    pub t_ms: Option<i64>,
    /// Since when it counts, Unix milliseconds; 0: the page does not say.
    pub start_ms: i64,
    /// Exemplars; those without a time have 0.
    pub exemplars: Vec<Exemplar>,
    /// Labels that the page gives as empty: the series has none of that name, and wants none.
    pub emptied: Vec<String>,
}

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Its samples.
    pub samples: Vec<Sample>,
    /// What it says of families.
    pub meta: Vec<(String, MetricMetadata)>,
}

/// A number as OpenMetrics has it in labels: never without a fraction or an exponent.
pub fn number_in_label(v: f64) -> String {
    let s = strandline_query::promql::format_general(v);
    if v.is_finite() && !s.contains(['.', 'e']) { format!("{s}.0") } else { s }
}
