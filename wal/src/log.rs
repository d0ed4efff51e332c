//! The log while it is open: queue, group commit, rotation, truncation.
//!
//! Rules that hold at every step:
//! 1. One frame is in flight at a time, so in `SyncMode::Always` a frame is written only when all before it are durable.
//! 2. A segment that saw a failed write or sync takes no further frame; the next header says how much of it is good.
//! 3. When a commit fails, all that was queued behind it fails too: a later record may build on an earlier one.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::error::{WalError, WalErrorKind};
use crate::format::{MAX_FRAME_BYTES, put_uvarint};
use crate::fs::Fs;
use crate::options::{SyncMode, WalOptions};
use crate::recover::{RecoveryReport, Replay, recover};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::ticket::Ticket;
use crate::writer::{Writer, shrink};

/// So many failed ranges are remembered for those who ask late.
const MAX_FAILED: usize = 1024;

/// A segmented log; clones share it.
#[derive(Clone)]
pub struct Wal(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    committer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Counters of a log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Records appended.
    pub records: u64,
    /// Frames written.
    pub commits: u64,
    /// fsyncs of segment files.
    pub syncs: u64,
    /// Bytes of records.
    pub record_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Nanoseconds spent in fsync.
    pub sync_nanos: u64,
}

pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when a commit ended.
    committed: Condvar,
    /// Signalled when the committer has work.
    work: Condvar,
    writer: Mutex<Writer>,
    pub(crate) options: WalOptions,
}

#[derive(Default)]
struct Queue {
    /// Records with their lengths, waiting for a commit.
    pending: Vec<u8>,
    pending_count: u32,
    next_seq: u64,
    /// All sequences up to this one are decided: done, unless they lie in `failed`.
    decided: u64,
    /// Failed ranges, both ends included, oldest first.
    failed: VecDeque<(u64, u64, WalError)>,
    /// Up to here failed ranges may have been forgotten: who asks only now is told of a failure, whatever came of it.
    forgotten: u64,
    wakers: Vec<(u64, Waker)>,
    on_hold: Option<WalError>,
    /// Why the last commit failed, if it did.
    failure: Option<WalError>,
    wanted: bool,
    /// No record is taken any more.
    closed: bool,
    /// Nothing is written any more either: what is undecided stays so.
    ended: bool,
    stats: WalStats,
}

impl Wal {
    /// Opens the log in `dir` and replays it: `replay` gets every durable record in order. A torn tail is cut;
    /// damage is reported, set aside, and the rest replayed. New records go to a new segment.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: WalOptions, replay: Replay<'_>) -> Result<(Wal, RecoveryReport), WalError> {
        fs.create_dir_all(dir).map_err(|e| WalError::io("creating the log folder", dir, &e))?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs.sync_dir(parent).map_err(|e| WalError::io("syncing the folder above the log", parent, &e))?;
        }
        let report = recover(&*fs, dir, true, replay)?;
        let writer = Writer::new(fs, dir, &report.segments);
        let queue = Queue { next_seq: report.next_seq, decided: report.next_seq - 1, ..Queue::default() };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            committed: Condvar::new(),
            work: Condvar::new(),
            writer: Mutex::new(writer),
            options,
        });
        let committer = shared.options.background.then(|| spawn_committer(shared.clone())).transpose()?;
        Ok((Wal(Arc::new(Handle { shared, committer: Mutex::new(committer) })), report))
    }

    /// Queues a record and gives the ticket of its commit. Blocks only while too much is queued.
    pub fn append(&self, record: &[u8]) -> Result<Ticket, WalError> {
        self.append_parts(&[record])
    }

    /// As [`Wal::append`], of a record that lies in several places.
    pub fn append_parts(&self, record: &[&[u8]]) -> Result<Ticket, WalError> {
        let seq = self.0.shared.enqueue(record)?;
        Ok(Ticket::new(self.0.shared.clone(), seq, seq))
    }

    /// A ticket for all records from the sequence `first` to the last one appended: it fails if any of them failed. The
    /// owner of several records may not wait for the last alone, since [`Wal::resume`] may lie between them.
    pub fn ticket_from(&self, first: u64) -> Ticket {
        let last = self.0.shared.queue.lock().next_seq - 1;
        Ticket::new(self.0.shared.clone(), first, last)
    }

    /// What became of the record with this sequence: `None` while undecided.
    pub fn outcome(&self, seq: u64) -> Option<Result<(), WalError>> {
        self.0.shared.outcome(seq, seq)
    }

    /// Commits what is queued, now, on this thread. Failures of earlier commits were told to those who waited for them.
    pub fn commit(&self) -> Result<(), WalError> {
        let last = {
            let q = self.0.shared.queue.lock();
            (q.decided + 1 < q.next_seq).then(|| q.next_seq - 1)
        };
        last.map_or(Ok(()), |seq| Ticket::new(self.0.shared.clone(), seq, seq).wait())
    }

    /// Makes all that was appended durable, whatever the sync mode.
    pub fn sync(&self) -> Result<(), WalError> {
        self.commit()?;
        self.0.shared.writer.lock().sync_now(&self.0.shared)
    }

    /// Commits, seals the current segment and starts a new one; all records appended before lie in segments with
    /// smaller numbers than the one returned.
    pub fn rotate(&self) -> Result<u64, WalError> {
        self.commit()?;
        let mut w = self.0.shared.writer.lock();
        w.sync_now(&self.0.shared)?;
        w.seal();
        let first_seq = self.0.shared.queue.lock().decided + 1;
        w.open_segment(first_seq)?;
        Ok(w.number)
    }

    /// Removes sealed segments with numbers below `segment`.
    pub fn truncate_before(&self, segment: u64) -> Result<(), WalError> {
        self.0.shared.writer.lock().truncate_before(segment)
    }

    /// After a failed commit with `hold_after_failure`: the owner has rolled back, appends may go on.
    pub fn resume(&self) {
        self.0.shared.queue.lock().on_hold = None;
    }

    /// Why appends are refused, if they are.
    pub fn on_hold(&self) -> Option<WalError> {
        self.0.shared.queue.lock().on_hold.clone()
    }

    /// Why the last commit failed, if it did: until one succeeds the disk is taken to refuse them all.
    pub fn failure(&self) -> Option<WalError> {
        self.0.shared.queue.lock().failure.clone()
    }

    /// Bytes of all segments.
    pub fn size_bytes(&self) -> u64 {
        self.0.shared.writer.lock().size_bytes()
    }

    /// Bytes of buffers that the log holds in memory.
    pub fn memory_bytes(&self) -> usize {
        let w = self.0.shared.writer.lock();
        w.buffer_bytes() + self.0.shared.queue.lock().pending.capacity()
    }

    /// Counters since opening.
    pub fn stats(&self) -> WalStats {
        self.0.shared.queue.lock().stats
    }

    /// Refuses further appends, commits and syncs what is queued, ends the committer. The log then says of itself where it
    /// ended, and not a byte is written behind that: whoever opens it next reads it to there.
    pub fn close(&self) -> Result<(), WalError> {
        let shared = &self.0.shared;
        shared.queue.lock().closed = true;
        let done = self.sync();
        {
            let mut w = shared.writer.lock();
            let decided = shared.queue.lock().decided;
            if done.is_ok() {
                w.vouch(decided + 1, shared);
            }
            w.end();
        }
        self.0.stop();
        done
    }
}

