//! The error of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WalErrorKind {
    /// Disk trouble: nothing of the commit is promised; the same call may pass later.
    Unavailable,
    /// A record or a log is not what it should be.
    Corrupt,
    /// A record is larger than a frame may be.
    TooLarge,
    /// The log was closed.
    Closed,
    /// The owner's replay function refused.
    Replay,
}

/// An error with its kind, the place, and the cause. Cheap to clone: every waiter of a failed commit gets it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalError {
    /// What to do about it.
    pub kind: WalErrorKind,
    message: Arc<str>,
    path: Option<Arc<Path>>,
    raw_os_error: Option<i32>,
}

impl WalError {
    /// An error of `kind`.
    pub fn new(kind: WalErrorKind, message: impl Into<String>) -> Self {
        WalError { kind, message: Arc::from(message.into()), path: None, raw_os_error: None }
    }
    pub(crate) fn io(doing: &str, path: &Path, e: &io::Error) -> Self {
        WalError {
            kind: WalErrorKind::Unavailable,
            message: Arc::from(format!("{doing}: {e}")),
            path: Some(Arc::from(path)),
            raw_os_error: e.raw_os_error(),
        }
    }
    /// The file it happened in.
    pub fn path(&self) -> Option<PathBuf> {
        self.path.as_ref().map(|p| p.to_path_buf())
    }
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.raw_os_error == Some(28)
    }
    /// Whether the same call may pass later.
    pub fn is_retryable(&self) -> bool {
        self.kind == WalErrorKind::Unavailable
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(p) = &self.path {
            write!(f, " ({})", p.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for WalError {}
