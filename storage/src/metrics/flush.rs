//! Flush: a cut of the head becomes blocks, one a range, and readers move over in one step.

use std::sync::Arc;

use super::block::index::SymbolTable;
use super::block::{BlockMeta, BlockWriter, Compaction, Ending, StrandlineMeta, ThanosMeta};
use super::deletes::Delete;
use super::head::{Cut, FrozenSeries, Value, encode_run};
use super::manifest::LocalBlock;
use super::merge;
use super::store::{LastFlush, MetricStore};
use super::version::{BlockEntry, Place, Version};
use crate::chunk::{self, Encoding};
use crate::error::Result;
use crate::metrics::head::AnyHistogram;
use crate::model::TimeRange;
use crate::read::SampleBuf;

pub(super) type Chunks = Vec<(Encoding, TimeRange, bytes::Bytes)>;

/// A block of a flush, and how its series end, in their order.
struct Flushed {
    meta: BlockMeta,
    endings: Vec<Ending>,
}

impl MetricStore {
    /// Cuts everything in the head to blocks. Returns when the blocks are on the local disk and readers see them. Waits for
    /// no bucket.
    pub fn flush(&self) -> Result<()> {
        let _alone = self.0.flushing.lock();
        self.flush_alone()
    }

    /// Has blocks hold what the head holds of a delete that is about to be taken on: what comes later is not concerned. The
    /// caller holds `flushing` until it is.
    pub(super) fn flush_deleted(&self, d: &Delete) -> Result<()> {
        let (v, head) = (self.version(), &self.0.head);
        if !head.may_hold(d.range(), v.flushed_epoch) {
            return Ok(());
        }
        let mut held = head.select(v.pin.clone(), v.flushed_epoch, d.matchers());
        held.retain_in(d.range());
        if held.is_empty() { Ok(()) } else { self.flush_alone() }
    }

    /// With `flushing` held.
    fn flush_alone(&self) -> Result<()> {
        self.check_open()?;
        let head = &self.0.head;
        if head.is_held() {
            self.collect();
        }
        let cut = head.cut()?;
        let mut written = Vec::new();
        // In both failures the cut's chunks stay in the head and its records in the log; the next flush takes them along.
        if let Err(e) = self.write_cut(&cut, &mut written) {
            head.uncut(&cut);
            for b in &written {
                let dir = self.local_dir().join(&b.meta.ulid);
                let _ = self.0.options.fs.remove_dir_all(&dir);
            }
            return Err(e);
        }
        let names: Vec<String> = written.iter().map(|b| b.meta.ulid.clone()).collect();
        if let Err(e) = self.publish(&cut, written) {
            head.uncut(&cut);
            self.discard_unnamed(&names);
            return Err(e);
        }
        head.wal().truncate_before(cut.wal_segment).map_err(super::head::wal_error)?;
        self.collect();
        let at_ms = self.0.options.clock.now_ms();
        // Samples that came meanwhile are not what it left: the next one takes them.
        *self.0.last_flush.lock() = Some(LastFlush { at_ms, left_bytes: self.standing_bytes() });
        Ok(())
    }

    /// Gives back what flushed and idle series held.
    pub(super) fn collect(&self) {
        if self.0.head.collect(self.0.options.series_idle_ms) {
            let mut current = self.0.version.write();
            *current = Arc::new(Version { pin: self.0.head.pin(), ..(**current).clone() });
        }
    }

    fn write_cut(&self, cut: &Cut, written: &mut Vec<Flushed>) -> Result<()> {
        let head = &self.0.head;
        let slots = head.cut_slots(cut);
        let ranges = head.cut_ranges(cut);
        let alone = ranges.len() == 1;
        for range in ranges {
            // A few late series must not bring along everybody's strings.
            let slots: Vec<u32> = slots.iter().copied().filter(|s| alone || head.cut_holds(cut, *s, range)).collect();
            let mut symbols = SymbolTable::default();
            head.with_registry(|r| {
                for s in &slots {
                    r.visit(*s, &mut |n, v| {
                        symbols.add(n);
                        symbols.add(v);
                    });
                }
            });
            // All of it came after these deletes: see `flush_deleted`.
            let meta = self.block_meta(self.new_ulid(), range, 1, Vec::new()).behind(&self.version().deletes);
            let mut w = BlockWriter::create(self.0.options.fs.clone(), &self.local_dir(), meta, symbols)?;
            let mut endings = Vec::new();
            for slot in &slots {
                let added = head.frozen(cut, *slot, range).and_then(|f| self.add_frozen(&mut w, f, &mut endings));
                if let Err(e) = added {
                    w.abort();
                    return Err(e);
                }
            }
            if let Some(meta) = w.finish()? {
                written.push(Flushed { meta, endings });
            }
        }
        Ok(())
    }

