//! Adding, subtracting and scaling, with and without Kahan's compensation.

use strandline_storage::model::{CounterReset, FloatHistogram};

use super::{Sparse, bound, from_sparse, intersect, map_custom, reduce, same_bounds, to_sparse};

/// Exponential and custom buckets can't be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incompatible;

/// What combining met on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Combined {
    /// One side said reset, the other no reset.
    pub collision: bool,
    /// Custom bounds differed and were cut to the common ones.
    pub reconciled: bool,
}

/// One step of Kahan summation in Neumaier's form: (sum, compensation).
#[inline]
pub(crate) fn kahan(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    let c = if t.is_infinite() {
        // The compensation of an infinity would be NaN.
        0.0
    } else if sum.abs() >= inc.abs() {
        c + ((sum - t) + inc)
    } else {
        c + ((inc - t) + sum)
    };
    (t, c)
}

/// `a += b`.
pub(crate) fn add(a: &mut FloatHistogram, b: &FloatHistogram) -> Result<Combined, Incompatible> {
    combine(a, b, 1.0)
}

/// `a -= b`. The hint follows the rules of addition; callers that subtract for good mark a gauge.
pub(crate) fn sub(a: &mut FloatHistogram, b: &FloatHistogram) -> Result<Combined, Incompatible> {
    combine(a, b, -1.0)
}

fn combine(a: &mut FloatHistogram, b: &FloatHistogram, sign: f64) -> Result<Combined, Incompatible> {
    let mut acc = Accumulator::new(a);
    let done = acc.combine(b, sign, false)?;
    *a = acc.finish();
    Ok(done)
}

/// Multiplies everything; a negative factor makes a gauge.
pub(crate) fn mul(h: &mut FloatHistogram, f: f64) {
    each(h, |v| v * f);
    if f < 0.0 {
        h.counter_reset = CounterReset::Gauge;
    }
}

/// Divides everything; dividing by zero leaves no buckets.
pub(crate) fn div(h: &mut FloatHistogram, f: f64) {
    each(h, |v| v / f);
    if f == 0.0 {
        h.positive_spans.clear();
        h.negative_spans.clear();
        h.positive_buckets.clear();
        h.negative_buckets.clear();
    } else if f < 0.0 {
        h.counter_reset = CounterReset::Gauge;
    }
}

fn each(h: &mut FloatHistogram, f: impl Fn(f64) -> f64) {
    h.zero_count = f(h.zero_count);
    h.count = f(h.count);
    h.sum = f(h.sum);
    for v in h.positive_buckets.iter_mut().chain(h.negative_buckets.iter_mut()) {
        *v = f(*v);
    }
}

/// A copy at a coarser (or the same) schema.
pub(crate) fn at_schema(h: &FloatHistogram, schema: i32) -> FloatHistogram {
    let mut out = h.clone();
    if schema >= h.schema || h.uses_custom_buckets() {
        return out;
    }
    (out.positive_spans, out.positive_buckets) = from_sparse(&reduce(&to_sparse(&h.positive_spans, &h.positive_buckets), h.schema, schema));
    (out.negative_spans, out.negative_buckets) = from_sparse(&reduce(&to_sparse(&h.negative_spans, &h.negative_buckets), h.schema, schema));
    out.schema = schema;
    out
}

/// The zero count `h` would have with a zero bucket up to `threshold` at least, and the threshold that takes:
/// it never cuts a populated bucket.
pub(crate) fn zero_count_at(h: &FloatHistogram, threshold: f64) -> (f64, f64) {
    let pos = to_sparse(&h.positive_spans, &h.positive_buckets);
    let neg = to_sparse(&h.negative_spans, &h.negative_buckets);
    widen(h.zero_count, h.zero_threshold, h.schema, &pos, &neg, threshold)
}

fn widen(zero_count: f64, own: f64, schema: i32, pos: &[(i32, f64)], neg: &[(i32, f64)], threshold: f64) -> (f64, f64) {
    let mut threshold = threshold;
    if threshold <= own || threshold.is_nan() {
        return (zero_count, own);
    }
    'again: loop {
        let (mut n, mut c) = (zero_count, 0.0);
        for (first, side) in [(true, pos), (false, neg)] {
            for &(i, count) in side {
                if bound(i - 1, schema) >= threshold {
                    break;
                }
                (n, c) = kahan(count, n, c);
                let upper = bound(i, schema);
                if upper > threshold {
                    // The threshold lies inside this bucket; if it holds anything, the zero bucket takes all of it.
                    if count != 0.0 {
                        threshold = upper;
                        if !first {
                            continue 'again;
                        }
                    }
                    break;
                }
            }
        }
        return (n + c, threshold);
    }
}

