//! What there is: series, labels, metric families, exemplars.

use std::collections::{BTreeSet, HashSet};

use axum::extract::{Path, Request, State};
use axum::response::Response;
use strandline_query::promql;
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{LabelQuery, SelectRequest, SeriesSource};

use super::PromState;
use super::answer::{ApiError, Notes, TRUNCATED, success};
use super::json;
use super::params::unescape_name;
use super::run::{Call, Manner, run};

/// Says so, if there was more than the limit.
fn truncated(list: &mut Vec<impl Sized>, limit: usize, warnings: &mut Vec<String>) {
    if list.len() > limit {
        list.truncate(limit);
        warnings.push(TRUNCATED.to_owned());
    }
}

/// `series`.
pub async fn series(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Heavy, |call, out| {
        let sets = call.params.selectors()?;
        if sets.is_empty() {
            return Err(ApiError::bad_data("no match[] parameter provided"));
        }
        let (range, limit) = (call.params.range()?, call.params.limit()?);
        let source = call.source()?;
        let mut notes = Notes::default();
        let (range, sets) = range.map_or((TimeRange::all(), Vec::new()), |r| (r, sets));
        let mut found: Vec<Labels> = Vec::new();
        let mut seen: HashSet<Labels> = HashSet::new();
        let many = sets.len() > 1;
        for matchers in sets {
            let s = source.select(&SelectRequest { partial: call.params.partial(), ..SelectRequest::new(matchers, range) })?;
            // The first series of each set are all that can be among the first of their union.
            for i in 0..s.len().min(limit.saturating_add(1)) {
                let labels = s.labels(i);
                if !many || seen.insert(labels.clone()) {
                    found.push(labels);
                }
                if i % 1024 == 0 {
                    call.check()?;
                }
            }
            notes.warnings.extend(s.warnings());
        }
        if many {
            found.sort();
        }
        truncated(&mut found, limit, &mut notes.warnings);
        success(out, &notes, |out| {
            out.buf.push(b'[');
            for (i, l) in found.iter().enumerate() {
                if i > 0 {
                    out.buf.push(b',');
                }
                json::labels(&mut out.buf, l);
                out.spill()?;
            }
            out.buf.push(b']');
            Ok(())
        })
    })
    .await
}

type Listing = strandline_storage::Result<(Vec<String>, Vec<String>)>;

/// The union over the matcher sets of what `of` lists.
fn union(call: &Call, of: impl Fn(&dyn SeriesSource, &LabelQuery) -> Listing) -> Result<(Vec<String>, Notes), ApiError> {
    let (range, limit, sets) = (call.params.range()?, call.params.limit()?, call.params.selectors()?);
    let source = call.source()?;
    let mut notes = Notes::default();
    let Some(range) = range else { return Ok((Vec::new(), notes)) };
    let mut ask = |matchers: Vec<Matcher>| -> Result<Vec<String>, ApiError> {
        call.check()?;
        let limit = if limit == usize::MAX { 0 } else { limit + 1 };
        let (list, warnings) = of(&*source, &LabelQuery { matchers, range, limit, partial: call.params.partial() })?;
        notes.warnings.extend(warnings);
        Ok(list)
    };
    let mut list = if sets.len() < 2 {
        ask(sets.into_iter().next().unwrap_or_default())?
    } else {
        let mut all = BTreeSet::new();
        for set in sets {
            all.extend(ask(set)?);
        }
        all.into_iter().collect()
    };
    truncated(&mut list, limit, &mut notes.warnings);
    Ok((list, notes))
}

/// `labels`.
pub async fn label_names(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Heavy, |call, out| {
        let (list, notes) = union(call, |s, q| s.label_names(q))?;
        success(out, &notes, |out| json::strings(out, &list))
    })
    .await
}

