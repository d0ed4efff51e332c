//! Label pairs, their postings, and the label sets of series.
//!
//! A series costs here four bytes a label, eight for where they lie, its hash, and its bits in the postings.
//! Nothing is allocated for it alone.

use std::cmp::Ordering;
use std::collections::VecDeque;

use hashbrown::HashTable;
use hashbrown::hash_map::HashMap;
use roaring::RoaringBitmap;

use super::label_hash::{LabelHasher, widen};
use super::pairs::{Pair, Pairs};
use super::postings::{Postings, add_runs};
use super::recent::{Recent, RecentLabel, first_label};
use super::slab::Slab;
use crate::model::{Labels, MatchOp, Matcher};

/// Where a series' pair ids lie in the arena, and its hash.
#[derive(Clone, Copy, Debug, Default)]
struct LabelRef {
    at: u32,
    hash: u32,
    len: u16,
    live: bool,
}

const ARENA_PAGE: usize = 1 << 14;

/// Not a series.
pub const NO_SLOT: u32 = u32::MAX;

/// So many of the last changes are known by slot.
const CHANGES: usize = 1 << 14;

/// Series that [`Registry::find_all`] looks up together.
const AT_ONCE: usize = 32;

/// So many runs of slots are put into postings together, at most.
const ENDED_AT_ONCE: usize = 1 << 13;

/// A label as bytes that were checked to be UTF-8.
pub type RawPair<'a> = (&'a [u8], &'a [u8]);

/// The index over all series of a head.
#[derive(Debug, Default)]
pub struct Registry {
    pairs: Pairs,
    arena: Vec<Vec<u32>>,
    /// Freed stretches of the arena by length.
    free_stretches: HashMap<u16, Vec<u32>, foldhash::fast::RandomState>,
    series: Slab<LabelRef>,
    table: HashTable<u32>,
    all: RoaringBitmap,
    live: usize,
    recent: Recent,
    /// Runs of slots that ended and that postings don't know yet: the pair and the first slot in one number, to be sorted by,
    /// and where the run ends.
    ended: Vec<(u64, u32)>,
    /// The buffers of the one before the recent, and of pair ids.
    spare: Recent,
    ids: Vec<u32>,
    hasher: LabelHasher,
    generation: u64,
    /// Slots of the last changes, one a generation.
    changes: VecDeque<u32>,
}

/// Heap bytes of the index by part.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct IndexMemory {
    pub symbols_bytes: usize,
    pub pairs_bytes: usize,
    pub postings_bytes: usize,
    pub labels_bytes: usize,
    pub table_bytes: usize,
}

