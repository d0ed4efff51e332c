//! Asking the query APIs what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value as Json;
use strandline_storage::codec::protobuf::{Fields, WireError};

use strandline_storage::codec::hex;

use crate::otlp::attributes::each;

/// Requests under way at once.
const CONCURRENCY: usize = 8;

/// A sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A float.
    Float(f64),
    /// A native histogram: count, sum, and the counts of its buckets that hold anything.
    Histogram(f64, f64, Vec<f64>),
}

/// A series as it was answered.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// All of them, `__name__` too.
    pub labels: BTreeMap<String, String>,
    /// In the order they came.
    pub samples: Vec<(i64, Sample)>,
}

/// A span as it was answered: its id, and all that is compared, as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadSpan {
    /// `span_id`.
    pub id: u64,
    /// Everything else.
    pub text: String,
}

/// Answers of a server.
pub trait Reader {
    /// All raw samples of an instance in (from, to].
    fn samples(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<Vec<Series>, String>;
    /// The spans of each trace; none if it is not found.
    fn traces(&self, ids: &[[u8; 16]]) -> Result<Vec<Vec<ReadSpan>>, String>;
    /// How many spans an instance has.
    fn count_spans(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<u64, String>;
    /// Trace ids that exemplars of an instance name.
    fn exemplars(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<BTreeSet<String>, String>;
}

/// A server's HTTP APIs.
pub struct Api<'r> {
    base: String,
    client: reqwest::Client,
    runtime: &'r tokio::runtime::Runtime,
}

impl<'r> Api<'r> {
    /// Asks at an address.
    pub fn new(base: &str, runtime: &'r tokio::runtime::Runtime) -> Result<Self, String> {
        let client = crate::http_client::builder(base).timeout(Duration::from_secs(60)).build().map_err(|e| e.to_string())?;
        Ok(Api { base: base.trim_end_matches('/').to_owned(), client, runtime })
    }

    async fn get(&self, path: String, accept: &str) -> Result<(u16, bytes::Bytes), String> {
        let url = format!("{}{path}", self.base);
        let r = self.client.get(&url).header("accept", accept).send().await.map_err(|e| format!("{url}: {e}"))?;
        let status = r.status().as_u16();
        Ok((status, r.bytes().await.map_err(|e| format!("{url}: {e}"))?))
    }

    fn json(&self, path: &str, params: &[(&str, String)]) -> Result<Json, String> {
        let url = format!("{path}?{}", crate::params::query_string(params));
        let (status, body) = self.runtime.block_on(self.get(url, "application/json"))?;
        if status != 200 {
            return Err(format!("{path} {params:?} was answered {status}: {}", String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice(&body).map_err(|e| format!("{path} answered what is not JSON: {e}"))
    }
}

fn number(v: &Json) -> Result<f64, String> {
    v.as_str().and_then(|s| s.parse().ok()).ok_or_else(|| format!("{v} is not a number"))
}

fn sample(v: &Json) -> Result<(i64, Sample), String> {
    let t = v[0].as_f64().ok_or_else(|| format!("{v} has no time"))?;
    let value = match &v[1] {
        Json::Object(h) => {
            let buckets: Result<Vec<f64>, String> =
                h.get("buckets").and_then(Json::as_array).into_iter().flatten().map(|b| number(&b[3])).collect();
            Sample::Histogram(number(&v[1]["count"])?, number(&v[1]["sum"])?, buckets?.into_iter().filter(|n| *n != 0.0).collect())
        }
        other => Sample::Float(number(other)?),
    };
    Ok(((t * 1000.0).round() as i64, value))
}

impl Reader for Api<'_> {
    fn samples(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<Vec<Series>, String> {
        let query = format!("{{instance=\"{instance}\"}}[{}ms]", to_ms - from_ms);
        let answer = self.json("/api/v1/query", &[("query", query), ("time", format!("{:.3}", to_ms as f64 / 1000.0))])?;
        let mut out = Vec::new();
        for s in answer["data"]["result"].as_array().into_iter().flatten() {
            let mut series = Series::default();
            for (k, v) in s["metric"].as_object().into_iter().flatten() {
                series.labels.insert(k.clone(), v.as_str().unwrap_or_default().to_owned());
            }
            for v in ["values", "histograms"].iter().flat_map(|k| s[*k].as_array().into_iter().flatten()) {
                series.samples.push(sample(v)?);
            }
            out.push(series);
        }
        Ok(out)
    }

    fn traces(&self, ids: &[[u8; 16]]) -> Result<Vec<Vec<ReadSpan>>, String> {
        let one = |id: &[u8; 16]| {
            let id = hex(id);
            async move {
                match self.get(format!("/api/traces/{id}"), "application/protobuf").await? {
                    (404, _) => Ok(Vec::new()),
                    (200, body) => spans(&body).map_err(|e| format!("trace {id}: {e}")),
                    (status, body) => Err(format!("trace {id} was answered {status}: {}", String::from_utf8_lossy(&body))),
                }
            }
        };
        self.runtime.block_on(async {
            let all: Vec<Result<_, String>> = futures_util::stream::iter(ids).map(one).buffered(CONCURRENCY).collect().await;
            all.into_iter().collect()
        })
    }

    fn count_spans(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<u64, String> {
        let q = format!("{{ resource.service.instance.id = \"{instance}\" }} | count_over_time()");
        let params = [("q", q), ("start", (from_ms / 1000).to_string()), ("end", (to_ms / 1000 + 1).to_string())];
        let answer = self.json("/api/metrics/query", &params)?;
        let series = answer["series"].as_array().map_or(&[][..], |s| s);
        // Zero is left out of the answer.
        Ok(series.iter().map(|s| s["value"].as_f64().unwrap_or(0.0)).sum::<f64>() as u64)
    }

    fn exemplars(&self, instance: &str, from_ms: i64, to_ms: i64) -> Result<BTreeSet<String>, String> {
        let seconds = |ms: i64| format!("{:.3}", ms as f64 / 1000.0);
        let params = [("query", format!("{{instance=\"{instance}\"}}")), ("start", seconds(from_ms)), ("end", seconds(to_ms))];
        let answer = self.json("/api/v1/query_exemplars", &params)?;
        let series = answer["data"].as_array().into_iter().flatten();
        let all = series.flat_map(|s| s["exemplars"].as_array().into_iter().flatten());
        Ok(all.filter_map(|e| e["labels"]["trace_id"].as_str()).map(str::to_owned).collect())
    }
}

/// Spans of a `TracesData`.
pub fn spans(body: &[u8]) -> Result<Vec<ReadSpan>, WireError> {
    let mut out = Vec::new();
    let mut r = Fields::new(body);
    while let Some((n, resource_spans)) = r.next()? {
        let (mut instance, mut scopes) = (String::new(), Vec::new());
        let mut rs = Fields::new(if n == 1 { resource_spans.bytes() } else { &[] });
        while let Some((n, f)) = rs.next()? {
            match n {
                1 => each(f.bytes(), 1, &mut |k, v| {
                    if k == "service.instance.id" {
                        instance = v.into_owned();
                    }
                })?,
                2 => scopes.push(f.bytes()),
                _ => {}
            }
        }
        for scope in scopes {
            let mut s = Fields::new(scope);
            while let Some((n, f)) = s.next()? {
                if n == 2 {
                    out.push(span(f.bytes(), &instance)?);
                }
            }
        }
    }
    Ok(out)
}

fn span(b: &[u8], instance: &str) -> Result<ReadSpan, WireError> {
    let id = |b: &[u8]| b.try_into().map(u64::from_be_bytes).unwrap_or(0);
    let (mut own, mut parent, mut kind, mut start, mut end, mut status, mut events) = (0, 0, 0, 0, 0, 0, 0);
    let mut name = String::new();
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next()? {
        match n {
            2 => own = id(f.bytes()),
            4 => parent = id(f.bytes()),
            5 => name = String::from_utf8_lossy(f.bytes()).into_owned(),
            6 => kind = f.uint(),
            7 => start = f.uint(),
            8 => end = f.uint(),
            11 => events += 1,
            15 => {
                let mut s = Fields::new(f.bytes());
                while let Some((n, f)) = s.next()? {
                    if n == 3 {
                        status = f.uint();
                    }
                }
            }
            _ => {}
        }
    }
    let mut attributes = Vec::new();
    each(b, 9, &mut |k, v| attributes.push(format!("{k}={v}")))?;
    attributes.sort();
    let text = format!(
        "{name:?} of {instance}, parent {parent:016x}, kind {kind}, {start}..{end}, status {status}, {events} events, {}",
        attributes.join(" ")
    );
    Ok(ReadSpan { id: own, text })
}
