//! Blocks written and read back.

use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use proptest::prelude::*;
use strandline_wal::fs::{Fs, RealFs, SimFs};

use super::layout::{Group, Sampler, ShredType};
use super::meta::BlockMeta;
use super::reader::{Location, OpenBlock};
use super::rows::Rows;
use super::survey::survey;
use super::writer::{BlockIdentity, BlockWriter, WriteOptions};
use crate::model::{AttributeValue, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, TraceId, sort_attributes};
use crate::traces::compact::order::Order;
use crate::traces::otlp::{Groups, decode_spans, encode_request};

fn each(spans: &[Span], mut f: impl FnMut(&crate::traces::otlp::RawSpan<'_>, &Groups<'_>, u64)) {
    // As a flush numbers them: by what they are.
    let mut known: Vec<(&Resource, &Scope)> = Vec::new();
    for s in spans {
        let request = encode_request([s]);
        let group: (&Resource, &Scope) = (&s.resource, &s.scope);
        let number = known.iter().position(|k| *k == group).unwrap_or(known.len());
        if number == known.len() {
            known.push(group);
        }
        let mut state = (Groups::default(), &mut f);
        let done = decode_spans(
            &request,
            &mut state,
            |st, g| {
                st.0 = g;
                Ok(())
            },
            |st, raw| {
                (st.1)(&raw, &st.0, number as u64);
                Ok(())
            },
        );
        done.unwrap();
    }
}

pub(crate) fn write(fs: &Arc<dyn Fs>, dir: &Path, spans: &mut [Span], options: WriteOptions) -> BlockMeta {
    spans.sort();
    let mut sampler = Sampler::default();
    each(spans, |raw, _, _| sampler.span(raw).unwrap());
    let identity = BlockIdentity {
        ulid: dir.file_name().unwrap().to_str().unwrap().into(),
        tenant: "t".into(),
        writer_id: "w".into(),
        window_start_ms: 0,
        window_ms: 3_600_000,
        level: 0,
        sources: vec![],
    };
    let n = spans.len() as u64;
    let mut w = BlockWriter::create(fs.clone(), dir, identity, sampler.layout().unwrap(), options, (n, n)).unwrap();
    each(spans, |raw, groups, key| w.push(raw, groups, key).unwrap());
    w.finish().unwrap()
}

fn open(fs: &Arc<dyn Fs>, dir: &Path, meta: &BlockMeta) -> OpenBlock {
    OpenBlock::open(meta.clone(), &Location::Folder(fs.clone(), dir.into()), fs).unwrap()
}

fn read_all(block: &OpenBlock) -> Vec<Span> {
    let mut out = Vec::new();
    for g in 0..block.row_groups() {
        let mut rows = Rows::read(block, g, None, 0..block.rows(g)).unwrap();
        for r in 0..rows.len() {
            out.push(rows.span(r).unwrap());
        }
    }
    out
}

fn value() -> impl Strategy<Value = AttributeValue> {
    let leaf = prop_oneof![
        Just(AttributeValue::Empty),
        any::<bool>().prop_map(AttributeValue::Bool),
        (-3i64..300).prop_map(AttributeValue::Int),
        any::<f64>().prop_map(AttributeValue::Double),
        "[a-zé]{0,9}".prop_map(AttributeValue::String),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(AttributeValue::Bytes),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::Array),
            proptest::collection::btree_map("[a-d]{0,3}", inner, 0..4).prop_map(|m| AttributeValue::Map(m.into_iter().collect())),
        ]
    })
}

fn attributes() -> impl Strategy<Value = crate::model::Attributes> {
    proptest::collection::vec(("(k[0-9]|K1|http.route|)", value()), 0..7).prop_map(|mut a| {
        sort_attributes(&mut a);
        a
    })
}

fn event() -> impl Strategy<Value = SpanEvent> {
    (any::<i64>(), "[a-c]{0,2}", attributes(), 0u32..3).prop_map(|(t, name, attributes, dropped_attributes_count)| SpanEvent {
        time_unix_nano: t as u64,
        name,
        attributes,
        dropped_attributes_count,
    })
}

fn link() -> impl Strategy<Value = SpanLink> {
    (proptest::collection::vec(any::<u8>(), 0..17), "[a-c]{0,2}", attributes(), any::<u32>()).prop_map(
        |(trace_id, trace_state, attributes, flags)| SpanLink {
            span_id: trace_id.clone(),
            trace_id,
            trace_state,
            attributes,
            dropped_attributes_count: 1,
            flags,
        },
    )
}

