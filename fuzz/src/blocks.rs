//! Blocks whose bytes were changed and whose checksums fit nevertheless: only what the reader checks itself holds it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use strandline_storage::chunk::{self, Encoding};
use strandline_storage::columnar::file::Sums;
use strandline_storage::metrics::block::{Block, BlockMeta};
use strandline_storage::model::{Labels, MatchOp, Matcher, Span, SpanId, TimeRange, TraceId};
use strandline_storage::read::{AttributeScope, Field, SampleBuf, ScanRequest, SpanSource};
use strandline_storage::traces::block::meta::{BlockMeta as SpanMeta, SPANS_FILE, sums_to_text};
use strandline_storage::traces::block::reader::{Location, OpenBlock};
use strandline_storage::traces::block::rows::Rows;
use strandline_wal::fs::{Fs, SimFs};

use super::Input;
use super::engine::{T0, World};

/// The first byte names the encoding; the rest is the chunk.
pub fn chunks(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let Ok(encoding) = Encoding::from_byte(first % 5) else { return };
    let mut out = SampleBuf::default();
    let whole = chunk::decode(encoding, data, TimeRange::all(), &mut out);
    if whole.is_ok() {
        assert_eq!(out.len(), chunk::num_samples(data));
    }
    let _ = chunk::decode(encoding, data, TimeRange::new(0, 1 << 40), &mut SampleBuf::default());
    let _ = chunk::last_of_xor(data, i64::MAX);
}

/// Where an index keeps sums: body from, to, and the sum's place behind it.
struct Index {
    bytes: Vec<u8>,
    meta: BlockMeta,
    chunks: Bytes,
    summed: Vec<(usize, usize)>,
}

const TOC_BYTES: usize = 52;

fn be(bytes: &[u8], at: usize, n: usize) -> usize {
    bytes[at..at + n].iter().fold(0, |x, b| x << 8 | usize::from(*b))
}

impl Index {
    fn sound() -> Self {
        let w = World::new(T0 + 3_600_000);
        let shared: Arc<dyn Fs> = Arc::new(w.fs.clone());
        let e = w.open().unwrap();
        let mut b = strandline_storage::metrics::head::BatchBuilder::default();
        for i in 0..40 {
            let s = b.series(&Labels::from_pairs([("__name__", format!("m{}", i % 5)), ("i", format!("{i}"))]));
            for k in 0..10 {
                b.push(s, T0 + k * 15_000, 0, strandline_storage::metrics::head::Value::Float((k * i) as f64));
            }
        }
        e.metrics().append(&b.finish()).unwrap().commit.wait().unwrap();
        e.metrics().flush().unwrap();
        let dir = shared.read_dir(Path::new("/data/metrics/blocks")).unwrap()[0].path.clone();
        let read = |name: &str| shared.read(&dir.join(name)).unwrap();
        let bytes = read("index").to_vec();
        let meta = BlockMeta::parse(&read("meta.json")).unwrap();
        let mut summed = Vec::new();
        let toc = bytes.len() - TOC_BYTES;
        let part = |i: usize| be(&bytes, toc + i * 8, 8);
        let section = |at: usize| (at + 4, at + 4 + be(&bytes, at, 4));
        summed.extend([section(part(0)), section(part(3)), section(part(5)), (toc, bytes.len() - 4)]);
        // Series entries here are shorter than 128 bytes; postings fill what lies between their start and the tables.
        let mut at = part(1);
        while at < part(2) {
            let end = at + 1 + usize::from(bytes[at]);
            summed.push((at + 1, end));
            at = (end + 4).next_multiple_of(16);
        }
        let mut at = part(4);
        while at < part(3) {
            let s = section(at);
            summed.push(s);
            at = (s.1 + 4).next_multiple_of(4);
        }
        let index = Index { chunks: read("chunks/000001"), meta, summed, bytes };
        let mut again = index.bytes.clone();
        index.mend(&mut again);
        assert!(again == index.bytes, "the sums of a sound index are where they are thought to be");
        index
    }

