//! The span store: the one write path, and what readers see.
//!
//! An append goes: read and check -> WAL -> (commit) -> live spans -> acknowledged. A flush is a cut: the log is rotated
//! and the live spans frozen under one lock, blocks are written, the manifest names them together with the segment from
//! which the log counts, readers are given the blocks instead of the frozen spans, and the log is truncated.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use strandline_wal::{RecoveryReport, Ticket, Wal, WalError, WalErrorKind};

use super::block::meta::BlockMeta;
use super::blocks::{self, BlockHandle};
use super::compact::pace::Pace;
use super::live::{Live, LiveBody, Owner};
use super::manifest::{Lost, Manifest};
use super::options::TraceStoreOptions;
use super::otlp::encode_request;
use super::record;
use crate::bucket::{CachedBucket, Halves, Lease, Ownership, RangeCache};
use crate::error::{Error, ErrorKind, Result, wal_error};
use crate::model::{Span, Trace, TraceId};
use crate::read::Warnings;

/// A span store. Handles are cheap to clone.
#[derive(Clone)]
pub struct TraceStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) options: TraceStoreOptions,
    pub(super) bucket: CachedBucket,
    pub(super) wal: Wal,
    /// Held shared from a record's place in the log to its place among the pending; alone by a cut.
    pub(super) gate: RwLock<()>,
    pub(super) state: RwLock<State>,
    /// One cut or change of the manifest at a time. Never held over a call to the bucket.
    pub(super) maintenance: Mutex<Manifest>,
    /// One upload at a time; taken before `maintenance`.
    pub(super) uploading: Mutex<()>,
    /// One merge or removal at a time; taken before `uploading`.
    pub(super) tidying: Mutex<()>,
    pub(super) pace: Mutex<Pace>,
    pub(super) refused: AtomicU64,
    closed: AtomicBool,
    counter: AtomicU64,
    pub(super) ownership: Ownership,
    pub(super) halves: Mutex<Halves>,
    /// When the bucket was last listed, Unix milliseconds.
    pub(super) synced_ms: AtomicI64,
    recovery: RecoveryReport,
}

/// What readers see, changed under one lock.
pub(super) struct State {
    pub(super) live: Live,
    /// Requests in the log whose commit is not known yet; readers do not see them.
    pub(super) pending: BTreeMap<u64, LiveBody>,
    pub(super) pending_bytes: usize,
    /// Cut off, being written to blocks.
    pub(super) frozen: Vec<Arc<Live>>,
    pub(super) blocks: Arc<Vec<Arc<BlockHandle>>>,
    /// Why the bucket's blocks are not known yet: until they are, no answer can be whole.
    pub(super) unlisted: Option<String>,
    /// Blocks of the bucket of which nothing can be read, with what is wrong.
    pub(super) damaged: Vec<String>,
    /// The same of blocks that wait here for their upload.
    pub(super) damaged_here: Vec<Lost>,
}

impl State {
    /// Why an answer could miss something.
    pub(super) fn incomplete(&self) -> Option<String> {
        let unlisted = self.unlisted.iter().map(|why| format!("the bucket was never reached, so its blocks are unknown: {why}"));
        let why: Vec<String> =
            unlisted.chain(self.damaged.iter().cloned()).chain(self.damaged_here.iter().map(|l| l.why.clone())).collect();
        (!why.is_empty()).then(|| why.join("; "))
    }

    /// That as an error.
    pub(super) fn complete(&self) -> Result<()> {
        let kind = if self.unlisted.is_some() { ErrorKind::Unavailable } else { ErrorKind::Corrupt };
        self.incomplete().map_or(Ok(()), |why| Err(Error::new(kind, why)))
    }
}

/// The same bytes in memory that is theirs alone and hardly more: live spans keep it.
fn fitting(b: Bytes) -> Bytes {
    match b.try_into_mut() {
        Ok(m) if m.capacity() <= m.len() + m.len() / 16 => m.freeze(),
        Ok(m) => Bytes::copy_from_slice(&m),
        Err(b) => Bytes::copy_from_slice(&b),
    }
}

/// Of a store that shares no cache.
const DEFAULT_CACHE_BYTES: u64 = 32 << 20;

/// Blocks as of one moment.
pub(super) type Blocks = Arc<Vec<Arc<BlockHandle>>>;

