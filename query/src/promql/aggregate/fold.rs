//! sum, avg, count, min, max, group, stddev, stdvar, quantile, count_values.

use std::sync::Arc;

use hashbrown::hash_map::Entry;
use strandline_storage::model::Labels;

use super::super::annotations::{Annotations, HistogramOp};
use super::super::ast::AggregateOp;
use super::super::error::{Error, Result};
use super::super::eval::pipe::{Item, Pipe};
use super::super::eval::series::{ABSENT, Hist, Sample, Series, histogram_bytes, is_absent, merge_same_labels};
use super::super::gofmt::plain;
use super::super::histogram::arith::{Accumulator, kahan};
use super::super::histogram::quantile::of_values;
use super::super::histogram::{compact, to_text};
use super::super::window::{HistogramMean, Notes};
use super::group::Groups;
use super::{Plan, partition};

/// One step of one group.
#[derive(Clone, Copy)]
struct Cell {
    /// Samples (floats, and for count and group histograms too).
    n: f64,
    /// Sum, minimum, maximum, or sum of squared distances.
    a: f64,
    /// Compensation, or mean.
    b: f64,
    /// The sum overflowed: `a` is a mean.
    incremental: bool,
}

const EMPTY: Cell = Cell { n: 0.0, a: 0.0, b: 0.0, incremental: false };

/// Histograms of one step of one group.
enum HistCell {
    Sum(Accumulator),
    Mean(HistogramMean),
    /// Exponential and custom buckets met: nothing more is looked at.
    Incompatible,
    /// A float came first, so that nothing will come of the histograms.
    AfterFloat,
}

#[derive(Default)]
struct HistStep {
    cell: Option<HistCell>,
    notes: Notes,
}

struct State {
    groups: Groups,
    cells: Vec<Vec<Cell>>,
    /// Empty for groups that saw no histogram.
    hists: Vec<Vec<HistStep>>,
}

/// What a group takes besides its steps, about: its labels, twice, and the records of it.
const GROUP_BYTES: usize = 384;

/// The plain aggregations.
pub(super) fn fold(plan: &Plan<'_>, pipe: &Pipe, ann: &mut Annotations) -> Result<Vec<Series>> {
    let n = plan.steps.n;
    let new = || State { groups: Groups::new(), cells: Vec::new(), hists: Vec::new() };
    let state = partition(
        plan,
        pipe,
        ann,
        new,
        |s, item, ann| {
            let g = s.groups.of(&plan.grouping, &item.pipe.source, item.index);
            if g == s.cells.len() {
                plan.ctx.memory.hold(4 * n)?;
                plan.ctx.memory.hold_bytes(GROUP_BYTES)?;
                s.cells.push(vec![EMPTY; n]);
                s.hists.push(Vec::new());
            }
            let any = if s.hists[g].is_empty() {
                floats(plan.op, &mut s.cells[g], item.v)
            } else {
                floats(plan.op, &mut s.cells[g], &still_wanted(item.v, &s.hists[g]))
            };
            if s.hists[g].is_empty()
                && let Some(h) = item.h.iter().flatten().next()
            {
                // Sums as large as the first histogram, at every step, and what they compensate by.
                plan.ctx.memory.hold_bytes(n * (size_of::<HistStep>() + 2 * histogram_bytes(h)))?;
            }
            let hist = !item.h.is_empty() && histograms(plan, &mut s.cells[g], &mut s.hists[g], item, ann);
            if (any || hist) && item.drop_name() {
                s.groups.drop_name[g] = true;
            }
            Ok(())
        },
        |a, b, ann| {
            let State { groups, cells, hists } = b;
            let to = a.groups.join(groups);
            for ((to, cells), hists) in to.into_iter().zip(cells).zip(hists) {
                if to == a.cells.len() {
                    a.cells.push(cells);
                    a.hists.push(hists);
                    continue;
                }
                for (x, y) in a.cells[to].iter_mut().zip(cells) {
                    *x = join_cells(plan.op, *x, y);
                }
                if hists.is_empty() {
                    continue;
                }
                if a.hists[to].is_empty() {
                    a.hists[to] = hists;
                    continue;
                }
                for (x, y) in a.hists[to].iter_mut().zip(hists) {
                    join_hists(plan, x, y, ann);
                }
            }
        },
    )?;
    Ok(finish(plan, state, ann))
}

