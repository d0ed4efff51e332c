//! The log over the simulated disk: nothing acknowledged is lost, damage is told apart from a torn tail.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use strandline_wal::fs::{CrashStyle, FaultKind, Fs, RealFs, SimFs};
use strandline_wal::{RecoveryReport, SyncMode, Wal, WalOptions, replay_read_only};

const DIR: &str = "/data/wal";

fn options(segment_size_bytes: u64) -> WalOptions {
    WalOptions { segment_size_bytes, background: false, ..WalOptions::default() }
}

fn open(fs: &SimFs, segment_size_bytes: u64) -> (Wal, RecoveryReport, Vec<Vec<u8>>) {
    let mut seen = Vec::new();
    let mut last = 0;
    let (w, r) = Wal::open(Arc::new(fs.clone()), Path::new(DIR), options(segment_size_bytes), &mut |p, b| {
        assert!(p.seq > last, "sequences rise");
        last = p.seq;
        seen.push(b.to_vec());
        Ok(())
    })
    .unwrap();
    (w, r, seen)
}

fn record(i: u32) -> Vec<u8> {
    let mut r = i.to_le_bytes().to_vec();
    r.resize(8 + (i as usize * 37) % 300, (i % 251) as u8);
    r
}

#[test]
fn crash_at_every_sync_loses_nothing_acknowledged() {
    for style in [CrashStyle::LoseUnsynced, CrashStyle::Torn, CrashStyle::Reordered, CrashStyle::KeepAll] {
        for crash_at in 1.. {
            let fs = SimFs::new();
            fs.crash_at_sync(crash_at);
            let mut acked = Vec::new();
            let run = (|| -> Result<(), strandline_wal::WalError> {
                let (w, _) = Wal::open(Arc::new(fs.clone()), Path::new(DIR), options(2000), &mut |_, _| Ok(()))?;
                for i in 0..40 {
                    // Two records a commit: a group stands or falls together.
                    let a = w.append(&record(2 * i))?;
                    let b = w.append(&record(2 * i + 1))?;
                    b.wait()?;
                    a.wait()?;
                    acked.push(2 * i);
                    acked.push(2 * i + 1);
                    if i == 25 {
                        let n = w.rotate()?;
                        acked.clear();
                        w.truncate_before(n)?;
                    }
                }
                w.close()
            })();
            let finished = run.is_ok();
            fs.restart(style, crash_at);
            let (w, report, seen) = open(&fs, 2000);
            assert!(report.damage.is_empty(), "{style:?} at {crash_at}: {:?}", report.damage);
            for i in &acked {
                assert!(seen.contains(&record(*i)), "{style:?} at sync {crash_at}: record {i} was acknowledged");
            }
            // And it can be written on.
            w.append(b"more").unwrap().wait().unwrap();
            drop(w);
            let (_, _, again) = open(&fs, 2000);
            assert_eq!(again.last().unwrap(), b"more");
            if finished {
                assert!(crash_at > 45, "the workload syncs at each commit, not {crash_at} times in all");
                break;
            }
        }
    }
}

