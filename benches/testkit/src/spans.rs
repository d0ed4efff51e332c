//! Traces of a shop: six services that call one another, as OTLP requests.

use crate::Random;
use crate::wire::Message;

const SERVICES: [&str; 6] = ["web", "checkout", "cart", "payment", "stock", "mail"];
const ROUTES: [&str; 5] = ["/", "/cart", "/cart/{id}", "/checkout", "/health"];

/// Spans of one trace.
pub const SPANS_A_TRACE: usize = 8;

/// The id of trace `n`.
pub fn trace_id(n: u64) -> [u8; 16] {
    let mut r = Random::new(n ^ 0x7ace);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&r.bits().to_be_bytes());
    id[8..].copy_from_slice(&(n + 1).to_be_bytes());
    id
}

fn attribute(m: &mut Message, number: u32, key: &str, value: impl FnOnce(&mut Message)) {
    m.message(number, |kv| {
        kv.bytes(1, key.as_bytes());
        kv.message(2, value);
    });
}

fn text(m: &mut Message, number: u32, key: &str, value: &str) {
    attribute(m, number, key, |v| v.bytes(1, value.as_bytes()));
}

fn whole(m: &mut Message, number: u32, key: &str, value: u64) {
    attribute(m, number, key, |v| v.int(3, value));
}

/// An `ExportTraceServiceRequest` with the traces `first..first + traces`, a second apart from `start_ms` on.
pub fn request(first: u64, traces: u64, start_ms: i64) -> Vec<u8> {
    let mut out = Message::default();
    for (s, service) in SERVICES.iter().enumerate() {
        out.message(1, |rs| {
            rs.message(1, |r| {
                text(r, 1, "service.name", service);
                text(r, 1, "host.name", &format!("host-{}", s % 3));
                text(r, 1, "deployment.environment", "prod");
            });
            rs.message(2, |ss| {
                ss.message(1, |scope| scope.bytes(1, b"http"));
                for n in first..first + traces {
                    for i in (0..SPANS_A_TRACE).filter(|i| i % SERVICES.len() == s) {
                        ss.message(2, |m| span(m, n, i, start_ms));
                    }
                }
            });
        });
    }
    out.0
}

fn span_id(n: u64, i: usize) -> [u8; 8] {
    ((n << 8) | (i as u64 + 1)).to_be_bytes()
}

fn span(m: &mut Message, n: u64, i: usize, start_ms: i64) {
    let mut r = Random::new(n * 64 + i as u64);
    let start = (start_ms as u64 + n * 1000 + i as u64) * 1_000_000;
    let route = ROUTES[r.below(5) as usize];
    let failed = r.chance(0.02);
    m.bytes(1, &trace_id(n));
    m.bytes(2, &span_id(n, i));
    if i > 0 {
        m.bytes(4, &span_id(n, (i - 1) / 2));
    }
    m.bytes(5, format!("GET {route}").as_bytes());
    m.int(6, 2 + (i as u64 & 1));
    m.fixed64(7, start);
    m.fixed64(8, start + 1000 + r.below(50_000_000));
    text(m, 9, "http.method", "GET");
    text(m, 9, "http.route", route);
    text(m, 9, "url.full", &format!("https://shop.example{route}?user={}", r.below(5000)));
    whole(m, 9, "http.status_code", if failed { 500 } else { 200 });
    whole(m, 9, "thread.id", r.below(32));
    if failed {
        m.message(11, |e| {
            e.fixed64(1, start + 500);
            e.bytes(2, b"exception");
            text(e, 3, "exception.message", "connection reset");
        });
        m.message(15, |s| s.int(3, 2));
    }
}
