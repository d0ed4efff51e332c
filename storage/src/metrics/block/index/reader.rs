//! Reads an index: whole sections once at opening (symbols and the postings table), the rest by range.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hashbrown::HashMap;
use roaring::RoaringBitmap;

use super::super::source::{RangeRead, Read, sound};
use super::{MAGIC, TOC_BYTES};
use crate::codec::{Reader, crc32c};
use crate::error::{Error, Result};
use crate::model::{Labels, MatchOp, Matcher, TimeRange};

/// A chunk as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChunkMeta {
    /// First and last sample.
    pub range: TimeRange,
    /// Segment and offset.
    pub reference: u64,
}

/// A series as the index knows it.
#[derive(Clone, Debug, Default)]
pub struct SeriesEntry {
    /// Symbol numbers of names and values.
    pub labels: Vec<(u32, u32)>,
    /// Chunks in time order.
    pub chunks: Vec<ChunkMeta>,
}

/// References that are gathered before they are looked through for repetitions.
const MANY: usize = 1 << 22;

/// Every so many entries of the postings table one is kept in memory.
const SAMPLE: usize = 32;

/// An open index.
pub struct IndexReader {
    source: Arc<dyn RangeRead>,
    symbols: Bytes,
    symbol_offsets: OnceLock<Vec<u32>>,
    table: Bytes,
    /// By label name: offsets in `table` of each 32nd entry, and where the name's entries end.
    names: BTreeMap<Box<str>, (Vec<u32>, u32)>,
    postings_end: u64,
    all: u64,
}

struct TableEntry<'a> {
    name: &'a str,
    value: &'a str,
    at: u64,
    next: usize,
}

impl IndexReader {
    /// Opens an index; checks magic, version and the checksums of what is read.
    pub fn open(source: Arc<dyn RangeRead>) -> Result<Self> {
        Self::open_inner(source.clone()).map_err(|e| e.at(source.name()))
    }

    fn open_inner(source: Arc<dyn RangeRead>) -> Result<Self> {
        let len = source.len();
        if len < (5 + TOC_BYTES) as u64 {
            return Err(Error::corrupt("the index is cut short"));
        }
        let refs = sound(&*source, |read| places(read, len))?;
        let symbols = section(&*source, refs[0])?;
        let table = section(&*source, refs[5])?;
        let mut index = IndexReader {
            source,
            symbols,
            symbol_offsets: OnceLock::new(),
            table,
            names: BTreeMap::new(),
            postings_end: refs[3].max(refs[5]),
            all: 0,
        };
        index.sample_table()?;
        Ok(index)
    }

    fn sample_table(&mut self) -> Result<()> {
        let table = self.table.clone();
        let n = Reader::new(&table).be_u32()?;
        let mut at = 4usize;
        let mut run: Option<(Box<str>, Vec<u32>, usize)> = None;
        for _ in 0..n {
            let e = entry(&table, at)?;
            if e.name.is_empty() {
                self.all = e.at;
            } else {
                match &mut run {
                    Some((name, samples, count)) if **name == *e.name => {
                        if *count % SAMPLE == 0 {
                            samples.push(at as u32);
                        }
                        *count += 1;
                    }
                    _ => {
                        if let Some((name, samples, _)) = run.take() {
                            self.names.insert(name, (samples, at as u32));
                        }
                        run = Some((e.name.into(), vec![at as u32], 1));
                    }
                }
            }
            at = e.next;
        }
        if let Some((name, samples, _)) = run.take() {
            self.names.insert(name, (samples, at as u32));
        }
        Ok(())
    }

    fn offsets(&self) -> &[u32] {
        self.symbol_offsets.get_or_init(|| {
            let mut r = Reader::new(&self.symbols);
            let n = r.be_u32().unwrap_or(0) as usize;
            let mut out = Vec::with_capacity(n.min(self.symbols.len()));
            for _ in 0..n {
                let at = r.position() as u32;
                if r.prefixed().is_err() {
                    break;
                }
                out.push(at);
            }
            out
        })
    }

    /// Number of strings.
    pub fn symbols_len(&self) -> usize {
        self.offsets().len()
    }

    /// A string by number.
    pub fn symbol(&self, id: u32) -> Result<&str> {
        let at = self.offsets().get(id as usize).copied();
        let at = at.ok_or_else(|| Error::corrupt(format!("symbol {id} is not in the table")).at(self.source.name()))?;
        let mut r = Reader::new(&self.symbols[at as usize..]);
        r.string().map_err(|e| e.at(self.source.name()))
    }