impl Handle {
    fn stop(&self) {
        let left = {
            let mut q = self.shared.queue.lock();
            (q.closed, q.ended) = (true, true);
            std::mem::take(&mut q.wakers)
        };
        left.into_iter().for_each(|(_, w)| w.wake());
        self.shared.work.notify_all();
        self.shared.committed.notify_all();
        if let Some(t) = self.committer.lock().take() {
            let _ = t.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn_committer(shared: Arc<Shared>) -> Result<std::thread::JoinHandle<()>, WalError> {
    std::thread::Builder::new()
        .name("strandline-wal".into())
        .spawn(move || shared.run_committer())
        .map_err(|e| WalError::new(WalErrorKind::Unavailable, format!("starting the log's committer thread: {e}")))
}

impl Shared {
    fn enqueue(&self, record: &[&[u8]]) -> Result<u64, WalError> {
        let len: usize = record.iter().map(|p| p.len()).sum();
        if len > MAX_FRAME_BYTES / 2 {
            let text = format!("a record of {len} bytes is larger than the {} a frame takes", MAX_FRAME_BYTES / 2);
            return Err(WalError::new(WalErrorKind::TooLarge, text));
        }
        let mut q = self.queue.lock();
        while q.pending.len() > self.options.max_pending_bytes && !q.closed {
            // Whoever finds the queue full commits it; owners may hold locks that waiters need.
            drop(q);
            self.lead();
            q = self.queue.lock();
        }
        if q.closed {
            return Err(WalError::new(WalErrorKind::Closed, "the log is closed"));
        }
        if let Some(e) = &q.on_hold {
            return Err(e.clone());
        }
        let seq = q.next_seq;
        q.next_seq += 1;
        put_uvarint(&mut q.pending, len as u64);
        record.iter().for_each(|p| q.pending.extend_from_slice(p));
        q.pending_count += 1;
        q.stats.records += 1;
        q.stats.record_bytes += len as u64;
        Ok(seq)
    }

    pub(crate) fn outcome(&self, first: u64, last: u64) -> Option<Result<(), WalError>> {
        self.queue.lock().outcome(first, last)
    }

    pub(crate) fn count_sync(&self, took: Duration) {
        let mut q = self.queue.lock();
        q.stats.syncs += 1;
        q.stats.sync_nanos += took.as_nanos() as u64;
    }

    pub(crate) fn poll(&self, first: u64, last: u64, waker: &Waker) -> Option<Result<(), WalError>> {
        let mut q = self.queue.lock();
        if let Some(r) = q.outcome(first, last) {
            return Some(r);
        }
        if q.ended {
            return Some(Err(WalError::new(WalErrorKind::Closed, "the log was closed before the commit")));
        }
        match q.wakers.iter_mut().find(|(s, w)| *s == last && w.will_wake(waker)) {
            Some(_) => {}
            None => q.wakers.push((last, waker.clone())),
        }
        q.wanted = true;
        drop(q);
        self.work.notify_one();
        None
    }

    pub(crate) fn wait(&self, first: u64, last: u64) -> Result<(), WalError> {
        loop {
            if let Some(r) = self.outcome(first, last) {
                return r;
            }
            match self.writer.try_lock() {
                Some(w) => self.commit_queued(w),
                None => {
                    let mut q = self.queue.lock();
                    if let Some(r) = q.outcome(first, last) {
                        return r;
                    }
                    // Woken by the leader of the moment; the timeout covers a leader that ended between the two checks.
                    self.committed.wait_for(&mut q, Duration::from_millis(1));
                }
            }
        }
    }

    fn lead(&self) {
        let w = self.writer.lock();
        self.commit_queued(w);
    }

    /// Writes one frame with all that is queued and tells the waiters.
    fn commit_queued(&self, mut w: MutexGuard<'_, Writer>) {
        let (first_seq, count) = {
            let mut q = self.queue.lock();
            if q.pending_count == 0 {
                return;
            }
            w.taken.clear();
            std::mem::swap(&mut w.taken, &mut q.pending);
            let count = std::mem::take(&mut q.pending_count);
            (q.next_seq - count as u64, count)
        };
        let written = w.write_frame(first_seq, count, self);
        shrink(&mut w.taken);
        let mut q = self.queue.lock();
        match written {
            Ok(bytes) => {
                q.decided = first_seq + count as u64 - 1;
                q.failure = None;
                q.stats.commits += 1;
                q.stats.written_bytes += bytes;
            }
            Err(e) => q.fail_all(first_seq, e, self.options.hold_after_failure),
        }
        let woken = q.take_woken();
        drop(q);
        drop(w);
        self.committed.notify_all();
        for w in woken {
            w.wake();
        }
    }

    fn run_committer(&self) {
        let interval = match self.options.sync {
            SyncMode::Interval(d) => Some(d),
            _ => None,
        };
        loop {
            let mut q = self.queue.lock();
            if q.closed {
                return;
            }
            if !q.wanted {
                match interval {
                    Some(d) => {
                        self.work.wait_for(&mut q, d);
                    }
                    None => self.work.wait(&mut q),
                }
            }
            let wanted = std::mem::take(&mut q.wanted);
            let closed = q.closed;
            drop(q);
            if wanted || interval.is_some() {
                self.lead();
            }
            if interval.is_some() && !closed {
                // A failed sync poisons the segment; what was promised is only that it was handed over.
                let _ = self.writer.lock().sync_now(self);
            }
        }
    }
}

impl Queue {
    /// What became of the records from `first` to `last`: the first failure among them, once all are decided.
    fn outcome(&self, first: u64, last: u64) -> Option<Result<(), WalError>> {
        if last > self.decided {
            return None;
        }
        if first <= self.forgotten {
            let text = "what became of this record is no longer known: too many commits have failed since";
            return Some(Err(WalError::new(WalErrorKind::Unavailable, text)));
        }
        let at = self.failed.partition_point(|(_, end, _)| *end < first);
        let failed = self.failed.get(at).filter(|(begin, _, _)| *begin <= last);
        Some(failed.map_or(Ok(()), |(_, _, e)| Err(e.clone())))
    }

    fn fail_all(&mut self, first_seq: u64, e: WalError, hold: bool) {
        let last = self.next_seq - 1;
        self.pending.clear();
        self.pending_count = 0;
        self.decided = last;
        self.stats.failures += 1;
        self.failure = Some(e.clone());
        match self.failed.back_mut() {
            Some((_, b, old)) if *b + 1 == first_seq => {
                *b = last;
                *old = e.clone();
            }
            _ => self.failed.push_back((first_seq, last, e.clone())),
        }
        if self.failed.len() > MAX_FAILED
            && let Some((_, last, _)) = self.failed.pop_front()
        {
            self.forgotten = last;
        }
        if hold {
            self.on_hold = Some(e);
        }
    }

    fn take_woken(&mut self) -> Vec<Waker> {
        let decided = self.decided;
        let (done, rest) = std::mem::take(&mut self.wakers).into_iter().partition(|(s, _)| *s <= decided);
        self.wakers = rest;
        let done: Vec<(u64, Waker)> = done;
        done.into_iter().map(|(_, w)| w).collect()
    }
}
