//! Remote read: all samples of chosen series, for Prometheus and Thanos, in one answer or as a stream of chunks.

use std::io::Write;

use axum::extract::{Request, State};
use axum::response::Response;
use prost::Message;
use strandline_storage::chunk::{self, Encoding, FloatHistogramAppender, XorAppender};
use strandline_storage::codec::crc32c;
use strandline_storage::model::{CounterReset, FloatHistogram, Labels, MatchOp, Matcher, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSelection};

use super::PromState;
use super::answer::{ApiError, Out};
use super::run::{Call, Manner, run};
use crate::body::unsnap;

/// The messages; fields as Prometheus numbers them.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ReadRequest {
        #[prost(message, repeated, tag = "1")]
        pub queries: Vec<Query>,
        #[prost(int32, repeated, tag = "2")]
        pub accepted_response_types: Vec<i32>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Query {
        #[prost(int64, tag = "1")]
        pub start_timestamp_ms: i64,
        #[prost(int64, tag = "2")]
        pub end_timestamp_ms: i64,
        #[prost(message, repeated, tag = "3")]
        pub matchers: Vec<LabelMatcher>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct LabelMatcher {
        #[prost(int32, tag = "1")]
        pub r#type: i32,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, tag = "3")]
        pub value: String,
    }
    /// Written as bytes, read by tests.
    #[cfg(test)]
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ReadResponse {
        #[prost(message, repeated, tag = "1")]
        pub results: Vec<QueryResult>,
    }
    #[cfg(test)]
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct QueryResult {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "4")]
        pub histograms: Vec<Histogram>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
    }
    /// With float counts only: the other form is not needed to write.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Histogram {
        #[prost(double, optional, tag = "2")]
        pub count_float: Option<f64>,
        #[prost(double, tag = "3")]
        pub sum: f64,
        #[prost(sint32, tag = "4")]
        pub schema: i32,
        #[prost(double, tag = "5")]
        pub zero_threshold: f64,
        #[prost(double, optional, tag = "7")]
        pub zero_count_float: Option<f64>,
        #[prost(message, repeated, tag = "8")]
        pub negative_spans: Vec<BucketSpan>,
        #[prost(double, repeated, tag = "10")]
        pub negative_counts: Vec<f64>,
        #[prost(message, repeated, tag = "11")]
        pub positive_spans: Vec<BucketSpan>,
        #[prost(double, repeated, tag = "13")]
        pub positive_counts: Vec<f64>,
        #[prost(int32, tag = "14")]
        pub reset_hint: i32,
        #[prost(int64, tag = "15")]
        pub timestamp: i64,
        #[prost(double, repeated, tag = "16")]
        pub custom_values: Vec<f64>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct BucketSpan {
        #[prost(sint32, tag = "1")]
        pub offset: i32,
        #[prost(uint32, tag = "2")]
        pub length: u32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ChunkedReadResponse {
        #[prost(message, repeated, tag = "1")]
        pub chunked_series: Vec<ChunkedSeries>,
        #[prost(int64, tag = "2")]
        pub query_index: i64,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ChunkedSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub chunks: Vec<Chunk>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Chunk {
        #[prost(int64, tag = "1")]
        pub min_time_ms: i64,
        #[prost(int64, tag = "2")]
        pub max_time_ms: i64,
        #[prost(int32, tag = "3")]
        pub r#type: i32,
        #[prost(bytes = "vec", tag = "4")]
        pub data: Vec<u8>,
    }
}
#[cfg(test)]
pub(super) use wire::ReadResponse;
pub(super) use wire::{ChunkedReadResponse, LabelMatcher, Query, ReadRequest};

const STREAMED_XOR_CHUNKS: i32 = 1;
/// A frame of the stream ends after so many bytes of chunks.
const FRAME: usize = 1 << 20;
/// An answer in one piece holds at most so many bytes; larger ones have to be streamed.
const MAX_WHOLE: usize = 256 << 20;

/// `read`.
pub async fn read(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::HeavyPlain, |call, out| {
        let bytes = unsnap(&call.body, call.state.options().max_body_bytes)?;
        let asked = ReadRequest::decode(&bytes[..]).map_err(|e| ApiError::bad_data(format!("the request is not a read request: {e}")))?;
        // The first type that is known is the one the client likes best.
        let streamed = asked.accepted_response_types.iter().find(|t| (0..=1).contains(*t)) == Some(&STREAMED_XOR_CHUNKS);
        if streamed { stream(call, &asked, out) } else { whole(call, &asked, out) }
    })
    .await
}

fn matchers(q: &Query) -> Result<Vec<Matcher>, ApiError> {
    let one = |m: &LabelMatcher| {
        let op = match m.r#type {
            0 => MatchOp::Equal,
            1 => MatchOp::NotEqual,
            2 => MatchOp::Regex,
            3 => MatchOp::NotRegex,
            n => return Err(ApiError::bad_data(format!("matcher type {n} is unknown"))),
        };
        Matcher::new(op, m.name.clone(), m.value.clone()).map_err(|e| ApiError::bad_data(e.to_string()))
    };
    q.matchers.iter().map(one).collect()
}

fn select(call: &Call, q: &Query) -> Result<(Box<dyn SeriesSelection>, TimeRange), ApiError> {
    let range = TimeRange::new(q.start_timestamp_ms, q.end_timestamp_ms);
    let s = call.source()?.select(&SelectRequest::new(matchers(q)?, range))?;
    let max = call.state.options().engine.options().max_series;
    if s.len() as u64 > max {
        return Err(ApiError::bad_data(format!("the request selects {} series, the limit is {max}", s.len())));
    }
    Ok((s, range))
}

