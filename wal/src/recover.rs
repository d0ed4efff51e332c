//! Reading a log back: which bytes count, which are a torn tail, which are damage.
//!
//! A frame that does not check out is **damage** if a later frame (or the next segment's header) says that its
//! offset was durable; otherwise it is the **tail** of a write that was never acknowledged, and is cut.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{WalError, WalErrorKind};
use crate::format::{self, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, Records, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::fs::{FileRead, Fs};

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of its segment.
    pub segment: u64,
    /// Its sequence number.
    pub seq: u64,
    /// Bytes of the log's files up to the end of its frame: how far the replay is.
    pub done_bytes: u64,
    /// Bytes of all of the log's files.
    pub all_bytes: u64,
}

/// Bytes that were durable once and can't be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The segment file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How far it reaches.
    pub len_bytes: u64,
    /// Where a copy of the bytes was put, if it could be written.
    pub quarantined: Option<PathBuf>,
}

/// What recovery found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Records replayed.
    pub records: u64,
    /// Bytes of records replayed.
    pub record_bytes: u64,
    /// Sequence of the next append.
    pub next_seq: u64,
    /// Bytes cut from the tail.
    pub torn_bytes: u64,
    /// What was damaged.
    pub damage: Vec<Damage>,
    /// Segments with the length that counts.
    pub segments: Vec<(u64, u64)>,
}

/// Gets every record with its place.
pub type Replay<'a> = &'a mut dyn FnMut(Position, &[u8]) -> Result<(), WalError>;

/// Replays a log that another process may be writing; changes nothing on disk.
pub fn replay_read_only(fs: &Arc<dyn Fs>, dir: &Path, replay: Replay<'_>) -> Result<RecoveryReport, WalError> {
    recover(&**fs, dir, false, replay)
}

pub(crate) fn recover(fs: &dyn Fs, dir: &Path, mend: bool, replay: Replay<'_>) -> Result<RecoveryReport, WalError> {
    let mut report = RecoveryReport { next_seq: 1, ..RecoveryReport::default() };
    let mut numbers: Vec<(u64, PathBuf)> = match fs.read_dir(dir) {
        Ok(entries) => entries.into_iter().filter_map(|e| Some((format::parse_file_name(e.name())?, e.path))).collect(),
        Err(e) if !mend && e.kind() == std::io::ErrorKind::NotFound => return Ok(report),
        Err(e) => return Err(WalError::io("listing the log", dir, &e)),
    };
    numbers.sort();
    let lens: Vec<u64> = numbers.iter().map(|(_, p)| fs.open(p).map_or(0, |f| f.len())).collect();
    let headers: Vec<Option<SegmentHeader>> = numbers.iter().map(|(n, p)| read_header(fs, *n, p)).collect::<Result<_, _>>()?;
    for (i, (number, path)) in numbers.iter().enumerate() {
        let last = i + 1 == numbers.len();
        if headers[i].is_none() && last && !holds_frames(fs, *number, path)? {
            // Created and never finished: nothing in it was acknowledged.
            report.torn_bytes += lens[i];
            if mend {
                fs.remove_file(path).and_then(|()| fs.sync_dir(dir)).map_err(|e| WalError::io("removing a torn segment", path, &e))?;
            }
            continue;
        }
        if let Some((previous, _)) = i.checked_sub(1).map(|p| &numbers[p])
            && previous + 1 != *number
        {
            let missing = dir.join(format::file_name(previous + 1));
            report.damage.push(Damage { path: missing, offset: 0, len_bytes: 0, quarantined: None });
        }
        let good_len = headers.get(i + 1).copied().flatten().filter(|h| h.number == number + 1).map(|h| h.previous_len);
        if let Some(h) = headers[i] {
            report.next_seq = report.next_seq.max(h.first_seq);
        }
        let (done_bytes, all_bytes) = (lens[..i].iter().sum(), lens.iter().sum());
        let start = Position { segment: *number, seq: 0, done_bytes, all_bytes };
        let mut s = Scan { fs, path, number: *number, report: &mut report, mend, dir, start };
        s.run(headers[i].is_some(), good_len, last, replay)?;
    }
    Ok(report)
}

