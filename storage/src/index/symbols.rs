//! Interned strings, counted by use.

use hashbrown::HashTable;

use super::label_hash::widen;
use super::slab::Slab;

#[derive(Debug)]
struct Symbol {
    text: Box<str>,
    uses: u32,
    /// Kept so that a table that grows reads no text.
    hash: u32,
}

/// Strings by dense id. Ids of strings that nobody uses any more are given out again.
#[derive(Debug, Default)]
pub struct Symbols {
    symbols: Slab<Symbol>,
    table: HashTable<u32>,
    free: Vec<u32>,
    hasher: foldhash::fast::RandomState,
    text_bytes: usize,
}

fn hash(h: &foldhash::fast::RandomState, s: &[u8]) -> u32 {
    std::hash::BuildHasher::hash_one(h, s) as u32
}

impl Symbols {
    /// The string of an id.
    #[inline]
    pub fn get(&self, id: u32) -> &str {
        self.symbols.get(id as usize).map_or("", |s| &s.text)
    }

    /// The id of a string, if it is known.
    pub fn find(&self, s: &[u8]) -> Option<u32> {
        self.find_hashed(hash(&self.hasher, s), s)
    }

    fn find_hashed(&self, hash: u32, s: &[u8]) -> Option<u32> {
        let same = |id: &u32| self.symbols.get(*id as usize).is_some_and(|x| x.hash == hash && x.text.as_bytes() == s);
        self.table.find(widen(hash), same).copied()
    }

    /// The id of a string, counting one more use. The caller has checked that it is UTF-8.
    pub fn intern(&mut self, s: &[u8]) -> u32 {
        let hash = hash(&self.hasher, s);
        if let Some(id) = self.find_hashed(hash, s) {
            if let Some(sym) = self.symbols.get_mut(id as usize) {
                sym.uses += 1;
            }
            return id;
        }
        let new = Symbol { text: String::from_utf8_lossy(s).into(), uses: 1, hash };
        self.text_bytes += s.len();
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(slot) = self.symbols.get_mut(id as usize) {
                    *slot = new;
                }
                id
            }
            None => self.symbols.push(new) as u32,
        };
        let symbols = &self.symbols;
        self.table.insert_unique(widen(hash), id, |id| widen(symbols.get(*id as usize).map_or(0, |s| s.hash)));
        id
    }

    /// One use less; the last one frees the string.
    pub fn release(&mut self, id: u32) {
        let Some(sym) = self.symbols.get_mut(id as usize) else { return };
        sym.uses -= 1;
        if sym.uses > 0 {
            return;
        }
        let text = std::mem::take(&mut sym.text);
        self.text_bytes -= text.len();
        if let Ok(e) = self.table.find_entry(widen(sym.hash), |x| *x == id) {
            e.remove();
        }
        self.free.push(id);
    }

    /// One beyond the highest id ever given out.
    pub fn end(&self) -> usize {
        self.symbols.len()
    }

    /// Strings in use.
    pub fn len(&self) -> usize {
        self.symbols.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap bytes.
    pub fn size_bytes(&self) -> usize {
        self.symbols.size_bytes() + self.text_bytes + self.table.allocation_size() + self.free.capacity() * 4
    }
}
