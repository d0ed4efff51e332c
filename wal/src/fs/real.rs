//! The operating system's files. The one place of this crate with `unsafe`: mapping.
// This file is what the bans of clippy.toml point to.
#![allow(unsafe_code, clippy::disallowed_methods)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{DirEntry, FileRead, FileWrite, Fs};

/// How files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// Memory-mapped: no copies; an I/O error of the disk is a SIGBUS.
    #[default]
    Mmap,
    /// `pread` into buffers: slower, I/O errors are answers.
    Pread,
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs {
    mode: IoMode,
}

impl RealFs {
    /// Reads by `mode`.
    pub fn new(mode: IoMode) -> Self {
        RealFs { mode }
    }
}

struct Writer {
    file: File,
    len: u64,
}

impl FileWrite for Writer {
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.file.write_all(buf)?;
        self.len += buf.len() as u64;
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
    // Zeros, and not an allocation: where the disk must first be told that the bytes are no longer unwritten, a sync
    // costs as much as for a new length.
    #[cfg(unix)]
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        for at in (0..bytes).step_by(ZEROS.len()) {
            let some = &ZEROS[..ZEROS.len().min(bytes - at)];
            std::os::unix::fs::FileExt::write_all_at(&self.file, some, self.len + at as u64)?;
        }
        Ok(())
    }
}

struct PreadFile {
    file: File,
    len: u64,
}

fn eof(offset: u64, len: usize, have: u64) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{len} bytes asked at offset {offset} of {have}"))
}

impl FileRead for PreadFile {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err(eof(offset, len, self.len));
        }
        let mut buf = vec![0; len];
        read_exact_at(&self.file, &mut buf, offset)?;
        Ok(buf.into())
    }
}

#[cfg(unix)]
fn read_exact_at(f: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(f, buf, offset)
}

#[cfg(not(unix))]
fn read_exact_at(f: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut f = f.try_clone()?;
    f.seek(SeekFrom::Start(offset))?;
    f.read_exact(buf)
}

struct Map(Arc<memmap2::Mmap>);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct MappedFile {
    map: Bytes,
    inner: Arc<memmap2::Mmap>,
}

impl FileRead for MappedFile {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = usize::try_from(offset).ok().and_then(|o| o.checked_add(len)).filter(|e| *e <= self.map.len());
        match end {
            Some(end) => Ok(self.map.slice(end - len..end)),
            None => Err(eof(offset, len, self.map.len() as u64)),
        }
    }
    #[cfg(unix)]
    fn will_read(&self, offset: u64, len: usize) {
        let Ok(offset) = usize::try_from(offset) else { return };
        // Advice: reading says what is wrong, if something is.
        let _ = self.inner.advise_range(memmap2::Advice::WillNeed, offset, len.min(self.map.len().saturating_sub(offset)));
    }
    fn mapped(&self) -> Option<&[u8]> {
        Some(&self.map)
    }
}

impl Fs for RealFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn FileWrite>> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(Box::new(Writer { file, len: 0 }))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileRead>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        if self.mode == IoMode::Pread || len == 0 {
            return Ok(Arc::new(PreadFile { file, len }));
        }
        // SAFETY: files opened here are immutable once named (written under another name, or append-only and
        // read up to the length at opening); nothing truncates them while mapped but `Fs::truncate`, which only
        // the WAL calls, before it maps. The newest segment of another process' log may get its room written over
        // while it is mapped: a frame's bytes turn from zero to what they stay, and count only once the checksum fits.
        let inner = Arc::new(unsafe { memmap2::Mmap::map(&file)? });
        Ok(Arc::new(MappedFile { map: Bytes::from_owner(Map(inner.clone())), inner }))
    }
    fn read_dir(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut out = Vec::new();
        for e in fs::read_dir(dir)? {
            let e = e?;
            let Ok(m) = e.metadata() else { continue };
            out.push(DirEntry { path: e.path(), is_dir: m.is_dir(), size_bytes: m.len() });
        }
        out.sort();
        Ok(out)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }
    fn remove_empty_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }
    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let f = OpenOptions::new().write(true).open(path)?;
        f.set_len(len)?;
        f.sync_all()
    }
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let f = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match f.try_lock() {
            Ok(()) => Ok(Box::new(f)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }
    fn free_bytes(&self, path: &Path) -> Option<u64> {
        super::space::free_bytes(path)
    }
}
