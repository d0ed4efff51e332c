//! Appending samples.

use strandline_storage::metrics::MetricStore;
use strandline_storage::metrics::head::{BatchBuilder, Rejected, SeriesHandle, Value};
use strandline_storage::model::Labels;
use strandline_storage::{Error, ErrorKind, Result};

/// Samples that are committed together. What can't be taken is refused alone.
pub struct Batch {
    store: MetricStore,
    out: BatchBuilder,
    last: Option<(Labels, u32)>,
}

/// What a commit stored.
#[derive(Debug)]
#[must_use = "it tells what was refused"]
pub struct Committed {
    /// Samples stored (or known already).
    pub accepted: u64,
    /// Samples refused, with their index and the reason.
    pub rejected: Vec<Rejected>,
}

impl Committed {
    /// An error if anything was refused.
    pub fn all(self) -> Result<u64> {
        match self.rejected.first() {
            None => Ok(self.accepted),
            Some(r) => {
                let text = r.detail.as_deref().unwrap_or(r.why.message());
                Err(Error::new(ErrorKind::Invalid, format!("{} samples refused; item {}: {text}", self.rejected.len(), r.item)))
            }
        }
    }
}

impl Batch {
    pub(crate) fn new(store: MetricStore) -> Self {
        Batch { store, out: BatchBuilder::default(), last: None }
    }

    /// Adds a sample: labels, Unix milliseconds, value. Samples of one series are best added one after another.
    pub fn sample(&mut self, labels: &Labels, t_ms: i64, v: f64) -> &mut Self {
        let series = match &self.last {
            Some((l, s)) if l == labels => *s,
            _ => {
                let s = self.out.series(labels);
                self.last = Some((labels.clone(), s));
                s
            }
        };
        self.out.push(series, t_ms, 0, Value::Float(v));
        self
    }

    /// Adds a sample to a series by its handle: no lookup by name.
    pub fn by_handle(&mut self, h: SeriesHandle, t_ms: i64, v: f64) -> &mut Self {
        let s = self.out.handle(h);
        self.last = None;
        self.out.push(s, t_ms, 0, Value::Float(v));
        self
    }

    /// Samples so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Blocks until everything is durable and visible. An error is for the whole batch: nothing was acknowledged,
    /// and the same samples may be sent again.
    pub fn commit(self) -> Result<Committed> {
        let a = self.store.append(&self.out.finish())?;
        a.commit.wait()?;
        Ok(Committed { accepted: a.accepted, rejected: a.rejected })
    }
}