#[test]
fn a_flipped_bit_below_a_durable_mark_is_damage_and_the_rest_is_served() {
    let fs = SimFs::new();
    let (w, _, _) = open(&fs, 1 << 20);
    let mut offsets = vec![];
    for i in 0..10 {
        offsets.push(w.size_bytes());
        w.append(&record(i)).unwrap().wait().unwrap();
    }
    drop(w);
    let path = Path::new(DIR).join("00000001.wal");
    fs.flip_bit(&path, offsets[4].max(40) + 50, 3);
    let mut seen = 0;
    let found = replay_read_only(&(Arc::new(fs.clone()) as Arc<dyn Fs>), Path::new(DIR), &mut |_, _| {
        seen += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!((seen, found.damage.len()), (9, 1));
    let (_, report, seen) = open(&fs, 1 << 20);
    let expected: Vec<_> = (0..10).filter(|i| *i != 4).map(record).collect();
    assert_eq!(seen, expected);
    let d = &report.damage[0];
    assert_eq!((d.path.as_path(), d.offset), (path.as_path(), offsets[4]));
    assert!(fs.exists(d.quarantined.as_ref().unwrap()));
    assert_eq!(report.torn_bytes, 0);
}

#[test]
fn a_damaged_header_costs_no_frame() {
    for of_last in [true, false] {
        let fs = SimFs::new();
        let (w, _, _) = open(&fs, 1 << 20);
        for i in 0..4 {
            w.append(&record(i)).unwrap().wait().unwrap();
            if i == 1 {
                w.rotate().unwrap();
            }
        }
        drop(w);
        let path = Path::new(DIR).join(if of_last { "00000002.wal" } else { "00000001.wal" });
        fs.flip_bit(&path, 9, 2);
        let (w, report, seen) = open(&fs, 1 << 20);
        assert_eq!(seen, (0..4).map(record).collect::<Vec<_>>());
        assert_eq!((report.damage.len(), report.torn_bytes), (1, 0));
        assert_eq!((report.damage[0].path.as_path(), report.damage[0].offset), (path.as_path(), 0));
        w.append(&record(4)).unwrap().wait().unwrap();
        drop(w);
        assert_eq!(open(&fs, 1 << 20).2, (0..5).map(record).collect::<Vec<_>>());
    }
}

#[test]
fn a_bad_last_frame_is_a_torn_tail() {
    let fs = SimFs::new();
    let (w, _, _) = open(&fs, 1 << 20);
    for i in 0..3 {
        w.append(&record(i)).unwrap().wait().unwrap();
    }
    let end = w.size_bytes();
    drop(w);
    fs.flip_bit(&Path::new(DIR).join("00000001.wal"), end - 1, 0);
    let (_, report, seen) = open(&fs, 1 << 20);
    assert_eq!(seen.len(), 2);
    assert!(report.damage.is_empty() && report.torn_bytes > 0);
}

#[test]
fn after_an_orderly_end_a_bad_last_frame_is_damage() {
    let fs = SimFs::new();
    let (w, _, _) = open(&fs, 1 << 20);
    for i in 0..3 {
        w.append(&record(i)).unwrap().wait().unwrap();
    }
    let end = w.size_bytes();
    w.close().unwrap();
    drop(w);
    let path = Path::new(DIR).join("00000001.wal");
    fs.flip_bit(&path, end - 1, 0);
    let (w, report, seen) = open(&fs, 1 << 20);
    assert_eq!(seen, (0..2).map(record).collect::<Vec<_>>());
    assert_eq!((report.damage.len(), report.torn_bytes), (1, 0));
    w.append(&record(3)).unwrap().wait().unwrap();
    w.close().unwrap();
    assert_eq!(open(&fs, 1 << 20).2.len(), 3);
}

#[test]
fn room_behind_the_frames_is_neither_a_torn_tail_nor_damage() {
    let path = Path::new(DIR).join("00000001.wal");
    let fs = SimFs::new();
    let (w, _, _) = open(&fs, 1 << 20);
    w.append(&record(0)).unwrap().wait().unwrap();
    let len = fs.open(&path).unwrap().len();
    w.append(&record(1)).unwrap().wait().unwrap();
    assert!(len > w.size_bytes() && fs.open(&path).unwrap().len() == len, "the second frame found room");
    let end = w.size_bytes();
    drop(w);
    let (_, report, seen) = open(&fs, 1 << 20);
    assert_eq!((seen.len(), report.torn_bytes, report.damage.len()), (2, 0, 0));
    assert_eq!(fs.open(&path).unwrap().len(), end, "the room is given back");
}

#[test]
fn a_frame_torn_within_the_room_is_cut() {
    for style in [CrashStyle::LoseUnsynced, CrashStyle::Torn, CrashStyle::Reordered] {
        for seed in 1..20 {
            let fs = SimFs::new();
            let (w, _, _) = open(&fs, 1 << 20);
            for i in 0..3 {
                w.append(&record(i)).unwrap().wait().unwrap();
            }
            fs.crash_at_sync(fs.syncs() + 1);
            assert!(w.append(&[7; 3000]).unwrap().wait().is_err());
            fs.restart(style, seed);
            let (_, report, seen) = open(&fs, 1 << 20);
            assert_eq!(seen[..3], [record(0), record(1), record(2)], "{style:?} {seed}");
            assert!(report.damage.is_empty() && report.torn_bytes < 3100, "{style:?} {seed}: {report:?}");
        }
    }
}

#[test]
fn a_disk_without_space_for_room_still_takes_frames() {
    let fs = SimFs::new();
    let (w, _, _) = open(&fs, 1 << 20);
    w.append(&record(0)).unwrap().wait().unwrap();
    // Writes the frame, then asks for room.
    fs.fail_call(fs.calls() + 2, FaultKind::Enospc);
    let mut x = 1u64;
    let mut unpackable = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    };
    let large: Vec<u8> = (0..300_000).map(|_| unpackable()).collect();
    w.append(&large).unwrap().wait().unwrap();
    w.append(&record(1)).unwrap().wait().unwrap();
    assert_eq!(w.stats().failures, 0);
    drop(w);
    assert_eq!(open(&fs, 1 << 20).2, [record(0), large, record(1)]);
}

#[test]
fn a_full_disk_refuses_and_writing_resumes_by_itself() {
    for fault in [FaultKind::Enospc, FaultKind::Eio] {
        let fs = SimFs::new();
        let (w, _, _) = open(&fs, 1 << 20);
        w.append(b"one").unwrap().wait().unwrap();
        fs.set_failing(Some(fault));
        for _ in 0..3 {
            let e = w.append(b"lost").unwrap().wait().unwrap_err();
            assert!(e.is_retryable());
            assert_eq!(e.is_disk_full(), fault == FaultKind::Enospc);
        }
        fs.set_failing(None);
        w.append(b"two").unwrap().wait().unwrap();
        drop(w);
        fs.restart(CrashStyle::LoseUnsynced, 1);
        let (_, report, seen) = open(&fs, 1 << 20);
        assert_eq!(seen, [b"one".to_vec(), b"two".to_vec()], "a failed record stays failed");
        assert!(report.damage.is_empty());
    }
}

#[test]
fn a_fault_on_any_call_loses_nothing_acknowledged() {
    for at in 1..160 {
        let fs = SimFs::new();
        fs.fail_call(at, if at % 2 == 0 { FaultKind::Eio } else { FaultKind::Enospc });
        let Ok((w, _)) = Wal::open(Arc::new(fs.clone()), Path::new(DIR), options(600), &mut |_, _| Ok(())) else { continue };
        let mut acked = vec![];
        for i in 0..40 {
            if w.append(&record(i)).unwrap().wait().is_ok() {
                acked.push(record(i));
            }
        }
        assert!(acked.len() >= 39);
        drop(w);
        fs.restart(CrashStyle::Torn, at);
        let (_, report, seen) = open(&fs, 600);
        assert!(report.damage.is_empty(), "call {at}: {:?}", report.damage);
        for a in acked {
            assert!(seen.contains(&a), "call {at}");
        }
    }
}

#[test]
fn failure_fails_what_is_queued_behind_and_holds_until_resumed() {
    let fs = SimFs::new();
    let opts = WalOptions { hold_after_failure: true, ..options(1 << 20) };
    let (w, _) = Wal::open(Arc::new(fs.clone()), Path::new(DIR), opts, &mut |_, _| Ok(())).unwrap();
    fs.set_failing(Some(FaultKind::Enospc));
    let a = w.append(b"a").unwrap();
    let b = w.append(b"b").unwrap();
    assert!(b.wait().is_err() && a.wait().is_err());
    fs.set_failing(None);
    assert!(w.append(b"c").is_err());
    w.resume();
    assert!(w.failure().is_some());
    let d = w.append(b"d").unwrap();
    let d_seq = d.seq();
    d.wait().unwrap();
    assert!(w.failure().is_none());
    // Whoever owns records before and after the failure is told of it.
    assert!(w.ticket_from(d_seq - 1).wait().is_err());
    w.ticket_from(d_seq).wait().unwrap();
}

#[test]
fn who_asks_late_is_never_told_that_a_failed_record_was_written() {
    let fs = SimFs::new();
    let (w, _) = Wal::open(Arc::new(fs.clone()), Path::new(DIR), options(1 << 20), &mut |_, _| Ok(())).unwrap();
    let mut failed = Vec::new();
    for _ in 0..1200 {
        fs.set_failing(Some(FaultKind::Enospc));
        failed.push(w.append(b"lost").unwrap());
        assert!(w.commit().is_err());
        fs.set_failing(None);
        w.append(b"kept").unwrap().wait().unwrap();
    }
    assert!(failed.into_iter().all(|t| t.wait().is_err()));
}

#[test]
fn concurrent_appenders_share_fsyncs_on_the_real_disk() {
    let dir = std::env::temp_dir().join(format!("strandline-wal-{}", std::process::id()));
    let (w, _) = Wal::open(Arc::new(RealFs::default()), &dir, WalOptions::default(), &mut |_, _| Ok(())).unwrap();
    std::thread::scope(|s| {
        for t in 0..8u32 {
            let w = w.clone();
            s.spawn(move || {
                for i in 0..50 {
                    w.append(&record(t * 1000 + i)).unwrap().wait().unwrap();
                }
            });
        }
    });
    let st = w.stats();
    assert_eq!(st.records, 400);
    assert!(st.syncs <= st.commits + 2 && st.commits <= 400);
    w.close().unwrap();
    assert!(w.append(b"x").is_err());
    drop(w);
    let mut n = 0;
    Wal::open(Arc::new(RealFs::default()), &dir, WalOptions::default(), &mut |_, _| {
        n += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(n, 400);
    RealFs::default().remove_dir_all(&dir).unwrap();
}

#[test]
fn tickets_are_futures() {
    use std::future::Future;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake, Waker};
    struct Tell(mpsc::Sender<()>);
    impl Wake for Tell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }
    let fs = SimFs::new();
    let opts = WalOptions { background: true, ..WalOptions::default() };
    let (w, _) = Wal::open(Arc::new(fs), Path::new(DIR), opts, &mut |_, _| Ok(())).unwrap();
    let (tx, rx) = mpsc::channel();
    let waker = Waker::from(Arc::new(Tell(tx)));
    let mut cx = Context::from_waker(&waker);
    let mut t = std::pin::pin!(w.append(b"x").unwrap());
    while matches!(t.as_mut().poll(&mut cx), Poll::Pending) {
        rx.recv().unwrap();
    }
}

/// The folder is another's then: not a byte may come behind what that one has read.
#[test]
fn a_closed_log_writes_nothing_any_more() {
    let fs = SimFs::new();
    let (old, _, _) = open(&fs, 1 << 20);
    old.append(&record(0)).unwrap().wait().unwrap();
    old.close().unwrap();
    let (new, _, _) = open(&fs, 1 << 20);
    new.append(&record(1)).unwrap().wait().unwrap();
    let before = fs.files();
    assert!(old.append(&record(2)).is_err() && old.rotate().is_err());
    old.close().unwrap();
    assert_eq!(fs.files(), before);
    new.append(&record(3)).unwrap().wait().unwrap();
    drop(new);
    assert_eq!(open(&fs, 1 << 20).2, [0, 1, 3].map(record));
}

#[test]
fn other_sync_modes_keep_what_the_process_wrote() {
    for sync in [SyncMode::Never, SyncMode::Interval(std::time::Duration::from_millis(1))] {
        let fs = SimFs::new();
        let opts = WalOptions { sync, ..options(500) };
        let (w, _) = Wal::open(Arc::new(fs.clone()), Path::new(DIR), opts, &mut |_, _| Ok(())).unwrap();
        for i in 0..20 {
            w.append(&record(i)).unwrap().wait().unwrap();
        }
        drop(w);
        fs.restart(CrashStyle::KeepAll, 1);
        let (_, _, seen) = open(&fs, 500);
        assert_eq!(seen.len(), 20);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any bytes in the files: recovery ends, without panic, and what it replays is a part of what was written.
    #[test]
    fn arbitrary_damage_never_panics(flips in prop::collection::vec((0u64..3000, 0u8..8), 1..12), cut in 0u64..3000) {
        let fs = SimFs::new();
        let (w, _, _) = open(&fs, 1500);
        let written: Vec<_> = (0..20).map(record).collect();
        for r in &written {
            w.append(r).unwrap().wait().unwrap();
        }
        drop(w);
        for (path, size) in fs.files() {
            for (at, bit) in &flips {
                fs.flip_bit(&path, *at, *bit);
            }
            if cut < size && cut % 3 == 0 {
                fs.truncate(&path, cut).unwrap();
            }
        }
        let (_, _, seen) = open(&fs, 1500);
        for s in seen {
            prop_assert!(written.contains(&s));
        }
    }
}
