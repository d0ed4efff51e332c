//! `tempopb.StreamingQuerier`: the same queries as over HTTP, by gRPC on the same port.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use prost::Message;
use strandline_query::traceql::{MatchedSet, MetricsOptions, SearchOptions, SearchResult, Series, TraceMatch};
use strandline_storage::read::ScanStats;
use tonic::codec::{CompressionEncoding, EnabledCompressionEncodings};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::http::blocking;
use super::metrics::{self, MetricsCall};
use super::search::{self, SearchCall, query_of_tags, short_id};
use super::{TempoError, TempoState, proto, tags};

/// Traces in a message of a stream.
const TRACES_PER_MESSAGE: usize = 20;

/// The gRPC routes, to be merged into the server's.
pub fn streaming_routes(state: TempoState) -> Router {
    Router::new().route("/tempopb.StreamingQuerier/{method}", post(dispatch)).with_state(state)
}

impl From<TempoError> for Status {
    fn from(e: TempoError) -> Self {
        let code = match e.status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
            _ => Code::Internal,
        };
        Status::new(code, e.message)
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Vec<T>, TempoError>> + Send>>;

/// A method: a message in, a stream of messages out.
struct Method<F, Q, A> {
    state: TempoState,
    run: F,
    types: PhantomData<fn(Q) -> A>,
}

impl<F, Q, A> ServerStreamingService<Q> for Method<F, Q, A>
where
    F: Fn(TempoState, HeaderMap, Q) -> Answer<A>,
    Q: Message,
    A: Message + 'static,
{
    type Response = A;
    type ResponseStream = futures_util::stream::Iter<std::vec::IntoIter<Result<A, Status>>>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let headers = request.metadata().clone().into_headers();
        let answer = (self.run)(self.state.clone(), headers, request.into_inner());
        Box::pin(async move {
            let messages: Vec<Result<A, Status>> = answer.await?.into_iter().map(Ok).collect();
            Ok(tonic::Response::new(futures_util::stream::iter(messages)))
        })
    }
}

async fn serve<F, Q, A>(state: TempoState, request: Request, run: F) -> Response<Body>
where
    F: Fn(TempoState, HeaderMap, Q) -> Answer<A> + Send + Sync + 'static,
    Q: Message + Default + Send + 'static,
    A: Message + Default + Send + 'static,
{
    let codec: ProstCodec<A, Q> = ProstCodec::default();
    let mut gzip = EnabledCompressionEncodings::default();
    gzip.enable(CompressionEncoding::Gzip);
    let mut grpc = Grpc::new(codec).apply_compression_config(gzip, gzip);
    let method = Method { state, run, types: PhantomData };
    grpc.server_streaming(method, request).await.map(Body::new)
}

/// The methods as functions of one type each: their futures boxed.
macro_rules! boxed {
    ($($name:ident = $f:ident($request:ident) -> $response:ident;)*) => {
        $(fn $name(state: TempoState, headers: HeaderMap, request: proto::$request) -> Answer<proto::$response> {
            Box::pin($f(state, headers, request))
        })*
    };
}

boxed! {
    boxed_search = search(SearchRequest) -> SearchResponse;
    boxed_tags_v1 = tags_v1(SearchTagsRequest) -> SearchTagsResponse;
    boxed_tags_v2 = tags_v2(SearchTagsRequest) -> SearchTagsV2Response;
    boxed_values_v1 = values_v1(SearchTagValuesRequest) -> SearchTagValuesResponse;
    boxed_values_v2 = values_v2(SearchTagValuesRequest) -> SearchTagValuesV2Response;
    boxed_query_range = query_range(QueryRangeRequest) -> QueryRangeResponse;
    boxed_query_instant = query_instant(QueryInstantRequest) -> QueryInstantResponse;
}

async fn dispatch(State(state): State<TempoState>, Path(method): Path<String>, request: Request) -> Response<Body> {
    match method.as_str() {
        "Search" => serve(state, request, boxed_search).await,
        "SearchTags" => serve(state, request, boxed_tags_v1).await,
        "SearchTagsV2" => serve(state, request, boxed_tags_v2).await,
        "SearchTagValues" => serve(state, request, boxed_values_v1).await,
        "SearchTagValuesV2" => serve(state, request, boxed_values_v2).await,
        "MetricsQueryRange" => serve(state, request, boxed_query_range).await,
        "MetricsQueryInstant" => serve(state, request, boxed_query_instant).await,
        other => Status::unimplemented(format!("tempopb.StreamingQuerier has no method {other}")).into_http(),
    }
}

fn stats(s: &ScanStats) -> Option<proto::SearchMetrics> {
    Some(proto::SearchMetrics {
        inspected_traces: u32::try_from(s.traces).unwrap_or(u32::MAX),
        inspected_bytes: s.bytes,
        total_blocks: s.blocks,
        completed_jobs: 1,
        total_jobs: 1,
        inspected_spans: s.spans,
    })
}

