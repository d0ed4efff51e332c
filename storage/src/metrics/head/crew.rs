//! Threads that share the applying of a replay: each has some of the stripes, and gets what is theirs in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::STRIPES;
use super::series::{DeltaState, Value};
use super::stripe::{HeadRules, Stripe, WARM};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Histogram;

/// Something that a record does to the series of a slot. Floats are nearly all there is, so they are kept small.
pub(super) enum Op {
    /// The series exists and bears this id.
    Define {
        slot: u32,
        id: u64,
    },
    Float {
        slot: u32,
        t: i64,
        v: f64,
    },
    Rare(Box<RareOp>),
}

/// Any other sample, or a running sum.
pub(super) enum RareOp {
    Sample { slot: u32, t: i64, st: i64, v: Value },
    Delta { slot: u32, state: DeltaState },
    DeltaHistogram { slot: u32, state: Box<(i64, Histogram)> },
}

impl Op {
    #[inline]
    fn slot(&self) -> u32 {
        match self {
            Op::Define { slot, .. } | Op::Float { slot, .. } => *slot,
            Op::Rare(r) => match &**r {
                RareOp::Sample { slot, .. } | RareOp::Delta { slot, .. } | RareOp::DeltaHistogram { slot, .. } => *slot,
            },
        }
    }

    /// The stripe of the series and its index there.
    #[inline]
    fn place(&self) -> (usize, u32) {
        (self.slot() as usize % STRIPES, self.slot() / STRIPES as u32)
    }

    #[inline]
    fn apply(self, stripe: &mut Stripe, index: u32, rules: &HeadRules) {
        match self {
            Op::Float { t, v, .. } => stripe.apply_float(index, t, v, rules),
            Op::Define { id, .. } => stripe.define(index, id),
            Op::Rare(r) => match *r {
                RareOp::Sample { t, st, v, .. } => stripe.apply_one(index, t, st, v, rules),
                RareOp::Delta { state, .. } => stripe.restore_sum(index, |e| e.delta = Some(state)),
                RareOp::DeltaHistogram { state, .. } => stripe.restore_sum(index, |e| e.delta_histogram = Some(state)),
            },
        }
    }

    /// Applies it where the stripe is at hand.
    pub(super) fn apply_to(self, stripes: &mut [Stripe], rules: &HeadRules) {
        let (k, index) = self.place();
        if let Some(s) = stripes.get_mut(k) {
            self.apply(s, index, rules);
        }
    }
}

type Load = Vec<Op>;

/// Operations handed over together, so few that they are in the cache still, and loads that may wait: they bound the memory
/// of a replay.
const LOAD: usize = 4096;
const WAITING: usize = 4;

struct Worker {
    load: Load,
    queue: SyncSender<Load>,
    /// Loads that were carried out, empty, to be filled again.
    done: Receiver<Load>,
    thread: JoinHandle<Vec<Stripe>>,
}

impl Worker {
    #[cold]
    fn hand_over(&mut self) {
        let next = self.done.try_recv().unwrap_or_else(|_| Vec::with_capacity(LOAD));
        // A thread that is gone shows when it is joined.
        let _ = self.queue.send(std::mem::replace(&mut self.load, next));
    }
}

/// The threads of a replay.
pub(super) struct Crew(Vec<Worker>);

/// Worker `w` of `n` has the stripes `w`, `w + n`, `w + 2n` and so on.
fn work(mut mine: Vec<Stripe>, n: usize, queue: &Receiver<Load>, done: &SyncSender<Load>, rules: &HeadRules) -> Vec<Stripe> {
    while let Ok(mut load) = queue.recv() {
        let mut ops = load.drain(..);
        while !ops.as_slice().is_empty() {
            std::hint::black_box(ops.as_slice().iter().take(WARM).fold(0, |x, op| {
                let (k, index) = op.place();
                x ^ mine[k / n].warm(index)
            }));
            for op in ops.by_ref().take(WARM) {
                let (k, index) = op.place();
                op.apply(&mut mine[k / n], index, rules);
            }
        }
        drop(ops);
        // Nobody waits for it once the replay is over.
        let _ = done.try_send(load);
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
            let (empty, done) = sync_channel(WAITING + 2);
            let thread = std::thread::spawn(move || work(share, n, &loads, &empty, &rules));
            workers.push(Worker { load: Vec::with_capacity(LOAD), queue, done, thread });
        }
        Some(Crew(workers))
    }

    #[inline]
    pub(super) fn send(&mut self, op: Op) {
        // As many as a power of two.
        let n = self.0.len();
        let w = &mut self.0[op.place().0 & (n - 1)];
        w.load.push(op);
        if w.load.len() == LOAD {
            w.hand_over();
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
