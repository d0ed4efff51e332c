//! Refusals, in plain text, with the status codes that Tempo's clients know.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use strandline_query::traceql::{TraceQlError, TraceQlErrorKind};
use strandline_storage::{Error, ErrorKind};

/// Why a request is refused or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TempoError {
    /// HTTP status.
    pub status: StatusCode,
    /// Text of the answer.
    pub message: String,
}

impl TempoError {
    /// With a status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        TempoError { status, message: message.into() }
    }
    /// The request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<&Error> for TempoError {
    fn from(e: &Error) -> Self {
        let status = match e.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::LimitExceeded => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Unavailable | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.to_string())
    }
}

impl From<Error> for TempoError {
    fn from(e: Error) -> Self {
        TempoError::from(&e)
    }
}

impl From<TraceQlError> for TempoError {
    fn from(e: TraceQlError) -> Self {
        match (e.kind, e.storage()) {
            (_, Some(s)) => TempoError::from(s),
            (TraceQlErrorKind::Evaluation, _) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, e.to_string()),
            _ => Self::bad_request(e.to_string()),
        }
    }
}

impl IntoResponse for TempoError {
    fn into_response(self) -> Response {
        let mut r = (self.status, self.message).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS || self.status == StatusCode::SERVICE_UNAVAILABLE {
            r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        r
    }
}
