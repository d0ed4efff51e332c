//! What one connection is at, and until when it may be.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Bounds, Closed};

/// One connection, as seen by those that carry its bytes, requests and answers.
pub(super) struct State {
    pub listener: &'static str,
    now: Mutex<Now>,
    displaced: Notify,
}

struct Now {
    /// Requests that came and whose answers are not written yet.
    requests: usize,
    /// Whether there ever was one.
    asked: bool,
    /// Since when there is none, or bytes of the last answer went out.
    quiet_since: Instant,
    /// HTTP/2: frames come without a request too.
    multiplexed: bool,
    /// The first bytes of a head were read, and not its end.
    head_since: Option<Instant>,
    /// There is something to write and no room for it.
    blocked_since: Option<Instant>,
    /// A part of an answer was handed over, and the next is not asked for.
    unread_since: Option<Instant>,
}

impl State {
    pub fn new(listener: &'static str, now: Instant) -> Self {
        let now = Now {
            requests: 0,
            asked: false,
            quiet_since: now,
            multiplexed: false,
            head_since: None,
            blocked_since: None,
            unread_since: None,
        };
        State { listener, now: Mutex::new(now), displaced: Notify::new() }
    }

    /// Bytes were read; the first of a connection tell HTTP/2 by its preface.
    pub fn read(&self, first: bool, bytes: &[u8]) {
        let mut s = self.now.lock();
        if first {
            s.multiplexed = bytes.starts_with(b"PRI");
        }
        if s.requests == 0 && !s.multiplexed && s.head_since.is_none() {
            s.head_since = Some(Instant::now());
        }
    }

    /// Bytes were written, or could not be.
    pub fn wrote(&self, blocked: bool) {
        let mut s = self.now.lock();
        let now = Instant::now();
        if !blocked {
            s.blocked_since = None;
            s.quiet_since = now;
        } else if s.blocked_since.is_none() {
            s.blocked_since = Some(now);
        }
    }

    /// A request's head is there.
    pub fn begin_request(&self) {
        let mut s = self.now.lock();
        s.requests += 1;
        s.asked = true;
        s.head_since = None;
    }

    /// Its answer was handed over whole, or it is gone.
    pub fn end_request(&self) {
        let mut s = self.now.lock();
        s.requests -= 1;
        s.unread_since = None;
        s.quiet_since = Instant::now();
    }

    /// Who writes has a part of an answer, or asked for one and waits for us.
    pub fn answer(&self, handed_over: bool) {
        self.now.lock().unread_since = handed_over.then(Instant::now);
    }

    /// When to look again, or why to close now.
    pub fn look(&self, b: &Bounds, now: Instant) -> Result<Instant, Closed> {
        // How soon a nearer end may come up.
        let next = now + b.read.min(b.write).min(b.idle);
        let s = self.now.lock();
        let (until, why) = if let Some(t) = s.blocked_since.or(s.unread_since) {
            (t + b.write, Closed::Unread)
        } else if s.requests > 0 {
            // Ours is the next move, or the body's own bounds hold.
            return Ok(next);
        } else if let Some(t) = s.head_since {
            (t + b.read, Closed::NoRequest)
        } else if !s.asked {
            (s.quiet_since + b.read, Closed::NoRequest)
        } else {
            (s.quiet_since + b.idle, Closed::Idle)
        };
        if until <= now { Err(why) } else { Ok(until.min(next)) }
    }

    /// How soon it may be displaced: the smaller the sooner; none while it is at work.
    pub fn rank(&self) -> Option<(bool, Instant)> {
        let s = self.now.lock();
        (s.requests == 0 && s.blocked_since.is_none()).then_some((s.asked, s.quiet_since))
    }

    /// Its place is given away.
    pub fn displace(&self) {
        self.displaced.notify_one();
    }

    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }
}
