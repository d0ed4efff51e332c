//! Label pairs, their postings, and the label sets of series.
//!
//! A series costs here four bytes a label, eight for where they lie, its hash, and its bits in the postings.
//! Nothing is allocated for it alone.

use std::collections::VecDeque;

use hashbrown::HashTable;
use hashbrown::hash_map::HashMap;
use roaring::RoaringBitmap;

use super::label_hash::{LabelHasher, put_canonical, widen};
use super::postings::Postings;
use super::slab::Slab;
use super::symbols::Symbols;
use crate::model::{Labels, MatchOp, Matcher};

#[derive(Debug, Default)]
struct Pair {
    name: u32,
    value: u32,
    /// The label as canonical bytes hold it: a series is compared with one call a label.
    canonical: Box<[u8]>,
    /// Series that hold it, those in limbo included.
    uses: u32,
    postings: Postings,
}

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

/// A label as bytes that were checked to be UTF-8.
pub type RawPair<'a> = (&'a [u8], &'a [u8]);

/// The index over all series of a head.
#[derive(Debug, Default)]
pub struct Registry {
    symbols: Symbols,
    pairs: Slab<Pair>,
    free_pairs: Vec<u32>,
    pair_table: HashTable<u32>,
    /// Pairs by name symbol, in no order.
    names: HashMap<u32, Vec<u32>, foldhash::fast::RandomState>,
    arena: Vec<Vec<u32>>,
    /// Freed stretches of the arena by length.
    free_stretches: HashMap<u16, Vec<u32>, foldhash::fast::RandomState>,
    series: Slab<LabelRef>,
    table: HashTable<u32>,
    all: RoaringBitmap,
    /// Pair ids of the series inserted last: the next one mostly shares all but one or two.
    last: Vec<u32>,
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

fn pair_hash(name: u32, value: u32) -> u64 {
    ((name as u64) << 32 | value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Registry {
    /// The hasher of canonical label bytes.
    pub fn hasher(&self) -> &LabelHasher {
        &self.hasher
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.all.len() as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
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

    fn pair(&self, id: u32) -> (&str, &str) {
        self.pairs.get(id as usize).map_or(("", ""), |p| (self.symbols.get(p.name), self.symbols.get(p.value)))
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

    fn equal(&self, r: LabelRef, canonical: &[u8]) -> bool {
        let mut rest = canonical;
        for id in self.pair_ids(r) {
            match self.pairs.get(*id as usize).and_then(|p| rest.strip_prefix(&*p.canonical)) {
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

    /// Adds a series under `slot` (a fresh one, or one that was removed and freed).
    ///
    /// `labels` are sorted by name and UTF-8.
    pub fn insert(&mut self, slot: u32, hash: u32, labels: &[RawPair<'_>]) {
        let last = std::mem::take(&mut self.last);
        let mut near = last.as_slice();
        let mut ids: Vec<u32> = Vec::with_capacity(labels.len());
        for (n, v) in labels {
            ids.push(self.take_near(&mut near, n, v).unwrap_or_else(|| self.intern_pair(n, v)));
        }
        for id in &ids {
            if let Some(p) = self.pairs.get_mut(*id as usize) {
                p.postings.insert(slot);
                p.uses += 1;
            }
        }
        let r = LabelRef { at: self.place(&ids), hash, len: ids.len() as u16, live: true };
        self.last = ids;
        while self.series.len() <= slot as usize {
            self.series.push(LabelRef::default());
        }
        if let Some(s) = self.series.get_mut(slot as usize) {
            *s = r;
        }
        self.all.insert(slot);
        self.changed(slot);
        let series = &self.series;
        self.table.insert_unique(widen(hash), slot, |s| widen(series.get(*s as usize).map_or(0, |r| r.hash)));
    }

    /// The pair at the front of `near` if it is this one; names before it are passed over.
    fn take_near(&self, near: &mut &[u32], name: &[u8], value: &[u8]) -> Option<u32> {
        while let Some((id, rest)) = near.split_first() {
            let (n, v) = self.pair(*id);
            match n.as_bytes().cmp(name) {
                std::cmp::Ordering::Greater => return None,
                order => {
                    *near = rest;
                    if order.is_eq() {
                        return (v.as_bytes() == value).then_some(*id);
                    }
                }
            }
        }
        None
    }

    fn intern_pair(&mut self, name: &[u8], value: &[u8]) -> u32 {
        if let (Some(n), Some(v)) = (self.symbols.find(name), self.symbols.find(value))
            && let Some(id) = self.find_pair(n, v)
        {
            return id;
        }
        let mut canonical = Vec::with_capacity(name.len() + value.len() + 6);
        put_canonical(name, value, &mut canonical);
        let canonical = canonical.into_boxed_slice();
        let (name, value) = (self.symbols.intern(name), self.symbols.intern(value));
        let new = Pair { name, value, canonical, uses: 0, postings: Postings::default() };
        let id = match self.free_pairs.pop() {
            Some(id) => {
                if let Some(p) = self.pairs.get_mut(id as usize) {
                    *p = new;
                }
                id
            }
            None => self.pairs.push(new) as u32,
        };
        let pairs = &self.pairs;
        self.pair_table.insert_unique(pair_hash(name, value), id, |id| pairs.get(*id as usize).map_or(0, |p| pair_hash(p.name, p.value)));
        self.names.entry(name).or_default().push(id);
        id
    }

    fn find_pair(&self, name: u32, value: u32) -> Option<u32> {
        let same = |id: &u32| self.pairs.get(*id as usize).is_some_and(|p| p.name == name && p.value == value);
        self.pair_table.find(pair_hash(name, value), same).copied()
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
        self.all.remove(slot);
        self.changed(slot);
        for id in self.pair_ids(r).to_vec() {
            if let Some(p) = self.pairs.get_mut(id as usize) {
                p.postings.remove(slot);
            }
        }
        if let Some(s) = self.series.get_mut(slot as usize) {
            s.live = false;
        }
    }

    /// Gives back the labels of removed series, once no reader can ask for them.
    pub fn free(&mut self, slots: &[u32]) {
        self.last.clear();
        let mut touched: Vec<u32> = Vec::new();
        for slot in slots {
            let Some(r) = self.series.get(*slot as usize).copied().filter(|r| !r.live) else { continue };
            let ids = self.pair_ids(r).to_vec();
            self.free_stretches.entry(r.len).or_default().push(r.at);
            if let Some(s) = self.series.get_mut(*slot as usize) {
                *s = LabelRef::default();
            }
            touched.extend(ids.into_iter().filter_map(|id| self.release_pair(id)));
        }
        // A name's symbol may be gone by now; its list then holds only released pairs and goes too.
        touched.sort_unstable();
        touched.dedup();
        for name in touched {
            let pairs = &self.pairs;
            if let Some(v) = self.names.get_mut(&name) {
                v.retain(|id| pairs.get(*id as usize).is_some_and(|p| p.uses > 0));
                if v.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
    }

    /// One use less; at the last the pair goes. Gives its name then, whose list of pairs must be mended.
    fn release_pair(&mut self, id: u32) -> Option<u32> {
        let p = self.pairs.get_mut(id as usize)?;
        p.uses = p.uses.saturating_sub(1);
        if p.uses > 0 {
            return None;
        }
        let (name, value) = (p.name, p.value);
        p.postings = Postings::default();
        p.canonical = Box::default();
        if let Ok(e) = self.pair_table.find_entry(pair_hash(name, value), |x| *x == id) {
            e.remove();
        }
        self.symbols.release(name);
        self.symbols.release(value);
        self.free_pairs.push(id);
        Some(name)
    }

    /// The labels of a series.
    pub fn labels(&self, slot: u32) -> Labels {
        let Some(r) = self.series.get(slot as usize) else { return Labels::empty() };
        Labels::from_sorted(self.pair_ids(*r).iter().map(|id| self.pair(*id)))
    }

    /// Appends the labels of a series as [`Labels::as_bytes`] packs them.
    pub fn pack(&self, slot: u32, out: &mut Vec<u8>) {
        self.visit(slot, &mut |n, v| Labels::pack_pair(n, v, out));
    }

    /// Calls `f` with each label of a series.
    pub fn visit(&self, slot: u32, f: &mut dyn FnMut(&str, &str)) {
        let Some(r) = self.series.get(slot as usize) else { return };
        for id in self.pair_ids(*r) {
            let (n, v) = self.pair(*id);
            f(n, v);
        }
    }

    /// Calls `f` with the symbol numbers of each label of a series.
    pub fn visit_symbols(&self, slot: u32, f: &mut dyn FnMut(u32, u32)) {
        let Some(r) = self.series.get(slot as usize) else { return };
        for p in self.pair_ids(*r).iter().filter_map(|id| self.pairs.get(*id as usize)) {
            f(p.name, p.value);
        }
    }

    /// Orders two series by their labels.
    pub fn compare(&self, a: u32, b: u32) -> std::cmp::Ordering {
        let ids = |s: u32| self.series.get(s as usize).map_or(&[][..], |r| self.pair_ids(*r));
        let (a, b) = (ids(a), ids(b));
        for (x, y) in a.iter().zip(b) {
            if x != y {
                return self.pair(*x).cmp(&self.pair(*y));
            }
        }
        a.len().cmp(&b.len())
    }

    /// A string by its symbol number.
    pub fn symbol(&self, id: u32) -> &str {
        self.symbols.get(id)
    }

    /// One beyond the highest symbol number.
    pub fn symbols_len(&self) -> usize {
        self.symbols.end()
    }

    fn name_pairs(&self, name: &str) -> &[u32] {
        self.symbols.find(name.as_bytes()).and_then(|n| self.names.get(&n)).map_or(&[], |v| v)
    }

    /// Slots of the series that pass all matchers. No matcher scans all series while another narrows.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        let mut found: Option<RoaringBitmap> = None;
        let mut rest: Vec<&Matcher> = Vec::new();
        for m in matchers {
            // Positive matchers that an absent label can't pass are plain lookups; cheapest first.
            if m.op == MatchOp::Equal && !m.value.is_empty() {
                let pair =
                    self.symbols.find(m.name.as_bytes()).zip(self.symbols.find(m.value.as_bytes())).and_then(|(n, v)| self.find_pair(n, v));
                let Some(p) = pair.and_then(|id| self.pairs.get(id as usize)) else { return RoaringBitmap::new() };
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
        let values = self.name_pairs(&m.name);
        // With few candidates and many values, look at the candidates' labels instead.
        if let Some(f) = &found
            && f.len() < 2 * values.len() as u64
            && m.alternatives().is_none()
        {
            return self.filter(f, m);
        }
        let mut hit = RoaringBitmap::new();
        let by_absence = m.matches_empty();
        let mut add = |id: u32| {
            if let Some(p) = self.pairs.get(id as usize) {
                p.postings.union_into(&mut hit);
            }
        };
        match (m.alternatives(), by_absence) {
            (Some(alts), false) if m.op == MatchOp::Regex => {
                let name = self.symbols.find(m.name.as_bytes());
                for a in alts {
                    if let Some(id) = name.zip(self.symbols.find(a.as_bytes())).and_then(|(n, v)| self.find_pair(n, v)) {
                        add(id);
                    }
                }
            }
            // An absent label passes: take away the series whose value does not.
            _ => values.iter().copied().filter(|id| m.matches(self.pair(*id).1) != by_absence).for_each(add),
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
        let name = self.symbols.find(m.name.as_bytes());
        let without = m.matches_empty();
        let mut known: HashMap<u32, bool, foldhash::fast::RandomState> = HashMap::default();
        let mut passes = |slot: &u32| {
            let ids = self.series.get(*slot as usize).map_or(&[][..], |r| self.pair_ids(*r));
            let named = |id: &&u32| self.pairs.get(**id as usize).is_some_and(|p| Some(p.name) == name);
            ids.iter().find(named).map_or(without, |id| *known.entry(*id).or_insert_with(|| m.matches(self.pair(*id).1)))
        };
        candidates.iter().filter(|slot| passes(slot)).collect()
    }

    /// All label names in use, in no order.
    pub fn label_names(&self) -> Vec<String> {
        let used = |ids: &[u32]| ids.iter().any(|id| self.pairs.get(*id as usize).is_some_and(|p| !p.postings.is_empty()));
        self.names.iter().filter(|(_, ids)| used(ids)).map(|(n, _)| self.symbols.get(*n).to_owned()).collect()
    }

    /// Values of a label among `among` (all series if `None`), in no order.
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>) -> Vec<String> {
        let values = self.name_pairs(name);
        // As in `narrow`: a few series are asked themselves.
        if let Some(few) = among.filter(|a| a.len() < 2 * values.len() as u64) {
            return self.values_of(name, few);
        }
        let hit = |p: &Pair| match (among, &p.postings) {
            (None, p) => !p.is_empty(),
            (Some(a), Postings::Few { len, ids }) => ids[..*len as usize].iter().any(|i| a.contains(*i)),
            (Some(a), Postings::Many(b)) => !b.is_disjoint(a),
        };
        let pairs = values.iter().filter_map(|id| self.pairs.get(*id as usize));
        pairs.filter(|p| hit(p)).map(|p| self.symbols.get(p.value).to_owned()).collect()
    }

    /// Values of a label that these series bear.
    fn values_of(&self, name: &str, series: &RoaringBitmap) -> Vec<String> {
        let name = self.symbols.find(name.as_bytes());
        let mut values: Vec<u32> = Vec::with_capacity(series.len() as usize);
        for r in series.iter().filter_map(|slot| self.series.get(slot as usize)) {
            let pairs = self.pair_ids(*r).iter().filter_map(|id| self.pairs.get(*id as usize));
            values.extend(pairs.filter(|p| Some(p.name) == name).map(|p| p.value).next());
        }
        values.sort_unstable();
        values.dedup();
        values.into_iter().map(|v| self.symbols.get(v).to_owned()).collect()
    }

    /// Calls `f` with every pair in use and its number of series.
    pub fn visit_pairs(&self, f: &mut dyn FnMut(&str, &str, u64)) {
        for p in self.pairs.iter().filter(|p| !p.postings.is_empty()) {
            f(self.symbols.get(p.name), self.symbols.get(p.value), p.postings.len());
        }
    }

    /// Heap bytes by part.
    pub fn memory(&self) -> IndexMemory {
        IndexMemory {
            symbols_bytes: self.symbols.size_bytes(),
            pairs_bytes: self.pairs.size_bytes()
                + self.pairs.iter().map(|p| p.canonical.len()).sum::<usize>()
                + self.pair_table.allocation_size()
                + self.names.values().map(|v| v.capacity() * 4).sum::<usize>(),
            postings_bytes: self.pairs.iter().map(|p| p.postings.size_bytes()).sum(),
            labels_bytes: self.arena.iter().map(|p| p.capacity() * 4).sum::<usize>() + self.series.size_bytes(),
            table_bytes: self.table.allocation_size(),
        }
    }
}

#[cfg(test)]
mod tests;
