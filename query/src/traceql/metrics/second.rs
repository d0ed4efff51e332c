//! What is made of series: the largest or smallest, comparisons, arithmetic.

use std::collections::BTreeMap;

use super::Series;
use crate::traceql::ast::BinOp;
use crate::traceql::value::Val;

/// Label of what is grouped by nothing.
const NAME: &str = "__name__";

/// At each time the `n` largest (or smallest) samples stay.
pub(super) fn top(largest: bool, n: u64, mut series: Vec<Series>) -> Vec<Series> {
    // Of equal ones the first by labels, so that the answer is the same each time.
    series.sort_by_key(super::labels_key);
    let slots = series.first().map_or(0, |s| s.values.len());
    for slot in 0..slots {
        let mut order: Vec<usize> = (0..series.len()).filter(|s| !series[*s].values[slot].is_nan()).collect();
        order.sort_by(|a, b| {
            let by_value = series[*a].values[slot].total_cmp(&series[*b].values[slot]);
            if largest { by_value.reverse() } else { by_value }
        });
        for s in order.into_iter().skip(usize::try_from(n).unwrap_or(usize::MAX)) {
            series[s].values[slot] = f64::NAN;
        }
    }
    series
}

/// Samples that satisfy a comparison stay.
pub(super) fn filter(op: BinOp, bound: f64, mut series: Vec<Series>) -> Vec<Series> {
    let holds = |v: f64| match op {
        BinOp::Eq => v == bound,
        BinOp::Ne => v != bound && !v.is_nan(),
        BinOp::Lt => v < bound,
        BinOp::Le => v <= bound,
        BinOp::Gt => v > bound,
        _ => v >= bound,
    };
    for s in &mut series {
        s.values.iter_mut().filter(|v| !holds(**v)).for_each(|v| *v = f64::NAN);
    }
    series.retain(|s| s.values.iter().any(|v| !v.is_nan()));
    series
}

fn apply(op: BinOp, a: f64, b: f64) -> f64 {
    match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        // What is divided by nothing is no sample.
        _ if b == 0.0 => f64::NAN,
        _ => a / b,
    }
}

/// Arithmetic with a number; `sides` puts a sample and the number in order.
pub(super) fn scalar(op: BinOp, mut series: Vec<Series>, sides: impl Fn(f64) -> (f64, f64)) -> Vec<Series> {
    for v in series.iter_mut().flat_map(|s| &mut s.values) {
        let (a, b) = sides(*v);
        *v = apply(op, a, b);
    }
    series
}

/// Labels beside the name, which stands in for them where there are none.
fn key(s: &Series) -> Vec<(String, String, u8)> {
    let mut k: Vec<_> = super::labels_key(s).into_iter().filter(|l| l.0 != NAME).collect();
    k.sort();
    k
}

fn name_of(series: &[Series]) -> Option<String> {
    series.first()?.labels.iter().find(|l| l.0 == NAME).map(|l| l.1.text())
}

/// Arithmetic between series of the same labels; one without labels goes with each of the other side. What has no
/// partner is left out, and a sample that is not there counts as zero.
pub(super) fn math(op: BinOp, left: Vec<Series>, right: Vec<Series>) -> Vec<Series> {
    let name = name_of(&left).zip(name_of(&right)).map(|(l, r)| format!("({l} {} {r})", op.text()));
    let by_key = |series: Vec<Series>| series.into_iter().map(|s| (key(&s), s)).collect::<BTreeMap<_, Series>>();
    let (left, right) = (by_key(left), by_key(right));
    let plain = Vec::new();
    let keys = if right.contains_key(&plain) { left.keys() } else { right.keys() };
    let zero = |v: f64| if v.is_nan() { 0.0 } else { v };
    let mut out = Vec::new();
    for k in keys {
        let of = |side: &BTreeMap<_, Series>| side.get(k).or_else(|| side.get(&plain)).cloned();
        let (Some(l), Some(r)) = (of(&left), of(&right)) else { continue };
        let mut labels = if key(&l).is_empty() { r.labels } else { l.labels };
        labels.retain(|x| x.0 != NAME);
        if let Some(n) = &name {
            labels.insert(0, (NAME.into(), Val::Str(n.as_str().into())));
        }
        let values = l.values.iter().zip(&r.values).map(|(a, b)| apply(op, zero(*a), zero(*b))).collect();
        let mut exemplars = l.exemplars;
        exemplars.extend(r.exemplars);
        out.push(Series { labels, values, exemplars });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        Series { labels: vec![("n".into(), Val::Str(name.into()))], values: values.to_vec(), exemplars: vec![] }
    }

    fn shown(s: &[Series]) -> Vec<String> {
        s.iter().map(|s| format!("{} {:?}", s.labels[0].1.text(), s.values)).collect()
    }

    #[test]
    fn the_largest_at_each_time() {
        let s = vec![series("a", &[1.0, 5.0]), series("b", &[2.0, f64::NAN]), series("c", &[2.0, 3.0])];
        assert_eq!(shown(&top(true, 1, s.clone())), ["a [NaN, 5.0]", "b [2.0, NaN]", "c [NaN, NaN]"]);
        assert_eq!(shown(&top(false, 1, s)), ["a [1.0, NaN]", "b [NaN, NaN]", "c [NaN, 3.0]"]);
    }

    #[test]
    fn comparisons_and_arithmetic() {
        let s = vec![series("a", &[1.0, 5.0]), series("b", &[0.0, f64::NAN])];
        assert_eq!(shown(&filter(BinOp::Gt, 1.0, s.clone())), ["a [NaN, 5.0]"]);
        assert_eq!(shown(&filter(BinOp::Ne, 1.0, s.clone())), ["a [NaN, 5.0]", "b [0.0, NaN]"]);
        assert_eq!(shown(&scalar(BinOp::Sub, s.clone(), |v| (10.0, v))), ["a [9.0, 5.0]", "b [10.0, NaN]"]);
        let r = vec![series("a", &[2.0, 0.0])];
        assert_eq!(shown(&math(BinOp::Mul, s.clone(), r.clone())), ["a [2.0, 0.0]"]);
        assert_eq!(shown(&math(BinOp::Div, r.clone(), s.clone())), ["a [2.0, 0.0]"]);
        assert_eq!(shown(&math(BinOp::Div, s.clone(), r)), ["a [0.5, NaN]"]);
        // What has no labels goes with each, on either side.
        let total = |n: &str| Series { labels: vec![(NAME.into(), Val::Str(n.into()))], values: vec![2.0, 4.0], exemplars: vec![] };
        assert_eq!(shown(&math(BinOp::Div, s.clone(), vec![total("rate")])), ["a [0.5, 1.25]", "b [0.0, 0.0]"]);
        assert_eq!(shown(&math(BinOp::Sub, vec![total("rate")], s)), ["a [1.0, -1.0]", "b [2.0, 4.0]"]);
        let both = math(BinOp::Div, vec![total("rate")], vec![total("count_over_time")]);
        assert_eq!(shown(&both), ["(rate / count_over_time) [1.0, 1.0]"]);
    }
}
