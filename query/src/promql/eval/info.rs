//! `info()`: labels of info series joined to series of the same instance and job.

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use strandline_storage::model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher};

use super::super::annotations::Annotations;
use super::super::ast::{Call, Expr, ExprKind};
use super::super::error::{Error, Result};
use super::super::gofmt::general;
use super::context::{Refs, Steps};
use super::expr::Evaluator;
use super::pipe::Pipe;
use super::prepare::Use;
use super::series::{Series, merge_same_labels, same_labelset};
use super::source::{InstantKind, Source};

/// Labels by which info series and others belong together.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// The name matchers in effect: `target_info` by default, and never everything but some names.
fn effective_names(matchers: &[Matcher]) -> Result<Vec<Matcher>> {
    if matchers.is_empty() {
        return Ok(vec![Matcher::equal(METRIC_NAME, "target_info")]);
    }
    let mut out = matchers.to_vec();
    if !matchers.iter().any(|m| matches!(m.op, MatchOp::Equal | MatchOp::Regex)) {
        out.push(Matcher::new(MatchOp::Regex, METRIC_NAME, ".+_info").map_err(|e| Error::Internal(e.to_string()))?);
    }
    Ok(out)
}

fn signature(l: &Labels) -> Labels {
    l.without(|n| !IDENTIFYING.contains(&n))
}

