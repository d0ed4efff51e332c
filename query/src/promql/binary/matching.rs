//! Operators between vectors: series are matched once by their signature, then combined step by step.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use strandline_storage::model::{Labels, METRIC_NAME};

use super::super::annotations::Annotations;
use super::super::ast::{Binary, Cardinality, Matching, Span};
use super::super::error::{Error, Result};
use super::super::eval::context::{Context, Steps};
use super::super::eval::series::{Sample, Series, histogram_bytes, is_absent, is_metadata_label, same_labelset};
use super::super::gofmt::quote;
use super::{Made, Operand, floats, samples};

/// Numbers signatures: the labels that two series must share to match.
pub(super) struct Signatures<'a> {
    m: &'a Matching,
    index: HashMap<Vec<u8>, usize, RandomState>,
    key: Vec<u8>,
}

impl<'a> Signatures<'a> {
    pub fn new(m: &'a Matching) -> Self {
        Signatures { m, index: HashMap::with_hasher(RandomState::default()), key: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    fn takes(&self, name: &str) -> bool {
        let listed = self.m.labels.iter().any(|l| l == name);
        if self.m.on { listed } else { !listed && name != METRIC_NAME }
    }

    pub fn of(&mut self, l: &Labels) -> usize {
        let mut key = std::mem::take(&mut self.key);
        key.clear();
        for (n, v) in l.iter().filter(|(n, _)| self.takes(n)) {
            for s in [n, v] {
                key.extend_from_slice(&(s.len() as u32).to_le_bytes());
                key.extend_from_slice(s.as_bytes());
            }
        }
        let next = self.index.len();
        let sig = match self.index.get(&key) {
            Some(s) => *s,
            None => {
                self.index.insert(key.clone(), next);
                next
            }
        };
        self.key = key;
        sig
    }
}

/// The labels by which two series match.
fn match_labels(m: &Matching, l: &Labels) -> Labels {
    l.without(|n| {
        let listed = m.labels.iter().any(|x| x == n);
        if m.on { !listed } else { listed || n == METRIC_NAME }
    })
}

fn show(l: &Labels) -> String {
    let parts: Vec<String> = l.iter().map(|(n, v)| format!("{n}={}", quote(v))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// Series of one signature, by index.
#[derive(Default, Clone)]
struct Group {
    many: Vec<usize>,
    one: Vec<usize>,
}

struct Matcher<'a> {
    ctx: &'a Context<'a>,
    b: &'a Binary,
    m: &'a Matching,
    span: Span,
    steps: Steps,
    /// The operands stand the other way round: `group_right`.
    swapped: bool,
    /// Steps at which the many side has no sample at all: there nothing is matched, so nothing can be ambiguous.
    idle: Vec<bool>,
    out: Vec<Series>,
    index: HashMap<Labels, usize, RandomState>,
    /// What was last noted at each step, and for which series of the many side.
    noted: Vec<Option<(usize, Annotations)>>,
}

#[allow(clippy::too_many_arguments)]
pub(super) fn binary(
    ctx: &Context<'_>,
    b: &Binary,
    m: &Matching,
    span: Span,
    lhs: Vec<Series>,
    rhs: Vec<Series>,
    steps: Steps,
    ann: &mut Annotations,
) -> Result<Vec<Series>> {
    let swapped = m.card == Cardinality::OneToMany;
    let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
    // Sides are named after `group_right` has swapped them: the left one is then the many side, as it is upstream.
    let (fill_many, fill_one) = (m.fill_left, m.fill_right);
    let mut sigs = Signatures::new(m);
    let mut groups: Vec<Group> = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    for (i, s) in many.iter().enumerate() {
        let g = sigs.of(&s.labels);
        if g == groups.len() {
            groups.push(Group::default());
            order.push(g);
        }
        groups[g].many.push(i);
    }
    for (i, s) in one.iter().enumerate() {
        let g = sigs.of(&s.labels);
        if g == groups.len() {
            groups.push(Group::default());
            order.push(g);
        }
        groups[g].one.push(i);
    }
    let ambiguous = groups.iter().any(|g| g.one.len() > 1) && fill_many.is_none() && fill_one.is_none();
    let idle = if ambiguous { (0..steps.n).map(|i| !many.iter().any(|s| s.has(i))).collect() } else { Vec::new() };
    let index = HashMap::with_hasher(RandomState::default());
    let mut x = Matcher { ctx, b, m, span, steps, swapped, idle, out: Vec::new(), index, noted: Vec::new() };
    for g in order {
        ctx.check()?;
        let Group { many: ms, one: os } = &groups[g];
        match (&ms[..], &os[..]) {
            ([], _) if fill_many.is_none() => x.check_one_side(&one, os)?,
            (_, []) if fill_one.is_none() => {}
            ([l], [r]) if fill_many.is_none() && fill_one.is_none() => {
                let labels = x.labels(&many[*l].labels, &one[*r].labels);
                x.pair(labels, &many[*l], &one[*r], *l)?;
            }
            (_, [r]) if m.card != Cardinality::OneToOne && fill_many.is_none() && fill_one.is_none() => x.fan(&many, ms, &one, *r)?,
            _ => x.group(&many, &one, ms, os, fill_many, fill_one)?,
        }
    }
    x.noted.drain(..).flatten().for_each(|(_, last)| ann.merge(last));
    x.out.retain(|r| !r.is_empty());
    Ok(x.out)
}

impl Matcher<'_> {
    /// The result's labels.
    fn labels(&self, many: &Labels, one: &Labels) -> Labels {
        let m = self.m;
        let schema = self.b.op.changes_schema();
        let drop = |n: &str| {
            (schema && is_metadata_label(n))
                || (m.card == Cardinality::OneToOne && {
                    let listed = m.labels.iter().any(|l| l == n);
                    if m.on { !listed } else { listed }
                })
        };
        if m.include.is_empty() {
            return many.without(drop);
        }
        let mut b = many.to_builder();
        b.retain(|n| !drop(n));
        for l in &m.include {
            b.set(l, one.value(l));
        }
        b.build()
    }

    /// The row for these labels; at a single step each result is a row of its own.
    ///
    /// Whatever name the operands were to lose, a comparison that filters shows it again.
    fn row(&mut self, labels: Labels) -> Result<usize> {
        let n = self.steps.n;
        let drop = self.b.return_bool;
        let at = self.out.len();
        if n > 1 {
            if let Some(known) = self.index.get(&labels) {
                return Ok(*known);
            }
            self.index.insert(labels.clone(), at);
        }
        self.out.push(Series::new(labels, drop, n));
        self.ctx.memory.hold_row(&self.out[at])?;
        Ok(at)
    }

    /// Several series with one: as many pairs, if their results have labels of their own.
    fn fan(&mut self, many: &[Series], ms: &[usize], one: &[Series], r: usize) -> Result<()> {
        let labels: Vec<Labels> = ms.iter().map(|l| self.labels(&many[*l].labels, &one[r].labels)).collect();
        let distinct = labels.iter().collect::<HashSet<&Labels, RandomState>>().len();
        if distinct < labels.len() {
            return self.group(many, one, ms, &[r], None, None);
        }
        ms.iter().zip(labels).try_for_each(|(l, labels)| self.pair(labels, &many[*l], &one[r], *l))
    }

    /// One series on each side: whole columns at once.
    fn pair(&mut self, labels: Labels, many: &Series, one: &Series, at: usize) -> Result<()> {
        let row = self.row(labels)?;
        let fresh = self.out[row].is_empty();
        if fresh && many.h.is_empty() && one.h.is_empty() && !self.b.op.is_trim() {
            let (op, bool_, swapped) = (self.b.op, self.b.return_bool, self.swapped);
            for ((o, a), b) in self.out[row].v.iter_mut().zip(&many.v).zip(&one.v) {
                if is_absent(*a) || is_absent(*b) {
                    continue;
                }
                let (v, keep) = if swapped { floats(op, *b, *a) } else { floats(op, *a, *b) };
                if bool_ {
                    *o = f64::from(u8::from(keep));
                } else if keep {
                    *o = v;
                }
            }
            return Ok(());
        }
        for i in 0..self.steps.n {
            if let (Some(a), Some(b)) = (many.get(i), one.get(i))
                && let Some(made) = self.combine(&a, &b, i, at)
            {
                self.put(row, i, made)?;
            }
        }
        Ok(())
    }

    /// What the operator makes of two samples, and whether it stays; nothing where the types don't fit.
    /// Of what is noted at a step only the last in the order of the many side is told, as upstream does.
    fn combine(&mut self, many: &Sample, one: &Sample, i: usize, at: usize) -> Option<(Made, bool)> {
        let (a, b) = if self.swapped { (one, many) } else { (many, one) };
        let mut ann = Annotations::default();
        let made = samples(self.b.op, operand(a), operand(b), self.span, &mut ann);
        if ann != Annotations::default() {
            self.noted.resize(self.steps.n, None);
            if self.noted[i].as_ref().is_none_or(|(last, _)| *last <= at) {
                self.noted[i] = Some((at, ann));
            }
        }
        made
    }

    fn put(&mut self, row: usize, i: usize, (made, keep): (Made, bool)) -> Result<()> {
        let s = if self.b.return_bool {
            Sample::F(f64::from(u8::from(keep)))
        } else if keep {
            match made {
                Made::F(v) => Sample::F(v),
                Made::H(h) => {
                    self.ctx.memory.hold_bytes(histogram_bytes(&h))?;
                    Sample::H(Arc::new(h))
                }
                Made::Same(h) => Sample::H(h),
            }
        } else {
            return Ok(());
        };
        if self.out[row].has(i) {
            return Err(same_labelset());
        }
        self.out[row].set(i, s);
        Ok(())
    }

    /// Fails if two series of the one side share a step.
    fn check_one_side(&self, one: &[Series], os: &[usize]) -> Result<()> {
        if os.len() < 2 {
            return Ok(());
        }
        for i in 0..self.steps.n {
            self.one_at(one, os, i)?;
        }
        Ok(())
    }

    /// The series of the one side present at step `i`.
    fn one_at(&self, one: &[Series], os: &[usize], i: usize) -> Result<Option<usize>> {
        let mut found: Option<usize> = None;
        for o in os {
            if !one[*o].has(i) {
                continue;
            }
            if self.idle.get(i).is_some_and(|idle| *idle) {
                return Ok(Some(*o));
            }
            if let Some(f) = found {
                let (mut a, mut b) = (&one[f].labels, &one[*o].labels);
                if b < a {
                    (a, b) = (b, a);
                }
                let side = if self.swapped { "left" } else { "right" };
                return Err(Error::exec(format!(
                    "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}, {}]\
                     ;many-to-many matching not allowed: matching labels must be unique on one side",
                    show(&match_labels(self.m, a)),
                    show(a),
                    show(b)
                )));
            }
            found = Some(*o);
        }
        Ok(found)
    }

    /// The general case: several series on a side, or missing ones to fill in.
    #[allow(clippy::too_many_arguments)]
    fn group(
        &mut self,
        many: &[Series],
        one: &[Series],
        ms: &[usize],
        os: &[usize],
        fill_many: Option<f64>,
        fill_one: Option<f64>,
    ) -> Result<()> {
        // By the pair of series a result is of: its place in the output and its labels.
        type Pair = (Option<usize>, Option<usize>);
        let mut rows: HashMap<Pair, (usize, Labels), RandomState> = HashMap::with_hasher(RandomState::default());
        let mut inserted: HashSet<Labels, RandomState> = HashSet::with_hasher(RandomState::default());
        for i in 0..self.steps.n {
            let right = self.one_at(one, os, i)?;
            let mut matched = false;
            inserted.clear();
            let mut pairs: Vec<Pair> = Vec::with_capacity(ms.len() + 1);
            if right.is_some() || fill_one.is_some() {
                pairs.extend(ms.iter().filter(|l| many[**l].has(i)).map(|l| (Some(*l), right)));
            }
            // One series stands for those missing on the many side; so it does where what is there does not fit.
            let stand_in: Pair = (None, right);
            for (l, r) in pairs.into_iter().chain([stand_in]) {
                if l.is_none() && (matched || r.is_none()) {
                    continue;
                }
                let sample = |s: &[Series], at: Option<usize>, fill: Option<f64>| match at {
                    Some(x) => s[x].get(i),
                    None => fill.map(Sample::F),
                };
                let (Some(a), Some(b)) = (sample(many, l, fill_many), sample(one, r, fill_one)) else { continue };
                let Some(made) = self.combine(&a, &b, i, l.unwrap_or(usize::MAX)) else { continue };
                let (row, labels) = match rows.get(&(l, r)) {
                    Some(x) => x.clone(),
                    None => {
                        let new = self.pair_row(many, one, l, r)?;
                        rows.insert((l, r), new.clone());
                        new
                    }
                };
                if self.m.card == Cardinality::OneToOne {
                    if matched {
                        return Err(Error::exec(
                            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                        ));
                    }
                } else if !inserted.insert(labels) {
                    return Err(Error::exec("multiple matches for labels: grouping labels must ensure unique matches"));
                }
                matched = true;
                self.put(row, i, made)?;
            }
        }
        Ok(())
    }

    /// The row of a pair and its labels; a missing series has those that the other one is matched by.
    fn pair_row(&mut self, many: &[Series], one: &[Series], l: Option<usize>, r: Option<usize>) -> Result<(usize, Labels)> {
        let of = |s: &[Series], at: Option<usize>, other: &Labels| match at {
            Some(x) => s[x].labels.clone(),
            None => match_labels(self.m, other),
        };
        let empty = Labels::empty();
        let many_labels = of(many, l, r.map_or(&empty, |x| &one[x].labels));
        let one_labels = of(one, r, &many_labels);
        let labels = self.labels(&many_labels, &one_labels);
        Ok((self.row(labels.clone())?, labels))
    }
}

fn operand(s: &Sample) -> Operand<'_> {
    match s {
        Sample::F(v) => Operand::F(*v),
        Sample::H(h) => Operand::H(h),
    }
}
