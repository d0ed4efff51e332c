//! Joining the series of head and blocks by their labels.
//!
//! All places list their series in label order, so that one pass over them suffices. Labels are compared as numbers:
//! each string of a place's symbol table gets, when it is first met, the number that its text has in all of them.

use std::cmp::Ordering;
use std::hash::BuildHasher;

use hashbrown::{HashMap, HashTable};

use super::block::BlockSelection;
use super::block::index::SeriesEntry;
use super::head::HeadSelection;
use crate::error::Result;
use crate::model::TimeRange;

/// The place that is the head; the others are blocks by number. It is the last one: its samples mostly are the newest.
pub(super) const HEAD: u16 = u16::MAX;

/// Where a part of a series lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// [`HEAD`], or the block's number.
    pub place: u16,
    /// The series in the place's selection.
    pub at: u32,
}

/// Series over several places, in label order.
#[derive(Default)]
pub(super) struct Joined {
    /// Where the parts of each series end in `parts`.
    ends: Vec<u32>,
    parts: Vec<Part>,
    /// By place, the head last: which number stands for a symbol.
    numbers: Vec<SymbolMap>,
}

impl Joined {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Parts of a series, by place.
    pub fn parts(&self, i: usize) -> &[Part] {
        let from = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.parts[from as usize..self.ends[i] as usize]
    }

    /// The part that tells the labels: the one that is read last, so that its entry is at hand.
    pub fn last(&self, i: usize) -> Part {
        // A series has a part.
        self.parts[self.ends[i] as usize - 1]
    }

    /// Parts of the series `from..to`.
    pub fn between(&self, from: usize, to: usize) -> &[Part] {
        let end = |i: usize| i.min(self.len()).checked_sub(1).map_or(0, |last| self.ends[last] as usize);
        &self.parts[end(from).min(end(to))..end(to)]
    }

    /// The place that all parts lie in, if it is but one.
    pub fn only_place(&self) -> Option<u16> {
        let first = self.parts.first()?.place;
        (self.parts.len() == self.len() && self.parts.iter().all(|p| p.place == first)).then_some(first)
    }

    /// The number that stands for a symbol of a place over all places.
    pub fn number(&self, place: u16, symbol: u32) -> Option<u32> {
        let of = if place == HEAD { self.numbers.last() } else { self.numbers.get(place as usize) };
        of?.get(symbol)
    }
}

/// Numbers of the symbols of a place. A table of all of them where most are met, else those that were.
enum SymbolMap {
    All(Vec<u32>),
    Met(HashMap<u32, u32, foldhash::fast::RandomState>),
}

const NONE: u32 = u32::MAX;

impl SymbolMap {
    fn new(symbols: usize, series: usize) -> Self {
        if symbols / 4 <= series { SymbolMap::All(vec![NONE; symbols]) } else { SymbolMap::Met(HashMap::default()) }
    }

    fn get(&self, symbol: u32) -> Option<u32> {
        match self {
            SymbolMap::All(all) => all.get(symbol as usize).copied().filter(|n| *n != NONE),
            SymbolMap::Met(met) => met.get(&symbol).copied(),
        }
    }

    fn set(&mut self, symbol: u32, number: u32) {
        match self {
            SymbolMap::All(all) => {
                if symbol as usize >= all.len() {
                    all.resize(symbol as usize + 1, NONE);
                }
                all[symbol as usize] = number;
            }
            SymbolMap::Met(met) => drop(met.insert(symbol, number)),
        }
    }
}

/// Texts and their numbers.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    table: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl Texts {
    fn get(&self, number: u32) -> &[u8] {
        text_of(&self.bytes, &self.ends, number)
    }

    fn number(&mut self, text: &str) -> u32 {
        let Texts { bytes, ends, table, hasher } = self;
        let hash = hasher.hash_one(text.as_bytes());
        if let Some(n) = table.find(hash, |n| text_of(bytes, ends, *n) == text.as_bytes()) {
            return *n;
        }
        let n = ends.len() as u32;
        bytes.extend_from_slice(text.as_bytes());
        ends.push(bytes.len());
        table.insert_unique(hash, n, |n| hasher.hash_one(text_of(bytes, ends, *n)));
        n
    }
}

fn text_of<'a>(bytes: &'a [u8], ends: &[usize], number: u32) -> &'a [u8] {
    let n = number as usize;
    &bytes[n.checked_sub(1).map_or(0, |before| ends[before])..ends[n]]
}

type Pairs = Vec<(u32, u32)>;

/// A place being gone through.
#[derive(Clone, Copy)]
enum Place<'a> {
    Block(&'a BlockSelection),
    Head(&'a HeadSelection),
}

impl Place<'_> {
    fn number(self, symbol: u32, texts: &mut Texts) -> Result<u32> {
        match self {
            Place::Block(b) => Ok(texts.number(b.block().index().symbol(symbol)?)),
            Place::Head(h) => Ok(h.with_symbol(symbol, |s| texts.number(s))),
        }
    }
}

