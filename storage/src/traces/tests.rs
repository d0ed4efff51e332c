//! The store from end to end: live spans, blocks, restarts, crashes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use strandline_wal::WalOptions;
use strandline_wal::fs::{CrashStyle, FaultKind, Fs, SimFs};

use super::block::tests::span as any_span;
use super::*;
use crate::bucket::{Bucket, LocalBucket};
use crate::clock::ManualClock;
use crate::model::{Attributes, Span, SpanId, Trace, TraceId};
use crate::read::{AttributeScope, Field, ScanRequest, SpanBatch, SpanSource, Value, field_of};

mod far;
mod faults;

const NOW_MS: i64 = 1_700_000_000_000;

struct Rig {
    fs: SimFs,
    clock: ManualClock,
}

impl Rig {
    fn new() -> Self {
        Rig { fs: SimFs::new(), clock: ManualClock::new(NOW_MS) }
    }
    fn options(&self) -> crate::Result<TraceStoreOptions> {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        fs.create_dir_all(Path::new("/data")).map_err(|e| crate::Error::io("creating", "/data", e))?;
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(fs.clone(), "/data/bucket")?);
        let mut o = TraceStoreOptions::new(fs, Arc::new(self.clock.clone()), "/data", bucket);
        o.wal = WalOptions { background: false, segment_size_bytes: 4096, ..WalOptions::default() };
        o.flush_write.row_group_spans = 20;
        o.compact_write.row_group_spans = 50;
        Ok(o)
    }
    fn open(&self) -> TraceStore {
        TraceStore::open(self.options().unwrap()).unwrap()
    }
}

fn span(trace: u8, id: u8, start_ms: i64) -> Span {
    Span {
        trace_id: TraceId([trace; 16]),
        span_id: SpanId([id; 8]),
        start_unix_nano: start_ms as u64 * 1_000_000,
        end_unix_nano: (start_ms as u64 + 5) * 1_000_000,
        name: format!("op {id}"),
        attributes: vec![("http.route".into(), format!("/{}", id % 3).as_str().into())],
        ..Span::default()
    }
}

fn put(store: &TraceStore, spans: &[Span]) {
    let a = store.append(spans).unwrap();
    assert_eq!((a.rejected, a.accepted), (0, spans.len() as u64), "{:?}", a.reasons);
    a.ticket.wait().unwrap();
}

fn names(t: Option<Trace>) -> Vec<String> {
    t.map(|t| t.spans.iter().map(|s| s.name.clone()).collect()).unwrap_or_default()
}

#[test]
fn a_trace_is_found_live_flushed_merged_and_after_restarts() {
    let rig = Rig::new();
    let store = rig.open();
    let id = TraceId([1; 16]);
    put(&store, &[span(1, 2, NOW_MS + 1), span(2, 1, NOW_MS)]);
    assert_eq!(names(store.trace(id).unwrap()), ["op 2"]);
    store.flush().unwrap();
    assert_eq!((store.live_spans(), store.block_spans(), store.blocks().len()), (0, 2, 1));
    // A late span, in another block; then one live.
    put(&store, &[span(1, 1, NOW_MS)]);
    store.flush().unwrap();
    put(&store, &[span(1, 3, NOW_MS + 2)]);
    let want = ["op 1", "op 2", "op 3"];
    assert_eq!(names(store.trace(id).unwrap()), want);
    drop(store);
    let store = rig.open();
    assert_eq!(names(store.trace(id).unwrap()), want);
    assert_eq!((store.live_spans(), store.block_spans()), (1, 3));
    rig.clock.advance(3 * 3_600_000);
    store.maintain().unwrap();
    assert_eq!((store.live_spans(), store.block_spans(), store.blocks().len()), (0, 4, 3), "flushed by age, not merged while fresh");
    rig.clock.advance(3_600_000 / 4);
    store.maintain().unwrap();
    assert_eq!((store.block_spans(), store.blocks().len()), (4, 1), "merged into one, once nothing came for a while");
    assert_eq!(names(store.trace(id).unwrap()), want);
    let objects = |s: &TraceStore| s.options().bucket.list("traces/").unwrap().len();
    assert!(objects(&store) > 2, "sources stay for readers of the bucket");
    rig.clock.advance(3_600_000);
    store.maintain().unwrap();
    assert_eq!(objects(&store), 2);
    drop(store);
    assert_eq!(names(rig.open().trace(id).unwrap()), want);
}

