//! Answers.

use std::sync::Arc;

use strandline_storage::model::{FloatHistogram, Labels};

use super::context::Steps;
use super::series::{Hist, Series, is_absent};

/// An answer with what there is to say about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueryResult {
    /// The answer.
    pub value: Value,
    /// What makes it doubtful.
    pub warnings: Vec<String>,
    /// What may be meant otherwise.
    pub infos: Vec<String>,
    /// What it took.
    pub stats: QueryStats,
}

/// What a query took.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct QueryStats {
    /// Samples read from the source.
    pub samples_read: u64,
    /// Samples held at once, at most.
    pub peak_samples: u64,
    /// Series selected.
    pub series: u64,
    /// Seconds of evaluation.
    pub seconds: f64,
    /// Seconds of it spent on finding series.
    pub selecting_seconds: f64,
    /// Unix milliseconds of each step and the samples looked at for it, as Prometheus counts them: a sample counts in
    /// every window that holds it, and a histogram as many floats as it is large. Empty unless
    /// [`QueryOptions::count_steps`](super::QueryOptions::count_steps) asked.
    pub samples_by_step: Vec<(i64, u64)>,
}

/// The value of an answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Scalar {
        /// Unix milliseconds.
        t: i64,
        /// The number.
        v: f64,
    },
    /// A string.
    String {
        /// Unix milliseconds.
        t: i64,
        /// The string.
        s: String,
    },
    /// One sample a series.
    Vector(Vec<VectorSample>),
    /// Many samples a series.
    Matrix(Vec<MatrixSeries>),
}

impl Value {
    /// Number of series; 1 for a scalar or a string.
    pub fn len(&self) -> usize {
        match self {
            Value::Vector(v) => v.len(),
            Value::Matrix(m) => m.len(),
            _ => 1,
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A float or a histogram.
#[derive(Clone, Debug)]
pub enum SampleValue {
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(Arc<FloatHistogram>),
}

/// A series' sample.
#[derive(Clone, Debug)]
pub struct VectorSample {
    /// The series.
    pub labels: Labels,
    /// Unix milliseconds.
    pub t: i64,
    /// The value.
    pub value: SampleValue,
}

#[derive(Clone, Debug)]
enum Times {
    Steps(Steps),
    Each(Vec<i64>),
}

/// A series' samples.
#[derive(Clone, Debug)]
pub struct MatrixSeries {
    /// The series.
    pub labels: Labels,
    times: Times,
    v: Vec<f64>,
    h: Vec<Option<Hist>>,
}

/// A sample as it lies in the series.
#[derive(Clone, Copy, Debug)]
pub enum SampleRef<'a> {
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(&'a Arc<FloatHistogram>),
}

impl MatrixSeries {
    pub(crate) fn of_steps(s: Series, steps: Steps) -> Self {
        MatrixSeries { labels: s.labels, times: Times::Steps(steps), v: s.v, h: s.h }
    }

    pub(crate) fn of_samples(labels: Labels, t: Vec<i64>, v: Vec<f64>, h: Vec<Option<Hist>>) -> Self {
        MatrixSeries { labels, times: Times::Each(t), v, h }
    }

    /// Samples in rising time: Unix milliseconds and value.
    pub fn samples(&self) -> impl Iterator<Item = (i64, SampleRef<'_>)> {
        (0..self.v.len()).filter_map(move |i| {
            let t = match &self.times {
                Times::Steps(s) => s.at(i),
                Times::Each(t) => t[i],
            };
            match self.h.get(i).and_then(|h| h.as_ref()) {
                Some(h) => Some((t, SampleRef::Histogram(h))),
                None if is_absent(self.v[i]) => None,
                None => Some((t, SampleRef::Float(self.v[i]))),
            }
        })
    }
}