/// Labels of some series of the head, looked up together.
#[derive(Default)]
struct HeadLabels {
    from: usize,
    ends: Vec<u32>,
    pairs: Pairs,
}

const AT_ONCE: usize = 256;

impl HeadLabels {
    fn of(&mut self, head: &HeadSelection, at: usize) -> &[(u32, u32)] {
        if at < self.from || at - self.from >= self.ends.len() {
            self.from = at;
            head.symbols_of(at..(at + AT_ONCE).min(head.len()), &mut self.pairs, &mut self.ends);
        }
        let i = at - self.from;
        let from = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.pairs[from as usize..self.ends[i] as usize]
    }
}

/// Where the merging of a list stands.
struct Cursor<'a> {
    place: Place<'a>,
    at: usize,
    len: usize,
    entry: SeriesEntry,
    batch: HeadLabels,
    /// Labels there as the place's own symbols.
    symbols: Pairs,
    /// The same as numbers.
    labels: Pairs,
    map: SymbolMap,
}

impl<'a> Cursor<'a> {
    fn new(place: Place<'a>) -> Self {
        let (len, symbols) = match place {
            Place::Block(b) => (b.len(), b.block().index().symbols_len()),
            Place::Head(h) => (h.len(), h.symbols_len()),
        };
        Cursor {
            place,
            at: 0,
            len,
            entry: SeriesEntry::default(),
            batch: HeadLabels::default(),
            symbols: Pairs::new(),
            labels: Pairs::new(),
            map: SymbolMap::new(symbols, len),
        }
    }

    /// Reads the labels at `at`, passing over series of a block without a chunk in `range`.
    fn read(&mut self, range: TimeRange, texts: &mut Texts) -> Result<()> {
        let new = match self.place {
            Place::Block(b) => {
                self.at = b.next_in(self.at, range, &mut self.entry)?;
                &self.entry.labels[..]
            }
            Place::Head(h) if self.at < self.len => self.batch.of(h, self.at),
            Place::Head(_) => &[],
        };
        if self.at >= self.len {
            return Ok(());
        }
        let (place, map) = (self.place, &mut self.map);
        let mut number = |symbol: u32| match map.get(symbol) {
            Some(n) => Ok(n),
            None => place.number(symbol, texts).inspect(|n| map.set(symbol, *n)),
        };
        self.symbols.resize(new.len(), (NONE, NONE));
        self.labels.resize(new.len(), (NONE, NONE));
        for ((new, symbols), labels) in new.iter().zip(&mut self.symbols).zip(&mut self.labels) {
            // Neighbours share most of their labels, and where they stand.
            if new.0 != symbols.0 {
                labels.0 = number(new.0)?;
            }
            if new.1 != symbols.1 {
                labels.1 = number(new.1)?;
            }
            *symbols = *new;
        }
        Ok(())
    }
}

fn compare(texts: &Texts, a: &Pairs, b: &Pairs) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        if x != y {
            let text = |n: u32| texts.get(n);
            return text(x.0).cmp(text(y.0)).then_with(|| text(x.1).cmp(text(y.1)));
        }
    }
    a.len().cmp(&b.len())
}

/// Merges label-ordered lists; series of blocks without a chunk in `range` stay out.
pub(super) fn join(head: &HeadSelection, blocks: &[BlockSelection], range: TimeRange) -> Result<Joined> {
    let mut texts = Texts::default();
    let places = blocks.iter().map(Place::Block).chain([Place::Head(head)]);
    let mut cursors: Vec<Cursor<'_>> = places.map(Cursor::new).collect();
    cursors.iter_mut().try_for_each(|c| c.read(range, &mut texts))?;
    let mut out = Joined::default();
    let mut first: Vec<usize> = Vec::new();
    loop {
        first.clear();
        for (k, c) in cursors.iter().enumerate().filter(|(_, c)| c.at < c.len) {
            match first.first().map_or(Ordering::Less, |f| compare(&texts, &c.labels, &cursors[*f].labels)) {
                Ordering::Less => {
                    first.clear();
                    first.push(k);
                }
                Ordering::Equal => first.push(k),
                Ordering::Greater => {}
            }
        }
        if first.is_empty() {
            break;
        }
        for k in &first {
            let place = if *k == blocks.len() { HEAD } else { *k as u16 };
            out.parts.push(Part { place, at: cursors[*k].at as u32 });
            cursors[*k].at += 1;
            cursors[*k].read(range, &mut texts)?;
        }
        out.ends.push(out.parts.len() as u32);
    }
    out.numbers = cursors.into_iter().map(|c| c.map).collect();
    Ok(out)
}