/// What became of an append.
#[must_use = "spans are stored once the ticket resolves"]
pub struct SpanAppend {
    /// Spans that will be stored (or are already: what is sent twice is stored once).
    pub accepted: u64,
    /// Spans refused.
    pub rejected: u64,
    /// Why, with how many each.
    pub reasons: Vec<String>,
    /// Resolves when the accepted ones are durable and can be found.
    pub ticket: AppendTicket,
}

/// A commit under way. Wait for it on a thread, or poll it.
#[must_use = "spans are stored once the ticket resolves"]
pub struct AppendTicket {
    wal: Option<Ticket>,
    store: Arc<Inner>,
}

impl AppendTicket {
    /// Blocks until the spans are durable and visible, or their commit failed.
    pub fn wait(self) -> Result<()> {
        let AppendTicket { wal, store } = self;
        let Some(t) = wal else { return Ok(()) };
        let seq = t.seq();
        let done = t.wait();
        store.settle(seq, done.is_ok());
        done.map_err(wal_error)
    }
}

impl Future for AppendTicket {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(t) = &mut self.wal else { return Poll::Ready(Ok(())) };
        let seq = t.seq();
        match Pin::new(t).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(done) => {
                self.wal = None;
                self.store.settle(seq, done.is_ok());
                Poll::Ready(done.map_err(wal_error))
            }
        }
    }
}

impl Inner {
    /// The commit of a pending request is known. A cut may have taken it before.
    fn settle(&self, seq: u64, durable: bool) {
        let mut s = self.state.write();
        if let Some(body) = s.pending.remove(&seq) {
            s.pending_bytes = s.pending_bytes.saturating_sub(body.memory_bytes());
            if durable {
                s.live.apply(body, self.options.clock.now_ms());
            }
        }
    }

    pub(super) fn next_ulid(&self) -> String {
        use std::hash::BuildHasher;
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        let random = foldhash::fast::RandomState::default();
        let bits = u128::from(random.hash_one((n, &self.options.writer_id))) << 16 | u128::from(n & 0xffff);
        ulid::Ulid::from_parts(self.options.clock.now_ms().max(0) as u64, bits).to_string()
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.options.read_only { Err(Error::read_only()) } else { Ok(()) }
    }

    /// Once closed the folder is another's, who may have opened it: work that comes back from the bucket ends here.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the span store is closed"));
        }
        self.check_writable()
    }
}

impl TraceStore {
    /// Opens the store in its folder: blocks of the bucket and those not yet uploaded, and the log replayed.
    pub fn open(options: TraceStoreOptions) -> Result<TraceStore> {
        let fs = options.fs.clone();
        let dir = options.dir.join("traces");
        for d in [&dir, &options.dir.join("wal")] {
            fs.create_dir_all(d).map_err(|e| Error::io("creating a folder", d, e))?;
        }
        fs.sync_dir(&options.dir).map_err(|e| Error::io("syncing a folder", &options.dir, e))?;
        let manifest = Manifest::load(&fs, &dir)?;
        let cache = options.cache.clone().unwrap_or_else(|| Arc::new(RangeCache::new(DEFAULT_CACHE_BYTES)));
        let bucket = CachedBucket { bucket: options.bucket.clone(), cache };
        // Without the bucket ingest goes on; `maintain` lists it as soon as it answers.
        let ((mut handles, damaged), unlisted) = match blocks::list(&options, &bucket) {
            Ok(found) => (found, None),
            Err(e) => (Default::default(), Some(e.to_string())),
        };
        let (staged, damaged_here) = manifest.staged(&options, &bucket, &handles)?;
        handles.extend(staged);
        let mut live = Live::default();
        let now = options.clock.now_ms();
        let mut replay = |at: strandline_wal::Position, bytes: &[u8]| {
            if at.segment < manifest.wal_floor {
                return Ok(());
            }
            let applied = record::decode(bytes).and_then(|(refused, request)| {
                let body = LiveBody::replay(Bytes::copy_from_slice(request), &refused)?;
                live.apply(body, now);
                Ok(())
            });
            // The frame's checksum held: what can't be read was written by another version, and must not be lost.
            applied.map_err(|e| WalError::new(WalErrorKind::Replay, format!("segment {}: {e}", at.segment)))
        };
        let wal_dir = options.dir.join("wal").join("traces");
        let (wal, recovery) = Wal::open(fs, &wal_dir, options.wal.clone(), &mut replay).map_err(wal_error)?;
        let (pending, blocks) = (BTreeMap::new(), Arc::new(handles));
        let state = State { live, pending, pending_bytes: 0, frozen: Vec::new(), blocks, unlisted, damaged, damaged_here };
        let lease = Lease::new(options.bucket.clone(), options.clock.clone(), "traces", &options.tenant, &options.writer_id);
        let ownership = Ownership::new(&options.writer_id, Some(lease), options.adopt_after_ms);
        Ok(TraceStore(Arc::new(Inner {
            options,
            bucket,
            wal,
            gate: RwLock::new(()),
            state: RwLock::new(state),
            maintenance: Mutex::new(manifest),
            uploading: Mutex::new(()),
            tidying: Mutex::new(()),
            pace: Mutex::default(),
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            counter: AtomicU64::new(0),
            ownership,
            halves: Mutex::default(),
            synced_ms: AtomicI64::new(now),
            recovery,
        })))
    }

