//! Group commit under orders of threads that shuttle chooses: `RUSTFLAGS="--cfg shuttle" cargo test -p strandline-wal --test shuttle`.
#![cfg(shuttle)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use shuttle::thread;
use strandline_wal::fs::{CrashStyle, FaultKind, Fs, SimFs};
use strandline_wal::sync::Mutex;
use strandline_wal::{SyncMode, Wal, WalOptions};

const THREADS: u8 = 3;
const EACH: u8 = 3;

/// Orders tried of each test.
fn orders() -> usize {
    std::env::var("SHUTTLE_ORDERS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

fn options() -> WalOptions {
    // Small, so that frames, rotation and waiting for room all happen.
    WalOptions { sync: SyncMode::Always, background: false, segment_size_bytes: 120, max_pending_bytes: 12, ..WalOptions::default() }
}

fn open(fs: &SimFs, replay: &mut dyn FnMut(u64, &[u8])) -> Wal {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    Wal::open(fs, Path::new("/log"), options(), &mut |at, r| {
        replay(at.seq, r);
        Ok(())
    })
    .unwrap()
    .0
}

/// Appends from several threads; gives what each ticket said, by sequence.
fn appended(wal: &Wal) -> BTreeMap<u64, (Vec<u8>, bool)> {
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let threads: Vec<_> = (0..THREADS)
        .map(|t| {
            let (wal, told) = (wal.clone(), told.clone());
            thread::spawn(move || {
                for k in 0..EACH {
                    let record = vec![b'r', t, k];
                    let Ok(ticket) = wal.append(&record) else { return };
                    let seq = ticket.seq();
                    let done = ticket.wait().is_ok();
                    assert!(told.lock().insert(seq, (record, done)).is_none(), "two records have the sequence {seq}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let told = told.lock();
    told.clone()
}

/// What is there after the power went.
fn durable(fs: &SimFs) -> BTreeMap<u64, Vec<u8>> {
    fs.restart(CrashStyle::LoseUnsynced, 0);
    let mut found = BTreeMap::new();
    open(fs, &mut |seq, r| {
        assert!(found.insert(seq, r.to_vec()).is_none(), "sequence {seq} twice");
    });
    found
}

fn number_below(n: u64) -> u64 {
    use shuttle::rand::Rng;
    shuttle::rand::thread_rng().gen_range(0..n)
}

#[test]
fn an_acknowledged_record_is_durable_whenever_the_power_goes() {
    shuttle::check_random(
        || {
            let fs = SimFs::new();
            let wal = open(&fs, &mut |_, _| {});
            fs.crash_at_sync(fs.syncs() + 1 + number_below(16));
            let told = appended(&wal);
            drop(wal);
            let there = durable(&fs);
            for (seq, (record, done)) in &told {
                assert!(!done || there.get(seq) == Some(record), "{seq}: told {told:?}, there {there:?}");
            }
        },
        orders(),
    );
}

#[test]
fn without_faults_every_record_is_there_once() {
    shuttle::check_random(
        || {
            let fs = SimFs::new();
            let wal = open(&fs, &mut |_, _| {});
            let told = appended(&wal);
            assert!(told.len() == (THREADS * EACH) as usize && told.values().all(|(_, done)| *done));
            let want: BTreeMap<u64, Vec<u8>> = told.into_iter().map(|(seq, (r, _))| (seq, r)).collect();
            assert_eq!(durable(&fs), want);
        },
        orders(),
    );
}

#[test]
fn a_failed_write_or_sync_fails_what_it_covered() {
    shuttle::check_random(
        || {
            let fs = SimFs::new();
            let wal = open(&fs, &mut |_, _| {});
            fs.fail_call(fs.calls() + 1 + number_below(20), FaultKind::Eio);
            let told = appended(&wal);
            drop(wal);
            let there = durable(&fs);
            for (seq, (record, done)) in &told {
                // What failed may be there or not; what was acknowledged is.
                assert!(!done || there.get(seq) == Some(record), "{seq}: told {told:?}, there {there:?}");
            }
            assert!(there.iter().all(|(seq, r)| told.get(seq).is_none_or(|(t, _)| t == r)));
        },
        orders(),
    );
}

#[test]
fn rotation_and_close_lose_nothing() {
    shuttle::check_random(
        || {
            let fs = SimFs::new();
            let wal = open(&fs, &mut |_, _| {});
            let rotating = {
                let wal = wal.clone();
                thread::spawn(move || {
                    let ticket = wal.append(b"before").unwrap();
                    let segment = wal.rotate().unwrap();
                    assert!(ticket.try_get().unwrap().is_ok(), "what came before a rotation is decided");
                    segment
                })
            };
            let mut told = appended(&wal);
            assert!(rotating.join().unwrap() > 1);
            wal.close().unwrap();
            assert!(wal.append(b"late").is_err());
            let mut there = durable(&fs);
            there.retain(|_, r| r != b"before");
            told.retain(|_, (_, done)| *done);
            assert_eq!(there, told.into_iter().map(|(seq, (r, _))| (seq, r)).collect());
        },
        orders(),
    );
}

/// Whoever opens the log behind a close finds what was acknowledged, also to those whose records were on their way.
#[test]
fn what_a_close_meets_is_written_before_it_or_not_acknowledged() {
    shuttle::check_random(
        || {
            let fs = SimFs::new();
            let wal = open(&fs, &mut |_, _| {});
            let closing = {
                let (wal, fs) = (wal.clone(), fs.clone());
                thread::spawn(move || {
                    wal.close().unwrap();
                    let mut there = BTreeMap::new();
                    let next = open(&fs, &mut |seq, r| drop(there.insert(seq, r.to_vec())));
                    next.append(b"next").unwrap().wait().unwrap();
                    there
                })
            };
            let rotating = {
                let wal = wal.clone();
                thread::spawn(move || drop(wal.rotate()))
            };
            let told = appended(&wal);
            let there = closing.join().unwrap();
            rotating.join().unwrap();
            let last = durable(&fs);
            for (seq, (record, done)) in &told {
                assert!(!done || there.get(seq) == Some(record), "{seq}: told {told:?}, there {there:?}");
                assert!(!done || last.get(seq) == Some(record), "{seq}: told {told:?}, in the end {last:?}");
            }
            assert!(last.values().any(|r| r == b"next"));
        },
        orders(),
    );
}