impl Registry {
    /// The hasher of canonical label bytes.
    pub fn hasher(&self) -> &LabelHasher {
        &self.hasher
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Changes whenever a series comes or goes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Slots whose series came or went since a generation, a slot as often as it changed; `None` if it is too long ago.
    pub fn changes_since(&self, generation: u64) -> Option<impl ExactSizeIterator<Item = u32>> {
        let n = usize::try_from(self.generation.checked_sub(generation)?).ok()?;
        let from = self.changes.len().checked_sub(n)?;
        Some(self.changes.range(from..).copied())
    }

    fn changed(&mut self, slot: u32) {
        self.generation += 1;
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(slot);
    }

    /// Whether a series lies in the slot that was not removed.
    pub fn is_live(&self, slot: u32) -> bool {
        self.series.get(slot as usize).is_some_and(|r| r.live)
    }

    /// One beyond the highest slot ever used.
    pub fn slots(&self) -> usize {
        self.series.len()
    }

    fn pair_ids(&self, r: LabelRef) -> &[u32] {
        let at = r.at as usize;
        self.arena.get(at / ARENA_PAGE).and_then(|p| p.get(at % ARENA_PAGE..at % ARENA_PAGE + r.len as usize)).unwrap_or(&[])
    }

    /// Finds a series by its canonical bytes; `hash` is theirs. No string is built.
    #[inline]
    pub fn find(&self, hash: u32, canonical: &[u8]) -> Option<u32> {
        self.table
            .find(widen(hash), |slot| {
                let Some(r) = self.series.get(*slot as usize) else { return false };
                r.hash == hash && self.equal(*r, canonical)
            })
            .copied()
    }

    /// Reads what [`Registry::find`] will read first for series with these hashes, all together.
    pub fn warm(&self, hashes: impl Iterator<Item = u32>) {
        std::hint::black_box(hashes.filter(|h| self.table.find(widen(*h), |_| true).is_some()).count());
    }

    fn equal(&self, r: LabelRef, canonical: &[u8]) -> bool {
        let mut rest = canonical;
        for id in self.pair_ids(r) {
            match self.pairs.get(*id).and_then(|p| rest.strip_prefix(&*p.canonical)) {
                Some(r) => rest = r,
                None => return false,
            }
        }
        rest.is_empty()
    }

    /// Finds many series at once: `found` gets a slot or [`NO_SLOT`] for each. As [`Registry::find`], in steps over all
    /// of them, so that the reads of one don't wait for those of another.
    pub fn find_all(&self, keys: &[&[u8]], found: &mut Vec<u32>) {
        found.clear();
        let mut before = NO_SLOT;
        for some in keys.chunks(AT_ONCE) {
            let mut hashes = [0u32; AT_ONCE];
            for (h, raw) in hashes.iter_mut().zip(some) {
                *h = self.hasher.hash(raw);
            }
            let mut likely = [NO_SLOT; AT_ONCE];
            for (slot, hash) in likely.iter_mut().zip(hashes).take(some.len()) {
                // Senders send series in the order of the first time: mostly this one lies behind the one before it, and the
                // table is not asked.
                let next = before.wrapping_add(1);
                *slot = match self.series.get(next as usize) {
                    Some(r) if r.hash == hash && r.live => next,
                    _ => {
                        let same = |s: &u32| self.series.get(*s as usize).is_some_and(|r| r.hash == hash);
                        self.table.find(widen(hash), same).copied().unwrap_or(NO_SLOT)
                    }
                };
                before = *slot;
            }
            let label_ref = |slot: u32| self.series.get(slot as usize).copied().unwrap_or_default();
            let first_ids = likely.iter().map(|slot| self.pair_ids(label_ref(*slot)).first().unwrap_or(&0));
            std::hint::black_box(first_ids.fold(0, |x, id| x ^ id));
            for ((raw, hash), slot) in some.iter().zip(hashes).zip(likely) {
                found.push(match slot {
                    NO_SLOT => NO_SLOT,
                    slot if self.equal(label_ref(slot), raw) => slot,
                    // Another series with the same hash stood before it.
                    _ => self.find(hash, raw).unwrap_or(NO_SLOT),
                });
            }
        }
    }

    /// Adds a series under `slot` (a fresh one, or one that was removed and freed). Selections find it once
    /// [`Registry::settle`] was called; everything else knows it from here on.
    ///
    /// `canonical` holds the labels as [`super::canonical`] writes them, sorted by name and UTF-8; `hash` is theirs.
    pub fn insert(&mut self, slot: u32, hash: u32, canonical: &[u8]) {
        if slot != self.recent.end {
            self.settle();
            self.recent.move_to(slot);
        }
        self.follow(slot, canonical);
        self.make_room();
        let ids = std::mem::take(&mut self.ids);
        let r = LabelRef { at: self.place(&ids), hash, len: ids.len() as u16, live: true };
        self.ids = ids;
        while self.series.len() <= slot as usize {
            self.series.push(LabelRef::default());
        }
        if let Some(s) = self.series.get_mut(slot as usize) {
            *s = r;
        }
        self.live += 1;
        self.changed(slot);
        let series = &self.series;
        self.table.insert_unique(widen(hash), slot, |s| widen(series.get(*s as usize).map_or(0, |r| r.hash)));
    }

    /// A table that is full is built anew from the series in their order. If it grew by itself it would read them in its own
    /// order, with a cache miss each, and hold both tables meanwhile.
    fn make_room(&mut self) {
        let n = self.table.len();
        if n < self.table.capacity() || n < ARENA_PAGE {
            return;
        }
        self.table = HashTable::new();
        self.table = HashTable::with_capacity(2 * n);
        let hash = |slot: &u32| widen(self.series.get(*slot as usize).map_or(0, |r| r.hash));
        for (slot, r) in self.series.iter().enumerate().filter(|(_, r)| r.live) {
            self.table.insert_unique(widen(r.hash), slot as u32, hash);
        }
    }

    /// Makes the series at `slot`, behind the recent one, the recent one; its pairs go to `ids`. Runs of slots go on in the
    /// pairs that both have, and end in the others.
    fn follow(&mut self, slot: u32, canonical: &[u8]) {
        let before = std::mem::take(&mut self.recent);
        let mut recent = std::mem::take(&mut self.spare);
        recent.restart(canonical);
        self.ids.clear();
        let (mut at, mut rest) = (0, canonical);
        while !rest.is_empty() {
            let (pair, from, len) = match before.get(at) {
                // Lengths stand before texts, so no label begins with another.
                Some((l, label)) if rest.starts_with(label) => {
                    at += 1;
                    (l.pair, l.from, label.len())
                }
                other => {
                    let Some((name, value, len)) = first_label(rest) else { break };
                    let order = other.and_then(|(l, label)| Some((l, first_label(label)?.0.cmp(name))));
                    if let Some((l, Ordering::Less | Ordering::Equal)) = order {
                        self.end_run(l, before.end);
                        at += 1;
                    }
                    if let Some((_, Ordering::Less)) = order {
                        continue;
                    }
                    (self.pairs.intern(&rest[..len], name, value), slot, len)
                }
            };
            recent.push(pair, from, len);
            self.ids.push(pair);
            rest = &rest[len..];
        }
        before.labels[at..].iter().for_each(|l| self.end_run(*l, before.end));
        (recent.from, recent.end) = (before.from, slot + 1);
        self.recent = recent;
        self.spare = before;
    }

    fn end_run(&mut self, l: RecentLabel, end: u32) {
        if l.from < end {
            self.ended.push((u64::from(l.pair) << 32 | u64::from(l.from), end));
        }
        if self.ended.len() == ENDED_AT_ONCE {
            self.put_ended();
        }
    }

    /// Puts the runs that have ended into postings, pair by pair: those of a pair go to one place.
    fn put_ended(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        ended.sort_unstable_by_key(|r| r.0);
        for runs in ended.chunk_by(|a, b| a.0 >> 32 == b.0 >> 32) {
            let slots = runs.iter().map(|(start, end)| *start as u32..*end);
            if let Some(p) = self.pairs.get_mut((runs[0].0 >> 32) as u32) {
                p.uses += slots.clone().map(|s| s.end - s.start).sum::<u32>();
                p.postings.insert_runs(slots);
            }
        }
        ended.clear();
        self.ended = ended;
    }

    /// Tells the postings what they don't know yet of the series inserted.
    pub fn settle(&mut self) {
        if self.recent.is_settled() {
            return;
        }
        let mut recent = std::mem::take(&mut self.recent);
        recent.labels.iter().for_each(|l| self.end_run(*l, recent.end));
        self.put_ended();
        self.ended.shrink_to(ENDED_AT_ONCE / 16);
        add_runs(&mut self.all, std::iter::once(recent.from..recent.end));
        recent.move_to(recent.end);
        self.recent = recent;
    }

    fn place(&mut self, ids: &[u32]) -> u32 {
        if let Some(at) = self.free_stretches.get_mut(&(ids.len() as u16)).and_then(|f| f.pop()) {
            let at_page = at as usize % ARENA_PAGE;
            if let Some(p) = self.arena.get_mut(at as usize / ARENA_PAGE) {
                p[at_page..at_page + ids.len()].copy_from_slice(ids);
            }
            return at;
        }
        if self.arena.last().is_none_or(|p| p.len() + ids.len() > ARENA_PAGE) {
            self.arena.push(if self.arena.is_empty() { Vec::new() } else { Vec::with_capacity(ARENA_PAGE) });
        }
        let page = self.arena.len() - 1;
        let p = &mut self.arena[page];
        let at = page * ARENA_PAGE + p.len();
        p.extend_from_slice(ids);
        at as u32
    }

    /// Takes a series out of the index: nothing finds it any more. Its labels stay readable by slot until
    /// [`Registry::free`].
    pub fn remove(&mut self, slot: u32) {
        let Some(r) = self.series.get(slot as usize).copied().filter(|r| r.live) else { return };
        if let Ok(e) = self.table.find_entry(widen(r.hash), |s| *s == slot) {
            e.remove();
        }
        self.settle();
        self.all.remove(slot);
        self.live -= 1;
        self.changed(slot);
        for id in self.pair_ids(r).to_vec() {
            if let Some(p) = self.pairs.get_mut(id) {
                p.postings.remove(slot);
            }
        }
        if let Some(s) = self.series.get_mut(slot as usize) {
            s.live = false;
        }
    }

    /// Gives back the labels of removed series, once no reader can ask for them.
    pub fn free(&mut self, slots: &[u32]) {
        self.settle();
        self.recent.restart(&[]);
        let mut names: Vec<u32> = Vec::new();
        for slot in slots {
            let Some(r) = self.series.get(*slot as usize).copied().filter(|r| !r.live) else { continue };
            let ids = self.pair_ids(r).to_vec();
            self.free_stretches.entry(r.len).or_default().push(r.at);
            if let Some(s) = self.series.get_mut(*slot as usize) {
                *s = LabelRef::default();
            }
            names.extend(ids.into_iter().filter_map(|id| self.pairs.release(id)));
        }
        self.pairs.forget_released(names);
    }

    /// The labels of a series.
    pub fn labels(&self, slot: u32) -> Labels {
        let Some(r) = self.series.get(slot as usize) else { return Labels::empty() };
        Labels::from_sorted(self.pair_ids(*r).iter().map(|id| self.pairs.text(*id)))
    }

    /// Appends the labels of a series as [`Labels::as_bytes`] packs them.
    pub fn pack(&self, slot: u32, out: &mut Vec<u8>) {
        self.visit(slot, &mut |n, v| Labels::pack_pair(n, v, out));
    }

    /// Calls `f` with each label of a series.
    pub fn visit(&self, slot: u32, f: &mut dyn FnMut(&str, &str)) {
        let Some(r) = self.series.get(slot as usize) else { return };
        for id in self.pair_ids(*r) {
            let (n, v) = self.pairs.text(*id);
            f(n, v);
        }
    }

    /// Calls `f` with the symbol numbers of each label of a series.
    pub fn visit_symbols(&self, slot: u32, f: &mut dyn FnMut(u32, u32)) {
        let Some(r) = self.series.get(slot as usize) else { return };
        for p in self.pair_ids(*r).iter().filter_map(|id| self.pairs.get(*id)) {
            f(p.name, p.value);
        }
    }

    /// Orders two series by their labels.
    pub fn compare(&self, a: u32, b: u32) -> Ordering {
        let ids = |s: u32| self.series.get(s as usize).map_or(&[][..], |r| self.pair_ids(*r));
        let (a, b) = (ids(a), ids(b));
        for (x, y) in a.iter().zip(b) {
            if x != y {
                return self.pairs.text(*x).cmp(&self.pairs.text(*y));
            }
        }
        a.len().cmp(&b.len())
    }

    /// A string by its symbol number.
    pub fn symbol(&self, id: u32) -> &str {
        self.pairs.symbols.get(id)
    }

    /// One beyond the highest symbol number.
    pub fn symbols_len(&self) -> usize {
        self.pairs.symbols.end()
    }

    /// Slots of the series that pass all matchers. No matcher scans all series while another narrows.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        debug_assert!(self.recent.is_settled(), "series inserted before the last settle() would be missed");
        let mut found: Option<RoaringBitmap> = None;
        let mut rest: Vec<&Matcher> = Vec::new();
        for m in matchers {
            // Positive matchers that an absent label can't pass are plain lookups; cheapest first.
            if m.op == MatchOp::Equal && !m.value.is_empty() {
                let pair = self.pairs.find(m.name.as_bytes(), m.value.as_bytes());
                let Some(p) = pair.and_then(|id| self.pairs.get(id)) else { return RoaringBitmap::new() };
                match &mut found {
                    Some(f) => p.postings.intersect_into(f),
                    None => found = Some(p.postings.to_bitmap()),
                }
            } else {
                rest.push(m);
            }
        }
        rest.sort_by_key(|m| (m.matches_empty(), m.alternatives().is_none()));
        for m in rest {
            if found.as_ref().is_some_and(|f| f.is_empty()) {
                break;
            }
            found = Some(self.narrow(found, m));
        }
        found.unwrap_or_else(|| self.all.clone())
    }

