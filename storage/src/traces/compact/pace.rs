//! When merges give way: while flushes take much of the time, they would take what ingest needs, and more memory where it
//! is short already.

use std::collections::VecDeque;

/// Flushes are remembered for so long.
const WITHIN_MS: i64 = 15_000;
/// Merges give way while flushes took so much of that time.
const BUSY_MS: i64 = 3_000;

/// What flushes took of late. Of a clock that stands still, nothing.
#[derive(Debug, Default)]
pub struct Pace {
    flushes: VecDeque<(i64, i64)>,
}

impl Pace {
    /// A flush has ended.
    pub fn flushed(&mut self, began_ms: i64, ended_ms: i64) {
        self.flushes.push_back((began_ms, ended_ms.max(began_ms)));
        // A clock that was set back does not make them stay for ever.
        self.flushes.retain(|(_, end)| *end <= ended_ms && ended_ms - end < WITHIN_MS);
    }

    /// Whether merges should wait.
    pub fn is_busy(&self, now_ms: i64) -> bool {
        let since = now_ms.saturating_sub(WITHIN_MS);
        let took = |(began, ended): &(i64, i64)| (*ended.min(&now_ms) - *began.max(&since)).max(0);
        self.flushes.iter().map(took).sum::<i64>() >= BUSY_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_flushes_or_long_ones_make_it_busy_for_a_while() {
        let mut p = Pace::default();
        for i in 0..10 {
            p.flushed(i * 1_000, i * 1_000 + 290);
        }
        assert!(!p.is_busy(10_000), "2.9 of 10 s");
        p.flushed(10_000, 10_200);
        assert!(p.is_busy(10_200));
        assert!(p.is_busy(15_000));
        assert!(!p.is_busy(15_300), "the first one is forgotten");
        p.flushed(100_000, 104_000);
        assert!(p.is_busy(104_000));
        assert!(p.is_busy(115_900));
        assert!(!p.is_busy(116_100), "less than three seconds of it are left");
        assert_eq!(p.flushes.len(), 1);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_holds_nothing_up() {
        let mut p = Pace::default();
        (0..1_000).for_each(|_| p.flushed(5_000, 5_000));
        assert!(!p.is_busy(5_000));
        p.flushed(100_000, 104_000);
        assert!(p.is_busy(104_000));
        assert!(!p.is_busy(50_000));
        p.flushed(50_000, 50_001);
        assert!(!p.is_busy(50_001));
        assert!(!p.is_busy(104_000));
    }
}
