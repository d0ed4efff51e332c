//! The log while it is open: queue, group commit, rotation, truncation.
//!
//! Rules that hold at every step:
//! 1. One frame is in flight at a time, so in `SyncMode::Always` a frame is written only when all before it are durable.
//! 2. A segment that saw a failed write or sync takes no further frame; the next header says how much of it is good.
//! 3. When a commit fails, all that was queued behind it fails too: a later record may build on an earlier one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::error::{WalError, WalErrorKind};
use crate::format::{self, MAX_FRAME_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, put_frame, put_uvarint};
use crate::fs::{FileWrite, Fs};
use crate::options::{SyncMode, WalOptions};
use crate::recover::{RecoveryReport, Replay, recover};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::ticket::Ticket;

/// So much is zeroed ahead of the frames: their syncs then write data alone, without the file's new length.
const ROOM_BYTES: usize = 256 << 10;

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
    options: WalOptions,
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
    closed: bool,
    stats: WalStats,
}

struct Segment {
    number: u64,
    len: u64,
}

struct Writer {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: Option<Box<dyn FileWrite>>,
    /// The segment being written, or the last one if there is no open file.
    number: u64,
    len: u64,
    durable: u64,
    /// How far the zeros reach that frames are written over.
    room: u64,
    sealed: VecDeque<Segment>,
    taken: Vec<u8>,
    frame: Vec<u8>,
    unsynced: bool,
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
        let mut sealed: VecDeque<Segment> = report.segments.iter().map(|(number, len)| Segment { number: *number, len: *len }).collect();
        let last = sealed.pop_back();
        let (number, len) = last.map_or((0, 0), |s| (s.number, s.len));
        let writer = Writer {
            fs,
            dir: dir.to_owned(),
            file: None,
            number,
            len,
            durable: len,
            room: 0,
            sealed,
            taken: Vec::new(),
            frame: Vec::new(),
            unsynced: false,
        };
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
        let w = self.0.shared.writer.lock();
        w.len + w.sealed.iter().map(|s| s.len).sum::<u64>()
    }

    /// Bytes of buffers that the log holds in memory.
    pub fn memory_bytes(&self) -> usize {
        let w = self.0.shared.writer.lock();
        w.taken.capacity() + w.frame.capacity() + self.0.shared.queue.lock().pending.capacity()
    }

    /// Counters since opening.
    pub fn stats(&self) -> WalStats {
        self.0.shared.queue.lock().stats
    }

    /// Commits and syncs what is queued, ends the committer, refuses further appends. The log then says of itself where it
    /// ended.
    pub fn close(&self) -> Result<(), WalError> {
        if self.0.shared.queue.lock().closed {
            return Ok(());
        }
        let done = self.sync();
        self.0.stop();
        if done.is_ok() {
            let decided = self.0.shared.queue.lock().decided;
            self.0.shared.writer.lock().vouch(decided + 1, &self.0.shared);
        }
        done
    }
}