    fn add_frozen(&self, w: &mut BlockWriter, f: FrozenSeries, endings: &mut Vec<Ending>) -> Result<()> {
        if f.chunks.is_empty() {
            return Ok(());
        }
        endings.push(f.ending);
        let rules = self.0.head.rules();
        let chunks = if apart(&f.chunks) { f.chunks } else { join_chunks(&f.chunks, rules.range_ms, rules.xor2)? };
        w.add(&f.labels, &chunks)
    }

    pub(super) fn block_meta(&self, ulid: String, range: TimeRange, level: u32, sources: Vec<String>) -> BlockMeta {
        let o = &self.0.options;
        let mut labels: std::collections::BTreeMap<String, String> = o.external_labels.iter().cloned().collect();
        if labels.is_empty() {
            labels.insert(ThanosMeta::TENANT.into(), o.tenant.clone());
        }
        let sources = if sources.is_empty() { vec![ulid.clone()] } else { sources };
        BlockMeta {
            ulid,
            min_time: range.min_ms,
            max_time: range.max_ms.saturating_add(1),
            compaction: Compaction { level, sources, ..Compaction::default() },
            version: 1,
            thanos: Some(ThanosMeta { labels, source: ThanosMeta::OURS.into(), ..ThanosMeta::default() }),
            strandline: Some(StrandlineMeta { writer: self.0.writer.clone(), ..StrandlineMeta::default() }),
            ..BlockMeta::default()
        }
    }

    /// Manifest first (it makes the blocks exist and moves the log's floor), then the version; nobody puts a version
    /// together in between.
    fn publish(&self, cut: &Cut, written: Vec<Flushed>) -> Result<()> {
        let mut manifest = self.0.manifest.lock();
        let mut next = manifest.clone();
        next.blocks.extend(written.iter().map(|b| LocalBlock::new(&b.meta)));
        next.wal_floor = cut.wal_segment;
        next.next_series_id = self.0.head.next_series_id();
        self.save(&mut manifest, next)?;
        let mut current = self.0.version.write();
        let mut blocks = current.blocks.clone();
        for Flushed { meta, endings } in written {
            let place = Place::Local(self.local_dir().join(&meta.ulid));
            blocks.push(Arc::new(BlockEntry::new(meta, place, self.0.opener.clone()).ending(endings)));
        }
        self.0.head.published(cut);
        let next = Version { pin: self.0.head.pin(), flushed_epoch: self.0.head.flushed_epoch(), ..(**current).clone() };
        *current = Arc::new(next.with_blocks(blocks));
        Ok(())
    }
}

/// Whether chunks follow one another without overlap.
pub(super) fn apart(chunks: &Chunks) -> bool {
    chunks.windows(2).all(|w| w[0].1.max_ms < w[1].1.min_ms)
}

/// Decodes chunks that overlap (or are too small), settles their samples, and encodes them anew.
pub(super) fn join_chunks(chunks: &Chunks, range_ms: i64, xor2: bool) -> Result<Chunks> {
    let mut buf = SampleBuf::default();
    for (e, _, data) in chunks {
        chunk::decode(*e, data, TimeRange::all(), &mut buf)?;
    }
    merge::settle(&mut buf);
    Ok(encode(&buf, range_ms, xor2))
}

/// Encodes samples as the head would.
pub(super) fn encode(buf: &SampleBuf, range_ms: i64, xor2: bool) -> Chunks {
    let samples: Vec<(i64, i64, Value)> = (0..buf.len())
        .map(|i| {
            let v = match buf.histogram(i) {
                Some(h) => Value::Histogram(h.to_int().map_or_else(|| AnyHistogram::Float(h.clone()), |i| AnyHistogram::Int(Arc::new(i)))),
                None => Value::Float(buf.v[i]),
            };
            (buf.t[i], buf.start(i), v)
        })
        .collect();
    encode_run(&samples, range_ms, xor2).into_iter().map(|f| (f.encoding, f.range, f.data.into())).collect()
}
