//! TraceQL: parse, check, evaluate over batches of whole traces.

pub mod ast;
mod check;
mod error;
mod eval;
mod lexer;
mod metrics;
mod parser;
mod scan;
mod search;
mod tags;
mod value;

pub use ast::{Query, Root};
pub use error::{TraceQlError, TraceQlErrorKind};
pub use lexer::Scope;
pub use metrics::{Exemplar, MetricsOptions, MetricsResult, Series, default_step, query_range};
pub use search::{MatchedSet, MatchedSpan, ROOT_NOT_RECEIVED, SearchOptions, SearchResult, TraceMatch, narrowed, search};
pub use tags::{TagOptions, TagValue, parse_tag, tag_names, tag_values};
pub use value::Val;

/// Reads and checks a query.
pub fn parse(text: &str) -> Result<Query, TraceQlError> {
    let query = parser::parse(text)?;
    check::check(text, &query)?;
    Ok(query)
}

/// Reads a filter that may still be being typed: where the text is no query, what is complete of its conditions joined by `&&`
/// counts. None where nothing can be made of it.
pub fn parse_unfinished(text: &str) -> Option<Query> {
    if let Ok(query) = parse(text) {
        return Some(query);
    }
    let complete = parser::conditions_in(text)?.into_iter().filter(|c| parse(&format!("{{ {c} }}")).is_ok());
    let complete: Vec<String> = complete.map(|c| format!("({c})")).collect();
    parse(&format!("{{ {} }}", complete.join(" && "))).ok()
}

/// Reads a query without checking it.
pub fn parse_unchecked(text: &str) -> Result<Query, TraceQlError> {
    parser::parse(text)
}

#[cfg(test)]
mod tests {
    use super::parse_unfinished;

    #[test]
    fn of_a_filter_being_typed_what_is_complete_counts() {
        for (text, meaning) in [
            (r#"{ .a = 1 && .b = "#, "{ .a = 1 }"),
            (r#"{ .a = "x && y" && .b = "unfinished"#, r#"{ .a = "x && y" }"#),
            ("{ .a = 1 && && .b = 2 }", "{ .a = 1 && .b = 2 }"),
            ("{ .a = 1 && (.b = 2 && .c = }", "{ .a = 1 }"),
            ("{ .a = `{` && .", "{ .a = `{` }"),
            ("{ ", "{ }"),
        ] {
            let read = parse_unfinished(text).map(|q| q.root);
            assert_eq!(
                format!("{read:?}").replace(char::is_numeric, ""),
                format!("{:?}", Some(super::parse(meaning).unwrap().root)).replace(char::is_numeric, ""),
                "{text}"
            );
        }
        assert!(parse_unfinished("rate(").is_none());
    }
}
