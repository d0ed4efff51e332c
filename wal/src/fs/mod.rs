//! Every file that Strandline reads or writes goes through [`Fs`]: the real one, and a simulated one
//! that forgets what was not synced, counts syncs, and injects faults.

mod overlay;
mod real;
mod sim;
mod space;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use overlay::OverlayFs;
pub use real::{IoMode, RealFs};
pub use sim::{CrashStyle, FaultKind, FsCall, SimFs};

/// A file system. Calls block.
///
/// Durability as POSIX has it: content is durable after [`FileWrite::sync`], a name (new, renamed, linked or
/// removed) after [`Fs::sync_dir`] of its folder.
pub trait Fs: Send + Sync + 'static {
    /// Creates a folder and those above it.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The same, and makes the names of those durable that were missing.
    fn create_dir_durably(&self, dir: &Path) -> io::Result<()> {
        let missing = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !self.exists(d)).count();
        self.create_dir_all(dir)?;
        let parents = dir.ancestors().skip(1).take(missing);
        parents.map(|d| if d.as_os_str().is_empty() { Path::new(".") } else { d }).try_for_each(|d| self.sync_dir(d))
    }
    /// Creates a file, or empties an existing one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileRead>>;
    /// Names and kinds in a folder, sorted by name.
    fn read_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Renames over whatever bears the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Removes a folder if nothing is in it; an error otherwise.
    fn remove_empty_dir(&self, dir: &Path) -> io::Result<()> {
        let _ = dir;
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Cuts a file to `len` bytes and syncs it.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Whether a file or folder bears the name.
    fn exists(&self, path: &Path) -> bool;
    /// Takes the lock file at `path`; held until the guard is dropped. `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes free on the file system that holds `path`, if it can be told.
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        let _ = path;
        None
    }
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        let f = self.open(path)?;
        f.read_at(0, f.len() as usize)
    }
    /// Writes a file whole: a temporary name, sync, rename, sync of the folder. Nothing stays of one that can't be written.
    fn write_atomic(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let tmp = dir.join(name);
        let written = self.create(&tmp).and_then(|mut f| f.write_all(content).and_then(|()| f.sync()));
        written.and_then(|()| self.rename(&tmp, path)).inspect_err(|_| {
            // What a full disk took of it would fill it further, and whoever lists the folder overlooks it.
            let _ = self.remove_file(&tmp);
        })?;
        self.sync_dir(dir)
    }
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Full path.
    pub path: PathBuf,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Size of a file.
    pub size_bytes: u64,
}

impl DirEntry {
    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|n| n.to_str()).unwrap_or("")
    }
}

/// A file being written, from its start to its end.
pub trait FileWrite: Send {
    /// Appends bytes.
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()>;
    /// Makes the content durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Puts zeros behind what is written, for the next writes to go over: their syncs then have no new length to make
    /// durable. A wish: the file may stay as it is.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let _ = bytes;
        Ok(())
    }
}

/// A file open for reading; the content is taken as immutable up to its length at opening.
pub trait FileRead: Send + Sync {
    /// Length at opening.
    fn len(&self) -> u64;
    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Exactly `len` bytes from `offset`; `UnexpectedEof` if there are fewer. Without a copy where mapped.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Says that these bytes will be read soon, so that the disk may be asked before they are.
    fn will_read(&self, offset: u64, len: usize) {
        let _ = (offset, len);
    }
    /// The whole file as memory, where it is mapped.
    fn mapped(&self) -> Option<&[u8]> {
        None
    }
}

/// Adapts a [`FileWrite`] to [`io::Write`], counting.
pub struct IoWriter {
    file: Box<dyn FileWrite>,
    written: u64,
}

impl IoWriter {
    /// Wraps a file.
    pub fn new(file: Box<dyn FileWrite>) -> Self {
        IoWriter { file, written: 0 }
    }
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }
    /// Makes the content durable.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

impl io::Write for IoWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_all(buf)?;
        self.written += buf.len() as u64;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
