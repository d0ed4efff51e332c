//! Pages of the bucket's objects on the local disk: the second level of [`super::RangeCache`].
//!
//! Pages are gathered in memory and written out together as a segment file, which is never changed and goes as a whole
//! when the oldest must. A record is: magic (4), CRC32 (4) of all that follows it in the record, page number (8), key
//! length (2), page length (4), key, page; integers little-endian. A page whose sum does not hold is not there.
//!
//! A segment's name is `<number>-<tag>.pages`, numbers in the order of writing. The tag is its writer's own: one that was closed
//! may write its last pages while the next owner of the folder is at work, and files that are mapped must never be written over.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use strandline_wal::fs::{FileRead, Fs};

use crate::error::{Error, Result};

const MAGIC: [u8; 4] = *b"SLpg";
const HEADER: usize = 22;
/// A segment is written once so much is gathered.
const SEGMENT_BYTES: usize = 4 << 20;

type Key = (Arc<str>, u64);

#[derive(Clone, Copy)]
struct At {
    segment: u64,
    /// Of the record.
    offset: u32,
    len: u32,
}

struct Segment {
    number: u64,
    path: PathBuf,
    len: u64,
    file: Arc<dyn FileRead>,
    keys: Vec<Key>,
}

/// The pages on disk.
pub(super) struct DiskCache {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    max_bytes: u64,
    index: HashMap<Key, At>,
    segments: VecDeque<Segment>,
    bytes: u64,
    /// The segment being gathered.
    open: Vec<u8>,
    open_keys: Vec<Key>,
    next: u64,
    tag: u64,
}

impl DiskCache {
    /// Opens the folder: segments of an earlier run are read again.
    pub(super) fn open(fs: Arc<dyn Fs>, dir: PathBuf, max_bytes: u64) -> Result<Self> {
        fs.create_dir_all(&dir).map_err(|e| Error::io("creating the cache folder", &dir, e))?;
        let mut c = DiskCache {
            fs,
            max_bytes: max_bytes.max(2 * SEGMENT_BYTES as u64),
            index: HashMap::new(),
            segments: VecDeque::new(),
            bytes: 0,
            open: Vec::new(),
            open_keys: Vec::new(),
            next: 1,
            tag: RandomState::new().build_hasher().finish(),
            dir,
        };
        let entries = c.fs.read_dir(&c.dir).map_err(|e| Error::io("listing the cache folder", &c.dir, e))?;
        let mut files: Vec<(u64, PathBuf)> = entries.into_iter().filter_map(|e| Some((number(e.name())?, e.path))).collect();
        files.sort_unstable();
        let mut names: HashMap<Box<str>, Arc<str>> = HashMap::new();
        for (n, path) in files {
            // Two owners at once may have given the same.
            let n = n.max(c.next);
            c.next = n.saturating_add(1);
            match c.load(n, path, &mut names) {
                Ok(s) => {
                    c.bytes += s.len;
                    c.segments.push_back(s);
                }
                Err(path) => drop(c.fs.remove_file(&path)),
            }
        }
        c.make_room(0);
        Ok(c)
    }

