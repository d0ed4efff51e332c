//! Traces that lie in several places: which they are, and where.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use foldhash::HashMap;

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

    /// Each trace, by rising id, and its places.
    pub(super) fn each(&self) -> impl Iterator<Item = (u128, &[At])> {
        let mut from = 0;
        self.ids.iter().zip(&self.ends).map(move |(id, end)| {
            let places = &self.at[from..*end as usize];
            from = *end as usize;
            (*id, places)
        })
    }
}

/// A source's row groups, read as rising ids want them.
#[derive(Default)]
pub(super) struct Groups {
    /// By source: the row group read last, its traces and their rows.
    last: HashMap<u32, (u32, Arc<TracesOfGroup>)>,
}

/// Ids of a row group's traces, the first row of each, and the number of rows.
pub(super) type TracesOfGroup = (Vec<u128>, Vec<u32>);

impl Groups {
    /// The traces of a row group.
    pub(super) fn traces(&mut self, at: At, block: &OpenBlock) -> Result<Arc<TracesOfGroup>> {
        if let Some((_, t)) = self.last.get(&at.0).filter(|l| l.0 == at.1) {
            return Ok(t.clone());
        }
        let t = Arc::new(block.traces(at.1 as usize, None)?);
        self.last.insert(at.0, (at.1, t.clone()));
        Ok(t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_in_several_places_are_found_with_their_places() {
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
        let each: Vec<_> = s.each().map(|(id, at)| (id, at.to_vec())).collect();
        assert_eq!(each, [(2, vec![(0, 0), (1, 0)]), (7, vec![(0, 0), (1, 0), (2, 0)])]);
    }
}
