//! histogram_quantile, histogram_quantiles and histogram_fraction over native and classic histograms.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use strandline_storage::model::Labels;

use super::super::annotations::Annotations;
use super::super::ast::{Call, Span};
use super::super::error::Result;
use super::super::gofmt::open_metrics;
use super::super::histogram::quantile::{Classic, NanNote, classic_fraction, classic_quantile, native_fraction, native_quantile};
use super::context::Steps;
use super::expr::Evaluator;
use super::holding::Held;
use super::prepare::Use;
use super::series::{ABSENT, Series, is_absent, merge_same_labels};

/// A histogram over all steps: its native series, its classic buckets, or both.
#[derive(Default)]
struct Group {
    labels: Labels,
    /// Input rows with native histograms of exactly these labels.
    native: Vec<usize>,
    /// (upper bound, input row)
    classic: Vec<(f64, usize)>,
}

/// What is asked of each histogram.
enum Ask {
    Quantiles { qs: Vec<Vec<f64>>, label: Option<String> },
    Fraction { lower: Vec<f64>, upper: Vec<f64> },
}

impl Evaluator<'_> {
    pub(super) fn histogram_function(&self, c: &Call, steps: Steps, ann: &mut Annotations) -> Result<Vec<Series>> {
        let scalar = |i: usize, ann: &mut Annotations| self.scalar(c.args[i].unparen(), steps, ann);
        let (input, ask) = match c.func.name {
            "histogram_quantile" => (1, Ask::Quantiles { qs: vec![scalar(0, ann)?], label: None }),
            "histogram_fraction" => (2, Ask::Fraction { lower: scalar(0, ann)?, upper: scalar(1, ann)? }),
            _ => {
                let qs = (2..c.args.len()).map(|i| scalar(i, ann)).collect::<Result<_>>()?;
                (0, Ask::Quantiles { qs, label: Some(self.string(&c.args[1])?) })
            }
        };
        let arg = c.args[input].unparen();
        let rows = self.rows(arg, steps, Use::default(), ann)?;
        let held = Held::of(&rows);
        // After what the argument has to tell: of one text in two places the later counts.
        if let Ask::Quantiles { qs, label } = &ask {
            let first = if label.is_some() { 2 } else { 0 };
            qs.iter().zip(&c.args[first..]).for_each(|(q, at)| check_quantiles(q, at.unparen().span, ann));
        }
        let groups = group(&rows, arg.span, ann);
        let mut out = Vec::new();
        for g in &groups {
            self.ctx.check()?;
            match &ask {
                Ask::Quantiles { qs, label } => {
                    for q in qs {
                        let Some(label) = label else {
                            let row = evaluate(g, &rows, steps, arg.span, ann, Some(q), None);
                            self.ctx.memory.hold_row(&row)?;
                            out.push(row);
                            continue;
                        };
                        // The label names the quantile, which may change from step to step.
                        let mut distinct: Vec<f64> = q.clone();
                        distinct.sort_by(f64::total_cmp);
                        distinct.dedup_by(|a, b| a.to_bits() == b.to_bits());
                        for value in distinct {
                            let mut row = evaluate(g, &rows, steps, arg.span, ann, Some(q), None);
                            for (v, x) in row.v.iter_mut().zip(q) {
                                if x.to_bits() != value.to_bits() {
                                    *v = ABSENT;
                                }
                            }
                            let mut b = row.labels.to_builder();
                            b.set(label, &open_metrics(value));
                            row.labels = b.build();
                            self.ctx.memory.hold_row(&row)?;
                            out.push(row);
                        }
                    }
                }
                Ask::Fraction { lower, upper } => {
                    let row = evaluate(g, &rows, steps, arg.span, ann, None, Some((lower, upper)));
                    self.ctx.memory.hold_row(&row)?;
                    out.push(row);
                }
            }
        }
        self.ctx.memory.release_rows(held);
        out.retain(|r| !r.is_empty());
        if steps.n > 1 { merge_same_labels(out) } else { Ok(out) }
    }
}

