//! One tenant's data folder: the lock, the version, the stores, and the threads that keep them tidy.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use strandline_wal::fs::{Fs, OverlayFs};

use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{MetricOptions, MetricStore, ReplayProgress};
#[cfg(feature = "traces")]
use crate::traces::{TraceStore, TraceStoreOptions};

/// The version of the data folder's layout that this code writes.
pub const LAYOUT_VERSION: u32 = 1;

/// Whoever copies a data folder puts a file of this name into the target first and removes it last.
pub const UNFINISHED: &str = "UNFINISHED";

/// Where what is left of blocks lies that were given up, in the data folder.
pub const GIVEN_UP: &str = "given-up";

/// What an engine is made of.
#[derive(Clone)]
pub struct EngineOptions {
    /// The metric store's options; file system, clock and folder of the engine are taken from here.
    pub metrics: MetricOptions,
    /// The span store's options.
    #[cfg(feature = "traces")]
    pub traces: TraceStoreOptions,
    /// Keep two threads for each store: one that flushes, and one that compacts, uploads and retains. Without them, call
    /// [`Engine::maintain`].
    pub background: bool,
}

/// An open data folder; clones share it. Only one process may have it open for writing.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    metrics: MetricStore,
    #[cfg(feature = "traces")]
    traces: TraceStore,
    stop: Arc<(Mutex<bool>, Condvar)>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl Engine {
    /// Opens (or creates) the folder: takes its lock, checks its version, replays the logs.
    pub fn open(options: EngineOptions) -> Result<Self> {
        Self::open_with(options, &mut |_| {})
    }

    /// As [`Engine::open`], telling how far the replay of the metric log is.
    pub fn open_with(options: EngineOptions, progress: &mut dyn FnMut(ReplayProgress)) -> Result<Self> {
        let (fs, dir) = (options.metrics.fs.clone(), options.metrics.dir.clone());
        fs.create_dir_durably(&dir).map_err(|e| Error::io("creating the data folder", &dir, e))?;
        let lock = take_lock(&fs, &dir)?;
        check_version(&fs, &dir)?;
        let metrics = MetricStore::open_with(options.metrics, progress)?;
        #[cfg(feature = "traces")]
        let traces = TraceStore::open(TraceStoreOptions {
            writer_id: metrics.writer_id().to_owned(),
            cache: Some(options.traces.cache.unwrap_or_else(|| metrics.cache().clone())),
            ..options.traces
        })?;
        let engine = Engine(Arc::new(Inner {
            metrics,
            #[cfg(feature = "traces")]
            traces,
            stop: Arc::default(),
            threads: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        }));
        if options.background {
            // Flushes have threads of their own: neither a slow bucket nor a long merge keeps memory from being flushed.
            engine.spawn_upkeep("samples", |e| e.0.metrics.flush_due())?;
            engine.spawn_upkeep("metrics", |e| e.0.metrics.tend())?;
            #[cfg(feature = "traces")]
            {
                engine.spawn_upkeep("spans", |e| e.0.traces.flush_due())?;
                engine.spawn_upkeep("traces", |e| e.0.traces.tend())?;
            }
        }
        Ok(engine)
    }

    /// Opens the folder to be read while another process may be writing it: the state of this moment, from the blocks
    /// and a replay of the logs. Nothing on disk is touched and no lock taken; appends and upkeep are refused. What the
    /// writer stores later is not seen: open it again. `options.metrics.bucket` and that of the spans must be one that
    /// exists already.
    pub fn open_read_only(mut options: EngineOptions) -> Result<Self> {
        let (below, dir) = (options.metrics.fs.clone(), options.metrics.dir.clone());
        if !below.exists(&dir.join("VERSION")) {
            return Err(Error::new(ErrorKind::NotFound, format!("{} is no data folder of strandline: it has no VERSION", dir.display())));
        }
        options.background = false;
        options.metrics.read_only = true;
        options.metrics.wal.background = false;
        options.metrics.spill_bytes = usize::MAX;
        #[cfg(feature = "traces")]
        {
            options.traces.read_only = true;
            options.traces.wal.background = false;
        }
        let (mut tries, mut failures) = (0, 0);
        loop {
            // A flush moves data from the log into blocks: what was read on both sides of one has a hole. What it leaves behind
            // it removes a little later: a file that was listed may be gone when it is opened.
            let before = manifests(&below, &dir);
            let mut o = options.clone();
            o.metrics.fs = Arc::new(OverlayFs::new(below.clone()));
            #[cfg(feature = "traces")]
            {
                o.traces.fs = o.metrics.fs.clone();
            }
            let opened = Self::open(o).and_then(|e| e.open_blocks().map(|()| e));
            tries += 1;
            failures += u32::from(opened.is_err());
            let settled = manifests(&below, &dir) == before && (opened.is_ok() || failures == READ_ONLY_FAILURES);
            if tries == READ_ONLY_TRIES || settled {
                return opened;
            }
        }
    }

    /// Opens every local block, so that it stays readable when the writer removes it.
    fn open_blocks(&self) -> Result<()> {
        for b in self.0.metrics.blocks().iter().filter(|b| matches!(b.place, crate::metrics::Place::Local(_))) {
            b.open()?;
        }
        Ok(())
    }

    /// The metric store.
    pub fn metrics(&self) -> &MetricStore {
        &self.0.metrics
    }

    /// The span store.
    #[cfg(feature = "traces")]
    pub fn traces(&self) -> &TraceStore {
        &self.0.traces
    }

    /// Why answers may miss something: a bucket that was never reached, or blocks of which nothing can be read.
    pub fn incomplete(&self) -> Vec<String> {
        let why = self.0.metrics.incomplete();
        #[cfg(feature = "traces")]
        let why = why.into_iter().chain(self.0.traces.incomplete());
        why.into_iter().collect()
    }

    /// Why the disk refuses writes, if the last one failed. Appends are refused retryably meanwhile; the next that succeeds ends it.
    pub fn refuses_writes(&self) -> Option<String> {
        let why = self.0.metrics.head().wal().failure();
        #[cfg(feature = "traces")]
        let why = why.or_else(|| self.0.traces.wal_failure());
        why.map(|e| e.to_string())
    }

    /// Cuts everything to blocks and uploads them. The error says what could not be done; what was acknowledged
    /// stays safe either way.
    pub fn flush(&self) -> Result<()> {
        self.0.metrics.flush()?;
        #[cfg(feature = "traces")]
        self.0.traces.flush()?;
        self.0.metrics.upload()
    }

    /// Accepts the loss of a block that is not in the bucket and can't be read: answers no longer miss it, and what is left of
    /// it goes into [`GIVEN_UP`]. `NotFound` if there is no such block.
    pub fn give_up(&self, ulid: &str) -> Result<()> {
        let done = self.0.metrics.give_up(ulid);
        #[cfg(feature = "traces")]
        let done = match done {
            Err(e) if e.kind == ErrorKind::NotFound => self.0.traces.give_up(ulid),
            done => done,
        };
        done
    }

    /// One turn of upkeep, for engines without a background thread.
    pub fn maintain(&self) -> Result<()> {
        let done = self.0.metrics.maintain();
        #[cfg(feature = "traces")]
        let done = {
            let traces = self.0.traces.maintain();
            done.and(traces)
        };
        done
    }

    /// All of upkeep that is due, at once: for who opens an engine to look after it, and closes it again.
    pub fn catch_up(&self) -> Result<()> {
        #[cfg(feature = "traces")]
        self.0.traces.look_again();
        let mut done = self.maintain();
        while done.is_ok() && self.0.metrics.options().compaction && self.0.metrics.compact(1)? > 0 {
            done = self.maintain();
        }
        done
    }

    fn spawn_upkeep(&self, store: &'static str, maintain: fn(&Engine) -> Result<()>) -> Result<()> {
        let stop = self.0.stop.clone();
        let inner = Arc::downgrade(&self.0);
        let turn = move || {
            let mut failures = 0u32;
            loop {
                let mut stopped = stop.0.lock();
                if !*stopped {
                    stop.1.wait_for(&mut stopped, Duration::from_secs(1));
                }
                if *stopped {
                    return;
                }
                drop(stopped);
                // After failures in a row only some turns are tried, and few of them told.
                if failures > 3 && !failures.is_multiple_of(15) {
                    failures += 1;
                    continue;
                }
                let Some(inner) = inner.upgrade() else { return };
                let engine = Engine(inner);
                // A fault of ours in one errand must not end all later ones.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| maintain(&engine)));
                match done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "upkeep panicked; please report what it wrote"))) {
                    Ok(()) => failures = 0,
                    Err(e) => {
                        if failures == 0 || failures.is_multiple_of(60) {
                            tracing::warn!(store, error = %e, "upkeep failed; it will be tried again");
                        }
                        failures += 1;
                    }
                }
            }
        };
        let t = std::thread::Builder::new().name(format!("upkeep-{store}")).spawn(turn);
        let t = t.map_err(|e| Error::new(ErrorKind::Unavailable, format!("starting the upkeep thread of {store}: {e}")))?;
        self.0.threads.lock().push(t);
        Ok(())
    }

    /// Ends upkeep, makes everything acknowledged durable, and lets go of the folder. Never waits for the network.
    pub fn close(&self) -> Result<()> {
        self.0.stop_upkeep();
        // Held until all is closed: whoever closes at the same time must not give the folder away before.
        let mut lock = self.0.lock.lock();
        let closed = self.0.metrics.close();
        #[cfg(feature = "traces")]
        let closed = closed.and(self.0.traces.close());
        lock.take();
        closed
    }
}

