//! Time as the engine sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Where the engine asks the time.
pub trait Clock: Send + Sync + 'static {
    /// Unix milliseconds now.
    fn now_ms(&self) -> i64;

    /// The time, and between what it may lie where the clock is in doubt.
    fn times(&self) -> Times {
        self.now_ms().into()
    }

    /// A time that is surely past: what can't be undone goes by it.
    fn past_ms(&self) -> i64 {
        self.now_ms()
    }
}

/// The time as a clock tells it, and the earliest and latest that it may be, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// What the clock says.
    pub now_ms: i64,
    /// Not before.
    pub earliest_ms: i64,
    /// Not after.
    pub latest_ms: i64,
}

impl Times {
    /// Whether the clock leapt lately, and neither came back nor stayed for long.
    pub fn is_in_doubt(&self) -> bool {
        self.earliest_ms != self.latest_ms
    }
}

impl From<i64> for Times {
    fn from(now_ms: i64) -> Self {
        Times { now_ms, earliest_ms: now_ms, latest_ms: now_ms }
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now_ms(&self) -> i64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
    }
}

/// What the machine's clock is set by in small steps is no leap.
const STEP_MS: i64 = 60_000;
/// A leap is believed after so long.
const DOUBT_MS: i64 = 24 * 3_600_000;
/// Until then a clock that was wrong when the machine started is set right.
const START_MS: i64 = 15 * 60_000;

/// The machine's clock, held against one that nobody sets. When it leaps, both what it says and what it would have said count
/// as possible for a day: samples are taken by either, and nothing is removed or forgotten by the later one.
pub struct SteadyClock {
    began: Instant,
    /// Nothing is surely past until so long after the start.
    doubts_start_ms: i64,
    lines: Mutex<Lines>,
}

/// Differences between the machine's clock and the one that nobody sets, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lines {
    now: i64,
    low: i64,
    high: i64,
    /// Where it was before the leaps that are in doubt.
    origin: i64,
    /// When the last leap was, by the clock that nobody sets.
    leapt_ms: Option<i64>,
}

impl Lines {
    fn new(now: i64) -> Self {
        Lines { now, low: now, high: now, origin: now, leapt_ms: None }
    }

    /// Takes note of what the clocks say; gives how far the machine's leapt since the last look.
    fn look(&mut self, wall_ms: i64, even_ms: i64) -> Option<i64> {
        let (now, before) = (wall_ms.saturating_sub(even_ms), self.now);
        let leap = Some(now.saturating_sub(before)).filter(|l| l.saturating_abs() > STEP_MS);
        self.now = now;
        let over = self.leapt_ms.is_none_or(|t| even_ms.saturating_sub(t) > DOUBT_MS);
        match leap {
            None if over => *self = Lines::new(now),
            None => {}
            Some(_) => {
                if over {
                    (self.low, self.high, self.origin) = (before, before, before);
                }
                (self.low, self.high, self.leapt_ms) = (self.low.min(now), self.high.max(now), Some(even_ms));
                if now.saturating_sub(self.origin).saturating_abs() <= STEP_MS {
                    *self = Lines::new(now);
                }
            }
        }
        leap
    }

    fn times(&self, even_ms: i64) -> Times {
        let at = |line: i64| line.saturating_add(even_ms);
        Times { now_ms: at(self.now), earliest_ms: at(self.low.min(self.now)), latest_ms: at(self.high.max(self.now)) }
    }
}

impl SteadyClock {
    /// Believes the machine's clock as it is.
    pub fn new() -> Self {
        SteadyClock { began: Instant::now(), doubts_start_ms: 0, lines: Mutex::new(Lines::new(SystemClock.now_ms())) }
    }

    /// The same, but nothing is surely past for a while: for processes that begin with the machine and then go on for long.
    pub fn of_a_service() -> Self {
        SteadyClock { doubts_start_ms: START_MS, ..Self::new() }
    }

