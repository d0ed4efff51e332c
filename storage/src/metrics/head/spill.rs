//! Where finished chunks lie: first on the heap, then in mapped files that the kernel may drop and read again.
//!
//! Spill files are scratch: the WAL holds the same samples until a flush, so they are never synced, and what a former
//! owner left is removed at start. Each owner has a folder of its own: one that was closed may be at a spill all the same, and
//! files that are mapped must never be written over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::fs::{FileRead, Fs};
use strandline_wal::sync::RwLock;
use strandline_wal::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Boxes by index, indices reused.
#[derive(Debug, Default)]
pub struct ChunkHeap {
    chunks: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    bytes: usize,
}

impl ChunkHeap {
    pub fn insert(&mut self, data: Box<[u8]>) -> u32 {
        self.bytes += data.len();
        match self.free.pop() {
            Some(i) => {
                self.chunks[i as usize] = Some(data);
                i
            }
            None => {
                self.chunks.push(Some(data));
                (self.chunks.len() - 1) as u32
            }
        }
    }
    pub fn get(&self, i: u32) -> &[u8] {
        self.chunks.get(i as usize).and_then(|c| c.as_deref()).unwrap_or(&[])
    }
    pub fn remove(&mut self, i: u32) {
        if let Some(c) = self.chunks.get_mut(i as usize).and_then(|c| c.take()) {
            self.bytes -= c.len();
            self.free.push(i);
        }
        if self.free.len() == self.chunks.len() {
            *self = ChunkHeap::default();
        }
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    pub fn overhead_bytes(&self) -> usize {
        self.chunks.capacity() * 16 + self.free.capacity() * 4
    }
}

struct SpillFile {
    file: Arc<dyn FileRead>,
    path: PathBuf,
    chunks: AtomicU32,
}

/// The spill files of a head.
pub struct Spill {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    files: RwLock<HashMap<u32, SpillFile>>,
    next: AtomicU32,
    bytes: AtomicU64,
}

impl Spill {
    /// Makes a folder in `dir` whose number none before it has had, and removes those of former owners: what they still write
    /// fails.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<Self> {
        let old = match fs.read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(|e| Error::io("listing old head chunk files", dir, e))?,
        };
        let last = old.iter().filter(|e| e.is_dir).filter_map(|e| e.name().parse::<u64>().ok()).max().unwrap_or(0);
        let own = dir.join(format!("{:08}", last.saturating_add(1)));
        fs.create_dir_all(&own).map_err(|e| Error::io("creating the head chunk folder", &own, e))?;
        for e in old {
            let removed = if e.is_dir { fs.remove_dir_all(&e.path) } else { fs.remove_file(&e.path) };
            if let Err(why) = removed {
                tracing::warn!(error = %why, path = %e.path.display(), "old head chunk files could not be removed; the next start will");
            }
        }
        Ok(Spill { fs, dir: own, files: RwLock::default(), next: AtomicU32::new(1), bytes: AtomicU64::new(0) })
    }

    /// Writes chunks into a new file; gives its number and their offsets.
    pub fn write(&self, chunks: &[&[u8]]) -> Result<(u32, Vec<u32>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number:08}.chunks"));
        let mut buf = Vec::with_capacity(chunks.iter().map(|c| c.len()).sum());
        let mut offsets = Vec::with_capacity(chunks.len());
        for c in chunks {
            offsets.push(buf.len() as u32);
            buf.extend_from_slice(c);
        }
        let written = self.fs.create(&path).and_then(|mut f| f.write_all(&buf)).and_then(|()| self.fs.open(&path));
        let file = written.map_err(|e| {
            // The next try has another name: what a full disk took of this one would fill it further.
            let _ = self.fs.remove_file(&path);
            Error::io("writing a head chunk file", &path, e)
        })?;
        self.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let chunks = AtomicU32::new(chunks.len() as u32);
        self.files.write().insert(number, SpillFile { file, path, chunks });
        Ok((number, offsets))
    }

    /// The file of a number, to read from after all locks are gone.
    pub fn file(&self, number: u32) -> Result<Arc<dyn FileRead>> {
        let files = self.files.read();
        files.get(&number).map(|f| f.file.clone()).ok_or_else(|| Error::corrupt(format!("head chunk file {number} is gone")))
    }

    /// One chunk of the file is dropped; with the last one the file goes (readers keep their map).
    pub fn release(&self, number: u32) {
        let gone = {
            let files = self.files.read();
            files.get(&number).is_some_and(|f| f.chunks.fetch_sub(1, Ordering::AcqRel) == 1)
        };
        if gone && let Some(f) = self.files.write().remove(&number) {
            self.bytes.fetch_sub(f.file.len(), Ordering::Relaxed);
            // A file that can't be removed now is removed at the next start.
            let _ = self.fs.remove_file(&f.path);
        }
    }

    /// Bytes in spill files.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use strandline_wal::fs::{FaultKind, SimFs};

    #[test]
    fn one_who_was_closed_and_spills_on_meets_no_file_of_the_next() {
        // A real disk: there a file needs its folder.
        let fs: Arc<dyn Fs> = Arc::new(strandline_wal::fs::RealFs::default());
        let dir = std::env::temp_dir().join(format!("strandline-spill-{}", std::process::id()));
        let open = || Spill::open(fs.clone(), &dir).unwrap();
        // As earlier versions had it.
        fs.create_dir_all(&dir).unwrap();
        fs.create(&dir.join("00000001.chunks")).unwrap();
        let mut owners = vec![open()];
        owners[0].write(&[b"first"]).unwrap();
        for _ in 0..3 {
            let new = open();
            let (number, _) = new.write(&[b"abc"]).unwrap();
            let file = new.file(number).unwrap();
            // Numbers that the new one has given out already, or will.
            owners.iter().for_each(|o| (0..3).for_each(|_| assert!(o.write(&[b"late"]).is_err())));
            assert_eq!((&file.read_at(0, 3).unwrap()[..], fs.read_dir(&dir).unwrap().len()), (&b"abc"[..], 1));
            owners.push(new);
        }
        fs.remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_stays_of_a_file_that_a_full_disk_cut_short() {
        let fs = SimFs::new();
        let s = Spill::open(Arc::new(fs.clone()), Path::new("/head")).unwrap();
        // The file is made, what goes into it is not written.
        fs.fail_call(fs.calls() + 2, FaultKind::Enospc);
        assert!(s.write(&[b"abc"]).is_err());
        assert_eq!(fs.files(), []);
        let (number, _) = s.write(&[b"abc"]).unwrap();
        assert_eq!(s.file(number).unwrap().len(), 3);
    }
}
