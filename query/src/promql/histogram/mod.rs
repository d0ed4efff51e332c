//! What PromQL does with native histograms: arithmetic, reset detection, quantiles, trims.

pub(crate) mod arith;
mod format;
pub mod public;
pub(crate) mod quantile;
#[cfg(test)]
mod tests;
pub(crate) mod trim;

use std::sync::{Arc, LazyLock};

use strandline_storage::model::{BucketSpan, CounterReset, FloatHistogram};

pub(crate) use format::to_text;

/// A bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub count: f64,
    pub lower_inclusive: bool,
    pub upper_inclusive: bool,
}

/// One side's buckets by index, ascending. `i32` indices as in the spans.
pub(crate) type Sparse = Vec<(i32, f64)>;

/// Where the buckets between one half and one end. Prometheus has these bounds as tables, some of whose last digits are not
/// the nearest; they are products of roots of two, the largest first, of which that of two itself is rounded down.
static FRACTIONS: LazyLock<[Vec<f64>; 9]> = LazyLock::new(|| {
    let mut roots: [f64; 8] = [2.0; 8];
    for i in 0..roots.len() {
        roots[i] = roots[i.saturating_sub(1)].sqrt();
    }
    roots[0] = roots[0].next_down();
    let fraction = |at: usize| (0..8).filter(|bit| at >> (7 - bit) & 1 == 1).fold(0.5, |product, bit| product * roots[bit]);
    std::array::from_fn(|schema| (0..1usize << schema).map(|i| fraction(i << (8 - schema))).collect())
});

/// Upper bound of bucket `idx` at an exponential schema.
pub(crate) fn bound(idx: i32, schema: i32) -> f64 {
    let (frac, exp) = if schema < 0 {
        // An index far out of range must not wrap while shifting.
        (0.5, (i64::from(idx) << (-schema).min(31)) + 1)
    } else {
        let s = schema.min(8) as u32;
        (FRACTIONS[s as usize][(idx & ((1 << s) - 1)) as usize], i64::from(idx >> s) + 1)
    };
    if frac == 0.5 && exp == 1025 {
        // The bucket that ends at 2^1024 takes everything up to the largest float.
        return f64::MAX;
    }
    ldexp(frac, exp)
}

fn ldexp(frac: f64, exp: i64) -> f64 {
    if exp > 1024 {
        return f64::INFINITY;
    }
    if exp > 1023 {
        return frac * 2f64.powi(1023) * 2.0;
    }
    if exp < -1021 {
        if exp < -1080 {
            return 0.0;
        }
        return frac * 2f64.powi(-1000) * 2f64.powi((exp + 1000) as i32);
    }
    frac * 2f64.powi(exp as i32)
}

/// Spans and counts to (index, count).
pub(crate) fn to_sparse(spans: &[BucketSpan], counts: &[f64]) -> Sparse {
    let mut out = Vec::with_capacity(counts.len());
    let (mut idx, mut n) = (0i32, 0usize);
    for s in spans {
        idx = idx.wrapping_add(s.offset);
        for _ in 0..s.length {
            let Some(c) = counts.get(n) else { return out };
            out.push((idx, *c));
            idx = idx.wrapping_add(1);
            n += 1;
        }
    }
    out
}

/// (index, count) back to spans and counts.
pub(crate) fn from_sparse(sparse: &[(i32, f64)]) -> (Vec<BucketSpan>, Vec<f64>) {
    let mut spans: Vec<BucketSpan> = Vec::new();
    let mut counts = Vec::with_capacity(sparse.len());
    let mut next = 0i32;
    for &(idx, c) in sparse {
        match spans.last_mut() {
            Some(s) if idx == next => s.length += 1,
            Some(_) => spans.push(BucketSpan { offset: idx.wrapping_sub(next), length: 1 }),
            None => spans.push(BucketSpan { offset: idx, length: 1 }),
        }
        next = idx.wrapping_add(1);
        counts.push(c);
    }
    (spans, counts)
}

/// The index at a coarser schema.
pub(crate) fn coarser(idx: i32, from: i32, to: i32) -> i32 {
    (idx.wrapping_sub(1) >> (from - to).clamp(0, 31)).wrapping_add(1)
}