const READ_ONLY_TRIES: usize = 20;
const READ_ONLY_FAILURES: u32 = 3;

fn manifests(fs: &Arc<dyn Fs>, dir: &Path) -> [Option<bytes::Bytes>; 2] {
    ["metrics", "traces"].map(|store| fs.read(&dir.join(store).join("manifest.json")).ok())
}

impl Inner {
    fn stop_upkeep(&self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        // A thread may be waiting for the bucket, or be the one that drops the engine: it is not waited for then.
        let until = std::time::Instant::now() + Duration::from_secs(2);
        for t in std::mem::take(&mut *self.threads.lock()) {
            while !t.is_finished() && t.thread().id() != std::thread::current().id() && std::time::Instant::now() < until {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
    }
}

fn take_lock(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Box<dyn Send + Sync>> {
    let path: PathBuf = dir.join("LOCK");
    fs.lock(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::Unavailable,
            format!("the data folder {} is in use by another process: stop it, or choose another folder", dir.display()),
        ),
        _ => Error::io("taking the lock of the data folder", &path, e),
    })
}

/// Checks that this code knows the folder's layout, and gives a new folder its version. `Invalid` if it is a newer one, or
/// a copy that is not complete ([`UNFINISHED`]).
pub fn check_version(fs: &Arc<dyn Fs>, dir: &Path) -> Result<()> {
    if fs.exists(&dir.join(UNFINISHED)) {
        return Err(Error::invalid("data was being copied here and the copy did not come to its end: run it again").at(dir));
    }
    let path = dir.join("VERSION");
    match fs.read(&path) {
        Ok(b) => {
            let text = String::from_utf8_lossy(&b);
            let found: u32 = text.trim().parse().map_err(|_| Error::corrupt(format!("VERSION holds {text:?}, not a number")).at(&path))?;
            if found > LAYOUT_VERSION {
                return Err(Error::invalid(format!(
                    "the data folder has layout version {found}, this binary knows up to {LAYOUT_VERSION}: use the newer strandline that wrote it"
                ))
                .at(&path));
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            fs.write_atomic(&path, format!("{LAYOUT_VERSION}\n").as_bytes()).map_err(|e| Error::io("writing VERSION", &path, e))
        }
        Err(e) => Err(Error::io("reading VERSION", &path, e)),
    }
}