    /// Bytes on disk.
    pub(super) fn size_bytes(&self) -> u64 {
        self.bytes
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}-{:016x}.pages", self.tag))
    }

    /// Reads the heads of a segment's records; what is behind a damaged one is lost.
    fn load(&mut self, number: u64, path: PathBuf, names: &mut HashMap<Box<str>, Arc<str>>) -> std::result::Result<Segment, PathBuf> {
        let Ok(file) = self.fs.open(&path) else { return Err(path) };
        let (mut at, mut keys) = (0u64, Vec::new());
        while let Ok(h) = file.read_at(at, HEADER) {
            let Some((page, key_len, page_len)) = parse(&h) else { break };
            let Ok(key) = file.read_at(at + HEADER as u64, key_len) else { break };
            let Ok(key) = std::str::from_utf8(&key) else { break };
            let name = names.entry(key.into()).or_insert_with(|| key.into()).clone();
            let len = HEADER + key_len + page_len;
            if at + len as u64 > file.len() {
                break;
            }
            self.index.insert((name.clone(), page), At { segment: number, offset: at as u32, len: len as u32 });
            keys.push((name, page));
            at += len as u64;
        }
        if keys.is_empty() { Err(path) } else { Ok(Segment { number, path, len: file.len(), file, keys }) }
    }

    /// A page, if it is here and whole. One that is not is forgotten, so that it can be put here again.
    pub(super) fn get(&mut self, key: &Arc<str>, page: u64) -> Option<Bytes> {
        let k = (key.clone(), page);
        let at = *self.index.get(&k)?;
        let whole = self.record(at).and_then(|r| checked(&r, key, page).map(|from| r.slice(from..)));
        if whole.is_none() {
            self.index.remove(&k);
        }
        whole
    }

    fn record(&self, at: At) -> Option<Bytes> {
        if at.segment == self.next {
            return Some(Bytes::copy_from_slice(self.open.get(at.offset as usize..(at.offset + at.len) as usize)?));
        }
        let i = self.segments.binary_search_by_key(&at.segment, |s| s.number).ok()?;
        self.segments[i].file.read_at(at.offset as u64, at.len as usize).ok()
    }

    /// Keeps a page in the place of the one that is here, if that is another.
    pub(super) fn replace(&mut self, key: &Arc<str>, page: u64, content: &[u8]) {
        if self.get(key, page).is_none_or(|held| held != content) {
            self.index.remove(&(key.clone(), page));
            self.put(key, page, content);
        }
    }

    /// Keeps a page.
    pub(super) fn put(&mut self, key: &Arc<str>, page: u64, content: &[u8]) {
        let k = (key.clone(), page);
        if self.index.contains_key(&k) || key.len() > u16::MAX as usize {
            return;
        }
        let offset = self.open.len();
        let out = &mut self.open;
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&page.to_le_bytes());
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(content.len() as u32).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(content);
        let sum = crc32fast::hash(&out[offset + 8..]);
        out[offset + 4..offset + 8].copy_from_slice(&sum.to_le_bytes());
        let at = At { segment: self.next, offset: offset as u32, len: (out.len() - offset) as u32 };
        self.index.insert(k.clone(), at);
        self.open_keys.push(k);
        if self.open.len() >= SEGMENT_BYTES {
            self.seal();
        }
    }

    /// Writes what is gathered. A disk that refuses it costs the pages, no answer.
    fn seal(&mut self) {
        let (content, keys) = (std::mem::take(&mut self.open), std::mem::take(&mut self.open_keys));
        self.make_room(content.len() as u64);
        let number = self.next;
        self.next += 1;
        let path = self.path(number);
        match write(&*self.fs, &path, &content) {
            Ok(file) => {
                self.bytes += content.len() as u64;
                self.segments.push_back(Segment { number, path, len: content.len() as u64, file, keys });
            }
            Err(e) => {
                tracing::warn!(error = %e, path = %path.display(), "the bucket's cache can't be written; pages are fetched again when needed");
                drop(self.fs.remove_file(&path));
                self.forget(number, &keys);
            }
        }
    }

    fn make_room(&mut self, more: u64) {
        while self.bytes + more > self.max_bytes {
            let Some(s) = self.segments.pop_front() else { return };
            self.bytes -= s.len;
            self.forget(s.number, &s.keys);
            drop(self.fs.remove_file(&s.path));
        }
    }

    fn forget(&mut self, segment: u64, keys: &[Key]) {
        for k in keys {
            if self.index.get(k).is_some_and(|at| at.segment == segment) {
                self.index.remove(k);
            }
        }
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            self.seal();
        }
    }
}

fn write(fs: &dyn Fs, path: &Path, content: &[u8]) -> std::io::Result<Arc<dyn FileRead>> {
    let mut f = fs.create(path)?;
    f.write_all(content)?;
    drop(f);
    fs.open(path)
}

/// The number in a segment's name; earlier versions put no tag there.
fn number(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(".pages")?;
    stem.split_once('-').map_or(stem, |(number, _)| number).parse().ok()
}

/// Page number, key length and page length of a record.
fn parse(h: &[u8]) -> Option<(u64, usize, usize)> {
    let h: &[u8; HEADER] = h.get(..HEADER)?.try_into().ok()?;
    let page = u64::from_le_bytes([h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]]);
    let (key_len, page_len) = (u16::from_le_bytes([h[16], h[17]]) as usize, u32::from_le_bytes([h[18], h[19], h[20], h[21]]) as usize);
    (h[..4] == MAGIC && page_len < 64 << 20).then_some((page, key_len, page_len))
}

