//! How a span store is kept.

use std::path::PathBuf;
use std::sync::Arc;

use strandline_wal::WalOptions;
use strandline_wal::fs::Fs;

use super::block::writer::WriteOptions;
use super::limits::SpanLimits;
use crate::bucket::{Bucket, RangeCache};
use crate::clock::Clock;

/// Options of a span store. All but `fs`, `clock`, `dir` and `bucket` have defaults by [`TraceStoreOptions::new`].
#[derive(Clone)]
pub struct TraceStoreOptions {
    /// Where files are.
    pub fs: Arc<dyn Fs>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The tenant's data folder: the log goes to `wal/traces` below it, blocks not yet uploaded to `traces`.
    pub dir: PathBuf,
    /// Where blocks go.
    pub bucket: Arc<dyn Bucket>,
    /// Pages of a remote bucket's objects. An engine's stores share one; a store by itself has 32 MiB in memory.
    pub cache: Option<Arc<RangeCache>>,
    /// Whose spans; part of the blocks' keys.
    pub tenant: String,
    /// The process that compacts and deletes the blocks it writes.
    pub writer_id: String,
    /// How the log is kept.
    pub wal: WalOptions,
    /// What is accepted.
    pub limits: SpanLimits,
    /// Appends are refused (retryably) while live spans hold more memory.
    pub max_live_bytes: usize,
    /// Live spans are flushed once they hold so much memory.
    pub flush_bytes: usize,
    /// Live spans are flushed once the oldest has waited so long.
    pub flush_age_ms: i64,
    /// Blocks whose spans all started and came longer ago are removed; 0: none is.
    pub retention_ms: i64,
    /// The oldest blocks are removed while all together are larger; 0: none is.
    pub retention_bytes: u64,
    /// Blocks cover aligned windows of this length.
    pub window_ms: i64,
    /// A removed block's objects go so much later: readers of the bucket may be at them.
    pub delete_delay_ms: i64,
    /// Blocks of a window are merged once so many lie there, or once the window has been over for a while.
    pub compact_blocks: usize,
    /// Whether blocks are merged at all.
    pub compaction: bool,
    /// How flushes write.
    pub flush_write: WriteOptions,
    /// How merges write.
    pub compact_write: WriteOptions,
    /// Open blocks' footers, filters and indexes hold at most so much memory.
    pub max_index_bytes: usize,
    /// A trace with more spans is not read whole, which takes one to two KiB for each; searches read of it what they need.
    pub max_trace_spans: usize,
    /// Blocks that another writer made so long ago are merged and expired by whoever holds the tenant's lease; 0: never.
    pub adopt_after_ms: i64,
    /// Look at the bucket for others' blocks, and for what is to be removed, this often.
    pub sync_interval_ms: i64,
    /// Refuse everything that changes the store; set by [`crate::Engine::open_read_only`].
    pub read_only: bool,
}

impl TraceStoreOptions {
    /// Defaults.
    pub fn new(fs: Arc<dyn Fs>, clock: Arc<dyn Clock>, dir: impl Into<PathBuf>, bucket: Arc<dyn Bucket>) -> Self {
        TraceStoreOptions {
            fs,
            clock,
            dir: dir.into(),
            bucket,
            cache: None,
            tenant: "anonymous".into(),
            writer_id: "strandline".into(),
            wal: WalOptions::default(),
            limits: SpanLimits::default(),
            max_live_bytes: 512 << 20,
            flush_bytes: 256 << 20,
            flush_age_ms: 10 * 60_000,
            retention_ms: 0,
            retention_bytes: 0,
            window_ms: 3_600_000,
            delete_delay_ms: 15 * 60_000,
            compact_blocks: 4,
            compaction: true,
            flush_write: WriteOptions { row_group_spans: 32 << 10, ..WriteOptions::default() },
            // What usual spans take: larger groups are scanned faster.
            compact_write: WriteOptions { row_group_spans: 64 << 10, row_group_bytes: 12 << 20, ..WriteOptions::default() },
            max_index_bytes: 24 << 20,
            max_trace_spans: usize::MAX,
            adopt_after_ms: 6 * 3_600_000,
            sync_interval_ms: 60_000,
            read_only: false,
        }
    }
}