fn set(s: &MatchedSet) -> proto::SpanSet {
    let span = |s: &strandline_query::traceql::MatchedSpan| proto::Span {
        span_id: format!("{:016x}", s.span_id),
        name: s.name.clone(),
        start_time_unix_nano: s.start_unix_nano,
        duration_nanos: s.duration_nano,
        attributes: proto::key_values(&s.attributes),
    };
    proto::SpanSet { spans: s.spans.iter().map(span).collect(), matched: s.matched, attributes: proto::key_values(&s.attributes) }
}

fn trace(t: &TraceMatch) -> proto::TraceSearchMetadata {
    let sets: Vec<proto::SpanSet> = t.sets.iter().map(set).collect();
    let service =
        |(n, (spans, errors)): (&String, &(u32, u32))| (n.clone(), proto::ServiceStats { span_count: *spans, error_count: *errors });
    proto::TraceSearchMetadata {
        trace_id: short_id(t),
        root_service_name: t.root_service.clone(),
        root_trace_name: t.root_name.clone(),
        start_time_unix_nano: t.start_unix_nano,
        duration_ms: u32::try_from(t.duration_nano / 1_000_000).unwrap_or(u32::MAX),
        span_set: sets.first().cloned(),
        span_sets: sets,
        service_stats: t.services.iter().map(service).collect(),
    }
}

fn nanos(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000_000_000
}

/// All that a search found, in one message.
pub fn search_response(found: &SearchResult) -> proto::SearchResponse {
    proto::SearchResponse { traces: found.traces.iter().map(trace).collect(), metrics: stats(&found.stats) }
}

async fn search(state: TempoState, headers: HeaderMap, r: proto::SearchRequest) -> Result<Vec<proto::SearchResponse>, TempoError> {
    if r.end <= r.start && (r.start, r.end) != (0, 0) {
        return Err(TempoError::bad_request(format!("start must be before end. received start={} end={}", r.start, r.end)));
    }
    let ms = |v: u32| (v > 0).then(|| u64::from(v) * 1_000_000);
    let mut tags: Vec<(String, String)> = r.tags.into_iter().collect();
    tags.sort();
    let query = if r.query.is_empty() { query_of_tags(&tags, ms(r.min_duration_ms), ms(r.max_duration_ms)) } else { r.query };
    let defaults = SearchOptions::default();
    let options = SearchOptions {
        limit: if r.limit == 0 { defaults.limit } else { r.limit.min(search::MAX_TRACES) as usize },
        spans_per_set: match u64::from(r.spans_per_span_set) {
            0 => defaults.spans_per_set,
            n => n.min(search::MAX_SPANS_PER_SET) as usize,
        },
        start_nano: nanos(r.start),
        end_nano: if r.end == 0 { u64::MAX } else { nanos(r.end) },
        max_trace_nano: state.max_trace_nano,
        partial: false,
        max_bytes: state.max_search_bytes,
    };
    let call = SearchCall { query, options };
    let found: SearchResult = blocking(&state, &headers, move |source| search::run(&call, source)).await?;
    let mut out: Vec<proto::SearchResponse> = found
        .traces
        .chunks(TRACES_PER_MESSAGE)
        .map(|c| proto::SearchResponse { traces: c.iter().map(trace).collect(), metrics: None })
        .collect();
    if out.is_empty() {
        out.push(proto::SearchResponse::default());
    }
    if let Some(last) = out.last_mut() {
        last.metrics = stats(&found.stats);
    }
    Ok(out)
}

fn range(start: u32, end: u32) -> Option<(u64, u64)> {
    (end > start).then(|| (nanos(start), nanos(end)))
}

async fn tag_names(state: &TempoState, headers: &HeaderMap, r: proto::SearchTagsRequest) -> Result<Vec<(String, Vec<String>)>, TempoError> {
    let o = tags::options(range(r.start, r.end), u64::from(r.max_tags_per_scope), state);
    let filter = (!r.query.is_empty()).then_some(r.query);
    blocking(state, headers, move |source| tags::names(source, Some(&r.scope), filter.as_deref(), &o)).await
}

async fn tags_v1(state: TempoState, headers: HeaderMap, r: proto::SearchTagsRequest) -> Result<Vec<proto::SearchTagsResponse>, TempoError> {
    let tag_names = tags::flat(&r.scope.clone(), tag_names(&state, &headers, r).await?);
    Ok(vec![proto::SearchTagsResponse { tag_names, metrics: None }])
}

