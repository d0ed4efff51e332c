//! Search.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Response};
use prost::Message;
use serde_json::{Map, Value, json};
use strandline_query::traceql::{self, MatchedSet, Root, SearchOptions, SearchResult, TraceMatch};
use strandline_storage::read::{ScanStats, SpanSource};

use super::http::{JSON, blocking, respond, wants_protobuf};
use super::json::{key_values, object, u64_field, write_list};
use super::params::{Params, parse_duration};
use super::{TempoError, TempoState};

/// Spans shown of a set at most.
pub const MAX_SPANS_PER_SET: u64 = 100;

/// Traces of an answer at most.
pub const MAX_TRACES: u32 = 100_000;

/// Parameters that are no tags.
const OWN_PARAMS: [&str; 9] = ["q", "tags", "minDuration", "maxDuration", "limit", "spss", "start", "end", "partial_response"];

/// What `/api/search` or its gRPC twin asks for.
pub struct SearchCall {
    /// TraceQL.
    pub query: String,
    /// How.
    pub options: SearchOptions,
}

/// `key=value key2="a \"b\"" key3`, as older callers write tags.
fn logfmt(text: &str) -> Result<Vec<(String, String)>, TempoError> {
    let bad = |what: &str| TempoError::bad_request(format!("invalid tags: {what} in {text:?}"));
    let (mut out, mut rest) = (Vec::<(String, String)>::new(), text.trim_start());
    while !rest.is_empty() {
        let n = rest.find(|c: char| c == '=' || c == '"' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(n);
        if key.is_empty() {
            return Err(bad("a value without a key"));
        }
        let (value, left) = match after.strip_prefix('=') {
            Some(v) if v.starts_with('"') => unquoted(&v[1..]).ok_or_else(|| bad("a quote without its end"))?,
            Some(v) => v.split_once(char::is_whitespace).map_or((v.to_owned(), ""), |(v, l)| (v.to_owned(), l)),
            None if after.starts_with('"') => return Err(bad("a quote within a key")),
            None => (String::new(), after),
        };
        if out.iter().any(|t| t.0 == key) {
            return Err(bad(&format!("tag {key} set twice")));
        }
        out.push((key.to_owned(), value));
        rest = left.trim_start();
    }
    Ok(out)
}

/// What stands before the closing quote, and what behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut out, mut chars) = (String::new(), text.char_indices());
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[i + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
    None
}

fn quoted(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Tags and durations as TraceQL.
pub fn query_of_tags(tags: &[(String, String)], min_nano: Option<u64>, max_nano: Option<u64>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (k, v) in tags {
        let left = match k.as_str() {
            "name" | "rootName" | "rootServiceName" | "statusMessage" => k.clone(),
            "root.name" => "rootName".into(),
            "root.service.name" => "rootServiceName".into(),
            "error" if v == "true" => {
                parts.push("status = error".into());
                continue;
            }
            "status.code" | "status" if ["ok", "error", "unset"].contains(&v.as_str()) => {
                parts.push(format!("status = {v}"));
                continue;
            }
            _ => format!(".{}", quoted(k)),
        };
        // A number matches attributes of text and of numbers.
        parts.push(match v.parse::<i64>() {
            Ok(n) if left.starts_with('.') => format!("({left} = {} || {left} = {n})", quoted(v)),
            _ if left.starts_with('.') && (v == "true" || v == "false") => format!("({left} = {} || {left} = {v})", quoted(v)),
            _ => format!("{left} = {}", quoted(v)),
        });
    }
    parts.extend(min_nano.map(|n| format!("traceDuration >= {n}ns")));
    parts.extend(max_nano.map(|n| format!("traceDuration <= {n}ns")));
    format!("{{ {} }}", parts.join(" && "))
}

fn call(p: &Params, state: &TempoState) -> Result<SearchCall, TempoError> {
    let limit = p.number("limit")?.unwrap_or(20);
    if limit == 0 {
        return Err(TempoError::bad_request("invalid limit: must be a positive number"));
    }
    let spans = p.number("spss")?.unwrap_or(3);
    if spans == 0 || spans > MAX_SPANS_PER_SET {
        return Err(TempoError::bad_request(format!("invalid spss: must be a positive number, {MAX_SPANS_PER_SET} at most")));
    }
    let range = p.range()?;
    let duration = |name: &str| {
        let parse = |v: &str| parse_duration(v).ok_or_else(|| TempoError::bad_request(format!("invalid {name}: {v:?} is no duration")));
        p.get(name).map(parse).transpose()
    };
    let (min, max) = (duration("minDuration")?, duration("maxDuration")?);
    if min.zip(max).is_some_and(|(min, max)| max < min) {
        return Err(TempoError::bad_request("invalid maxDuration: must be greater than minDuration"));
    }
    let query = match (p.get("q"), p.get("tags")) {
        (Some(_), Some(_)) => return Err(TempoError::bad_request("invalid request: can't specify tags and q in the same query")),
        (Some(q), None) => q.to_owned(),
        (None, Some(tags)) => query_of_tags(&logfmt(tags)?, min, max),
        // The oldest callers send each tag as a parameter.
        (None, None) if range.is_none() => {
            let tags: Vec<(String, String)> = p.others(&OWN_PARAMS).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            query_of_tags(&tags, min, max)
        }
        (None, None) => query_of_tags(&[], min, max),
    };
    let mut options = SearchOptions {
        limit: limit.min(MAX_TRACES.into()) as usize,
        spans_per_set: spans as usize,
        max_trace_nano: state.max_trace_nano,
        partial: p.partial(),
        max_bytes: state.max_search_bytes,
        ..SearchOptions::default()
    };
    if let Some((start, end)) = range {
        (options.start_nano, options.end_nano) = (start, end);
    }
    Ok(SearchCall { query, options })
}

/// Runs a search.
pub fn run(call: &SearchCall, source: &dyn SpanSource) -> Result<SearchResult, TempoError> {
    let query = traceql::parse(&call.query)?;
    let Root::Spansets(pipeline) = &query.root else {
        return Err(TempoError::bad_request("this query makes series: ask /api/metrics/query_range"));
    };
    Ok(traceql::search(source, pipeline, &call.options)?)
}

/// Id as search shows it: without leading zeros.
pub fn short_id(t: &TraceMatch) -> String {
    let hex = t.trace_id.to_string();
    let short = hex.trim_start_matches('0');
    if short.is_empty() { "0".into() } else { short.into() }
}

fn set_json(s: &MatchedSet) -> Value {
    let spans = s.spans.iter().map(|s| {
        let mut m = Map::new();
        m.insert("spanID".into(), json!(format!("{:016x}", s.span_id)));
        if !s.name.is_empty() {
            m.insert("name".into(), json!(s.name));
        }
        u64_field(&mut m, "startTimeUnixNano", s.start_unix_nano);
        u64_field(&mut m, "durationNanos", s.duration_nano);
        if !s.attributes.is_empty() {
            m.insert("attributes".into(), Value::Array(key_values(&s.attributes)));
        }
        Value::Object(m)
    });
    let mut m = Map::new();
    m.insert("spans".into(), spans.collect());
    m.insert("matched".into(), json!(s.matched));
    if !s.attributes.is_empty() {
        m.insert("attributes".into(), Value::Array(key_values(&s.attributes)));
    }
    Value::Object(m)
}

fn trace_json(t: &TraceMatch) -> Value {
    let mut m = Map::new();
    m.insert("traceID".into(), json!(short_id(t)));
    m.insert("rootServiceName".into(), json!(t.root_service));
    m.insert("rootTraceName".into(), json!(t.root_name));
    u64_field(&mut m, "startTimeUnixNano", t.start_unix_nano);
    // The strict reader has 32 bits for it.
    let ms = u32::try_from(t.duration_nano / 1_000_000).unwrap_or(u32::MAX);
    if ms > 0 {
        m.insert("durationMs".into(), json!(ms));
    }
    let sets: Vec<Value> = t.sets.iter().map(set_json).collect();
    m.insert("spanSet".into(), sets.first().cloned().unwrap_or_else(|| json!({})));
    m.insert("spanSets".into(), Value::Array(sets));
    let services = t.services.iter().map(|(name, (spans, errors))| {
        let mut s = Map::new();
        s.insert("spanCount".into(), json!(spans));
        if *errors > 0 {
            s.insert("errorCount".into(), json!(errors));
        }
        (name.clone(), Value::Object(s))
    });
    m.insert("serviceStats".into(), Value::Object(services.collect()));
    Value::Object(m)
}

/// What a query took, in the fields that the strict readers of Grafana know.
pub fn metrics_json(s: &ScanStats) -> Value {
    let mut m = Map::new();
    if s.traces > 0 {
        m.insert("inspectedTraces".into(), json!(u32::try_from(s.traces).unwrap_or(u32::MAX)));
    }
    u64_field(&mut m, "inspectedBytes", s.bytes);
    if s.blocks > 0 {
        m.insert("totalBlocks".into(), json!(s.blocks));
    }
    // Blocks that can't be read are jobs that were not completed: a search has no other words for them.
    m.insert("completedJobs".into(), json!(1));
    m.insert("totalJobs".into(), json!(1 + s.warnings.len()));
    u64_field(&mut m, "inspectedSpans", s.spans);
    Value::Object(m)
}

/// `/api/search`.
pub async fn search(State(state): State<TempoState>, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response<Body>, TempoError> {
    let call = call(&Params::parse(query.as_deref()), &state)?;
    let protobuf = wants_protobuf(&headers);
    let written = move |source: &dyn SpanSource| {
        let found = run(&call, source)?;
        Ok(if protobuf { super::grpc::search_response(&found).encode_to_vec() } else { answer(found) })
    };
    let body = blocking(&state, &headers, written).await?;
    Ok(respond(if protobuf { "application/protobuf" } else { JSON }, body))
}

/// The answer of a search as JSON. What is written is let go of.
pub fn answer(found: SearchResult) -> Vec<u8> {
    let members = Map::from_iter([("metrics".to_owned(), metrics_json(&found.stats))]);
    object(members, "traces", |out| write_list(out, found.traces.into_iter().map(|t| trace_json(&t))))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn tags_become_traceql_that_is_valid() {
        let tags = logfmt(r#"service.name=shop http.status_code=500 name="GET \"/x\"" error=true a.b="q\\" "#).unwrap();
        assert_eq!((tags[2].1.as_str(), tags[4].1.as_str()), (r#"GET "/x""#, r"q\"));
        let q = query_of_tags(&tags, Some(5_000_000), None);
        traceql::parse(&q).unwrap();
        assert!(q.contains(r#"(."http.status_code" = "500" || ."http.status_code" = 500)"#), "{q}");
        assert!(q.contains("status = error") && q.contains("traceDuration >= 5000000ns"), "{q}");
        traceql::parse(&query_of_tags(&[], None, None)).unwrap();
        assert_eq!(logfmt("bare a=").unwrap(), [("bare".into(), String::new()), ("a".into(), String::new())]);
        for wrong in ["=v", "a=1 a=2", r#"a="x"#, r#"a"b"=1"#] {
            assert!(logfmt(wrong).is_err(), "{wrong}");
        }
    }
}
