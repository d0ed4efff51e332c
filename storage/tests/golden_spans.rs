//! What earlier versions wrote is read, to the bit: blocks of a flush and of a merge, and a log. The files are never
//! made again (`storage/examples/make_golden_spans.rs` made them once); a new format gets a folder of its own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(feature = "traces")]

#[path = "golden/copy.rs"]
mod copy;
#[path = "golden/json.rs"]
mod json;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::model::TraceId;
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, SimFs};

const V1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/spans/v1");

fn open() -> TraceStore {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    copy::copy(Path::new(V1), Path::new("/d"), &fs);
    let bucket = Arc::new(LocalBucket::open(fs.clone(), "/d/bucket").unwrap());
    let mut o = TraceStoreOptions::new(fs, Arc::new(ManualClock::new(1_700_000_060_000)), "/d", bucket);
    o.wal.background = false;
    TraceStore::open(o).unwrap()
}

/// All spans, by trace and start.
fn spans(store: &TraceStore) -> Vec<Value> {
    (1..=10u8)
        .filter_map(|n| store.trace(TraceId([n; 16])).unwrap())
        .flat_map(|t| t.spans.iter().map(json::span).collect::<Vec<_>>())
        .collect()
}

#[test]
fn blocks_and_log_of_format_1_are_read() {
    let expected: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(format!("{V1}/expected.json")).unwrap()).unwrap();
    assert_eq!(expected.len(), 30);
    let store = open();
    let mut levels: Vec<(u32, u64)> = store.blocks().iter().map(|b| (b.meta.level, b.meta.spans)).collect();
    levels.sort_unstable();
    assert_eq!((levels, store.live_spans()), (vec![(0, 8), (1, 14)], 8), "a block of a flush, one of a merge, and the log");
    for (got, want) in spans(&store).iter().zip(&expected) {
        assert_eq!(got, want);
    }
    assert_eq!(spans(&store).len(), expected.len());
    // And what is made of them by this version says the same.
    store.flush().unwrap();
    assert_eq!((spans(&store), store.live_spans()), (expected, 0));
}