async fn tags_v2(
    state: TempoState,
    headers: HeaderMap,
    r: proto::SearchTagsRequest,
) -> Result<Vec<proto::SearchTagsV2Response>, TempoError> {
    let scopes = tag_names(&state, &headers, r).await?;
    let scopes = scopes.into_iter().map(|(name, tags)| proto::SearchTagsV2Scope { name, tags }).collect();
    Ok(vec![proto::SearchTagsV2Response { scopes, metrics: None }])
}

async fn tag_values(
    state: &TempoState,
    headers: &HeaderMap,
    r: proto::SearchTagValuesRequest,
) -> Result<Vec<strandline_query::traceql::TagValue>, TempoError> {
    let o = tags::options(range(r.start, r.end), u64::from(r.max_tag_values), state);
    let filter = (!r.query.is_empty()).then_some(r.query);
    blocking(state, headers, move |source| tags::values(source, &r.tag_name, filter.as_deref(), &o)).await
}

async fn values_v1(
    state: TempoState,
    headers: HeaderMap,
    r: proto::SearchTagValuesRequest,
) -> Result<Vec<proto::SearchTagValuesResponse>, TempoError> {
    let mut tag_values: Vec<String> = tag_values(&state, &headers, r).await?.into_iter().map(|v| v.value).collect();
    tag_values.sort();
    tag_values.dedup();
    Ok(vec![proto::SearchTagValuesResponse { tag_values, metrics: None }])
}

async fn values_v2(
    state: TempoState,
    headers: HeaderMap,
    r: proto::SearchTagValuesRequest,
) -> Result<Vec<proto::SearchTagValuesV2Response>, TempoError> {
    tags::identifier(&r.tag_name)?;
    let found = tag_values(&state, &headers, r).await?;
    let tag_values = found.into_iter().map(|v| proto::TagValue { kind: v.kind.to_owned(), value: v.value }).collect();
    Ok(vec![proto::SearchTagValuesV2Response { tag_values, metrics: None }])
}

fn metrics_call(state: &TempoState, query: String, start: u64, end: u64) -> MetricsCall {
    let now = state.clock.now_ms().max(0) as u64 * 1_000_000;
    let end = if end == 0 { now } else { end };
    let start = if start == 0 { end.saturating_sub(3_600_000_000_000) } else { start };
    let mut options = MetricsOptions::new(start, end);
    options.max_series = state.max_series;
    options.max_cells = state.max_cells;
    options.max_trace_nano = state.max_trace_nano;
    MetricsCall { query, options }
}

async fn query_range(
    state: TempoState,
    headers: HeaderMap,
    r: proto::QueryRangeRequest,
) -> Result<Vec<proto::QueryRangeResponse>, TempoError> {
    let mut call = metrics_call(&state, r.query, r.start, r.end);
    call.options.step_nano = r.step;
    call.options.exemplars = r.exemplars.min(100) as usize;
    let mut m = blocking(&state, &headers, move |source| metrics::run(&call, source)).await?;
    let message = cut_to(&mut m.series, r.max_series);
    let trace_label = |id: String| proto::KeyValue {
        key: "trace:id".into(),
        value: Some(proto::AnyValue { value: Some(proto::any_value::Value::Str(id)) }),
    };
    let series = m.series.iter().map(|s| proto::TimeSeries {
        labels: proto::key_values(&s.labels),
        samples: metrics::samples(s, &m.timestamps_ms).map(|(timestamp_ms, value)| proto::Sample { value, timestamp_ms }).collect(),
        exemplars: s
            .exemplars
            .iter()
            .map(|e| proto::Exemplar { labels: vec![trace_label(e.trace_id.to_string())], value: e.value, timestamp_ms: e.timestamp_ms })
            .collect(),
    });
    let status = i32::from(!message.is_empty());
    Ok(vec![proto::QueryRangeResponse { series: series.collect(), metrics: stats(&m.stats), status, message }])
}

/// Leaves the first `most` series, in the order of their labels (0: all), and says what is not there.
fn cut_to(series: &mut Vec<Series>, most: u32) -> String {
    let (all, most) = (series.len(), most as usize);
    if most == 0 || all <= most {
        return String::new();
    }
    series.truncate(most);
    format!("{most} of {all} series; ask for more by max_series, or group by fewer labels")
}

async fn query_instant(
    state: TempoState,
    headers: HeaderMap,
    r: proto::QueryInstantRequest,
) -> Result<Vec<proto::QueryInstantResponse>, TempoError> {
    let mut call = metrics_call(&state, r.query, r.start, r.end);
    call.options.instant = true;
    let m = blocking(&state, &headers, move |source| metrics::run(&call, source)).await?;
    let series = m
        .series
        .iter()
        .map(|s| proto::InstantSeries { labels: proto::key_values(&s.labels), value: s.values.first().copied().unwrap_or(0.0) });
    Ok(vec![proto::QueryInstantResponse { series: series.collect(), metrics: stats(&m.stats) }])
}