    pub(super) fn next_ulid(&self) -> String {
        self.0.next_ulid()
    }

    /// What the log's recovery found at opening.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.0.recovery
    }

    /// Why answers may miss something: a bucket that was never reached, or blocks of which nothing can be read.
    pub fn incomplete(&self) -> Option<String> {
        self.0.state.read().incomplete()
    }

    /// Options it was opened with.
    pub fn options(&self) -> &TraceStoreOptions {
        &self.0.options
    }

    /// Appends an `ExportTraceServiceRequest`. Undecodable bytes are `Invalid`; a span that can't be stored is refused
    /// alone. `LimitExceeded` (retryable) while too much waits to be flushed.
    pub fn append_otlp(&self, request: Bytes) -> Result<SpanAppend> {
        let inner = &self.0;
        inner.check_open()?;
        self.check_memory()?;
        let request = fitting(request);
        let parsed = LiveBody::parse(request.clone(), &inner.options.limits, inner.options.clock.times())?;
        let (accepted, rejected) = (parsed.body.spans.len() as u64, parsed.refused.len() as u64);
        let reasons = parsed.reasons.iter().map(|(r, n)| format!("{r} ({n} spans)")).collect();
        inner.refused.fetch_add(rejected, Ordering::Relaxed);
        let wal = if accepted == 0 {
            None
        } else {
            let head = record::head(&parsed.refused);
            let _shared = inner.gate.read();
            let ticket = inner.wal.append_parts(&[&head, &request]).map_err(wal_error)?;
            let mut s = inner.state.write();
            s.pending_bytes += parsed.body.memory_bytes();
            s.pending.insert(ticket.seq(), parsed.body);
            Some(ticket)
        };
        Ok(SpanAppend { accepted, rejected, reasons, ticket: AppendTicket { wal, store: inner.clone() } })
    }

    /// Appends spans.
    pub fn append(&self, spans: &[Span]) -> Result<SpanAppend> {
        self.append_otlp(encode_request(spans).into())
    }

    fn check_memory(&self) -> Result<()> {
        let (used, max) = (self.live_bytes(), self.0.options.max_live_bytes);
        if used > max {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                format!("live spans hold {used} bytes of at most {max}; a flush will free them"),
            ));
        }
        Ok(())
    }

    /// Bytes of memory that spans hold which are not in a block yet.
    pub fn live_bytes(&self) -> usize {
        let s = self.0.state.read();
        s.live.memory_bytes() + s.pending_bytes + s.frozen.iter().map(|l| l.memory_bytes()).sum::<usize>()
    }

    /// Number of spans that are not in a block yet.
    pub fn live_spans(&self) -> u64 {
        let s = self.0.state.read();
        s.live.spans() + s.frozen.iter().map(|l| l.spans()).sum::<u64>()
    }

    /// Number of spans in blocks; an identical span in two blocks counts in both.
    pub fn block_spans(&self) -> u64 {
        self.blocks().iter().map(|b| b.meta.spans).sum()
    }

    /// Spans refused since opening.
    pub fn refused_spans(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Bytes of the log.
    pub fn wal_bytes(&self) -> u64 {
        self.0.wal.size_bytes()
    }

    /// Why the last commit to the log failed, if it did.
    pub(crate) fn wal_failure(&self) -> Option<WalError> {
        self.0.wal.failure()
    }

    /// The blocks that are read.
    pub fn blocks(&self) -> Arc<Vec<Arc<BlockHandle>>> {
        self.0.state.read().blocks.clone()
    }

    /// The live spans of a trace, and the blocks of the same moment.
    pub(super) fn places_of(&self, id: TraceId) -> Result<(Vec<Span>, Blocks)> {
        self.0.state.read().complete()?;
        self.known_places_of(id, usize::MAX)
    }

    /// The same of what is known, where that may not be all.
    fn known_places_of(&self, id: TraceId, most: usize) -> Result<(Vec<Span>, Blocks)> {
        let (live, blocks) = {
            let s = self.0.state.read();
            let mut live = s.live.trace(id);
            live.extend(s.frozen.iter().flat_map(|l| l.trace(id)));
            (live, s.blocks.clone())
        };
        if live.len() > most {
            return Err(too_many_spans(id, most));
        }
        let mut owner = Owner::default();
        let spans = live.iter().map(|(b, i)| owner.span(b, &b.spans[*i as usize])).collect::<Result<_>>()?;
        Ok((spans, blocks))
    }

    /// A trace, whole: joined over live spans and all blocks, identical spans once.
    pub fn trace(&self, id: TraceId) -> Result<Option<Trace>> {
        self.0.state.read().complete()?;
        self.gather(id, |_, e| Err(e))
    }

    /// A trace from the blocks that can be read, and what could not be.
    pub fn trace_partial(&self, id: TraceId) -> Result<(Option<Trace>, Warnings)> {
        let mut warnings: Warnings = self.incomplete().into_iter().collect();
        let trace = self.gather(id, |block, e| {
            warnings.push(format!("block {}: {e}", block.meta.ulid));
            Ok(())
        })?;
        Ok((trace, warnings))
    }

    /// What is known of a trace; `failed` says what becomes of a block that can't be read.
    fn gather(&self, id: TraceId, mut failed: impl FnMut(&BlockHandle, Error) -> Result<()>) -> Result<Option<Trace>> {
        let most = self.0.options.max_trace_spans;
        let (mut spans, blocks) = self.known_places_of(id, most)?;
        super::scan::fetch_trace(&blocks, id);
        for block in blocks.iter() {
            match super::scan::trace_in(block, id, most - spans.len()) {
                Ok(Some(found)) => spans.extend(found),
                Ok(None) => return Err(too_many_spans(id, most)),
                Err(e) => failed(block, e)?,
            }
        }
        self.trim_indexes(&blocks);
        Ok(if spans.is_empty() { None } else { Some(Trace::new(id, spans)) })
    }

    /// Forgets footers and filters beyond the memory they may take.
    pub(super) fn trim_indexes(&self, blocks: &[Arc<BlockHandle>]) {
        let mut used: usize = blocks.iter().map(|b| b.memory_bytes()).sum();
        for b in blocks {
            if used <= self.0.options.max_index_bytes {
                break;
            }
            used -= b.memory_bytes().min(used);
            b.forget();
        }
    }

    /// Commits what is queued and refuses further appends. Live spans stay in the log. Waits for a cut under way, never
    /// for the bucket: an upload or a merge that is still there touches nothing of the folder any more.
    pub fn close(&self) -> Result<()> {
        {
            let _manifest = self.0.maintenance.lock();
            self.0.closed.store(true, Ordering::Release);
        }
        self.0.wal.close().map_err(wal_error)
    }

    /// Cuts all live spans to blocks and uploads them. If the upload fails the blocks are kept and served from the
    /// data folder, and the next flush or maintenance tries again.
    pub fn flush(&self) -> Result<()> {
        self.flush_local()?;
        self.upload()
    }

    /// Cuts all live spans to blocks in the data folder, whatever the bucket is at. Upkeep uploads them.
    pub fn flush_local(&self) -> Result<()> {
        self.cut(&mut self.0.maintenance.lock())
    }

    /// Cuts live spans once there are enough of them, or the oldest has waited long enough.
    pub fn flush_due(&self) -> Result<()> {
        let inner = &self.0;
        inner.check_open()?;
        let mut manifest = inner.maintenance.lock();
        let now = inner.options.clock.now_ms();
        let due = {
            let s = inner.state.read();
            // What came later than now came before the clock was set back.
            let old = s.live.oldest_ms.is_some_and(|t| !(0..inner.options.flush_age_ms).contains(&now.saturating_sub(t)));
            old || !s.frozen.is_empty() || s.live.memory_bytes() >= inner.options.flush_bytes
        };
        if due { self.cut(&mut manifest) } else { Ok(()) }
    }

    /// Live spans to staged blocks.
    fn cut(&self, manifest: &mut Manifest) -> Result<()> {
        let inner = &self.0;
        inner.check_open()?;
        let Some(floor) = inner.freeze()? else { return Ok(()) };
        let began_ms = inner.options.clock.now_ms();
        let frozen = inner.state.read().frozen.clone();
        let dir = inner.options.dir.join("traces");
        let staged = inner.stage(&frozen, floor, &dir, manifest)?.into_iter().map(|m| {
            let at = dir.join(&m.ulid);
            BlockHandle::staged(m, inner.options.fs.clone(), at, inner.bucket.clone())
        });
        {
            let mut s = inner.state.write();
            let mut all = s.blocks.to_vec();
            all.extend(staged);
            s.blocks = Arc::new(all);
            s.frozen.clear();
        }
        inner.pace.lock().flushed(began_ms, inner.options.clock.now_ms());
        inner.wal.truncate_before(floor).map_err(wal_error)
    }
}

