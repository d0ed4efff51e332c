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

/// The chosen of one group at one step. `worst` is the index of the one that goes first.
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
    /// Of each group and step the value that a float must be better than; NaN where that is not so simple.
    limits: Vec<Vec<f64>>,
}

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

pub(super) fn choose(plan: &Plan<'_>, pipe: &Pipe, ann: &mut Annotations) -> Result<Vec<Series>> {
    let n = plan.steps.n;
    let (op, flip) = (plan.op, plan.op == AggregateOp::BottomK);
    let by_value = matches!(op, AggregateOp::TopK | AggregateOp::BottomK);
    let total = pipe.len();
    let k_at = |i: usize| (plan.param[i].max(0.0) as usize).min(total);
    let take = |c: &mut Chosen, i: usize, e: Entry, offset: f64| -> bool {
        match op {
            AggregateOp::LimitRatio => {
                let r = plan.param[i].clamp(-1.0, 1.0);
                let keep = r != 0.0 && ((r >= 0.0 && offset < r) || (r < 0.0 && offset >= 1.0 + r));
                if keep {
                    c.entries.push(e);
                }
                keep
            }
            AggregateOp::LimitK => {
                let keep = c.entries.len() < k_at(i);
                if keep {
                    c.entries.push(e);
                }
                keep
            }
            _ => {
                let k = k_at(i);
                if k > 0 {
                    c.offer(k, e, flip);
                }
                true
            }
        }
    };
    let state = partition(
        plan,
        pipe,
        ann,
        || State { groups: Groups::new(), chosen: Vec::new(), limits: Vec::new() },
        |s, item, ann| {
            let g = s.groups.of(&plan.grouping, &item.pipe.source, item.index);
            if g == s.chosen.len() {
                plan.ctx.hold(n)?;
                s.chosen.push(vec![Chosen::default(); n]);
                s.limits.push(vec![f64::NAN; n]);
            }
            let limits = &mut s.limits[g];
            let offset = if op == AggregateOp::LimitRatio { sampling_offset(&item.labels()) } else { 0.0 };
            for i in 0..n {
                // Most values are none of the chosen, which is told without looking at those.
                if if flip { item.v[i] >= limits[i] } else { item.v[i] <= limits[i] } {
                    continue;
                }
                let h = item.hist(i);
                if h.is_none() && is_absent(item.v[i]) {
                    continue;
                }
                if by_value && h.is_some() {
                    if k_at(i) > 0 {
                        ann.histogram_ignored_in_aggregation(op.as_str(), plan.span);
                    }
                    continue;
                }
                let chosen = &mut s.chosen[g][i];
                take(chosen, i, Entry { series: item.index, v: item.v[i], h: h.cloned() }, offset);
                if by_value && chosen.entries.len() >= k_at(i) {
                    limits[i] = chosen.entries.first().map_or(f64::NAN, |worst| worst.v);
                }
            }
            Ok(())
        },
        |a, b, _| {
            for (to, chosen) in a.groups.join(b.groups).into_iter().zip(b.chosen) {
                if to == a.chosen.len() {
                    a.chosen.push(chosen);
                    continue;
                }
                for (i, c) in chosen.into_iter().enumerate() {
                    for e in c.entries {
                        if op == AggregateOp::LimitRatio {
                            a.chosen[to][i].entries.push(e);
                        } else {
                            take(&mut a.chosen[to][i], i, e, 0.0);
                        }
                    }
                }
            }
        },
    )?;
    let mut index: hashbrown::HashMap<usize, usize, foldhash::fast::RandomState> = Default::default();
    let mut out: Vec<Series> = Vec::new();
    for steps in state.chosen {
        plan.ctx.release(n);
        for (i, mut c) in steps.into_iter().enumerate() {
            if by_value {
                c.entries.sort_by(|a, b| rank(a.v, b.v, flip));
            }
            for e in c.entries {
                let row = *index.entry(e.series).or_insert_with(|| {
                    let drop = pipe.drops_name(e.series);
                    out.push(Series::new(pipe.source.labels(e.series), drop, n));
                    out.len() - 1
                });
                out[row].set(i, e.h.map_or(Sample::F(e.v), Sample::H));
            }
        }
    }
    plan.ctx.hold(out.len() * n)?;
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
