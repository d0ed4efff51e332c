//! Blocks that lie far away, waited for together instead of one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::block::reader::OpenBlock;
use super::blocks::BlockHandle;

/// Blocks waited for at a time.
pub(super) const FAR_BLOCKS: usize = 8;
/// What is read ahead of many blocks takes no more than this, or it drives out of the cache what was asked for first.
const AHEAD_BYTES: u64 = 12 << 20;

/// Opens the blocks that lie far away and reads ahead of each what `ranges` names. Best effort: what failed fails again
/// where it is read, and tells why.
pub(super) fn fetch(blocks: &[Arc<BlockHandle>], ranges: impl Fn(&OpenBlock) -> Vec<(u64, usize)> + Sync) {
    let far: Vec<&Arc<BlockHandle>> = blocks.iter().filter(|b| b.is_far()).collect();
    if far.len() < 2 {
        return;
    }
    let (next, bytes, failed) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while let Some(handle) = far.get(next.fetch_add(1, Ordering::Relaxed)) {
            // A bucket that is away is not asked once for each block.
            if failed.load(Ordering::Relaxed) {
                return;
            }
            let Ok(block) = handle.open() else {
                failed.store(true, Ordering::Relaxed);
                return;
            };
            let ranges = ranges(&block);
            let n: u64 = ranges.iter().map(|r| r.1 as u64).sum();
            if bytes.fetch_add(n, Ordering::Relaxed) + n <= AHEAD_BYTES {
                block.prefetch_ranges(&ranges);
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 1..far.len().min(FAR_BLOCKS) {
            s.spawn(work);
        }
        work();
    });
}