impl Inner {
    /// Rotates the log and freezes the live spans, which are all that it holds below the segment that this gives; none where
    /// nothing is to be flushed.
    fn freeze(&self) -> Result<Option<u64>> {
        let _alone = self.gate.write();
        {
            let s = self.state.read();
            if s.live.spans() == 0 && s.pending.is_empty() && s.frozen.is_empty() {
                return Ok(None);
            }
        }
        // All that is pending is decided once the log has rotated; whoever waits for it finds it taken. Nobody may wait any
        // more for what failed, and it must not be taken for written.
        let floor = self.wal.rotate().map_err(wal_error)?;
        let mut s = self.state.write();
        let now = self.options.clock.now_ms();
        s.pending_bytes = 0;
        for (seq, body) in std::mem::take(&mut s.pending) {
            if matches!(self.wal.outcome(seq), Some(Ok(()))) {
                s.live.apply(body, now);
            }
        }
        let live = std::mem::take(&mut s.live);
        if live.spans() > 0 {
            s.frozen.push(Arc::new(live));
        }
        Ok(Some(floor))
    }

    /// Writes frozen spans to blocks in `dir`, and names them in the manifest together with the segment from which the log
    /// counts. Nothing stays of those that no manifest names.
    fn stage(&self, frozen: &[Arc<Live>], floor: u64, dir: &Path, manifest: &mut Manifest) -> Result<Vec<BlockMeta>> {
        let o = &self.options;
        let target = super::flush::FlushTarget {
            fs: &o.fs,
            dir,
            tenant: &o.tenant,
            writer_id: &o.writer_id,
            window_ms: o.window_ms,
            options: &o.flush_write,
        };
        let mut begun = Vec::new();
        let written = super::flush::write_blocks(&target, frozen, || {
            begun.push(self.next_ulid());
            begun[begun.len() - 1].clone()
        });
        // Best effort: opening removes what no manifest names.
        let metas = written.inspect_err(|_| begun.iter().for_each(|u| drop(o.fs.remove_dir_all(&dir.join(u)))))?;
        let changed = manifest.change(&o.fs, dir, |m| {
            m.wal_floor = floor;
            m.staged.extend(metas.iter().map(|m| m.ulid.clone()));
        });
        // The manifest on the disk may name them all the same. Where it does not they would lie there until the next start,
        // and every further try on a full disk would add some.
        changed.inspect_err(|_| {
            let named = |u: &String| Manifest::load(&o.fs, dir).map_or(true, |m| m.staged.contains(u));
            begun.iter().filter(|u| !named(u)).for_each(|u| drop(o.fs.remove_dir_all(&dir.join(u))));
        })?;
        Ok(metas)
    }
}

/// What to say of a trace that is too large to be read whole.
fn too_many_spans(id: TraceId, most: usize) -> Error {
    let message = format!("trace {id} has more than {most} spans, too many to read at once: search for some of them by TraceQL");
    Error::new(ErrorKind::LimitExceeded, message)
}