fn read_header(fs: &dyn Fs, number: u64, path: &Path) -> Result<Option<SegmentHeader>, WalError> {
    let f = fs.open(path).map_err(|e| WalError::io("opening a log segment", path, &e))?;
    if (f.len() as usize) < SEGMENT_HEADER_BYTES {
        return Ok(None);
    }
    let b = f.read_at(0, SEGMENT_HEADER_BYTES).map_err(|e| WalError::io("reading a log segment", path, &e))?;
    Ok(SegmentHeader::decode(&b).filter(|h| h.number == number))
}

/// Whether a segment without a header was in use: the header is durable before the first frame is written, and a frame's
/// checksum covers the segment's number.
fn holds_frames(fs: &dyn Fs, number: u64, path: &Path) -> Result<bool, WalError> {
    let f = fs.open(path).map_err(|e| WalError::io("opening a log segment", path, &e))?;
    Ok(next_frame(&*f, number, SEGMENT_HEADER_BYTES as u64, f.len(), 0).is_some())
}

struct Scan<'a> {
    fs: &'a dyn Fs,
    path: &'a Path,
    dir: &'a Path,
    number: u64,
    report: &'a mut RecoveryReport,
    mend: bool,
    start: Position,
}

impl Scan<'_> {
    /// `header`: it is sound; `good_len`: how much the next segment says is good; `last`: no segment follows.
    fn run(&mut self, header: bool, good_len: Option<u64>, last: bool, replay: Replay<'_>) -> Result<(), WalError> {
        let f = self.fs.open(self.path).map_err(|e| WalError::io("opening a log segment", self.path, &e))?;
        if !header {
            self.damage(&*f, 0, (SEGMENT_HEADER_BYTES as u64).min(f.len()));
        }
        let end = good_len.unwrap_or(f.len()).min(f.len());
        if let Some(g) = good_len.filter(|g| *g > f.len()) {
            self.damage(&*f, f.len(), g);
        }
        let mut at = SEGMENT_HEADER_BYTES as u64;
        while at < end {
            match read_frame(&*f, self.number, at, end) {
                Some((h, payload)) => {
                    self.frame(at, &h, &payload, replay)?;
                    at += FRAME_HEADER_BYTES as u64 + h.stored_len as u64;
                }
                // Room that no frame was written into.
                None if good_len.is_none() && written_until(&*f, at, end) == at => return self.cut(at, at, end),
                None => {
                    // A sealed segment was durable to its end; in the last one a later frame must vouch for it.
                    let sealed = good_len.is_some() || !last;
                    match next_frame(&*f, self.number, at + 1, end, if sealed { 0 } else { at + 1 }) {
                        Some(next) => {
                            self.damage(&*f, at, next);
                            at = next;
                        }
                        None if sealed => {
                            self.damage(&*f, at, end);
                            at = end;
                        }
                        None => return self.cut(at, written_until(&*f, at, end), f.len()),
                    }
                }
            }
        }
        self.report.segments.push((self.number, end.max(SEGMENT_HEADER_BYTES as u64)));
        Ok(())
    }

    fn frame(&mut self, at: u64, h: &FrameHeader, payload: &Bytes, replay: Replay<'_>) -> Result<(), WalError> {
        let unpacked;
        let raw: &[u8] = if h.packed() {
            let corrupt =
                |e: &dyn std::fmt::Display| WalError::new(WalErrorKind::Corrupt, format!("{} at offset {at}: {e}", self.path.display()));
            unpacked = lz4_flex::block::decompress(payload, h.raw_len as usize).map_err(|e| corrupt(&e))?;
            &unpacked
        } else {
            payload
        };
        let mut seq = h.first_seq;
        let end = at + FRAME_HEADER_BYTES as u64 + h.stored_len as u64;
        for r in Records(raw) {
            let Some(r) = r else {
                let text = format!("{} at offset {at}: the frame's records contradict its checksum", self.path.display());
                return Err(WalError::new(WalErrorKind::Corrupt, text));
            };
            replay(Position { seq, done_bytes: self.start.done_bytes + end, ..self.start }, r)?;
            seq += 1;
            self.report.records += 1;
            self.report.record_bytes += r.len() as u64;
        }
        self.report.next_seq = self.report.next_seq.max(seq).max(h.first_seq + h.count as u64);
        Ok(())
    }

    /// Ends the segment at `at`; what was written reaches to `written`, the file to `len`.
    fn cut(&mut self, at: u64, written: u64, len: u64) -> Result<(), WalError> {
        self.report.torn_bytes += written - at;
        self.report.segments.push((self.number, at));
        if self.mend && at < len {
            self.fs.truncate(self.path, at).map_err(|e| WalError::io("cutting the log's torn tail", self.path, &e))?;
        }
        Ok(())
    }

    fn damage(&mut self, f: &dyn FileRead, from: u64, to: u64) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let aside = self.dir.join("quarantine").join(format!("{stem}-{from}.bad"));
        let mut quarantined = None;
        if self.mend && !self.fs.exists(&aside) && to <= f.len() {
            let copied = self
                .fs
                .create_dir_all(&self.dir.join("quarantine"))
                .and_then(|()| f.read_at(from, (to - from) as usize))
                .and_then(|b| self.fs.write_atomic(&aside, &b));
            // A copy for later study is a courtesy: recovery goes on without it.
            quarantined = copied.is_ok().then_some(aside);
        } else if self.fs.exists(&aside) {
            quarantined = Some(aside);
        }
        self.report.damage.push(Damage { path: self.path.to_owned(), offset: from, len_bytes: to - from, quarantined });
    }
}

