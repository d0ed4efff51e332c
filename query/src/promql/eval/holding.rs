//! What an evaluation holds in memory, against its own limits and those of all queries of its engine together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::error::{Error, Limit, Result};
use super::EngineOptions;
use super::series::Series;

/// While all queries together hold too much, those go on that hold less than this part of it each.
const SMALL_PART: u64 = 16;

/// Counts what one evaluation holds; what is left of it is given back in the end.
pub(crate) struct Holding<'a> {
    options: &'a EngineOptions,
    /// Bytes of all evaluations of the engine.
    together: &'a AtomicU64,
    samples: AtomicU64,
    /// Bytes besides samples: labels, records, histograms, what is selected.
    beside: AtomicU64,
    peak: AtomicU64,
}

/// What series are counted as.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    samples: usize,
    bytes: usize,
}

impl Held {
    pub fn of<'s>(rows: impl IntoIterator<Item = &'s Series>) -> Self {
        rows.into_iter().fold(Held::default(), |mut h, r| {
            h.add(r);
            h
        })
    }

    pub fn add(&mut self, row: &Series) {
        self.samples += row.v.len();
        self.bytes += row.beside_bytes();
    }

    /// Whether it is worth counting by itself: the counters are shared between threads.
    pub fn is_worth_it(&self) -> bool {
        8 * self.samples + self.bytes >= 64 << 10
    }
}

impl<'a> Holding<'a> {
    pub fn new(options: &'a EngineOptions, together: &'a AtomicU64) -> Self {
        Holding { options, together, samples: AtomicU64::new(0), beside: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// Counts samples now held in memory.
    pub fn hold(&self, samples: usize) -> Result<()> {
        let now = add(&self.samples, samples);
        self.peak.fetch_max(now, Relaxed);
        let all = add(self.together, 8 * samples);
        if now > self.options.max_samples {
            return Err(Error::LimitExceeded { limit: Limit::Samples, allowed: self.options.max_samples, needed: now });
        }
        self.fits(all)
    }

    /// Counts bytes now held besides samples.
    pub fn hold_bytes(&self, bytes: usize) -> Result<()> {
        add(&self.beside, bytes);
        self.fits(add(self.together, bytes))
    }

    /// Counts a series now held: its samples and what it takes besides.
    pub fn hold_row(&self, row: &Series) -> Result<()> {
        self.hold_rows(Held::of([row]))
    }

    /// Counts series now held.
    pub fn hold_rows(&self, rows: Held) -> Result<()> {
        self.hold(rows.samples)?;
        self.hold_bytes(rows.bytes)
    }

    fn fits(&self, together: u64) -> Result<()> {
        let (own, o) = (self.bytes(), self.options);
        if own > o.max_bytes {
            return Err(Error::LimitExceeded { limit: Limit::Bytes, allowed: o.max_bytes, needed: own });
        }
        if together > o.max_bytes_together && own > o.max_bytes_together / SMALL_PART {
            return Err(Error::LimitExceeded { limit: Limit::BytesTogether, allowed: o.max_bytes_together, needed: together });
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.samples.load(Relaxed).saturating_mul(8).saturating_add(self.beside.load(Relaxed))
    }

    pub fn release(&self, samples: usize) {
        self.together.fetch_sub(8 * lower(&self.samples, samples), Relaxed);
    }

    /// Ends [`Holding::hold_bytes`].
    pub fn release_bytes(&self, bytes: usize) {
        self.together.fetch_sub(lower(&self.beside, bytes), Relaxed);
    }

    /// Ends [`Holding::hold_rows`].
    pub fn release_rows(&self, held: Held) {
        self.release(held.samples);
        self.release_bytes(held.bytes);
    }

    /// The most samples that were held at once.
    pub fn peak_samples(&self) -> u64 {
        self.peak.load(Relaxed)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.together.fetch_sub(self.bytes(), Relaxed);
    }
}

fn add(counted: &AtomicU64, n: usize) -> u64 {
    counted.fetch_add(n as u64, Relaxed) + n as u64
}

/// Takes `n` off, but not below nothing, as some of what is released was never counted; tells how much it was.
fn lower(counted: &AtomicU64, n: usize) -> u64 {
    let taken = counted.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(n as u64)));
    taken.map_or(0, |before| before.min(n as u64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_all_hold_is_bounded_and_small_ones_go_on() {
        let o = EngineOptions { max_bytes: 1000, max_bytes_together: 1600, ..EngineOptions::default() };
        let together = AtomicU64::new(0);
        let (first, second) = (Holding::new(&o, &together), Holding::new(&o, &together));
        let limit = |r: Result<()>| match r {
            Err(Error::LimitExceeded { limit, needed, .. }) => Some((limit, needed)),
            other => panic!("{other:?}"),
        };
        first.hold_bytes(900).unwrap();
        second.hold(80).unwrap();
        assert_eq!(limit(second.hold_bytes(100)), Some((Limit::BytesTogether, 1640)));
        assert_eq!(limit(first.hold_bytes(101)), Some((Limit::Bytes, 1001)));
        Holding::new(&o, &together).hold(10).unwrap();
        drop(second);
        assert_eq!(together.load(Relaxed), 1001);
        // More than was held is not given back.
        first.release_bytes(5000);
        first.release(1);
        assert_eq!(together.load(Relaxed), 0);
    }
}
