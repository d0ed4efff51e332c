//! What a span must satisfy to be stored. A span that does not is refused alone, with the reason.

use crate::clock::Times;
use crate::traces::otlp::{Groups, RawSpan, RawValue, WireError, attributes, events, is_root, links, text};

/// Limits on what is accepted. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanLimits {
    /// Bytes of one attribute's value.
    pub max_attribute_bytes: usize,
    /// Attributes of a span, an event, a link, a resource or a scope.
    pub max_attributes: usize,
    /// Events of a span, and links of a span.
    pub max_list_items: usize,
    /// Bytes of a span as it was sent.
    pub max_span_bytes: usize,
    /// How far ahead of the clock a span may start.
    pub max_future_ms: i64,
    /// Spans that started longer ago are refused; 0: none is.
    pub max_age_ms: i64,
}

impl Default for SpanLimits {
    fn default() -> Self {
        SpanLimits {
            max_attribute_bytes: 1 << 20,
            max_attributes: 1024,
            max_list_items: 4096,
            max_span_bytes: 4 << 20,
            max_future_ms: 3_600_000,
            max_age_ms: 0,
        }
    }
}

/// Why something is refused.
pub type Reason = String;

impl SpanLimits {
    fn attributes<'a>(
        &self,
        what: &str,
        attributes: impl Iterator<Item = Result<(&'a [u8], RawValue<'a>), WireError>>,
    ) -> Result<Option<Reason>, WireError> {
        let mut n = 0;
        for kv in attributes {
            let (k, v) = kv?;
            let k = text(k)?;
            n += 1;
            let bytes = match v.check(0) {
                Ok(b) => b,
                Err(e) if e.what == "a value nested too deep" => {
                    return Ok(Some(format!("{what} attribute {} is nested too deep", short(k))));
                }
                Err(e) => return Err(e),
            };
            if bytes > self.max_attribute_bytes || k.len() > self.max_attribute_bytes {
                let limit = self.max_attribute_bytes;
                return Ok(Some(format!("{what} attribute {} has more than {limit} bytes", short(k))));
            }
        }
        Ok((n > self.max_attributes).then(|| format!("{what} has {n} attributes, more than {}", self.max_attributes)))
    }

    /// Why all spans of a resource and scope are refused, if they are.
    pub fn check_groups(&self, g: &Groups<'_>) -> Result<Option<Reason>, WireError> {
        g.scope.name_and_version()?;
        if let Some(r) = self.attributes("resource", attributes(g.resource.buf, 1))? {
            return Ok(Some(r));
        }
        self.attributes("scope", attributes(g.scope.buf, 3))
    }

    /// Why a span is refused, if it is.
    pub fn check_span(&self, s: &RawSpan<'_>, times: Times) -> Result<Option<Reason>, WireError> {
        s.check_text()?;
        if let Some(r) = ids(s).or_else(|| self.times(s, times)) {
            return Ok(Some(r));
        }
        if s.buf.len() > self.max_span_bytes {
            return Ok(Some(format!("span has {} bytes, more than {}", s.buf.len(), self.max_span_bytes)));
        }
        if s.counts[1] as usize > self.max_list_items || s.counts[2] as usize > self.max_list_items {
            return Ok(Some(format!("span has more than {} events or links", self.max_list_items)));
        }
        if let Some(r) = self.attributes("span", s.attributes())? {
            return Ok(Some(r));
        }
        if s.counts[1] > 0 {
            for e in events(s.buf) {
                let e = e?;
                if let Some(r) = self.attributes("event", attributes(e.buf, 3))? {
                    return Ok(Some(r));
                }
            }
        }
        if s.counts[2] > 0 {
            for l in links(s.buf) {
                if let Some(r) = self.attributes("link", attributes(l?.buf, 4))? {
                    return Ok(Some(r));
                }
            }
        }
        Ok(None)
    }

    fn times(&self, s: &RawSpan<'_>, times: Times) -> Option<Reason> {
        let Ok(start) = i64::try_from(s.start) else { return Some("start time lies beyond the year 2262".into()) };
        if i64::try_from(s.end).is_err() {
            return Some("end time lies beyond the year 2262".into());
        }
        let start_ms = start / 1_000_000;
        if start_ms > times.latest_ms.saturating_add(self.max_future_ms) {
            return Some(format!("start time lies more than {} s in the future", self.max_future_ms / 1000));
        }
        if self.max_age_ms > 0 && start_ms < times.earliest_ms.saturating_sub(self.max_age_ms) {
            return Some(format!("start time lies more than {} s in the past", self.max_age_ms / 1000));
        }
        None
    }
}

fn ids(s: &RawSpan<'_>) -> Option<Reason> {
    if s.trace_id.len() != 16 {
        return Some(format!("trace id has {} bytes, not 16", s.trace_id.len()));
    }
    if s.span_id.len() != 8 {
        return Some(format!("span id has {} bytes, not 8", s.span_id.len()));
    }
    if is_root(s.trace_id) {
        return Some("trace id is all zeros".into());
    }
    if is_root(s.span_id) {
        return Some("span id is all zeros".into());
    }
    if !matches!(s.parent_span_id.len(), 0 | 8) {
        return Some(format!("parent span id has {} bytes, not 8", s.parent_span_id.len()));
    }
    None
}

fn short(key: &str) -> String {
    let cut: String = key.chars().take(64).collect();
    format!("{cut:?}")
}
