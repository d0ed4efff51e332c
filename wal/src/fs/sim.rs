//! A file system in memory that loses what was not synced.
//!
//! Faults it can play: a crash at the Nth sync (or any call), unsynced bytes lost, kept, torn or zeroed,
//! unsynced directory entries lost, ENOSPC and EIO on the Nth call, a full disk, bit flips, and whatever a hook does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DirEntry, FileRead, FileWrite, Fs};

/// What becomes of bytes that were written and not synced when the machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashStyle {
    /// All gone.
    LoseUnsynced,
    /// A random prefix survives.
    Torn,
    /// Length survives, random 512-byte sectors of the unsynced part read as zero.
    Reordered,
    /// All there, as after kill -9 of the process alone.
    KeepAll,
}

/// A fault that calls answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No space left on device.
    Enospc,
    /// Input/output error.
    Eio,
}

impl FaultKind {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            FaultKind::Enospc => 28,
            FaultKind::Eio => 5,
        })
    }
}

/// A call that a hook of [`SimFs::watch`] is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FsCall<'a> {
    /// A file is about to be created.
    Create(&'a Path),
    /// A file or folder is about to be given this name.
    Rename(&'a Path),
    /// A file is about to be given this second name.
    HardLink(&'a Path),
    /// The folder was just listed.
    Listed(&'a Path),
}

type Hook = dyn Fn(FsCall<'_>) -> io::Result<()> + Send + Sync;

#[derive(Default, Clone)]
struct File {
    /// What was written, and behind it the zeros of [`FileWrite::make_room`].
    data: Vec<u8>,
    /// How much of what was written is durable, and how long the file is if the machine goes down.
    synced: usize,
    durable_len: usize,
}

impl File {
    fn all_is_durable(&mut self) {
        self.synced = self.data.len();
        self.durable_len = self.data.len();
    }

    /// What comes behind `end` was never written: gone, or zeros where room was made.
    fn lose_behind(&mut self, end: usize) {
        self.data.truncate(end.max(self.durable_len));
        self.data[end..].fill(0);
    }
}

type FileRef = Arc<Mutex<File>>;

/// What a folder holds, by name; folders by their numbers.
#[derive(Default)]
struct Names {
    files: BTreeMap<OsString, FileRef>,
    dirs: BTreeMap<OsString, u64>,
}

#[derive(Default)]
struct State {
    /// Names as the process sees them. A folder keeps its number when it is renamed.
    live: BTreeMap<PathBuf, FileRef>,
    dirs: BTreeMap<PathBuf, u64>,
    dirs_made: u64,
    /// Names that survive a crash, if that of their folder does, by its number.
    durable: BTreeMap<u64, Names>,
    syncs: u64,
    calls: u64,
    crash_at_sync: Option<u64>,
    down: bool,
    fail_next: Vec<(u64, FaultKind)>,
    failing: Option<FaultKind>,
    hook: Option<Arc<Hook>>,
    locks: std::collections::BTreeSet<PathBuf>,
    generation: u64,
}

impl State {
    /// Makes what is missing of a folder and those above it; gives its number. What lies right in the disk's own folder was
    /// there before.
    fn make_dirs(&mut self, dir: &Path) -> u64 {
        if let Some(number) = self.dirs.get(dir) {
            return *number;
        }
        let above = dir.parent().map(|p| (self.make_dirs(p), p.parent().is_none()));
        self.dirs_made += 1;
        let number = self.dirs_made;
        self.dirs.insert(dir.to_owned(), number);
        if let (Some((above, true)), Some(name)) = (above, dir.file_name()) {
            self.durable.entry(above).or_default().dirs.insert(name.to_owned(), number);
        }
        number
    }

    fn names_in(&self, dir: &Path) -> Names {
        let name = |p: &Path| if p.parent() == Some(dir) { p.file_name().map(|n| n.to_owned()) } else { None };
        Names {
            files: self.live.iter().filter_map(|(p, f)| Some((name(p)?, f.clone()))).collect(),
            dirs: self.dirs.iter().filter_map(|(d, n)| Some((name(d)?, *n))).collect(),
        }
    }

    fn all_names_are_durable(&mut self) {
        let parents: Vec<PathBuf> = self.live.keys().filter_map(|p| p.parent().map(Path::to_owned)).collect();
        parents.iter().for_each(|d| _ = self.make_dirs(d));
        self.durable = self.dirs.iter().map(|(d, n)| (*n, self.names_in(d))).collect();
    }

    /// What lies in a folder is lost with the folder's own name.
    fn lose_names(&mut self) {
        let mut left: Vec<(PathBuf, u64)> = self.dirs.iter().filter(|(d, _)| d.parent().is_none()).map(|(d, n)| (d.clone(), *n)).collect();
        (self.live, self.dirs) = Default::default();
        while let Some((dir, number)) = left.pop() {
            if let Some(names) = self.durable.get(&number) {
                self.live.extend(names.files.iter().map(|(name, f)| (dir.join(name), f.clone())));
                left.extend(names.dirs.iter().map(|(name, n)| (dir.join(name), *n)));
            }
            self.dirs.insert(dir, number);
        }
    }
}

/// The simulated file system; clones share the same disk.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<State>>);

fn down() -> io::Error {
    io::Error::other("the simulated machine is down")
}

/// xorshift64*: enough for choosing torn lengths, and the same for the same seed.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

impl SimFs {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }
    /// Syncs (of files and folders) so far.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }
    /// Writing calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }
    /// The machine goes down just before the `n`th sync takes effect (counting from 1).
    pub fn crash_at_sync(&self, n: u64) {
        self.0.lock().crash_at_sync = Some(n);
    }
    /// Whether it is down.
    pub fn is_down(&self) -> bool {
        self.0.lock().down
    }
    /// The writing call number `n` (counting from 1, over the disk's life) answers with a fault.
    pub fn fail_call(&self, n: u64, fault: FaultKind) {
        self.0.lock().fail_next.push((n, fault));
    }
    /// All writing calls fail from now on (`None`: none does).
    pub fn set_failing(&self, fault: Option<FaultKind>) {
        self.0.lock().failing = fault;
    }
    /// From now on the hook is told of some calls, and may use this disk meanwhile; an error of it is the call's answer.
    pub fn watch(&self, hook: impl Fn(FsCall<'_>) -> io::Result<()> + Send + Sync + 'static) {
        self.0.lock().hook = Some(Arc::new(hook));
    }
    /// Forgets all faults and crashes that were planned.
    pub fn calm(&self) {
        let mut s = self.0.lock();
        s.crash_at_sync = None;
        s.failing = None;
        s.fail_next.clear();
    }
    /// Flips one bit of a file.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) {
        if let Some(f) = self.0.lock().live.get(path)
            && let Some(b) = f.lock().data.get_mut(byte as usize)
        {
            *b ^= 1 << (bit & 7);
        }
    }
    /// Another disk that holds the same: what is written to one is not on the other.
    pub fn copy(&self) -> SimFs {
        let s = self.0.lock();
        let anew = |f: &FileRef| Arc::new(Mutex::new(f.lock().clone()));
        let live: BTreeMap<PathBuf, FileRef> = s.live.iter().map(|(p, f)| (p.clone(), anew(f))).collect();
        let mut copy = State { live, dirs: s.dirs.clone(), dirs_made: s.dirs_made, ..State::default() };
        copy.all_names_are_durable();
        SimFs(Arc::new(Mutex::new(copy)))
    }
    /// All files with their sizes.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.0.lock().live.iter().map(|(p, f)| (p.clone(), f.lock().data.len() as u64)).collect()
    }

    /// Power comes back: unsynced names are gone, unsynced bytes as `style` says.
    pub fn restart(&self, style: CrashStyle, seed: u64) {
        let mut s = self.0.lock();
        let mut seed = seed | 1;
        if style != CrashStyle::KeepAll {
            s.lose_names();
        }
        for f in s.live.values_mut() {
            let mut file = f.lock().clone();
            let tail = file.data.len() - file.synced;
            match style {
                CrashStyle::KeepAll => {}
                CrashStyle::LoseUnsynced => {
                    let end = file.synced;
                    file.lose_behind(end);
                }
                CrashStyle::Torn => {
                    let keep = if tail == 0 { 0 } else { next(&mut seed) as usize % (tail + 1) };
                    let end = file.synced + keep;
                    file.lose_behind(end);
                }
                CrashStyle::Reordered => {
                    let from = file.synced;
                    for sector in file.data[from..].chunks_mut(512) {
                        if next(&mut seed).is_multiple_of(2) {
                            sector.fill(0);
                        }
                    }
                }
            }
            file.all_is_durable();
            // A fresh cell: handles of the dead process write into the old one.
            *f = Arc::new(Mutex::new(file));
        }
        s.all_names_are_durable();
        s.down = false;
        s.crash_at_sync = None;
        s.failing = None;
        s.fail_next.clear();
        s.locks.clear();
        s.generation += 1;
    }

    fn tell(&self, call: FsCall<'_>) -> io::Result<()> {
        // Not under the lock: the hook may come back here.
        let hook = self.0.lock().hook.clone();
        hook.map_or(Ok(()), |h| h(call))
    }

    fn enter(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let s = self.0.lock();
        if s.down { Err(down()) } else { Ok(s) }
    }

    fn enter_write(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let mut s = self.enter()?;
        s.calls += 1;
        let n = s.calls;
        if let Some(f) = s.failing {
            return Err(f.error());
        }
        if let Some(i) = s.fail_next.iter().position(|(at, _)| *at == n) {
            let (_, f) = s.fail_next.remove(i);
            return Err(f.error());
        }
        Ok(s)
    }

    fn count_sync(s: &mut State) -> io::Result<()> {
        s.syncs += 1;
        if s.crash_at_sync == Some(s.syncs) {
            s.down = true;
            return Err(down());
        }
        Ok(())
    }
}

struct Writer {
    fs: SimFs,
    file: FileRef,
    written: usize,
    generation: u64,
}

impl Writer {
    fn alive(&self, s: &State) -> io::Result<()> {
        if s.generation == self.generation { Ok(()) } else { Err(down()) }
    }

    fn put(&mut self, buf: &[u8]) {
        let mut f = self.file.lock();
        let over = buf.len().min(f.data.len() - self.written);
        f.data[self.written..self.written + over].copy_from_slice(&buf[..over]);
        f.data.extend_from_slice(&buf[over..]);
        self.written += buf.len();
    }
}

impl FileWrite for Writer {
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        let s = self.fs.0.lock();
        self.alive(&s)?;
        drop(s);
        let fs = self.fs.clone();
        match fs.enter_write() {
            Ok(_s) => {
                self.put(buf);
                Ok(())
            }
            Err(e) => {
                // A failed write may have left a part behind.
                if !fs.is_down() {
                    self.put(&buf[..buf.len() / 2]);
                }
                Err(e)
            }
        }
    }
    fn sync(&mut self) -> io::Result<()> {
        let mut s = self.fs.enter_write()?;
        self.alive(&s)?;
        SimFs::count_sync(&mut s)?;
        let mut f = self.file.lock();
        f.synced = self.written;
        f.durable_len = f.data.len();
        Ok(())
    }
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let s = self.fs.enter_write()?;
        self.alive(&s)?;
        let mut f = self.file.lock();
        let len = f.data.len().max(self.written + bytes);
        f.data.resize(len, 0);
        Ok(())
    }
}

