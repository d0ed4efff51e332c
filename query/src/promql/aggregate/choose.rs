//! topk, bottomk, limitk and limit_ratio: some of the input series, step by step.

use std::cmp::Ordering;

use strandline_storage::model::Labels;

use super::super::annotations::Annotations;
use super::super::ast::AggregateOp;
use super::super::error::{Error, Result};
use super::super::eval::pipe::Pipe;
use super::super::eval::series::{Hist, Sample, Series, is_absent};
use super::super::gofmt::general;
use super::group::Groups;
use super::{Plan, partition};

/// Checks k, q or r; false if there can be no result.
pub(super) fn check_params(plan: &Plan<'_>, ann: &mut Annotations) -> Result<bool> {
    let p = &plan.param;
    let max = p.iter().copied().filter(|x| !x.is_nan()).fold(f64::NEG_INFINITY, f64::max);
    let min = p.iter().copied().filter(|x| !x.is_nan()).fold(f64::INFINITY, f64::min);
    let any_nan = p.iter().any(|x| x.is_nan());
    match plan.op {
        AggregateOp::TopK | AggregateOp::BottomK | AggregateOp::LimitK => {
            if any_nan {
                return Err(Error::exec("Parameter value is NaN"));
            }
            if max < 1.0 {
                return Ok(false);
            }
            if min <= i64::MIN as f64 {
                return Err(Error::exec(format!("Scalar value {} underflows int64", general(min))));
            }
            if max >= i64::MAX as f64 {
                return Err(Error::exec(format!("Scalar value {} overflows int64", general(max))));
            }
        }
        AggregateOp::LimitRatio => {
            if any_nan {
                return Err(Error::exec("Ratio value is NaN"));
            }
            if max == 0.0 && min == 0.0 {
                return Ok(false);
            }
            if max > 1.0 {
                ann.invalid_ratio(max, 1.0, plan.param_span);
            }
            if min < -1.0 {
                ann.invalid_ratio(min, -1.0, plan.param_span);
            }
        }
        AggregateOp::Quantile => {
            // A NaN among them hides what else may be wrong.
            if any_nan {
                ann.invalid_quantile(f64::NAN, plan.param_span);
                return Ok(true);
            }
            if max > 1.0 {
                ann.invalid_quantile(max, plan.param_span);
            }
            if min < 0.0 {
                ann.invalid_quantile(min, plan.param_span);
            }
        }
        _ => {}
    }
    Ok(true)
}

/// The chosen of one group at one step; of topk and bottomk a heap with the worst on top.
#[derive(Clone, Default)]
struct Chosen {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    series: usize,
    v: f64,
    h: Option<Hist>,
}

struct State {
    groups: Groups,
    chosen: Vec<Vec<Chosen>>,
    /// [`Choice::limit`] of each group and step.
    limits: Vec<Vec<f64>>,
    held_bytes: usize,
}

/// What a step of a group takes besides its entries.
const STEP_BYTES: usize = size_of::<Chosen>() + size_of::<f64>();

/// Order by which topk (or bottomk, `flip`) prefers: better first, NaN last.
fn rank(a: f64, b: f64, flip: bool) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => {
            let o = b.partial_cmp(&a).unwrap_or(Ordering::Equal);
            if flip { o.reverse() } else { o }
        }
    }
}

impl Chosen {
    /// Keeps the best k as a heap with the worst on top.
    fn offer(&mut self, k: usize, e: Entry, flip: bool) {
        if self.entries.len() < k {
            self.entries.push(e);
            let mut i = self.entries.len() - 1;
            while i > 0 {
                let p = (i - 1) / 2;
                if rank(self.entries[i].v, self.entries[p].v, flip) != Ordering::Greater {
                    break;
                }
                self.entries.swap(i, p);
                i = p;
            }
            return;
        }
        if rank(e.v, self.entries[0].v, flip) != Ordering::Less {
            return;
        }
        self.entries[0] = e;
        let (mut i, n) = (0, self.entries.len());
        loop {
            let mut worst = i;
            for c in [2 * i + 1, 2 * i + 2] {
                if c < n && rank(self.entries[c].v, self.entries[worst].v, flip) == Ordering::Greater {
                    worst = c;
                }
            }
            if worst == i {
                return;
            }
            self.entries.swap(i, worst);
            i = worst;
        }
    }
}

