//! The metric store over object_store's in-memory store, behind a wrapper that injects faults.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "s3")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use object_store::memory::InMemory;
use strandline_storage::bucket::{Bucket, BucketCall, ObjectBucket, SimBucket};
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::{Labels, Matcher, TimeRange};
use strandline_storage::read::{LabelQuery, SampleBuf, SelectRequest, SeriesSource};
use strandline_storage::{Error, ErrorKind, Result};
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

const T0: i64 = 1_700_006_400_000;

/// Fails every call while `down`, and the `fail_put`th put from now on, once.
#[derive(Clone)]
struct Faulty {
    bucket: SimBucket,
    down: Arc<AtomicBool>,
    fail_put: Arc<AtomicU64>,
    ranges: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
    /// Ranges can't be read.
    unreadable: Arc<AtomicBool>,
}

impl Faulty {
    fn over(inner: ObjectBucket) -> Self {
        let b = Faulty {
            bucket: SimBucket::over(inner),
            down: Arc::default(),
            fail_put: Arc::default(),
            ranges: Arc::default(),
            calls: Arc::default(),
            unreadable: Arc::default(),
        };
        let hook = b.clone();
        Faulty { bucket: b.bucket.clone().before(move |call| hook.check(call)), ..b }
    }

    fn check(&self, call: BucketCall<'_>) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let fail = |why: &str| Err(Error::new(ErrorKind::Unavailable, format!("injected: {why}")));
        if self.down.load(Ordering::SeqCst) {
            return fail("the bucket is down");
        }
        match call {
            BucketCall::Put(_) | BucketCall::PutFile(..) | BucketCall::PutIfAbsent(_) => {
                let n = self.fail_put.load(Ordering::SeqCst);
                if n > 0 && self.fail_put.fetch_sub(1, Ordering::SeqCst) == 1 { fail("half an upload") } else { Ok(()) }
            }
            BucketCall::Ranges(..) => {
                self.ranges.fetch_add(1, Ordering::SeqCst);
                if self.unreadable.load(Ordering::SeqCst) { fail("unreadable") } else { Ok(()) }
            }
            BucketCall::PutIfMatch(_) => Err(Error::invalid("injected: no conditional puts")),
            _ => Ok(()),
        }
    }
}

fn object_bucket(fs: &SimFs) -> ObjectBucket {
    let store = Arc::new(InMemory::new());
    ObjectBucket::new(store, Arc::new(fs.clone()), "memory".into(), "some/prefix", Duration::from_secs(5)).unwrap()
}

fn bucket(fs: &SimFs) -> Faulty {
    Faulty::over(object_bucket(fs))
}

fn open(fs: &SimFs, clock: &ManualClock, dir: &str, bucket: &Faulty) -> MetricStore {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut o = MetricOptions::new(fs, Arc::new(clock.clone()), dir);
    o.bucket = Some(Arc::new(bucket.bucket.clone()));
    o.wal = WalOptions { background: false, ..WalOptions::default() };
    MetricStore::open(o).unwrap()
}

fn append(s: &MetricStore, from: i64, n: i64) {
    let mut b = BatchBuilder::default();
    for i in 0..20 {
        let k = b.series(&Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]));
        (0..n).for_each(|j| b.push(k, from + j * 15_000, 0, Value::Float((i * j) as f64)));
    }
    let a = s.append(&b.finish()).unwrap();
    assert!(a.rejected.is_empty());
    a.commit.wait().unwrap();
}

fn count(s: &MetricStore) -> Result<usize> {
    let sel = s.select(&SelectRequest::new(vec![Matcher::equal("__name__", "m")], TimeRange::all()))?;
    sel.prefetch(0, sel.len());
    let (mut n, mut buf) = (0, SampleBuf::default());
    for i in 0..sel.len() {
        sel.read(i, TimeRange::all(), &mut buf)?;
        n += buf.len();
    }
    Ok(n)
}

