//! Sending: ticks are made at the rate asked for, and each process of the workload sends its own, as SDKs do. Metrics of a
//! process go one after another; its traces may overtake one another. Where a queue is full an export is shed and counted:
//! a client must not swell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_storage::clock::{Clock, SystemClock};
use tokio::sync::mpsc;

use super::ledger::{Fate, Ledger, Signal};
use super::metrics::Counted;
use super::rng::Rng;
use super::send::Wire;
use super::services::SERVICES;
use super::traffic::{Plan, tick};
use super::{LoadArgs, encode};

/// Requests of a process and signal that wait to be sent.
const QUEUE: usize = 16;
/// A tick has no more traces than this; a higher rate makes ticks come faster.
const MAX_TRACES: f64 = 200.0;

struct Parcel {
    tick: u64,
    body: Bytes,
    items: u32,
}

/// What a run came to.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Totals {
    pub made_spans: AtomicU64,
    pub made_points: AtomicU64,
    pub spans: AtomicU64,
    pub points: AtomicU64,
    pub acknowledged: AtomicU64,
    pub refused: AtomicU64,
    pub unknown: AtomicU64,
    pub attempts: AtomicU64,
    pub retried_refusals: AtomicU64,
    pub unanswered: AtomicU64,
    pub rejected_items: AtomicU64,
    pub shed_spans: AtomicU64,
    pub shed_points: AtomicU64,
    pub last_word: Mutex<String>,
    pub took_us: Mutex<Vec<u32>>,
}

/// Adds to a counter.
fn add(c: &AtomicU64, n: u64) {
    c.fetch_add(n, Ordering::Relaxed);
}

struct Cell {
    metrics: mpsc::Sender<Parcel>,
    traces: mpsc::Sender<Parcel>,
    counted: Counted,
}

/// Shared by all senders.
struct Shared {
    wire: Wire,
    ledger: Mutex<Ledger>,
    totals: Totals,
    until: Instant,
}

/// What a finished run leaves.
pub struct Done {
    /// For verification.
    pub ledger: Ledger,
    /// For the report.
    pub totals: Totals,
    /// While ticks were made.
    pub sending: Duration,
    /// Spans acknowledged while ticks were made.
    pub spans_in_time: u64,
    /// Until all was delivered.
    pub took: Duration,
}

