//! `grpc.health.v1.Health`: whether the server is ready, for probes that speak gRPC. It says what `/-/ready` says.

use axum::Router;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The server as a whole, and the services that each port has.
const SERVICES: [&str; 4] = [
    "",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "opentelemetry.proto.collector.logs.v1.LogsService",
];

/// No name of a service is longer.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// Tells all who ask or watch.
#[derive(Default)]
pub struct Health(HealthReporter);

impl Health {
    /// Says whether the server is ready. Before the first call it counts as ready.
    pub async fn tell(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }

    /// The service, for one port.
    pub fn router(&self) -> Router {
        let service = HealthService::from_health_reporter(self.0.clone());
        let service = HealthServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Router::new().route_service("/grpc.health.v1.Health/{method}", service)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::{Request, Version};
    use http_body_util::BodyExt;
    use prost::Message;
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
    use tower::ServiceExt;

    use super::*;

    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;

    fn call(method: &str, service: &str) -> Request<Body> {
        let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
        let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        let request = Request::post(format!("/grpc.health.v1.Health/{method}")).version(Version::HTTP_2);
        request.header("content-type", "application/grpc").header("te", "trailers").body(framed.into()).unwrap()
    }

    fn status(frame: &[u8]) -> i32 {
        HealthCheckResponse::decode(&frame[5..]).unwrap().status
    }

    #[tokio::test]
    async fn who_asks_and_who_watches_is_told_while_the_log_is_replayed_and_when_that_is_done() {
        let health = Health::default();
        let check = async |service: &str| {
            let answer = health.router().oneshot(call("Check", service)).await.unwrap();
            let refused = answer.headers().get("grpc-status").map(|v| v.to_str().unwrap().to_owned());
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            refused.map_or_else(|| Ok(status(&bytes)), Err)
        };
        health.tell(false).await;
        let mut watched = health.router().oneshot(call("Watch", "")).await.unwrap().into_body();
        let mut next = async || {
            let frame = tokio::time::timeout(Duration::from_secs(20), watched.frame()).await.unwrap();
            status(&frame.unwrap().unwrap().into_data().unwrap())
        };
        assert_eq!((next().await, check("").await), (NOT_SERVING, Ok(NOT_SERVING)));
        assert_eq!(check(SERVICES[1]).await, Ok(NOT_SERVING));
        health.tell(true).await;
        assert_eq!(next().await, SERVING);
        for service in SERVICES {
            assert_eq!(check(service).await, Ok(SERVING), "{service}");
        }
        // NOT_FOUND, as the protocol has it.
        assert_eq!(check("no.such.Service").await, Err("5".to_owned()));
    }
}
