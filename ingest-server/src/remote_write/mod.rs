//! Prometheus remote write, 1.0 and 2.0.

mod v1;
mod v2;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use strandline_storage::metrics::head::{Batch, Refusal as Why, Rejected};

use crate::app::App;
use crate::auth::Right;
use crate::body;
use crate::counters::Counters;
use crate::limits::Unit;
use crate::refusal::{Reason, Refusal};

/// Decoded requests are no larger.
const MAX_DECODED: u64 = 32 << 20;

/// What the answer's headers report.
#[derive(Default)]
struct Written {
    samples: u64,
    histograms: u64,
    exemplars: u64,
}

/// What is said where a request holds nothing of the version that its content type names, but fields of the other.
const OTHER_VERSION: &str = "this is a message of the other version of remote write: the content type names its version by proto=";

/// What a decompressed request holds: the door of fuzz targets and benches.
#[doc(hidden)]
pub fn decode(body: Bytes, v2: bool) -> Result<Batch, String> {
    let decoded = if v2 { v2::decode(&body) } else { v1::decode(body) };
    decoded.map(|(batch, _)| batch)
}

/// Handles `POST /api/v1/write`.
pub async fn write(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = serve(&app, &parts.headers, body).await;
    let response = match answer {
        Ok((written, rejected)) => respond(&app, &written, rejected),
        Err(r) => {
            app.counters.refuse("remote_write_requests", r.word(), 1);
            (r.status(), r.headers(), format!("{}\n", r.message)).into_response()
        }
    };
    app.counters.request("remote_write", response.status().as_u16());
    response
}

fn is_v2(headers: &HeaderMap) -> Result<bool, Refusal> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/x-protobuf");
    let mut parts = content.split(';').map(str::trim);
    if parts.next() != Some("application/x-protobuf") {
        return Err(Refusal::new(Reason::Unsupported, format!("content type {content:?} is not remote write (application/x-protobuf)")));
    }
    match parts.find_map(|p| p.strip_prefix("proto=")) {
        None | Some("prometheus.WriteRequest") => Ok(false),
        Some("io.prometheus.write.v2.Request") => Ok(true),
        Some(other) => Err(Refusal::new(Reason::Unsupported, format!("remote write message {other:?} is not known"))),
    }
}

async fn serve(app: &Arc<App>, headers: &HeaderMap, raw: axum::body::Body) -> Result<(Written, (Vec<Rejected>, u64)), Refusal> {
    let v2 = is_v2(headers)?;
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("snappy");
    if !encoding.eq_ignore_ascii_case("snappy") {
        return Err(Refusal::new(Reason::Unsupported, format!("content encoding {encoding:?} is not remote write's (snappy is)")));
    }
    let may = || {
        app.admit_write()?;
        let engine = app.engine(headers, Right::Write)?;
        app.limits.admit(&engine, Unit::Samples)?;
        Ok(engine)
    };
    let engine = match may() {
        Ok(engine) => engine,
        Err(r) => {
            body::discard(headers, raw).await;
            return Err(r);
        }
    };
    let max = MAX_DECODED.min(app.max_body_bytes());
    let mut room = app.room();
    let packed = body::read_into(&mut room, raw, max).await?;
    Counters::add(&app.counters.received_bytes, packed.len() as u64);
    room.grow(body::snappy_len(&packed, max)?)?;
    let body: Bytes = body::unsnap(&packed, max)?;
    drop(packed);
    // The batch beside the body.
    room.grow(body.len())?;
    let decoded = if v2 { v2::decode(&body) } else { v1::decode(body) };
    let (mut batch, mut written) = decoded.map_err(|e| Refusal::new(Reason::Invalid, e))?;
    crate::drop_rules::apply(app, &mut batch, None);
    let appended = engine.metrics().append(&batch)?;
    written.exemplars = appended.exemplars;
    let histograms = |r: &&Rejected| is_histogram(&batch, r.item);
    let lost_histograms = appended.rejected.iter().filter(histograms).count() as u64;
    written.histograms -= lost_histograms.min(written.histograms);
    written.samples -= (appended.rejected.len() as u64 - lost_histograms).min(written.samples);
    let mut rejected = appended.rejected;
    // Once is enough: reasons are told by kind.
    if let Some(r) = rejected.iter_mut().find(|r| r.why == Why::SeriesLimit) {
        let text = r.detail.as_deref().unwrap_or(r.why.message());
        r.detail = Some(format!("{text}; {}", app.limits.offenders(&engine)).into());
    }
    let accepted = appended.accepted;
    appended.commit.await?;
    app.limits.spend(&engine, Unit::Samples, accepted);
    Counters::add(&app.counters.samples, accepted);
    Counters::add(&app.counters.exemplars, written.exemplars);
    Ok((written, (rejected, accepted)))
}

fn is_histogram(batch: &Batch, item: u32) -> bool {
    use strandline_storage::metrics::head::Value;
    batch.items.get(item as usize).is_some_and(|i| matches!(i.value, Value::Histogram(_)))
}

/// 204, or 400 with the reasons where a part was refused: the rest is stored, and the sender must not send it again.
fn respond(app: &App, w: &Written, (rejected, accepted): (Vec<Rejected>, u64)) -> Response {
    let headers = [
        ("x-prometheus-remote-write-samples-written", w.samples.to_string()),
        ("x-prometheus-remote-write-histograms-written", w.histograms.to_string()),
        ("x-prometheus-remote-write-exemplars-written", w.exemplars.to_string()),
    ];
    if rejected.is_empty() {
        return (StatusCode::NO_CONTENT, headers).into_response();
    }
    let mut by_reason: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for r in &rejected {
        app.counters.refuse("remote_write", r.why.as_str(), 1);
        by_reason.entry(r.why.as_str()).or_insert((0, r.detail.as_deref().unwrap_or(r.why.message()))).0 += 1;
    }
    let reasons: Vec<String> = by_reason.iter().map(|(_, (n, text))| format!("{n}: {text}")).collect();
    let text = format!("{} samples refused, {accepted} stored: {}\n", rejected.len(), reasons.join("; "));
    (StatusCode::BAD_REQUEST, headers, text).into_response()
}

#[cfg(test)]
mod tests;
