//! Full disks and errands that fail: what is left behind, and what goes on all the same. What a delete spares.
#![allow(clippy::unwrap_used)]

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use strandline_storage::bucket::{Bucket, LocalBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Exemplar, Labels, Matcher, MetricMetadata, TimeRange};
use strandline_storage::read::{SampleBuf, SelectRequest, SeriesSource};
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, FaultKind, Fs, FsCall, SimFs};

/// Something happens once at a call to the disk, if it is `due`.
fn once(fs: &SimFs, due: fn(FsCall<'_>) -> bool, what: impl FnOnce() + Send + 'static) {
    let what = Mutex::new(Some(what));
    fs.watch(move |call| {
        let what = what.lock().unwrap().take_if(|_| due(call));
        what.into_iter().for_each(|what| what());
        Ok(())
    });
}

const HOUR: i64 = 3_600_000;
const T0: i64 = 1_700_000_000_000 / (2 * HOUR) * (2 * HOUR);

struct World {
    fs: SimFs,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        World { fs: SimFs::new(), clock: ManualClock::new(T0) }
    }

    fn open(&self, with_bucket: bool) -> MetricStore {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let mut o = MetricOptions::new(fs.clone(), Arc::new(self.clock.clone()), "/data");
        o.wal = WalOptions { background: false, ..WalOptions::default() };
        if with_bucket {
            o.bucket = Some(Arc::new(LocalBucket::open(fs, "/data/bucket").unwrap()));
        }
        MetricStore::open(o).unwrap()
    }
}

/// A sample of each of `n` series, every third of job `j1`.
fn append(s: &MetricStore, n: i64, t: i64) {
    let mut b = BatchBuilder::default();
    for i in 0..n {
        let k = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string()), ("job", format!("j{}", i % 3))]));
        b.push(k, t + i % 7, 0, Value::Float(i as f64));
    }
    let a = s.append(&b.finish()).unwrap();
    assert!(a.rejected.is_empty());
    a.commit.wait().unwrap();
}

