//! What can be wrong with a query.

use std::fmt;

/// Kind of a TraceQL error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceQlErrorKind {
    /// The text is not TraceQL.
    Parse,
    /// It is TraceQL, and makes no sense: types that don't fit, a regex that doesn't compile.
    Invalid,
    /// It is TraceQL that is reserved and not supported, here as in Tempo.
    Unsupported,
    /// It failed while being evaluated, by what the data holds or by a limit.
    Evaluation,
    /// Storage could not be read.
    Storage,
}

/// An error with the place in the query that it is about.
#[derive(Debug)]
#[non_exhaustive]
pub struct TraceQlError {
    /// What kind it is.
    pub kind: TraceQlErrorKind,
    /// Line, from 1; 0 if it is about no place in the text.
    pub line: u32,
    /// Column in characters, from 1.
    pub col: u32,
    message: String,
    source: Option<strandline_storage::Error>,
}

/// Result of this module.
pub type Result<T, E = TraceQlError> = std::result::Result<T, E>;

impl TraceQlError {
    /// An error about a place in the text.
    pub(crate) fn at(kind: TraceQlErrorKind, text: &str, offset: usize, message: impl Into<String>) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() as u32 + 1;
        let col = before.rsplit('\n').next().unwrap_or("").chars().count() as u32 + 1;
        TraceQlError { kind, line, col, message: message.into(), source: None }
    }
    /// An error of evaluation.
    pub(crate) fn evaluation(message: impl Into<String>) -> Self {
        TraceQlError { kind: TraceQlErrorKind::Evaluation, line: 0, col: 0, message: message.into(), source: None }
    }
    /// What went wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// The storage error, if storage could not be read.
    pub fn storage(&self) -> Option<&strandline_storage::Error> {
        self.source.as_ref()
    }
}

impl From<strandline_storage::Error> for TraceQlError {
    fn from(e: strandline_storage::Error) -> Self {
        TraceQlError { kind: TraceQlErrorKind::Storage, line: 0, col: 0, message: e.to_string(), source: Some(e) }
    }
}

impl fmt::Display for TraceQlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            TraceQlErrorKind::Parse => "parse error",
            TraceQlErrorKind::Invalid => "invalid query",
            TraceQlErrorKind::Unsupported => "unsupported query",
            TraceQlErrorKind::Evaluation => "query failed",
            TraceQlErrorKind::Storage => "storage",
        };
        if self.line == 0 {
            return write!(f, "{what}: {}", self.message);
        }
        write!(f, "{what} at {}:{}: {}", self.line, self.col, self.message)
    }
}

impl std::error::Error for TraceQlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}
