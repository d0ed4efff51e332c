//! `strandline query`.

use std::path::PathBuf;

use clap::Args;
use strandline_query::{promql, traceql};

use super::{local, say};
use crate::params::time_ms;
use crate::tempo::search::{self, SearchCall};

/// Ask a server or a data folder.
#[derive(Args)]
pub struct QueryArgs {
    /// PromQL, or TraceQL with --traceql.
    expr: String,
    /// The expression is TraceQL.
    #[arg(long)]
    traceql: bool,
    /// Instant: Unix seconds or RFC 3339 [default: now].
    #[arg(long, conflicts_with_all = ["start", "end", "step"])]
    time: Option<String>,
    /// Range: first time.
    #[arg(long, requires = "end")]
    start: Option<String>,
    /// Range: last time.
    #[arg(long, requires = "start")]
    end: Option<String>,
    /// Range: seconds or a duration.
    #[arg(long, default_value = "60s")]
    step: String,
    /// A running server.
    #[arg(long, conflicts_with = "data_dir")]
    url: Option<String>,
    /// A data folder; a server may be running on it.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Runs it.
pub fn run(a: QueryArgs) -> Result<(), String> {
    match &a.data_dir {
        Some(dir) if a.traceql => local_traceql(&a, dir),
        Some(dir) => local_promql(&a, dir),
        None => remote(&a),
    }
}

fn now() -> String {
    use strandline_storage::clock::{Clock, SystemClock};
    (SystemClock.now_ms() as f64 / 1000.0).to_string()
}

fn step_ms(s: &str) -> Result<i64, String> {
    match s.parse::<f64>() {
        Ok(f) => Ok((f * 1000.0) as i64),
        Err(_) => crate::config::parse_duration_ms(s),
    }
}

fn local_promql(a: &QueryArgs, dir: &std::path::Path) -> Result<(), String> {
    let c = local::config(Some(dir), None)?;
    let store = local::open_read_only(c)?.metrics().clone();
    let engine = promql::Engine::new(promql::EngineOptions::default());
    let options = promql::QueryOptions::default();
    let result = match (&a.start, &a.end) {
        (Some(s), Some(e)) => engine.range(&store, &a.expr, time_ms(s)?, time_ms(e)?, step_ms(&a.step)?, &options),
        _ => engine.instant(&store, &a.expr, time_ms(&a.time.clone().unwrap_or_else(now))?, &options),
    }
    .map_err(|e| e.to_string())?;
    say(&format!("{:#?}", result.value));
    for w in result.warnings.iter().chain(&result.infos) {
        say(w);
    }
    Ok(())
}

fn local_traceql(a: &QueryArgs, dir: &std::path::Path) -> Result<(), String> {
    let spans = local::open_read_only(local::config(Some(dir), None)?)?;
    let mut options = traceql::SearchOptions::default();
    if let (Some(s), Some(e)) = (&a.start, &a.end) {
        let nano = |t: &str| time_ms(t).map(|ms| ms.max(0) as u64 * 1_000_000);
        (options.start_nano, options.end_nano) = (nano(s)?, nano(e)?);
    }
    let call = SearchCall { query: a.expr.clone(), options };
    let found = search::run(&call, spans.traces()).map_err(|e| e.message)?;
    let answer: serde_json::Value = serde_json::from_slice(&search::answer(found)).unwrap_or_default();
    say(&serde_json::to_string_pretty(&answer).unwrap_or_default());
    Ok(())
}

fn remote(a: &QueryArgs) -> Result<(), String> {
    let base = a.url.clone().unwrap_or_else(|| "http://127.0.0.1:9090".into());
    let mut params: Vec<(&str, String)> = Vec::new();
    let path = if a.traceql {
        params.push(("q", a.expr.clone()));
        if let (Some(s), Some(e)) = (&a.start, &a.end) {
            params.push(("start", (time_ms(s)? / 1000).to_string()));
            params.push(("end", (time_ms(e)? / 1000).to_string()));
        }
        "/api/search"
    } else {
        params.push(("query", a.expr.clone()));
        match (&a.start, &a.end) {
            (Some(s), Some(e)) => {
                params.push(("start", s.clone()));
                params.push(("end", e.clone()));
                params.push(("step", (step_ms(&a.step)? as f64 / 1000.0).to_string()));
                "/api/v1/query_range"
            }
            _ => {
                params.push(("time", a.time.clone().unwrap_or_else(now)));
                "/api/v1/query"
            }
        }
    };
    let (status, body) = super::doctor::get(&base, path, &params)?;
    match serde_json::from_str::<serde_json::Value>(&body) {
        Ok(v) => say(&serde_json::to_string_pretty(&v).unwrap_or(body)),
        Err(_) => say(&body),
    }
    if status == 200 { Ok(()) } else { Err(format!("{base} answered {status}")) }
}
