//! Log lines that clients could cause with every request, written at most once a minute.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const INTERVAL: Duration = Duration::from_secs(60);

/// When a line was last written.
#[derive(Default)]
pub struct OncePerMinute(Mutex<Option<Instant>>);

impl OncePerMinute {
    /// Whether to write it now; if so, it counts as written.
    pub fn due(&self) -> bool {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|at| now.duration_since(at) >= INTERVAL);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute() {
        let (s, start) = (OncePerMinute::default(), Instant::now());
        let said: Vec<bool> = [0, 1, 59, 60, 61, 119, 120].map(|t| s.due_at(start + Duration::from_secs(t))).into();
        assert_eq!(said, [true, false, false, true, false, false, true]);
    }
}
