//! What is left behind by errands that fail, and by damage to what waits for its upload.

use super::*;
use crate::bucket::{BucketCall, SimBucket};
use crate::{Error, ErrorKind};

/// Folders of blocks on the disk that no manifest names.
fn unnamed(rig: &Rig) -> Vec<String> {
    let manifest = rig.fs.read(Path::new("/data/traces/manifest.json")).map_or(String::new(), |b| String::from_utf8_lossy(&b).into());
    let of = |p: &Path| p.strip_prefix("/data/traces").ok().filter(|p| p.iter().count() > 1)?.iter().next()?.to_str().map(str::to_owned);
    let mut all: Vec<String> = rig.fs.files().iter().filter_map(|(p, _)| of(p)).filter(|u| !manifest.contains(u)).collect();
    all.dedup();
    all
}

#[test]
fn flushes_and_merges_that_fail_leave_nothing_behind() {
    for merges in [false, true] {
        for call in 1.. {
            let rig = Rig::new();
            let store = rig.open();
            for id in 1..6u8 {
                put(&store, &[span(id, id, NOW_MS)]);
                if merges {
                    store.flush().unwrap();
                }
            }
            let end = rig.fs.calls() + call;
            rig.fs.fail_call(end, FaultKind::Enospc);
            let _ = if merges { store.tend() } else { store.flush_local() };
            assert_eq!(unnamed(&rig), Vec::<String>::new(), "merges: {merges}, call {call}");
            if rig.fs.calls() < end {
                break;
            }
            store.flush().unwrap();
            rig.clock.advance(60_000);
            store.tend().unwrap();
            (1..6u8).for_each(|id| assert_eq!(names(store.trace(TraceId([id; 16])).unwrap()).len(), 1));
        }
    }
}

#[test]
fn a_staged_block_that_is_damaged_or_gone_is_said_for_as_long_as_it_is() {
    for gone in [false, true] {
        let rig = Rig::new();
        let store = rig.open();
        put(&store, &[span(1, 1, NOW_MS)]);
        store.flush_local().unwrap();
        let folder = Path::new("/data/traces").join(&store.blocks()[0].meta.ulid);
        drop(store);
        if gone {
            rig.fs.remove_dir_all(&folder).unwrap();
        } else {
            for file in ["meta.json", "spans.parquet"] {
                rig.fs.write_atomic(&folder.join(file), b"something else").unwrap();
            }
        }
        let store = rig.open();
        put(&store, &[span(2, 1, NOW_MS)]);
        for _ in 0..3 {
            assert!(store.incomplete().is_some_and(|why| why.contains(folder.file_name().unwrap().to_str().unwrap())));
            assert!(store.trace(TraceId([2; 16])).is_err(), "gone: {gone}: an answer could miss what it held");
            assert_eq!(names(store.trace_partial(TraceId([2; 16])).unwrap().0).len(), 1);
            // The bucket is listed again, which says nothing of what lies here.
            rig.clock.advance(120_000);
            store.maintain().unwrap();
        }
        // Until somebody accepts the loss, of this block and no other.
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert_eq!(store.give_up("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap_err().kind, ErrorKind::NotFound);
        store.give_up(name).unwrap();
        for store in [store, rig.open()] {
            assert_eq!(store.incomplete(), None);
            assert_eq!(names(store.trace(TraceId([2; 16])).unwrap()).len(), 1);
            assert_eq!(rig.fs.exists(&Path::new("/data/given-up").join(name)), !gone);
            assert_eq!(store.give_up(name).unwrap_err().kind, ErrorKind::NotFound);
            store.maintain().unwrap();
        }
    }
}

#[test]
fn a_clock_that_is_set_back_holds_up_neither_flushes_nor_listings() {
    let rig = Rig::new();
    rig.clock.advance(86_400_000);
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS)]);
    rig.clock.set(NOW_MS);
    store.maintain().unwrap();
    assert_eq!(store.live_spans(), 0);
    let mut o = rig.options().unwrap();
    (o.dir, o.writer_id) = ("/other".into(), "other".into());
    rig.fs.create_dir_all(Path::new("/other")).unwrap();
    let other = TraceStore::open(o).unwrap();
    put(&other, &[span(2, 1, NOW_MS)]);
    other.flush().unwrap();
    rig.clock.set(NOW_MS - 1000);
    store.maintain().unwrap();
    assert_eq!(names(store.trace(TraceId([2; 16])).unwrap()).len(), 1);
}

