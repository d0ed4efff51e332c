//! A segmented write-ahead log of opaque records, and the file-system seam it is tested through.
//!
//! Records go in by [`Wal::append`] and are durable when their [`Ticket`] says so: concurrent appenders share one
//! write and one fsync (group commit). [`Wal::open`] replays what was durable, cuts a torn tail and tells it apart
//! from damage. The byte layout stands in `docs/format/wal.md`.
#![warn(missing_docs)]

pub mod error;
mod format;
pub mod fs;
mod log;
mod options;
mod recover;
#[doc(hidden)]
pub mod sync;
mod ticket;
mod writer;

pub use error::{WalError, WalErrorKind};
pub use log::{Wal, WalStats};
pub use options::{SyncMode, WalOptions};
pub use recover::{Damage, Position, RecoveryReport, Replay, replay_read_only};
pub use ticket::Ticket;
