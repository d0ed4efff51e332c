//! What to compact and what to let go: decided from descriptions alone.

use crate::model::TimeRange;

/// What a plan looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanBlock {
    /// Name.
    pub ulid: String,
    /// Both ends included.
    pub range: TimeRange,
    /// Level so far.
    pub level: u32,
    /// When it was written, in milliseconds.
    pub written_ms: i64,
    /// Bytes.
    pub size_bytes: u64,
    /// Written by us: others' blocks are theirs to touch.
    pub ours: bool,
    /// Deletes that concern it and are not applied yet.
    pub pending_deletes: usize,
}

/// One compaction: these blocks become one of this range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Blocks by name, by first time.
    pub inputs: Vec<String>,
    /// The aligned range they share.
    pub range: TimeRange,
}

fn within(inner: TimeRange, outer: TimeRange) -> bool {
    outer.min_ms <= inner.min_ms && inner.max_ms <= outer.max_ms
}

/// So many partial blocks of one level, of a range that is still being written, are joined without waiting: each
/// sample is then written once a level, however many blocks come.
const MANY: usize = 4;

/// How wide ranges are, and when one of them is closed.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// The narrowest, from which they grow by three.
    pub base_ms: i64,
    /// None is wider.
    pub max_ms: i64,
    /// What has passed since the end of a closed range.
    pub settle_ms: i64,
    /// What has passed since its newest block was written: a sender that catches up is waited for, since it would have
    /// all that came before it written anew with every flush.
    pub quiet_ms: i64,
}

/// The next compaction, if any: narrow ranges first, older before newer.
pub fn compaction(blocks: &[PlanBlock], now_ms: i64, ranges: Ranges) -> Option<Step> {
    let mut ours: Vec<&PlanBlock> = blocks.iter().filter(|b| b.ours).collect();
    ours.sort_by(|a, b| (a.range.min_ms, &a.ulid).cmp(&(b.range.min_ms, &b.ulid)));
    let mut width = ranges.base_ms;
    while width <= ranges.max_ms.max(ranges.base_ms) {
        if let Some(step) = at_width(&ours, now_ms, width, ranges) {
            return Some(step);
        }
        width = width.checked_mul(3)?;
    }
    let deleted = ours.iter().find(|b| b.pending_deletes > 0)?;
    Some(Step { inputs: vec![deleted.ulid.clone()], range: deleted.range })
}

fn at_width(ours: &[&PlanBlock], now_ms: i64, width: i64, ranges: Ranges) -> Option<Step> {
    let mut i = 0;
    while i < ours.len() {
        let range = TimeRange::aligned(ours[i].range.min_ms, width);
        let group: Vec<&&PlanBlock> = ours[i..].iter().take_while(|b| b.range.min_ms <= range.max_ms).collect();
        i += group.len();
        let inside: Vec<&PlanBlock> = group.iter().filter(|b| within(b.range, range)).map(|b| **b).collect();
        // A wider block across the range: its turn comes at its own width.
        if inside.len() < 2 || inside.len() < group.len() {
            continue;
        }
        let newest_ms = inside.iter().map(|b| b.written_ms).max().unwrap_or(0);
        let closed = range.max_ms.saturating_add(ranges.settle_ms) < now_ms && newest_ms.saturating_add(ranges.quiet_ms) <= now_ms;
        let inputs = if closed { inside } else { many_of_a_level(&inside, width == ranges.base_ms) };
        if !inputs.is_empty() {
            return Some(Step { inputs: inputs.iter().map(|b| b.ulid.clone()).collect(), range });
        }
    }
    None
}

/// Of a base range that is open yet: the blocks of its lowest level that has many. None of wider ranges.
fn many_of_a_level<'a>(inside: &[&'a PlanBlock], base: bool) -> Vec<&'a PlanBlock> {
    let of = |level: u32| inside.iter().filter(move |b| b.level == level);
    let level = inside.iter().map(|b| b.level).filter(|l| base && of(*l).count() >= MANY).min();
    level.map_or(Vec::new(), |l| of(l).copied().collect())
}

