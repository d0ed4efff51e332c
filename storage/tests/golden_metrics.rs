//! What earlier versions wrote is read, to the bit: a block and a log with every kind of record, of both float
//! encodings. The files are never made again (`storage/examples/make_golden_metrics.rs` made them once); a new format
//! gets a folder of its own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "golden/copy.rs"]
mod copy;
#[path = "golden/metric_data.rs"]
mod metric_data;

use std::path::Path;
use std::sync::Arc;

use strandline_storage::model::{Matcher, TimeRange};
use strandline_storage::read::SeriesSource;
use strandline_wal::fs::{Fs, SimFs};

#[test]
fn metric_blocks_and_log_of_format_1_are_read() {
    for (name, xor2) in [("v1", false), ("v1-xor2", true)] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics").join(name);
        let expected = std::fs::read_to_string(golden.join("expected.txt")).unwrap();
        assert!(expected.lines().count() >= 8 * 50, "{name}");
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
        copy::copy(&golden, Path::new("/d"), &fs);
        let store = metric_data::open(fs, "/d", xor2);
        assert_eq!((store.blocks().len(), store.recovery().damage.len()), (1, 0), "{name}");
        assert_eq!(metric_data::samples(&store), expected, "{name}");
        let exemplars = store.exemplars(&[vec![Matcher::equal("__name__", "int")]], TimeRange::all()).unwrap();
        assert_eq!(exemplars.iter().map(|e| e.exemplars.len()).sum::<usize>(), 50, "{name}: exemplars");
        assert_eq!(store.metadata(Some("int")).unwrap()[0].1[0].help, "squares", "{name}");
        // Sums go on where the log left them, and what this version makes of it all says the same.
        store.flush().unwrap();
        store.clean_tombstones().unwrap();
        assert_eq!(metric_data::samples(&store), expected, "{name} after a flush");
        metric_data::fill(&store, 50..51);
        let lines = metric_data::samples(&store);
        let last = |kind: usize| lines.lines().rfind(|l| l.starts_with(&format!("{kind} "))).unwrap().to_owned();
        let sum: f64 = (0..51).map(|k| 1.0 + k as f64 / 4.0).sum();
        assert!(last(6).ends_with(&format!("{:016x}", sum.to_bits())), "{name}: {}", last(6));
        assert!(last(7).contains(&format!("count {} ", 51 * 13)), "{name}: {}", last(7));
    }
}