struct Reader(Bytes);

impl FileRead for Reader {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = (offset as usize).checked_add(len).filter(|e| *e <= self.0.len());
        end.map(|e| self.0.slice(offset as usize..e)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn not_found(p: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", p.display()))
}

impl Fs for SimFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut s = self.enter_write()?;
        s.make_dirs(dir);
        Ok(())
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>> {
        self.tell(FsCall::Create(path))?;
        let mut s = self.enter_write()?;
        let file = FileRef::default();
        s.live.insert(path.to_owned(), file.clone());
        let generation = s.generation;
        Ok(Box::new(Writer { fs: self.clone(), file, written: 0, generation }))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileRead>> {
        let s = self.enter()?;
        let f = s.live.get(path).ok_or_else(|| not_found(path))?;
        let data = f.lock().data.clone();
        Ok(Arc::new(Reader(data.into())))
    }
    fn read_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let s = self.enter()?;
        if !s.dirs.contains_key(dir) && !s.live.keys().any(|p| p.starts_with(dir)) {
            return Err(not_found(dir));
        }
        let mut out = Vec::new();
        for (d, _) in s.dirs.iter().filter(|(d, _)| d.parent() == Some(dir)) {
            out.push(DirEntry { path: d.clone(), is_dir: true, size_bytes: 0 });
        }
        for (p, f) in s.live.iter().filter(|(p, _)| p.parent() == Some(dir)) {
            out.push(DirEntry { path: p.clone(), is_dir: false, size_bytes: f.lock().data.len() as u64 });
        }
        drop(s);
        out.sort();
        self.tell(FsCall::Listed(dir))?;
        Ok(out)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tell(FsCall::Rename(to))?;
        let mut s = self.enter_write()?;
        let is_dir = s.dirs.contains_key(from);
        let moved: Vec<PathBuf> = s.live.keys().filter(|p| p.as_path() == from || (is_dir && p.starts_with(from))).cloned().collect();
        if moved.is_empty() && !is_dir {
            return Err(not_found(from));
        }
        let re = |p: &Path| match p.strip_prefix(from) {
            Ok(r) if r.as_os_str().is_empty() => to.to_owned(),
            Ok(r) => to.join(r),
            Err(_) => p.to_owned(),
        };
        for p in moved {
            if let Some(f) = s.live.remove(&p) {
                s.live.insert(re(&p), f);
            }
        }
        if is_dir {
            let dirs: Vec<PathBuf> = s.dirs.keys().filter(|d| d.starts_with(from)).cloned().collect();
            for d in dirs {
                if let Some(number) = s.dirs.remove(&d) {
                    s.dirs.insert(re(&d), number);
                }
            }
        }
        Ok(())
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tell(FsCall::HardLink(to))?;
        let mut s = self.enter_write()?;
        if s.live.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let f = s.live.get(from).cloned().ok_or_else(|| not_found(from))?;
        s.live.insert(to.to_owned(), f);
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut s = self.enter_write()?;
        s.live.remove(path).map(|_| ()).ok_or_else(|| not_found(path))
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut s = self.enter_write()?;
        s.live.retain(|p, _| !p.starts_with(dir));
        s.dirs.retain(|d, _| !d.starts_with(dir));
        Ok(())
    }
    fn remove_empty_dir(&self, dir: &Path) -> io::Result<()> {
        let mut s = self.enter_write()?;
        let below = |p: &PathBuf| p != dir && p.starts_with(dir);
        if s.live.keys().any(below) || s.dirs.keys().any(below) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        s.dirs.remove(dir).map(|_| ()).ok_or_else(|| not_found(dir))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut s = self.enter_write()?;
        Self::count_sync(&mut s)?;
        let number = s.make_dirs(dir);
        let names = s.names_in(dir);
        s.durable.insert(number, names);
        Ok(())
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut s = self.enter_write()?;
        Self::count_sync(&mut s)?;
        let f = s.live.get(path).ok_or_else(|| not_found(path))?;
        let mut f = f.lock();
        f.data.truncate(len as usize);
        f.all_is_durable();
        Ok(())
    }
    fn exists(&self, path: &Path) -> bool {
        let s = self.0.lock();
        s.live.contains_key(path) || s.dirs.contains_key(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut s = self.enter()?;
        if !s.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = s.generation;
        Ok(Box::new(Lock { fs: self.clone(), path: path.to_owned(), generation }))
    }
}

struct Lock {
    fs: SimFs,
    path: PathBuf,
    generation: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut s = self.fs.0.lock();
        if s.generation == self.generation {
            s.locks.remove(&self.path);
        }
    }
}
