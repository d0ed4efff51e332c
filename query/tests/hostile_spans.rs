//! Spans as broken or hostile senders write them: each is kept or refused alone with its reason, and queries over what
//! was kept give the same answer live, flushed and merged, in bounded time.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "traceql")]

use std::path::Path;
use std::sync::Arc;

use strandline_query::traceql::{MetricsOptions, Root, SearchOptions, TagOptions, parse, parse_tag, query_range, search, tag_values};
use strandline_storage::bucket::LocalBucket;
use strandline_storage::clock::ManualClock;
use strandline_storage::codec::protobuf::Writer;
use strandline_storage::model::{AttributeValue, Span, SpanId, TraceId};
use strandline_storage::traces::{TraceStore, TraceStoreOptions};
use strandline_wal::fs::{Fs, SimFs};

const NOW_MS: i64 = 1_700_000_000_000;
const NOW: u64 = NOW_MS as u64 * 1_000_000;

fn store() -> (TraceStore, ManualClock) {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    fs.create_dir_all(Path::new("/d")).unwrap();
    let bucket = Arc::new(LocalBucket::open(fs.clone(), "/d/bucket").unwrap());
    let clock = ManualClock::new(NOW_MS);
    let mut o = TraceStoreOptions::new(fs, Arc::new(clock.clone()), "/d", bucket);
    o.wal.background = false;
    (TraceStore::open(o).unwrap(), clock)
}

fn span(id: u64, parent: u64) -> Span {
    Span {
        trace_id: TraceId([1; 16]),
        span_id: SpanId(id.to_be_bytes()),
        parent_span_id: (parent > 0).then_some(SpanId(parent.to_be_bytes())),
        start_unix_nano: NOW + id,
        end_unix_nano: NOW + id + 10,
        name: "op".into(),
        ..Span::default()
    }
}

/// Refused and accepted, and why.
fn put(store: &TraceStore, request: Vec<u8>) -> (u64, u64, String) {
    let a = store.append_otlp(request.into()).unwrap();
    let out = (a.rejected, a.accepted, a.reasons.join("; "));
    a.ticket.wait().unwrap();
    out
}

fn put_spans(store: &TraceStore, spans: &[Span]) -> (u64, u64, String) {
    let a = store.append(spans).unwrap();
    let out = (a.rejected, a.accepted, a.reasons.join("; "));
    a.ticket.wait().unwrap();
    out
}

/// Number of spans that a query selects.
fn matched(store: &TraceStore, query: &str) -> u32 {
    let q = parse(query).unwrap();
    let Root::Spansets(p) = &q.root else { panic!("{query}") };
    search(store, p, &SearchOptions::default()).unwrap().traces.iter().flat_map(|t| &t.sets).map(|s| s.matched).sum()
}

/// Checks the same live, flushed, and merged with another block.
fn everywhere(store: &TraceStore, clock: &ManualClock, check: &dyn Fn(&str)) {
    check("live");
    store.flush().unwrap();
    assert_eq!(store.live_spans(), 0);
    check("flushed");
    let other = Span { trace_id: TraceId([9; 16]), name: "other".into(), ..span(1, 0) };
    put_spans(store, &[other]);
    store.flush().unwrap();
    clock.advance(4 * 3_600_000);
    store.maintain().unwrap();
    assert!(store.blocks().iter().any(|b| b.meta.level > 0), "merged");
    check("merged");
}

