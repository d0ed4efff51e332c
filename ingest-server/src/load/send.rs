//! Delivering one request: by gRPC or HTTP, again and again while the server says that it may be tried again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use strandline_storage::codec::protobuf::Fields;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;

use super::ledger::{Fate, Signal};
use super::rng::Rng;
use super::services::Service;
use crate::otlp::grpc::Raw;

const FIRST_BACKOFF_MS: u64 = 100;
const LAST_BACKOFF_MS: u64 = 2_000;
const TIMEOUT: Duration = Duration::from_secs(20);

/// Connections to a server.
#[derive(Clone)]
pub struct Wire {
    channel: Option<Channel>,
    client: reqwest::Client,
    http: String,
}

/// How one attempt ended.
#[derive(Debug, PartialEq)]
pub enum Attempt {
    /// Stored; so many items of it were not.
    Stored(u64, String),
    /// Not stored; come again after so long, if said.
    Later(Option<Duration>, String),
    /// Not stored, and it never will be.
    Never(String),
    /// Nobody answered.
    NoAnswer(String),
}

/// How a delivery went.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Attempts made.
    pub attempts: u64,
    /// Of them, refused for now.
    pub refused: u64,
    /// Of them, without an answer.
    pub unanswered: u64,
    /// Items of a stored request that were not taken.
    pub rejected: u64,
    /// The last bad word.
    pub message: String,
    /// From the attempt that was stored to its answer.
    pub took: Duration,
}

impl Wire {
    /// Connects when first used. An empty gRPC address: everything goes by HTTP.
    pub fn new(grpc: &str, http: &str) -> Result<Self, String> {
        let channel = match grpc {
            "" => None,
            g => {
                let endpoint = Channel::from_shared(g.to_owned()).map_err(|e| format!("{g}: {e}"))?;
                Some(endpoint.connect_timeout(Duration::from_secs(2)).timeout(TIMEOUT).connect_lazy())
            }
        };
        let client = crate::http_client::builder(http).connect_timeout(Duration::from_secs(2)).timeout(TIMEOUT);
        let client = client.build().map_err(|e| e.to_string())?;
        Ok(Wire { channel, client, http: http.trim_end_matches('/').to_owned() })
    }

    /// One attempt.
    async fn attempt(&self, service: &Service, signal: Signal, body: Bytes) -> Attempt {
        match &self.channel {
            Some(c) if service.grpc => by_grpc(c.clone(), signal, body, service.gzip).await,
            _ => self.by_http(signal, body, service.gzip).await,
        }
    }

