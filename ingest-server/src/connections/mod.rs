//! Connections: how many there may be, how long each may keep us waiting, and which goes first when there are too many.
//!
//! A connection is *owed* something by its client most of the time: a handshake, a head, the next part of a body, room to
//! write an answer to. Each such wait has an end (`server.read_timeout`, `server.body_timeout`, `server.write_timeout`), and
//! a connection that asks nothing is closed after `server.idle_timeout`. At `server.max_connections` a new connection takes
//! the place of one that asks nothing, those that never asked anything first; only if all are at work is it refused.

mod accept;
mod bodies;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::accept::Listener;
pub use self::bodies::TooSlow;
use self::state::State;
use crate::config::Config;

/// How long a client may keep us waiting, and how many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once, over all listeners.
    pub connections: usize,
    /// For a handshake, the head of a request, the next part of a body.
    pub read: Duration,
    /// For a whole body.
    pub body: Duration,
    /// For room to write the next part of an answer to.
    pub write: Duration,
    /// Without a request.
    pub idle: Duration,
}

/// What "0 for none" comes to.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

impl Bounds {
    /// As configured.
    pub fn new(c: &Config) -> Self {
        let patience = |ms: i64| if ms == 0 { FOR_EVER } else { Duration::from_millis(ms.max(1) as u64) };
        Bounds {
            connections: if c.max_connections == 0 { usize::MAX } else { c.max_connections as usize },
            read: patience(c.read_timeout_ms),
            body: patience(c.body_timeout_ms),
            write: patience(c.write_timeout_ms),
            idle: patience(c.idle_timeout_ms),
        }
    }
}

/// Why a connection was closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// The TLS handshake was not done in time.
    Handshake,
    /// No request, or half a head, in time.
    NoRequest,
    /// Nothing asked for long.
    Idle,
    /// The client does not read its answer.
    Unread,
    /// It made room for another.
    Displaced,
}

impl Closed {
    /// All, for `/metrics`.
    pub const ALL: [Closed; 5] = [Closed::Handshake, Closed::NoRequest, Closed::Idle, Closed::Unread, Closed::Displaced];

    /// A word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Closed::Handshake => "handshake",
            Closed::NoRequest => "no_request",
            Closed::Idle => "idle",
            Closed::Unread => "unread",
            Closed::Displaced => "displaced",
        }
    }
}

/// All connections of all listeners.
pub struct Connections {
    bounds: Bounds,
    open: Mutex<HashMap<u64, Arc<State>>>,
    next_id: AtomicU64,
    accepted: Mutex<BTreeMap<&'static str, u64>>,
    closed: [AtomicU64; Closed::ALL.len()],
    refused_at_limit: AtomicU64,
    refused_by_system: AtomicU64,
    /// Refused connections that are being told so.
    told: AtomicUsize,
    ending: watch::Sender<bool>,
    left: Notify,
}

impl Connections {
    /// None yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Connections {
            bounds,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            accepted: Mutex::default(),
            closed: Default::default(),
            refused_at_limit: AtomicU64::new(0),
            refused_by_system: AtomicU64::new(0),
            told: AtomicUsize::new(0),
            ending: watch::Sender::new(false),
            left: Notify::new(),
        })
    }

    /// A place for a connection, or none.
    fn admit(self: &Arc<Self>, listener: &'static str) -> Option<Place> {
        let mut open = self.open.lock();
        if open.len() >= self.bounds.connections {
            let Some(id) = displaceable(&open) else {
                self.refused_at_limit.fetch_add(1, Ordering::Relaxed);
                return None;
            };
            if let Some(victim) = open.remove(&id) {
                victim.displace();
                self.count_closed(Closed::Displaced);
            }
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State::new(listener, Instant::now()));
        open.insert(id, state.clone());
        *self.accepted.lock().entry(listener).or_default() += 1;
        Some(Place { all: self.clone(), id, state })
    }

    /// Closes what asks nothing, to get its file back.
    fn displace_one(&self) {
        let mut open = self.open.lock();
        if let Some(victim) = displaceable(&open).and_then(|id| open.remove(&id)) {
            victim.displace();
            self.count_closed(Closed::Displaced);
        }
    }

    fn count_closed(&self, why: Closed) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes no more connections, lets requests under way end, and waits for that.
    pub async fn end(&self, grace: Duration) {
        self.ending.send_replace(true);
        let all_left = async {
            loop {
                let left = self.left.notified();
                if self.open.lock().is_empty() {
                    return;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(grace, all_left).await;
    }

    /// Open connections by listener.
    pub fn open_by_listener(&self) -> BTreeMap<&'static str, u64> {
        let mut by: BTreeMap<&'static str, u64> = self.accepted.lock().keys().map(|k| (*k, 0)).collect();
        self.open.lock().values().for_each(|s| *by.entry(s.listener).or_default() += 1);
        by
    }

    /// Connections accepted, by listener.
    pub fn accepted_by_listener(&self) -> BTreeMap<&'static str, u64> {
        self.accepted.lock().clone()
    }

    /// Connections that we closed, for this reason.
    pub fn closed(&self, why: Closed) -> u64 {
        self.closed[why as usize].load(Ordering::Relaxed)
    }

    /// Connections refused: at `server.max_connections`, and because the system had no file for them.
    pub fn refused(&self) -> (u64, u64) {
        (self.refused_at_limit.load(Ordering::Relaxed), self.refused_by_system.load(Ordering::Relaxed))
    }
}

/// The connection that is missed least: one that never asked anything, or else asked nothing for longest.
fn displaceable(open: &HashMap<u64, Arc<State>>) -> Option<u64> {
    open.iter().filter_map(|(id, s)| Some((s.rank()?, *id))).min().map(|(_, id)| id)
}

/// A connection's place among all; left when dropped.
struct Place {
    all: Arc<Connections>,
    id: u64,
    state: Arc<State>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.id);
        self.all.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
