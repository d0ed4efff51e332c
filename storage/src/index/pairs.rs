//! Label pairs by dense id, and their strings.

use hashbrown::HashTable;
use hashbrown::hash_map::HashMap;

use super::label_hash::{put_canonical, widen};
use super::postings::Postings;
use super::slab::Slab;
use super::symbols::Symbols;

/// A name with a value.
#[derive(Debug, Default)]
pub struct Pair {
    pub name: u32,
    pub value: u32,
    /// The label as canonical bytes hold it: a series is compared with one call a label.
    pub canonical: Box<[u8]>,
    /// Series that hold it, those in limbo included.
    pub uses: u32,
    /// Of the canonical bytes.
    hash: u32,
    pub postings: Postings,
}

/// All pairs in use.
#[derive(Debug, Default)]
pub struct Pairs {
    pub symbols: Symbols,
    pairs: Slab<Pair>,
    free: Vec<u32>,
    /// By canonical bytes.
    table: HashTable<u32>,
    /// Pairs by name symbol, in no order.
    names: HashMap<u32, Vec<u32>, foldhash::fast::RandomState>,
    hasher: foldhash::fast::RandomState,
}

impl Pairs {
    #[inline]
    pub fn get(&self, id: u32) -> Option<&Pair> {
        self.pairs.get(id as usize)
    }

    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Pair> {
        self.pairs.get_mut(id as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter()
    }

    /// Name and value.
    pub fn text(&self, id: u32) -> (&str, &str) {
        self.get(id).map_or(("", ""), |p| (self.symbols.get(p.name), self.symbols.get(p.value)))
    }

    /// The pair of this name and value, if a series has it.
    pub fn find(&self, name: &[u8], value: &[u8]) -> Option<u32> {
        let mut canonical = Vec::new();
        put_canonical(name, value, &mut canonical);
        self.find_hashed(self.hash(&canonical), &canonical)
    }

    fn hash(&self, canonical: &[u8]) -> u32 {
        std::hash::BuildHasher::hash_one(&self.hasher, canonical) as u32
    }

    fn find_hashed(&self, hash: u32, canonical: &[u8]) -> Option<u32> {
        let same = |id: &u32| self.get(*id).is_some_and(|p| p.hash == hash && *p.canonical == *canonical);
        self.table.find(widen(hash), same).copied()
    }

    /// The pair of this name and value, made if need be; its uses are for the caller to count.
    pub fn intern(&mut self, canonical: &[u8], name: &[u8], value: &[u8]) -> u32 {
        let hash = self.hash(canonical);
        self.find_hashed(hash, canonical).unwrap_or_else(|| self.add(name, value, hash, canonical))
    }

    fn add(&mut self, name: &[u8], value: &[u8], hash: u32, canonical: &[u8]) -> u32 {
        let (name, value) = (self.symbols.intern(name), self.symbols.intern(value));
        let new = Pair { name, value, canonical: canonical.into(), uses: 0, hash, postings: Postings::default() };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(p) = self.get_mut(id) {
                    *p = new;
                }
                id
            }
            None => self.pairs.push(new) as u32,
        };
        let pairs = &self.pairs;
        self.table.insert_unique(widen(hash), id, |id| widen(pairs.get(*id as usize).map_or(0, |p| p.hash)));
        self.names.entry(name).or_default().push(id);
        id
    }

    /// One use less; at the last the pair goes. Gives its name then, for [`Pairs::forget_released`].
    pub fn release(&mut self, id: u32) -> Option<u32> {
        let p = self.pairs.get_mut(id as usize)?;
        p.uses = p.uses.saturating_sub(1);
        if p.uses > 0 {
            return None;
        }
        let gone = std::mem::take(p);
        if let Ok(e) = self.table.find_entry(widen(gone.hash), |x| *x == id) {
            e.remove();
        }
        self.symbols.release(gone.name);
        self.symbols.release(gone.value);
        self.free.push(id);
        Some(gone.name)
    }

    /// Takes released pairs out of the lists of their names. A name's symbol may be gone by now; its list then holds only
    /// released pairs and goes too.
    pub fn forget_released(&mut self, mut names: Vec<u32>) {
        names.sort_unstable();
        names.dedup();
        for name in names {
            let pairs = &self.pairs;
            if let Some(v) = self.names.get_mut(&name) {
                v.retain(|id| pairs.get(*id as usize).is_some_and(|p| p.uses > 0));
                if v.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
    }

    /// The pairs of each name, as its symbol.
    pub fn by_names(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.names.iter().map(|(n, ids)| (*n, ids.as_slice()))
    }

    /// The pairs of a name, in no order.
    pub fn of_name(&self, name: &str) -> &[u32] {
        self.symbols.find(name.as_bytes()).and_then(|n| self.names.get(&n)).map_or(&[], |v| v)
    }

    /// Heap bytes without those of symbols and postings.
    pub fn size_bytes(&self) -> usize {
        self.pairs.size_bytes()
            + self.pairs.iter().map(|p| p.canonical.len()).sum::<usize>()
            + self.table.allocation_size()
            + self.names.values().map(|v| v.capacity() * 4).sum::<usize>()
    }

    /// Whether no pair is in use.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty() && self.names.is_empty() && self.table.is_empty() && self.free.len() == self.pairs.len()
    }
}