/// What the sum of two hints says, and whether they contradict each other.
pub(crate) fn combine_hints(a: CounterReset, b: CounterReset) -> (CounterReset, bool) {
    use CounterReset::*;
    match (a, b) {
        (a, b) if a == b => (a, false),
        (Gauge, _) | (_, Gauge) => (Gauge, false),
        (Unknown, _) | (_, Unknown) => (Unknown, false),
        _ => (Unknown, true),
    }
}

/// A histogram being summed up, each number with its compensation.
#[derive(Clone, Debug)]
pub(crate) struct Accumulator {
    h: FloatHistogram,
    /// (index, count, compensation)
    pos: Vec<(i32, f64, f64)>,
    neg: Vec<(i32, f64, f64)>,
    zero_c: f64,
    count_c: f64,
    sum_c: f64,
}

fn with_c(s: Sparse) -> Vec<(i32, f64, f64)> {
    s.into_iter().map(|(i, v)| (i, v, 0.0)).collect()
}

impl Accumulator {
    /// Starts with `h`.
    pub fn new(h: &FloatHistogram) -> Self {
        let pos = with_c(to_sparse(&h.positive_spans, &h.positive_buckets));
        let neg = with_c(to_sparse(&h.negative_spans, &h.negative_buckets));
        let h = FloatHistogram {
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            positive_buckets: Vec::new(),
            negative_buckets: Vec::new(),
            custom_values: h.custom_values.clone(),
            ..*h
        };
        Accumulator { h, pos, neg, zero_c: 0.0, count_c: 0.0, sum_c: 0.0 }
    }

    /// Adds with compensation.
    pub fn add(&mut self, b: &FloatHistogram) -> Result<Combined, Incompatible> {
        self.combine(b, 1.0, true)
    }

    fn combine(&mut self, b: &FloatHistogram, sign: f64, comp: bool) -> Result<Combined, Incompatible> {
        if self.h.uses_custom_buckets() != b.uses_custom_buckets() {
            return Err(Incompatible);
        }
        let mut done = Combined::default();
        (self.h.counter_reset, done.collision) = combine_hints(self.h.counter_reset, b.counter_reset);
        let inc = |v: f64, (s, c): (f64, f64)| if comp { kahan(v * sign, s, c) } else { (s + v * sign, c) };
        (self.h.count, self.count_c) = inc(b.count, (self.h.count, self.count_c));
        (self.h.sum, self.sum_c) = inc(b.sum, (self.h.sum, self.sum_c));
        if self.h.uses_custom_buckets() {
            if same_bounds(&self.h.custom_values, &b.custom_values) {
                merge(&mut self.pos, &to_sparse(&b.positive_spans, &b.positive_buckets), sign, comp);
            } else {
                done.reconciled = true;
                self.reconcile_bounds(b, sign);
            }
            return Ok(done);
        }
        let (zero, other_pos, other_neg) = self.reconcile_zero(b);
        (self.h.zero_count, self.zero_c) = inc(zero, (self.h.zero_count, self.zero_c));
        if b.schema < self.h.schema {
            self.pos = coarsen(&self.pos, self.h.schema, b.schema);
            self.neg = coarsen(&self.neg, self.h.schema, b.schema);
            self.h.schema = b.schema;
        }
        let schema = self.h.schema;
        let fit = |s: Sparse| {
            let mut s = if b.schema > schema { reduce(&s, b.schema, schema) } else { s };
            // What lies in the zero bucket has been counted there.
            let skip = s.iter().take_while(|(i, _)| bound(*i, schema) <= self.h.zero_threshold).count();
            s.drain(..skip);
            s
        };
        let (p, n) = (fit(other_pos), fit(other_neg));
        merge(&mut self.pos, &p, sign, comp);
        merge(&mut self.neg, &n, sign, comp);
        Ok(done)
    }

    fn reconcile_bounds(&mut self, b: &FloatHistogram, sign: f64) {
        let common = intersect(&self.h.custom_values, &b.custom_values);
        let mut mine = FloatHistogram { custom_values: self.h.custom_values.clone(), schema: self.h.schema, ..Default::default() };
        let flat: Sparse = self.pos.iter().map(|(i, v, c)| (*i, v + c)).collect();
        (mine.positive_spans, mine.positive_buckets) = from_sparse(&flat);
        let a = map_custom(&mine, &common);
        let o = map_custom(b, &common);
        self.pos = a
            .iter()
            .zip(&o)
            .enumerate()
            .map(|(i, (x, y))| {
                let (s, c) = kahan(y * sign, *x, 0.0);
                (i as i32, s, c)
            })
            .filter(|(_, s, c)| *s != 0.0 || *c != 0.0)
            .collect();
        self.h.custom_values = common;
    }

