//! The log: damaged files, and sound frames around arbitrary records.

use std::path::Path;
use std::sync::Arc;

use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_wal::fs::{Fs, SimFs};
use strandline_wal::{Wal, WalOptions};

use super::Input;

const DIR: &str = "/data/wal/metrics";

fn options() -> WalOptions {
    WalOptions { background: false, segment_size_bytes: 400, ..WalOptions::default() }
}

fn open(fs: &Arc<dyn Fs>, seen: &mut Vec<Vec<u8>>) -> Wal {
    let replay = &mut |_, r: &[u8]| {
        seen.push(r.to_vec());
        Ok(())
    };
    Wal::open(fs.clone(), Path::new(DIR), options(), replay).expect("a damaged log opens").0
}

/// The first byte chooses: patches over a sound log, bytes instead of a segment, or records that the store must bear.
pub fn wal_recovery(data: &[u8]) {
    let mut input = Input(data);
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    match input.byte() % 3 {
        0 => patched(&fs, input),
        1 => {
            fs.create_dir_all(Path::new(DIR)).unwrap();
            drop(written(&fs, 3));
            let segment = fs.read_dir(Path::new(DIR)).unwrap()[usize::from(input.byte() % 2)].path.clone();
            fs.write_atomic(&segment, input.0).unwrap();
            open(&fs, &mut Vec::new()).close().unwrap();
        }
        _ => records(&fs, input),
    }
}

fn record(i: usize) -> Vec<u8> {
    vec![i as u8; 20 + i * 7 % 90]
}

fn written(fs: &Arc<dyn Fs>, records: usize) -> Wal {
    let wal = open(fs, &mut Vec::new());
    for i in 0..records {
        wal.append(&record(i)).unwrap().wait().unwrap();
    }
    wal.close().unwrap();
    wal
}

/// What comes back is a part of what was written, in order, and the log goes on.
fn patched(fs: &Arc<dyn Fs>, mut input: Input<'_>) {
    const N: usize = 30;
    drop(written(fs, N));
    let files = fs.read_dir(Path::new(DIR)).unwrap();
    let path = &files[usize::from(input.byte()) % files.len()].path;
    let mut content = fs.read(path).unwrap().to_vec();
    let cut = usize::from(input.short());
    input.patch(&mut content);
    content.truncate(if cut % 3 == 0 { cut } else { usize::MAX });
    fs.write_atomic(path, &content).unwrap();
    let mut seen = Vec::new();
    let wal = open(fs, &mut seen);
    let mut expected = (0..N).map(record);
    for r in &seen {
        assert!(expected.any(|e| e == *r), "a record that was never written, or out of order");
    }
    wal.append(b"one more").unwrap().wait().unwrap();
    wal.close().unwrap();
    let mut again = Vec::new();
    drop(open(fs, &mut again));
    seen.push(b"one more".to_vec());
    assert_eq!(again, seen, "a mended log reads the same again");
}

/// Frames are sound, records are anything.
fn records(fs: &Arc<dyn Fs>, mut input: Input<'_>) {
    let wal = open(fs, &mut Vec::new());
    while !input.is_empty() {
        let n = usize::from(input.byte());
        let _ = wal.append(input.bytes(n)).unwrap().wait();
    }
    wal.close().unwrap();
    let mut o = MetricOptions::new(fs.clone(), Arc::new(ManualClock::new(1_700_006_400_000)), "/data");
    o.wal = options();
    if let Ok(store) = MetricStore::open(o) {
        let _ = store.flush();
        store.close().unwrap();
    }
}
