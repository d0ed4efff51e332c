//! From a request's protobuf to an acknowledged commit, the same for every transport.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use strandline_storage::Engine;
use strandline_storage::codec::protobuf::{Fields, WireError};
use strandline_storage::metrics::head::Refusal as Why;

use super::metrics::{MAX_REASONS, translate};
use crate::app::{App, Room};
use crate::counters::Counters;
use crate::limits::Unit;
use crate::refusal::{Reason, Refusal};
use crate::throttle::OncePerMinute;

/// What became of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Points, spans or records not taken.
    pub rejected: u64,
    /// Why, the first reasons.
    pub message: String,
}

fn undecodable(e: WireError) -> Refusal {
    Refusal::new(Reason::Invalid, e.to_string())
}

/// Stores an `ExportMetricsServiceRequest`.
pub async fn metrics(app: &Arc<App>, engine: Engine, body: Bytes, mut room: Room) -> Result<Outcome, Refusal> {
    // The batch beside the body.
    room.grow(body.len() * 2)?;
    app.limits.admit(&engine, Unit::Samples)?;
    let mut t = translate(&body, &app.translation).map_err(undecodable)?;
    app.writers.look(&t);
    crate::drop_rules::apply(app, &mut t.batch, Some(&mut t.point_of_item));
    let appended = engine.metrics().append(&t.batch)?;
    let mut refused_points = std::collections::BTreeSet::new();
    let mut reasons = t.reasons;
    for r in &appended.rejected {
        app.counters.refuse("otlp", r.why.as_str(), 1);
        let point = t.point_of_item.get(r.item as usize).copied().unwrap_or(u32::MAX);
        if point != u32::MAX {
            refused_points.insert(point);
        }
        let mut text = r.detail.as_deref().unwrap_or(r.why.message()).to_owned();
        if r.why == Why::SeriesLimit && reasons.len() < MAX_REASONS {
            text = format!("{text}; {}", app.limits.offenders(&engine));
        }
        if reasons.len() < MAX_REASONS && !reasons.contains(&text) {
            reasons.push(text);
        }
    }
    let (samples, exemplars) = (appended.accepted, appended.exemplars);
    appended.commit.await?;
    app.limits.spend(&engine, Unit::Samples, samples);
    Counters::add(&app.counters.samples, samples);
    Counters::add(&app.counters.exemplars, exemplars);
    app.counters.refuse("otlp", "untranslatable", t.refused);
    let rejected = t.refused + refused_points.len() as u64;
    let message = if rejected > 0 { reasons.join("; ") } else { String::new() };
    log_refused(&app.refused_points_log, "data points", rejected, &message);
    Ok(Outcome { rejected, message })
}

/// Stores an `ExportTraceServiceRequest`.
pub async fn traces(app: &Arc<App>, engine: Engine, body: Bytes, mut room: Room) -> Result<Outcome, Refusal> {
    // The log's record and the live spans beside the body.
    room.grow(body.len() * 2)?;
    app.limits.admit(&engine, Unit::Spans)?;
    let appended = engine.traces().append_otlp(body)?;
    let (accepted, rejected, reasons) = (appended.accepted, appended.rejected, appended.reasons);
    appended.ticket.await?;
    app.limits.spend(&engine, Unit::Spans, accepted);
    Counters::add(&app.counters.spans, accepted);
    app.counters.refuse("otlp_traces", "invalid_span", rejected);
    let message = reasons.join("; ");
    log_refused(&app.refused_spans_log, "spans", rejected, &message);
    Ok(Outcome { rejected, message })
}

/// Most SDKs ignore the message of a partial success, so the log has it too, once a minute.
fn log_refused(pace: &OncePerMinute, what: &str, rejected: u64, why: &str) {
    if rejected > 0 && pace.due() {
        tracing::warn!(
            "{rejected} {what} of an OTLP request were refused, the rest is stored: {why}; said once a minute, all are counted in strandline_refused_total"
        );
    }
}

/// Takes an `ExportLogsServiceRequest` as a call and refuses every record in words, so that SDKs that send logs are
/// not driven to retries.
pub fn logs(app: &Arc<App>, body: &[u8]) -> Result<Outcome, Refusal> {
    let n = count_logs(body).map_err(undecodable)?;
    Counters::add(&app.counters.log_records_refused, n);
    if n > 0 && !app.logs_warned.swap(true, Ordering::Relaxed) {
        tracing::warn!("a client sends OTLP logs, which this version does not store; said once");
    }
    let message = if n > 0 { "logs are not stored by this version of strandline".into() } else { String::new() };
    Ok(Outcome { rejected: n, message })
}

fn count_logs(request: &[u8]) -> Result<u64, WireError> {
    let mut n = 0;
    let mut r = Fields::new(request);
    while let Some((1, resource)) = r.next()? {
        let mut scopes = Fields::new(resource.bytes());
        while let Some((k, scope)) = scopes.next()? {
            let mut records = Fields::new(if k == 2 { scope.bytes() } else { &[] });
            while let Some((k, _)) = records.next()? {
                n += u64::from(k == 2);
            }
        }
    }
    Ok(n)
}