fn count(s: &MetricStore, matcher: Matcher) -> usize {
    let sel = s.select(&SelectRequest::new(vec![matcher], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    (0..sel.len())
        .map(|i| {
            sel.read(i, TimeRange::all(), &mut buf).unwrap();
            buf.len()
        })
        .sum()
}

fn all(s: &MetricStore) -> usize {
    count(s, Matcher::equal("__name__", "m"))
}

/// Files of blocks that are not named, where blocks lie.
fn unnamed(fs: &SimFs, named: &dyn Fn(&str) -> bool) -> Vec<std::path::PathBuf> {
    let blocks = Path::new("/data/metrics/blocks");
    let of = |p: &Path| p.strip_prefix(blocks).ok().and_then(|p| p.iter().next()?.to_str()).map(str::to_owned);
    fs.files().into_iter().map(|(p, _)| p).filter(|p| of(p).is_some_and(|ulid| !named(&ulid))).collect()
}

#[test]
fn what_could_not_be_completed_is_not_left_lying() {
    // A flush and a merge, the disk being full at each of their calls.
    for merges in [false, true] {
        for call in 1.. {
            let w = World::new();
            let s = w.open(false);
            for half in 0..2 {
                append(&s, 20, T0 + half * 60_000);
                if merges {
                    s.flush().unwrap();
                }
            }
            w.clock.advance(12 * HOUR);
            let end = w.fs.calls() + call;
            w.fs.fail_call(end, FaultKind::Enospc);
            let done = if merges { s.compact(1).map(|_| ()) } else { s.flush() };
            // A manifest that was put in place and not made durable counts after a restart.
            let on_disk = w.fs.read(Path::new("/data/metrics/manifest.json")).map_or(String::new(), |b| String::from_utf8_lossy(&b).into());
            // What was replaced and can't be removed goes at the next start.
            let left = if done.is_ok() {
                Vec::new()
            } else {
                unnamed(&w.fs, &|u| on_disk.contains(u) || s.blocks().iter().any(|b| b.meta.ulid == u))
            };
            assert_eq!(left, Vec::<std::path::PathBuf>::new(), "merges: {merges}, call {call}");
            if w.fs.calls() < end {
                done.unwrap();
                break;
            }
            assert_eq!(all(&s), 40);
            if merges { s.compact(1).map(|_| ()) } else { s.flush() }.unwrap();
            assert_eq!(s.blocks().len(), 1, "{call}");
            assert_eq!(all(&s), 40);
        }
    }
}

#[test]
fn a_flush_that_fails_at_any_call_loses_nothing() {
    for call in 1.. {
        let w = World::new();
        let s = w.open(false);
        append(&s, 20, T0);
        // What a cut carries over into the log's next segment.
        let mut b = BatchBuilder::default();
        let k = b.series(&Labels::from_pairs([("__name__", "sum")]));
        b.push(k, T0, T0 - 1000, Value::Delta(1.0));
        s.append(&b.finish()).unwrap().commit.wait().unwrap();
        let end = w.fs.calls() + call;
        w.fs.fail_call(end, FaultKind::Eio);
        let done = s.flush();
        let (sums, missing) = (|s: &MetricStore| count(s, Matcher::equal("__name__", "sum")), format!("call {call}: {done:?}"));
        assert_eq!((all(&s), sums(&s)), (20, 1), "{missing}");
        if w.fs.calls() < end {
            done.unwrap();
            break;
        }
        append(&s, 20, T0 + 60_000);
        s.flush().unwrap();
        assert_eq!((all(&s), sums(&s)), (40, 1), "{missing}");
        s.close().unwrap();
        drop(s);
        let s = w.open(false);
        assert_eq!((all(&s), sums(&s)), (40, 1), "{missing}");
    }
}

#[test]
fn a_batch_of_which_a_part_failed_is_not_acknowledged() {
    const SENDERS: i64 = 4;
    const BATCHES: i64 = 400;
    let w = World::new();
    let s = w.open(false);
    // More series than stripes: a batch lies in many records of the log, and others go on between them.
    let batch = |sender: i64, k: i64| {
        let mut b = BatchBuilder::default();
        for i in 0..40 {
            let series = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", format!("{sender}.{i}"))]));
            b.push(series, T0 + k * 100, 0, Value::Float(k as f64));
        }
        b.finish()
    };
    let left = std::sync::atomic::AtomicI64::new(SENDERS);
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (s, batch, left) = (&s, &batch, &left);
            scope.spawn(move || {
                for k in 0..BATCHES {
                    let batch = batch(sender, k);
                    while s.append(&batch).and_then(|a| a.commit.wait()).is_err() {}
                }
                left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        // One call in five fails.
        let mut next = 0;
        while left.load(std::sync::atomic::Ordering::Relaxed) > 0 {
            if w.fs.calls() >= next {
                w.fs.calm();
                next = w.fs.calls() + 5;
                w.fs.fail_call(next, FaultKind::Eio);
            }
            std::thread::yield_now();
        }
    });
    assert!(s.stats().wal.failures > 10);
    assert_eq!(all(&s) as i64, SENDERS * 40 * BATCHES);
    drop(s);
    w.fs.calm();
    assert_eq!(all(&w.open(false)) as i64, SENDERS * 40 * BATCHES);
}

#[test]
fn exemplars_and_metadata_of_a_failed_batch_are_in_the_log_once_it_was_sent_again() {
    let w = World::new();
    let s = w.open(false);
    let mut b = BatchBuilder::default();
    let k = b.series(&Labels::from_pairs([("__name__", "m")]));
    b.push(k, T0, 0, Value::Float(1.0));
    b.exemplar(k, Exemplar { labels: Labels::from_pairs([("trace_id", "1")]), t: T0, v: 1.0 });
    b.metadata("m".into(), MetricMetadata { help: "h".into(), ..MetricMetadata::default() });
    let batch = b.finish();
    let send = |s: &MetricStore| s.append(&batch).and_then(|a| a.commit.wait());
    // Known from a record in flight, they are not in the log before that is.
    let first = s.append(&batch).unwrap().commit;
    let again = s.append(&Batch { items: Vec::new(), ..batch.clone() }).unwrap().commit;
    w.fs.set_failing(Some(FaultKind::Eio));
    again.wait().unwrap_err();
    first.wait().unwrap_err();
    send(&s).unwrap_err();
    w.fs.calm();
    send(&s).unwrap();
    drop(s);
    let s = w.open(false);
    assert_eq!(s.exemplars(&[vec![Matcher::equal("__name__", "m")]], TimeRange::all()).unwrap().len(), 1);
    assert_eq!(s.metadata(Some("m")).unwrap().len(), 1);
}

/// A series that was idle was dropped, and came again under another id, while its exemplar still names the old one.
#[test]
fn an_exemplar_of_before_ends_no_running_sum() {
    let w = World::new();
    let mut s = w.open(false);
    let send = |s: &MetricStore, t: i64, exemplar: bool| {
        let mut b = BatchBuilder::default();
        let k = b.series(&Labels::from_pairs([("__name__", "sum")]));
        b.push(k, t, 0, Value::Delta(1.0));
        if exemplar {
            b.exemplar(k, Exemplar { labels: Labels::from_pairs([("trace_id", "1")]), t, v: 1.0 });
        }
        s.append(&b.finish()).unwrap().commit.wait().unwrap();
    };
    send(&s, T0, true);
    s.flush().unwrap();
    w.clock.advance(5 * HOUR);
    append(&s, 1, T0 + 5 * HOUR);
    s.flush().unwrap();
    assert_eq!(s.stats().head.series, 1, "the sum is idle and gone");
    for k in 0..4 {
        send(&s, T0 + 5 * HOUR + k * 1000, false);
        if k == 1 {
            s.flush().unwrap();
            s.close().unwrap();
            s = w.open(false);
        }
    }
    let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", "sum")], TimeRange::all())).unwrap();
    let mut buf = SampleBuf::default();
    sel.read(0, TimeRange::all(), &mut buf).unwrap();
    assert_eq!(buf.v, [1.0, 1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn a_delete_without_an_end_spares_what_comes_later() {
    let w = World::new();
    let s = w.open(true);
    let job = || Matcher::equal("job", "j1");
    // Of what is there all goes, from clocks that are ahead too.
    append(&s, 6, T0 - 1000);
    append(&s, 6, T0 + 5000);
    s.delete(TimeRange::all(), vec![job()]).unwrap();
    assert_eq!(count(&s, job()), 0);
    w.clock.advance(60_000);
    append(&s, 6, T0 + 60_000);
    assert_eq!(count(&s, job()), 2);
    s.clean_tombstones().unwrap();
    assert_eq!(count(&s, job()), 2);
    // Nothing is there yet of a range that lies ahead.
    s.delete(TimeRange::new(T0 + HOUR, T0 + 2 * HOUR), vec![job()]).unwrap();
    w.clock.advance(HOUR);
    append(&s, 6, T0 + HOUR + 1000);
    assert_eq!(count(&s, job()), 4);
}

#[test]
fn what_is_sent_after_a_delete_stays_whatever_its_time() {
    let w = World::new();
    let mut s = w.open(true);
    let range = TimeRange::new(T0 - HOUR, T0);
    let values = |s: &MetricStore| {
        let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", "v")], TimeRange::all())).unwrap();
        let mut buf = SampleBuf::default();
        sel.read(0, range, &mut buf).unwrap();
        buf.v
    };
    let put = |s: &MetricStore, v: f64| {
        let mut b = BatchBuilder::default();
        let k = b.series(&Labels::from_pairs([("__name__", "v")]));
        (0..3).for_each(|i| b.push(k, T0 - 3000 + i * 1000, 0, Value::Float(v)));
        // The last sample of a series is known by its time still.
        b.push(k, T0 + 1000, 0, Value::Float(0.0));
        let a = s.append(&b.finish()).unwrap();
        assert!(a.rejected.is_empty());
        a.commit.wait().unwrap();
    };
    for v in 1..5 {
        let v = f64::from(v);
        put(&s, v);
        assert_eq!(values(&s), [v; 3]);
        if v != 2.0 {
            s.flush().unwrap();
        }
        // Another's delete in between: of nothing that is here.
        s.delete(range, vec![Matcher::equal("__name__", "x")]).unwrap();
        assert_eq!(values(&s), [v; 3]);
        s.delete(range, vec![Matcher::equal("__name__", "v")]).unwrap();
        assert!(values(&s).is_empty(), "{v}");
        if v == 3.0 {
            drop(s);
            s = w.open(true);
            assert!(values(&s).is_empty());
        }
    }
    put(&s, 9.0);
    let check = |s: &MetricStore| assert_eq!(values(s), [9.0; 3]);
    check(&s);
    s.flush().unwrap();
    check(&s);
    w.clock.advance(12 * HOUR);
    s.compact(9).unwrap();
    check(&s);
    s.clean_tombstones().unwrap();
    check(&s);
    drop(s);
    check(&w.open(true));
}

#[test]
fn a_store_opens_on_a_disk_too_full_for_its_scratch() {
    let w = World::new();
    let s = w.open(false);
    (0..300).for_each(|k| append(&s, 20, T0 + k * 1000));
    s.close().unwrap();
    drop(s);
    w.fs.watch(|call| match call {
        FsCall::Create(path) if path.starts_with("/data/metrics/head") => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let mut o = MetricOptions::new(Arc::new(w.fs.clone()), Arc::new(w.clock.clone()), "/data");
    (o.wal.background, o.spill_bytes) = (false, 1);
    let s = MetricStore::open(o).unwrap();
    assert_eq!(all(&s), 6000);
    // Upkeep says so, and a flush makes room.
    assert!(s.maintain().is_err());
    w.clock.advance(3 * HOUR);
    append(&s, 20, T0 + 3 * HOUR);
    assert!(s.maintain().is_err());
    assert_eq!((all(&s), s.blocks().len()), (6020, 2));
    s.maintain().unwrap();
}

#[test]
fn two_that_put_the_same_object_into_a_shared_folder_are_told_who_was_first() {
    use strandline_storage::bucket::Bucket;
    let fs = SimFs::new();
    let other = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
    // In the midst of the one's put the other's, which has the same process id.
    let meanwhile = move || assert!(other.put_if_absent("d/1", "theirs".into()).unwrap());
    let one = LocalBucket::open(Arc::new(fs.clone()), "/b").unwrap();
    once(&fs, |call| matches!(call, FsCall::HardLink(_)), meanwhile);
    assert!(!one.put_if_absent("d/1", "ours".into()).unwrap());
    assert_eq!(one.get("d/1").unwrap(), "theirs");
}

#[cfg(feature = "traces")]
#[test]
fn a_reader_opens_while_a_flush_removes_what_it_wrote_to_blocks() {
    use strandline_storage::traces::TraceStoreOptions;
    use strandline_storage::{Engine, EngineOptions};
    let w = World::new();
    let options = |fs: Arc<dyn Fs>| {
        let clock = Arc::new(w.clock.clone());
        let bucket = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket").unwrap());
        let mut metrics = MetricOptions::new(fs.clone(), clock.clone(), "/data");
        metrics.wal.background = false;
        metrics.bucket = Some(bucket.clone());
        EngineOptions { metrics, traces: TraceStoreOptions::new(fs, clock, "/data", bucket), background: false }
    };
    let writer = Engine::open(options(Arc::new(w.fs.clone()))).unwrap();
    append(writer.metrics(), 20, T0);
    let segment = w.fs.read_dir(Path::new("/data/wal/metrics")).unwrap()[0].path.clone();
    let kept = w.fs.read(&segment).unwrap();
    writer.metrics().flush().unwrap();
    // The manifest names the blocks and the log's old segment is about to go.
    w.fs.write_atomic(&segment, &kept).unwrap();
    let disk = w.fs.clone();
    once(&w.fs, |call| call == FsCall::Listed(Path::new("/data/wal/metrics")), move || disk.remove_file(&segment).unwrap());
    let reader = Engine::open_read_only(options(Arc::new(w.fs.clone()))).unwrap();
    assert_eq!(all(reader.metrics()), 20);
}

#[test]
fn a_lost_block_that_was_given_up_is_missed_no_more() {
    for gone in [false, true] {
        let w = World::new();
        let s = w.open(false);
        append(&s, 3, T0);
        s.flush().unwrap();
        w.clock.advance(2 * HOUR);
        append(&s, 5, T0 + 2 * HOUR);
        let (lost, whole) = (s.blocks()[0].meta.ulid.clone(), |s: &MetricStore| s.incomplete().is_none());
        s.close().unwrap();
        let folder = Path::new("/data/metrics/blocks").join(&lost);
        if gone {
            w.fs.remove_dir_all(&folder).unwrap();
        } else {
            ["meta.json", "index"].iter().for_each(|f| w.fs.write_atomic(&folder.join(f), b"something else").unwrap());
        }
        let s = w.open(false);
        assert!(!whole(&s) && s.give_up("another").is_err());
        s.give_up(&lost).unwrap();
        assert!(whole(&s) && s.give_up(&lost).is_err());
        s.close().unwrap();
        let s = w.open(false);
        assert!(whole(&s));
        assert_eq!(count(&s, Matcher::equal("__name__", "m")), 5);
        assert_eq!(w.fs.exists(&Path::new("/data/given-up").join(&lost)), !gone);
    }
}

/// What is durable in a folder is lost with the folder's name.
#[test]
fn a_delete_and_a_snapshot_right_after_the_first_start_outlive_a_power_loss() {
    for snapshot in [false, true] {
        let w = World::new();
        let s = w.open(false);
        append(&s, 20, T0);
        s.delete(TimeRange::all(), vec![Matcher::equal("job", "j1")]).unwrap();
        if snapshot {
            s.snapshot().unwrap();
        }
        let copied = || w.fs.files().into_iter().filter(|(p, _)| p.starts_with("/data/snapshots")).collect::<Vec<_>>();
        let before = copied();
        w.fs.restart(CrashStyle::LoseUnsynced, 1);
        assert_eq!(copied(), before);
        assert_eq!(all(&w.open(false)), 13, "snapshot: {snapshot}");
    }
}

#[test]
fn what_was_deleted_is_in_no_copy() {
    let w = World::new();
    let s = w.open(true);
    append(&s, 20, T0);
    s.flush().unwrap();
    s.delete(TimeRange::new(T0, T0 + 1), vec![Matcher::equal("job", "j1")]).unwrap();
    s.delete(TimeRange::all(), vec![Matcher::equal("job", "j2")]).unwrap();
    let counts = |s: &MetricStore| ["j0", "j1", "j2"].map(|j| count(s, Matcher::equal("job", j)));
    assert_eq!(counts(&s), [7, 5, 0]);
    let folder = Path::new("/data/snapshots").join(s.snapshot().unwrap());
    let mut o = MetricOptions::new(Arc::new(w.fs.clone()), Arc::new(w.clock.clone()), "/other");
    o.wal.background = false;
    let other = MetricStore::open(o).unwrap();
    other.import_block(&folder.join(&s.blocks()[0].meta.ulid), &[]).unwrap();
    assert_eq!(counts(&other), counts(&s));
}

/// The folder is another's from then on.
#[test]
fn a_closed_store_changes_nothing_any_more() {
    let w = World::new();
    let s = w.open(true);
    append(&s, 20, T0);
    s.flush().unwrap();
    s.delete(TimeRange::all(), vec![Matcher::equal("job", "j1")]).unwrap();
    append(&s, 20, T0 + 60_000);
    s.close().unwrap();
    let before = w.fs.files();
    w.clock.advance(12 * HOUR);
    let theirs = Path::new("/data/metrics/blocks").join(&s.blocks()[0].meta.ulid);
    let done = [
        s.flush_due(),
        s.tend(),
        s.flush(),
        s.upload(),
        s.delete(TimeRange::all(), vec![Matcher::equal("job", "j2")]),
        s.clean_tombstones(),
        s.compact(1).map(|_| ()),
        s.snapshot().map(|_| ()),
        s.import_block(&theirs, &[]).map(|_| ()),
        s.handle(&Labels::from_pairs([("__name__", "m")])).map(|_| ()),
    ];
    done.iter().for_each(|d| assert_eq!(d.as_ref().map_err(|e| e.kind), Err(strandline_storage::ErrorKind::Closed), "{d:?}"));
    assert_eq!(w.fs.files(), before);
    assert_eq!(all(&s), 33);
    assert_eq!(all(&w.open(true)), 33);
}

#[test]
fn what_was_merged_since_the_backup_that_was_put_back_goes() {
    let w = World::new();
    let s = w.open(true);
    for k in 0..2 {
        append(&s, 6, T0 + k * 60_000);
        s.flush().unwrap();
    }
    s.maintain().unwrap();
    s.close().unwrap();
    let own = |p: &Path| p.starts_with("/data") && !p.starts_with("/data/bucket");
    let backup: Vec<_> = w.fs.files().into_iter().filter(|(p, _)| own(p)).map(|(p, _)| (w.fs.read(&p).unwrap(), p)).collect();
    let s = w.open(true);
    w.clock.advance(6 * HOUR);
    assert_eq!(s.compact(1).unwrap(), 1);
    s.maintain().unwrap();
    s.close().unwrap();
    let bucket = LocalBucket::open(Arc::new(w.fs.clone()), "/data/bucket").unwrap();
    let folders = || bucket.list_folders("metrics/anonymous/").unwrap().into_iter().filter(|f| f != "markers").count();
    assert_eq!(folders(), 3, "what was merged stays for a while");
    w.fs.files().iter().filter(|(p, _)| own(p)).for_each(|(p, _)| w.fs.remove_file(p).unwrap());
    backup.iter().for_each(|(content, p)| w.fs.write_atomic(p, content).unwrap());
    let s = w.open(true);
    for _ in 0..3 {
        s.maintain().unwrap();
        assert_eq!(all(&s), 12);
        w.clock.advance(2 * HOUR);
    }
    assert_eq!(folders(), 1);
}

#[test]
fn half_an_upload_of_samples_by_a_lost_machine_is_removed() {
    let w = World::new();
    let s = w.open(true);
    append(&s, 3, T0);
    s.flush().unwrap();
    s.upload().unwrap();
    let bucket = LocalBucket::open(Arc::new(w.fs.clone()), "/data/bucket").unwrap();
    let folder = format!("metrics/anonymous/{}/", ulid::Ulid::from_parts(T0 as u64, 7));
    ["chunks/000001", "index"].iter().for_each(|f| bucket.put(&format!("{folder}{f}"), bytes::Bytes::from_static(b"half")).unwrap());
    for hour in 0..58 {
        assert!(bucket.list(&folder).unwrap().len() == 2 || hour > 54, "{hour}");
        s.maintain().unwrap();
        w.clock.advance(HOUR);
    }
    assert_eq!((bucket.list(&folder).unwrap().len(), all(&s)), (0, 3));
}