fn check_quantiles(q: &[f64], at: Span, ann: &mut Annotations) {
    let mut last = f64::NEG_INFINITY;
    for q in q {
        if !(0.0..=1.0).contains(q) && q.to_bits() != last.to_bits() {
            ann.invalid_quantile(*q, at);
        }
        last = *q;
    }
}

/// Sorts input rows into histograms: classic buckets by their labels without `le`, native ones by their labels.
fn group(rows: &[Series], at: Span, ann: &mut Annotations) -> Vec<Group> {
    let mut index: HashMap<Labels, usize, RandomState> = HashMap::with_hasher(RandomState::default());
    let mut groups: Vec<Group> = Vec::new();
    let mut of = |labels: Labels, drop: bool, groups: &mut Vec<Group>| -> usize {
        let _ = drop;
        *index.entry(labels.clone()).or_insert_with(|| {
            groups.push(Group { labels, ..Group::default() });
            groups.len() - 1
        })
    };
    for (i, r) in rows.iter().enumerate() {
        if r.h.iter().any(Option::is_some) {
            let g = of(r.labels.clone(), r.drop_name, &mut groups);
            groups[g].native.push(i);
        }
        if r.v.iter().all(|v| is_absent(*v)) {
            continue;
        }
        let le = r.labels.value("le");
        let Some(upper) = parse_bound(le) else {
            ann.bad_bucket_label(r.labels.metric_name(), le, at);
            continue;
        };
        let g = of(r.labels.without(|n| n == "le"), r.drop_name, &mut groups);
        groups[g].classic.push((upper, i));
    }
    for g in &mut groups {
        g.classic.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    groups
}

/// A bucket's bound as Go reads floats.
pub(crate) fn parse_bound(s: &str) -> Option<f64> {
    let t = s.trim_start_matches(['+', '-']);
    let word = t.to_ascii_lowercase();
    if s.is_empty() || s.len() - t.len() > 1 || s.contains(char::is_whitespace) {
        return None;
    }
    let v: f64 = match word.as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => f64::NAN,
        _ if t.starts_with(|c: char| c.is_ascii_digit() || c == '.') => t.replace('_', "").parse().ok()?,
        _ => return None,
    };
    Some(if s.starts_with('-') { -v } else { v })
}

fn evaluate(
    g: &Group,
    rows: &[Series],
    steps: Steps,
    at: Span,
    ann: &mut Annotations,
    q: Option<&Vec<f64>>,
    bounds: Option<(&Vec<f64>, &Vec<f64>)>,
) -> Series {
    let mut out = Series::new(g.labels.clone(), true, steps.n);
    let name = g.labels.metric_name();
    let mut buckets: Vec<Classic> = Vec::with_capacity(g.classic.len());
    for i in 0..steps.n {
        buckets.clear();
        buckets
            .extend(g.classic.iter().filter(|(_, r)| !is_absent(rows[*r].v[i])).map(|(u, r)| Classic { upper: *u, count: rows[*r].v[i] }));
        let native = g.native.iter().find_map(|r| rows[*r].hist(i));
        out.v[i] = match (native, buckets.is_empty()) {
            (None, true) => continue,
            (Some(_), false) => {
                ann.mixed_classic_native(name, at);
                continue;
            }
            (Some(h), true) => {
                let (v, note) = match (q, bounds) {
                    (Some(q), _) => native_quantile(q[i], h),
                    (None, Some((lo, hi))) => native_fraction(lo[i], hi[i], h),
                    (None, None) => continue,
                };
                match (note, q.is_some()) {
                    (NanNote::None, _) => {}
                    (NanNote::Result, _) => ann.nan_quantile_result(name, at),
                    (NanNote::Skew, true) => ann.nan_quantile_skew(name, at),
                    (NanNote::Skew, false) => ann.nan_fraction(name, at),
                }
                v
            }
            (None, false) => match (q, bounds) {
                (Some(q), _) => {
                    let (v, forced) = classic_quantile(q[i], &mut buckets);
                    if let Some(f) = forced {
                        ann.forced_monotonicity(name, at, steps.at(i), f);
                    }
                    v
                }
                (None, Some((lo, hi))) => classic_fraction(lo[i], hi[i], &mut buckets),
                (None, None) => continue,
            },
        };
    }
    out
}
