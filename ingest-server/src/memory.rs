//! How much memory there is, how much is used, and what to do when it gets short.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strandline_wal::fs::{Fs, RealFs};

use crate::app::App;

fn read(path: &str) -> Option<String> {
    // /proc and /sys files have no length: they are read as streams, not through the mapped Fs.
    #[allow(clippy::disallowed_methods)]
    std::fs::read(path).ok().and_then(|b| String::from_utf8(b).ok())
}

/// Half of what the cgroup or the machine has.
pub fn default_limit_bytes() -> u64 {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|p| read(p)?.trim().parse::<u64>().ok())
        .filter(|n| *n < 1 << 50)
        .min();
    let machine = read("/proc/meminfo").and_then(|t| kib(&t, "MemTotal:")).map(|k| k * 1024);
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
    read("/proc/self/status").and_then(|t| kib(&t, "RssAnon:")).map(|k| k * 1024)
}

/// Watches memory and disk; tells senders to wait while either is short. Runs until the task is dropped.
pub async fn watch(app: Arc<App>) {
    let mut turn = tokio::time::interval(Duration::from_millis(200));
    let mut flushing: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        turn.tick().await;
        let used = anon_bytes().unwrap_or_else(|| {
            app.tenants.all().iter().map(|(_, e)| (e.metrics().heap_bytes_estimate() + e.traces().live_bytes()) as u64).sum()
        });
        let limit = app.memory_limit;
        // Above nine tenths nothing new is taken; from three quarters on data goes to blocks early.
        app.pressed.store(used > limit / 10 * 9, Ordering::Relaxed);
        let idle = flushing.as_ref().is_none_or(|f| f.is_finished());
        if used > limit / 4 * 3 && idle {
            let app = app.clone();
            flushing = Some(tokio::task::spawn_blocking(move || relieve(&app)));
        }
        let free = RealFs::default().free_bytes(Path::new(&app.config.data_dir));
        app.disk_short.store(free.is_some_and(|f| f < app.config.min_free_bytes), Ordering::Relaxed);
    }
}

/// Flushes whoever holds most.
fn relieve(app: &App) {
    let weigh = |e: &strandline_storage::Engine| e.metrics().heap_bytes_estimate() + e.traces().live_bytes();
    let Some((tenant, engine)) = app.tenants.all().into_iter().max_by_key(|(_, e)| weigh(e)) else { return };
    // Flushing next to nothing would only churn.
    if weigh(&engine) < 4 << 20 {
        return;
    }
    tracing::warn!(tenant, "memory_limit is near: flushing early");
    let spans = engine.traces().live_bytes() > engine.metrics().heap_bytes_estimate();
    let done = if spans { engine.traces().flush() } else { engine.metrics().flush() };
    if let Err(e) = done {
        tracing::error!(error = %e, "the early flush failed");
    }
}
