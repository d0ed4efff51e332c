//! Who still looks at what: readers and appenders hold a pin, and slots, labels and chunks that were dropped are
//! given back only when every pin older than the drop is gone.

use std::sync::{Arc, Weak};

use strandline_wal::sync::Mutex;

/// Held while a snapshot is in use.
#[derive(Clone, Debug)]
pub struct Pin(#[allow(dead_code)] Arc<u64>);

#[derive(Debug)]
struct State {
    current: Arc<u64>,
    older: Vec<(u64, Weak<u64>)>,
}

/// Gives out pins.
#[derive(Debug)]
pub struct Pins(Mutex<State>);

impl Default for Pins {
    fn default() -> Self {
        Pins(Mutex::new(State { current: Arc::new(1), older: Vec::new() }))
    }
}

impl Pins {
    /// A pin on the present.
    pub fn pin(&self) -> Pin {
        Pin(self.0.lock().current.clone())
    }

    /// A new present; gives its number. What was dropped before this call is safe to give back once
    /// [`Pins::oldest`] has reached it.
    pub fn advance(&self) -> u64 {
        let mut s = self.0.lock();
        let n = *s.current + 1;
        let old = std::mem::replace(&mut s.current, Arc::new(n));
        s.older.push((n - 1, Arc::downgrade(&old)));
        n
    }

    /// The oldest number that is still pinned, or the present.
    pub fn oldest(&self) -> u64 {
        let mut s = self.0.lock();
        s.older.retain(|(_, w)| w.strong_count() > 0);
        s.older.first().map_or(*s.current, |(n, _)| *n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_pin_counts() {
        let p = Pins::default();
        let a = p.pin();
        let two = p.advance();
        let b = p.pin();
        let three = p.advance();
        assert!(p.oldest() < two);
        drop(a);
        assert_eq!(p.oldest(), two);
        drop(b);
        assert_eq!(p.oldest(), three);
    }
}
