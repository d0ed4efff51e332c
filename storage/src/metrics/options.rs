//! What a metric store needs to know. Plain data, and what is injected.

use std::path::PathBuf;
use std::sync::Arc;

use strandline_wal::WalOptions;
use strandline_wal::fs::Fs;

use super::head::{HeadLimits, HeadRules};
use crate::bucket::{Bucket, RangeCache};
use crate::clock::Clock;

/// Options of a metric store.
#[derive(Clone)]
pub struct MetricOptions {
    /// Files.
    pub fs: Arc<dyn Fs>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The tenant's folder.
    pub dir: PathBuf,
    /// Tenant name, part of the bucket's keys.
    pub tenant: String,
    /// Where blocks go; without it they stay in the folder.
    pub bucket: Option<Arc<dyn Bucket>>,
    /// The log; `hold_after_failure` is set by the store.
    pub wal: WalOptions,
    /// Rules of admission.
    pub rules: HeadRules,
    /// Limits of the head.
    pub limits: HeadLimits,
    /// Labels that Thanos tells blocks apart by; empty becomes `tenant`.
    pub external_labels: Vec<(String, String)>,
    /// Blocks whose data is older go; 0 keeps them.
    pub retention_ms: i64,
    /// Oldest blocks go above this; 0 is no limit.
    pub retention_bytes: u64,
    /// How long a block stays on the local disk once it is in the bucket.
    pub local_retention_ms: i64,
    /// Compact our own blocks.
    pub compaction: bool,
    /// The widest range that compaction makes.
    pub max_block_range_ms: i64,
    /// Delay between a deletion mark and the deletion.
    pub delete_delay_ms: i64,
    /// Flush when the head's heap is larger.
    pub head_max_bytes: usize,
    /// Move finished chunks to files when a stripe holds more than this.
    pub spill_bytes: usize,
    /// A series without samples for so long is dropped after a flush.
    pub series_idle_ms: i64,
    /// Look at the bucket for others' blocks this often.
    pub sync_interval_ms: i64,
    /// Pages of a remote bucket's objects that others hold and count; without it the store has its own, by the next two.
    pub cache: Option<Arc<RangeCache>>,
    /// Bytes of the bucket's content kept in memory.
    pub cache_bytes: u64,
    /// Bytes of a remote bucket's content kept on disk, in `cache` of the folder; 0: none.
    pub disk_cache_bytes: u64,
    /// Blocks that another writer made so long ago are compacted and expired by whoever holds the tenant's lease;
    /// 0: never.
    pub adopt_after_ms: i64,
    /// Refuse everything that changes the store; set by [`crate::Engine::open_read_only`].
    pub read_only: bool,
}

/// Two hours.
pub const RANGE_MS: i64 = 2 * 3_600_000;

impl MetricOptions {
    /// Defaults over the given file system, clock and folder.
    pub fn new(fs: Arc<dyn Fs>, clock: Arc<dyn Clock>, dir: impl Into<PathBuf>) -> Self {
        let hour = 3_600_000;
        MetricOptions {
            fs,
            clock,
            dir: dir.into(),
            tenant: "anonymous".into(),
            bucket: None,
            wal: WalOptions::default(),
            rules: HeadRules {
                range_ms: RANGE_MS,
                out_of_order_window_ms: 2 * hour,
                max_sample_age_ms: 24 * hour,
                max_future_ms: 600_000,
                xor2: false,
                start_timestamps: false,
            },
            limits: HeadLimits::default(),
            external_labels: Vec::new(),
            retention_ms: 0,
            retention_bytes: 0,
            local_retention_ms: 0,
            compaction: true,
            max_block_range_ms: 18 * hour,
            delete_delay_ms: hour,
            head_max_bytes: usize::MAX,
            spill_bytes: 512 << 10,
            series_idle_ms: 900_000,
            sync_interval_ms: 60_000,
            cache: None,
            cache_bytes: 256 << 20,
            disk_cache_bytes: 1 << 30,
            adopt_after_ms: 6 * 3_600_000,
            read_only: false,
        }
    }
}
