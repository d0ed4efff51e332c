//! Writes an index in one pass over the series, which come in label order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use strandline_wal::fs::{FileWrite, Fs};

use super::{MAGIC, TOC_BYTES, VERSION};
use crate::codec::{crc32c, put_be_u32, put_be_u64, put_uvarint, put_varint};
use crate::error::{Error, Result};
use crate::model::{Labels, TimeRange};

/// All strings of a block, sorted, by number.
#[derive(Default)]
pub struct SymbolTable {
    strings: Vec<Box<str>>,
    ids: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
}

impl SymbolTable {
    /// Notes a string; repeated ones count once.
    pub fn add(&mut self, s: &str) {
        if !self.ids.contains_key(s) {
            self.ids.insert(s.into(), 0);
        }
    }

    /// Sorts and numbers.
    pub fn seal(&mut self) {
        self.strings = self.ids.keys().cloned().collect();
        self.strings.sort_unstable();
        for (i, s) in self.strings.iter().enumerate() {
            if let Some(id) = self.ids.get_mut(s) {
                *id = i as u32;
            }
        }
    }

    fn id(&self, s: &str) -> Result<u32> {
        self.ids.get(s).copied().ok_or_else(|| Error::corrupt(format!("string {s:?} was not announced to the index")))
    }
}

/// References of one label pair, as the differences of rising numbers: a byte or two each.
#[derive(Default)]
struct Refs {
    bytes: Vec<u8>,
    last: u32,
    count: u32,
}

impl Refs {
    fn push(&mut self, r: u32) {
        put_uvarint(&mut self.bytes, (r - self.last) as u64);
        self.last = r;
        self.count += 1;
    }
    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut r = crate::codec::Reader::new(&self.bytes);
        let mut at = 0u32;
        std::iter::from_fn(move || {
            at += r.uvarint().ok()? as u32;
            Some(at)
        })
    }
}

/// An index under construction.
pub struct IndexWriter {
    path: PathBuf,
    file: Box<dyn FileWrite>,
    buf: Vec<u8>,
    written: u64,
    symbols: SymbolTable,
    series_at: u64,
    postings: HashMap<(u32, u32), Refs, foldhash::fast::RandomState>,
    all: Refs,
    last: Option<Labels>,
    entry: Vec<u8>,
    /// The largest series entry, for Thanos.
    pub series_max_size: u64,
}

const BUFFER: usize = 256 << 10;

impl IndexWriter {
    /// Starts an index at `path` with its symbols (sealed).
    pub fn create(fs: &Arc<dyn Fs>, path: &Path, symbols: SymbolTable) -> Result<Self> {
        let file = fs.create(path).map_err(|e| Error::io("creating an index", path, e))?;
        let mut w = IndexWriter {
            path: path.to_owned(),
            file,
            buf: Vec::new(),
            written: 0,
            symbols,
            series_at: 0,
            postings: HashMap::default(),
            all: Refs::default(),
            last: None,
            entry: Vec::new(),
            series_max_size: 0,
        };
        put_be_u32(&mut w.buf, MAGIC);
        w.buf.push(VERSION);
        let mut body = Vec::new();
        put_be_u32(&mut body, w.symbols.strings.len() as u32);
        for s in &w.symbols.strings {
            put_uvarint(&mut body, s.len() as u64);
            body.extend_from_slice(s.as_bytes());
        }
        w.section(&body)?;
        w.align(16)?;
        w.series_at = w.position();
        Ok(w)
    }

    fn position(&self) -> u64 {
        self.written + self.buf.len() as u64
    }

    fn align(&mut self, to: u64) -> Result<()> {
        while !self.position().is_multiple_of(to) {
            self.buf.push(0);
        }
        self.spill(BUFFER)
    }

    fn spill(&mut self, above: usize) -> Result<()> {
        if self.buf.len() > above {
            self.file.write_all(&self.buf).map_err(|e| Error::io("writing an index", &self.path, e))?;
            self.written += self.buf.len() as u64;
            self.buf.clear();
        }
        Ok(())
    }

    fn section(&mut self, body: &[u8]) -> Result<()> {
        put_be_u32(&mut self.buf, body.len() as u32);
        self.buf.extend_from_slice(body);
        put_be_u32(&mut self.buf, crc32c(body));
        self.spill(BUFFER)
    }

