//! `[[drop]]`: series that are shed on arrival.

use strandline_query::promql;
use strandline_storage::model::Matcher;

/// Parses a selector as PromQL has them: `go_goroutines`, `{__name__=~"go_.*", job="a"}`.
pub fn parse(s: &str) -> Result<Vec<Matcher>, String> {
    promql::parse_selector(s)
        .map(|selector| selector.matchers)
        .map_err(|e| format!("{s:?} is not a selector like {{__name__=~\"go_.*\"}}: {e}"))
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
