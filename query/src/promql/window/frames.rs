//! Where the windows of all steps lie in a series' samples.

use super::WindowSpec;

/// A window's indices into ascending times; both ends only grow.
#[derive(Default, Clone, Copy)]
pub(crate) struct Cursor {
    pub lo: usize,
    pub hi: usize,
}

impl Cursor {
    /// Moves to the samples with `after < t <= upto`.
    #[inline(always)]
    pub fn slide(&mut self, t: &[i64], after: i64, upto: i64) {
        while self.hi < t.len() && t[self.hi] <= upto {
            self.hi += 1;
        }
        while self.lo < self.hi && t[self.lo] <= after {
            self.lo += 1;
        }
    }
    pub fn is_empty(&self) -> bool {
        self.lo == self.hi
    }
}

/// A window: samples `lo..hi`.
#[derive(Clone, Copy, Default)]
pub(super) struct Bounds {
    pub lo: u32,
    pub hi: u32,
}

impl Bounds {
    pub fn len(self) -> usize {
        (self.hi - self.lo) as usize
    }
    #[inline]
    pub fn of<T>(self, all: &[T]) -> &[T] {
        &all[self.lo as usize..self.hi as usize]
    }
}

/// The windows over the times met last: the series of a target share theirs.
#[derive(Default)]
pub(super) struct Frames {
    t: Vec<i64>,
    bounds: Vec<Bounds>,
}

impl Frames {
    /// The windows of `n` steps over `t`, and whether they are others than before.
    pub fn fit(&mut self, spec: &WindowSpec, t: &[i64], n: usize) -> (&[Bounds], bool) {
        if self.t == t && self.bounds.len() == n {
            return (&self.bounds, false);
        }
        self.t.clear();
        self.t.extend_from_slice(t);
        self.bounds.clear();
        let mut c = Cursor::default();
        self.bounds.extend((0..n).map(|step| {
            let end = spec.refs.at(step);
            c.slide(t, end.saturating_sub(spec.range), end);
            Bounds { lo: c.lo as u32, hi: c.hi as u32 }
        }));
        (&self.bounds, true)
    }
}