#[test]
fn outage_half_uploads_and_a_fresh_folder() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    append(&s, T0, 100);
    s.flush().unwrap();
    // An upload that breaks off leaves no block behind for others, and is done again.
    b.fail_put.store(2, Ordering::SeqCst);
    assert!(s.upload().is_err());
    assert_eq!(open(&fs, &clock, "/b", &b).blocks().len(), 0);
    assert_eq!(count(&s).unwrap(), 2000);
    s.upload().unwrap();
    // A fresh folder on the bucket answers everything, by ranges.
    let fresh = open(&fs, &clock, "/c", &b);
    assert_eq!(count(&fresh).unwrap(), 2000);
    // The bucket goes away: ingest and flush go on; what was never read fails in words; nothing is a hole.
    b.down.store(true, Ordering::SeqCst);
    append(&s, T0 + 100 * 15_000, 50);
    s.flush().unwrap();
    s.maintain().unwrap();
    assert!(s.stats().bucket_error.unwrap().contains("injected"));
    let blind = open(&fs, &clock, "/d", &b);
    append(&blind, T0, 1);
    let e = count(&blind).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable);
    assert!(e.to_string().contains("never reached"), "{e}");
    // Back: everything is uploaded by upkeep alone.
    b.down.store(false, Ordering::SeqCst);
    clock.advance(600_000);
    s.maintain().unwrap();
    assert_eq!(s.stats().blocks_to_upload, 0);
    assert_eq!(s.stats().bucket_error, None);
    assert_eq!(count(&s).unwrap(), 3000);
    assert_eq!(count(&open(&fs, &clock, "/e", &b)).unwrap(), 3000);
    blind.maintain().unwrap();
    assert_eq!(count(&blind).unwrap(), 3000, "the sample of its own is one of them");
}

#[test]
fn a_snapshot_holds_what_the_bucket_alone_has() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    append(&s, T0, 100);
    s.flush().unwrap();
    let block = s.blocks()[0].meta.ulid.clone();
    let written = |file: &str| fs.read(&Path::new("/a/metrics/blocks").join(&block).join(file)).unwrap();
    let written = ["index", "chunks/000001"].map(|f| (f, written(f)));
    s.upload().unwrap();
    let other = open(&fs, &clock, "/b", &b);
    let snapshot = Path::new("/b/snapshots").join(other.snapshot().unwrap()).join(&block);
    for (file, content) in written {
        assert_eq!(fs.read(&snapshot.join(file)).unwrap(), content, "{file}");
    }
    assert!(fs.exists(&snapshot.join("meta.json")));
}

/// Two blocks of one range, in the bucket.
fn two_blocks(s: &MetricStore) {
    for k in 0..2 {
        append(s, T0 + k * 1_500_000, 100);
        s.flush().unwrap();
        s.upload().unwrap();
    }
}

#[test]
fn compaction_marks_and_removes_in_the_bucket() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    two_blocks(&s);
    clock.advance(12 * 3_600_000);
    assert!(s.compact(5).unwrap() > 0);
    s.maintain().unwrap();
    let keys = |p: &str| b.bucket.list(p).unwrap().into_iter().map(|o| o.key).collect::<Vec<_>>();
    let marks = |keys: &[String]| keys.iter().filter(|k| k.ends_with("deletion-mark.json")).count();
    assert_eq!(marks(&keys("metrics/anonymous")), 4, "in the block's folder and in markers: {:?}", keys("metrics/anonymous"));
    assert_eq!(count(&s).unwrap(), 4000);
    assert_eq!(count(&open(&fs, &clock, "/b", &b)).unwrap(), 4000, "sources and result together count once");
    clock.advance(2 * 3_600_000);
    s.maintain().unwrap();
    assert_eq!(b.bucket.list_folders("metrics/anonymous").unwrap().iter().filter(|f| f.len() == 26).count(), 1);
    assert_eq!(marks(&keys("metrics/anonymous")), 0);
    assert_eq!(count(&open(&fs, &clock, "/c", &b)).unwrap(), 4000);
}

#[test]
fn upkeep_that_has_nothing_to_do_asks_nothing_of_the_bucket() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    two_blocks(&s);
    s.delete(TimeRange::all(), vec![Matcher::equal("i", "3")]).unwrap();
    clock.advance(12 * 3_600_000);
    assert!(s.compact(5).unwrap() > 0);
    // Sources wait for their end; the bucket has all deletes.
    (0..3).for_each(|_| s.maintain().unwrap());
    b.calls.store(0, Ordering::SeqCst);
    for _ in 0..50 {
        clock.advance(1000);
        s.maintain().unwrap();
    }
    assert_eq!(b.calls.load(Ordering::SeqCst), 0);
    clock.advance(60_000);
    s.maintain().unwrap();
    let listing = b.calls.load(Ordering::SeqCst);
    assert!((1..20).contains(&listing), "{listing}");
    // One that the bucket has lost is put there again.
    let deletes = || b.bucket.list("deletes/anonymous/").unwrap();
    let was = deletes();
    assert_eq!(was.len(), 1);
    b.bucket.delete(&was[0].key).unwrap();
    for _ in 0..2 {
        clock.advance(60_000);
        s.maintain().unwrap();
    }
    assert_eq!(deletes(), was);
}