/// Merges buckets into those of a coarser schema.
pub(crate) fn reduce(sparse: &[(i32, f64)], from: i32, to: i32) -> Sparse {
    let mut out: Sparse = Vec::with_capacity(sparse.len());
    for &(idx, c) in sparse {
        let i = coarser(idx, from, to);
        match out.last_mut() {
            Some((last, n)) if *last == i => *n += c,
            _ => out.push((i, c)),
        }
    }
    out
}

/// Drops empty buckets.
pub(crate) fn compact(h: &mut FloatHistogram) {
    if h.positive_buckets.contains(&0.0) || h.positive_spans.len() > 1 || h.positive_buckets.is_empty() {
        let (s, b) = compact_side(&h.positive_spans, &h.positive_buckets);
        h.positive_spans = s;
        h.positive_buckets = b;
    }
    if h.negative_buckets.contains(&0.0) || h.negative_spans.len() > 1 || h.negative_buckets.is_empty() {
        let (s, b) = compact_side(&h.negative_spans, &h.negative_buckets);
        h.negative_spans = s;
        h.negative_buckets = b;
    }
}

fn compact_side(spans: &[BucketSpan], counts: &[f64]) -> (Vec<BucketSpan>, Vec<f64>) {
    let mut s = to_sparse(spans, counts);
    s.retain(|(_, c)| *c != 0.0);
    from_sparse(&s)
}

/// The zero bucket.
pub(crate) fn zero_bucket(h: &FloatHistogram) -> Bucket {
    Bucket { lower: -h.zero_threshold, upper: h.zero_threshold, count: h.zero_count, lower_inclusive: true, upper_inclusive: true }
}

/// Positive buckets, ascending; custom buckets are all on this side.
pub(crate) fn positive(h: &FloatHistogram) -> Vec<Bucket> {
    let custom = h.uses_custom_buckets();
    to_sparse(&h.positive_spans, &h.positive_buckets)
        .into_iter()
        .map(|(i, count)| {
            let (lower, upper) =
                if custom { custom_bounds(&h.custom_values, i) } else { (bound(i.wrapping_sub(1), h.schema), bound(i, h.schema)) };
            let lower_inclusive = lower < 0.0 && (!custom || i == 0);
            Bucket { lower, upper, count, lower_inclusive, upper_inclusive: upper > 0.0 || custom }
        })
        .collect()
}

/// Negative buckets, from zero outwards.
pub(crate) fn negative(h: &FloatHistogram) -> Vec<Bucket> {
    to_sparse(&h.negative_spans, &h.negative_buckets)
        .into_iter()
        .map(|(i, count)| Bucket {
            lower: -bound(i, h.schema),
            upper: -bound(i.wrapping_sub(1), h.schema),
            count,
            lower_inclusive: true,
            upper_inclusive: false,
        })
        .collect()
}

fn custom_bounds(bounds: &[f64], i: i32) -> (f64, f64) {
    let at = |i: i32| usize::try_from(i).ok().and_then(|i| bounds.get(i)).copied();
    (if i <= 0 { f64::NEG_INFINITY } else { at(i - 1).unwrap_or(f64::INFINITY) }, at(i).unwrap_or(f64::INFINITY))
}

/// All buckets from the lowest to the highest, not overlapping the zero bucket.
pub(crate) fn all_buckets(h: &FloatHistogram) -> Vec<Bucket> {
    let z = h.zero_threshold;
    let clip = |mut b: Bucket| {
        if b.upper < 0.0 && b.upper > -z {
            b.upper = -z;
        } else if b.lower > 0.0 && b.lower < z {
            b.lower = z;
        }
        b
    };
    let mut out: Vec<Bucket> = negative(h).into_iter().rev().map(clip).collect();
    if h.zero_count > 0.0 {
        out.push(zero_bucket(h));
    }
    out.extend(positive(h).into_iter().map(clip));
    out
}

/// Indexes and counts of the buckets that hold something.
fn occupied<'a>(spans: &'a [BucketSpan], counts: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    let mut next = 0i32;
    let indexes = spans.iter().flat_map(move |s| {
        let first = next.wrapping_add(s.offset);
        next = first.wrapping_add(s.length as i32);
        (0..s.length as i32).map(move |i| first.wrapping_add(i))
    });
    indexes.zip(counts.iter().copied()).filter(|(_, c)| *c != 0.0)
}