impl Evaluator<'_> {
    pub(super) fn info(&self, c: &Call, steps: Steps, uses: Use, ann: &mut Annotations) -> Result<Vec<Series>> {
        let base = self.rows(c.args[0].unparen(), steps, uses, ann)?;
        let given: &[Matcher] = match c.args.get(1).map(|a| &a.unparen().kind) {
            Some(ExprKind::Vector(v)) => &v.matchers,
            _ => &[],
        };
        let (names, data): (Vec<Matcher>, Vec<Matcher>) = given.iter().cloned().partition(|m| m.name == METRIC_NAME);
        let names = effective_names(&names)?;
        let is_info = |l: &Labels| names.iter().all(|m| m.matches(l.metric_name()));
        let info = self.info_series(&c.args[0], &base, &is_info, &names, &data, steps, ann)?;
        self.join(base, info, &is_info, &data, steps)
    }

    /// The info series that may belong to any base series; values are the samples' times.
    #[allow(clippy::too_many_arguments)]
    fn info_series(
        &self,
        arg: &Expr,
        base: &[Series],
        is_info: &dyn Fn(&Labels) -> bool,
        names: &[Matcher],
        data: &[Matcher],
        steps: Steps,
        ann: &mut Annotations,
    ) -> Result<Vec<Series>> {
        let mut matchers = Vec::new();
        for l in IDENTIFYING {
            let mut values: Vec<&str> =
                base.iter().filter(|s| !is_info(&s.labels)).map(|s| s.labels.value(l)).filter(|v| !v.is_empty()).collect();
            values.sort_unstable();
            values.dedup();
            if values.is_empty() {
                continue;
            }
            // Very many values would make a pattern too large; the join itself sorts out what does not belong.
            if values.len() <= 200 {
                let pattern = values.iter().map(|v| regex_syntax::escape(v)).collect::<Vec<_>>().join("|");
                matchers.push(Matcher::new(MatchOp::Regex, l, pattern).map_err(|e| Error::Internal(e.to_string()))?);
            } else {
                matchers.push(Matcher::new(MatchOp::NotEqual, l, "").map_err(|e| Error::Internal(e.to_string()))?);
            }
        }
        if matchers.is_empty() {
            return Ok(Vec::new());
        }
        matchers.extend(data.iter().cloned());
        matchers.extend(names.iter().cloned());
        let refs = self.info_refs(arg, steps)?;
        let sel = self.ctx.select(&matchers, refs.span(self.ctx.lookback - 1, 0), ann)?;
        Pipe::new(Source::Instant { sel, refs, kind: InstantKind::Info, stats_only: false }, steps).collect(self.ctx, ann)
    }

    /// Where the first selector of the argument looks at each step: that is when the info must hold.
    fn info_refs(&self, arg: &Expr, steps: Steps) -> Result<Refs> {
        let mut refs = Refs { steps, fixed: None, offset: 0 };
        self.follow(arg, &mut refs)?;
        Ok(refs)
    }

    fn follow(&self, e: &Expr, refs: &mut Refs) -> Result<bool> {
        let (at, offset, inner) = match &e.kind {
            ExprKind::Vector(v) => (&v.at, &v.offset, None),
            ExprKind::Matrix(m) => (&m.selector.at, &m.selector.offset, None),
            ExprKind::Subquery(s) => (&s.at, &s.offset, Some(&s.expr)),
            _ => {
                for child in e.children() {
                    if self.follow(child, refs)? {
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
        };
        let offset = self.ctx.offset(offset)?;
        match at {
            Some(a) => refs.fixed = Some(self.ctx.at_time(*a) - offset),
            None if refs.fixed.is_some() => refs.fixed = refs.fixed.map(|t| t - offset),
            None => refs.offset += offset,
        }
        match inner {
            Some(e) => self.follow(e, refs),
            None => Ok(true),
        }
    }

    fn join(
        &self,
        base: Vec<Series>,
        info: Vec<Series>,
        is_info: &dyn Fn(&Labels) -> bool,
        data: &[Matcher],
        steps: Steps,
    ) -> Result<Vec<Series>> {
        let mut by_signature: HashMap<Labels, Vec<usize>, RandomState> = HashMap::with_hasher(RandomState::default());
        for (i, s) in info.iter().enumerate() {
            by_signature.entry(signature(&s.labels)).or_default().push(i);
        }
        let wanted: HashSet<&str, RandomState> = data.iter().map(|m| m.name.as_str()).collect();
        let may_lack = data.iter().all(|m| m.matches_empty());
        let mut index: HashMap<Labels, usize, RandomState> = HashMap::with_hasher(RandomState::default());
        let mut out: Vec<Series> = Vec::new();
        let none = Vec::new();
        for b in base {
            self.ctx.check()?;
            if is_info(&b.labels) {
                out.push(b);
                continue;
            }
            let candidates = by_signature.get(&signature(&b.labels)).unwrap_or(&none);
            // The same info series at most steps: remember what came of them.
            let mut made: HashMap<Vec<usize>, Option<Labels>, RandomState> = HashMap::with_hasher(RandomState::default());
            for i in 0..steps.n {
                let Some(sample) = b.get(i) else { continue };
                let chosen = newest_by_name(&info, candidates, i)?;
                let labels = match made.get(&chosen) {
                    Some(l) => l.clone(),
                    None => {
                        let l = enrich(&b.labels, &info, &chosen, &wanted, may_lack)?;
                        made.insert(chosen, l.clone());
                        l
                    }
                };
                let Some(labels) = labels else { continue };
                let row = *index.entry(labels.clone()).or_insert(out.len());
                if row == out.len() {
                    out.push(Series::new(labels, b.drop_name, steps.n));
                    self.ctx.memory.hold_row(&out[row])?;
                }
                if out[row].has(i) {
                    return Err(same_labelset());
                }
                out[row].set(i, sample);
            }
        }
        if steps.n > 1 { merge_same_labels(out) } else { Ok(out) }
    }
}

/// Of each info metric the series with the newest sample at step `i`.
fn newest_by_name(info: &[Series], candidates: &[usize], i: usize) -> Result<Vec<usize>> {
    let mut out: Vec<usize> = Vec::new();
    for c in candidates.iter().copied().filter(|c| info[*c].has(i)) {
        let name = info[c].labels.metric_name();
        let Some(slot) = out.iter_mut().find(|o| info[**o].labels.metric_name() == name) else {
            out.push(c);
            continue;
        };
        let (old, new) = (info[*slot].v[i], info[c].v[i]);
        if new > old {
            *slot = c;
        } else if new == old {
            return Err(Error::exec(format!(
                "found duplicate series for info metric: existing {} @ {}, new {} @ {}",
                info[*slot].labels,
                general(old),
                info[c].labels,
                general(new)
            )));
        }
    }
    Ok(out)
}

/// The base series' labels with those of the info series; nothing where a needed label is missing.
fn enrich(base: &Labels, info: &[Series], chosen: &[usize], wanted: &HashSet<&str, RandomState>, may_lack: bool) -> Result<Option<Labels>> {
    if chosen.is_empty() {
        return Ok(may_lack.then(|| base.clone()));
    }
    let mut added = LabelsBuilder::default();
    for c in chosen {
        for (n, v) in info[*c].labels.iter() {
            if n == METRIC_NAME || (!wanted.is_empty() && !wanted.contains(n)) {
                continue;
            }
            if added.get(n).is_some_and(|x| x != v) {
                return Err(Error::exec(format!("conflicting label: {n}")));
            }
            if base.get(n).is_none() {
                added.set(n, v);
            }
        }
    }
    let mut b = base.to_builder();
    for (n, v) in added.build().iter() {
        b.set(n, v);
    }
    Ok(Some(b.build()))
}
