//! What the fuzz targets run, and what `ingest-server/tests/corpora.rs` feeds their corpora to: functions of bytes that
//! panic when something is wrong.
#![allow(clippy::unwrap_used)]

mod blocks;
mod engine;
mod log;
mod network;
mod queries;

pub use blocks::{block_index, chunks, span_block};
pub use engine::engine_ops;
pub use log::wal_recovery;
pub use network::{config, otlp_json, otlp_protobuf, remote_write_v1, remote_write_v2, scrape_page};
pub use queries::{promql, traceql};

/// A target's name, which is its corpus folder's too, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 13] = [
    ("wal_recovery", wal_recovery),
    ("chunks", chunks),
    ("block_index", block_index),
    ("span_block", span_block),
    ("remote_write_v1", remote_write_v1),
    ("remote_write_v2", remote_write_v2),
    ("otlp_protobuf", otlp_protobuf),
    ("otlp_json", otlp_json),
    ("promql", promql),
    ("traceql", traceql),
    ("scrape_page", scrape_page),
    ("config", config),
    ("engine_ops", engine_ops),
];

/// The front of the input as numbers, zeros once it has ended.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }
    fn short(&mut self) -> u16 {
        self.bytes(2).iter().fold(0, |n, b| n << 8 | u16::from(*b))
    }
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }
    /// Bytes to write over a file: four bytes of input each.
    fn patch(&mut self, file: &mut [u8]) {
        while !self.is_empty() {
            let at = usize::from(self.byte()) << 16 | usize::from(self.short());
            let value = self.byte();
            if !file.is_empty() {
                let n = file.len();
                file[at % n] = value;
            }
        }
    }
}
