//! The series that carry a label pair: a few ids inline, many in a roaring bitmap.

use roaring::RoaringBitmap;

const INLINE: usize = 5;

/// A set of series slots.
#[derive(Debug, Clone)]
pub enum Postings {
    /// Up to five, rising.
    Few {
        /// How many count.
        len: u8,
        /// The slots.
        ids: [u32; INLINE],
    },
    /// More.
    Many(Box<RoaringBitmap>),
}

impl Default for Postings {
    fn default() -> Self {
        Postings::Few { len: 0, ids: [0; INLINE] }
    }
}

impl Postings {
    /// Adds a slot.
    pub fn insert(&mut self, slot: u32) {
        match self {
            Postings::Few { len, ids } => {
                let n = *len as usize;
                match ids[..n].binary_search(&slot) {
                    Ok(_) => {}
                    Err(at) if n < INLINE => {
                        ids.copy_within(at..n, at + 1);
                        ids[at] = slot;
                        *len += 1;
                    }
                    Err(_) => {
                        let mut many: RoaringBitmap = ids.iter().copied().collect();
                        many.insert(slot);
                        *self = Postings::Many(Box::new(many));
                    }
                }
            }
            Postings::Many(b) => {
                b.insert(slot);
            }
        }
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: u32) {
        match self {
            Postings::Few { len, ids } => {
                let n = *len as usize;
                if let Ok(at) = ids[..n].binary_search(&slot) {
                    ids.copy_within(at + 1..n, at);
                    *len -= 1;
                }
            }
            Postings::Many(b) => {
                b.remove(slot);
                if b.len() <= 2 {
                    let few: Vec<u32> = b.iter().collect();
                    *self = Postings::default();
                    few.into_iter().for_each(|s| self.insert(s));
                }
            }
        }
    }

    /// Number of slots.
    pub fn len(&self) -> u64 {
        match self {
            Postings::Few { len, .. } => *len as u64,
            Postings::Many(b) => b.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As a bitmap.
    pub fn to_bitmap(&self) -> RoaringBitmap {
        match self {
            Postings::Few { len, ids } => ids[..*len as usize].iter().copied().collect(),
            Postings::Many(b) => (**b).clone(),
        }
    }

    /// Adds all of it to `out`.
    pub fn union_into(&self, out: &mut RoaringBitmap) {
        match self {
            Postings::Few { len, ids } => out.extend(ids[..*len as usize].iter().copied()),
            Postings::Many(b) => *out |= &**b,
        }
    }

    /// Keeps in `out` only what is here.
    pub fn intersect_into(&self, out: &mut RoaringBitmap) {
        match self {
            Postings::Few { len, ids } => {
                let kept: Vec<u32> = ids[..*len as usize].iter().copied().filter(|i| out.contains(*i)).collect();
                *out = kept.into_iter().collect();
            }
            Postings::Many(b) => *out &= &**b,
        }
    }

    /// Heap bytes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Postings::Few { .. } => 0,
            Postings::Many(b) => {
                let s = b.statistics();
                (s.n_bytes_array_containers + s.n_bytes_run_containers + s.n_bytes_bitset_containers) as usize
                    + s.n_containers as usize * 32
                    + size_of::<RoaringBitmap>()
            }
        }
    }
}
