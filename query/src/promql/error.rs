//! Errors of parsing and evaluation.

use std::fmt;

use super::ast::Span;

/// What is wrong with a query text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// `line:col` of the start, counted from 1; an empty text has none.
    pub position: String,
}

impl ParseError {
    /// An error at `span` of `text`.
    pub fn new(text: &str, span: Span, message: impl Into<String>) -> Self {
        let position = if text.is_empty() { "unknown position".to_owned() } else { span.line_col(text) };
        ParseError { message: message.into(), span, position }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: parse error: {}", self.position, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Which limit a query met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// Samples held and read.
    Samples,
    /// Series selected.
    Series,
    /// Bytes held.
    Bytes,
    /// Bytes held by all queries at once.
    BytesTogether,
    /// Nesting of the expression.
    Depth,
    /// Steps of a range query.
    Steps,
}

/// Why a query gave no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The text is no valid query.
    Parse(ParseError),
    /// The parameters of the request make no sense.
    Invalid(String),
    /// Evaluation failed on the data, e.g. duplicate series in a match group.
    Execution(String),
    /// The query needs more than it may have.
    LimitExceeded {
        /// Which limit.
        limit: Limit,
        /// Its value.
        allowed: u64,
        /// What the query needed, at least.
        needed: u64,
    },
    /// The deadline passed.
    Timeout(std::time::Duration),
    /// The caller gave up.
    Canceled,
    /// Storage could not answer.
    Storage(strandline_storage::Error),
    /// A defect of the engine.
    Internal(String),
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn exec(msg: impl Into<String>) -> Self {
        Error::Execution(msg.into())
    }

    /// Whether the same query may pass later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Timeout(_) | Error::Canceled | Error::LimitExceeded { limit: Limit::BytesTogether, .. } => true,
            Error::Storage(e) => e.is_retryable(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parse(e) => e.fmt(f),
            Error::Invalid(m) | Error::Execution(m) => f.write_str(m),
            Error::LimitExceeded { limit, allowed, needed } => {
                let what = match limit {
                    Limit::Samples => "query processing would load too many samples into memory",
                    Limit::Series => "query selects too many series",
                    Limit::Bytes => "query needs too much memory",
                    Limit::BytesTogether => "the queries at work need too much memory together, ask again later",
                    Limit::Depth => "expression is nested too deeply",
                    Limit::Steps => "range query has too many steps",
                };
                write!(f, "{what}: at least {needed} needed, the limit is {allowed}")
            }
            Error::Timeout(d) => write!(f, "query timed out in expression evaluation after {d:?}"),
            Error::Canceled => f.write_str("query was canceled in expression evaluation"),
            Error::Storage(e) => write!(f, "expanding series: {e}"),
            Error::Internal(m) => write!(f, "unexpected error: {m}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Parse(e) => Some(e),
            Error::Storage(e) => Some(e),
            _ => None,
        }
    }
}

impl From<ParseError> for Error {
    fn from(e: ParseError) -> Self {
        Error::Parse(e)
    }
}

impl From<strandline_storage::Error> for Error {
    fn from(e: strandline_storage::Error) -> Self {
        Error::Storage(e)
    }
}