    fn mend(&self, bytes: &mut [u8]) {
        for (from, to) in &self.summed {
            let sum = strandline_storage::codec::crc32c(&bytes[*from..*to]);
            bytes[*to..*to + 4].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Patches over an index; its sums are mended, so that nothing but the reader's own checks stands before them.
pub fn block_index(data: &[u8]) {
    static SOUND: OnceLock<Index> = OnceLock::new();
    let sound = SOUND.get_or_init(Index::sound);
    let mut bytes = sound.bytes.clone();
    Input(data).patch(&mut bytes);
    sound.mend(&mut bytes);
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    fs.create_dir_all(Path::new("/b/chunks")).unwrap();
    fs.write_atomic(Path::new("/b/index"), &bytes).unwrap();
    fs.write_atomic(Path::new("/b/meta.json"), &sound.meta.to_json()).unwrap();
    fs.write_atomic(Path::new("/b/chunks/000001"), &sound.chunks).unwrap();
    let Ok(block) = Block::open(&fs, Path::new("/b")) else { return };
    let block = Arc::new(block);
    let _ = block.verify();
    let index = block.index();
    let _ = index.each_symbol(&mut |_| {});
    let _ = index.visit_pairs(&mut |_, _, _| {});
    for name in index.label_names() {
        let _ = index.label_values(name, None);
    }
    for (op, value) in [(MatchOp::Equal, "m1"), (MatchOp::NotEqual, ""), (MatchOp::Regex, "m.*|1")] {
        for name in ["__name__", "i"] {
            let Ok(selection) = block.select(&[Matcher::new(op, name, value).unwrap()]) else { continue };
            let mut out = SampleBuf::default();
            for i in 0..selection.len() {
                out.clear();
                let _ = (selection.labels(i), selection.newest(i, TimeRange::all(), &mut SampleBuf::default()));
                let _ = selection.read(i, TimeRange::all(), &mut out);
            }
        }
    }
}

struct Parquet {
    bytes: Bytes,
    meta: strandline_storage::traces::block::meta::BlockMeta,
}

impl Parquet {
    fn sound() -> Self {
        let w = World::new(T0 + 600_000);
        let shared: Arc<dyn Fs> = Arc::new(w.fs.clone());
        let e = w.open().unwrap();
        let span = |n: u8| Span {
            trace_id: TraceId([n % 9 + 1; 16]),
            span_id: SpanId([n + 1; 8]),
            parent_span_id: (n > 9).then(|| SpanId([n - 8; 8])),
            start_unix_nano: (T0 as u64 + u64::from(n)) * 1_000_000,
            end_unix_nano: (T0 as u64 + 2 * u64::from(n)) * 1_000_000,
            name: format!("op {}", n % 4),
            attributes: vec![("http.route".into(), format!("/{}", n % 3).as_str().into()), ("n".into(), i64::from(n).into())],
            events: vec![strandline_storage::model::SpanEvent { name: "e".into(), ..Default::default() }],
            ..Span::default()
        };
        e.traces().append(&(0..60).map(span).collect::<Vec<_>>()).unwrap().ticket.wait().unwrap();
        e.traces().flush().unwrap();
        let meta = e.traces().blocks()[0].meta.clone();
        let path = format!("/data/bucket/traces/{}/{}/{SPANS_FILE}", meta.tenant, meta.ulid);
        Parquet { bytes: shared.read(Path::new(&path)).unwrap(), meta }
    }
}

impl Parquet {
    /// Searches a block beside a sound one of the same spans, and merges the two; gives how many blocks there are then.
    fn beside(&self, meta: &SpanMeta, bytes: &[u8]) -> usize {
        let w = World::new(T0 + 12 * 3_600_000);
        let fs: Arc<dyn Fs> = Arc::new(w.fs.clone());
        let twin = SpanMeta { ulid: "01HF7YAT00000000000000000Z".into(), ..self.meta.clone() };
        for (meta, bytes) in [(meta, bytes), (&twin, &self.bytes[..])] {
            let dir = format!("/data/bucket/traces/{}/{}", meta.tenant, meta.ulid);
            fs.create_dir_all(Path::new(&dir)).unwrap();
            fs.write_atomic(Path::new(&format!("{dir}/{SPANS_FILE}")), bytes).unwrap();
            fs.write_atomic(Path::new(&format!("{dir}/meta.json")), &meta.to_json().unwrap()).unwrap();
        }
        let e = w.open().unwrap();
        let mut all = ScanRequest::new(0, u64::MAX);
        all.whole_traces = true;
        let _ = e.traces().scan(&all, &mut |batch| {
            batch.column(&Field::Name)?;
            batch.column(&Field::Attribute(AttributeScope::Span, "http.route".into()))?;
            batch.column(&Field::EventName)?;
            Ok(std::ops::ControlFlow::Continue(0))
        });
        let _ = e.maintain();
        e.traces().blocks().len()
    }
}

/// Patches over a file of spans, whose sums are told as they are then.
pub fn span_block(data: &[u8]) {
    static SOUND: OnceLock<Parquet> = OnceLock::new();
    let sound = SOUND.get_or_init(|| {
        let p = Parquet::sound();
        assert_eq!(p.beside(&p.meta, &p.bytes), 1, "sound blocks are merged");
        p
    });
    let mut bytes = sound.bytes.to_vec();
    let mut input = Input(data);
    // Half of the inputs aim at the footer, which says how all the rest is read.
    if input.byte() % 2 == 0 {
        input.patch(&mut bytes);
    } else {
        let tail = sound.meta.tail_offset as usize;
        input.patch(&mut bytes[tail..]);
    }
    let mut meta = sound.meta.clone();
    let mut sums = Sums::default();
    sums.update(&bytes);
    meta.checksums = sums_to_text(&sums.finish());
    let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
    fs.create_dir_all(Path::new("/b")).unwrap();
    fs.write_atomic(&Path::new("/b").join(SPANS_FILE), &bytes).unwrap();
    let Ok(block) = OpenBlock::open(meta, &Location::Folder(fs.clone(), "/b".into()), &fs) else { return };
    for group in 0..block.row_groups() {
        let rows = block.rows(group).min(1000);
        let _ = block.traces(group, None);
        let Ok(mut rows) = Rows::read(&block, group, None, 0..rows) else { continue };
        for r in 0..rows.len() {
            let _ = rows.span(r);
        }
    }
    let _ = block.groups_with(TraceId([3; 16]));
    let _ = block.has_split_trace();
    sound.beside(&block.meta, &bytes);
}