/// Which entries of a group stay.
struct Choice<'p> {
    op: AggregateOp,
    /// k, or the ratio, of each step.
    param: &'p [f64],
    /// Series of the input: no more can stay.
    total: usize,
}

impl Choice<'_> {
    /// Whether samples are compared, which histograms can't be.
    fn by_value(&self) -> bool {
        matches!(self.op, AggregateOp::TopK | AggregateOp::BottomK)
    }

    fn flip(&self) -> bool {
        self.op == AggregateOp::BottomK
    }

    fn k(&self, step: usize) -> usize {
        (self.param[step].max(0.0) as usize).min(self.total)
    }

    /// What a value must be better than, NaN where that is not so simple.
    fn limit(&self, c: &Chosen, step: usize) -> f64 {
        match c.entries.first() {
            Some(worst) if self.by_value() && c.entries.len() >= self.k(step) => worst.v,
            _ => f64::NAN,
        }
    }

    #[inline]
    fn is_out(&self, v: f64, limit: f64) -> bool {
        if self.flip() { v >= limit } else { v <= limit }
    }

    /// Takes an entry of a step, if it is to stay; `offset` is that of its series for limit_ratio.
    fn take(&self, c: &mut Chosen, step: usize, e: Entry, offset: f64) {
        let stays = match self.op {
            AggregateOp::LimitRatio => {
                let r = self.param[step].clamp(-1.0, 1.0);
                r != 0.0 && ((r >= 0.0 && offset < r) || (r < 0.0 && offset >= 1.0 + r))
            }
            AggregateOp::LimitK => c.entries.len() < self.k(step),
            _ => {
                let k = self.k(step);
                if k > 0 {
                    c.offer(k, e, self.flip());
                }
                return;
            }
        };
        if stays {
            c.entries.push(e);
        }
    }

    /// Joins the groups of two partitions. What limit_ratio chose is chosen, whatever else there is.
    fn join(&self, a: &mut State, b: State) {
        a.held_bytes += b.held_bytes;
        for (to, chosen) in a.groups.join(b.groups).into_iter().zip(b.chosen) {
            if to == a.chosen.len() {
                a.chosen.push(chosen);
                continue;
            }
            for (step, c) in chosen.into_iter().enumerate() {
                let into = &mut a.chosen[to][step];
                if self.op == AggregateOp::LimitRatio {
                    into.entries.extend(c.entries);
                } else {
                    c.entries.into_iter().for_each(|e| self.take(into, step, e, 0.0));
                }
            }
        }
    }
}

pub(super) fn choose(plan: &Plan<'_>, pipe: &Pipe, ann: &mut Annotations) -> Result<Vec<Series>> {
    let n = plan.steps.n;
    let choice = Choice { op: plan.op, param: &plan.param, total: pipe.len() };
    let by_value = choice.by_value();
    let state = partition(
        plan,
        pipe,
        ann,
        || State { groups: Groups::new(), chosen: Vec::new(), limits: Vec::new(), held_bytes: 0 },
        |s, item, ann| {
            let g = s.groups.of(&plan.grouping, &item.pipe.source, item.index);
            if g == s.chosen.len() {
                plan.ctx.memory.hold_bytes(STEP_BYTES * n)?;
                s.held_bytes += STEP_BYTES * n;
                s.chosen.push(vec![Chosen::default(); n]);
                s.limits.push(vec![f64::NAN; n]);
            }
            let offset = if choice.op == AggregateOp::LimitRatio { sampling_offset(&item.labels()) } else { 0.0 };
            let mut more = 0;
            for (i, limit) in s.limits[g].iter_mut().enumerate() {
                // Most values are none of the chosen, which is told without looking at those.
                if choice.is_out(item.v[i], *limit) {
                    continue;
                }
                let h = item.hist(i);
                if h.is_none() && is_absent(item.v[i]) {
                    continue;
                }
                if by_value && h.is_some() {
                    if choice.k(i) > 0 {
                        ann.histogram_ignored_in_aggregation(choice.op.as_str(), plan.span);
                    }
                    continue;
                }
                let chosen = &mut s.chosen[g][i];
                let before = chosen.entries.capacity();
                choice.take(chosen, i, Entry { series: item.index, v: item.v[i], h: h.cloned() }, offset);
                more += (chosen.entries.capacity() - before) * size_of::<Entry>();
                *limit = choice.limit(chosen, i);
            }
            s.held_bytes += more;
            if more > 0 { plan.ctx.memory.hold_bytes(more) } else { Ok(()) }
        },
        |a, b, _| choice.join(a, b),
    )?;
    rows(plan, pipe, &choice, state)
}