#[test]
fn a_bucket_that_goes_away_is_told_until_it_is_back() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    // There is nothing to upload: only the listing notices.
    s.maintain().unwrap();
    b.down.store(true, Ordering::SeqCst);
    clock.advance(60_000);
    for _ in 0..300 {
        s.maintain().unwrap();
        assert!(s.stats().bucket_error.is_some_and(|e| e.contains("injected")));
        clock.advance(1000);
    }
    // It is asked less and less often, which does not outlive a clock that is set back.
    b.down.store(false, Ordering::SeqCst);
    clock.set(T0 + 3_600_000 - 86_400_000);
    append(&s, T0 - 86_400_000, 1);
    s.flush().unwrap();
    s.maintain().unwrap();
    assert_eq!(s.stats().bucket_error, None);
    assert_eq!(s.stats().blocks_to_upload, 0);
    // Nor does the time of the next listing.
    let other = open(&fs, &clock, "/b", &b);
    append(&other, T0 - 86_400_000 + 15_000, 1);
    other.flush().unwrap();
    other.upload().unwrap();
    clock.set(T0 - 86_400_000);
    s.maintain().unwrap();
    assert_eq!(s.blocks().len(), 2);
}

#[test]
fn a_bucket_without_leases_gets_its_uploads() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let gone = open(&fs, &clock, "/gone", &b);
    append(&gone, T0, 10);
    gone.flush().unwrap();
    gone.upload().unwrap();
    drop(gone);
    clock.advance(7 * 3_600_000);
    // Blocks of another writer ask for the lease, and `Faulty` has no conditional puts.
    let s = open(&fs, &clock, "/a", &b);
    append(&s, T0 + 7 * 3_600_000, 10);
    s.flush().unwrap();
    s.maintain().unwrap();
    assert_eq!((s.stats().blocks_to_upload, s.stats().bucket_error), (0, None));
}

#[test]
fn a_delete_made_elsewhere_holds_after_a_start_without_the_bucket() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    append(&s, T0, 100);
    s.flush().unwrap();
    s.upload().unwrap();
    let reader = open(&fs, &clock, "/b", &b);
    assert_eq!(count(&reader).unwrap(), 2000);
    s.delete(TimeRange::all(), vec![Matcher::equal("i", "3")]).unwrap();
    clock.advance(60_000);
    reader.maintain().unwrap();
    assert_eq!(count(&reader).unwrap(), 1900);
    drop(reader);
    // It knows of the blocks from before, and is asked before it could list anything.
    b.down.store(true, Ordering::SeqCst);
    let reader = open(&fs, &clock, "/b", &b);
    b.down.store(false, Ordering::SeqCst);
    assert_eq!(count(&reader).unwrap(), 1900);
}

#[test]
fn half_an_upload_of_a_block_that_is_merged_meanwhile_goes() {
    for restart in [false, true] {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
        let b = bucket(&fs);
        let mut s = open(&fs, &clock, "/a", &b);
        for k in 0..2 {
            append(&s, T0 + k * 1_500_000, 100);
            s.flush().unwrap();
        }
        // The chunks are there, the index is not.
        b.fail_put.store(2, Ordering::SeqCst);
        assert!(s.upload().is_err());
        if restart {
            drop(s);
            s = open(&fs, &clock, "/a", &b);
        }
        clock.advance(12 * 3_600_000);
        assert!(s.compact(5).unwrap() > 0);
        s.maintain().unwrap();
        clock.advance(2 * 3_600_000);
        s.maintain().unwrap();
        let blocks = s.blocks();
        let strange: Vec<String> =
            b.bucket.list("metrics/anonymous").unwrap().into_iter().map(|o| o.key).filter(|k| !k.contains(&blocks[0].meta.ulid)).collect();
        assert_eq!((blocks.len(), strange), (1, vec![]), "restart: {restart}");
        assert_eq!(count(&open(&fs, &clock, "/b", &b)).unwrap(), 4000);
    }
}