    /// Calls `f` with every string of the table.
    pub fn each_symbol(&self, f: &mut dyn FnMut(&str)) -> Result<()> {
        for id in 0..self.offsets().len() as u32 {
            f(self.symbol(id)?);
        }
        Ok(())
    }

    /// Label names, sorted.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|k| &**k)
    }

    /// Calls `f` with each value of a label, sorted, and where its postings lie; stops when `f` says false.
    pub fn each_value(&self, name: &str, f: &mut dyn FnMut(&str, u64) -> Result<bool>) -> Result<()> {
        let Some((samples, end)) = self.names.get(name) else { return Ok(()) };
        let mut at = samples.first().copied().unwrap_or(*end) as usize;
        while at < *end as usize {
            let e = entry(&self.table, at)?;
            if !f(e.value, e.at)? {
                break;
            }
            at = e.next;
        }
        Ok(())
    }

    fn find_value(&self, name: &str, value: &str) -> Result<Option<u64>> {
        let Some((samples, end)) = self.names.get(name) else { return Ok(None) };
        let k = samples.partition_point(|at| entry(&self.table, *at as usize).is_ok_and(|e| e.value <= value));
        let Some(k) = k.checked_sub(1) else { return Ok(None) };
        let mut at = samples[k] as usize;
        while at < *end as usize {
            let e = entry(&self.table, at)?;
            match e.value.cmp(value) {
                std::cmp::Ordering::Less => at = e.next,
                std::cmp::Ordering::Equal => return Ok(Some(e.at)),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn postings(&self, at: u64) -> Result<RoaringBitmap> {
        let mut ids = Vec::new();
        self.add_postings(at, &mut ids)?;
        RoaringBitmap::from_sorted_iter(ids).map_err(|_| self.damaged(at, "references do not rise"))
    }

    fn damaged(&self, at: u64, what: &str) -> Error {
        Error::corrupt(format!("postings: {what}")).at(self.source.name()).offset(at)
    }

    /// Appends the references of a list.
    fn add_postings(&self, at: u64, ids: &mut Vec<u32>) -> Result<()> {
        let (body, len) = sound(&*self.source, |read| {
            let head = read(at, 8)?;
            let mut r = Reader::new(&head);
            let (len, n) = (r.be_u32()? as usize, r.be_u32()? as usize);
            if len != 4 + n * 4 || at + 8 + len as u64 > self.postings_end + 8 {
                return Err(self.damaged(at, "the length does not fit"));
            }
            let body = read(at + 4, len + 4)?;
            if Reader::new(&body[len..]).be_u32()? != crc32c(&body[..len]) {
                return Err(self.damaged(at, "the checksum does not match"));
            }
            Ok((body, len))
        })?;
        ids.extend(body[4..len].chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]])));
        Ok(())
    }

    /// References of the series that pass all matchers, in label order.
    pub fn select(&self, matchers: &[Matcher]) -> Result<RoaringBitmap> {
        let mut found: Option<RoaringBitmap> = None;
        let mut sorted: Vec<&Matcher> = matchers.iter().collect();
        sorted.sort_by_key(|m| (m.matches_empty(), m.op != MatchOp::Equal));
        for m in sorted {
            if found.as_ref().is_some_and(|f| f.is_empty()) {
                break;
            }
            if let Some(f) = found.as_ref().filter(|f| f.len() < 2 * self.about_values(&m.name) && m.alternatives().is_none()) {
                found = Some(self.filter(f, m)?);
                continue;
            }
            let by_absence = m.matches_empty();
            let hit = self.matching(m, by_absence)?;
            found = Some(match (found, by_absence) {
                (Some(f), false) => f & hit,
                (None, false) => hit,
                (Some(f), true) => f - hit,
                (None, true) => self.postings(self.all)? - hit,
            });
        }
        match found {
            Some(f) => Ok(f),
            None => self.postings(self.all),
        }
    }

    /// How many values a label has, to the next multiple of [`SAMPLE`].
    fn about_values(&self, name: &str) -> u64 {
        self.names.get(name).map_or(0, |(samples, _)| (samples.len() * SAMPLE) as u64)
    }

    /// Those of a few candidates that the matcher lets through, by their entries. Each value is looked at once.
    fn filter(&self, candidates: &RoaringBitmap, m: &Matcher) -> Result<RoaringBitmap> {
        let without = m.matches_empty();
        let mut known: HashMap<u32, bool, foldhash::fast::RandomState> = HashMap::default();
        let mut name = None;
        let mut entry = SeriesEntry::default();
        let mut kept = RoaringBitmap::new();
        for reference in candidates {
            self.series(reference, &mut entry)?;
            let passes = match self.value_in(&entry, &m.name, &mut name)? {
                None => without,
                Some(v) => match known.get(&v) {
                    Some(p) => *p,
                    None => *known.entry(v).insert(m.matches(self.symbol(v)?)).get(),
                },
            };
            if passes {
                kept.insert(reference);
            }
        }
        Ok(kept)
    }

    /// Series that the matcher lets through by a value; or, if it lets absence through, those it stops.
    fn matching(&self, m: &Matcher, by_absence: bool) -> Result<RoaringBitmap> {
        let mut ids = Vec::new();
        let mut tidy_at = MANY;
        if m.op == MatchOp::Equal && !by_absence {
            if let Some(at) = self.find_value(&m.name, &m.value)? {
                return self.postings(at);
            }
        } else if let (MatchOp::Regex, false, Some(alts)) = (m.op, by_absence, m.alternatives()) {
            for a in alts {
                if let Some(at) = self.find_value(&m.name, a)? {
                    self.add_postings(at, &mut ids)?;
                }
            }
        } else {
            self.each_value(&m.name, &mut |v, at| {
                if m.matches(v) != by_absence {
                    self.add_postings(at, &mut ids)?;
                }
                if ids.len() > tidy_at {
                    // Only a damaged index names so many; twice the same ones must not pile up.
                    tidy(&mut ids);
                    tidy_at = MANY.max(ids.len() * 2);
                }
                Ok(true)
            })?;
        }
        // The lists of a label don't overlap: sorting them together costs less than joining one after the other.
        tidy(&mut ids);
        RoaringBitmap::from_sorted_iter(ids).map_err(|_| Error::corrupt("postings: references do not rise").at(self.source.name()))
    }

    /// All series.
    pub fn all(&self) -> Result<RoaringBitmap> {
        self.postings(self.all)
    }

    /// Values of a label among the series given, sorted.
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>) -> Result<Vec<String>> {
        if let Some(few) = among.filter(|a| a.len() < 2 * self.about_values(name)) {
            return self.values_of(name, few);
        }
        let (mut out, mut ids) = (Vec::new(), Vec::new());
        self.each_value(name, &mut |v, at| {
            let wanted = match among {
                None => true,
                Some(a) => {
                    ids.clear();
                    self.add_postings(at, &mut ids)?;
                    ids.iter().any(|i| a.contains(*i))
                }
            };
            if wanted {
                out.push(v.to_owned());
            }
            Ok(true)
        })?;
        Ok(out)
    }

    /// Values of a label in the entries of a few series, sorted.
    fn values_of(&self, name: &str, few: &RoaringBitmap) -> Result<Vec<String>> {
        let mut known = BTreeSet::new();
        let mut id = None;
        let mut entry = SeriesEntry::default();
        for reference in few {
            self.series(reference, &mut entry)?;
            if let Some(v) = self.value_in(&entry, name, &mut id)? {
                known.insert(v);
            }
        }
        // Symbols are sorted as their numbers are.
        known.into_iter().map(|v| Ok(self.symbol(v)?.to_owned())).collect()
    }

    /// The number of a label's value in an entry; `id` remembers the number of the label's name.
    fn value_in(&self, entry: &SeriesEntry, name: &str, id: &mut Option<u32>) -> Result<Option<u32>> {
        for (n, v) in &entry.labels {
            let is_it = match *id {
                Some(id) => id == *n,
                None => self.symbol(*n)? == name,
            };
            if is_it {
                *id = Some(*n);
                return Ok(Some(*v));
            }
        }
        Ok(None)
    }

    /// Reads a series' entry into `out`, which is reused.
    pub fn series(&self, reference: u32, out: &mut SeriesEntry) -> Result<()> {
        let at = reference as u64 * 16;
        let fail = |e: Error| e.at(self.source.name()).offset(at);
        if let Some(all) = self.source.mapped() {
            let tail = all.get(at as usize..).ok_or_else(|| fail(Error::corrupt("series reference behind the end")))?;
            return parse_series(tail, out).map_err(fail);
        }
        let left = self.source.len().saturating_sub(at);
        sound(&*self.source, |read| {
            let first = read(at, 512.min(left) as usize)?;
            let mut r = Reader::new(&first);
            let n = r.uvarint()? as usize;
            let need = n.saturating_add(r.position() + 4);
            if need as u64 > left {
                return Err(Error::corrupt("a series entry reaches behind the end"));
            }
            if need <= first.len() { parse_series(&first, out) } else { parse_series(&read(at, need)?, out) }
        })
        .map_err(fail)
    }

    /// The labels of an entry.
    pub fn labels(&self, entry: &SeriesEntry) -> Result<Labels> {
        let mut pairs = Vec::with_capacity(entry.labels.len());
        for (n, v) in &entry.labels {
            pairs.push((self.symbol(*n)?, self.symbol(*v)?));
        }
        Ok(Labels::from_sorted(pairs.into_iter()))
    }

    /// Calls `f` with every pair and its number of series.
    pub fn visit_pairs(&self, f: &mut dyn FnMut(&str, &str, u64)) -> Result<()> {
        for name in self.names.keys() {
            self.each_value(name, &mut |v, at| {
                let head = self.source.read(at + 4, 4)?;
                f(name, v, Reader::new(&head).be_u32()? as u64);
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Bytes of the whole index.
    pub fn size_bytes(&self) -> u64 {
        self.source.len()
    }

    /// Bytes kept in memory for it, mapped sections not counted.
    pub fn memory_bytes(&self) -> usize {
        let sections = if self.source.mapped().is_some() { 0 } else { self.symbols.len() + self.table.len() };
        let names: usize = self.names.iter().map(|(n, (s, _))| n.len() + s.capacity() * 4 + 64).sum();
        sections + names + self.symbol_offsets.get().map_or(0, |o| o.capacity() * 4)
    }
}

fn tidy(ids: &mut Vec<u32>) {
    ids.sort_unstable();
    ids.dedup();
}

/// The table of contents at the end of `len` bytes, after a look at the beginning: where the sections lie.
fn places(read: &Read<'_>, len: u64) -> Result<[u64; 6]> {
    let head = read(0, 5)?;
    if Reader::new(&head).be_u32()? != MAGIC {
        return Err(Error::corrupt("not an index: the magic number is wrong"));
    }
    if !(2..=3).contains(&head[4]) {
        return Err(Error::invalid(format!("index version {} is not supported (2 and 3 are)", head[4])));
    }
    let toc = read(len - TOC_BYTES as u64, TOC_BYTES)?;
    let mut r = Reader::new(&toc);
    let mut refs = [0u64; 6];
    for x in &mut refs {
        *x = r.be_u64()?;
    }
    if r.be_u32()? != crc32c(&toc[..TOC_BYTES - 4]) {
        return Err(Error::corrupt("the table of contents' checksum does not match").offset(len - TOC_BYTES as u64));
    }
    Ok(refs)
}

fn section(source: &dyn RangeRead, at: u64) -> Result<Bytes> {
    sound(source, |read| {
        let n = Reader::new(&read(at, 4)?).be_u32()? as usize;
        if at + 8 + n as u64 > source.len() {
            return Err(Error::corrupt("a section reaches behind the end").offset(at));
        }
        let body = read(at + 4, n + 4)?;
        if Reader::new(&body[n..]).be_u32()? != crc32c(&body[..n]) {
            return Err(Error::corrupt("a section's checksum does not match").offset(at));
        }
        Ok(body.slice(..n))
    })
}

fn entry(table: &[u8], at: usize) -> Result<TableEntry<'_>> {
    let mut r = Reader::new(table.get(at..).unwrap_or(&[]));
    if r.u8()? != 2 {
        return Err(Error::corrupt("an entry of the postings table has not two strings").offset(at as u64));
    }
    let (name, value, to) = (r.string()?, r.string()?, r.uvarint()?);
    Ok(TableEntry { name, value, at: to, next: at + r.position() })
}

fn parse_series(bytes: &[u8], out: &mut SeriesEntry) -> Result<()> {
    out.labels.clear();
    out.chunks.clear();
    let mut outer = Reader::new(bytes);
    let body = outer.prefixed()?;
    if outer.be_u32()? != crc32c(body) {
        return Err(Error::corrupt("a series entry's checksum does not match"));
    }
    let mut r = Reader::new(body);
    for _ in 0..r.len()? {
        out.labels.push((r.uvarint()? as u32, r.uvarint()? as u32));
    }
    let n = r.len()?;
    let (mut t, mut reference) = (0i64, 0u64);
    for i in 0..n {
        if i == 0 {
            t = r.varint()?;
        } else {
            t = t.wrapping_add(r.uvarint()? as i64);
        }
        let max = t.wrapping_add(r.uvarint()? as i64);
        reference = if i == 0 { r.uvarint()? } else { reference.wrapping_add(r.varint()? as u64) };
        out.chunks.push(ChunkMeta { range: TimeRange::new(t, max), reference });
        t = max;
    }
    Ok(())
}
