//! Traces as wholes: durations, roots, and who is whose child.

use std::sync::{Arc, OnceLock};

use foldhash::HashMap;
use strandline_storage::read::SpanBatch;

use crate::traceql::ast::Relation;
use crate::traceql::error::Result;

/// What is known of each trace of a batch.
pub struct TraceFacts {
    /// First start, Unix nanoseconds.
    pub start: Vec<u64>,
    /// From the first start to the last end.
    pub duration: Vec<u64>,
    /// Row of the first span without a parent.
    pub root: Vec<Option<u32>>,
    nested: OnceLock<Arc<NestedSets>>,
}

/// Nested-set numbers of each row: a span's interval holds those of its descendants. Spans that no root leads to have
/// 0 everywhere, and a root's parent is -1.
pub struct NestedSets {
    /// Where the span's interval begins.
    pub left: Vec<i32>,
    /// Where it ends.
    pub right: Vec<i32>,
    /// Where the parent's interval begins.
    pub parent: Vec<i32>,
    /// Number of children.
    pub children: Vec<u32>,
}

/// Row of no span.
const NONE: u32 = u32::MAX;

/// The tree of one trace, rows counted from its first.
pub struct Tree {
    /// Row of each span's parent, `u32::MAX` if it is not there.
    parent: Vec<u32>,
    /// Rows that a root leads to, each after its parent.
    order: Vec<u32>,
    /// Whether a row has no parent by its own account.
    is_root: Vec<bool>,
}

impl Tree {
    /// Of rows' ids and their parents' (0: none). Cycles and missing parents leave spans unconnected.
    pub fn new(span: &[u64], parent: &[u64]) -> Tree {
        let n = span.len();
        let is_root: Vec<bool> = parent.iter().map(|p| *p == 0).collect();
        let mut rows = vec![NONE; n];
        if n <= 16 {
            for i in 0..n {
                if parent[i] != 0 {
                    rows[i] = span.iter().position(|s| *s == parent[i]).map_or(NONE, |p| p as u32);
                }
            }
        } else {
            let mut by_id: HashMap<u64, u32> = HashMap::with_capacity_and_hasher(n, Default::default());
            for (i, s) in span.iter().enumerate() {
                by_id.entry(*s).or_insert(i as u32);
            }
            for i in 0..n {
                if parent[i] != 0 {
                    rows[i] = by_id.get(&parent[i]).copied().unwrap_or(NONE);
                }
            }
        }
        let mut t = Tree { parent: rows, order: Vec::with_capacity(n), is_root };
        t.connect();
        t
    }

    /// Children as lists: the first of each row, and the next of each child.
    fn children(&self) -> (Vec<u32>, Vec<u32>) {
        let n = self.parent.len();
        let (mut first, mut next) = (vec![NONE; n], vec![NONE; n]);
        for i in (0..n).rev() {
            let p = self.parent[i];
            if p != NONE && !self.is_root[i] {
                next[i] = first[p as usize];
                first[p as usize] = i as u32;
            }
        }
        (first, next)
    }

    fn connect(&mut self) {
        let (first, next) = self.children();
        self.order.extend((0..self.parent.len() as u32).filter(|i| self.is_root[*i as usize]));
        let mut at = 0;
        while let Some(p) = self.order.get(at) {
            let mut c = first[*p as usize];
            while c != NONE {
                self.order.push(c);
                c = next[c as usize];
            }
            at += 1;
        }
    }

    /// Rows of the right side that have the relation to some row of the left; and, if `both`, those of the left that
    /// such a row has it to.
    pub fn related(&self, relation: Relation, left: &[bool], right: &[bool], both: bool, out: &mut [bool]) {
        let n = self.parent.len();
        let mut hit = vec![false; n];
        match relation {
            Relation::Child => {
                for i in self.connected_children() {
                    hit[i] = right[i] && left[self.parent[i] as usize];
                }
            }
            Relation::Parent => {
                for i in self.connected_children() {
                    let p = self.parent[i] as usize;
                    hit[p] |= right[p] && left[i];
                }
            }
            Relation::Descendant => {
                let below = self.below(left);
                (0..n).for_each(|i| hit[i] = right[i] && below[i]);
            }
            Relation::Ancestor => {
                let above = self.above(left);
                (0..n).for_each(|i| hit[i] = right[i] && above[i]);
            }
            Relation::Sibling => {
                let mut count = vec![0u32; n];
                for i in self.connected_children().filter(|i| left[*i]) {
                    count[self.parent[i] as usize] += 1;
                }
                for i in self.connected_children() {
                    hit[i] = right[i] && count[self.parent[i] as usize] > u32::from(left[i]);
                }
            }
        }
        out.iter_mut().zip(&hit).for_each(|(o, h)| *o |= *h);
        if both {
            // The left side's part is the inverse relation to what was found.
            let inverse = match relation {
                Relation::Child => Relation::Parent,
                Relation::Parent => Relation::Child,
                Relation::Descendant => Relation::Ancestor,
                Relation::Ancestor => Relation::Descendant,
                Relation::Sibling => Relation::Sibling,
            };
            self.related(inverse, &hit, left, false, out);
        }
    }