#[test]
fn a_merge_that_fails_holds_up_neither_uploads_nor_retention() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let open = || {
        let fs: Arc<dyn Fs> = Arc::new(fs.clone());
        let mut o = MetricOptions::new(fs, Arc::new(clock.clone()), "/a");
        o.bucket = Some(Arc::new(b.bucket.clone()));
        (o.wal.background, o.retention_ms, o.disk_cache_bytes) = (false, 20 * 3_600_000, 0);
        MetricStore::open(o).unwrap()
    };
    let s = open();
    two_blocks(&s);
    drop(s);
    let s = open();
    b.unreadable.store(true, Ordering::SeqCst);
    clock.advance(12 * 3_600_000);
    append(&s, T0 + 12 * 3_600_000, 10);
    s.flush().unwrap();
    assert!(s.maintain().unwrap_err().to_string().contains("injected"), "there is something to merge");
    assert_eq!(s.stats().blocks_to_upload, 0);
    clock.advance(12 * 3_600_000);
    let _ = s.maintain();
    assert_eq!(s.blocks().len(), 1, "two are older than retention");
}

#[test]
fn a_lease_is_kept_by_conditional_puts() {
    use strandline_storage::bucket::Lease;
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
    let b: Arc<dyn Bucket> = Arc::new(object_bucket(&fs));
    let of = |name: &str| Lease::new(b.clone(), Arc::new(clock.clone()), "metrics", "t", name);
    let (one, two) = (of("one"), of("two"));
    assert!(one.tend().unwrap() && !two.tend().unwrap());
    clock.advance(100_000);
    assert!(one.tend().unwrap(), "renewed by its tag");
    clock.advance(200_000);
    assert!(two.tend().unwrap() && two.is_held() && !one.is_held());
    assert!(!one.tend().unwrap(), "its tag is stale");
}

#[test]
fn what_was_read_once_is_read_from_the_disk_after_a_restart() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    append(&s, T0, 100);
    s.flush().unwrap();
    s.upload().unwrap();
    let taken = || b.ranges.swap(0, Ordering::SeqCst);
    let fresh = open(&fs, &clock, "/c", &b);
    assert_eq!(count(&fresh).unwrap(), 2000);
    assert!(taken() > 0);
    drop(fresh);
    let again = open(&fs, &clock, "/c", &b);
    assert_eq!(count(&again).unwrap(), 2000);
    assert_eq!(taken(), 0, "all ranges were on the disk");
}

#[cfg(feature = "traces")]
#[test]
fn spans_read_once_are_read_from_the_disk_after_a_restart() {
    use strandline_storage::engine::{Engine, EngineOptions};
    use strandline_storage::model::{Span, SpanId, TraceId};
    use strandline_storage::traces::TraceStoreOptions;
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let open = |dir: &str| {
        let (shared, clock): (Arc<dyn Fs>, _) = (Arc::new(fs.clone()), Arc::new(clock.clone()));
        let mut metrics = MetricOptions::new(shared.clone(), clock.clone(), dir);
        metrics.bucket = Some(Arc::new(b.bucket.clone()));
        let traces = TraceStoreOptions::new(shared, clock, dir, Arc::new(b.bucket.clone()));
        Engine::open(EngineOptions { metrics, traces, background: false }).unwrap()
    };
    let id = |n: u32| TraceId([n.to_be_bytes(), [1; 4], [2; 4], [3; 4]].concat().try_into().unwrap());
    let spans: Vec<Span> = (0..3000)
        .map(|n| Span {
            trace_id: id(n),
            span_id: SpanId([7; 8]),
            start_unix_nano: T0 as u64 * 1_000_000 + n as u64,
            end_unix_nano: T0 as u64 * 1_000_000 + 2 * n as u64 + 5,
            name: format!("op {}", n % 17),
            ..Span::default()
        })
        .collect();
    let writer = open("/a");
    writer.traces().append(&spans).unwrap().ticket.wait().unwrap();
    writer.flush().unwrap();
    let taken = || b.ranges.swap(0, Ordering::SeqCst);
    let fresh = open("/c");
    assert_eq!(fresh.traces().trace(id(41)).unwrap().unwrap().spans[0].name, "op 7");
    assert!(taken() > 0);
    drop(fresh);
    let again = open("/c");
    assert_eq!(again.traces().trace(id(41)).unwrap().unwrap().spans[0].name, "op 7");
    assert_eq!(taken(), 0, "all ranges were on the disk");
    assert!(again.traces().trace(id(9999)).unwrap().is_none());
}

