//! How many queries run at once. Those that wait are let in by tenants in turn, so that one tenant's pile does not
//! keep the others out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

#[derive(Default)]
struct State {
    running: usize,
    waiting: HashMap<String, VecDeque<oneshot::Sender<Permit>>>,
    /// Tenants with waiting queries, the next one first.
    turn: VecDeque<String>,
}

/// Lets a number of queries run at once.
pub struct Gate {
    limit: usize,
    state: Mutex<State>,
}

/// Leave to run; given back when dropped.
pub struct Permit(Option<Arc<Gate>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.pass_on();
        }
    }
}

impl Gate {
    /// A gate for `limit` queries at once, one at least.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Gate { limit: limit.max(1), state: Mutex::default() })
    }

    /// Waits for leave. A caller that stops waiting loses its place.
    pub async fn enter(self: &Arc<Self>, tenant: &str) -> Permit {
        let wait = {
            let mut s = self.state.lock();
            if s.running < self.limit {
                s.running += 1;
                return Permit(Some(self.clone()));
            }
            let (tx, rx) = oneshot::channel();
            let queue = s.waiting.entry(tenant.to_owned()).or_default();
            queue.push_back(tx);
            if queue.len() == 1 {
                s.turn.push_back(tenant.to_owned());
            }
            rx
        };
        // The sender lives in the gate until it has sent.
        wait.await.unwrap_or(Permit(None))
    }

    /// Hands one leave to the next who still waits.
    fn pass_on(self: Arc<Self>) {
        loop {
            let Some(next) = self.next() else { return };
            let Err(mut unwanted) = next.send(Permit(Some(self.clone()))) else { return };
            unwanted.0 = None;
        }
    }

    /// The next in turn; counts one less as running if nobody waits.
    fn next(&self) -> Option<oneshot::Sender<Permit>> {
        let mut s = self.state.lock();
        let State { running, waiting, turn } = &mut *s;
        let Some(tenant) = turn.pop_front() else {
            *running -= 1;
            return None;
        };
        // A tenant stands in turn exactly while it has a queue, and a queue is never empty.
        let queue = waiting.entry(tenant.clone()).or_default();
        let next = queue.pop_front();
        if queue.is_empty() {
            waiting.remove(&tenant);
        } else {
            turn.push_back(tenant);
        }
        if next.is_none() {
            *running -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn tenants_take_turns() {
        let gate = Gate::new(1);
        let first = gate.enter("a").now_or_never().unwrap();
        let mut waiting: Vec<_> = ["a", "a", "b"].into_iter().map(|t| (t, Box::pin(gate.enter(t)))).collect();
        assert!(waiting.iter_mut().all(|(_, w)| w.now_or_never().is_none()));
        drop(first);
        let mut order = Vec::new();
        let mut held = None;
        while !waiting.is_empty() {
            drop(held.take());
            let at = waiting.iter_mut().position(|(_, w)| {
                let got = w.now_or_never();
                held = got;
                held.is_some()
            });
            order.push(waiting.remove(at.unwrap()).0);
        }
        assert_eq!(order, ["a", "b", "a"]);
        drop(held);
        assert_eq!(gate.state.lock().running, 0);
    }

    #[test]
    fn who_stops_waiting_holds_nobody_up() {
        let gate = Gate::new(1);
        let first = gate.enter("a").now_or_never().unwrap();
        let mut gone = Box::pin(gate.enter("b"));
        assert!((&mut gone).now_or_never().is_none());
        let mut stays = Box::pin(gate.enter("c"));
        assert!((&mut stays).now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!((&mut stays).now_or_never().is_some());
    }
}
