//! Which blocks to merge and which to remove: no I/O here.

use std::collections::BTreeMap;

use crate::bucket::made_ms;
use crate::traces::block::meta::BlockMeta;

/// At most so many blocks are merged at a time: each holds a column of a row group in memory.
const MAX_FAN_IN: usize = TOO_MANY;

/// So many blocks of one window and level are merged whatever else there is to do: each costs every query of the window
/// its part.
pub const TOO_MANY: usize = 16;

/// A merge makes no larger block: the footer of what is being written is held in memory, some 80 KiB for 65,536 spans.
const MAX_SPANS: u64 = 8_000_000;

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The blocks' names.
    pub blocks: Vec<String>,
    /// Whether it gives way to nothing.
    pub urgent: bool,
}

/// Blocks to merge, named, of one window: those given (the caller's own), the smallest first. While the window is open,
/// blocks of one level, the lowest that has `min_blocks` (else each flush would rewrite all of the hour); once it has been
/// over for its length, and nothing has come for a quarter of it, any two. While the store is `busy`, only where there are
/// [`TOO_MANY`].
pub fn merge(blocks: &[&BlockMeta], now_ms: i64, min_blocks: usize, busy: bool) -> Option<Merge> {
    // By window, then by level; those of a window that is over count as of one level.
    let mut groups: BTreeMap<(i64, i64, u32), Vec<&BlockMeta>> = BTreeMap::new();
    let mut newest_ms: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for b in blocks {
        let written = newest_ms.entry((b.window_start_ms, b.window_ms)).or_default();
        *written = (*written).max(made_ms(&b.ulid).unwrap_or(0));
    }
    let quiet = |b: &BlockMeta| now_ms >= newest_ms[&(b.window_start_ms, b.window_ms)].saturating_add(b.window_ms / 4);
    let over = |b: &BlockMeta| now_ms >= b.window_start_ms.saturating_add(2 * b.window_ms) && quiet(b);
    for b in blocks {
        groups.entry((b.window_start_ms, b.window_ms, if over(b) { 0 } else { b.level })).or_default().push(b);
    }
    for mut group in groups.into_values() {
        let is_over = over(group[0]);
        group.sort_by(|a, b| (a.size_bytes, &a.ulid).cmp(&(b.size_bytes, &b.ulid)));
        let mut spans = 0u64;
        let fit = group.iter().take_while(|b| {
            spans = spans.saturating_add(b.spans);
            spans <= MAX_SPANS
        });
        let fit = fit.count();
        let enough = match (busy, is_over) {
            (true, _) => TOO_MANY,
            (false, true) => 2,
            (false, false) => min_blocks.max(2),
        };
        if group.len() >= enough && fit >= 2 {
            let blocks = group.iter().take(fit.min(MAX_FAN_IN)).map(|b| b.ulid.clone()).collect();
            return Some(Merge { blocks, urgent: group.len() >= TOO_MANY });
        }
    }
    None
}

/// When the youngest span of a block started or came, whichever is later: what was accepted stays for the retention,
/// however long ago it started. A merge does not make its spans younger.
fn young_ms(b: &BlockMeta) -> i64 {
    let came = b.sources.iter().filter_map(|s| made_ms(s)).max().or_else(|| made_ms(&b.ulid));
    came.unwrap_or(0).max((b.max_start_unix_nano / 1_000_000) as i64)
}