    /// Connected rows with a parent.
    fn connected_children(&self) -> impl Iterator<Item = usize> {
        self.order.iter().map(|i| *i as usize).filter(|i| !self.is_root[*i])
    }

    /// Rows with an ancestor among `of`.
    fn below(&self, of: &[bool]) -> Vec<bool> {
        let mut out = vec![false; of.len()];
        for i in self.connected_children() {
            let p = self.parent[i] as usize;
            out[i] = of[p] || out[p];
        }
        out
    }

    /// Rows with a descendant among `of`.
    fn above(&self, of: &[bool]) -> Vec<bool> {
        let mut out = vec![false; of.len()];
        for i in self.order.iter().rev().map(|i| *i as usize).filter(|i| !self.is_root[*i]) {
            let p = self.parent[i] as usize;
            out[p] |= of[i] || out[i];
        }
        out
    }

    /// Nested-set numbers, appended.
    fn number(&self, sets: &mut NestedSets) {
        let n = self.parent.len();
        let base = sets.left.len();
        for v in [&mut sets.left, &mut sets.right, &mut sets.parent] {
            v.resize(base + n, 0);
        }
        sets.children.resize(base + n, 0);
        let (first, mut next) = self.children();
        let mut cursor = first;
        let mut counter = 1;
        for root in (0..n).filter(|i| self.is_root[*i]) {
            sets.parent[base + root] = -1;
            let mut stack = vec![root];
            sets.left[base + root] = counter;
            counter += 1;
            while let Some(&top) = stack.last() {
                let child = cursor[top];
                if child == NONE {
                    sets.right[base + top] = counter;
                    counter += 1;
                    stack.pop();
                    continue;
                }
                let child = child as usize;
                cursor[top] = std::mem::replace(&mut next[child], NONE);
                sets.children[base + top] += 1;
                sets.parent[base + child] = sets.left[base + top];
                sets.left[base + child] = counter;
                counter += 1;
                stack.push(child);
            }
        }
    }
}

impl TraceFacts {
    /// Of the traces of a batch.
    pub fn new(batch: &dyn SpanBatch) -> Result<Self> {
        let (starts, durations, ids) = (batch.starts()?, batch.durations()?, batch.ids()?);
        let mut f = TraceFacts { start: Vec::new(), duration: Vec::new(), root: Vec::new(), nested: OnceLock::new() };
        for w in batch.traces().windows(2) {
            let rows = w[0] as usize..w[1] as usize;
            let start = rows.clone().map(|r| starts[r]).min().unwrap_or(0);
            let end = rows.clone().map(|r| starts[r].saturating_add(durations[r])).max().unwrap_or(0);
            f.start.push(start);
            f.duration.push(end - start);
            f.root.push(rows.clone().find(|r| ids.parent[*r] == 0).map(|r| r as u32));
        }
        Ok(f)
    }

    /// Nested-set numbers of all rows.
    pub fn nested(&self, batch: &dyn SpanBatch) -> Result<Arc<NestedSets>> {
        if let Some(n) = self.nested.get() {
            return Ok(n.clone());
        }
        let ids = batch.ids()?;
        let mut sets = NestedSets { left: Vec::new(), right: Vec::new(), parent: Vec::new(), children: Vec::new() };
        for w in batch.traces().windows(2) {
            let rows = w[0] as usize..w[1] as usize;
            Tree::new(&ids.span[rows.clone()], &ids.parent[rows]).number(&mut sets);
        }
        Ok(self.nested.get_or_init(|| Arc::new(sets)).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_nest_and_cycles_stay_out() {
        // 1 is the root of 2 and 3; 4 is below 3; 5 and 6 are each other's parents; 7's parent is missing.
        let t = Tree::new(&[1, 2, 3, 4, 5, 6, 7], &[0, 1, 1, 3, 6, 5, 99]);
        let mut s = NestedSets { left: vec![], right: vec![], parent: vec![], children: vec![] };
        t.number(&mut s);
        assert_eq!(s.left, [1, 2, 4, 5, 0, 0, 0]);
        assert_eq!(s.right, [8, 3, 7, 6, 0, 0, 0]);
        assert_eq!(s.parent, [-1, 1, 1, 4, 0, 0, 0]);
        assert_eq!(s.children, [2, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn deep_and_wide_traces_are_no_trouble() {
        let n = 200_000u64;
        let ids: Vec<u64> = (1..=n).collect();
        let chain: Vec<u64> = (0..n).collect();
        let t = Tree::new(&ids, &chain);
        let mut left = vec![false; n as usize];
        left[0] = true;
        let mut out = vec![false; n as usize];
        t.related(Relation::Descendant, &left, &vec![true; n as usize], false, &mut out);
        assert_eq!(out.iter().filter(|o| **o).count(), n as usize - 1);
        let star: Vec<u64> = (0..n).map(|i| u64::from(i > 0)).collect();
        let t = Tree::new(&ids, &star);
        let mut out = vec![false; n as usize];
        t.related(Relation::Sibling, &vec![true; n as usize], &vec![true; n as usize], false, &mut out);
        assert_eq!(out.iter().filter(|o| **o).count(), n as usize - 1);
    }
}