    fn narrow(&self, found: Option<RoaringBitmap>, m: &Matcher) -> RoaringBitmap {
        let values = self.pairs.of_name(&m.name);
        // With few candidates and many values, look at the candidates' labels instead.
        if let Some(f) = &found
            && f.len() < 2 * values.len() as u64
            && m.alternatives().is_none()
        {
            return self.filter(f, m);
        }
        let mut hit = RoaringBitmap::new();
        let by_absence = m.matches_empty();
        let add = |id: u32| {
            if let Some(p) = self.pairs.get(id) {
                p.postings.union_into(&mut hit);
            }
        };
        match (m.alternatives(), by_absence) {
            (Some(alts), false) if m.op == MatchOp::Regex => {
                alts.iter().filter_map(|a| self.pairs.find(m.name.as_bytes(), a.as_bytes())).for_each(add);
            }
            // An absent label passes: take away the series whose value does not.
            _ => values.iter().copied().filter(|id| m.matches(self.pairs.text(*id).1) != by_absence).for_each(add),
        }
        match (found, by_absence) {
            (Some(f), false) => f & hit,
            (None, false) => hit,
            (Some(f), true) => f - hit,
            (None, true) => &self.all - hit,
        }
    }

    /// Those of the candidates that the matcher lets through. Each value is looked at once.
    fn filter(&self, candidates: &RoaringBitmap, m: &Matcher) -> RoaringBitmap {
        let name = self.pairs.symbols.find(m.name.as_bytes());
        let without = m.matches_empty();
        let mut known: HashMap<u32, bool, foldhash::fast::RandomState> = HashMap::default();
        let mut passes = |slot: &u32| {
            let ids = self.series.get(*slot as usize).map_or(&[][..], |r| self.pair_ids(*r));
            let named = |id: &&u32| self.pairs.get(**id).is_some_and(|p| Some(p.name) == name);
            ids.iter().find(named).map_or(without, |id| *known.entry(*id).or_insert_with(|| m.matches(self.pairs.text(*id).1)))
        };
        candidates.iter().filter(|slot| passes(slot)).collect()
    }

