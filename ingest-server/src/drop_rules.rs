//! `[[drop]]` rules: series that are not stored. Their samples are acknowledged, counted and thrown away.

use strandline_query::promql;
use strandline_storage::index::RawLabels;
use strandline_storage::metrics::head::{Batch, SeriesKey};
use strandline_storage::model::Matcher;

use crate::app::App;
use crate::counters::Counters;

/// A series that passes all matchers of a rule is dropped.
pub type Rule = Vec<Matcher>;

/// Parses a selector as PromQL has them: `go_goroutines`, `{__name__=~"go_.*", job="a"}`.
pub fn parse(s: &str) -> Result<Rule, String> {
    promql::parse_selector(s)
        .map(|selector| selector.matchers)
        .map_err(|e| format!("{s:?} is not a selector like {{__name__=~\"go_.*\"}}: {e}"))
}

/// Takes the items of dropped series out of a batch, and their entries out of `beside`, which has one for each item.
pub fn apply(app: &App, batch: &mut Batch, beside: Option<&mut Vec<u32>>) {
    let rules = app.drop_rules();
    if rules.is_empty() {
        return;
    }
    let dropped: Vec<bool> = batch.series.iter().map(|k| is_dropped(&rules, k, &batch.raw)).collect();
    if !dropped.contains(&true) {
        return;
    }
    let keep: Vec<bool> = batch.items.iter().map(|i| !dropped[i.series as usize]).collect();
    Counters::add(&app.counters.dropped_samples, keep.iter().filter(|k| !**k).count() as u64);
    retain(&mut batch.items, &keep);
    if let Some(beside) = beside {
        retain(beside, &keep);
    }
    batch.exemplars.retain(|(s, _)| !dropped[*s as usize]);
}

fn is_dropped(rules: &[Rule], key: &SeriesKey, raw: &[u8]) -> bool {
    let SeriesKey::Raw { start, len } = *key else { return false };
    let raw = raw.get(start as usize..(start + len) as usize).unwrap_or(&[]);
    let pairs: Vec<(&[u8], &[u8])> = RawLabels(raw).flatten().collect();
    let value = |name: &str| pairs.iter().find(|(n, _)| *n == name.as_bytes()).and_then(|(_, v)| std::str::from_utf8(v).ok()).unwrap_or("");
    rules.iter().any(|rule| rule.iter().all(|m| m.matches(value(&m.name))))
}

fn retain<T>(list: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    list.retain(|_| *keep.next().unwrap_or(&true));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn selectors() {
        let m = parse(r#"{__name__=~"go_.*", job!="a\"b"}"#).unwrap();
        assert_eq!(m.len(), 2);
        assert_eq!(m[1].value, "a\"b");
        assert_eq!(parse("go_goroutines").unwrap().len(), 1);
        for bad in ["", "{", "x[5m]", "{a}", "{a=b}", "{}", r#"{a=~".*"}"#, r#"{a=~"("}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