/// The floats of a series but for those of steps where the group has failed already.
fn still_wanted(v: &[f64], hists: &[HistStep]) -> Vec<f64> {
    let failed = |h: &HistStep| matches!(h.cell, Some(HistCell::Incompatible));
    v.iter().zip(hists).map(|(v, h)| if failed(h) { ABSENT } else { *v }).collect()
}

/// Folds a series' floats in; whether it has any.
fn floats(op: AggregateOp, cells: &mut [Cell], v: &[f64]) -> bool {
    let mut any = false;
    macro_rules! each {
        (|$c:ident, $x:ident| $body:expr) => {
            for ($c, x) in cells.iter_mut().zip(v) {
                if !is_absent(*x) {
                    let $x = *x;
                    any = true;
                    $body;
                    $c.n += 1.0;
                }
            }
        };
    }
    match op {
        AggregateOp::Sum => each!(|c, x| if c.n == 0.0 { c.a = x } else { (c.a, c.b) = kahan(x, c.a, c.b) }),
        AggregateOp::Avg => each!(|c, x| add_mean(c, x)),
        AggregateOp::Min => each!(|c, x| if c.n == 0.0 || x < c.a || c.a.is_nan() {
            c.a = x
        }),
        AggregateOp::Max => each!(|c, x| if c.n == 0.0 || x > c.a || c.a.is_nan() {
            c.a = x
        }),
        AggregateOp::Stddev | AggregateOp::Stdvar => each!(|c, x| {
            if c.n == 0.0 {
                c.b = x;
                c.a = if x.is_finite() { 0.0 } else { f64::NAN };
            } else {
                let delta = x - c.b;
                c.b += delta / (c.n + 1.0);
                c.a += delta * (x - c.b);
            }
        }),
        _ => {
            for (c, _) in cells.iter_mut().zip(v).filter(|(_, x)| !is_absent(**x)) {
                any = true;
                c.n += 1.0;
            }
        }
    }
    any
}

fn add_mean(c: &mut Cell, x: f64) {
    if c.n == 0.0 {
        c.a = x;
        return;
    }
    let count = c.n + 1.0;
    if !c.incremental {
        let (s, k) = kahan(x, c.a, c.b);
        if !s.is_infinite() {
            (c.a, c.b) = (s, k);
            return;
        }
        c.incremental = true;
        c.a /= c.n;
        c.b /= c.n;
    }
    let q = c.n / count;
    (c.a, c.b) = kahan(x / count, q * c.a, q * c.b);
}

fn join_cells(op: AggregateOp, x: Cell, y: Cell) -> Cell {
    if y.n == 0.0 {
        return x;
    }
    if x.n == 0.0 {
        return y;
    }
    let n = x.n + y.n;
    let plain = |a, b| Cell { n, a, b, incremental: false };
    match op {
        AggregateOp::Sum => {
            let (a, c) = kahan(y.a, x.a, x.b);
            plain(a, if a.is_infinite() { 0.0 } else { c + y.b })
        }
        AggregateOp::Avg => {
            if !x.incremental && !y.incremental {
                let (a, c) = kahan(y.a, x.a, x.b);
                if !a.is_infinite() {
                    return plain(a, c + y.b);
                }
            }
            let mean = |c: Cell| if c.incremental { c.a + c.b } else { c.a / c.n + c.b / c.n };
            Cell { n, a: mean(x) * (x.n / n) + mean(y) * (y.n / n), b: 0.0, incremental: true }
        }
        AggregateOp::Min => plain(if y.a < x.a || x.a.is_nan() { y.a } else { x.a }, 0.0),
        AggregateOp::Max => plain(if y.a > x.a || x.a.is_nan() { y.a } else { x.a }, 0.0),
        AggregateOp::Stddev | AggregateOp::Stdvar => {
            let delta = y.b - x.b;
            plain(x.a + y.a + delta * delta * x.n * y.n / n, x.b + delta * y.n / n)
        }
        _ => plain(0.0, 0.0),
    }
}

/// Folds a series' histograms in; whether the group takes part by them.
fn histograms(plan: &Plan<'_>, cells: &mut [Cell], hists: &mut Vec<HistStep>, item: &Item<'_>, ann: &mut Annotations) -> bool {
    let mut any = false;
    for (i, h) in item.h.iter().enumerate() {
        let Some(h) = h else { continue };
        match plan.op {
            AggregateOp::Count | AggregateOp::Group => cells[i].n += 1.0,
            AggregateOp::Sum | AggregateOp::Avg => {
                if hists.is_empty() {
                    hists.resize_with(cells.len(), HistStep::default);
                }
                add_hist(plan, cells[i].n > 0.0, &mut hists[i], h, item, ann);
            }
            op => {
                ann.histogram_ignored_in_aggregation(op.as_str(), plan.inner);
                continue;
            }
        }
        any = true;
    }
    any
}

