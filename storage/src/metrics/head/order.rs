//! Series in label order. Comparing label sets is dear, so ranks are kept and brought up to date from what came and
//! went since; a query pays for the series that are new, not for all there are.

use crate::index::Registry;

const NONE: u32 = u32::MAX;

/// Ranks are not made for the sake of a selection smaller than this.
const SMALL: usize = 2048;

/// The place of each slot in label order, as of a generation of the registry.
#[derive(Debug, Default)]
pub(super) struct Order {
    generation: u64,
    rank: Vec<u32>,
    /// Slots that have a rank.
    len: usize,
}

impl Order {
    /// Puts slots into label order.
    pub fn sort(&mut self, registry: &Registry, slots: &mut Vec<u32>) {
        if !slots.iter().all(|s| registry.is_live(*s)) {
            // Some were removed since they were selected: their labels are still there, but they have no rank.
            return slots.sort_unstable_by(|a, b| registry.compare(*a, *b));
        }
        let part = slots.len() < SMALL || slots.len() * 8 < registry.len();
        if !self.catch_up(registry, if part { slots.len() } else { usize::MAX }) {
            if part {
                return slots.sort_unstable_by(|a, b| registry.compare(*a, *b));
            }
            let mut all: Vec<u32> = registry.select(&[]).iter().collect();
            all.sort_unstable_by(|a, b| registry.compare(*a, *b));
            self.set(registry, &all);
        }
        let rank = |slot: u32| self.rank.get(slot as usize).copied().unwrap_or(NONE);
        if part {
            return slots.sort_unstable_by_key(|s| rank(*s));
        }
        // A large selection: each slot goes straight to its place.
        let mut places = vec![NONE; self.len];
        for slot in slots.iter() {
            if let Some(p) = places.get_mut(rank(*slot) as usize) {
                *p = *slot;
            }
        }
        places.retain(|s| *s != NONE);
        *slots = places;
    }

    /// Takes in what changed; false if ranks are too old, or `most` changes would not pay.
    fn catch_up(&mut self, registry: &Registry, most: usize) -> bool {
        let Some(changes) = registry.changes_since(self.generation).filter(|c| self.len > 0 && c.len() <= most) else { return false };
        if changes.len() == 0 {
            return true;
        }
        let mut order = vec![NONE; self.len];
        self.rank.iter().enumerate().filter(|(_, r)| **r != NONE).for_each(|(slot, r)| order[*r as usize] = slot as u32);
        let mut fresh: Vec<u32> = changes.collect();
        fresh.sort_unstable();
        fresh.dedup();
        // A slot that changed may bear another series now: it leaves its place, and finds a new one if it is in use.
        for slot in &fresh {
            if let Some(old) = self.rank.get(*slot as usize).filter(|r| **r != NONE) {
                order[*old as usize] = NONE;
            }
        }
        order.retain(|s| *s != NONE);
        fresh.retain(|slot| registry.is_live(*slot));
        fresh.sort_unstable_by(|a, b| registry.compare(*a, *b));
        let mut merged = Vec::with_capacity(order.len() + fresh.len());
        let mut from = 0;
        for slot in fresh {
            let to = from + order[from..].partition_point(|o| registry.compare(*o, slot).is_lt());
            merged.extend_from_slice(&order[from..to]);
            merged.push(slot);
            from = to;
        }
        merged.extend_from_slice(&order[from..]);
        self.set(registry, &merged);
        true
    }

    fn set(&mut self, registry: &Registry, order: &[u32]) {
        self.rank.clear();
        self.rank.resize(registry.slots(), NONE);
        order.iter().enumerate().for_each(|(i, slot)| self.rank[*slot as usize] = i as u32);
        self.len = order.len();
        self.generation = registry.generation();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Labels;

    fn insert(r: &mut Registry, slot: u32, n: u32) {
        let l = Labels::from_pairs([("a", (n % 7).to_string()), ("n", n.to_string())]);
        let canonical = l.canonical_bytes();
        r.insert(slot, r.hasher().hash(&canonical), &canonical);
        r.settle();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Series come, go, and come back under the slot of another; every order is that of comparing.
        #[test]
        fn ranks_follow_what_comes_and_goes(rounds in prop::collection::vec(prop::collection::vec((0u32..400, 0u32..1000), 0..40), 1..8)) {
            let mut r = Registry::default();
            let mut kept = Order::default();
            (0..SMALL as u32).for_each(|slot| insert(&mut r, slot, slot));
            let mut names = SMALL as u32;
            for (k, round) in rounds.iter().enumerate() {
                for (slot, n) in round {
                    if r.is_live(*slot) {
                        r.remove(*slot);
                        r.free(&[*slot]);
                    } else {
                        names += 1;
                        insert(&mut r, *slot, n * 100_000 + names);
                    }
                }
                for every in [1, 5] {
                    let mut got: Vec<u32> = r.select(&[]).iter().filter(|s| s % every == k as u32 % every).collect();
                    let mut want = got.clone();
                    want.sort_by(|a, b| r.compare(*a, *b));
                    kept.sort(&r, &mut got);
                    prop_assert_eq!(got, want);
                }
                // Some are removed after they were selected.
                let mut got: Vec<u32> = r.select(&[]).iter().collect();
                let gone: Vec<u32> = got.iter().copied().filter(|s| s % 50 == k as u32).collect();
                gone.iter().for_each(|s| r.remove(*s));
                let mut want = got.clone();
                want.sort_by(|a, b| r.compare(*a, *b));
                kept.sort(&r, &mut got);
                prop_assert_eq!(got, want);
                r.free(&gone);
            }
        }
    }
}
