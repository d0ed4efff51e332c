//! label_replace, label_join, sorting, and the labels of absent().

use std::cmp::Ordering;

use strandline_storage::model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, Regex};

use super::super::ast::{Call, Expr, ExprKind};
use super::super::error::{Error, Result};
use super::super::parser::is_valid_label_name;
use super::expr::Evaluator;
use super::series::{Series, is_absent, merge_same_labels};

/// Labels that the matchers of a selector pin down.
pub(super) fn absent_labels(e: &Expr) -> Labels {
    let matchers = match &e.kind {
        ExprKind::Vector(v) => &v.matchers,
        ExprKind::Matrix(m) => &m.selector.matchers,
        _ => return Labels::empty(),
    };
    let mut b = LabelsBuilder::default();
    let mut seen: Vec<&str> = Vec::new();
    for m in matchers.iter().filter(|m| m.name != METRIC_NAME) {
        // A label matched twice is not pinned down, even by the same value.
        if m.op == MatchOp::Equal && !seen.contains(&m.name.as_str()) {
            b.set(&m.name, &m.value);
            seen.push(&m.name);
        } else {
            b.remove(&m.name);
        }
    }
    b.build()
}

impl Evaluator<'_> {
    pub(super) fn label_replace(&self, c: &Call, mut rows: Vec<Series>) -> Result<Vec<Series>> {
        let [dst, replacement, src, pattern] = [1, 2, 3, 4].map(|i| self.string(&c.args[i]));
        let (dst, replacement, src, pattern) = (dst?, replacement?, src?, pattern?);
        let re = Regex::anchored(&pattern).map_err(|_| Error::exec(format!("invalid regular expression in label_replace(): {pattern}")))?;
        if !is_valid_label_name(&dst) {
            return Err(Error::exec(format!("invalid destination label name in label_replace(): {dst}")));
        }
        for r in &mut rows {
            let Some(caps) = re.captures(r.labels.value(&src)) else { continue };
            let value = expand(&replacement, |name| match group_number(name) {
                Some(n) => caps.get(n).map_or("", |m| m.as_str()),
                None => caps.name(name).map_or("", |m| m.as_str()),
            });
            let mut b = r.labels.to_builder();
            b.set(&dst, &value);
            r.labels = b.build();
            if dst == METRIC_NAME {
                r.drop_name = false;
            }
        }
        merge_same_labels(rows)
    }

    pub(super) fn label_join(&self, c: &Call, mut rows: Vec<Series>) -> Result<Vec<Series>> {
        let (dst, separator) = (self.string(&c.args[1])?, self.string(&c.args[2])?);
        let sources = c.args[3..].iter().map(|a| self.string(a)).collect::<Result<Vec<_>>>()?;
        if let Some(bad) = sources.iter().find(|s| !is_valid_label_name(s)) {
            return Err(Error::exec(format!("invalid source label name in label_join(): {bad}")));
        }
        if !is_valid_label_name(&dst) {
            return Err(Error::exec(format!("invalid destination label name in label_join(): {dst}")));
        }
        for r in &mut rows {
            let value = sources.iter().map(|s| r.labels.value(s)).collect::<Vec<_>>().join(&separator);
            let mut b = r.labels.to_builder();
            b.set(&dst, &value);
            r.labels = b.build();
            if dst == METRIC_NAME {
                r.drop_name = false;
            }
        }
        merge_same_labels(rows)
    }

    pub(super) fn sort(&self, c: &Call, mut rows: Vec<Series>) -> Result<Vec<Series>> {
        let name = c.func.name;
        let descending = name.ends_with("_desc");
        if name.starts_with("sort_by_label") {
            let labels = c.args[1..].iter().map(|a| self.string(a)).collect::<Result<Vec<_>>>()?;
            rows.sort_by(|a, b| {
                let by_label = labels.iter().map(|l| natural(a.labels.value(l), b.labels.value(l))).find(|o| o.is_ne());
                let o = by_label.unwrap_or_else(|| a.labels.cmp(&b.labels));
                if descending { o.reverse() } else { o }
            });
            return Ok(rows);
        }
        // Sorting means something at one step only; histograms have no order and fall away.
        for r in &mut rows {
            r.h.clear();
        }
        rows.retain(|r| r.v.iter().any(|v| !is_absent(*v)));
        rows.sort_by(|a, b| {
            let (x, y) = (a.v[0], b.v[0]);
            match (x.is_nan(), y.is_nan()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => {
                    let o = x.partial_cmp(&y).unwrap_or(Ordering::Equal);
                    if descending { o.reverse() } else { o }
                }
            }
        });
        Ok(rows)
    }
}

/// The template with `$name`, `${name}` and `$$` filled in. Go's rules: the longest name counts, and a `$` before none
/// stands for itself.
fn expand<'a>(template: &str, group: impl Fn(&str) -> &'a str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (braced, inner) = rest.strip_prefix('{').map_or((false, rest), |inner| (true, inner));
        let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
        let (name, after) = inner.split_at(end);
        let after = if braced { after.strip_prefix('}') } else { Some(after) };
        match after {
            Some(after) if !name.is_empty() => {
                out.push_str(group(name));
                rest = after;
            }
            _ => out.push('$'),
        }
    }
    out + rest
}

/// The number of a group; with a leading zero it would be a name.
fn group_number(name: &str) -> Option<usize> {
    let number = name.bytes().all(|b| b.is_ascii_digit()) && (name.len() == 1 || !name.starts_with('0'));
    if number { name.parse().ok() } else { None }
}

/// Order in which runs of digits count as numbers.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    while !x.is_empty() && !y.is_empty() {
        let digit = |s: &[u8]| s[0].is_ascii_digit();
        let run = |s: &[u8], d: bool| s.iter().take_while(|c| c.is_ascii_digit() == d).count();
        let (dx, dy) = (digit(x), digit(y));
        let (nx, ny) = (run(x, dx), run(y, dy));
        let (px, py) = (&x[..nx], &y[..ny]);
        if dx && dy {
            let strip = |s: &[u8]| s.iter().take_while(|c| **c == b'0').count();
            let (sx, sy) = (&px[strip(px)..], &py[strip(py)..]);
            let o = sx.len().cmp(&sy.len()).then_with(|| sx.cmp(sy)).then_with(|| px.len().cmp(&py.len()));
            if o.is_ne() {
                return o;
            }
        } else if px != py {
            return px.cmp(py);
        }
        (x, y) = (&x[nx..], &y[ny..]);
    }
    x.len().cmp(&y.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_text_sort_as_numbers() {
        let mut v = ["4m1000", "4m5", "4m600", "10", "9", "a", "1.111.3", "1.11.3", "1.2.3"];
        v.sort_by(|a, b| natural(a, b));
        assert_eq!(v, ["1.2.3", "1.11.3", "1.111.3", "4m5", "4m600", "4m1000", "9", "10", "a"]);
    }
}