#[test]
fn what_is_sent_twice_is_answered_once_and_other_content_kept() {
    let rig = Rig::new();
    let store = rig.open();
    let (a, mut b) = (span(1, 1, NOW_MS), span(1, 1, NOW_MS));
    b.name = "other".into();
    put(&store, std::slice::from_ref(&a));
    store.flush().unwrap();
    put(&store, &[a.clone(), b.clone()]);
    assert_eq!(names(store.trace(a.trace_id).unwrap()), ["op 1", "other"]);
    assert_eq!(count(&store, true), 2);
    assert_eq!(count(&store, false), 2);
    store.flush().unwrap();
    assert_eq!(count(&store, false), 2);
    rig.clock.advance(3 * 3_600_000);
    store.maintain().unwrap();
    assert_eq!(store.block_spans(), 2);
    assert_eq!(names(store.trace(a.trace_id).unwrap()), ["op 1", "other"]);
}

fn count(store: &TraceStore, whole: bool) -> usize {
    let mut n = 0;
    let mut r = ScanRequest::new(0, u64::MAX);
    r.whole_traces = whole;
    let mut visit = |b: &dyn SpanBatch| {
        let t = b.traces();
        n += (0..t.len() - 1).filter(|i| !b.excluded().is_some_and(|e| e[*i])).map(|i| (t[i + 1] - t[i]) as usize).sum::<usize>();
        Ok(ControlFlow::Continue(0))
    };
    store.scan(&r, &mut visit).unwrap();
    n
}

#[test]
fn blocks_keep_to_their_windows() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS), span(1, 2, NOW_MS - 3_600_000), span(1, 3, NOW_MS - 2 * 3_600_000)]);
    store.flush().unwrap();
    assert_eq!(store.blocks().len(), 3);
    for b in store.blocks().iter() {
        assert_eq!(b.meta.window_start_ms.rem_euclid(3_600_000), 0);
        assert!(b.meta.min_start_unix_nano / 1_000_000 >= b.meta.window_start_ms as u64);
        assert!(b.meta.max_start_unix_nano / 1_000_000 < (b.meta.window_start_ms + 3_600_000) as u64);
    }
    let mut whole = ScanRequest::new((NOW_MS as u64 - 1) * 1_000_000, u64::MAX);
    whole.max_trace_nano = 4 * 3_600_000_000_000;
    let mut rows = 0;
    let mut visit = |b: &dyn SpanBatch| {
        rows += b.len() * usize::from(b.excluded().is_none());
        Ok(ControlFlow::Continue(0))
    };
    store.scan(&whole, &mut visit).unwrap();
    assert_eq!(rows, 3, "the trace is joined beyond the range");
}

#[test]
fn retention_by_age() {
    let rig = Rig::new();
    let mut o = rig.options().unwrap();
    o.retention_ms = 24 * 3_600_000;
    let store = TraceStore::open(o).unwrap();
    let kept = |store: &TraceStore| {
        store.flush().unwrap();
        store.maintain().unwrap();
        [1, 2].map(|t| store.trace(TraceId([t; 16])).unwrap().is_some())
    };
    put(&store, &[span(1, 1, NOW_MS)]);
    assert_eq!(kept(&store), [true, false]);
    rig.clock.advance(25 * 3_600_000);
    put(&store, &[span(2, 1, NOW_MS - 365 * 24 * 3_600_000)]);
    assert_eq!(kept(&store), [false, true], "what came late stays as long as what came in time");
    rig.clock.advance(25 * 3_600_000);
    assert_eq!(kept(&store), [false, false]);
    drop(store);
    assert_eq!(rig.open().blocks().len(), 0, "the mark holds after a restart");
}