/// Runs the workload.
pub async fn run(a: &LoadArgs, plan: Plan) -> Result<Done, String> {
    let began = Instant::now();
    let shared = Arc::new(Shared {
        wire: Wire::new(&a.grpc, &a.http)?,
        ledger: Mutex::new(Ledger::new(plan.clone())),
        totals: Totals::default(),
        until: began + a.duration() + a.drain(),
    });
    let mut workers = Vec::new();
    let mut cells = Vec::new();
    for cell in 0..plan.cells() {
        let service = plan.service_of(cell);
        let (metrics, from) = mpsc::channel(QUEUE);
        let from = Arc::new(tokio::sync::Mutex::new(from));
        workers.push(tokio::spawn(work(shared.clone(), service, cell, Signal::Metrics, from)));
        let (traces, from) = mpsc::channel(QUEUE);
        let from = Arc::new(tokio::sync::Mutex::new(from));
        for _ in 0..a.senders.max(1) {
            workers.push(tokio::spawn(work(shared.clone(), service, cell, Signal::Traces, from.clone())));
        }
        cells.push(Cell { metrics, traces, counted: Counted::default() });
    }
    tokio::select! {
        () = pace(a, &plan, &shared, &mut cells, began) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let sending = began.elapsed();
    let in_time = shared.totals.spans.load(Ordering::Relaxed);
    drop(cells);
    for w in workers {
        let _ = w.await;
    }
    let shared = Arc::into_inner(shared).ok_or("a sender is still at work")?;
    Ok(Done { ledger: shared.ledger.into_inner(), totals: shared.totals, sending, spans_in_time: in_time, took: began.elapsed() })
}

/// Makes ticks until the time is over. A rate of 0: as soon as there is room.
async fn pace(a: &LoadArgs, plan: &Plan, shared: &Shared, cells: &mut [Cell], began: Instant) {
    let interval_s = a.interval_ms as f64 / 1000.0;
    let traces = if a.rate > 0.0 { (a.rate * interval_s).clamp(1.0, MAX_TRACES).round() } else { MAX_TRACES };
    let period = if a.rate > 0.0 { Duration::from_secs_f64(traces / a.rate) } else { Duration::ZERO };
    let mut next = began;
    let mut before_ms = plan.start_ms;
    let mut number = 0;
    while began.elapsed() < a.duration() {
        if period.is_zero() {
            while !has_room(cells) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            tokio::time::sleep_until(next.into()).await;
            next += period;
        }
        let t_ms = SystemClock.now_ms().max(before_ms + 1);
        make(plan, shared, cells, number, (t_ms, before_ms), traces as u32);
        before_ms = t_ms;
        number += 1;
        // The making is the only long work here: senders get their turn.
        tokio::task::yield_now().await;
    }
}

fn has_room(cells: &[Cell]) -> bool {
    cells.iter().all(|c| c.metrics.capacity() > 0 && c.traces.capacity() > 0)
}

fn make(plan: &Plan, shared: &Shared, cells: &mut [Cell], number: u64, (t_ms, before_ms): (i64, i64), traces: u32) {
    let t = tick(plan, number, t_ms, before_ms, traces);
    shared.ledger.lock().ticks.push((t_ms, traces));
    for s in &t.spans {
        cells[s.cell].counted.record(s, &t);
    }
    let mut spans = vec![0u32; cells.len()];
    t.spans.iter().for_each(|s| spans[s.cell] += 1);
    let totals = &shared.totals;
    for (i, c) in cells.iter_mut().enumerate() {
        add(&totals.made_spans, u64::from(spans[i]));
        // Nobody else sends: where there is room, this can't fail.
        if spans[i] > 0 && c.traces.capacity() > 0 {
            let body = encode::traces(plan, &t, i).into();
            let _ = c.traces.try_send(Parcel { tick: number, body, items: spans[i] });
        } else {
            add(&totals.shed_spans, u64::from(spans[i]));
        }
        let points = c.counted.collect();
        add(&totals.made_points, points.len() as u64);
        if c.metrics.capacity() > 0 {
            let body = encode::metrics(plan, &t, i, &points).into();
            let _ = c.metrics.try_send(Parcel { tick: number, body, items: points.len() as u32 });
        } else {
            add(&totals.shed_points, points.len() as u64);
        }
    }
}

type Queue = Arc<tokio::sync::Mutex<mpsc::Receiver<Parcel>>>;

async fn work(shared: Arc<Shared>, service: usize, cell: usize, signal: Signal, from: Queue) {
    let mut rng = Rng::of(cell as u64, signal as u64);
    loop {
        let Some(p) = from.lock().await.recv().await else { return };
        let (fate, d) = shared.wire.deliver(&SERVICES[service], signal, p.body, shared.until, &mut rng).await;
        let t = &shared.totals;
        add(&t.attempts, d.attempts);
        add(&t.retried_refusals, d.refused);
        add(&t.unanswered, d.unanswered);
        add(&t.rejected_items, d.rejected);
        match fate {
            Fate::Acknowledged => {
                add(&t.acknowledged, 1);
                add(if signal == Signal::Metrics { &t.points } else { &t.spans }, u64::from(p.items));
                t.took_us.lock().push(d.took.as_micros().min(u128::from(u32::MAX)) as u32);
            }
            Fate::Refused => add(&t.refused, 1),
            Fate::Unknown => add(&t.unknown, 1),
        }
        if fate != Fate::Acknowledged {
            *t.last_word.lock() = d.message;
        }
        shared.ledger.lock().fates.insert((p.tick, cell, signal), fate);
    }
}