/// Same bounds, same counts, same sum bit by bit. Reset hints don't count, nor do empty buckets: which of them a sample has is a matter
/// of its neighbours in the chunk.
pub(crate) fn equal(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    let bits = |x: f64, y: f64| x.to_bits() == y.to_bits();
    a.schema == b.schema
        && bits(a.count, b.count)
        && bits(a.sum, b.sum)
        && (!a.uses_custom_buckets() || same_bounds(&a.custom_values, &b.custom_values))
        && a.zero_threshold == b.zero_threshold
        && bits(a.zero_count, b.zero_count)
        && same_buckets((&a.positive_spans, &a.positive_buckets), (&b.positive_spans, &b.positive_buckets))
        && same_buckets((&a.negative_spans, &a.negative_buckets), (&b.negative_spans, &b.negative_buckets))
}

fn same_buckets(a: (&[BucketSpan], &[f64]), b: (&[BucketSpan], &[f64])) -> bool {
    let bits = |(i, c): (i32, f64)| (i, c.to_bits());
    occupied(a.0, a.1).map(bits).eq(occupied(b.0, b.1).map(bits))
}

pub(crate) fn same_bounds(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// The bounds both have.
pub(crate) fn intersect(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            out.push(a[i]);
            i += 1;
            j += 1;
        } else if a[i] < b[j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    out.into()
}

/// Custom buckets mapped to coarser bounds, one count a bound and one above.
pub(crate) fn map_custom(h: &FloatHistogram, bounds: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; bounds.len() + 1];
    for (i, c) in to_sparse(&h.positive_spans, &h.positive_buckets) {
        let upper = custom_bounds(&h.custom_values, i).1;
        let at = bounds.partition_point(|b| *b < upper);
        out[at.min(bounds.len())] += c;
    }
    out
}

/// Whether `cur` can't have grown out of `prev`.
pub(crate) fn detect_reset(cur: &FloatHistogram, prev: &FloatHistogram) -> bool {
    match cur.counter_reset {
        CounterReset::Reset => return true,
        CounterReset::NotReset => return false,
        CounterReset::Unknown | CounterReset::Gauge => {}
    }
    if cur.count < prev.count || cur.uses_custom_buckets() != prev.uses_custom_buckets() {
        return true;
    }
    if cur.uses_custom_buckets() {
        if same_bounds(&cur.custom_values, &prev.custom_values) {
            return fell(&to_sparse(&cur.positive_spans, &cur.positive_buckets), &to_sparse(&prev.positive_spans, &prev.positive_buckets));
        }
        let common = intersect(&cur.custom_values, &prev.custom_values);
        return map_custom(cur, &common).iter().zip(map_custom(prev, &common)).any(|(c, p)| *c < p);
    }
    if cur.schema > prev.schema || cur.zero_threshold < prev.zero_threshold {
        return true;
    }
    let (zero_count, threshold) = arith::zero_count_at(prev, cur.zero_threshold);
    if threshold != cur.zero_threshold || cur.zero_count < zero_count {
        return true;
    }
    let side = |h: &FloatHistogram, positive: bool| {
        let s =
            if positive { to_sparse(&h.positive_spans, &h.positive_buckets) } else { to_sparse(&h.negative_spans, &h.negative_buckets) };
        let mut s = if h.schema == cur.schema { s } else { reduce(&s, h.schema, cur.schema) };
        s.retain(|(i, _)| bound(*i, cur.schema) > cur.zero_threshold);
        s
    };
    fell(&side(cur, true), &side(prev, true)) || fell(&side(cur, false), &side(prev, false))
}

/// Whether any bucket of `prev` is higher than in `cur`.
fn fell(cur: &[(i32, f64)], prev: &[(i32, f64)]) -> bool {
    let mut c = cur.iter().peekable();
    for &(idx, count) in prev {
        while c.peek().is_some_and(|x| x.0 < idx) {
            c.next();
        }
        let now = c.peek().filter(|x| x.0 == idx).map(|x| x.1);
        if now.map_or(count != 0.0, |now| now < count) {
            return true;
        }
    }
    false
}