#[test]
fn half_an_upload_of_a_lost_machine_is_removed() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS)]);
    store.flush().unwrap();
    let name = ulid::Ulid::from_parts(NOW_MS as u64, 7).to_string();
    let bucket = &store.options().bucket;
    let left = |of: &str| bucket.list(&format!("traces/{}/{of}", store.options().tenant)).unwrap().len();
    bucket.put(&format!("traces/{}/{name}/spans.parquet", store.options().tenant), bytes::Bytes::from_static(b"half")).unwrap();
    for hour in 0..58 {
        assert!(left(&format!("{name}/")) == 1 || hour > 54, "{hour}");
        store.maintain().unwrap();
        rig.clock.advance(3_600_000);
    }
    assert_eq!((left(&format!("{name}/")), left("")), (0, 2), "nothing else goes");
}

/// The sender went away, or has not looked yet, when the commit of its spans has failed.
#[test]
fn spans_of_a_failed_commit_are_in_no_block() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS)]);
    let gone = store.append(&[span(2, 1, NOW_MS)]).unwrap();
    let waiting = store.append(&[span(3, 1, NOW_MS)]).unwrap();
    rig.fs.set_failing(Some(FaultKind::Eio));
    assert!(store.flush_local().is_err());
    drop(gone);
    rig.fs.calm();
    store.flush_local().unwrap();
    assert_eq!((store.block_spans(), store.live_bytes()), (1, 0));
    waiting.ticket.wait().unwrap_err();
    // One whose sender went away and that was written counts, though nobody was told.
    drop(store.append(&[span(4, 1, NOW_MS)]).unwrap());
    store.flush_local().unwrap();
    assert_eq!(store.block_spans(), 2);
    drop(store);
    assert_eq!(rig.open().block_spans(), 2);
}

/// The bucket does what it is asked, but does not say so in time, and does it later.
#[test]
fn a_merged_blocks_description_that_comes_late_costs_nothing() {
    for restarts in [false, true] {
        let rig = Rig::new();
        let mut o = rig.options().unwrap();
        // Descriptions from some time on, as they come.
        let held = Arc::new(std::sync::Mutex::new(None::<Vec<(String, bytes::Bytes)>>));
        let (fs, holds) = (rig.fs.clone(), held.clone());
        let late = SimBucket::over(LocalBucket::open(o.fs.clone(), "/data/bucket").unwrap()).before(move |call| {
            match (call, &mut *holds.lock().unwrap()) {
                (BucketCall::PutFile(key, path), Some(held)) if key.ends_with("meta.json") => {
                    held.push((key.to_owned(), fs.read(path).unwrap()));
                    Err(Error::new(ErrorKind::Unavailable, "no answer in time"))
                }
                _ => Ok(()),
            }
        });
        let late = Arc::new(late);
        (o.bucket, o.compact_blocks) = (late.clone(), 2);
        let mut store = TraceStore::open(o.clone()).unwrap();
        let whole = |s: &TraceStore| (1..3u8).all(|id| names(s.trace(TraceId([id; 16])).unwrap()).len() == 1);
        for id in 1..3u8 {
            put(&store, &[span(id, id, NOW_MS)]);
            store.flush().unwrap();
        }
        *held.lock().unwrap() = Some(Vec::new());
        assert!(store.tend().is_err(), "the merged block has no description yet");
        if restarts {
            store.close().unwrap();
            store = TraceStore::open(o).unwrap();
        }
        // The next turn begins anew, and fails too.
        assert!(store.tend().is_err() && whole(&store));
        let came = held.lock().unwrap().take().unwrap();
        assert_eq!(came.len(), 2);
        came.into_iter().for_each(|(key, content)| late.inner().put(&key, content).unwrap());
        for _ in 0..4 {
            store.tend().unwrap();
            assert!(whole(&store) && whole(&rig.open()), "restarts: {restarts}");
            rig.clock.advance(20 * 60_000);
        }
        assert_eq!(late.list_folders("traces/anonymous/").unwrap().len(), 1);
    }
}