/// `label/<name>/values`.
pub async fn label_values(State(state): State<PromState>, Path(name): Path<String>, request: Request) -> Response {
    run(state, request, Manner::Heavy, move |call, out| {
        let name = unescape_name(&name);
        if name.is_empty() {
            return Err(ApiError::bad_data("invalid label name: \"\""));
        }
        let (list, notes) = union(call, |s, q| s.label_values(&name, q))?;
        success(out, &notes, |out| json::strings(out, &list))
    })
    .await
}

fn count(call: &Call, name: &str) -> Result<Option<usize>, ApiError> {
    let Some(s) = call.params.get(name) else { return Ok(None) };
    let n: i64 = s.parse().map_err(|_| ApiError::bad_data(format!("{name} must be a number")))?;
    Ok(usize::try_from(n).ok())
}

/// `metadata`.
pub async fn families(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Light, |call, out| {
        let limit = count(call, "limit")?.unwrap_or(usize::MAX);
        let each = count(call, "limit_per_metric")?.filter(|n| *n > 0).unwrap_or(usize::MAX);
        let list = call.source()?.metadata(call.params.get("metric"))?;
        success(out, &Notes::default(), |out| {
            out.buf.push(b'{');
            for (i, (family, all)) in list.iter().take(limit).enumerate() {
                if i > 0 {
                    out.buf.push(b',');
                }
                json::string(&mut out.buf, family);
                out.buf.extend_from_slice(b":[");
                for (i, m) in all.iter().take(each).enumerate() {
                    out.buf.extend_from_slice(if i > 0 { b",{\"type\":" } else { b"{\"type\":" });
                    json::string(&mut out.buf, m.kind.as_str());
                    out.buf.extend_from_slice(b",\"help\":");
                    json::string(&mut out.buf, &m.help);
                    out.buf.extend_from_slice(b",\"unit\":");
                    json::string(&mut out.buf, &m.unit);
                    out.buf.push(b'}');
                }
                out.buf.push(b']');
                out.spill()?;
            }
            out.buf.push(b'}');
            Ok(())
        })
    })
    .await
}

/// `query_exemplars`.
pub async fn exemplars(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Heavy, |call, out| {
        // The one place where what is wrong is told without the parameter's name.
        let (start, end) = call.params.times()?;
        if end < start {
            return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
        }
        let expr = promql::parse(call.params.query()).map_err(|e| ApiError::bad_data(e.to_string()))?;
        // As Prometheus: the times asked for count, not those that the selectors would read.
        let engine = &call.state.options().engine;
        let selectors = promql::selector_ranges(&expr, 0, 0, 1, engine.options()).map_err(|e| ApiError::of_query(e, "query"))?;
        let sets: Vec<Vec<Matcher>> = selectors.into_iter().map(|s| s.matchers).collect();
        if sets.is_empty() {
            // Nothing that could have exemplars was asked for: an answer without data, not one of none.
            out.buf.extend_from_slice(br#"{"status":"success"}"#);
            return Ok(());
        }
        let list = call.source()?.exemplars(&sets, TimeRange::new(start, end))?;
        success(out, &Notes::default(), |out| {
            out.buf.push(b'[');
            for (i, s) in list.iter().enumerate() {
                out.buf.extend_from_slice(if i > 0 { b",{\"seriesLabels\":" } else { b"{\"seriesLabels\":" });
                json::labels(&mut out.buf, &s.labels);
                out.buf.extend_from_slice(b",\"exemplars\":[");
                for (i, e) in s.exemplars.iter().enumerate() {
                    out.buf.extend_from_slice(if i > 0 { b",{\"labels\":" } else { b"{\"labels\":" });
                    json::labels(&mut out.buf, &e.labels);
                    out.buf.extend_from_slice(b",\"value\":");
                    json::number(&mut out.buf, e.v);
                    out.buf.extend_from_slice(b",\"timestamp\":");
                    json::time(&mut out.buf, e.t);
                    out.buf.push(b'}');
                }
                out.buf.extend_from_slice(b"]}");
                out.spill()?;
            }
            out.buf.push(b']');
            Ok(())
        })
    })
    .await
}
