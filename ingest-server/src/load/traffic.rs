//! Traces of one tick, a pure function of seed, tick and time. A cell is one process of the workload: an instance of a service.

use super::rng::Rng;
use super::services::{Call, MODELS, OPERATIONS, QUERIES, ROOTS, SERVICES};

/// No walk over [`OPERATIONS`] is deeper.
const MAX_DEPTH: u32 = 8;

/// What decides a whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Given by the user.
    pub seed: u64,
    /// When it began, Unix milliseconds.
    pub start_ms: i64,
    /// Processes of each service.
    pub instances: u32,
}

impl Plan {
    /// Names this run, so that runs on one server are told apart.
    pub fn run(&self) -> String {
        format!("{:08x}", Rng::of(self.seed, self.start_ms as u64).next() >> 32)
    }

    /// Service and instance pairs, numbered.
    pub fn cells(&self) -> usize {
        SERVICES.len() * self.instances as usize
    }

    /// `service.instance.id` of a cell.
    pub fn instance_id(&self, cell: usize) -> String {
        let (service, instance) = (cell / self.instances as usize, cell % self.instances as usize);
        format!("{}-{}-{instance}", self.run(), SERVICES[service].name)
    }

    /// Which service a cell belongs to.
    pub fn service_of(&self, cell: usize) -> usize {
        cell / self.instances as usize
    }
}

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Serving an operation, with its HTTP status.
    Server(usize, u16),
    /// Asking for an operation.
    Client(usize, u16),
    /// A statement.
    Db(usize),
    /// A model call with its tokens in and out.
    Model(usize, u32, u32),
}

/// A span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whose.
    pub cell: usize,
    /// Index in [`Tick::traces`].
    pub trace: usize,
    /// Its id.
    pub id: u64,
    /// Its parent's id; 0 for a root.
    pub parent: u64,
    /// Unix nanoseconds.
    pub start_ns: u64,
    /// Unix nanoseconds.
    pub end_ns: u64,
    /// Went wrong.
    pub error: bool,
    /// It went wrong here, not only below.
    pub culprit: bool,
    /// What it stands for.
    pub what: What,
}

impl Span {
    /// Microseconds.
    pub fn us(&self) -> u64 {
        (self.end_ns - self.start_ns) / 1_000
    }
}

/// Everything that happens between two exports.
#[derive(Debug, PartialEq, Eq)]
pub struct Tick {
    /// Counted from 0.
    pub number: u64,
    /// When it is exported, Unix milliseconds.
    pub t_ms: i64,
    /// When the one before was.
    pub before_ms: i64,
    /// Ids.
    pub traces: Vec<[u8; 16]>,
    /// Spans of all cells, a trace's together.
    pub spans: Vec<Span>,
}

/// Makes a tick of so many traces.
pub fn tick(plan: &Plan, number: u64, t_ms: i64, before_ms: i64, traces: u32) -> Tick {
    let mut w = Walk {
        plan,
        rng: Rng::of(plan.seed ^ (plan.start_ms as u64).rotate_left(32), number + 1),
        tick: Tick { number, t_ms, before_ms, traces: Vec::with_capacity(traces as usize), spans: Vec::new() },
    };
    for _ in 0..traces {
        w.trace();
    }
    w.tick
}

struct Walk<'p> {
    plan: &'p Plan,
    rng: Rng,
    tick: Tick,
}

impl Walk<'_> {
    fn trace(&mut self) {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.rng.id().to_be_bytes());
        id[8..].copy_from_slice(&self.rng.id().to_be_bytes());
        self.tick.traces.push(id);
        let root = ROOTS[self.rng.below(ROOTS.len() as u64) as usize];
        let first = self.tick.spans.len();
        let (end, _) = self.serve(root, 0, 0, 0);
        // Spans were laid out from 0; the trace ends within the millisecond before its export.
        let shift = (self.tick.t_ms as u64) * 1_000_000 - end - self.rng.below(1_000_000);
        for s in &mut self.tick.spans[first..] {
            s.start_ns += shift;
            s.end_ns += shift;
        }
    }

    /// Around what is typical; now and then ten times as long.
    fn duration_ns(&mut self, typical_us: u64) -> u64 {
        let spread = 8 + self.rng.below(17);
        let tail = if self.rng.one_in(64) { 10 } else { 1 };
        typical_us * spread * tail * 1_000 / 16 + self.rng.below(1_000)
    }

    fn push(&mut self, cell: usize, parent: u64, start_ns: u64, end_ns: u64, error: bool, what: What) -> u64 {
        let id = self.rng.id();
        let trace = self.tick.traces.len() - 1;
        self.tick.spans.push(Span { cell, trace, id, parent, start_ns, end_ns, error, culprit: error, what });
        id
    }

    /// One operation and all below it; gives its end and whether it failed.
    fn serve(&mut self, operation: usize, parent: u64, start_ns: u64, depth: u32) -> (u64, bool) {
        let o = &OPERATIONS[operation];
        let instance = self.rng.below(self.plan.instances as u64) as usize;
        let cell = o.service * self.plan.instances as usize + instance;
        let at = self.tick.spans.len();
        let own = self.duration_ns(o.own_us);
        let id = self.push(cell, parent, start_ns, 0, false, What::Server(operation, 200));
        let mut now = start_ns + own / 2;
        let mut failed = false;
        for call in o.calls {
            let (Call::Http(_, n) | Call::Db(_, n) | Call::Model(_, n)) = *call;
            // After a failure the rest is not asked for any more.
            if depth >= MAX_DEPTH || failed || !self.rng.one_in(n) {
                continue;
            }
            (now, failed) = self.call(cell, call, id, now, depth);
        }
        let culprit = !failed && self.rng.one_in(400);
        let status = if failed || culprit { 500 } else { 200 };
        let s = &mut self.tick.spans[at];
        (s.end_ns, s.error, s.culprit, s.what) = (now + own / 2, failed || culprit, culprit, What::Server(operation, status));
        (now + own / 2, failed || culprit)
    }

    fn call(&mut self, cell: usize, call: &Call, parent: u64, now: u64, depth: u32) -> (u64, bool) {
        match *call {
            Call::Db(q, _) => {
                let (end, error) = (now + self.duration_ns(QUERIES[q].us), self.rng.one_in(200));
                self.push(cell, parent, now, end, error, What::Db(q));
                (end, error)
            }
            Call::Model(m, _) => {
                let (end, error) = (now + self.duration_ns(MODELS[m].us), self.rng.one_in(60));
                let (input, output) = (200 + self.rng.below(3_000) as u32, 20 + self.rng.below(800) as u32);
                self.push(cell, parent, now, end, error, What::Model(m, input, output));
                (end, error)
            }
            Call::Http(operation, _) => {
                let at = self.tick.spans.len();
                let id = self.push(cell, parent, now, 0, false, What::Client(operation, 200));
                let (end, error) = self.serve(operation, id, now + 80_000, depth + 1);
                let s = &mut self.tick.spans[at];
                s.end_ns = end + 80_000;
                (s.error, s.what) = (error, What::Client(operation, if error { 500 } else { 200 }));
                (end + 80_000, error)
            }
        }
    }
}