/// Blocks that retention lets go: all spans started and came more than `retention_ms` ago (0: no limit), or the oldest
/// while all together are larger than `retention_bytes` (0: no limit).
pub fn expired(blocks: &[&BlockMeta], now_ms: i64, retention_ms: i64, retention_bytes: u64) -> Vec<String> {
    let mut by_age: Vec<&&BlockMeta> = blocks.iter().collect();
    by_age.sort_by(|a, b| (young_ms(a), &a.ulid).cmp(&(young_ms(b), &b.ulid)));
    let mut total: u64 = blocks.iter().map(|b| b.size_bytes).sum();
    let mut out = Vec::new();
    for b in by_age {
        let old = retention_ms > 0 && young_ms(b) < now_ms.saturating_sub(retention_ms);
        if old || (retention_bytes > 0 && total > retention_bytes) {
            total -= b.size_bytes;
            out.push(b.ulid.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(blocks: &[&BlockMeta], now_ms: i64, min_blocks: usize) -> Option<Vec<String>> {
        super::merge(blocks, now_ms, min_blocks, false).map(|m| m.blocks)
    }

    fn block(ulid: &str, window: i64, size: u64, level: u32) -> BlockMeta {
        BlockMeta {
            version: 1,
            ulid: ulid.into(),
            tenant: "t".into(),
            writer_id: "w".into(),
            window_start_ms: window,
            window_ms: 100,
            min_start_unix_nano: window as u64 * 1_000_000,
            max_start_unix_nano: (window as u64 + 99) * 1_000_000,
            max_end_unix_nano: (window as u64 + 99) * 1_000_000,
            spans: 1,
            traces: 1,
            size_bytes: size,
            tail_offset: 0,
            level,
            sources: vec![],
            checksums: String::new(),
        }
    }

    #[test]
    fn a_window_is_merged_when_full_or_over() {
        let b = [block("a", 0, 5, 0), block("b", 0, 4, 0), block("c", 100, 1, 0)];
        let b: Vec<&BlockMeta> = b.iter().collect();
        assert_eq!(merge(&b, 50, 4), None);
        assert_eq!(merge(&b, 50, 2), Some(vec!["b".into(), "a".into()]));
        assert_eq!(merge(&b, 200, 4), Some(vec!["b".into(), "a".into()]));
    }

    #[test]
    fn a_window_for_which_spans_still_come_is_merged_like_an_open_one() {
        let ulid = |ms: u64| ulid::Ulid::from_parts(ms, 7).to_string();
        let b = [block(&ulid(100), 0, 900, 1), block(&ulid(1000), 0, 5, 0)];
        let b: Vec<&BlockMeta> = b.iter().collect();
        assert_eq!(merge(&b, 1024, 2), None);
        assert_eq!(merge(&b, 1025, 2), Some(vec![ulid(1000), ulid(100)]));
    }

    #[test]
    fn an_open_window_merges_like_with_like() {
        let b = [block("big", 0, 900, 1), block("x", 0, 5, 0), block("y", 0, 4, 0)];
        let b: Vec<&BlockMeta> = b.iter().collect();
        assert_eq!(merge(&b, 50, 2), Some(vec!["y".into(), "x".into()]));
        assert_eq!(merge(&b, 50, 3), None);
        // Few of the lowest level keep no other level waiting.
        let b = [block("big", 0, 900, 1), block("large", 0, 800, 1), block("x", 0, 5, 0)];
        let b: Vec<&BlockMeta> = b.iter().collect();
        assert_eq!(merge(&b, 50, 2), Some(vec!["large".into(), "big".into()]));
    }

    #[test]
    fn merges_of_a_busy_store_wait_but_not_for_ever() {
        let names: Vec<String> = (0..TOO_MANY).map(|i| format!("{i:03}")).collect();
        let b: Vec<BlockMeta> = names.iter().map(|n| block(n, 0, 1, 0)).chain([block("a", 100, 1, 0), block("b", 100, 1, 0)]).collect();
        let b: Vec<&BlockMeta> = b.iter().collect();
        for now in [50, 1000] {
            assert_eq!(super::merge(&b[1..], now, 2, true), None);
            let urgent = Merge { blocks: names[..MAX_FAN_IN].to_vec(), urgent: true };
            assert_eq!(super::merge(&b, now, 2, true), Some(urgent));
            assert!(super::merge(&b[1..], now, 2, false).is_some());
        }
        // While the window is open, those of another level do not make them too many.
        let other: Vec<BlockMeta> = names.iter().map(|n| block(n, 0, 1, u32::from(n.ends_with('0')))).collect();
        let other: Vec<&BlockMeta> = other.iter().collect();
        assert_eq!(super::merge(&other, 50, 2, true), None);
        assert!(super::merge(&other, 1000, 2, true).is_some());
    }

    #[test]
    fn no_block_grows_beyond_bounds() {
        let large = |ulid: &str, spans| BlockMeta { spans, ..block(ulid, 0, spans, 0) };
        let b = [large("a", MAX_SPANS / 2), large("b", MAX_SPANS / 2 + 1), large("c", MAX_SPANS / 2 - 1)];
        let b: Vec<&BlockMeta> = b.iter().collect();
        assert_eq!(merge(&b, 1000, 2), Some(vec!["c".into(), "a".into()]));
        assert_eq!(merge(&b[..2], 1000, 2), None);
        // Fewer than wait are merged then; they are urgent all the same.
        let b: Vec<BlockMeta> = (0..TOO_MANY).map(|i| large(&format!("{i:03}"), MAX_SPANS / 10)).collect();
        let b: Vec<&BlockMeta> = b.iter().collect();
        let m = super::merge(&b, 50, 2, true).unwrap();
        assert_eq!((m.blocks.len(), m.urgent), (10, true));
    }

    #[test]
    fn retention_by_time_and_by_bytes() {
        let b = [block("a", 0, 5, 0), block("b", 100, 4, 0), block("c", 200, 1, 0)];
        let b: Vec<&BlockMeta> = b.iter().collect();
        assert_eq!(expired(&b, 1000, 0, 0), Vec::<String>::new());
        assert_eq!(expired(&b, 500, 301, 0), ["a"]);
        assert_eq!(expired(&b, 501, 301, 0), ["a", "b"]);
        assert_eq!(expired(&b, 500, 0, 5), ["a"]);
        assert_eq!(expired(&b, 500, 0, 4), ["a", "b"]);
        // What came later than it started goes later, merged or not.
        let made = |ms| ulid::Ulid::from_parts(ms, 7).to_string();
        let (late, mut merged) = (block(&made(400), 0, 5, 0), block(&made(450), 0, 5, 1));
        merged.sources = vec![made(390), made(380)];
        let names = [late.ulid.clone(), merged.ulid.clone()];
        let b = [&late, &merged];
        assert_eq!(expired(&b, 691, 300, 0), [names[1].clone()]);
        assert_eq!(expired(&b, 701, 300, 0), [names[1].clone(), names[0].clone()]);
    }
}