/// Copies a block, its description edited.
fn copy_block(bucket: &dyn Bucket, from: &str, to: &str, edit: &dyn Fn(&mut serde_json::Value)) {
    for o in bucket.list(from).unwrap() {
        let mut content = bucket.get(&o.key).unwrap();
        if o.key.ends_with("meta.json") {
            let mut meta: serde_json::Value = serde_json::from_slice(&content).unwrap();
            // Others know nothing of our checksum.
            meta.as_object_mut().unwrap().remove("crc32").unwrap();
            edit(&mut meta);
            content = meta.to_string().into();
        }
        bucket.put(&o.key.replace(from, to), content).unwrap();
    }
}

#[test]
fn what_thanos_downsampled_beside_ours_is_left_alone() {
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let b = bucket(&fs);
    let s = open(&fs, &clock, "/a", &b);
    append(&s, T0, 100);
    s.flush().unwrap();
    s.upload().unwrap();
    let (ulid, name) = (s.blocks()[0].meta.ulid.clone(), "01ARZ3NDEKTSV4RRFFQ69G5FA3");
    copy_block(&b.bucket, &format!("metrics/anonymous/{ulid}/"), &format!("metrics/anonymous/{name}/"), &|m| {
        m["ulid"] = name.into();
        m["compaction"]["parents"] = serde_json::json!([{"ulid": ulid, "minTime": T0, "maxTime": T0 + 7_200_000}]);
        m["thanos"]["source"] = "compactor".into();
        m["thanos"]["downsample"]["resolution"] = 300_000.into();
    });
    let folders = |of: &str| b.bucket.list_folders("metrics/anonymous/").unwrap().iter().any(|f| f == of);
    for turn in 0..3 {
        for x in [&s, &open(&fs, &clock, "/b", &b)] {
            x.maintain().unwrap();
            let blocks: Vec<String> = x.blocks().iter().map(|b| b.meta.ulid.clone()).collect();
            assert_eq!((blocks, count(x).unwrap()), (vec![ulid.clone()], 2000), "{turn}");
        }
        assert!(folders(&ulid) && folders(name));
        clock.advance(3_600_000);
    }
}