    /// Delivers until it is stored, refused for good, or `until` has come.
    pub async fn deliver(&self, service: &Service, signal: Signal, body: Bytes, until: Instant, rng: &mut Rng) -> (Fate, Delivery) {
        let mut d = Delivery::default();
        let mut backoff_ms = FIRST_BACKOFF_MS;
        loop {
            d.attempts += 1;
            let began = Instant::now();
            let wait = match self.attempt(service, signal, body.clone()).await {
                Attempt::Stored(rejected, message) => {
                    (d.rejected, d.took) = (rejected, began.elapsed());
                    if rejected == 0 {
                        return (Fate::Acknowledged, d);
                    }
                    // Which items were not taken is not said.
                    d.message = message;
                    return (Fate::Unknown, d);
                }
                Attempt::Never(message) => {
                    d.message = message;
                    return (if d.unanswered > 0 { Fate::Unknown } else { Fate::Refused }, d);
                }
                Attempt::Later(wait, message) => {
                    d.refused += 1;
                    d.message = message;
                    wait
                }
                Attempt::NoAnswer(message) => {
                    d.unanswered += 1;
                    d.message = message;
                    None
                }
            };
            // Not all at the same moment again.
            let wait = wait.map(|w| w + Duration::from_millis(rng.below(1 + w.as_millis() as u64 / 2)));
            let wait = wait.unwrap_or_else(|| {
                let w = Duration::from_millis(backoff_ms / 2 + rng.below(backoff_ms));
                backoff_ms = (backoff_ms * 2).min(LAST_BACKOFF_MS);
                w
            });
            if Instant::now() + wait >= until {
                return (if d.unanswered > 0 { Fate::Unknown } else { Fate::Refused }, d);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn by_http(&self, signal: Signal, body: Bytes, gzip: bool) -> Attempt {
        let path = if signal == Signal::Metrics { "/v1/metrics" } else { "/v1/traces" };
        let mut r = self.client.post(format!("{}{path}", self.http)).header("content-type", "application/x-protobuf");
        if gzip {
            use std::io::Read;
            let mut packed = Vec::new();
            if flate2::read::GzEncoder::new(&body[..], flate2::Compression::fast()).read_to_end(&mut packed).is_ok() {
                r = r.header("content-encoding", "gzip").body(packed);
            }
        } else {
            r = r.body(body);
        }
        let answer = match r.send().await {
            Ok(a) => a,
            Err(e) if e.is_connect() => return Attempt::Later(None, format!("no connection: {e}")),
            Err(e) => return Attempt::NoAnswer(e.to_string()),
        };
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let body = match answer.bytes().await {
            Ok(b) => b,
            Err(e) => return Attempt::NoAnswer(e.to_string()),
        };
        match status {
            200..300 => stored(&body),
            429 | 502 | 503 | 504 => Attempt::Later(after.map(Duration::from_secs), format!("{status}: {}", words(&body))),
            _ => Attempt::Never(format!("{status}: {}", words(&body))),
        }
    }
}

/// A google.rpc.Status' message, or what is there.
fn words(body: &[u8]) -> String {
    let mut r = Fields::new(body);
    while let Ok(Some((n, f))) = r.next() {
        if let (2, Some(t)) = (n, f.text()) {
            return t.to_owned();
        }
    }
    String::from_utf8_lossy(body).trim().to_owned()
}

/// What an answer says of items that were not taken.
fn stored(body: &[u8]) -> Attempt {
    let (mut rejected, mut message) = (0, String::new());
    let mut r = Fields::new(body);
    while let Ok(Some((n, f))) = r.next() {
        let mut partial = Fields::new(if n == 1 { f.bytes() } else { &[] });
        while let Ok(Some((n, f))) = partial.next() {
            match n {
                1 => rejected = f.uint(),
                2 => message = f.text().unwrap_or("").to_owned(),
                _ => {}
            }
        }
    }
    Attempt::Stored(rejected, message)
}

async fn by_grpc(channel: Channel, signal: Signal, body: Bytes, gzip: bool) -> Attempt {
    let path = match signal {
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    };
    let mut client = tonic::client::Grpc::new(channel).accept_compressed(CompressionEncoding::Gzip);
    if gzip {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    if let Err(e) = client.ready().await {
        return Attempt::Later(None, format!("no connection: {e}"));
    }
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    match client.unary(tonic::Request::new(body), path, Raw).await {
        Ok(answer) => stored(&answer.into_inner()),
        Err(status) => verdict(&status),
    }
}

/// Which codes may be tried again is the OTLP specification's word. A code with a cause in the transport is no answer.
fn verdict(s: &tonic::Status) -> Attempt {
    use tonic::Code::*;
    let message = format!("{:?}: {}", s.code(), s.message());
    let refused_connection = message.contains("tcp connect error");
    match s.code() {
        _ if refused_connection => Attempt::Later(None, message),
        _ if std::error::Error::source(s).is_some() => Attempt::NoAnswer(message),
        ResourceExhausted => match retry_delay(s.details()) {
            Some(d) => Attempt::Later(Some(d), message),
            None => Attempt::Never(message),
        },
        Cancelled | DeadlineExceeded | Unknown | Internal => Attempt::NoAnswer(message),
        Unavailable | Aborted | OutOfRange | DataLoss => Attempt::Later(retry_delay(s.details()), message),
        _ => Attempt::Never(message),
    }
}

/// The delay of a RetryInfo among a status' details.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let mut r = Fields::new(details);
    while let Ok(Some((n, f))) = r.next() {
        let (mut kind, mut value): (&str, &[u8]) = ("", &[]);
        let mut any = Fields::new(if n == 3 { f.bytes() } else { &[] });
        while let Ok(Some((n, f))) = any.next() {
            match n {
                1 => kind = f.text().unwrap_or(""),
                2 => value = f.bytes(),
                _ => {}
            }
        }
        if !kind.ends_with("google.rpc.RetryInfo") {
            continue;
        }
        let mut info = Fields::new(value);
        if let Ok(Some((1, f))) = info.next() {
            let (mut s, mut ns) = (0, 0);
            let mut d = Fields::new(f.bytes());
            while let Ok(Some((n, f))) = d.next() {
                match n {
                    1 => s = f.uint(),
                    2 => ns = f.uint() as u32,
                    _ => {}
                }
            }
            return Some(Duration::new(s.min(3600), ns.min(999_999_999)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::refusal::{Reason, Refusal};

    #[test]
    fn our_own_refusals_are_understood() {
        let at = |reason| verdict(&crate::otlp::grpc::status(&Refusal::new(reason, "why")));
        assert!(
            matches!(at(Reason::Overloaded), Attempt::Later(Some(d), m) if d == Duration::from_millis(crate::refusal::RETRY_INFO_MS) && m.contains("why"))
        );
        assert!(matches!(at(Reason::Unavailable), Attempt::Later(None, _)));
        assert!(matches!(at(Reason::Invalid), Attempt::Never(_)));
        let partial = crate::otlp::http::response(&crate::otlp::ingest::Outcome { rejected: 3, message: "m".into() });
        assert_eq!(stored(&partial), Attempt::Stored(3, "m".into()));
        assert_eq!(stored(&[]), Attempt::Stored(0, String::new()));
    }
}