    /// Adds a series with its chunks (range and reference), in time order.
    pub fn add(&mut self, labels: &Labels, chunks: &[(TimeRange, u64)]) -> Result<()> {
        if self.last.as_ref().is_some_and(|l| l >= labels) {
            return Err(Error::corrupt(format!("series {labels} came out of order to the index")));
        }
        self.align(16)?;
        let reference = u32::try_from(self.position() / 16).map_err(|_| Error::invalid("the index would exceed 64 GiB"))?;
        let e = &mut self.entry;
        e.clear();
        put_uvarint(e, labels.len() as u64);
        for (n, v) in labels.iter() {
            let (n, v) = (self.symbols.id(n)?, self.symbols.id(v)?);
            put_uvarint(e, n as u64);
            put_uvarint(e, v as u64);
            self.postings.entry((n, v)).or_default().push(reference);
        }
        put_uvarint(e, chunks.len() as u64);
        let mut before: Option<(TimeRange, u64)> = None;
        for (r, at) in chunks {
            match before {
                None => {
                    put_varint(e, r.min_ms);
                    put_uvarint(e, (r.max_ms - r.min_ms) as u64);
                    put_uvarint(e, *at);
                }
                Some((b, b_at)) => {
                    // Prometheus reads this difference as unsigned, so chunks of a series must not overlap.
                    if r.min_ms <= b.max_ms {
                        return Err(Error::corrupt(format!("chunks of series {labels} overlap")));
                    }
                    put_uvarint(e, (r.min_ms - b.max_ms) as u64);
                    put_uvarint(e, (r.max_ms - r.min_ms) as u64);
                    put_varint(e, at.wrapping_sub(b_at) as i64);
                }
            }
            before = Some((*r, *at));
        }
        self.all.push(reference);
        let start = self.buf.len();
        put_uvarint(&mut self.buf, self.entry.len() as u64);
        self.buf.extend_from_slice(&self.entry);
        put_be_u32(&mut self.buf, crc32c(&self.entry));
        self.series_max_size = self.series_max_size.max((self.buf.len() - start) as u64);
        self.last = Some(labels.clone());
        self.spill(BUFFER)
    }

    /// Writes postings, tables and the table of contents; syncs. Gives the file's size.
    pub fn finish(mut self) -> Result<u64> {
        self.align(4)?;
        let label_indices_at = self.position();
        let postings_at = self.position();
        let postings = std::mem::take(&mut self.postings);
        let all = std::mem::take(&mut self.all);
        // The empty pair stands for all series and sorts first, as symbol order is string order.
        let sorted: BTreeMap<(u32, u32), Refs> = postings.into_iter().collect();
        let mut table: Vec<(Option<(u32, u32)>, u64)> = Vec::with_capacity(sorted.len() + 1);
        table.push((None, self.put_postings(&all)?));
        for (pair, refs) in &sorted {
            let at = self.put_postings(refs)?;
            table.push((Some(*pair), at));
        }
        let label_table_at = self.position();
        self.section(&0u32.to_be_bytes())?;
        let table_at = self.position();
        let mut body = Vec::new();
        put_be_u32(&mut body, table.len() as u32);
        for (pair, at) in table {
            body.push(2);
            let (n, v) = pair.map_or(("", ""), |(n, v)| (&*self.symbols.strings[n as usize], &*self.symbols.strings[v as usize]));
            for s in [n, v] {
                put_uvarint(&mut body, s.len() as u64);
                body.extend_from_slice(s.as_bytes());
            }
            put_uvarint(&mut body, at);
        }
        self.section(&body)?;
        let mut toc = Vec::with_capacity(TOC_BYTES);
        for at in [5, self.series_at, label_indices_at, label_table_at, postings_at, table_at] {
            put_be_u64(&mut toc, at);
        }
        let crc = crc32c(&toc);
        put_be_u32(&mut toc, crc);
        self.buf.extend_from_slice(&toc);
        self.spill(0)?;
        self.file.sync().map_err(|e| Error::io("syncing an index", &self.path, e))?;
        Ok(self.written)
    }

    fn put_postings(&mut self, refs: &Refs) -> Result<u64> {
        self.align(4)?;
        let at = self.position();
        let mut body = Vec::with_capacity(4 + refs.count as usize * 4);
        put_be_u32(&mut body, refs.count);
        refs.iter().for_each(|r| put_be_u32(&mut body, r));
        self.section(&body)?;
        Ok(at)
    }
}
