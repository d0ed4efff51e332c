//! The segment that is being written, and those before it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{WalError, WalErrorKind};
use crate::format::{self, SEGMENT_HEADER_BYTES, SegmentHeader, put_frame};
use crate::fs::{FileWrite, Fs};
use crate::log::Shared;
use crate::options::SyncMode;

/// So much is zeroed ahead of the frames: their syncs then write data alone, without the file's new length.
const ROOM_BYTES: usize = 256 << 10;

struct Segment {
    number: u64,
    len: u64,
}

pub(crate) struct Writer {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: Option<Box<dyn FileWrite>>,
    /// The segment being written, or the last one if there is no open file.
    pub(crate) number: u64,
    len: u64,
    durable: u64,
    /// How far the zeros reach that frames are written over.
    room: u64,
    sealed: VecDeque<Segment>,
    /// Records that were taken from the queue to be written.
    pub(crate) taken: Vec<u8>,
    frame: Vec<u8>,
    unsynced: bool,
    /// The folder may be another's.
    ended: bool,
}

impl Writer {
    /// Behind the segments that a recovery found, with the length that counts of each: new frames go to a new one.
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, found: &[(u64, u64)]) -> Self {
        let mut sealed: VecDeque<Segment> = found.iter().map(|(number, len)| Segment { number: *number, len: *len }).collect();
        let last = sealed.pop_back();
        let (number, len) = last.map_or((0, 0), |s| (s.number, s.len));
        Writer {
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
            ended: false,
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format::file_name(number))
    }

    pub(crate) fn write_frame(&mut self, first_seq: u64, count: u32, shared: &Shared) -> Result<u64, WalError> {
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

    pub(crate) fn sync_now(&mut self, shared: &Shared) -> Result<(), WalError> {
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
        shared.count_sync(start.elapsed());
        Ok(())
    }

    /// A frame without records says that all before it is durable: damage to the last one is then told from a torn tail.
    /// Best effort, since nothing but that depends on it.
    pub(crate) fn vouch(&mut self, next_seq: u64, shared: &Shared) {
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

    pub(crate) fn seal(&mut self) {
        self.file = None;
        self.unsynced = false;
    }

    /// Nothing is written from here on.
    pub(crate) fn end(&mut self) {
        self.seal();
        self.ended = true;
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.len + self.sealed.iter().map(|s| s.len).sum::<u64>()
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.taken.capacity() + self.frame.capacity()
    }

    pub(crate) fn open_segment(&mut self, first_seq: u64) -> Result<(), WalError> {
        if self.ended {
            return Err(WalError::new(WalErrorKind::Closed, "the log is closed"));
        }
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

    pub(crate) fn truncate_before(&mut self, segment: u64) -> Result<(), WalError> {
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

/// Buffers that one large commit blew up are given back.
pub(crate) fn shrink(buf: &mut Vec<u8>) {
    if buf.capacity() > 1 << 20 {
        *buf = Vec::new();
    }
}