    /// All label names in use, in no order.
    pub fn label_names(&self) -> Vec<String> {
        let used = |ids: &[u32]| ids.iter().any(|id| self.pairs.get(*id).is_some_and(|p| !p.postings.is_empty()));
        self.pairs.by_names().filter(|(_, ids)| used(ids)).map(|(n, _)| self.pairs.symbols.get(n).to_owned()).collect()
    }

    /// Values of a label among `among` (all series if `None`), in no order.
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>) -> Vec<String> {
        let values = self.pairs.of_name(name);
        // As in `narrow`: a few series are asked themselves.
        if let Some(few) = among.filter(|a| a.len() < 2 * values.len() as u64) {
            return self.values_of(name, few);
        }
        let hit = |p: &Pair| match (among, &p.postings) {
            (None, p) => !p.is_empty(),
            (Some(a), Postings::Few { len, ids }) => ids[..*len as usize].iter().any(|i| a.contains(*i)),
            (Some(a), Postings::Many(b)) => !b.is_disjoint(a),
        };
        let pairs = values.iter().filter_map(|id| self.pairs.get(*id));
        pairs.filter(|p| hit(p)).map(|p| self.pairs.symbols.get(p.value).to_owned()).collect()
    }

    /// Values of a label that these series bear.
    fn values_of(&self, name: &str, series: &RoaringBitmap) -> Vec<String> {
        let name = self.pairs.symbols.find(name.as_bytes());
        let mut values: Vec<u32> = Vec::with_capacity(series.len() as usize);
        for r in series.iter().filter_map(|slot| self.series.get(slot as usize)) {
            let pairs = self.pair_ids(*r).iter().filter_map(|id| self.pairs.get(*id));
            values.extend(pairs.filter(|p| Some(p.name) == name).map(|p| p.value).next());
        }
        values.sort_unstable();
        values.dedup();
        values.into_iter().map(|v| self.pairs.symbols.get(v).to_owned()).collect()
    }

    /// Calls `f` with every pair in use and its number of series.
    pub fn visit_pairs(&self, f: &mut dyn FnMut(&str, &str, u64)) {
        for p in self.pairs.iter().filter(|p| !p.postings.is_empty()) {
            f(self.pairs.symbols.get(p.name), self.pairs.symbols.get(p.value), p.postings.len());
        }
    }

    /// Heap bytes by part.
    pub fn memory(&self) -> IndexMemory {
        IndexMemory {
            symbols_bytes: self.pairs.symbols.size_bytes(),
            pairs_bytes: self.pairs.size_bytes(),
            postings_bytes: self.pairs.iter().map(|p| p.postings.size_bytes()).sum(),
            labels_bytes: self.arena.iter().map(|p| p.capacity() * 4).sum::<usize>() + self.series.size_bytes(),
            table_bytes: self.table.allocation_size(),
        }
    }
}

#[cfg(test)]
mod tests;
