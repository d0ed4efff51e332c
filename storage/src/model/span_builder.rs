//! Spans made by hand, without an SDK.

use std::sync::Arc;
use std::time::Duration;

use super::span::{AttributeValue, Attributes, Resource, Scope, Span, SpanEvent, SpanId, TraceId};

/// What a span is to its parent; the numbers are OTLP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum SpanKind {
    /// Neither end of a call.
    Internal = 1,
    /// Answers a call.
    Server = 2,
    /// Makes a call and waits.
    Client = 3,
    /// Sends a message.
    Producer = 4,
    /// Takes a message.
    Consumer = 5,
}

/// Puts an attribute in its place by key; one that is there is replaced.
fn put(all: &mut Attributes, key: String, value: AttributeValue) {
    match all.binary_search_by(|(k, _)| k.as_str().cmp(&key)) {
        Ok(i) => all[i].1 = value,
        Err(i) => all.insert(i, (key, value)),
    }
}

impl Resource {
    /// A service by its name.
    pub fn of_service(name: impl Into<String>) -> Self {
        Resource::default().attribute("service.name", name.into())
    }
    /// Adds an attribute, or replaces it.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<AttributeValue>) -> Self {
        put(&mut self.attributes, key.into(), value.into());
        self
    }
}

/// By value, so that a span is made in one expression:
///
/// ```
/// use std::time::Duration;
/// use strandline_storage::model::{Resource, Span, SpanId, SpanKind, TraceId};
///
/// let root = Span::new(TraceId([1; 16]), SpanId([1; 8]), "GET /cart")
///     .of_kind(SpanKind::Server)
///     .lasting(1_700_000_000_000_000_000, Duration::from_millis(250))
///     .attribute("http.response.status_code", 500)
///     .failed("upstream")
///     .of(Resource::of_service("shop"));
/// let query = root.child(SpanId([2; 8]), "SELECT carts").of_kind(SpanKind::Client);
/// assert_eq!((query.parent_span_id, query.service_name()), (Some(root.span_id), Some("shop")));
/// ```
impl Span {
    /// A root of a trace, by itself: all else is OTLP's default.
    pub fn new(trace_id: TraceId, span_id: SpanId, name: impl Into<String>) -> Self {
        Span { trace_id, span_id, name: name.into(), ..Span::default() }
    }
    /// A span that this one caused: of its trace, resource, scope and times.
    pub fn child(&self, span_id: SpanId, name: impl Into<String>) -> Self {
        Span {
            parent_span_id: Some(self.span_id),
            start_unix_nano: self.start_unix_nano,
            end_unix_nano: self.end_unix_nano,
            resource: self.resource.clone(),
            scope: self.scope.clone(),
            ..Span::new(self.trace_id, span_id, name)
        }
    }
    /// When it began, Unix nanoseconds, and how long it took.
    #[must_use]
    pub fn lasting(self, start_unix_nano: u64, took: Duration) -> Self {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        Span { start_unix_nano, end_unix_nano: start_unix_nano.saturating_add(nanos), ..self }
    }
    /// What it is to its parent.
    #[must_use]
    pub fn of_kind(self, kind: SpanKind) -> Self {
        Span { kind: kind as i32, ..self }
    }
    /// It went well, by its own account.
    #[must_use]
    pub fn succeeded(self) -> Self {
        Span { status_code: 1, ..self }
    }
    /// It failed, and how.
    #[must_use]
    pub fn failed(self, message: impl Into<String>) -> Self {
        Span { status_code: 2, status_message: message.into(), ..self }
    }
    /// Adds an attribute, or replaces it.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<AttributeValue>) -> Self {
        put(&mut self.attributes, key.into(), value.into());
        self
    }
    /// Adds what happened within, Unix nanoseconds.
    #[must_use]
    pub fn event(mut self, time_unix_nano: u64, name: impl Into<String>, attributes: &[(&str, AttributeValue)]) -> Self {
        let mut e = SpanEvent { time_unix_nano, name: name.into(), ..SpanEvent::default() };
        attributes.iter().for_each(|(k, v)| put(&mut e.attributes, (*k).to_owned(), v.clone()));
        self.events.push(e);
        self
    }
    /// What produced it. Spans that share one `Arc` take its memory once.
    #[must_use]
    pub fn of(self, resource: impl Into<Arc<Resource>>) -> Self {
        Span { resource: resource.into(), ..self }
    }
    /// The library that produced it.
    #[must_use]
    pub fn by(self, scope: impl Into<Arc<Scope>>) -> Self {
        Span { scope: scope.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_made_step_by_step_is_the_literal() {
        let made = Span::new(TraceId([1; 16]), SpanId([2; 8]), "op")
            .lasting(5, Duration::from_nanos(7))
            .attribute("b", 2)
            .attribute("a", "x")
            .attribute("b", true)
            .event(6, "retry", &[("n", 2.into()), ("a", "y".into())])
            .failed("why")
            .of(Resource::of_service("shop").attribute("zone", "eu"))
            .by(Scope { name: "lib".into(), ..Scope::default() });
        let text = |s: &str| AttributeValue::from(s);
        let want = Span {
            trace_id: TraceId([1; 16]),
            span_id: SpanId([2; 8]),
            name: "op".into(),
            start_unix_nano: 5,
            end_unix_nano: 12,
            attributes: vec![("a".into(), text("x")), ("b".into(), true.into())],
            events: vec![SpanEvent {
                time_unix_nano: 6,
                name: "retry".into(),
                attributes: vec![("a".into(), text("y")), ("n".into(), 2.into())],
                dropped_attributes_count: 0,
            }],
            status_code: 2,
            status_message: "why".into(),
            resource: Arc::new(Resource {
                attributes: vec![("service.name".into(), text("shop")), ("zone".into(), text("eu"))],
                ..Resource::default()
            }),
            scope: Arc::new(Scope { name: "lib".into(), ..Scope::default() }),
            ..Span::default()
        };
        assert_eq!(made, want);
        let child = made.child(SpanId([3; 8]), "inner").succeeded();
        assert_eq!((child.parent_span_id, child.status_code, child.attributes.len(), child.end_unix_nano), (Some(made.span_id), 1, 0, 12));
        assert!(Arc::ptr_eq(&child.resource, &made.resource));
    }
}