#[test]
fn damage_in_a_block_fails_queries_and_partial_ones_warn() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS)]);
    store.flush().unwrap();
    let key = format!("/data/bucket/traces/anonymous/{}/spans.parquet", store.blocks()[0].meta.ulid);
    let len = store.blocks()[0].meta.size_bytes;
    drop(store);
    rig.fs.flip_bit(Path::new(&key), len - 20, 1);
    let store = rig.open();
    put(&store, &[span(2, 1, NOW_MS)]);
    let e = store.trace(TraceId([1; 16])).unwrap_err();
    assert!(e.kind == crate::ErrorKind::Corrupt && e.to_string().contains("spans.parquet"), "{e}");
    let mut r = ScanRequest::new(0, u64::MAX);
    assert!(store.scan(&r, &mut |_| Ok(ControlFlow::Continue(0))).is_err());
    r.partial = true;
    let stats = store.scan(&r, &mut |_| Ok(ControlFlow::Continue(0))).unwrap();
    assert_eq!((stats.warnings.len(), stats.spans), (1, 1));
}

#[test]
fn a_partial_answer_leaves_out_a_block_that_opens_and_is_damaged_further_on() {
    let rig = Rig::new();
    let store = rig.open();
    let mut random = strandline_testkit::Random::new(5);
    let spans: Vec<Span> = (0..9_000u64)
        .map(|i| Span {
            span_id: SpanId((i + 1).to_be_bytes()),
            name: format!("{:x}", random.bits()),
            ..span((i % 200) as u8 + 1, 1, NOW_MS)
        })
        .collect();
    put(&store, &spans);
    store.flush().unwrap();
    let meta = store.blocks()[0].meta.clone();
    assert!(meta.tail_offset > 128 << 10, "the tail has checksums of its own");
    drop(store);
    rig.fs.flip_bit(Path::new(&format!("/data/bucket/traces/anonymous/{}/spans.parquet", meta.ulid)), 100, 1);
    let store = rig.open();
    store.blocks()[0].open().unwrap();
    put(&store, &[span(201, 1, NOW_MS)]);
    let mut r = ScanRequest::new(0, u64::MAX);
    r.partial = true;
    let stats = store.scan(&r, &mut |_| Ok(ControlFlow::Continue(0))).unwrap();
    assert_eq!((stats.warnings.len(), stats.spans), (1, 1), "{:?}", stats.warnings);
}

#[test]
fn a_full_disk_refuses_retryably_and_resumes() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS)]);
    rig.fs.set_failing(Some(FaultKind::Enospc));
    let e = store.append(&[span(1, 2, NOW_MS)]).and_then(|a| a.ticket.wait()).unwrap_err();
    assert!(e.is_retryable(), "{e}");
    assert!(store.flush().is_err());
    assert_eq!(names(store.trace(TraceId([1; 16])).unwrap()), ["op 1"], "reads go on, and nothing unacknowledged shows");
    rig.fs.set_failing(None);
    put(&store, &[span(1, 2, NOW_MS)]);
    store.flush().unwrap();
    assert_eq!(names(store.trace(TraceId([1; 16])).unwrap()), ["op 1", "op 2"]);
    drop(store);
    assert_eq!(names(rig.open().trace(TraceId([1; 16])).unwrap()), ["op 1", "op 2"]);
}

#[test]
fn a_trace_of_more_spans_than_may_be_read_at_once_is_refused_before_it_is_read() {
    let rig = Rig::new();
    let mut o = rig.options().unwrap();
    o.max_trace_spans = 4;
    let store = TraceStore::open(o).unwrap();
    let spans: Vec<Span> = (1..=6).map(|i| span(1, i, NOW_MS)).collect();
    let whole = || store.trace(TraceId([1; 16]));
    put(&store, &spans[..3]);
    store.flush_local().unwrap();
    put(&store, &spans[3..4]);
    assert_eq!(names(whole().unwrap()).len(), 4, "in two places");
    put(&store, &spans[4..5]);
    let refused = whole().unwrap_err();
    assert!(refused.kind == crate::ErrorKind::LimitExceeded && refused.to_string().contains("more than 4 spans"), "{refused}");
    assert!(store.trace_partial(TraceId([1; 16])).is_err());
    store.flush_local().unwrap();
    assert!(whole().is_err(), "in two blocks");
    put(&store, &(1..=5).map(|i| span(2, i, NOW_MS)).collect::<Vec<_>>());
    assert!(store.trace(TraceId([2; 16])).is_err(), "live");
    // A search reads of them what it needs.
    assert_eq!(count(&store, true), 10);
}

