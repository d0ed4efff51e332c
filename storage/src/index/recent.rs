//! The series inserted last. The next one mostly lies in the slot behind it and has all but one or two of its labels: those
//! are not looked up, and a pair's postings hear of such a run of slots once, when it ends.

use super::label_hash::RawLabels;

/// A label of it.
#[derive(Clone, Copy, Debug)]
pub struct RecentLabel {
    pub pair: u32,
    /// The pair's postings don't know the slots from here to [`Recent::end`] yet.
    pub from: u32,
    /// Where it ends in the canonical bytes.
    end: u32,
}

/// Labels of the series inserted last, and the slots that postings don't know yet.
#[derive(Debug, Default)]
pub struct Recent {
    /// One beyond its slot.
    pub end: u32,
    /// Slots from here to `end` are not in the set of all series yet.
    pub from: u32,
    pub labels: Vec<RecentLabel>,
    canonical: Vec<u8>,
}

impl Recent {
    /// Becomes the series with these canonical bytes, whose labels are yet to be pushed.
    pub fn restart(&mut self, canonical: &[u8]) {
        self.labels.clear();
        self.canonical.clear();
        self.canonical.extend_from_slice(canonical);
    }

    /// The pair of the next label, which takes `len` canonical bytes.
    #[inline]
    pub fn push(&mut self, pair: u32, from: u32, len: usize) {
        let end = self.labels.last().map_or(0, |l| l.end) + len as u32;
        self.labels.push(RecentLabel { pair, from, end });
    }

    /// The label at `at` and its canonical bytes.
    #[inline]
    pub fn get(&self, at: usize) -> Option<(RecentLabel, &[u8])> {
        let l = *self.labels.get(at)?;
        let start = at.checked_sub(1).and_then(|p| self.labels.get(p)).map_or(0, |p| p.end);
        Some((l, self.canonical.get(start as usize..l.end as usize)?))
    }

    /// Whether postings know every slot.
    pub fn is_settled(&self) -> bool {
        self.from == self.end
    }

    /// Starts anew at `slot`; postings know all before.
    pub fn move_to(&mut self, slot: u32) {
        self.from = slot;
        self.end = slot;
        self.labels.iter_mut().for_each(|l| l.from = slot);
    }
}

/// Name and value of the first label of canonical bytes, and how many bytes it takes.
pub fn first_label(canonical: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut labels = RawLabels(canonical);
    let (name, value) = labels.next()??;
    Some((name, value, canonical.len() - labels.0.len()))
}