fn add_hist(plan: &Plan<'_>, floats: bool, s: &mut HistStep, h: &Hist, item: &Item<'_>, ann: &mut Annotations) {
    if matches!(s.cell, Some(HistCell::Incompatible | HistCell::AfterFloat)) {
        return;
    }
    if floats && s.cell.is_none() {
        s.cell = Some(HistCell::AfterFloat);
        return;
    }
    s.notes.see(h);
    let reconciled = match &mut s.cell {
        None => {
            s.cell =
                Some(if plan.op == AggregateOp::Sum { HistCell::Sum(Accumulator::new(h)) } else { HistCell::Mean(HistogramMean::new(h)) });
            Ok(false)
        }
        Some(HistCell::Sum(acc)) => acc.add(h).map(|c| c.reconciled),
        Some(HistCell::Mean(m)) => m.add(h),
        Some(HistCell::Incompatible | HistCell::AfterFloat) => Ok(false),
    };
    match reconciled {
        Ok(r) => s.notes.reconciled |= r,
        Err(_) => {
            ann.mixed_exponential_custom(&item.pipe.source.name(item.index), plan.inner);
            s.cell = Some(HistCell::Incompatible);
        }
    }
}

fn join_hists(plan: &Plan<'_>, x: &mut HistStep, y: HistStep, ann: &mut Annotations) {
    x.notes.reset |= y.notes.reset;
    x.notes.not_reset |= y.notes.not_reset;
    x.notes.reconciled |= y.notes.reconciled;
    let joined = match (x.cell.take(), y.cell) {
        (a, None) => Ok(a),
        (None, b) => Ok(b),
        (Some(HistCell::Sum(mut a)), Some(HistCell::Sum(b))) => a.add(&b.finish()).map(|c| {
            x.notes.reconciled |= c.reconciled;
            Some(HistCell::Sum(a))
        }),
        (Some(HistCell::Mean(mut a)), Some(HistCell::Mean(b))) => a.join(b).map(|r| {
            x.notes.reconciled |= r;
            Some(HistCell::Mean(a))
        }),
        _ => Ok(Some(HistCell::Incompatible)),
    };
    x.cell = joined.unwrap_or_else(|_| {
        ann.mixed_exponential_custom("", plan.inner);
        Some(HistCell::Incompatible)
    });
}

fn finish(plan: &Plan<'_>, state: State, ann: &mut Annotations) -> Vec<Series> {
    let n = plan.steps.n;
    let State { groups, cells, hists } = state;
    let mut out = Vec::with_capacity(cells.len());
    for (g, (cells, mut hists)) in cells.into_iter().zip(hists).enumerate() {
        // The row that it becomes stays.
        plan.ctx.memory.release(3 * n);
        let mut row = Series::new(groups.labels[g].clone(), groups.drop_name[g], n);
        let mut any = false;
        for (i, c) in cells.iter().enumerate() {
            if let Some(s) = hists.get_mut(i)
                && let Some(cell) = s.cell.take()
            {
                if s.notes.reconciled {
                    ann.bounds_reconciled(HistogramOp::Agg, plan.inner);
                }
                if c.n > 0.0 {
                    ann.mixed_floats_histograms_agg(plan.inner);
                    continue;
                }
                let mut h = match cell {
                    HistCell::Sum(a) => a.finish(),
                    HistCell::Mean(m) => m.finish(),
                    HistCell::Incompatible | HistCell::AfterFloat => continue,
                };
                if s.notes.reset && s.notes.not_reset {
                    ann.reset_collision(HistogramOp::Agg, plan.inner);
                }
                compact(&mut h);
                row.set(i, Sample::H(Arc::new(h)));
                any = true;
                continue;
            }
            if c.n == 0.0 {
                continue;
            }
            any = true;
            row.v[i] = match plan.op {
                AggregateOp::Sum => c.a + c.b,
                AggregateOp::Avg if c.incremental => c.a + c.b,
                // The compensated sum hardly depends on the order of the series, and so the mean shouldn't: that
                // order is another one after a flush.
                AggregateOp::Avg if (c.a + c.b).is_finite() => (c.a + c.b) / c.n,
                AggregateOp::Avg => c.a / c.n + c.b / c.n,
                AggregateOp::Count => c.n,
                AggregateOp::Group => 1.0,
                AggregateOp::Stdvar => c.a / c.n,
                AggregateOp::Stddev => (c.a / c.n).sqrt(),
                _ => c.a,
            };
        }
        if any {
            out.push(row);
        }
    }
    out
}