#[test]
fn live_spans_are_bounded() {
    let rig = Rig::new();
    let mut o = rig.options().unwrap();
    o.max_live_bytes = 500;
    let store = TraceStore::open(o).unwrap();
    put(&store, &[span(1, 1, NOW_MS), span(1, 2, NOW_MS), span(1, 3, NOW_MS)]);
    let e = store.append(&[span(1, 4, NOW_MS)]).err().unwrap();
    assert!(e.kind == crate::ErrorKind::LimitExceeded && e.is_retryable(), "{e}");
    store.flush().unwrap();
    put(&store, &[span(1, 4, NOW_MS)]);
}

/// Appends, flushes, merges; returns the spans whose append was acknowledged. Ends at the first error.
fn workload(rig: &Rig) -> Vec<Span> {
    let mut acked = Vec::new();
    let Ok(store) = rig.options().and_then(TraceStore::open) else { return acked };
    for step in 0..10u8 {
        let spans = [span(step % 4 + 1, step + 1, NOW_MS - i64::from(step % 3) * 3_600_000), span(9, step + 1, NOW_MS)];
        match store.append(&spans).and_then(|a| a.ticket.wait()) {
            Ok(()) => acked.extend(spans),
            Err(_) => return acked,
        }
        let done = match step % 5 {
            2 => store.flush(),
            4 => {
                rig.clock.advance(3_600_000);
                store.maintain()
            }
            _ => Ok(()),
        };
        if done.is_err() {
            return acked;
        }
    }
    acked
}

#[test]
fn a_crash_at_every_sync_loses_nothing_acknowledged() {
    let rig = Rig::new();
    workload(&rig);
    let syncs = rig.fs.syncs();
    assert!(syncs > 50, "{syncs}");
    for n in 1..=syncs {
        // What loses most at every sync, the others in turn.
        for style in [CrashStyle::LoseUnsynced, [CrashStyle::Torn, CrashStyle::Reordered, CrashStyle::KeepAll][n as usize % 3]] {
            let rig = Rig::new();
            rig.fs.crash_at_sync(n);
            let acked = workload(&rig);
            rig.fs.restart(style, n);
            let store = rig.options().and_then(TraceStore::open).unwrap_or_else(|e| panic!("crash at sync {n}, {style:?}: {e}"));
            for round in 0..2 {
                for t in 1..10u8 {
                    let id = TraceId([t; 16]);
                    let have = store.trace(id).unwrap_or_else(|e| panic!("crash at sync {n}, {style:?}, round {round}: {e}"));
                    let have = have.map(|t| t.spans).unwrap_or_default();
                    for s in acked.iter().filter(|s| s.trace_id == id) {
                        assert!(have.contains(s), "crash at sync {n}, {style:?}, round {round}: lost {} of {t}", s.name);
                    }
                }
                // It goes on working, and a flush and merges change nothing.
                store.flush().unwrap();
                store.maintain().unwrap();
            }
        }
    }
}

/// What one errand of upkeep could not do must not be taken for done by the next: a flush whose manifest was not written
/// is followed by an upload that writes one.
#[test]
fn a_fault_at_every_call_of_upkeep_and_a_crash_behind_it_lose_nothing() {
    let spans = [span(1, 1, NOW_MS), span(2, 2, NOW_MS - 3_600_000)];
    let mut failed = 0;
    for n in 1.. {
        let rig = Rig::new();
        let store = rig.open();
        put(&store, &spans);
        rig.clock.advance(3_600_000);
        let before = rig.fs.calls();
        rig.fs.fail_call(before + n, FaultKind::Eio);
        failed += usize::from(store.maintain().is_err());
        let calls = rig.fs.calls() - before;
        rig.fs.restart(CrashStyle::LoseUnsynced, n);
        let store = rig.options().and_then(TraceStore::open).unwrap_or_else(|e| panic!("call {n}: {e}"));
        for s in &spans {
            let found = store.trace(s.trace_id).unwrap_or_else(|e| panic!("call {n}: {e}"));
            assert_eq!(found.map(|t| t.spans).as_deref(), Some(std::slice::from_ref(s)), "call {n}");
        }
        if n > calls {
            break;
        }
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn upkeep_leaves_a_staged_block_that_can_not_be_read_to_who_can_mend_it() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, &[span(1, 1, NOW_MS)]);
    store.flush_local().unwrap();
    let folder = Path::new("/data/traces").join(&store.blocks()[0].meta.ulid);
    drop(store);
    for file in ["meta.json", "spans.parquet"] {
        rig.fs.write_atomic(&folder.join(file), b"something else").unwrap();
    }
    let store = rig.open();
    put(&store, &[span(2, 1, NOW_MS)]);
    store.flush().unwrap();
    store.maintain().unwrap();
    assert!(rig.fs.exists(&folder.join("spans.parquet")), "what is left of it");
    assert!(store.trace(TraceId([2; 16])).is_err(), "an answer could miss what it holds");
    drop(store);
    assert!(rig.open().trace(TraceId([2; 16])).is_err(), "after a restart too");
}

