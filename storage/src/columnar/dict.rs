//! Distinct byte strings numbered in the order of their first appearance, in one arena.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

const HASHER: FixedState = FixedState::with_seed(0x5f1e_6a09_e667_f3bc);

/// An interner.
#[derive(Default)]
pub struct Dict {
    table: HashTable<u32>,
    ends: Vec<u32>,
    arena: Vec<u8>,
}

impl Dict {
    /// Number of distinct strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Bytes of all distinct strings.
    pub fn text_bytes(&self) -> usize {
        self.arena.len()
    }
    /// Bytes in use; as many again may be kept for later.
    pub fn size_bytes(&self) -> usize {
        self.arena.len() + self.ends.len() * 4 + self.table.len() * 5
    }
    /// Forgets the strings, keeps the memory.
    pub fn clear(&mut self) {
        self.table.clear();
        self.ends.clear();
        self.arena.clear();
    }
    fn range(ends: &[u32], id: u32) -> std::ops::Range<usize> {
        let i = id as usize;
        let start = if i == 0 { 0 } else { ends[i - 1] as usize };
        start..ends[i] as usize
    }
    /// The string `id` stands for.
    pub fn get(&self, id: u32) -> &[u8] {
        &self.arena[Self::range(&self.ends, id)]
    }
    /// The id of a string, new or known.
    #[inline]
    pub fn intern(&mut self, s: &[u8]) -> u32 {
        let hash = HASHER.hash_one(s);
        let Dict { table, ends, arena } = self;
        if let Some(id) = table.find(hash, |id| &arena[Self::range(ends, *id)] == s) {
            return *id;
        }
        let id = ends.len() as u32;
        arena.extend_from_slice(s);
        ends.push(arena.len() as u32);
        table.insert_unique(hash, id, |id| HASHER.hash_one(&arena[Self::range(ends, *id)]));
        id
    }
    /// All strings, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len() as u32).map(|id| self.get(id))
    }
    /// All strings, one after the other.
    pub fn into_text(self) -> Vec<u8> {
        self.arena
    }
}

/// Strings, of which many are alike.
#[derive(Default)]
pub struct Texts {
    /// The distinct ones.
    pub dict: Dict,
    /// Which each is.
    pub ids: Vec<u32>,
}

impl Texts {
    /// Adds one.
    #[inline]
    pub fn push(&mut self, s: &[u8]) {
        let id = self.dict.intern(s);
        self.ids.push(id);
    }
    /// Bytes in use.
    pub fn size_bytes(&self) -> usize {
        self.dict.size_bytes() + self.ids.len() * 4
    }
    /// Forgets them, keeps the memory.
    pub fn clear(&mut self) {
        self.dict.clear();
        self.ids.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_get_one_id_each() {
        let mut d = Dict::default();
        let ids: Vec<u32> = ["a", "", "b", "a", ""].iter().map(|s| d.intern(s.as_bytes())).collect();
        assert_eq!(ids, [0, 1, 2, 0, 1]);
        assert_eq!(d.get(2), b"b");
        assert_eq!(d.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"b"]);
        d.clear();
        assert_eq!((d.intern(b"b"), d.len(), d.size_bytes()), (0, 1, 1 + 4 + 5));
        assert_eq!(d.into_text(), b"b");
    }
}
