//! Wrote `storage/tests/golden/metrics/v1` and `v1-xor2` once, when format 1 was new: a block, a log with every kind of
//! record, and the samples they hold. What is there already is never written again: a change that can't read it broke
//! the format.
//!
//! `cargo run -p strandline-storage --example make_golden_metrics -- DIR`
#![allow(clippy::disallowed_methods)]

#[path = "../tests/golden/metric_data.rs"]
mod metric_data;

use std::sync::Arc;

use strandline_wal::fs::RealFs;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("which folder?")?;
    for (name, xor2) in [("v1", false), ("v1-xor2", true)] {
        let dir = format!("{dir}/{name}");
        if std::path::Path::new(&dir).exists() {
            return Err(format!("{dir} is there already: golden files are never made again").into());
        }
        let store = metric_data::open(Arc::new(RealFs::default()), &dir, xor2);
        metric_data::fill(&store, 0..40);
        store.flush()?;
        store.upload()?;
        metric_data::fill(&store, 40..50);
        std::fs::write(format!("{dir}/expected.txt"), metric_data::samples(&store))?;
        store.close()?;
    }
    Ok(())
}