fn fields() -> Vec<Field> {
    let mut f = vec![
        Field::Name,
        Field::Kind,
        Field::Status,
        Field::StatusMessage,
        Field::SpanId,
        Field::ParentId,
        Field::EventName,
        Field::EventTimeSinceStart,
        Field::LinkTraceId,
        Field::LinkSpanId,
        Field::ScopeName,
        Field::ScopeVersion,
    ];
    for scope in
        [AttributeScope::Span, AttributeScope::Resource, AttributeScope::Event, AttributeScope::Link, AttributeScope::Instrumentation]
    {
        for k in ["k1", "K1", "k7", "http.route", "", "service.name"] {
            f.push(Field::Attribute(scope, k.into()));
        }
    }
    f
}

/// Every row of a scan, by trace: its start, duration, ids, and the value of every field.
type Seen = std::collections::BTreeMap<TraceId, Vec<(u64, u64, u64, u64, Vec<Value>)>>;

fn seen(store: &TraceStore, whole: bool) -> Seen {
    let mut out = Seen::new();
    let mut r = ScanRequest::new(0, u64::MAX);
    r.whole_traces = whole;
    let mut visit = |b: &dyn SpanBatch| {
        let (starts, durations, ids) = (b.starts()?, b.durations()?, b.ids()?);
        let columns = fields().iter().map(|f| b.column(f)).collect::<crate::Result<Vec<_>>>()?;
        for t in 0..b.traces().len() - 1 {
            if b.excluded().is_some_and(|e| e[t]) {
                continue;
            }
            let rows = (b.traces()[t]..b.traces()[t + 1]).map(|r| {
                let r = r as usize;
                (starts[r], durations[r], ids.span[r], ids.parent[r], columns.iter().map(|c| c.get(r).clone()).collect())
            });
            let rows: Vec<_> = rows.collect();
            let known = out.entry(b.trace_id(t)).or_default();
            assert!(!whole || known.is_empty(), "a whole trace came in two batches");
            known.extend(rows);
        }
        Ok(ControlFlow::Continue(0))
    };
    store.scan(&r, &mut visit).unwrap();
    out
}

fn expected(spans: &[Span]) -> Seen {
    let mut out = Seen::new();
    let mut spans = spans.to_vec();
    spans.sort();
    spans.dedup();
    for s in spans {
        let row = (
            s.start_unix_nano,
            s.duration_nano(),
            u64::from_be_bytes(s.span_id.0),
            s.parent_span_id.map_or(0, |p| u64::from_be_bytes(p.0)),
            fields().iter().map(|f| field_of(&s, f)).collect(),
        );
        out.entry(s.trace_id).or_default().push(row);
    }
    out
}

