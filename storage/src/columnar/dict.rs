//! Distinct byte strings numbered in the order of their first appearance, in one arena.

use std::hash::BuildHasher;

use bytes::Bytes;
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
    /// Bytes held.
    pub fn size_bytes(&self) -> usize {
        self.arena.capacity() + self.ends.capacity() * 4 + self.table.capacity() * 5
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
    /// All strings, sharing one allocation.
    pub fn into_values(self) -> Vec<Bytes> {
        let arena = Bytes::from(self.arena);
        (0..self.ends.len() as u32).map(|id| arena.slice(Self::range(&self.ends, id))).collect()
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
        assert_eq!(d.into_values(), ["a", "", "b"]);
    }
}
