//! What would be logged as often as clients ask, logged once a minute.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const AGAIN: Duration = Duration::from_secs(60);

/// Remembers when something was said last.
#[derive(Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether to say it now; if so, it counts as said.
    pub fn due(&self) -> bool {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|at| now.duration_since(at) >= AGAIN);
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
        let (s, start) = (Seldom::default(), Instant::now());
        let said: Vec<bool> = [0, 1, 59, 60, 61, 119, 120].map(|t| s.due_at(start + Duration::from_secs(t))).into();
        assert_eq!(said, [true, false, false, true, false, false, true]);
    }
}