fn same(a: &Seen, b: &Seen) -> bool {
    // Not-a-number is no reason to differ; order within a start and id is the content's.
    let text = |s: &Seen| {
        let sorted = s.iter().map(|(t, rows)| {
            let mut rows: Vec<String> = rows.iter().map(|r| format!("{r:?}")).collect();
            rows.sort();
            (*t, rows)
        });
        sorted.collect::<Vec<_>>()
    };
    text(a) == text(b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn wherever_spans_lie_the_answer_is_the_same(spans in proptest::collection::vec((any_span(), 0u8..10, 0i64..3), 1..60)) {
        let rig = Rig::new();
        let store = rig.open();
        let mut all: Vec<Span> = Vec::new();
        for (mut s, action, hour) in spans {
            let shift = (NOW_MS - hour * 3_600_000) as u64 * 1_000_000;
            s.start_unix_nano += shift;
            s.end_unix_nano = s.end_unix_nano.wrapping_add(shift);
            put(&store, std::slice::from_ref(&s));
            // Some are sent again later.
            if action == 1 && let Some(old) = all.first() {
                put(&store, std::slice::from_ref(old));
            }
            all.push(s);
            if action == 0 {
                store.flush().unwrap();
            }
            if action == 9 {
                rig.clock.advance(20 * 60_000);
                store.maintain().unwrap();
            }
        }
        let want = expected(&all);
        for whole in [true, false] {
            let got = seen(&store, whole);
            prop_assert!(same(&got, &want), "whole {}: got {:#?}\nwant {:#?}", whole, got, want);
        }
        for (id, rows) in &want {
            prop_assert_eq!(store.trace(*id).unwrap().unwrap().spans.len(), rows.len());
        }
        let keys: Vec<Vec<String>> = store.attribute_keys(0, u64::MAX).unwrap().into_iter().map(|k| k.1).collect();
        prop_assert_eq!(&keys, &keys_of(&all));
        drop(store);
        let store = rig.open();
        store.flush().unwrap();
        prop_assert!(same(&seen(&store, true), &want), "after a restart");
        let keys: Vec<Vec<String>> = store.attribute_keys(0, u64::MAX).unwrap().into_iter().map(|k| k.1).collect();
        prop_assert_eq!(&keys, &keys_of(&all));
    }
}

/// Keys of attributes of spans, events, links, resources and scopes.
fn keys_of(spans: &[Span]) -> Vec<Vec<String>> {
    let mut all: [BTreeSet<String>; 5] = Default::default();
    let mut add = |scope: usize, attributes: &Attributes| all[scope].extend(attributes.iter().map(|a| a.0.clone()));
    for s in spans {
        add(0, &s.attributes);
        s.events.iter().for_each(|e| add(1, &e.attributes));
        s.links.iter().for_each(|l| add(2, &l.attributes));
        add(3, &s.resource.attributes);
        add(4, &s.scope.attributes);
    }
    all.into_iter().map(|keys| keys.into_iter().collect()).collect()
}

/// A clock that jumps after some looks at it.
struct Jumping {
    looks: std::sync::atomic::AtomicI64,
    by_ms: i64,
}

impl crate::clock::Clock for Jumping {
    fn now_ms(&self) -> i64 {
        let jumped = self.looks.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) <= 0;
        NOW_MS + if jumped { self.by_ms } else { 0 }
    }
}

#[test]
fn merges_give_way_to_flushes_and_come_later() {
    let rig = Rig::new();
    let blocks = |store: &TraceStore| {
        let fs = rig.options().unwrap().fs;
        let folders = fs.read_dir(Path::new("/data/traces")).unwrap().iter().filter(|e| e.is_dir).count();
        (store.blocks().len(), folders)
    };
    let mut o = rig.options().unwrap();
    (o.flush_write.row_group_spans, o.compact_write.row_group_spans) = (2_000, 2_000);
    o.wal.segment_size_bytes = 1 << 20;
    let store = TraceStore::open(o.clone()).unwrap();
    for n in 1..=4 {
        let spans: Vec<Span> = (0..1_200u32).map(|i| span((i % 250) as u8 + 1, n, NOW_MS + i64::from(i))).collect();
        put(&store, &spans);
        store.flush().unwrap();
    }
    // None begins.
    store.0.pace.lock().flushed(NOW_MS - 4_000, NOW_MS);
    store.maintain().unwrap();
    assert_eq!(blocks(&store), (4, 0));
    drop(store);
    // One that is under way ends with nothing changed.
    let clock = Arc::new(Jumping { looks: i64::MAX.into(), by_ms: 5_000 });
    let store = TraceStore::open(TraceStoreOptions { clock: clock.clone(), ..o }).unwrap();
    store.0.pace.lock().flushed(NOW_MS + 1_000, NOW_MS + 5_000);
    clock.looks.store(4, std::sync::atomic::Ordering::SeqCst);
    store.maintain().unwrap();
    assert!(clock.looks.load(std::sync::atomic::Ordering::SeqCst) < 0, "the merge had begun");
    assert_eq!((blocks(&store), count(&store, true)), ((4, 0), 4 * 1_200));
    drop(store);
    let store = rig.open();
    store.maintain().unwrap();
    assert_eq!((blocks(&store), count(&store, true)), ((1, 0), 4 * 1_200));
}
