//! A source that ends a query whose time is over, or whose client is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use strandline_storage::model::{Trace, TraceId};
use strandline_storage::read::{AttributeScope, Column, Field, ScanRequest, ScanStats, SpanBatch, SpanIds, SpanSource, Visit, Warnings};
use strandline_storage::{Error, ErrorKind, Result};

/// How long a query may take, and whether anybody still waits for it.
#[derive(Clone)]
pub struct Patience {
    came: Instant,
    timeout: Duration,
    gone: Arc<AtomicBool>,
}

/// Says that nobody waits any more when it is dropped.
pub struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Patience {
    /// From now on.
    pub fn new(timeout: Duration) -> (Self, Waiting) {
        let gone = Arc::new(AtomicBool::new(false));
        (Patience { came: Instant::now(), timeout, gone: gone.clone() }, Waiting(gone))
    }

    fn check(&self) -> Result<()> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "the client went away"));
        }
        if self.came.elapsed() > self.timeout {
            let message = format!("the query took longer than {:?} (query.timeout): ask for less time, or more precisely", self.timeout);
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        Ok(())
    }
}

/// A source of spans that looks at [`Patience`] before each batch and each trace.
pub struct Watched {
    /// Where the spans come from.
    pub source: Arc<dyn SpanSource>,
    /// How long they are read.
    pub patience: Patience,
}

impl SpanSource for Watched {
    fn scan(&self, request: &ScanRequest, visit: &mut dyn FnMut(&dyn SpanBatch) -> Result<Visit>) -> Result<ScanStats> {
        self.source.scan(request, &mut |batch| {
            self.patience.check()?;
            visit(&WatchedBatch { batch, patience: &self.patience })
        })
    }

    fn trace(&self, id: TraceId) -> Result<Option<Trace>> {
        self.patience.check()?;
        self.source.trace(id)
    }

    fn trace_partial(&self, id: TraceId) -> Result<(Option<Trace>, Warnings)> {
        self.patience.check()?;
        self.source.trace_partial(id)
    }

    fn trace_batch(&self, id: TraceId) -> Result<Option<Box<dyn SpanBatch>>> {
        self.patience.check()?;
        self.source.trace_batch(id)
    }

    fn attribute_keys(&self, min_nano: u64, max_nano: u64) -> Result<Vec<(AttributeScope, Vec<String>)>> {
        self.patience.check()?;
        self.source.attribute_keys(min_nano, max_nano)
    }
}

struct WatchedBatch<'a> {
    batch: &'a dyn SpanBatch,
    patience: &'a Patience,
}

impl SpanBatch for WatchedBatch<'_> {
    fn len(&self) -> usize {
        self.batch.len()
    }
    fn traces(&self) -> &[u32] {
        self.batch.traces()
    }
    fn trace_id(&self, trace: usize) -> TraceId {
        self.batch.trace_id(trace)
    }
    fn excluded(&self) -> Option<&[bool]> {
        self.batch.excluded()
    }
    fn starts(&self) -> Result<Arc<Vec<u64>>> {
        self.batch.starts()
    }
    fn durations(&self) -> Result<Arc<Vec<u64>>> {
        self.batch.durations()
    }
    fn ids(&self) -> Result<Arc<SpanIds>> {
        self.batch.ids()
    }
    fn column(&self, field: &Field) -> Result<Arc<Column>> {
        self.go_on().and_then(|()| self.batch.column(field))
    }
    fn columns(&self, fields: &[Field]) -> Result<Vec<Arc<Column>>> {
        self.go_on().and_then(|()| self.batch.columns(fields))
    }
    fn go_on(&self) -> Result<()> {
        self.patience.check()
    }
}
