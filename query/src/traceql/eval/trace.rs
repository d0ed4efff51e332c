//! Traces as wholes: durations, roots, and who is whose child.

use std::sync::Arc;

use foldhash::HashMap;
use strandline_storage::read::SpanBatch;

use crate::traceql::ast::Relation;
use crate::traceql::error::Result;

/// What is known of the times of each trace of a batch.
pub struct TraceTimes {
    /// First start, Unix nanoseconds.
    pub start: Vec<u64>,
    /// From the first start to the last end.
    pub duration: Vec<u64>,
}

/// Nested-set numbers of each row: a span's interval holds those of its descendants. Spans that no root leads to have
/// 0 everywhere, and a root's parent is -1.
pub struct NestedSets {
    /// Where the span's interval begins.
    pub left: Arc<Vec<i64>>,
    /// Where it ends.
    pub right: Arc<Vec<i64>>,
    /// Where the parent's interval begins.
    pub parent: Arc<Vec<i64>>,
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

    /// The row of each span's parent, if it is there.
    pub fn parents(&self) -> impl Iterator<Item = Option<usize>> {
        self.parent.iter().map(|p| (*p != NONE).then_some(*p as usize))
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

    /// Nested-set numbers, appended: where each interval begins and ends, and where the parent's begins.
    fn number(&self, left: &mut Vec<i64>, right: &mut Vec<i64>, parent: &mut Vec<i64>) {
        let n = self.parent.len();
        let base = left.len();
        for v in [&mut *left, right, parent] {
            v.resize(base + n, 0);
        }
        let (first, mut next) = self.children();
        let mut cursor = first;
        let mut counter = 1;
        for root in (0..n).filter(|i| self.is_root[*i]) {
            parent[base + root] = -1;
            let mut stack = vec![root];
            left[base + root] = counter;
            counter += 1;
            while let Some(&top) = stack.last() {
                let child = cursor[top];
                if child == NONE {
                    right[base + top] = counter;
                    counter += 1;
                    stack.pop();
                    continue;
                }
                let child = child as usize;
                cursor[top] = std::mem::replace(&mut next[child], NONE);
                parent[base + child] = left[base + top];
                left[base + child] = counter;
                counter += 1;
                stack.push(child);
            }
        }
    }

    /// Numbers of children that a root leads to, appended.
    fn count_children(&self, out: &mut Vec<i64>) {
        let base = out.len();
        out.resize(base + self.parent.len(), 0);
        self.connected_children().for_each(|i| out[base + self.parent[i] as usize] += 1);
    }
}

impl TraceTimes {
    /// Of the traces of a batch.
    pub fn new(batch: &dyn SpanBatch) -> Result<Self> {
        let (starts, durations) = (batch.starts()?, batch.durations()?);
        let mut t = TraceTimes { start: Vec::new(), duration: Vec::new() };
        for w in batch.traces().windows(2) {
            let rows = w[0] as usize..w[1] as usize;
            let start = rows.clone().map(|r| starts[r]).min().unwrap_or(0);
            let end = rows.map(|r| starts[r].saturating_add(durations[r])).max().unwrap_or(0);
            t.start.push(start);
            t.duration.push(end - start);
        }
        Ok(t)
    }
}

impl NestedSets {
    /// Of all rows of a batch.
    pub fn new(batch: &dyn SpanBatch) -> Result<Self> {
        let (mut left, mut right, mut parent) = (Vec::new(), Vec::new(), Vec::new());
        each_tree(batch, |t| t.number(&mut left, &mut right, &mut parent))?;
        Ok(NestedSets { left: left.into(), right: right.into(), parent: parent.into() })
    }
}

/// For each trace the row of its first span without a parent.
pub fn roots(batch: &dyn SpanBatch) -> Result<Vec<Option<u32>>> {
    let ids = batch.ids()?;
    Ok(batch.traces().windows(2).map(|w| (w[0]..w[1]).find(|r| ids.parent[*r as usize] == 0)).collect())
}

/// Number of children of each row, those that a root leads to.
pub fn child_counts(batch: &dyn SpanBatch) -> Result<Vec<i64>> {
    let mut out = Vec::with_capacity(batch.len());
    each_tree(batch, |t| t.count_children(&mut out))?;
    Ok(out)
}

fn each_tree(batch: &dyn SpanBatch, mut f: impl FnMut(&Tree)) -> Result<()> {
    let ids = batch.ids()?;
    for w in batch.traces().windows(2) {
        let rows = w[0] as usize..w[1] as usize;
        f(&Tree::new(&ids.span[rows.clone()], &ids.parent[rows]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_nest_and_cycles_stay_out() {
        // 1 is the root of 2 and 3; 4 is below 3; 5 and 6 are each other's parents; 7's parent is missing.
        let t = Tree::new(&[1, 2, 3, 4, 5, 6, 7], &[0, 1, 1, 3, 6, 5, 99]);
        let (mut left, mut right, mut parent, mut children) = (vec![], vec![], vec![], vec![]);
        t.number(&mut left, &mut right, &mut parent);
        t.count_children(&mut children);
        assert_eq!(left, [1, 2, 4, 5, 0, 0, 0]);
        assert_eq!(right, [8, 3, 7, 6, 0, 0, 0]);
        assert_eq!(parent, [-1, 1, 1, 4, 0, 0, 0]);
        assert_eq!(children, [2, 0, 1, 0, 0, 0, 0]);
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