/// A request of one span by its fields.
fn raw(fields: impl Fn(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    w.message(1, |w| w.message(2, |w| w.message(2, |w| fields(w))));
    w.buf
}

#[test]
fn ids_of_wrong_length_and_of_zeros_are_refused_alone() {
    let (store, _) = store();
    let with = |trace: &[u8], id: &[u8], parent: &[u8]| {
        raw(|w| {
            w.bytes(1, trace);
            w.bytes(2, id);
            w.bytes(4, parent);
            w.fixed64(7, NOW);
            w.fixed64(8, NOW + 1);
        })
    };
    for (trace, id, parent, why) in [
        (0, 8, 0, "trace id has 0 bytes"),
        (8, 8, 0, "trace id has 8 bytes"),
        (15, 8, 0, "trace id has 15 bytes"),
        (17, 8, 0, "trace id has 17 bytes"),
        (16, 0, 0, "span id has 0 bytes"),
        (16, 7, 0, "span id has 7 bytes"),
        (16, 16, 0, "span id has 16 bytes"),
        (16, 8, 4, "parent span id has 4 bytes"),
    ] {
        let (rejected, accepted, reasons) = put(&store, with(&vec![7; trace], &vec![7; id], &vec![7; parent]));
        assert!((rejected, accepted) == (1, 0) && reasons.contains(why), "{why}: {reasons}");
    }
    for (trace, id, why) in [([0; 16], [7; 8], "trace id is all zeros"), ([7; 16], [0; 8], "span id is all zeros")] {
        let (rejected, accepted, reasons) = put(&store, with(&trace, &id, &[]));
        assert!((rejected, accepted) == (1, 0) && reasons.contains(why), "{why}: {reasons}");
    }
    // A parent of zeros is how some senders write a root.
    assert_eq!(put(&store, with(&[7; 16], &[7; 8], &[0; 8])).1, 1);
    assert_eq!(matched(&store, "{ nestedSetParent < 0 }"), 1);
    // Beside a good span only the bad one goes.
    let bad = Span { span_id: SpanId([0; 8]), ..span(2, 0) };
    let (rejected, accepted, _) = put_spans(&store, &[span(1, 0), bad]);
    assert_eq!((rejected, accepted, store.refused_spans()), (1, 1, 11));
}

#[test]
fn odd_times() {
    let (store, clock) = store();
    let at = |id, start, end| Span { start_unix_nano: start, end_unix_nano: end, ..span(id, 0) };
    for (s, why) in [
        (at(90, u64::MAX, u64::MAX), "start time lies beyond the year 2262"),
        (at(91, NOW, u64::MAX), "end time lies beyond the year 2262"),
        (at(92, NOW + 7_200_000_000_000, NOW + 7_200_000_000_001), "in the future"),
    ] {
        let (rejected, _, reasons) = put_spans(&store, &[s]);
        assert!(rejected == 1 && reasons.contains(why), "{why}: {reasons}");
    }
    // Ends before it starts, ends never, starts in 1970: kept as they are.
    let backwards = at(1, NOW, NOW - 5);
    let endless = Span { name: "endless".into(), ..at(2, NOW, i64::MAX as u64) };
    let old = Span { name: "old".into(), trace_id: TraceId([2; 16]), ..at(3, 1, 2) };
    assert_eq!(put_spans(&store, &[backwards.clone(), endless.clone(), old]).1, 3);
    everywhere(&store, &clock, &|when| {
        let trace = store.trace(TraceId([1; 16])).unwrap().unwrap();
        assert!(trace.spans.contains(&backwards) && trace.spans.contains(&endless), "{when}");
        assert_eq!(matched(&store, "{ name = \"op\" && duration = 0 }"), 1, "{when}");
        assert_eq!(matched(&store, "{ duration > 100y && traceDuration > 100y && name = \"endless\" }"), 1, "{when}");
        assert_eq!(matched(&store, "{ name = \"old\" && duration = 1ns }"), 1, "{when}");
        let o = MetricsOptions::new(NOW - 1_000_000_000, NOW + 1_000_000_000);
        let sum = query_range(&store, &parse("{ name = \"op\" } | sum_over_time(duration)").unwrap(), &o).unwrap();
        assert_eq!(sum.series[0].values.iter().filter(|v| !v.is_nan()).sum::<f64>(), 0.0, "{when}");
    });
}

#[test]
fn large_values_and_many_attributes() {
    let (store, clock) = store();
    let value = |n: usize| vec![("big".to_owned(), AttributeValue::from("x".repeat(n)))];
    let many = |n: usize| (0..n).map(|i| (format!("k{i:05}"), AttributeValue::Int(i as i64))).collect::<Vec<_>>();
    let largest = Span { attributes: value(1 << 20), ..span(1, 0) };
    let fullest = Span { attributes: many(1024), ..span(2, 1) };
    let (rejected, accepted, reasons) = put_spans(
        &store,
        &[
            largest.clone(),
            Span { attributes: value((1 << 20) + 1), ..span(3, 0) },
            fullest.clone(),
            Span { attributes: many(10_000), ..span(4, 0) },
        ],
    );
    assert_eq!((rejected, accepted), (2, 2));
    assert!(reasons.contains("\"big\" has more than 1048576 bytes") && reasons.contains("10000 attributes, more than 1024"), "{reasons}");
    everywhere(&store, &clock, &|when| {
        let trace = store.trace(TraceId([1; 16])).unwrap().unwrap();
        assert_eq!(trace.spans, [largest.clone(), fullest.clone()], "{when}");
        assert_eq!(matched(&store, "{ span.k01023 = 1023 }"), 1, "{when}");
        assert_eq!(matched(&store, "{ span.big =~ \"x+\" } > { span.k00000 = 0 }"), 1, "{when}");
    });
}

#[test]
fn keys_equal_but_for_case_are_different_keys() {
    let (store, clock) = store();
    let keyed = |id, key: &str, v: AttributeValue| Span { attributes: vec![(key.into(), v)], ..span(id, 0) };
    let all = Span { attributes: vec![("KEY".into(), 1.into()), ("Key".into(), "two".into()), ("key".into(), 3.into())], ..span(1, 0) };
    put_spans(&store, &[all.clone(), keyed(2, "key", 30.into()), keyed(3, "Key", "20".into()), keyed(4, "KEY", true.into())]);
    everywhere(&store, &clock, &|when| {
        for (query, want) in [
            ("{ span.KEY = 1 }", 1),
            ("{ span.Key = \"two\" }", 1),
            ("{ span.key = 3 }", 1),
            ("{ span.key >= 3 }", 2),
            ("{ span.Key != nil }", 2),
            ("{ span.KEY }", 1),
            ("{ span.kEY != nil }", 0),
        ] {
            assert_eq!(matched(&store, query), want, "{when}: {query}");
        }
        assert!(store.trace(TraceId([1; 16])).unwrap().unwrap().spans.contains(&all), "{when}");
    });
}

#[test]
fn cycles_and_missing_parents_are_related_to_nothing() {
    let (store, clock) = store();
    let n = 20_000;
    // One ring of all, a span that is its own parent, and one whose parent never came.
    let mut spans: Vec<Span> = (1..=n).map(|i| span(i, i % n + 1)).collect();
    spans.push(span(n + 1, n + 1));
    spans.push(span(n + 2, n + 99));
    put_spans(&store, &spans);
    everywhere(&store, &clock, &|when| {
        for relation in [">>", "<<", ">", "<", "~", "&>>"] {
            assert_eq!(matched(&store, &format!("{{ name = \"op\" }} {relation} {{ name = \"op\" }}")), 0, "{when}: {relation}");
        }
        assert_eq!(matched(&store, "{ nestedSetLeft = 0 && name = \"op\" }"), n as u32 + 2, "{when}");
        assert_eq!(matched(&store, "{ rootName != nil && name = \"op\" }"), 0, "{when}");
    });
}

#[test]
fn a_trace_of_a_million_spans_is_queried() {
    let (store, _) = store();
    const BATCH: u64 = 10_000;
    // Half a chain, half children of the root: as deep as wide.
    let parent = |i: u64| if i == 1 { 0 } else { if i.is_multiple_of(2) { 1 } else { (i - 2).max(1) } };
    for b in 0..100 {
        let spans: Vec<Span> = (b * BATCH + 1..=(b + 1) * BATCH).map(|i| span(i, parent(i))).collect();
        assert_eq!(put_spans(&store, &spans).1, BATCH);
        // In several blocks, and a tenth of it live.
        if b % 30 == 29 {
            store.flush().unwrap();
        }
    }
    assert_eq!((store.live_spans(), store.blocks().len()), (100_000, 3));
    assert_eq!(store.trace(TraceId([1; 16])).unwrap().unwrap().spans.len(), 1_000_000);
    let o = MetricsOptions { instant: true, ..MetricsOptions::new(NOW - 1_000_000_000, NOW + 1_000_000_000) };
    for (query, want) in [
        ("{} | count_over_time()", 1_000_000.0),
        ("{ nestedSetParent < 0 } >> {} | count_over_time()", 999_999.0),
        ("{ nestedSetParent < 0 } > {} | count_over_time()", 500_001.0),
        ("{} ~ {} | count_over_time()", 500_001.0),
    ] {
        let r = query_range(&store, &parse(query).unwrap(), &o).unwrap();
        assert_eq!(r.series[0].values, [want], "{query}");
    }
    assert_eq!(matched(&store, "{ nestedSetParent < 0 } >> {} | count() > 10"), 999_999);
}

/// Whole texts as attributes: what would hold a copy of each is bounded.
/// What computes something of each set by all the spans there are would not end.
#[test]
fn very_many_sets_are_gone_through_one_by_one() {
    let (store, clock) = store();
    const TRACES: u64 = 4_000;
    let of = |t: u64, id: u64, parent| Span {
        trace_id: TraceId((u128::from(t) + 1).to_be_bytes()),
        attributes: vec![("n".into(), AttributeValue::Int(id as i64))],
        ..span(id, parent)
    };
    let spans: Vec<Span> = (0..TRACES).flat_map(|t| (1..=5).map(move |id| of(t, id, id - 1))).collect();
    spans.chunks(10_000).for_each(|s| assert_eq!(put_spans(&store, s).0, 0));
    let wide: Vec<Span> = (1..=2_000).map(|id| Span { name: "wide".into(), ..of(TRACES, id, u64::from(id > 1)) }).collect();
    assert_eq!(put_spans(&store, &wide).0, 0);
    everywhere(&store, &clock, &|when| {
        let o = SearchOptions { limit: 5, ..SearchOptions::default() };
        let found = |query: &str| {
            let q = parse(query).unwrap();
            let Root::Spansets(p) = &q.root else { panic!("{query}") };
            search(&store, p, &o).unwrap().traces.len()
        };
        assert_eq!(found("{ name = \"op\" } | avg(span.n * 2) = 6"), 5, "{when}");
        assert_eq!(found("{} | max(span.n + span.n) > 1h"), 0, "{when}");
        assert_eq!(found("{ name = \"wide\" } | by(span:id) | avg(span.n * 2) > 3998"), 1, "{when}");
        assert_eq!(found("{ name = \"wide\" } | by(span:id) | ({ span.n = 1 } > {}) | count() > 0"), 0, "{when}");
    });
}

#[test]
fn of_what_reaches_back_beyond_the_range_the_newer_comes_first() {
    let (store, _) = store();
    const HOUR: u64 = 3_600_000_000_000;
    let at = |trace: u8, id, parent, start| Span {
        trace_id: TraceId([trace; 16]),
        start_unix_nano: start,
        end_unix_nano: start + 5,
        ..span(id, parent)
    };
    put_spans(&store, &[at(1, 1, 0, NOW - 5 * HOUR), at(2, 1, 0, NOW - 120_000_000_000)]);
    store.flush().unwrap();
    put_spans(&store, &[at(1, 2, 1, NOW - 60_000_000_000)]);
    let q = parse("{ name = \"op\" }").unwrap();
    let Root::Spansets(p) = &q.root else { panic!() };
    let o = SearchOptions { start_nano: NOW - HOUR, end_nano: NOW, ..SearchOptions::default() };
    let found: Vec<u8> = search(&store, p, &o).unwrap().traces.iter().map(|t| t.trace_id.0[0]).collect();
    assert_eq!(found, [2, 1]);
}

#[test]
fn texts_to_complete_and_group_by() {
    let (store, clock) = store();
    let text = |i: u64| AttributeValue::from(format!("{i:06}").repeat(80_000));
    let spans: Vec<Span> = (1..=80).map(|i| Span { attributes: vec![("prompt".into(), text(i))], ..span(i, 0) }).collect();
    for some in spans.chunks(8) {
        assert_eq!(put_spans(&store, some).1, 8);
    }
    let options = TagOptions { start_nano: NOW, end_nano: NOW + 1_000, limit: 0, partial: false };
    let range = MetricsOptions::new(NOW, NOW + 1_000_000_000);
    everywhere(&store, &clock, &|when| {
        let found = tag_values(&store, &parse_tag("span.prompt"), None, &options).unwrap();
        let bytes: usize = found.iter().map(|v| v.value.len()).sum();
        assert!((4 << 20..=8 << 20).contains(&bytes), "{when}: {bytes} bytes of {} values", found.len());
        let by = query_range(&store, &parse("{} | rate() by (span.prompt)").unwrap(), &range);
        assert!(by.is_err_and(|e| e.to_string().contains("to group by")), "{when}");
        let compared = query_range(&store, &parse("{} | compare({ name = \"op\" })").unwrap(), &range).unwrap();
        let shown: usize = compared.series.iter().flat_map(|s| &s.labels).map(|l| l.1.text().len()).sum();
        assert!(shown < 10 << 20, "{when}: {shown} bytes");
        assert_eq!(matched(&store, "{ span.prompt =~ \"000001.*\" }"), 1, "{when}");
    });
}
