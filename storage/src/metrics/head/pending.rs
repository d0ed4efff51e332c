//! What was admitted and is not durable yet, and what a sample meets of it.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::series::Value;
use crate::metrics::record::AnyHistogram;

#[derive(Debug)]
pub struct PendingItem {
    pub index: u32,
    pub t: i64,
    pub st: i64,
    pub value: Value,
}

/// A float without a start timestamp: nearly all there is, so it is kept small.
#[derive(Clone, Copy, Debug)]
pub struct PendingFloat {
    pub t: i64,
    pub v: f64,
    pub index: u32,
}

/// What was admitted together and is not durable yet. Floats are applied before the rest, as a replay does.
#[derive(Debug, Default)]
pub struct PendingBatch {
    pub seq: u64,
    pub floats: Vec<PendingFloat>,
    pub rest: Vec<PendingItem>,
    last_floats: Run,
    last_rest: Run,
    /// Series whose labels this batch's record carries.
    pub logged: Vec<u32>,
}

/// The value of something pending.
#[derive(Clone, Copy)]
pub enum Known<'a> {
    Float(f64),
    Other(&'a Value),
}

impl Known<'_> {
    pub fn is(self, v: &Value) -> bool {
        match self {
            Known::Float(f) => same(&Value::Float(f), v),
            Known::Other(o) => same(o, v),
        }
    }
}

/// The last items of a batch, all of one series. However many they are and in whatever order, one is found in no time.
#[derive(Debug)]
struct Run {
    index: u32,
    start: usize,
    newest_t: i64,
    /// Places by time, once times have not risen.
    places: Option<Box<HashMap<i64, usize, foldhash::fast::RandomState>>>,
}

impl Default for Run {
    fn default() -> Self {
        Run { index: u32::MAX, start: 0, newest_t: i64::MIN, places: None }
    }
}

impl Run {
    #[inline]
    fn push(&mut self, index: u32, t: i64, at: usize, time_of: impl Fn(usize) -> i64) {
        if self.index != index {
            (self.index, self.start, self.newest_t) = (index, at, t);
            if self.places.is_some() {
                self.places = None;
            }
            return;
        }
        if self.places.is_none() && t <= self.newest_t {
            self.places = Some(Box::new((self.start..at).map(|i| (time_of(i), i)).collect()));
        }
        if let Some(places) = &mut self.places {
            places.insert(t, at);
        }
        self.newest_t = self.newest_t.max(t);
    }

    fn find<'a, T>(&self, index: u32, t: i64, all: &'a [T], time_of: impl Fn(&T) -> i64) -> Option<&'a T> {
        if self.index != index || t > self.newest_t {
            return None;
        }
        match &self.places {
            Some(places) => places.get(&t).and_then(|at| all.get(*at)),
            None => all.get(self.start..).and_then(|run| Some(&run[run.binary_search_by_key(&t, time_of).ok()?])),
        }
    }
}

impl PendingBatch {
    fn at(&self, place: usize) -> Option<Known<'_>> {
        match self.floats.get(place) {
            Some(f) => Some(Known::Float(f.v)),
            None => self.rest.get(place - self.floats.len()).map(|i| Known::Other(&i.value)),
        }
    }

    /// Index, time and place of all.
    fn places(&self) -> impl Iterator<Item = (u32, i64, usize)> {
        let all = self.floats.iter().map(|f| (f.index, f.t)).chain(self.rest.iter().map(|i| (i.index, i.t)));
        all.enumerate().map(|(place, (index, t))| (index, t, place))
    }

    /// Adds a float; room for `most` is made with the first.
    #[inline]
    pub fn push_float(&mut self, f: PendingFloat, most: usize) {
        if self.floats.capacity() == 0 {
            self.floats.reserve_exact(most);
        }
        self.last_floats.push(f.index, f.t, self.floats.len(), |i| self.floats[i].t);
        self.floats.push(f);
    }

    pub fn push(&mut self, item: PendingItem) {
        self.last_rest.push(item.index, item.t, self.rest.len(), |i| self.rest[i].t);
        self.rest.push(item);
    }

    /// How many there are of a series if they were the last to be put in (samples of a series lie together in a batch), and
    /// the newest time.
    #[inline]
    pub fn run_of(&self, index: u32) -> (usize, Option<i64>) {
        let (mut n, mut newest) = (0, None);
        if self.last_floats.index != index && self.last_rest.index != index {
            return (n, newest);
        }
        for (run, len) in [(&self.last_floats, self.floats.len()), (&self.last_rest, self.rest.len())] {
            if run.index == index && len > run.start {
                n += len - run.start;
                newest = newest.max(Some(run.newest_t));
            }
        }
        (n, newest)
    }

    /// Of those, the one at a time.
    pub fn of_run_at(&self, index: u32, t: i64) -> Option<Known<'_>> {
        let float = self.last_floats.find(index, t, &self.floats, |f| f.t).map(|f| Known::Float(f.v));
        float.or_else(|| self.last_rest.find(index, t, &self.rest, |i| i.t).map(|i| Known::Other(&i.value)))
    }

    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.floats.iter().map(|f| f.index).chain(self.rest.iter().map(|i| i.index))
    }

    pub fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.rest.is_empty()
    }
}

/// The items in flight of the series that was asked for last: all that come of it meet the same while the stripe is locked.
#[derive(Debug, Default)]
pub struct InFlight {
    index: Option<u32>,
    /// Time, batch, and place in it, by time; of one time the last one last.
    items: Vec<(i64, usize, usize)>,
}

impl InFlight {
    /// Those of a series in a queue.
    pub fn of<'a>(&'a mut self, queue: &'a VecDeque<PendingBatch>, index: u32) -> Queued<'a> {
        if self.index != Some(index) {
            self.index = Some(index);
            self.items.clear();
            for (k, b) in queue.iter().enumerate() {
                self.items.extend(b.places().filter(|(i, ..)| *i == index).map(|(_, t, place)| (t, k, place)));
            }
            self.items.sort_by_key(|i| i.0);
        }
        Queued { items: &self.items, queue: Some(queue) }
    }
}

/// What is queued of a series.
#[derive(Clone, Copy, Default)]
pub struct Queued<'a> {
    items: &'a [(i64, usize, usize)],
    queue: Option<&'a VecDeque<PendingBatch>>,
}

impl<'a> Queued<'a> {
    pub fn newest_t(self) -> Option<i64> {
        self.items.last().map(|i| i.0)
    }
    pub fn at(self, t: i64) -> Option<Known<'a>> {
        let behind = self.items.partition_point(|i| i.0 <= t);
        let (_, batch, place) = self.items.get(behind.checked_sub(1)?).filter(|i| i.0 == t)?;
        self.queue?.get(*batch)?.at(*place)
    }
}

/// Whether two samples of one time say the same. What a histogram knows of a reset changes on its way into a chunk.
pub fn same(a: &Value, b: &Value) -> bool {
    let float = |h: &AnyHistogram| match h {
        AnyHistogram::Int(h) => Arc::new(h.to_float()),
        AnyHistogram::Float(h) => h.clone(),
    };
    match (a, b) {
        (Value::Float(a) | Value::Delta(a), Value::Float(b) | Value::Delta(b)) => a.to_bits() == b.to_bits(),
        (Value::Histogram(a), Value::Histogram(b)) => float(a).content().eq(float(b).content()),
        (Value::DeltaHistogram(a), Value::DeltaHistogram(b)) => a == b,
        _ => false,
    }
}
