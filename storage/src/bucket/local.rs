//! A bucket that is a folder: objects are files, published by link or rename, so that no byte is written twice.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_wal::fs::Fs;

use super::{Bucket, ObjectInfo};
use crate::error::{Error, Result};

/// A folder as a bucket.
#[derive(Clone)]
pub struct LocalBucket {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    /// Folders whose names are known to be durable. One that is there may have been made by a call that failed behind it.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

/// So many folders are remembered; others are synced once more.
const MAX_DURABLE: usize = 4096;

impl LocalBucket {
    /// Opens the folder, creating it if need be.
    pub fn open(fs: Arc<dyn Fs>, root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs.create_dir_durably(&root).map_err(|e| Error::io("creating the bucket folder", &root, e))?;
        Ok(LocalBucket { fs, root, durable: Arc::default() })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn prepare(&self, key: &str) -> Result<PathBuf> {
        let p = self.path(key);
        let dir = p.parent().unwrap_or(&self.root);
        let there = self.fs.exists(dir);
        if there && self.durable.lock().contains(dir) {
            return Ok(p);
        }
        if !there {
            self.fs.create_dir_all(dir).map_err(|e| Error::io("creating a bucket folder", dir, e))?;
        }
        // The names of all folders must survive, up to the root.
        for d in dir.ancestors().skip(1).take_while(|d| d.starts_with(&self.root)) {
            self.fs.sync_dir(d).map_err(|e| Error::io("syncing a bucket folder", d, e))?;
        }
        let mut durable = self.durable.lock();
        if durable.len() >= MAX_DURABLE {
            durable.clear();
        }
        durable.insert(dir.to_owned());
        Ok(p)
    }

    fn sync_parent(&self, p: &Path) -> Result<()> {
        let dir = p.parent().unwrap_or(&self.root);
        self.fs.sync_dir(dir).map_err(|e| Error::io("syncing a bucket folder", dir, e))
    }

    /// Puts a file in the place of an object in one step: whoever reads meanwhile finds the old one or the new one.
    fn replace_by_link(&self, path: &Path, p: &Path) -> Result<()> {
        let tmp = own_name(p);
        let renamed = self.fs.hard_link(path, &tmp).and_then(|()| self.fs.rename(&tmp, p));
        // A rename between two names of one file, which an upload that is done again meets, leaves both. After one that
        // failed the name would stay, too.
        let removed = match self.fs.remove_file(&tmp) {
            Err(e) if e.kind() != Io::NotFound => Err(e),
            _ => Ok(()),
        };
        renamed.and(removed).map_err(|e| Error::io("replacing an object", p, e))?;
        self.sync_parent(p)
    }

    /// Removes a folder in which kills have left nothing but unfinished files. Whoever is at one just now tries again.
    fn remove_remains(&self, dir: &Path) -> bool {
        let Ok(left) = self.fs.read_dir(dir) else { return false };
        let removed =
            left.iter().all(|e| !e.is_dir && e.name().ends_with(".tmp")) && left.iter().all(|e| self.fs.remove_file(&e.path).is_ok());
        removed && self.fs.remove_empty_dir(dir).is_ok()
    }

    fn walk(&self, dir: &Path, out: &mut Vec<ObjectInfo>) -> Result<()> {
        let entries = match self.fs.read_dir(dir) {
            Ok(e) => e,
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("listing a bucket folder", dir, e)),
        };
        for e in entries {
            if e.is_dir {
                self.walk(&e.path, out)?;
            } else if let Ok(rel) = e.path.strip_prefix(&self.root)
                && !e.name().ends_with(".tmp")
                && !e.name().ends_with(".lock")
            {
                out.push(ObjectInfo { key: rel.to_string_lossy().replace('\\', "/"), size_bytes: e.size_bytes });
            }
        }
        Ok(())
    }
}

/// A name beside an object that is the caller's alone: two containers on a shared folder may both be process 1.
fn own_name(p: &Path) -> PathBuf {
    let mut name = p.to_owned().into_os_string();
    name.push(format!(".{:016x}.tmp", RandomState::new().build_hasher().finish()));
    PathBuf::from(name)
}

fn content_tag(content: &[u8]) -> String {
    format!("{:08x}-{}", crc32fast::hash(content), content.len())
}

impl Bucket for LocalBucket {
    fn name(&self) -> String {
        format!("file://{}", self.root.display())
    }
    fn put(&self, key: &str, content: Bytes) -> Result<()> {
        let p = self.prepare(key)?;
        self.fs.write_atomic(&p, &content).map_err(|e| Error::io("writing an object", &p, e))
    }
    fn put_file(&self, key: &str, path: &Path) -> Result<()> {
        let p = self.prepare(key)?;
        match self.fs.hard_link(path, &p) {
            Ok(()) => self.sync_parent(&p),
            Err(e) if e.kind() == Io::AlreadyExists => self.replace_by_link(path, &p),
            Err(e) if e.kind() == Io::NotFound => Err(Error::io("linking an object", path, e)),
            // Another file system, or one without links: copy.
            Err(_) => {
                let content = self.fs.read(path).map_err(|e| Error::io("reading a file to publish", path, e))?;
                self.put(key, content)
            }
        }
    }
    fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
        let p = self.prepare(key)?;
        let tmp = own_name(&p);
        let err = |e| Error::io("writing an object", &tmp, e);
        let written = self.fs.create(&tmp).and_then(|mut f| f.write_all(&content).and_then(|()| f.sync()));
        let linked = written.as_ref().ok().map(|()| self.fs.hard_link(&tmp, &p));
        // Whatever came of it: the name is this call's own, and nobody else would remove it.
        let removed = self.fs.remove_file(&tmp);
        written.map_err(err)?;
        removed.map_err(err)?;
        match linked.unwrap_or(Ok(())) {
            Ok(()) => self.sync_parent(&p).map(|()| true),
            Err(e) if e.kind() == Io::AlreadyExists => Ok(false),
            Err(e) => Err(Error::io("writing an object", &p, e)),
        }
    }
    fn put_if_match(&self, key: &str, content: Bytes, tag: Option<&str>) -> Result<Option<String>> {
        let p = self.prepare(key)?;
        let mut lock = p.clone().into_os_string();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let _alone = match self.fs.lock(&lock) {
            Ok(guard) => guard,
            Err(e) if e.kind() == Io::WouldBlock => return Ok(None),
            Err(e) => return Err(Error::io("locking an object", &lock, e)),
        };
        let current = match self.get_tagged(key) {
            Ok((_, t)) => Some(t),
            Err(e) if e.kind == crate::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if current.as_deref() != tag {
            return Ok(None);
        }
        let new = content_tag(&content);
        self.put(key, content)?;
        Ok(Some(new))
    }
    fn get_tagged(&self, key: &str) -> Result<(Bytes, String)> {
        let content = self.get(key)?;
        let tag = content_tag(&content);
        Ok((content, tag))
    }
    fn get(&self, key: &str) -> Result<Bytes> {
        let p = self.path(key);
        self.fs.read(&p).map_err(|e| Error::io("reading an object", &p, e))
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes> {
        let p = self.path(key);
        let f = self.fs.open(&p).map_err(|e| Error::io("opening an object", &p, e))?;
        f.read_at(offset, len).map_err(|e| Error::io("reading an object", &p, e).offset(offset))
    }
    fn size(&self, key: &str) -> Result<u64> {
        let p = self.path(key);
        Ok(self.fs.open(&p).map_err(|e| Error::io("opening an object", &p, e))?.len())
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut out = Vec::new();
        self.walk(&self.path(prefix.trim_end_matches('/')), &mut out)?;
        Ok(out)
    }
    fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
        let dir = self.path(prefix.trim_end_matches('/'));
        match self.fs.read_dir(&dir) {
            Ok(e) => Ok(e.iter().filter(|e| e.is_dir).map(|e| e.name().to_owned()).collect()),
            Err(e) if e.kind() == Io::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io("listing a bucket folder", &dir, e)),
        }
    }
    fn delete(&self, key: &str) -> Result<()> {
        let p = self.path(key);
        match self.fs.remove_file(&p) {
            Ok(()) => self.sync_parent(&p)?,
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("removing an object", &p, e)),
        }
        // A folder goes with its last object, as in a store that has no folders: each listing would look into it for ever.
        for dir in p.ancestors().skip(1).take_while(|d| *d != self.root && d.starts_with(&self.root)) {
            if self.fs.remove_empty_dir(dir).is_err() && !self.remove_remains(dir) {
                break;
            }
        }
        Ok(())
    }
    fn local_path(&self, key: &str) -> Option<PathBuf> {
        Some(self.path(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_wal::fs::{FaultKind, SimFs};

    #[test]
    fn nothing_stays_of_objects_that_were_removed_or_could_not_be_written() {
        let fs = SimFs::new();
        let b = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
        let none: Vec<String> = Vec::new();
        let content = || Bytes::from_static(b"abc");
        b.put("m/t/X/chunks/1", content()).unwrap();
        b.put("m/t/X/meta.json", content()).unwrap();
        b.put("m/t/Y/meta.json", content()).unwrap();
        b.delete("m/t/X/chunks/1").unwrap();
        assert_eq!(b.list_folders("m/t/X/").unwrap(), none);
        b.delete("m/t/X/meta.json").unwrap();
        assert_eq!(b.list_folders("m/t/").unwrap(), ["Y"]);
        b.delete("m/t/Y/meta.json").unwrap();
        b.delete("m/t/Y/meta.json").unwrap();
        assert_eq!(b.list_folders("").unwrap(), none);
        assert!(fs.exists(Path::new("/b")));
        // A kill has left unfinished files.
        b.put("m/t/Z/meta.json", content()).unwrap();
        fs.create(Path::new("/b/m/t/Z/index.tmp")).unwrap();
        b.delete("m/t/Z/meta.json").unwrap();
        assert_eq!((b.list_folders("").unwrap(), fs.files().len()), (none.clone(), 0));

        assert!(b.put_if_absent("d/1", content()).unwrap());
        let before = fs.files();
        for call in 1..4 {
            fs.fail_call(fs.calls() + call, FaultKind::Enospc);
            assert!(b.put_if_absent("d/2", content()).is_err(), "{call}");
            assert_eq!(fs.files(), before, "{call}");
            fs.fail_call(fs.calls() + call, FaultKind::Enospc);
            assert!(b.put("d/2", content()).is_err(), "{call}");
            assert_eq!(fs.files(), before, "{call}");
        }
        assert!(b.put_if_absent("d/2", content()).unwrap() && !b.put_if_absent("d/2", content()).unwrap());
    }

    #[test]
    fn an_object_that_is_put_again_is_there_at_any_time() {
        for call in 1.. {
            let fs = SimFs::new();
            let b = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
            for (path, content) in [("/old", "abc"), ("/new", "defg")] {
                let mut f = fs.create(Path::new(path)).unwrap();
                f.write_all(content.as_bytes()).and_then(|()| f.sync()).unwrap();
            }
            b.put_file("m/X/index", Path::new("/old")).unwrap();
            let end = fs.calls() + call;
            fs.fail_call(end, FaultKind::Eio);
            let done = b.put_file("m/X/index", Path::new("/new"));
            let there = b.get("m/X/index").unwrap();
            assert!(there == "defg" || (done.is_err() && there == "abc"), "call {call}: {done:?}, {there:?}");
            if done.is_ok() {
                assert_eq!(b.list("").unwrap().len(), fs.files().len() - 2, "nothing else stays");
                fs.restart(strandline_wal::fs::CrashStyle::LoseUnsynced, 1);
                assert_eq!(b.get("m/X/index").unwrap(), "defg");
            }
            if fs.calls() < end {
                break;
            }
        }
    }

    /// On a real disk the second put meets two names of one file.
    #[test]
    fn a_file_that_is_put_twice_leaves_one_object() {
        let dir = std::env::temp_dir().join(format!("strandline-put-twice-{}", std::process::id()));
        let fs: Arc<dyn Fs> = Arc::new(strandline_wal::fs::RealFs::default());
        let b = LocalBucket::open(fs.clone(), dir.join("b")).unwrap();
        fs.write_atomic(&dir.join("file"), b"abc").unwrap();
        (0..3).for_each(|_| b.put_file("m/X/index", &dir.join("file")).unwrap());
        assert_eq!(b.get("m/X/index").unwrap(), "abc");
        let names: Vec<String> = fs.read_dir(&dir.join("b/m/X")).unwrap().iter().map(|e| e.name().to_owned()).collect();
        fs.remove_dir_all(&dir).unwrap();
        assert_eq!(names, ["index"]);
    }

    #[test]
    fn an_object_that_was_put_is_there_after_a_power_loss_whatever_failed_before() {
        for call in 1.. {
            let fs = SimFs::new();
            let b = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
            let end = fs.calls() + call;
            fs.fail_call(end, FaultKind::Eio);
            let put = || b.put("m/t/X/chunks/1", Bytes::from_static(b"abc"));
            let done = put();
            if done.is_err() {
                put().unwrap();
            }
            fs.restart(strandline_wal::fs::CrashStyle::LoseUnsynced, 1);
            assert_eq!(b.get("m/t/X/chunks/1").unwrap(), "abc", "call {call}: {done:?}");
            if fs.calls() < end {
                break;
            }
        }
    }
}
