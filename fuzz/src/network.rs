//! Bytes from the network, and the configuration file.

use bytes::Bytes;
use strandline_server::config;
use strandline_server::otlp::json::{Signal, to_protobuf};
use strandline_server::otlp::names::Strategy;
use strandline_server::otlp::{Translation, metrics};
use strandline_server::{remote_write, scrape};
use strandline_storage::metrics::head::Batch;

use super::engine::{T0, World, all_spans, everything};

/// `prometheus.WriteRequest`.
pub fn remote_write_v1(data: &[u8]) {
    if let Ok(batch) = remote_write::decode(Bytes::copy_from_slice(data), false) {
        store(&batch);
    }
}

/// `io.prometheus.write.v2.Request`.
pub fn remote_write_v2(data: &[u8]) {
    if let Ok(batch) = remote_write::decode(Bytes::copy_from_slice(data), true) {
        store(&batch);
    }
}

/// A page of metrics in each of its formats.
pub fn scrape_page(data: &[u8]) {
    for format in [scrape::Format::Text, scrape::Format::OpenMetrics, scrape::Format::Proto { classic: true }] {
        if let Ok(batch) = scrape::decode(data, format) {
            store(&batch);
        }
    }
}

/// What could be decoded goes into an engine: it is refused, or it comes through a flush.
fn store(batch: &Batch) {
    let w = World::new(T0);
    let engine = w.open().unwrap();
    let appended = engine.metrics().append(batch).unwrap();
    appended.commit.wait().unwrap();
    let before = everything(engine.metrics());
    engine.flush().unwrap();
    assert_eq!(everything(engine.metrics()), before, "a flush changed an answer");
    engine.close().unwrap();
}

/// Metrics and traces read the same bytes.
pub fn otlp_protobuf(data: &[u8]) {
    let all = Translation {
        strategy: Strategy::named(["", "NoTranslation"][data.len() / 2 % 2]),
        promote: Vec::new(),
        promote_all: true,
        scope_labels: true,
        nhcb: data.len().is_multiple_of(2),
        target_info: true,
        target_info_every_ms: 150_000,
    };
    if let Ok(t) = metrics::translate(data, &all) {
        store(&t.batch);
    }
    let w = World::new(T0);
    let engine = w.open().unwrap();
    if let Ok(appended) = engine.traces().append_otlp(Bytes::copy_from_slice(data)) {
        let accepted = appended.accepted;
        appended.ticket.wait().unwrap();
        let before = all_spans(engine.traces());
        engine.flush().unwrap();
        assert!(engine.traces().block_spans() <= accepted);
        assert_eq!(all_spans(engine.traces()), before, "a flush changed a trace");
    }
    engine.close().unwrap();
}

/// What JSON is turned into must be protobuf that its reader takes.
pub fn otlp_json(data: &[u8]) {
    for signal in [Signal::Metrics, Signal::Traces, Signal::Logs] {
        if let Ok(protobuf) = to_protobuf(data, signal) {
            otlp_protobuf(&protobuf);
        }
    }
}

/// Mistakes have a place in the text.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(mistakes) = config::load(Some(text), std::iter::empty()) {
        let lines = text.split('\n').count();
        assert!(!mistakes.is_empty());
        assert!(mistakes.iter().all(|m| m.at.0 <= lines), "{mistakes:?}");
    }
}