impl Handle {
    fn stop(&self) {
        self.shared.queue.lock().closed = true;
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

    pub(crate) fn poll(&self, first: u64, last: u64, waker: &Waker) -> Option<Result<(), WalError>> {
        let mut q = self.queue.lock();
        if let Some(r) = q.outcome(first, last) {
            return Some(r);
        }
        if q.closed {
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
                    self.committed.wait_for(&mut q, std::time::Duration::from_millis(1));
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

/// Buffers that one large commit blew up are given back.
fn shrink(buf: &mut Vec<u8>) {
    if buf.capacity() > 1 << 20 {
        *buf = Vec::new();
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

impl Writer {
    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format::file_name(number))
    }

    fn write_frame(&mut self, first_seq: u64, count: u32, shared: &Shared) -> Result<u64, WalError> {
        if self.file.is_some() && self.len >= shared.options.segment_size_bytes {
            self.sync_now(shared)?;
            self.seal();
        }
        if self.file.is_none() {
            self.open_segment(first_seq)?;
        }
        self.frame.clear();
        let n = put_frame(&mut self.frame, self.number, first_seq, count, self.durable, &self.taken) as u64;
        let path = self.path(self.number);
        // `open_segment` has set it.
        let Some(file) = self.file.as_mut() else { return Err(WalError::new(WalErrorKind::Closed, "no segment is open")) };
        if let Err(e) = file.write_all(&self.frame) {
            self.poison();
            return Err(WalError::io("writing to the log", &path, &e));
        }
        self.unsynced = true;
        if shared.options.sync == SyncMode::Always {
            let end = self.len + n;
            if end > self.room {
                // Without room all is as right, only slower: the disk may be nearly full.
                self.room = file.make_room(ROOM_BYTES).map_or(0, |()| end + ROOM_BYTES as u64);
            }
            let good = self.len;
            self.len += n;
            if let Err(e) = self.sync_now(shared) {
                self.len = good;
                return Err(e);
            }
        } else {
            self.len += n;
        }
        shrink(&mut self.frame);
        Ok(n)
    }

    fn sync_now(&mut self, shared: &Shared) -> Result<(), WalError> {
        if !self.unsynced {
            return Ok(());
        }
        let path = self.path(self.number);
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        let start = Instant::now();
        if let Err(e) = file.sync() {
            self.poison();
            return Err(WalError::io("syncing the log", &path, &e));
        }
        self.unsynced = false;
        self.durable = self.len;
        let mut q = shared.queue.lock();
        q.stats.syncs += 1;
        q.stats.sync_nanos += start.elapsed().as_nanos() as u64;
        Ok(())
    }

    /// A frame without records says that all before it is durable: damage to the last one is then told from a torn tail.
    /// Best effort, since nothing but that depends on it.
    fn vouch(&mut self, next_seq: u64, shared: &Shared) {
        let Some(file) = self.file.as_mut() else { return };
        if self.durable != self.len || self.len == SEGMENT_HEADER_BYTES as u64 {
            return;
        }
        self.frame.clear();
        let n = put_frame(&mut self.frame, self.number, next_seq, 0, self.durable, &[]) as u64;
        if file.write_all(&self.frame).is_err() {
            return self.poison();
        }
        self.unsynced = true;
        self.len += n;
        let _ = self.sync_now(shared);
    }

    /// After a failed write or sync the operating system may have dropped the pages: the file takes nothing more.
    fn poison(&mut self) {
        self.file = None;
        self.unsynced = false;
    }

    fn seal(&mut self) {
        self.file = None;
        self.unsynced = false;
    }

    fn open_segment(&mut self, first_seq: u64) -> Result<(), WalError> {
        let number = self.number + 1;
        let path = self.path(number);
        let header = SegmentHeader { number, first_seq, previous_len: self.len };
        let create = || {
            let mut f = self.fs.create(&path)?;
            f.write_all(&header.encode())?;
            f.sync()?;
            self.fs.sync_dir(&self.dir)?;
            std::io::Result::Ok(f)
        };
        let f = create().map_err(|e| WalError::io("starting a log segment", &path, &e))?;
        if self.number > 0 && self.len > 0 {
            self.sealed.push_back(Segment { number: self.number, len: self.len });
        }
        self.file = Some(f);
        self.number = number;
        self.len = SEGMENT_HEADER_BYTES as u64;
        self.durable = self.len;
        self.room = 0;
        Ok(())
    }

    fn truncate_before(&mut self, segment: u64) -> Result<(), WalError> {
        let mut removed = false;
        while self.sealed.front().is_some_and(|s| s.number < segment) {
            let Some(s) = self.sealed.pop_front() else { break };
            let path = self.path(s.number);
            match self.fs.remove_file(&path) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    self.sealed.push_front(s);
                    return Err(WalError::io("removing a log segment", &path, &e));
                }
            }
        }
        if removed {
            self.fs.sync_dir(&self.dir).map_err(|e| WalError::io("syncing the log folder", &self.dir, &e))?;
        }
        Ok(())
    }
}
