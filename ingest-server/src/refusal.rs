//! Why a request is not served, and how each protocol says so.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use strandline_storage::ErrorKind;

/// What a sender should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request is wrong; the same again won't help.
    Invalid,
    /// Larger than what is taken.
    TooLarge,
    /// A media type or encoding that is not known.
    Unsupported,
    /// Who are you?
    Unauthenticated,
    /// You may not.
    Forbidden,
    /// Too much at once; later.
    Overloaded,
    /// The request did not come in time; again.
    TooSlow,
    /// Something here does not work; later.
    Unavailable,
}

impl Reason {
    /// A word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Invalid => "invalid",
            Reason::TooLarge => "too_large",
            Reason::Unsupported => "unsupported",
            Reason::Unauthenticated => "unauthenticated",
            Reason::Forbidden => "forbidden",
            Reason::Overloaded => "overloaded",
            Reason::TooSlow => "too_slow",
            Reason::Unavailable => "unavailable",
        }
    }
}

/// A refusal with its message.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What the sender should do.
    pub reason: Reason,
    /// In words.
    pub message: String,
}

/// Seconds after which an overloaded sender should try again.
pub const RETRY_AFTER_S: u64 = 1;
/// The same where parts of a second can be said.
pub const RETRY_INFO_MS: u64 = 500;

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Refusal { reason, message: message.into() }
    }

    /// Whether the sender may try again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.reason, Reason::Overloaded | Reason::TooSlow | Reason::Unavailable)
    }

    /// A word for counters.
    pub fn word(&self) -> &'static str {
        self.reason.word()
    }

    /// The HTTP status. Overload is 503: Prometheus does not retry 429, nor anyone 408.
    pub fn status(&self) -> StatusCode {
        match self.reason {
            Reason::Invalid => StatusCode::BAD_REQUEST,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Reason::Unauthenticated => StatusCode::UNAUTHORIZED,
            Reason::Forbidden => StatusCode::FORBIDDEN,
            Reason::Overloaded | Reason::TooSlow | Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC code.
    pub fn grpc_code(&self) -> u32 {
        match self.reason {
            Reason::Invalid | Reason::TooLarge => 3,
            Reason::Unsupported => 12,
            Reason::Unauthenticated => 16,
            Reason::Forbidden => 7,
            Reason::Overloaded => 8,
            Reason::TooSlow | Reason::Unavailable => 14,
        }
    }

    /// Headers that go with it.
    pub fn headers(&self) -> HeaderMap {
        let mut h = HeaderMap::new();
        if self.is_retryable() {
            h.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if self.reason == Reason::Unauthenticated {
            h.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"strandline\", Bearer"));
        }
        h
    }
}

impl From<strandline_storage::Error> for Refusal {
    fn from(e: strandline_storage::Error) -> Self {
        let reason = match e.kind {
            ErrorKind::Invalid | ErrorKind::OutOfOrder | ErrorKind::NotFound => Reason::Invalid,
            ErrorKind::LimitExceeded => Reason::Overloaded,
            _ => Reason::Unavailable,
        };
        Refusal::new(reason, e.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status(), self.headers(), format!("{}\n", self.message)).into_response()
    }
}
