//! What a point of OTLP metrics costs, from protobuf to an acknowledged commit, without a network.
//!
//! `cargo run --release -p strandline-server --example otlp_metrics -- DIR`
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::sync::Arc;

use strandline_server::otlp::metrics::{Translation, translate};
use strandline_server::otlp::names::Strategy;
use strandline_storage::clock::ManualClock;
use strandline_storage::codec::protobuf::Writer;
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_testkit::cpu::cpu_seconds;
use strandline_wal::fs::{IoMode, RealFs};

#[global_allocator]
static ALLOCATOR: strandline_allocator::MiMalloc = strandline_allocator::MiMalloc;

const T0: u64 = 1_700_006_400;

fn attribute(w: &mut Writer, field: u32, key: &str, value: &str) {
    w.message(field, |w| {
        w.bytes_always(1, key.as_bytes());
        w.message(2, |w| w.bytes_always(1, value.as_bytes()));
    });
}

fn attributes(w: &mut Writer, field: u32, i: usize) {
    attribute(w, field, "http.request.method", ["GET", "POST", "PUT"][i % 3]);
    attribute(w, field, "http.route", &format!("/api/v1/items/{}", i / 12));
    attribute(w, field, "http.response.status_code", ["200", "404", "500", "503"][i % 4]);
    attribute(w, field, "server.address", &format!("10.0.0.{}", i % 7));
}

/// One service's export: `n` points of a counter or of a histogram with ten bounds.
fn request(service: usize, step: u64, n: usize, histogram: bool) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(1, |rm| {
        rm.message(1, |r| {
            attribute(r, 1, "service.name", &format!("shop-{service}"));
            attribute(r, 1, "service.instance.id", &format!("i-{service}"));
            attribute(r, 1, "k8s.pod.name", &format!("pod-{service}"));
        });
        rm.message(2, |sm| {
            sm.message(1, |s| s.bytes(1, b"meter"));
            sm.message(2, |m| {
                m.bytes(1, if histogram { b"http.server.request.duration" } else { b"http.server.requests" });
                m.bytes(3, if histogram { b"s" } else { b"{request}" });
                m.message(if histogram { 9 } else { 7 }, |d| {
                    for i in 0..n {
                        d.message(1, |p| point(p, step, i, histogram));
                    }
                    d.int_always(2, 2);
                    if !histogram {
                        d.int_always(3, 1);
                    }
                });
            });
        });
    });
    out.buf
}

fn point(p: &mut Writer, step: u64, i: usize, histogram: bool) {
    p.fixed64_always(2, T0 * 1_000_000_000);
    p.fixed64_always(3, (T0 + step * 15) * 1_000_000_000);
    if histogram {
        attributes(p, 9, i);
        p.fixed64_always(4, 11 * step);
        p.fixed64_always(5, (1.5 * step as f64).to_bits());
        let packed = |v: &[u64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        p.bytes_always(6, &packed(&[step; 11]));
        p.bytes_always(7, &packed(&[0.005f64, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0].map(f64::to_bits)));
    } else {
        attributes(p, 7, i);
        p.fixed64_always(6, step * 3 + i as u64);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("which folder?")?;
    let t = Translation {
        strategy: Strategy::named("UnderscoreEscapingWithSuffixes"),
        promote: vec!["service.name".into(), "k8s.pod.name".into()],
        promote_all: false,
        scope_labels: true,
        nhcb: false,
        target_info: true,
        target_info_every_ms: 150_000,
    };
    for (what, histogram, n) in [("numbers", false, 500), ("histograms", true, 100)] {
        let clock = ManualClock::new((T0 as i64 + 3600) * 1000);
        let store = MetricStore::open(MetricOptions::new(Arc::new(RealFs::new(IoMode::Mmap)), Arc::new(clock), format!("{dir}-{what}")))?;
        let requests: Vec<Vec<u8>> = (1..=120).flat_map(|step| (0..20).map(move |s| request(s, step, n, histogram))).collect();
        let points = (requests.len() * n) as f64;
        let cpu = || cpu_seconds().unwrap_or(0.0);
        let start = cpu();
        for r in &requests {
            std::hint::black_box(translate(r, &t)?);
        }
        let translated = cpu() - start;
        let start = cpu();
        for r in &requests {
            let t = translate(r, &t)?;
            store.append(&t.batch)?.commit.wait()?;
        }
        let stored = cpu() - start;
        println!("{what}: {:.2} M points a CPU second translated, {:.2} M stored", points / translated / 1e6, points / stored / 1e6);
    }
    Ok(())
}
