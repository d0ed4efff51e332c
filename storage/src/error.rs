//! The error of this crate.

use std::fmt;
use std::path::{Path, PathBuf};

use strandline_wal::{WalError, WalErrorKind};

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is wrong; sending it again won't help.
    Invalid,
    /// A configured limit was met; less at a time, or later, may pass.
    LimitExceeded,
    /// A sample is older than what its series takes.
    OutOfOrder,
    /// There is no such thing.
    NotFound,
    /// Bytes on disk or in the bucket are not what was written.
    Corrupt,
    /// Disk or bucket can't serve now; the same call may pass later.
    Unavailable,
    /// It took longer than it may.
    TimedOut,
    /// The store was closed.
    Closed,
}

/// An error with its kind, the place where it arose, and its cause.
#[derive(Debug)]
#[non_exhaustive]
pub struct Error {
    /// What to do about it.
    pub kind: ErrorKind,
    /// Boxed: results on hot paths stay small.
    inner: Box<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    message: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What a store answers that was opened to be read.
    pub fn read_only() -> Self {
        Error::invalid("the store was opened read-only: nothing can be written, flushed or deleted")
    }

    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, inner: Box::new(Inner { message: message.into(), ..Inner::default() }) }
    }
    /// Wrong input.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }
    /// Damaged bytes.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }
    /// Adds the file (or object) it happened in.
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.inner.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }
    /// Adds the offset it happened at.
    pub fn offset(mut self, offset: u64) -> Self {
        self.inner.offset.get_or_insert(offset);
        self
    }
    /// Adds the cause.
    pub fn caused_by(mut self, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(e.into());
        self
    }
    /// An I/O error with what was being done and where.
    pub fn io(doing: &str, path: impl AsRef<Path>, e: std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{doing}: {e}")).at(path)
    }
    /// Whether the same call may pass later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::LimitExceeded)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        if let Some(p) = &self.inner.path {
            write!(f, " ({}", p.display())?;
            if let Some(o) = self.inner.offset {
                write!(f, " at offset {o}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

/// The error of a log as this crate's own.
pub(crate) fn wal_error(e: WalError) -> Error {
    let kind = match e.kind {
        WalErrorKind::Corrupt | WalErrorKind::Replay => ErrorKind::Corrupt,
        WalErrorKind::TooLarge => ErrorKind::Invalid,
        WalErrorKind::Closed => ErrorKind::Closed,
        _ => ErrorKind::Unavailable,
    };
    let text = if e.is_disk_full() { "the disk is full, and nothing of this was stored" } else { "write-ahead log" };
    Error::new(kind, format!("{text}: {e}")).caused_by(e)
}