/// What the values of a step take before there are many.
const CELL_BYTES: usize = size_of::<Vec<f64>>() + 4 * size_of::<f64>();

/// `quantile(q, v)`.
pub(super) fn quantile(plan: &Plan<'_>, pipe: &Pipe, ann: &mut Annotations) -> Result<Vec<Series>> {
    type State = (Groups, Vec<Vec<Vec<f64>>>);
    let n = plan.steps.n;
    let (groups, mut values) = partition(
        plan,
        pipe,
        ann,
        || -> State { (Groups::new(), Vec::new()) },
        |(groups, values), item, ann| {
            let g = groups.of(&plan.grouping, &item.pipe.source, item.index);
            if g == values.len() {
                plan.ctx.memory.hold_bytes(CELL_BYTES * n)?;
                values.push(vec![Vec::new(); n]);
            }
            plan.ctx.memory.hold(n)?;
            let mut any = false;
            for (i, cell) in values[g].iter_mut().enumerate() {
                if item.hist(i).is_some() {
                    ann.histogram_ignored_in_aggregation("quantile", plan.inner);
                } else if !is_absent(item.v[i]) {
                    cell.push(item.v[i]);
                    any = true;
                }
            }
            groups.drop_name[g] |= any && item.drop_name();
            Ok(())
        },
        |(groups, values), (og, ov), _| {
            for (to, v) in groups.join(og).into_iter().zip(ov) {
                if to == values.len() {
                    values.push(v);
                } else {
                    for (a, b) in values[to].iter_mut().zip(v) {
                        a.extend(b);
                    }
                }
            }
        },
    )?;
    let mut out = Vec::new();
    for (g, cells) in values.iter_mut().enumerate() {
        plan.ctx.memory.release_bytes(CELL_BYTES * n);
        let mut row = Series::new(groups.labels[g].clone(), groups.drop_name[g], n);
        for (i, v) in cells.iter_mut().enumerate() {
            plan.ctx.memory.release(v.len());
            if !v.is_empty() {
                row.v[i] = of_values(plan.param[i], v);
            }
        }
        if row.v.iter().any(|v| !is_absent(*v)) {
            out.push(row);
        }
    }
    Ok(out)
}

type HashMap<K, V> = hashbrown::HashMap<K, V, foldhash::fast::RandomState>;

/// `count_values("label", v)`.
pub(super) fn count_values(plan: &Plan<'_>, pipe: Pipe, ann: &mut Annotations) -> Result<Vec<Series>> {
    let n = plan.steps.n;
    let rows = pipe.collect(plan.ctx, ann)?;
    let mut out: Vec<Series> = Vec::new();
    let mut index: HashMap<Labels, usize> = HashMap::default();
    // Groups but for the value, and under them each float by its bits: most series repeat few values.
    let mut bases: HashMap<Labels, usize> = HashMap::default();
    let mut known: HashMap<(usize, u64), usize> = HashMap::default();
    for row in &rows {
        let base = plan.grouping.labels_of(&row.labels);
        let next = bases.len();
        let base = *bases.entry(base).or_insert(next);
        let mut group = |text: &str, out: &mut Vec<Series>| {
            let mut b = row.labels.to_builder();
            b.set(&plan.value_label, text);
            let labels = plan.grouping.labels_of(&b.build());
            let g = *index.entry(labels.clone()).or_insert(out.len());
            if g == out.len() {
                // As many rows as values: they are counted as they come.
                out.push(Series::new(labels, false, n));
                plan.ctx.memory.hold_row(&out[g])?;
            }
            Ok::<usize, Error>(g)
        };
        for i in 0..n {
            let g = match row.get(i) {
                None => continue,
                Some(Sample::H(h)) => group(&to_text(&h), &mut out)?,
                Some(Sample::F(v)) => match known.entry((base, v.to_bits())) {
                    Entry::Occupied(g) => *g.get(),
                    Entry::Vacant(new) => *new.insert(group(&plain(v), &mut out)?),
                },
            };
            let c = &mut out[g].v[i];
            *c = if is_absent(*c) { 1.0 } else { *c + 1.0 };
        }
    }
    debug_assert!(!out.iter().any(|r| r.v.iter().all(|v| v.to_bits() == ABSENT.to_bits())));
    merge_same_labels(out)
}