fn labels(l: &Labels) -> Vec<wire::Label> {
    l.iter().map(|(name, value)| wire::Label { name: name.to_owned(), value: value.to_owned() }).collect()
}

fn histogram(h: &FloatHistogram, t: i64) -> wire::Histogram {
    let spans =
        |s: &[strandline_storage::model::BucketSpan]| s.iter().map(|s| wire::BucketSpan { offset: s.offset, length: s.length }).collect();
    wire::Histogram {
        count_float: Some(h.count),
        sum: h.sum,
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count_float: Some(h.zero_count),
        negative_spans: spans(&h.negative_spans),
        negative_counts: h.negative_buckets.to_vec(),
        positive_spans: spans(&h.positive_spans),
        positive_counts: h.positive_buckets.to_vec(),
        reset_hint: match h.counter_reset {
            CounterReset::Unknown => 0,
            CounterReset::Reset => 1,
            CounterReset::NotReset => 2,
            CounterReset::Gauge => 3,
        },
        timestamp: t,
        custom_values: h.custom_values.to_vec(),
    }
}

fn whole(call: &Call, asked: &ReadRequest, out: &mut Out) -> Result<(), ApiError> {
    // While it is packed it is there twice.
    let most = MAX_WHOLE.min((call.state.options().engine.options().max_bytes / 2) as usize);
    let mut answer: Vec<u8> = Vec::new();
    let mut buf = SampleBuf::default();
    for q in &asked.queries {
        let (s, range) = select(call, q)?;
        let mut result: Vec<u8> = Vec::new();
        s.prefetch(0, s.len());
        for i in 0..s.len() {
            call.check()?;
            s.read(i, range, &mut buf)?;
            if buf.is_empty() {
                continue;
            }
            let mut series = wire::TimeSeries { labels: labels(&s.labels(i)), ..Default::default() };
            for k in 0..buf.len() {
                match buf.histogram(k) {
                    Some(h) => series.histograms.push(histogram(h, buf.t[k])),
                    None => series.samples.push(wire::Sample { value: buf.v[k], timestamp: buf.t[k] }),
                }
            }
            // As the fields of a `QueryResult` and a `ReadResponse` are written: no tree of it all is ever there.
            prost::encoding::message::encode(1, &series, &mut result);
            if answer.len() + result.len() > most {
                let text = format!("the answer has more than {most} bytes: ask for streamed chunks, or for less");
                return Err(ApiError::bad_data(text));
            }
        }
        prost::encoding::bytes::encode(1, &result, &mut answer);
    }
    let packed = snap::raw::Encoder::new().compress_vec(&answer);
    out.raw("application/x-protobuf", Some("snappy"));
    out.buf = packed.map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(())
}

fn stream(call: &Call, asked: &ReadRequest, out: &mut Out) -> Result<(), ApiError> {
    out.raw("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse", None);
    let mut buf = SampleBuf::default();
    for (index, q) in asked.queries.iter().enumerate() {
        let (s, range) = select(call, q)?;
        for i in 0..s.len() {
            call.check()?;
            if i % 256 == 0 {
                s.prefetch(i, (i + 256).min(s.len()));
            }
            s.read(i, range, &mut buf)?;
            let labels = labels(&s.labels(i));
            let mut held = Vec::new();
            let mut size = 0;
            let mut at = 0;
            while at < buf.len() {
                let c;
                (c, at) = next_chunk(&buf, at);
                size += c.data.len();
                held.push(c);
                if size >= FRAME || at == buf.len() {
                    size = 0;
                    let series = wire::ChunkedSeries { labels: labels.clone(), chunks: std::mem::take(&mut held) };
                    frame(out, &ChunkedReadResponse { chunked_series: vec![series], query_index: index as i64 });
                    out.spill()?;
                }
            }
        }
    }
    Ok(())
}

/// A message with its length and checksum before it.
fn frame(out: &mut Out, message: &ChunkedReadResponse) {
    let data = message.encode_to_vec();
    let mut n = data.len();
    while n >= 0x80 {
        out.buf.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.buf.push(n as u8);
    out.buf.extend_from_slice(&crc32c(&data).to_be_bytes());
    // Writing to memory does not fail.
    let _ = out.buf.write_all(&data);
}

/// A chunk of the samples from `at` on, and where the next one begins.
fn next_chunk(buf: &SampleBuf, at: usize) -> (wire::Chunk, usize) {
    let mut end = at;
    let (encoding, data) = if let Some(h) = buf.histogram(at) {
        let mut a = FloatHistogramAppender::new(buf.t[at], h, h.counter_reset);
        end += 1;
        while end < buf.len() && a.len() < chunk::TARGET_SAMPLES {
            let Some(h) = buf.histogram(end) else { break };
            if a.append(buf.t[end], h).is_err() {
                break;
            }
            end += 1;
        }
        (Encoding::FloatHistogram, a.bytes().to_vec())
    } else {
        let mut a = XorAppender::default();
        while end < buf.len() && a.len() < chunk::TARGET_SAMPLES && buf.histogram(end).is_none() {
            a.append(buf.t[end], buf.v[end]);
            end += 1;
        }
        (Encoding::Xor, a.bytes().to_vec())
    };
    (wire::Chunk { min_time_ms: buf.t[at], max_time_ms: buf.t[end - 1], r#type: encoding as i32, data }, end)
}