    fn look(&self) -> (Lines, i64) {
        let (wall_ms, even_ms) = (SystemClock.now_ms(), self.began.elapsed().as_millis() as i64);
        let mut lines = self.lines.lock();
        if let Some(leap_ms) = lines.look(wall_ms, even_ms) {
            let (by_s, way) = (leap_ms.saturating_abs() / 1000, if leap_ms > 0 { "forward" } else { "back" });
            let settled = lines.leapt_ms.is_none();
            tracing::error!(
                by_s,
                way,
                settled,
                "the machine's clock leapt; unless it comes back that is believed after a day, and nothing expires by it before"
            );
        }
        (lines.clone(), even_ms)
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> i64 {
        self.times().now_ms
    }

    fn times(&self) -> Times {
        let (l, even_ms) = self.look();
        l.times(even_ms)
    }

    fn past_ms(&self) -> i64 {
        let (l, even_ms) = self.look();
        if even_ms < self.doubts_start_ms { 0 } else { l.times(even_ms).earliest_ms }
    }
}

/// A clock set by hand, for tests and simulation.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `now_ms`.
    pub fn new(now_ms: i64) -> Self {
        ManualClock(Arc::new(AtomicI64::new(now_ms)))
    }
    /// Sets the time.
    pub fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
    /// Moves the time on.
    pub fn advance(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn a_leap_is_doubted_for_a_day_and_forgotten_when_the_clock_comes_back() {
        let mut l = Lines::new(1000 * DAY);
        let mut look = |wall_ms: i64, even_ms: i64| {
            let leap = l.look(wall_ms + even_ms, even_ms);
            (leap, l.low - 1000 * DAY, l.high - 1000 * DAY, l.leapt_ms.is_some())
        };
        // Small steps are what clocks are set by.
        assert_eq!(look(1000 * DAY + STEP_MS, 1), (None, STEP_MS, STEP_MS, false));
        assert_eq!(look(1000 * DAY, 2), (None, 0, 0, false));
        assert_eq!(look(1003 * DAY, 3), (Some(3 * DAY), 0, 3 * DAY, true));
        assert_eq!(look(1003 * DAY, DAY), (None, 0, 3 * DAY, true));
        assert_eq!(look(1000 * DAY + 5, DAY + 1), (Some(5 - 3 * DAY), 5, 5, false));
        // Back by a day, then forward beyond where it was: all are possible, for a day from the last.
        assert_eq!(look(999 * DAY, DAY + 2), (Some(-DAY - 5), -DAY, 5, true));
        assert_eq!(look(1001 * DAY, DAY + 3), (Some(2 * DAY), -DAY, DAY, true));
        assert_eq!(look(1001 * DAY, 2 * DAY + 3), (None, -DAY, DAY, true));
        assert_eq!(look(1001 * DAY, 2 * DAY + 4), (None, DAY, DAY, false));
        // What is believed is where the next leap starts from.
        assert_eq!(look(1004 * DAY, 2 * DAY + 5), (Some(3 * DAY), DAY, 4 * DAY, true));
    }

    #[test]
    fn nothing_is_surely_past_when_a_service_has_just_begun() {
        assert!(SteadyClock::new().past_ms() > 0);
        assert_eq!(SteadyClock::of_a_service().past_ms(), 0);
    }

    #[test]
    fn until_a_leap_is_believed_both_times_are_possible() {
        let mut l = Lines::new(1000 * DAY);
        assert_eq!(l.times(7), Times::from(1000 * DAY + 7));
        l.look(1003 * DAY + 8, 8);
        let t = l.times(9);
        assert_eq!((t.earliest_ms, t.now_ms, t.latest_ms), (1000 * DAY + 9, 1003 * DAY + 9, 1003 * DAY + 9));
        assert!(t.is_in_doubt());
        l.look(1000 * DAY + 10, 10);
        assert_eq!(l.times(10), Times::from(1000 * DAY + 10));
    }
}