pub(crate) fn span() -> impl Strategy<Value = Span> {
    let ids = (0u8..6, 0u8..40, proptest::option::of(1u8..40), 0u64..1000, any::<i16>());
    let text = ("[a-c]{0,2}", "[a-c]{0,2}", any::<i32>(), -1i32..4);
    let lists = (attributes(), proptest::collection::vec(event(), 0..3), proptest::collection::vec(link(), 0..3));
    let outer = (attributes(), attributes(), "[a-c]{0,2}", proptest::option::of("[ab]"));
    (ids, text, lists, outer).prop_map(
        |((t, id, parent, start, d), (name, state, kind, status_code), (attributes, events, links), outer)| {
            let (mut resource, scope, url, service) = outer;
            if let Some(s) = service {
                resource.push(("service.name".into(), s.into()));
                sort_attributes(&mut resource);
            }
            Span {
                trace_id: TraceId([t + 1; 16]),
                span_id: SpanId([id + 1; 8]),
                parent_span_id: parent.map(|p| SpanId([p; 8])),
                start_unix_nano: start + 40_000,
                end_unix_nano: (start as i64 + 40_000 + i64::from(d)) as u64,
                name,
                kind,
                status_code,
                status_message: state.clone(),
                trace_state: state,
                flags: kind as u32,
                attributes,
                dropped_attributes_count: u32::from(id),
                events,
                dropped_events_count: 2,
                links,
                dropped_links_count: 3,
                resource: Arc::new(Resource { attributes: resource, dropped_attributes_count: u32::from(t), schema_url: url.clone() }),
                scope: Arc::new(Scope {
                    name: url.clone(),
                    version: "v".into(),
                    attributes: scope,
                    dropped_attributes_count: 9,
                    schema_url: url,
                }),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_block_gives_back_what_was_written(mut spans in proptest::collection::vec(span(), 1..60), per_group in 1usize..40) {
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
        let dir = Path::new("/b/X");
        let options = WriteOptions { row_group_spans: per_group, ..WriteOptions::default() };
        // Most spans have their resource and scope in common with others, in other row groups too.
        for i in 0..spans.len() {
            let of = if i % 4 == 0 { i } else { i % 4 % spans.len() };
            (spans[i].resource, spans[i].scope) = (spans[of].resource.clone(), spans[of].scope.clone());
        }
        let meta = write(&fs, dir, &mut spans, options);
        let block = open(&fs, dir, &meta);
        prop_assert_eq!(&read_all(&block), &spans);
        prop_assert_eq!(meta.spans, spans.len() as u64);
        // By trace: bloom filters and pages find the same rows.
        for t in 0..8u8 {
            let id = TraceId([t; 16]);
            let mut found = Vec::new();
            for g in block.groups_with(id) {
                let (ids, offsets) = block.traces(g, None).unwrap();
                if let Ok(i) = ids.binary_search(&u128::from_be_bytes(id.0)) {
                    let mut rows = Rows::read(&block, g, None, offsets[i] as usize..offsets[i + 1] as usize).unwrap();
                    for r in 0..rows.len() {
                        found.push(rows.span(r).unwrap());
                    }
                }
            }
            prop_assert_eq!(found, spans.iter().filter(|s| s.trace_id == id).cloned().collect::<Vec<_>>());
        }
    }
}

fn many(n: usize) -> Vec<Span> {
    (0..n)
        .map(|i| Span {
            trace_id: TraceId((i as u128 / 5 + 1).to_be_bytes()),
            span_id: SpanId((i as u64 + 1).to_be_bytes()),
            start_unix_nano: 1_700_000_000_000_000_000 + i as u64 * 1000,
            end_unix_nano: 1_700_000_000_000_000_000 + i as u64 * 1010,
            name: format!("op {}", i % 7),
            attributes: vec![("id".into(), (i as i64).into()), ("route".into(), format!("/r/{}", i % 9).as_str().into())],
            ..Span::default()
        })
        .collect()
}

#[test]
fn rows_are_read_by_page() {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let dir = Path::new("/b/PAGES");
    let mut spans = many(100_000);
    let meta = write(&fs, dir, &mut spans, WriteOptions { row_group_bytes: 24 << 20, ..WriteOptions::default() });
    assert_eq!((meta.spans, meta.traces), (100_000, 20_000));
    let block = open(&fs, dir, &meta);
    assert_eq!(block.row_groups(), 2);
    for at in [0, 3, 16_383, 16_384, 40_000, 65_530] {
        let mut rows = Rows::read(&block, 0, None, at..at + 4).unwrap();
        for i in 0..4 {
            assert_eq!(rows.span(i).unwrap(), spans[at + i]);
        }
    }
}

/// Spans and events with texts of 20 KiB, no two the same.
fn wordy(n: usize) -> Vec<Span> {
    let mut spans = many(n);
    for (i, s) in spans.iter_mut().enumerate() {
        let text = |salt: usize| format!("{:x} ", (i * 31 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(1200);
        s.attributes.push(("prompt".into(), text(1).as_str().into()));
        let event =
            |e| SpanEvent { name: text(e), attributes: vec![("answer".into(), text(e + 9).as_str().into())], ..SpanEvent::default() };
        s.events = (0..i % 3).map(event).collect();
        sort_attributes(&mut s.attributes);
    }
    spans
}

/// Bytes of the largest page, and the number of row groups, as the parquet crate reads a file.
fn largest_page(fs: &Arc<dyn Fs>, dir: &Path) -> (usize, usize) {
    let file = SerializedFileReader::new(fs.read(&dir.join(super::meta::SPANS_FILE)).unwrap()).unwrap();
    let groups = (0..file.num_row_groups()).map(|g| file.get_row_group(g).unwrap());
    let of = |g: Box<dyn RowGroupReader + '_>| {
        let pages = (0..g.num_columns()).flat_map(|c| g.get_column_page_reader(c).unwrap());
        pages.map(|p| p.unwrap().buffer().len()).max().unwrap()
    };
    (groups.map(of).max().unwrap(), file.num_row_groups())
}

#[test]
fn large_texts_lie_in_small_pages_and_fill_row_groups_early() {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let options = WriteOptions { row_group_bytes: 4 << 20, ..WriteOptions::default() };
    let mut spans = wordy(500);
    let meta = write(&fs, Path::new("/b/LARGE"), &mut spans, options.clone());
    let (page, groups) = largest_page(&fs, Path::new("/b/LARGE"));
    assert!(page < 3 << 19, "a page of {page} bytes");
    assert!(groups >= 5, "{groups} row groups of 30 MiB");
    assert_eq!(read_all(&open(&fs, Path::new("/b/LARGE"), &meta)), spans);
    let mut blocks: Vec<Vec<Span>> = (0..4).map(|i| spans.iter().skip(i).step_by(4).cloned().collect()).collect();
    let (_, merged) = gathered_in(&fs, &mut blocks, &options);
    assert_eq!(merged, spans);
    let (page, groups) = largest_page(&fs, Path::new("/b/M"));
    assert!(page < 3 << 19, "a page of {page} bytes");
    assert!(groups >= 5, "{groups} row groups of 30 MiB");
}

#[test]
fn keys_that_differ_by_case_are_never_both_shredded() {
    let mut spans = many(10);
    for (i, s) in spans.iter_mut().enumerate() {
        s.attributes = vec![("KEY".into(), 1i64.into()), ("key".into(), if i < 9 { 2i64.into() } else { "two".into() })];
    }
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let dir = Path::new("/b/CASE");
    let meta = write(&fs, dir, &mut spans, WriteOptions::default());
    let block = open(&fs, dir, &meta);
    assert_eq!(block.layout().keys[Group::Span as usize].len(), 1);
    assert_eq!(block.layout().keys[Group::Span as usize][0].ty, ShredType::Int);
    assert_eq!(read_all(&block), spans);
}

#[test]
fn a_damaged_byte_anywhere_is_an_error_and_never_another_answer() {
    let sim = SimFs::new();
    let fs: Arc<dyn Fs> = Arc::new(sim.clone());
    let dir = Path::new("/b/DAMAGED");
    let mut spans = many(300);
    let meta = write(&fs, dir, &mut spans, WriteOptions::default());
    for at in (0..meta.size_bytes).step_by(97) {
        sim.flip_bit(&dir.join("spans.parquet"), at, (at % 8) as u8);
        let location = Location::Folder(fs.clone(), dir.into());
        let read = OpenBlock::open(meta.clone(), &location, &fs).and_then(|b| Rows::read(&b, 0, None, 0..b.rows(0)).map(|r| r.len()));
        let e = read.expect_err("a flipped bit went unseen");
        assert_eq!(e.kind, crate::ErrorKind::Corrupt, "{e}");
        sim.flip_bit(&dir.join("spans.parquet"), at, (at % 8) as u8);
    }
}

/// Written for readers of SQL by hand: `STRANDLINE_BLOCK_DIR=D cargo test … blocks_for_other_readers`.
#[test]
fn blocks_for_other_readers() {
    let Some(dir) = std::env::var_os("STRANDLINE_BLOCK_DIR") else { return };
    let fs: Arc<dyn Fs> = Arc::new(RealFs::default());
    let mut spans = many(20_000);
    let n = spans.len();
    for (i, s) in spans.iter_mut().enumerate() {
        s.attributes.push(("z.nested".into(), AttributeValue::Map(vec![("deep".into(), (i as i64).into())])));
        s.attributes.push(("z.rare".into(), if i > n - 3 { "x".into() } else { 1i64.into() }));
        s.resource = Arc::new(Resource { attributes: vec![("service.name".into(), "shop".into())], ..Resource::default() });
        if i % 3 == 0 {
            s.events.push(SpanEvent { name: "e".into(), attributes: vec![("k".into(), 1.5.into())], ..SpanEvent::default() });
        }
        if i % 5 == 0 {
            s.links.push(SpanLink { trace_id: vec![1; 16], span_id: vec![2; 8], ..SpanLink::default() });
        }
    }
    write(&fs, &Path::new(&dir).join("A"), &mut spans, WriteOptions::default());
    let mut plain = many(10);
    for s in &mut plain {
        s.attributes = vec![];
    }
    plain[3].attributes = vec![("route".into(), 7i64.into())];
    write(&fs, &Path::new(&dir).join("B"), &mut plain, WriteOptions::default());
}

#[test]
fn a_column_of_one_number_and_nan_keeps_both() {
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    let with = |i: u8, v: f64| Span { span_id: SpanId([i; 8]), attributes: vec![("d".into(), v.into())], ..Span::default() };
    let mut spans = [with(1, 5.0), with(2, f64::NAN), with(3, 5.0)];
    let meta = write(&fs, Path::new("/b"), &mut spans, WriteOptions::default());
    assert_eq!(read_all(&open(&fs, Path::new("/b"), &meta)), spans, "statistics say that all are 5");
}

/// Spans of each block, and how a merge of all of them is written.
fn gathered(blocks: &mut [Vec<Span>], options: &WriteOptions) -> (BlockMeta, Vec<Span>) {
    gathered_in(&(Arc::new(SimFs::new()) as Arc<dyn Fs>), blocks, options)
}

fn gathered_in(fs: &Arc<dyn Fs>, blocks: &mut [Vec<Span>], options: &WriteOptions) -> (BlockMeta, Vec<Span>) {
    let mut opened = Vec::new();
    for (i, spans) in blocks.iter_mut().enumerate() {
        let dir = Path::new("/b").join(i.to_string());
        // As a flush would.
        spans.sort();
        spans.dedup();
        let meta = write(fs, &dir, spans, options.clone());
        opened.push(Arc::new(open(fs, &dir, &meta)));
    }
    let mut sampler = Sampler::default();
    opened.iter().for_each(|b| survey(b, &mut sampler).unwrap());
    let identity = BlockIdentity {
        ulid: "M".into(),
        tenant: "t".into(),
        writer_id: "w".into(),
        window_start_ms: 0,
        window_ms: 3_600_000,
        level: 1,
        sources: vec![],
    };
    let dir = Path::new("/b/M");
    let mut w = BlockWriter::create(fs.clone(), dir, identity, sampler.layout().unwrap(), options.clone(), (9, 9)).unwrap();
    let mut order = Order::new(opened, options).unwrap();
    while let Some((rows, traces)) = order.next_group().unwrap() {
        assert!(rows.rows() > 0 && rows.rows() <= 2 * options.row_group_spans);
        w.gather(&rows, traces).unwrap();
    }
    let meta = w.finish().unwrap();
    let block = open(fs, dir, &meta);
    (meta, read_all(&block))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]
    #[test]
    fn a_merge_holds_what_its_inputs_hold(
        spans in proptest::collection::vec((span(), 0usize..4, proptest::option::of(0usize..4)), 1..60),
        per_group in 1usize..40,
    ) {
        // Some lie in two blocks; what one block shreds another need not.
        let mut blocks: Vec<Vec<Span>> = vec![Vec::new(); 4];
        for (s, block, twice) in &spans {
            blocks[*block].push(s.clone());
            blocks[twice.unwrap_or(*block)].push(s.clone());
        }
        blocks.retain(|b| !b.is_empty());
        let mut expected: Vec<Span> = spans.into_iter().map(|s| s.0).collect();
        expected.sort();
        expected.dedup();
        let options = WriteOptions { row_group_spans: per_group, ..WriteOptions::default() };
        let (meta, merged) = gathered(&mut blocks, &options);
        prop_assert_eq!(&merged, &expected);
        // And it says of itself what a block written at once does.
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
        let at_once = write(&fs, Path::new("/b/M"), &mut expected, options);
        prop_assert_eq!(
            (meta.spans, meta.traces, meta.min_start_unix_nano, meta.max_start_unix_nano, meta.max_end_unix_nano),
            (at_once.spans, at_once.traces, at_once.min_start_unix_nano, at_once.max_start_unix_nano, at_once.max_end_unix_nano)
        );
    }
}
