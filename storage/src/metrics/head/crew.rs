//! Threads that share the applying of a replay: each has some of the stripes, and gets what is theirs in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::STRIPES;
use super::series::{DeltaState, Series, Value};
use super::stripe::{HeadRules, Stripe};
use crate::error::{Error, ErrorKind, Result};

/// Something that a record does to a series.
pub(super) enum Op {
    /// The series exists and bears this id.
    Define(u64),
    Sample {
        t: i64,
        st: i64,
        v: Value,
    },
    Delta(DeltaState),
}

impl Op {
    pub(super) fn apply(self, stripe: &mut Stripe, index: u32, rules: &HeadRules) {
        match self {
            Op::Sample { t, st, v } => stripe.apply_one(index, t, st, v, rules),
            Op::Define(id) => {
                while stripe.series.len() <= index as usize {
                    stripe.series.push(Series::default());
                }
                if let Some(s) = stripe.series.get_mut(index as usize) {
                    if s.id == 0 {
                        *s = Series::new(id);
                    }
                    s.id = id;
                    s.logged = true;
                }
            }
            Op::Delta(state) => {
                if let Some(s) = stripe.series.get_mut(index as usize) {
                    s.extra().delta = Some(state);
                }
            }
        }
    }
}

type Load = Vec<(u32, Op)>;

/// Operations handed over together, and loads that may wait: they bound the memory of a replay.
const LOAD: usize = 4096;
const WAITING: usize = 4;

struct Worker {
    load: Load,
    queue: SyncSender<Load>,
    thread: JoinHandle<Vec<Stripe>>,
}

/// The threads of a replay.
pub(super) struct Crew(Vec<Worker>);

/// Worker `w` of `n` has the stripes `w`, `w + n`, `w + 2n` and so on.
fn work(mut mine: Vec<Stripe>, n: usize, queue: &Receiver<Load>, rules: &HeadRules) -> Vec<Stripe> {
    while let Ok(load) = queue.recv() {
        for (slot, op) in load {
            op.apply(&mut mine[slot as usize % STRIPES / n], slot / STRIPES as u32, rules);
        }
    }
    mine
}

impl Crew {
    /// Takes the stripes; `None` (and the stripes untouched) on a single core or without threads to be had.
    pub(super) fn start(stripes: &mut Vec<Stripe>, rules: HeadRules) -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        // Powers of two divide the stripes evenly.
        let n = if cores >= 4 { 4 } else { cores.min(2) };
        if n < 2 {
            return None;
        }
        let mut shares: Vec<Vec<Stripe>> = (0..n).map(|_| Vec::new()).collect();
        for (k, s) in std::mem::take(stripes).into_iter().enumerate() {
            shares[k % n].push(s);
        }
        let mut workers = Vec::new();
        for share in shares {
            let (queue, loads) = sync_channel(WAITING);
            let thread = std::thread::spawn(move || work(share, n, &loads, &rules));
            workers.push(Worker { load: Vec::with_capacity(LOAD), queue, thread });
        }
        Some(Crew(workers))
    }

    pub(super) fn send(&mut self, slot: u32, op: Op) {
        let n = self.0.len();
        let w = &mut self.0[slot as usize % STRIPES % n];
        w.load.push((slot, op));
        if w.load.len() == LOAD {
            // A thread that is gone shows when it is joined.
            let _ = w.queue.send(std::mem::replace(&mut w.load, Vec::with_capacity(LOAD)));
        }
    }

    /// Gives the stripes back in their order.
    pub(super) fn join(self, stripes: &mut Vec<Stripe>) -> Result<()> {
        let mut shares = Vec::new();
        for w in self.0 {
            let _ = w.queue.send(w.load);
            drop(w.queue);
            let share = w.thread.join().map_err(|_| Error::new(ErrorKind::Unavailable, "a thread of the replay ended early"))?;
            shares.push(share.into_iter());
        }
        let n = shares.len();
        for k in 0..STRIPES {
            stripes.extend(shares[k % n].next());
        }
        Ok(())
    }
}
