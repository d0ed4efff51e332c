//! TraceQL: parse, check, evaluate over batches of whole traces.

pub mod ast;
mod check;
mod error;
mod eval;
mod lexer;
mod metrics;
mod parser;
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

/// Reads a query without checking it.
pub fn parse_unchecked(text: &str) -> Result<Query, TraceQlError> {
    parser::parse(text)
}
