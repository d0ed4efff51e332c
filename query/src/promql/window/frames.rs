//! Where the windows of all steps lie in a series' samples.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

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

/// How a step's difference is stretched to its window.
#[derive(Clone, Copy, Default)]
pub(super) struct Stretch {
    /// What a difference is multiplied with unless zero holds it back.
    pub factor: f64,
    /// Zero holds back no counter whose first value is more than so many times the difference.
    pub near: f64,
}

/// What the times of a series alone tell of all steps.
#[derive(Default)]
pub(super) struct Frame {
    t: Vec<i64>,
    pub bounds: Vec<Bounds>,
    /// Filled by whoever needs it.
    pub stretches: Vec<Stretch>,
}

/// The frames met before: the series of a target share their times, but seldom follow one another.
#[derive(Default)]
pub(super) struct Frames {
    /// By the first and the last time.
    known: HashMap<(i64, i64), Frame, RandomState>,
    size_bytes: usize,
    /// For what comes once there is no room.
    spare: Frame,
}

/// What the frames of one thread may take: those of a thousand targets where steps and samples are a hundred each.
const MOST_BYTES: usize = 4 << 20;

impl Frames {
    /// The frame of `n` steps over the ascending times `t`.
    pub fn fit(&mut self, spec: &WindowSpec, t: &[i64], n: usize) -> &mut Frame {
        let frame = match (t, self.size_bytes < MOST_BYTES) {
            ([first, .., last], room) => match self.known.entry((*first, *last)) {
                Entry::Occupied(e) => e.into_mut(),
                Entry::Vacant(e) if room => {
                    self.size_bytes += size_of_val(t) + n * (size_of::<Bounds>() + size_of::<Stretch>());
                    e.insert(Frame::default())
                }
                Entry::Vacant(_) => &mut self.spare,
            },
            _ => &mut self.spare,
        };
        if frame.t != t || frame.bounds.len() != n {
            frame.lay(spec, t, n);
        }
        frame
    }
}

#[cfg(test)]
impl Frames {
    pub fn is_full(&self) -> bool {
        self.size_bytes >= MOST_BYTES
    }
}

impl Frame {
    fn lay(&mut self, spec: &WindowSpec, t: &[i64], n: usize) {
        self.t.clear();
        self.t.extend_from_slice(t);
        self.bounds.clear();
        self.stretches.clear();
        let mut c = Cursor::default();
        self.bounds.extend((0..n).map(|step| {
            let end = spec.refs.at(step);
            c.slide(t, end.saturating_sub(spec.range), end);
            Bounds { lo: c.lo as u32, hi: c.hi as u32 }
        }));
    }
}
