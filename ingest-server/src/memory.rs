//! How much memory there is, how much is used, and what to do when it gets short.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strandline_storage::Engine;
use strandline_storage::metrics::MetricStore;
use strandline_storage::traces::TraceStore;
use strandline_wal::fs::{Fs, RealFs};

use crate::app::App;
use crate::counters::Counters;

/// The text of a file of `/proc` or `/sys`. These have no length, so they are read as streams, not through the mapped `Fs`.
pub(crate) fn read_proc(path: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods)]
    std::fs::read(path).ok().and_then(|b| String::from_utf8(b).ok())
}

/// Half of what the cgroup or the machine has.
pub fn default_limit_bytes() -> u64 {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|p| read_proc(p)?.trim().parse::<u64>().ok())
        .filter(|n| *n < 1 << 50)
        .min();
    let machine = read_proc("/proc/meminfo").and_then(|t| kib(&t, "MemTotal:")).map(|k| k * 1024);
    let total = match (cgroup, machine) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b).unwrap_or(2 << 30),
    };
    total / 2
}

fn kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

/// Anonymous memory of this process, where the system tells.
pub fn anon_bytes() -> Option<u64> {
    read_proc("/proc/self/status").and_then(|t| kib(&t, "RssAnon:")).map(|k| k * 1024)
}

/// Shares of memory_limit, in hundredths.
mod share {
    /// Live spans of a tenant are written out from here on; that takes some times as much.
    pub const LIVE_SPANS: u64 = 8;
    /// What all tenants hold: from here on the largest is flushed early.
    pub const EARLY_FLUSH: u64 = 50;
    /// From here on nothing is taken.
    pub const REFUSE: u64 = 65;
    /// Records of series, which no flush gives back: from here on new series are refused, while those there go on. It
    /// leaves room for their samples below [`EARLY_FLUSH`].
    pub const SERIES: u64 = 45;
    /// Less than this is not what fills the memory, nor worth a flush before its time.
    pub const LITTLE: u64 = 4;
    /// As the system counts it: flushes, queries and pages that the allocator keeps for later are in it.
    pub const EARLY_FLUSH_ANON: u64 = 80;
    /// The same, where nothing is taken until a flush is done.
    pub const REFUSE_ANON: u64 = 100;
}

/// What a series takes besides its samples, about.
const SERIES_BYTES: u64 = 300;

/// How many series there may be in all: `memory_limit` has no room for the records of more.
pub fn max_series(memory_limit: u64) -> u64 {
    memory_limit / 100 * share::SERIES / SERIES_BYTES
}

/// Lets no tenant make new series while all together have as many as there may be; tells whether that is so.
fn watch_series(app: &App) -> bool {
    let all = app.tenants.all();
    let series: usize = all.iter().map(|(_, e)| e.metrics().head().with_registry(|r| r.len())).sum();
    let full = series as u64 >= max_series(app.memory_limit);
    all.iter().for_each(|(_, e)| e.metrics().head().refuse_new_series(full));
    full
}

/// What the stores say that they hold; pages that the allocator keeps for later are not in it.
pub fn held_bytes(app: &App) -> u64 {
    app.tenants.all().iter().map(|(_, e)| weigh(e)).sum()
}

fn weigh(e: &Engine) -> u64 {
    (e.metrics().heap_bytes_estimate() + e.traces().live_bytes()) as u64
}

/// Whether nothing may be taken. Anonymous memory decides only while a flush can lower it: what is left then are series, which
/// stay, and free pages, which are used again; to refuse would never give them back.
fn must_refuse(held: u64, anon: Option<u64>, limit: u64, relief: bool) -> bool {
    let part = limit / 100;
    held > part * share::REFUSE || (relief && anon.is_some_and(|a| a > part * share::REFUSE_ANON) && held > part * share::LITTLE)
}

/// Watches memory and disk; tells senders to wait while either is short. Runs until the task is dropped.
pub async fn watch(app: Arc<App>) {
    let mut turn = tokio::time::interval(Duration::from_millis(50));
    let mut flushing: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        turn.tick().await;
        if flushing.as_ref().is_some_and(|f| f.is_finished()) {
            flushing = None;
        }
        let (held, anon) = (held_bytes(&app), anon_bytes());
        let full = watch_series(&app);
        let next = to_flush(&app, held, anon, full);
        let pressed = must_refuse(held, anon, app.memory_limit, flushing.is_some() || next.is_some());
        app.pressed.store(pressed, Ordering::Relaxed);
        if flushing.is_none()
            && let Some(store) = next
        {
            Counters::add(&app.counters.early_flushes, 1);
            flushing = Some(tokio::task::spawn_blocking(move || {
                if let Err(e) = store.flush() {
                    tracing::error!(error = %e, "an early flush failed");
                }
            }));
        }
        let free = RealFs::default().free_bytes(Path::new(&app.config.data_dir));
        watch_writes(&app);
        app.disk_short.store(free.is_some_and(|f| f < app.config.min_free_bytes), Ordering::Relaxed);
    }
}

/// Says when the disk begins to refuse writes, and when it is over.
fn watch_writes(app: &App) {
    let why = app.tenants.all().iter().find_map(|(_, e)| e.refuses_writes());
    let mut known = app.bad_disk.lock();
    match (&why, known.is_some()) {
        (Some(why), false) => tracing::error!(error = why, "the disk refuses writes; senders are told to come again, and queries go on"),
        (None, true) => tracing::info!("the disk takes writes again"),
        _ => {}
    }
    *known = why;
}

/// What is worth a flush before its time, and whose it is.
#[derive(Clone)]
enum Early {
    Metrics(MetricStore),
    Traces(TraceStore),
}

impl Early {
    fn flush(&self) -> strandline_storage::Result<()> {
        match self {
            Early::Metrics(s) => s.flush(),
            // Not to the bucket: memory is short, and the bucket may be slow.
            Early::Traces(s) => s.flush_local(),
        }
    }
}

/// The store to flush now, if any: while memory is short, whichever frees most.
fn to_flush(app: &App, held: u64, anon: Option<u64>, full: bool) -> Option<Early> {
    let part = app.memory_limit / 100;
    let all = app.tenants.all();
    let spans = all.iter().map(|(_, e)| e.traces()).max_by_key(|t| t.live_bytes())?;
    let live = spans.live_bytes() as u64;
    let heads = all.iter().map(|(_, e)| (e.metrics().flushable_bytes() as u64, e.metrics()));
    let (heads, metrics) = heads.max_by_key(|(bytes, _)| *bytes)?;
    // Idle series make room once they are flushed.
    let early = held > part * share::EARLY_FLUSH || anon.is_some_and(|a| a > part * share::EARLY_FLUSH_ANON) || full;
    if live > part * share::LIVE_SPANS || (early && live > part * share::LITTLE && live >= heads) {
        return Some(Early::Traces(spans.clone()));
    }
    (early && heads > part * share::LITTLE).then(|| Early::Metrics(metrics.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_kept_for_later_do_not_stop_ingest() {
        let limit = 100 << 20;
        assert!(!must_refuse(1 << 20, Some(101 << 20), limit, true));
        assert!(must_refuse(20 << 20, Some(101 << 20), limit, true));
        assert!(!must_refuse(20 << 20, Some(101 << 20), limit, false), "nothing to flush, nothing to wait for");
        assert!(!must_refuse(20 << 20, Some(95 << 20), limit, true));
        assert!(must_refuse(70 << 20, None, limit, false));
    }
}