/// Blocks to let go: those wholly older than `max_age_ms` (0: no limit), then the oldest until the rest fits into
/// `max_bytes` (0: no limit): none is kept that is older than one that goes. Only our own.
pub fn retention(blocks: &[PlanBlock], now_ms: i64, max_age_ms: i64, max_bytes: u64) -> Vec<String> {
    let mut ours: Vec<&PlanBlock> = blocks.iter().filter(|b| b.ours).collect();
    ours.sort_by(|a, b| (b.range.max_ms, &b.ulid).cmp(&(a.range.max_ms, &a.ulid)));
    let (mut kept, mut full) = (0u64, false);
    let mut gone = Vec::new();
    for b in ours {
        let old = max_age_ms > 0 && b.range.max_ms < now_ms.saturating_sub(max_age_ms);
        full |= max_bytes > 0 && kept.saturating_add(b.size_bytes) > max_bytes;
        if old || full {
            gone.push(b.ulid.clone());
        } else {
            kept += b.size_bytes;
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(ulid: &str, from: i64, to: i64) -> PlanBlock {
        PlanBlock {
            ulid: ulid.into(),
            range: TimeRange::new(from, to - 1),
            level: 1,
            written_ms: 0,
            size_bytes: 10,
            ours: true,
            pending_deletes: 0,
        }
    }

    fn plan(blocks: &[PlanBlock], now: i64) -> Option<(Vec<String>, i64, i64)> {
        let ranges = Ranges { base_ms: 100, max_ms: 900, settle_ms: 50, quiet_ms: 30 };
        compaction(blocks, now, ranges).map(|s| (s.inputs, s.range.min_ms, s.range.max_ms + 1))
    }

    fn names(n: &[&str]) -> Vec<String> {
        n.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn compaction_table() {
        // Nothing to do for single blocks of open ranges.
        assert_eq!(plan(&[b("a", 0, 100)], 1000), None);
        // Two of one range, once it has settled.
        assert_eq!(plan(&[b("a", 0, 100), b("b", 0, 100)], 149), None);
        assert_eq!(plan(&[b("a", 0, 100), b("b", 0, 100)], 150), Some((names(&["a", "b"]), 0, 100)));
        // Many partial blocks are joined early.
        let many: Vec<_> = ["a", "b", "c", "d"].iter().map(|n| b(n, 0, 100)).collect();
        assert_eq!(plan(&many, 10), Some((names(&["a", "b", "c", "d"]), 0, 100)));
        // Those of one level only, so that what was joined is not written again with every few that come.
        let mut five = many.clone();
        five[0].level = 2;
        assert_eq!(plan(&five, 10), None);
        five.push(b("e", 0, 100));
        assert_eq!(plan(&five, 10), Some((names(&["b", "c", "d", "e"]), 0, 100)));
        assert_eq!(plan(&five, 150), Some((names(&["a", "b", "c", "d", "e"]), 0, 100)));
        // Three neighbours grow by three, when the wide range is closed.
        let three = [b("a", 0, 100), b("b", 100, 200), b("c", 200, 300)];
        assert_eq!(plan(&three, 340), None);
        assert_eq!(plan(&three, 350), Some((names(&["a", "b", "c"]), 0, 300)));
        // While somebody catches up, closed ranges are waited for too; many partial blocks are joined all the same.
        let mut late = three.clone();
        late[2].written_ms = 5000;
        assert_eq!(plan(&late, 5029), None);
        assert_eq!(plan(&late, 5030), Some((names(&["a", "b", "c"]), 0, 300)));
        let late: Vec<_> = many.iter().map(|b| PlanBlock { written_ms: 5000, ..b.clone() }).collect();
        assert_eq!(plan(&late[1..], 5029), None);
        assert_eq!(plan(&late, 5000), Some((names(&["a", "b", "c", "d"]), 0, 100)));
        // Narrow before wide, and a gap does not matter.
        let mixed = [b("a", 0, 300), b("b", 600, 700), b("c", 600, 700)];
        assert_eq!(plan(&mixed, 10_000), Some((names(&["b", "c"]), 600, 700)));
        assert_eq!(plan(&[b("a", 0, 300), b("x", 600, 700)], 10_000), Some((names(&["a", "x"]), 0, 900)));
        // Others' blocks are not touched.
        let mut foreign = b("b", 0, 100);
        foreign.ours = false;
        assert_eq!(plan(&[b("a", 0, 100), foreign], 1000), None);
        // Late data for a range that was compacted already is merged at the wide range.
        assert_eq!(plan(&[b("a", 0, 300), b("late", 0, 100)], 10_000), Some((names(&["a", "late"]), 0, 300)));
        // A delete rewrites its block.
        let mut d = b("a", 0, 900);
        d.pending_deletes = 1;
        assert_eq!(plan(&[d], 10_000), Some((names(&["a"]), 0, 900)));
    }

    #[test]
    fn retention_table() {
        let blocks = [b("a", 0, 100), b("b", 100, 200), b("c", 200, 300)];
        assert_eq!(retention(&blocks, 1000, 0, 0), Vec::<String>::new());
        assert_eq!(retention(&blocks, 1000, 800, 0), names(&["b", "a"]));
        assert_eq!(retention(&blocks, 1000, 0, 20), names(&["a"]));
        assert_eq!(retention(&blocks, 1000, 800, 5), names(&["c", "b", "a"]));
        // A large one that no longer fits takes all that is older with it.
        let mut large = blocks.clone();
        large[1].size_bytes = 30;
        assert_eq!(retention(&large, 1000, 0, 30), names(&["b", "a"]));
    }
}
