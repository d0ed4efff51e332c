//! How a log is kept.

use std::time::Duration;

/// When an append counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// After an fsync that covers it.
    #[default]
    Always,
    /// Once it is handed to the operating system; an fsync follows within the interval.
    Interval(Duration),
    /// Once it is handed to the operating system; fsync only at rotation and close.
    Never,
}

/// Options of a log. Plain data.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// A segment is sealed once it is this large.
    pub segment_size_bytes: u64,
    /// When an append counts as done.
    pub sync: SyncMode,
    /// Keep a thread that commits for tickets that are polled and syncs in [`SyncMode::Interval`].
    /// Without it, poll is served by whoever waits or calls [`crate::Wal::commit`].
    pub background: bool,
    /// Appends wait while more than this is queued for the disk.
    pub max_pending_bytes: usize,
    /// After a failed commit refuse appends until [`crate::Wal::resume`]: for owners whose records build on
    /// one another and who must first roll back what they took for written.
    pub hold_after_failure: bool,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            segment_size_bytes: 64 << 20,
            sync: SyncMode::Always,
            background: true,
            max_pending_bytes: 16 << 20,
            hold_after_failure: false,
        }
    }
}