#[test]
fn blocks_of_thanos_and_mimir_are_taken_over_from_their_bucket() {
    use strandline_storage::metrics::Imported;
    let (fs, clock) = (SimFs::new(), ManualClock::new(T0 + 3_600_000));
    let theirs = bucket(&fs);
    let writer = open(&fs, &clock, "/a", &theirs);
    append(&writer, T0, 100);
    // `cluster` between `b` and nothing turns the order of these two around; the third has one of its own.
    let mut b = BatchBuilder::default();
    for (n, v) in [("x", ""), ("b", "1"), ("cluster", "own")] {
        let k = b.series(&Labels::from_pairs([("__name__", "n"), (n, v)].into_iter().filter(|p| !p.1.is_empty())));
        b.push(k, T0, 0, Value::Float(1.0));
    }
    writer.append(&b.finish()).unwrap().commit.wait().unwrap();
    writer.flush().unwrap();
    writer.upload().unwrap();
    // Two shards of one compaction have the same sources and range; their names alone tell them apart.
    let of = |name: &str| format!("tenant/{name}/");
    let original = writer.blocks()[0].meta.clone();
    let copy = |name: &str, edit: &dyn Fn(&mut serde_json::Value)| {
        copy_block(&theirs.bucket, &format!("metrics/anonymous/{}/", original.ulid), &of(name), &|meta| {
            meta["ulid"] = name.into();
            meta["compaction"]["sources"] = serde_json::json!(["01ARZ3NDEKTSV4RRFFQ69G5FA1", "01ARZ3NDEKTSV4RRFFQ69G5FA2"]);
            edit(meta);
        });
    };
    let names: Vec<String> = (3..8).map(|n| format!("01ARZ3NDEKTSV4RRFFQ69G5FA{n}")).collect();
    copy(&names[0], &|m| m["thanos"]["labels"] = serde_json::json!({}));
    copy(&names[1], &|m| m["thanos"]["labels"] = serde_json::json!({"cluster": "x", "replica": "1", "__org_id__": "7"}));
    copy(&names[2], &|m| m["thanos"]["downsample"]["resolution"] = 300_000.into());
    copy(&names[3], &|_| {});
    theirs.bucket.put(&format!("{}deletion-mark.json", of(&names[3])), "{}".into()).unwrap();
    copy(&names[4], &|_| {});
    theirs.bucket.delete(&format!("{}meta.json", of(&names[4]))).unwrap();

    let ours = open(&fs, &clock, "/b", &bucket(&fs));
    let import = |name: &str| ours.import_from(&theirs.bucket, &of(name), &["replica".to_owned()]).unwrap();
    assert_eq!(import(&names[0]), Imported::Taken { external_labels: vec![] });
    assert_eq!(import(&names[1]), Imported::Taken { external_labels: vec!["cluster=\"x\"".into()] });
    assert!(names[2..].iter().all(|n| matches!(import(n), Imported::Skipped(_))));
    assert_eq!(import(&names[0]), Imported::Known);
    assert_eq!((ours.blocks().len(), count(&ours).unwrap()), (2, 4000), "the same series of two clusters are two");
    let q = LabelQuery { matchers: vec![], range: TimeRange::all(), limit: 0, partial: false };
    assert_eq!(ours.label_values("cluster", &q).unwrap().0, ["own", "x"]);
    let sel = ours.select(&SelectRequest::new(vec![Matcher::equal("__name__", "n")], TimeRange::all())).unwrap();
    let all: Vec<String> = (0..sel.len()).map(|i| sel.labels(i).to_string().replace(r#"__name__="n""#, "n")).collect();
    assert_eq!(all, ["{n}", r#"{n, b="1"}"#, r#"{n, b="1", cluster="x"}"#, r#"{n, cluster="own"}"#, r#"{n, cluster="x"}"#]);
    assert!(!ours.label_names(&q).unwrap().0.iter().any(|n| ["replica", "tenant", "__org_id__"].contains(&n.as_str())));
    assert!(!fs.files().iter().any(|(p, _)| p.starts_with("/b/import")), "what was copied is gone");
    theirs.down.store(true, Ordering::SeqCst);
    assert!(ours.import_from(&theirs.bucket, &of(&names[0]), &[]).is_err());
}

#[cfg(feature = "traces")]
#[test]
fn half_a_merged_span_block_is_removed_from_the_bucket() {
    use strandline_storage::model::{Span, SpanId, TraceId};
    use strandline_storage::traces::{TraceStore, TraceStoreOptions};
    for restart in [false, true] {
        let (fs, clock) = (SimFs::new(), ManualClock::new(T0));
        let b = bucket(&fs);
        let open = || {
            let mut o = TraceStoreOptions::new(Arc::new(fs.clone()), Arc::new(clock.clone()), "/a", Arc::new(b.bucket.clone()));
            o.compact_blocks = 2;
            TraceStore::open(o).unwrap()
        };
        let mut s = open();
        for n in 1..=2u8 {
            let start_unix_nano = T0 as u64 * 1_000_000;
            let span = Span {
                trace_id: TraceId([n; 16]),
                span_id: SpanId([n; 8]),
                start_unix_nano,
                end_unix_nano: start_unix_nano + 1,
                ..Span::default()
            };
            s.append(&[span]).unwrap().ticket.wait().unwrap();
            s.flush().unwrap();
        }
        // The spans are there, the description is not.
        b.fail_put.store(2, Ordering::SeqCst);
        assert!(s.maintain().is_err());
        assert_eq!(b.bucket.list_folders("traces/anonymous").unwrap().len(), 3);
        if restart {
            drop(s);
            s = open();
        }
        s.maintain().unwrap();
        clock.advance(2 * 3_600_000);
        s.maintain().unwrap();
        assert_eq!((s.blocks().len(), b.bucket.list_folders("traces/anonymous").unwrap().len()), (1, 1), "restart: {restart}");
    }
}
