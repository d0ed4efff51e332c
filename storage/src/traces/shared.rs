//! Traces that lie in several places: which they are, and where.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use super::block::reader::OpenBlock;
use crate::error::Result;

/// A row group that holds spans of a trace: the number of its source, and its own there.
pub(super) type At = (u32, u32);

/// A source's trace ids in order, one row group at a time.
pub(super) struct Ids {
    number: u32,
    block: Option<Arc<OpenBlock>>,
    group: usize,
    ids: Vec<u128>,
    at: usize,
}

impl Ids {
    /// Of a block.
    pub(super) fn of_block(number: u32, block: Arc<OpenBlock>) -> Self {
        Ids { number, block: Some(block), group: 0, ids: Vec::new(), at: 0 }
    }

    /// Of rising ids.
    pub(super) fn rising(number: u32, ids: Vec<u128>) -> Self {
        Ids { number, block: None, group: 0, ids, at: 0 }
    }

    fn next(&mut self) -> Result<Option<u128>> {
        while self.at >= self.ids.len() {
            let Some(b) = self.block.as_ref().filter(|b| self.group < b.row_groups()) else { return Ok(None) };
            self.ids = b.traces(self.group, None)?.0;
            self.group += 1;
            self.at = 0;
        }
        self.at += 1;
        Ok(Some(self.ids[self.at - 1]))
    }

    /// Where the id given last lies.
    fn place(&self) -> At {
        (self.number, (self.group as u32).saturating_sub(1))
    }
}

/// Traces in several places, by rising id.
#[derive(Default)]
pub(super) struct Shared {
    ids: Vec<u128>,
    /// Where the places of each end.
    ends: Vec<u32>,
    at: Vec<At>,
}

impl Shared {
    /// Traces that lie in two places or more and for which `keep` says so.
    pub(super) fn find(mut sources: Vec<Ids>, mut keep: impl FnMut(u128, &[At]) -> bool) -> Result<Shared> {
        let mut heap = BinaryHeap::with_capacity(sources.len());
        for (i, s) in sources.iter_mut().enumerate() {
            if let Some(id) = s.next()? {
                heap.push(Reverse((id, i)));
            }
        }
        let (mut out, mut current, mut places) = (Shared::default(), 0, Vec::new());
        let mut take = |id: u128, places: &mut Vec<At>| {
            places.sort_unstable();
            if places.len() > 1 && keep(id, places) {
                out.ids.push(id);
                out.at.extend_from_slice(places);
                out.ends.push(out.at.len() as u32);
            }
            places.clear();
        };
        while let Some(mut top) = heap.peek_mut() {
            let Reverse((id, i)) = *top;
            if id != current {
                take(current, &mut places);
                current = id;
            }
            places.push(sources[i].place());
            match sources[i].next()? {
                Some(next) => top.0.0 = next,
                None => drop(PeekMut::pop(top)),
            }
        }
        take(current, &mut places);
        Ok(out)
    }

    /// Whether a trace is one of them.
    pub(super) fn contains(&self, id: u128) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn places(&self, i: u32) -> &[At] {
        let from = if i == 0 { 0 } else { self.ends[i as usize - 1] };
        &self.at[from as usize..self.ends[i as usize] as usize]
    }

    /// Some traces at a time, by rising id, with all places that hold them. Those of the same places come together, so
    /// that a place is not read again and again for a few traces each.
    pub(super) fn batches(&self, most: usize) -> impl Iterator<Item = (Vec<u128>, Vec<At>)> {
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(|i| self.places(*i));
        let mut from = 0;
        std::iter::from_fn(move || {
            let some = &order[from..(from + most).min(order.len())];
            from += some.len();
            let mut ids: Vec<u128> = some.iter().map(|i| self.ids[*i as usize]).collect();
            ids.sort_unstable();
            let mut at: Vec<At> = some.iter().flat_map(|i| self.places(*i)).copied().collect();
            at.sort_unstable();
            at.dedup();
            (!ids.is_empty()).then_some((ids, at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_the_same_places_come_together() {
        let sources =
            vec![Ids::rising(0, vec![1, 2, 5, 7, 9]), Ids::rising(1, vec![2, 3, 7]), Ids::rising(2, vec![5, 7, 8]), Ids::rising(3, vec![])];
        let mut asked = Vec::new();
        let s = Shared::find(sources, |id, at| {
            asked.push((id, at.to_vec()));
            id != 5
        });
        let s = s.unwrap();
        assert_eq!(asked, [(2, vec![(0, 0), (1, 0)]), (5, vec![(0, 0), (2, 0)]), (7, vec![(0, 0), (1, 0), (2, 0)])]);
        assert_eq!([1, 2, 5, 7].map(|id| s.contains(id)), [false, true, false, true]);
        let batches: Vec<_> = s.batches(1).collect();
        assert_eq!(batches, [(vec![2], vec![(0, 0), (1, 0)]), (vec![7], vec![(0, 0), (1, 0), (2, 0)])]);
        assert_eq!(s.batches(2).collect::<Vec<_>>(), [(vec![2, 7], vec![(0, 0), (1, 0), (2, 0)])]);
    }
}