    /// Brings both to one zero threshold; gives the other's zero count and buckets.
    fn reconcile_zero(&mut self, b: &FloatHistogram) -> (f64, Sparse, Sparse) {
        let pos = to_sparse(&b.positive_spans, &b.positive_buckets);
        let neg = to_sparse(&b.negative_spans, &b.negative_buckets);
        let (mut zero, mut threshold) = (b.zero_count, b.zero_threshold);
        while threshold != self.h.zero_threshold && !threshold.is_nan() && !self.h.zero_threshold.is_nan() {
            if self.h.zero_threshold > threshold {
                (zero, threshold) = widen(b.zero_count, b.zero_threshold, b.schema, &pos, &neg, self.h.zero_threshold);
            }
            if threshold > self.h.zero_threshold {
                let flat = |s: &[(i32, f64, f64)]| s.iter().map(|(i, v, c)| (*i, v + c)).collect::<Sparse>();
                let (n, t) = widen(self.h.zero_count, self.h.zero_threshold, self.h.schema, &flat(&self.pos), &flat(&self.neg), threshold);
                self.h.zero_count = n;
                self.h.zero_threshold = t;
                let schema = self.h.schema;
                self.pos.retain(|(i, ..)| bound(i - 1, schema) >= t);
                self.neg.retain(|(i, ..)| bound(i - 1, schema) >= t);
            }
        }
        (zero, pos, neg)
    }

    /// Multiplies everything.
    pub fn scale(&mut self, f: f64) {
        self.map(|v| v * f);
    }

    /// Divides everything.
    pub fn divide(&mut self, f: f64) {
        self.map(|v| v / f);
    }

    fn map(&mut self, f: impl Fn(f64) -> f64) {
        let h = &mut self.h;
        for v in [&mut h.zero_count, &mut h.count, &mut h.sum, &mut self.zero_c, &mut self.count_c, &mut self.sum_c] {
            *v = f(*v);
        }
        for (_, v, c) in self.pos.iter_mut().chain(self.neg.iter_mut()) {
            *v = f(*v);
            *c = f(*c);
        }
    }

    /// Whether any number is infinite.
    pub fn overflowed(&self) -> bool {
        self.h.zero_count.is_infinite()
            || self.h.count.is_infinite()
            || self.h.sum.is_infinite()
            || self.pos.iter().chain(&self.neg).any(|(_, v, _)| v.is_infinite())
    }

    /// The sum.
    pub fn finish(self) -> FloatHistogram {
        let mut h = self.h;
        // An infinite sum has no compensation worth adding, and NaN would come of some.
        let plus = |v: f64, c: f64| if v.is_infinite() { v } else { v + c };
        h.zero_count = plus(h.zero_count, self.zero_c);
        h.count = plus(h.count, self.count_c);
        h.sum = plus(h.sum, self.sum_c);
        let flat = |s: Vec<(i32, f64, f64)>| s.into_iter().map(|(i, v, c)| (i, plus(v, c))).collect::<Sparse>();
        (h.positive_spans, h.positive_buckets) = from_sparse(&flat(self.pos));
        (h.negative_spans, h.negative_buckets) = from_sparse(&flat(self.neg));
        h
    }
}

fn coarsen(s: &[(i32, f64, f64)], from: i32, to: i32) -> Vec<(i32, f64, f64)> {
    let mut out: Vec<(i32, f64, f64)> = Vec::with_capacity(s.len());
    for &(i, v, c) in s {
        let i = super::coarser(i, from, to);
        match out.last_mut() {
            Some(l) if l.0 == i => {
                (l.1, l.2) = kahan(v, l.1, l.2);
                (l.1, l.2) = kahan(c, l.1, l.2);
            }
            _ => out.push((i, v, c)),
        }
    }
    out
}

fn merge(a: &mut Vec<(i32, f64, f64)>, b: &[(i32, f64)], sign: f64, comp: bool) {
    if b.is_empty() {
        return;
    }
    let same = a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.0 == y.0);
    let apply = |x: &mut (i32, f64, f64), v: f64| {
        if comp {
            (x.1, x.2) = kahan(v * sign, x.1, x.2);
        } else {
            x.1 += v * sign;
        }
    };
    if same {
        for (x, y) in a.iter_mut().zip(b) {
            apply(x, y.1);
        }
        return;
    }
    let old = std::mem::take(a);
    a.reserve(old.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < b.len() {
        match (old.get(i), b.get(j)) {
            (Some(x), Some(y)) if x.0 == y.0 => {
                let mut x = *x;
                apply(&mut x, y.1);
                a.push(x);
                i += 1;
                j += 1;
            }
            (Some(x), Some(y)) if x.0 < y.0 => {
                a.push(*x);
                i += 1;
            }
            (_, Some(y)) => {
                a.push((y.0, y.1 * sign, 0.0));
                j += 1;
            }
            (Some(x), None) => {
                a.push(*x);
                i += 1;
            }
            (None, None) => {}
        }
    }
}
