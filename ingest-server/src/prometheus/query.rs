//! Queries.

use std::io::Write;

use axum::extract::{Request, State};
use axum::response::Response;
use strandline_query::promql::{self, QueryResult, QueryStats, Value};

use super::PromState;
use super::answer::{ApiError, Notes, Out, TRUNCATED, success};
use super::json;
use super::run::{Call, Manner, run};

/// More points a series than a screen has; a typing error in `step` else costs a lot.
const MAX_POINTS: i64 = 11_000;
/// What a value of `stats` that means no more than "some" will come to.
const STATS_TO_COME: &str = "and will be rejected in the next major release, use \"true\" or \"all\"";

/// `query`.
pub async fn instant(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Heavy, |call, out| {
        let p = &call.params;
        let limit = p.limit()?;
        let time = p.time("time")?.unwrap_or_else(|| call.state.options().clock.now_ms());
        let options = call.query_options()?;
        let engine = &call.state.options().engine;
        let r = engine.instant(&*call.source()?, p.query(), time, &options).map_err(|e| ApiError::of_query(e, "query"))?;
        answer(call, out, r, limit)
    })
    .await
}

/// `query_range`.
pub async fn range(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Heavy, |call, out| {
        let p = &call.params;
        let limit = p.limit()?;
        let (start, end) = (p.needed_time("start")?, p.needed_time("end")?);
        if end < start {
            return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
        }
        let step = p.duration_ms("step")?.ok_or_else(|| ApiError::parameter("step", "cannot parse \"\" to a valid duration"))?;
        if step <= 0 {
            let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
            return Err(ApiError::parameter("step", text));
        }
        if end.saturating_sub(start) / step > MAX_POINTS {
            let text = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
            return Err(ApiError::bad_data(text));
        }
        let options = call.query_options()?;
        let engine = &call.state.options().engine;
        let r = engine.range(&*call.source()?, p.query(), start, end, step, &options).map_err(|e| ApiError::of_query(e, "query"))?;
        answer(call, out, r, limit)
    })
    .await
}

fn answer(call: &Call, out: &mut Out, r: QueryResult, limit: usize) -> Result<(), ApiError> {
    let series = match &r.value {
        Value::Vector(v) => v.len(),
        Value::Matrix(m) => m.len(),
        _ => 0,
    };
    let mut notes = Notes { warnings: r.warnings, infos: r.infos };
    if series > limit {
        notes.warnings.insert(0, TRUNCATED.to_owned());
    }
    let asked = call.params.get("stats");
    if let Some(kind) = asked.filter(|s| !matches!(*s, "true" | "all")) {
        notes.warnings.insert(0, format!("value {kind:?} for parameter \"stats\" is deprecated {STATS_TO_COME}"));
    }
    success(out, &notes, |out| {
        out.buf.push(b'{');
        json::result(out, &r.value, limit)?;
        if let Some(kind) = asked {
            stats(call, out, &r.stats, kind == "all")?;
        }
        out.buf.push(b'}');
        Ok(())
    })
}

/// `,"stats":{...}`; samples of each step only if all is asked for.
fn stats(call: &Call, out: &mut Out, s: &QueryStats, all: bool) -> std::io::Result<()> {
    let inner = (s.seconds - s.selecting_seconds).max(0.0);
    write!(
        out.buf,
        ",\"stats\":{{\"timings\":{{\"evalTotalTime\":{},\"resultSortTime\":0,\"queryPreparationTime\":{},\
         \"innerEvalTime\":{inner},\"execQueueTime\":{},\"execTotalTime\":{}}},\"samples\":{{",
        s.seconds,
        s.selecting_seconds,
        call.waited.as_secs_f64(),
        call.came.elapsed().as_secs_f64(),
    )?;
    if all {
        out.buf.extend_from_slice(b"\"totalQueryableSamplesPerStep\":[");
        for (i, (t, n)) in s.samples_by_step.iter().enumerate() {
            out.buf.extend_from_slice(if i > 0 { b",[" } else { b"[" });
            json::time(&mut out.buf, *t);
            write!(out.buf, ",{n}]")?;
            out.spill()?;
        }
        out.buf.extend_from_slice(b"],");
    }
    let total: u64 = s.samples_by_step.iter().map(|x| x.1).sum();
    write!(out.buf, "\"totalQueryableSamples\":{total},\"peakSamples\":{}}}}}", s.peak_samples)
}

fn parsed(call: &Call) -> Result<promql::Expr, ApiError> {
    promql::parse(call.params.query()).map_err(|e| ApiError::parameter("query", e))
}

/// `format_query`.
pub async fn format(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Light, |call, out| {
        let text = promql::pretty(&parsed(call)?);
        success(out, &Notes::default(), |out| {
            json::string(&mut out.buf, &text);
            Ok(())
        })
    })
    .await
}

/// `parse_query`.
pub async fn tree(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::Light, |call, out| {
        let tree = promql::ast_json(&parsed(call)?);
        success(out, &Notes::default(), |out| {
            out.buf.extend_from_slice(tree.as_bytes());
            Ok(())
        })
    })
    .await
}