/// The chosen as series, in the order in which the steps name them first.
fn rows(plan: &Plan<'_>, pipe: &Pipe, choice: &Choice<'_>, state: State) -> Result<Vec<Series>> {
    let n = plan.steps.n;
    let mut index: hashbrown::HashMap<usize, usize, foldhash::fast::RandomState> = Default::default();
    let mut out: Vec<Series> = Vec::new();
    for steps in state.chosen {
        for (i, mut c) in steps.into_iter().enumerate() {
            if choice.by_value() {
                c.entries.sort_by(|a, b| rank(a.v, b.v, choice.flip()));
            }
            for e in c.entries {
                let row = *index.entry(e.series).or_insert(out.len());
                if row == out.len() {
                    out.push(Series::new(pipe.source.labels(e.series), pipe.drops_name(e.series), n));
                    plan.ctx.memory.hold_row(&out[row])?;
                }
                out[row].set(i, e.h.map_or(Sample::F(e.v), Sample::H));
            }
        }
    }
    plan.ctx.memory.release_bytes(state.held_bytes);
    Ok(out)
}

/// A series' place in [0, 1], from a hash of its labels, so that `limit_ratio` always takes the same ones.
fn sampling_offset(labels: &Labels) -> f64 {
    xxh64(labels.as_bytes()) as f64 / u64::MAX as f64
}

/// XXH64 with seed 0, the hash Prometheus uses for label sets.
fn xxh64(mut b: &[u8]) -> u64 {
    const P: [u64; 5] = [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0x85EB_CA77_C2B2_AE63, 0x27D4_EB2F_1656_67C5];
    let word = |b: &[u8]| b.iter().take(8).enumerate().fold(0u64, |w, (i, x)| w | u64::from(*x) << (8 * i));
    let round = |acc: u64, input: u64| acc.wrapping_add(input.wrapping_mul(P[1])).rotate_left(31).wrapping_mul(P[0]);
    let len = b.len() as u64;
    let mut h = if b.len() >= 32 {
        let mut v = [P[0].wrapping_add(P[1]), P[1], 0, 0u64.wrapping_sub(P[0])];
        while b.len() >= 32 {
            for (i, v) in v.iter_mut().enumerate() {
                *v = round(*v, word(&b[8 * i..]));
            }
            b = &b[32..];
        }
        let h = v[0].rotate_left(1).wrapping_add(v[1].rotate_left(7)).wrapping_add(v[2].rotate_left(12)).wrapping_add(v[3].rotate_left(18));
        v.iter().fold(h, |h, v| (h ^ round(0, *v)).wrapping_mul(P[0]).wrapping_add(P[3]))
    } else {
        P[4]
    };
    h = h.wrapping_add(len);
    while b.len() >= 8 {
        h = (h ^ round(0, word(b))).rotate_left(27).wrapping_mul(P[0]).wrapping_add(P[3]);
        b = &b[8..];
    }
    if b.len() >= 4 {
        let w = b.iter().take(4).enumerate().fold(0u64, |w, (i, x)| w | u64::from(*x) << (8 * i));
        h = (h ^ w.wrapping_mul(P[0])).rotate_left(23).wrapping_mul(P[1]).wrapping_add(P[2]);
        b = &b[4..];
    }
    for x in b {
        h = (h ^ u64::from(*x).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(P[1]);
    h ^= h >> 29;
    h = h.wrapping_mul(P[2]);
    h ^ (h >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(&b"The quick brown fox jumps over the lazy dog"[..]), 0x0B24_2D36_1FDA_71BC);
    }

    #[test]
    fn keeps_the_best() {
        let mut c = Chosen::default();
        for (i, v) in [3.0, f64::NAN, 9.0, 1.0, 7.0].into_iter().enumerate() {
            c.offer(2, Entry { series: i, v, h: None }, false);
        }
        let mut got: Vec<_> = c.entries.iter().map(|e| e.v).collect();
        got.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(got, [9.0, 7.0]);
    }
}
