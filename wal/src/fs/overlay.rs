//! A file system on top of another that it never writes to: what is written lies in memory and hides what is below.
//!
//! So a store that another process is writing can be opened like any other, and nothing of it is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirEntry, FileRead, FileWrite, Fs, SimFs};

/// The overlay; clones share it.
#[derive(Clone)]
pub struct OverlayFs {
    below: Arc<dyn Fs>,
    above: SimFs,
    hidden: Arc<Mutex<Hidden>>,
}

#[derive(Default)]
struct Hidden {
    /// Files and folders of the one below that were removed or renamed here.
    gone: BTreeSet<PathBuf>,
    /// Files of the one below that were cut here, and to what length.
    cut: BTreeMap<PathBuf, u64>,
}

impl OverlayFs {
    /// Over `below`, with nothing written yet.
    pub fn new(below: Arc<dyn Fs>) -> Self {
        OverlayFs { below, above: SimFs::new(), hidden: Arc::default() }
    }

    fn is_gone(&self, path: &Path) -> bool {
        let h = self.hidden.lock();
        !h.gone.is_empty() && path.ancestors().any(|p| h.gone.contains(p))
    }

    fn below_has(&self, path: &Path) -> bool {
        !self.is_gone(path) && self.below.exists(path)
    }

    fn hide(&self, path: &Path) {
        let mut h = self.hidden.lock();
        h.gone.insert(path.to_owned());
        h.cut.remove(path);
    }

    /// Puts the content of a file of the one below into memory, under a new name.
    fn lift(&self, from: &Path, to: &Path) -> io::Result<()> {
        let content = self.read(from)?;
        let mut f = self.above.create(to)?;
        f.write_all(&content)
    }
}

/// A file that is shorter here than below.
struct Cut(Arc<dyn FileRead>, u64);

impl FileRead for Cut {
    fn len(&self) -> u64 {
        self.1
    }
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.1 => self.0.read_at(offset, len),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Fs for OverlayFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.above.create_dir_all(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>> {
        self.above.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileRead>> {
        match self.above.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.is_gone(path) => {
                let f = self.below.open(path)?;
                let cut = self.hidden.lock().cut.get(path).copied();
                Ok(match cut {
                    Some(len) if len < f.len() => Arc::new(Cut(f, len)),
                    _ => f,
                })
            }
            other => other,
        }
    }
    fn read_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let above = self.above.read_dir(dir);
        let below = if self.is_gone(dir) { Err(io::ErrorKind::NotFound.into()) } else { self.below.read_dir(dir) };
        let (above, below) = match (above, below) {
            (Err(_), Err(e)) => return Err(e),
            (Ok(a), Err(e)) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io::Error::new(e.kind(), format!("{e} ({} here)", a.len())));
            }
            (a, b) => (a.unwrap_or_default(), b.unwrap_or_default()),
        };
        let mut all: BTreeMap<PathBuf, DirEntry> = BTreeMap::new();
        all.extend(below.into_iter().filter(|e| !self.is_gone(&e.path)).map(|e| (e.path.clone(), e)));
        all.extend(above.into_iter().map(|e| (e.path.clone(), e)));
        Ok(all.into_values().collect())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.above.rename(from, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.below_has(from) => self.lift(from, to)?,
            other => other?,
        }
        self.hide(from);
        Ok(())
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.exists(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match self.above.hard_link(from, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.below_has(from) => self.lift(from, to),
            other => other,
        }
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        match self.above.remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.below_has(path) => {}
            other => other?,
        }
        self.hide(path);
        Ok(())
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.above.remove_dir_all(dir)?;
        self.hide(dir);
        Ok(())
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        match self.above.truncate(path, len) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.below_has(path) => {
                self.hidden.lock().cut.insert(path.to_owned(), len);
                Ok(())
            }
            other => other,
        }
    }
    fn exists(&self, path: &Path) -> bool {
        self.above.exists(path) || self.below_has(path)
    }
    /// Keeps nobody out: nothing of what lies below is written.
    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fs: &dyn Fs, dir: &str) -> Vec<String> {
        fs.read_dir(Path::new(dir)).unwrap().iter().map(|e| e.name().to_owned()).collect()
    }

    #[test]
    fn what_is_below_shows_through_and_stays_as_it_is() {
        let below = SimFs::new();
        below.create_dir_all(Path::new("/d/sub")).unwrap();
        for (name, text) in [("/d/a", "aaaa"), ("/d/b", "bbbb"), ("/d/sub/c", "cccc")] {
            below.write_atomic(Path::new(name), text.as_bytes()).unwrap();
        }
        let before = below.files();
        let o = OverlayFs::new(Arc::new(below.clone()));
        assert_eq!(names(&o, "/d"), ["a", "b", "sub"]);
        o.write_atomic(Path::new("/d/a"), b"new").unwrap();
        assert_eq!(&o.read(Path::new("/d/a")).unwrap()[..], b"new");
        o.truncate(Path::new("/d/b"), 2).unwrap();
        assert_eq!(&o.read(Path::new("/d/b")).unwrap()[..], b"bb");
        assert!(o.open(Path::new("/d/b")).unwrap().read_at(1, 2).is_err());
        o.rename(Path::new("/d/b"), Path::new("/d/e")).unwrap();
        assert_eq!(&o.read(Path::new("/d/e")).unwrap()[..], b"bb");
        assert!(!o.exists(Path::new("/d/b")) && o.open(Path::new("/d/b")).is_err());
        o.hard_link(Path::new("/d/sub/c"), Path::new("/d/f")).unwrap();
        assert!(o.hard_link(Path::new("/d/sub/c"), Path::new("/d/f")).is_err());
        o.remove_dir_all(Path::new("/d/sub")).unwrap();
        assert_eq!(names(&o, "/d"), ["a", "e", "f"]);
        assert!(o.read_dir(Path::new("/d/sub")).is_err());
        o.remove_file(Path::new("/d/f")).unwrap();
        assert!(o.remove_file(Path::new("/d/none")).is_err());
        o.create_dir_all(Path::new("/d/sub")).unwrap();
        assert!(names(&o, "/d/sub").is_empty());
        o.lock(Path::new("/d/LOCK")).unwrap();
        assert_eq!(below.files(), before);
        assert_eq!(&below.read(Path::new("/d/a")).unwrap()[..], b"aaaa");
    }
}
