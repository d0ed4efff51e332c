//! The series that carry a label pair: a few ids inline, many in a roaring bitmap.

use std::ops::Range;

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

/// Shorter runs are added slot by slot.
const LONG_RUN: usize = 1024;

/// Adds runs of slots, rising.
pub fn add_runs(b: &mut RoaringBitmap, runs: impl Iterator<Item = Range<u32>> + Clone) {
    let short = runs.clone().filter(|r| r.len() < LONG_RUN).flatten();
    // Mostly they lie behind all that are there: then nothing is searched.
    if b.append(short.clone()).is_err() {
        b.extend(short);
    }
    runs.filter(|r| r.len() >= LONG_RUN).for_each(|r| add_long(b, r));
}

/// The first slot and the last go in alone: a range that begins or fills one of the bitmap's containers would make it a list
/// of runs, and it would stay one whatever holes come.
fn add_long(b: &mut RoaringBitmap, slots: Range<u32>) {
    let mut from = slots.start;
    while from < slots.end {
        let end = slots.end.min((from | 0xffff).saturating_add(1));
        b.insert(from);
        b.insert_range(from + 1..(end - 1).max(from + 1));
        b.insert(end - 1);
        from = end;
    }
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

    /// Adds runs of slots, rising.
    pub fn insert_runs(&mut self, mut runs: impl Iterator<Item = Range<u32>> + Clone) {
        loop {
            match self {
                Postings::Many(b) => return add_runs(b, runs),
                Postings::Few { .. } => match runs.next() {
                    Some(mut run) => self.insert_run(&mut run),
                    None => return,
                },
            }
        }
    }

    fn insert_run(&mut self, run: &mut Range<u32>) {
        for slot in run.by_ref() {
            match self {
                Postings::Many(b) => return add_runs(b, std::iter::once(slot..run.end)),
                Postings::Few { .. } => self.insert(slot),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_label_pair_has_one_so_it_is_small() {
        assert_eq!(size_of::<Postings>(), 24);
    }

    proptest! {
        #[test]
        fn runs_are_what_slots_one_by_one_are(
            gaps_and_runs in prop::collection::vec((0u32..40_000, prop::sample::select(vec![0, 1, 2, 3, 4, 5, 30, 1_100, 5_000, 65_535, 65_536, 140_000])), 1..8),
            backwards in any::<bool>(),
        ) {
            let (mut by_runs, mut one_by_one) = (Postings::default(), Postings::default());
            let mut end = 0u32;
            let mut runs: Vec<Range<u32>> = Vec::new();
            for (gap, n) in gaps_and_runs {
                runs.push(end + gap..end + gap + n);
                end += gap + n;
            }
            if backwards {
                runs.reverse();
            }
            runs.iter().flat_map(|r| r.clone()).for_each(|s| one_by_one.insert(s));
            runs.chunks(3).for_each(|some| by_runs.insert_runs(some.iter().cloned()));
            prop_assert_eq!(by_runs.to_bitmap(), one_by_one.to_bitmap());
            if let Postings::Many(b) = &by_runs {
                prop_assert_eq!(b.statistics().n_run_containers, 0);
            }
        }
    }
}