fn read_frame(f: &dyn FileRead, segment: u64, at: u64, end: u64) -> Option<(FrameHeader, Bytes)> {
    if end - at < FRAME_HEADER_BYTES as u64 {
        return None;
    }
    let h = FrameHeader::decode(&f.read_at(at, FRAME_HEADER_BYTES).ok()?)?;
    if at + FRAME_HEADER_BYTES as u64 + h.stored_len as u64 > end {
        return None;
    }
    let payload = f.read_at(at + FRAME_HEADER_BYTES as u64, h.stored_len as usize).ok()?;
    (h.checksum(segment, &payload) == h.crc).then_some((h, payload))
}

/// Where the zeros begin that `from..end` ends with; what can't be read counts as written.
fn written_until(f: &dyn FileRead, from: u64, mut end: u64) -> u64 {
    const STEP: u64 = 64 << 10;
    while from < end {
        let start = end.saturating_sub(STEP).max(from);
        match f.read_at(start, (end - start) as usize) {
            Ok(b) => match b.iter().rposition(|x| *x != 0) {
                Some(last) => return start + last as u64 + 1,
                None => end = start,
            },
            Err(_) => return end,
        }
    }
    from
}

/// The first good frame at or behind `from` whose durable mark is at least `vouches`.
fn next_frame(f: &dyn FileRead, segment: u64, from: u64, end: u64, vouches: u64) -> Option<u64> {
    const STEP: u64 = 1 << 20;
    let mut at = from;
    let mut first = None;
    while at + FRAME_HEADER_BYTES as u64 <= end {
        let n = STEP.min(end - at) as usize;
        let window = f.read_at(at, n).ok()?;
        for i in find_all(&window, &FRAME_MAGIC) {
            let pos = at + i as u64;
            if let Some((h, _)) = read_frame(f, segment, pos, end) {
                first = first.or(Some(pos));
                if h.durable >= vouches {
                    return first;
                }
            }
        }
        if n < STEP as usize {
            break;
        }
        at += STEP - (FRAME_MAGIC.len() as u64 - 1);
    }
    None
}

fn find_all<'a>(hay: &'a [u8], needle: &'a [u8; 4]) -> impl Iterator<Item = usize> + 'a {
    hay.windows(4).enumerate().filter(move |(_, w)| w == needle).map(|(i, _)| i)
}