/// Where the page begins in a record that is whole and is the one asked for.
fn checked(record: &[u8], key: &str, page: u64) -> Option<usize> {
    let (n, key_len, page_len) = parse(record)?;
    let from = HEADER + key_len;
    let sound = record.len() == from + page_len && record[4..8] == crc32fast::hash(&record[8..]).to_le_bytes();
    (sound && n == page && record.get(HEADER..from)? == key.as_bytes()).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_wal::fs::{FaultKind, SimFs};

    const PAGE: usize = 64 << 10;

    fn open(fs: &SimFs, max: u64) -> DiskCache {
        DiskCache::open(Arc::new(fs.clone()), "/c".into(), max).unwrap()
    }

    fn fill(c: &mut DiskCache, key: &Arc<str>, pages: std::ops::Range<u64>) {
        for p in pages {
            c.put(key, p, &vec![p as u8; PAGE]);
        }
    }

    #[test]
    fn pages_come_back_also_after_a_restart_and_the_oldest_go() {
        let fs = SimFs::new();
        let key: Arc<str> = "metrics/t/X/index".into();
        let mut c = open(&fs, 12 << 20);
        fill(&mut c, &key, 0..400);
        assert!(c.size_bytes() <= 12 << 20);
        assert_eq!(c.get(&key, 0), None, "the oldest have gone");
        for p in 270..400 {
            assert_eq!(c.get(&key, p).unwrap(), vec![p as u8; PAGE], "{p}");
        }
        assert_eq!(c.get(&"metrics/t/X/inde".into(), 399), None);
        drop(c);
        let mut c = open(&fs, 12 << 20);
        assert!(c.get(&key, 399).is_some(), "what was gathered last is written at the end");
        let kept = (0..400).filter(|p| c.get(&key, *p).is_some()).count();
        assert!((120..400).contains(&kept), "{kept} after a restart");
        fill(&mut c, &key, 400..500);
        assert_eq!(c.get(&key, 499).unwrap()[0], 499u64 as u8);
        assert!(open(&fs, 8 << 20).size_bytes() <= 8 << 20, "a smaller bound holds at once");
    }

    #[test]
    fn one_who_was_closed_and_writes_its_last_pages_meets_no_file_of_the_next() {
        let fs = SimFs::new();
        let (theirs, ours): (Arc<str>, Arc<str>) = ("theirs".into(), "ours".into());
        let mut old = open(&fs, 64 << 20);
        fill(&mut old, &theirs, 0..70);
        let mut new = open(&fs, 64 << 20);
        fill(&mut old, &theirs, 70..100);
        fill(&mut new, &ours, 0..70);
        let before = fs.files();
        drop(old);
        let after = fs.files();
        assert!(before.iter().all(|f| after.contains(f)) && after.len() == before.len() + 1, "{before:?}, {after:?}");
        drop(new);
        // Both had given the same number.
        let mut c = open(&fs, 64 << 20);
        for p in 0..100 {
            assert_eq!(c.get(&theirs, p).unwrap(), vec![p as u8; PAGE], "{p}");
            assert_eq!(c.get(&ours, p).is_some(), p < 70, "{p}");
        }
        fill(&mut c, &ours, 100..300);
        assert!((0..70).all(|p| c.get(&ours, p).is_some()));
    }

    #[test]
    fn segments_of_earlier_versions_are_read() {
        let fs = SimFs::new();
        let key: Arc<str> = "k".into();
        let mut c = open(&fs, 64 << 20);
        fill(&mut c, &key, 0..70);
        drop(c);
        for (n, (path, _)) in fs.files().into_iter().enumerate() {
            fs.rename(&path, Path::new(&format!("/c/{:08}.pages", n + 7))).unwrap();
        }
        let mut c = open(&fs, 64 << 20);
        assert!((0..70).all(|p| c.get(&key, p).is_some()));
    }

    #[test]
    fn a_damaged_page_is_not_there_and_a_full_disk_costs_no_answer() {
        let fs = SimFs::new();
        let key: Arc<str> = "k".into();
        let mut c = open(&fs, 64 << 20);
        fill(&mut c, &key, 0..130);
        let (path, len) = fs.files().into_iter().find(|(p, _)| p.extension().is_some_and(|e| e == "pages")).unwrap();
        fs.flip_bit(&path, len / 2 + 1000, 3);
        let mut c = open(&fs, 64 << 20);
        let lost: Vec<u64> = (0..60).filter(|p| c.get(&key, *p).is_none()).collect();
        assert_eq!(lost.len(), 1, "{lost:?}");
        fs.set_failing(Some(FaultKind::Enospc));
        fill(&mut c, &key, 1000..1200);
        fs.set_failing(None);
        let kept = (1000..1200).filter(|p| c.get(&key, *p).is_some()).count();
        assert!(kept < 70, "what could not be written is gone: {kept}");
        assert_eq!(c.get(&key, lost[0]), None);
        fill(&mut c, &key, 2000..2200);
        assert!(c.get(&key, 2000).is_some());
    }
}
