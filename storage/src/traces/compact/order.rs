//! In which order a merge takes its inputs' rows.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::model::Span;
use crate::read::{SpanBatch, SpanIds};
use crate::traces::block::batch::BlockBatch;
use crate::traces::block::gather::{Gathered, Origin, Piece};
use crate::traces::block::reader::OpenBlock;
use crate::traces::block::rows::Rows;
use crate::traces::block::writer::WriteOptions;

/// Rows that are decoded together where spans must be compared.
const WINDOW_ROWS: usize = 2048;

/// Rows of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    input: usize,
    group: usize,
    rows: Range<usize>,
}

/// A block read from front to back, a trace at a time.
struct Input {
    block: Arc<OpenBlock>,
    group: usize,
    /// What a row takes in memory, by row group.
    row_bytes: Vec<usize>,
    /// Of the row group: its traces, the first row of each and the number of rows.
    ids: Vec<u128>,
    offsets: Vec<u32>,
    at: usize,
    /// Of the row group: start and id of each span, read where a trace lies in several inputs.
    keys: Option<(usize, Arc<Vec<u64>>, Arc<SpanIds>)>,
    /// Spans decoded last, and where they lie.
    rows: Option<(usize, usize, Rows)>,
}

impl Input {
    fn new(block: Arc<OpenBlock>) -> Result<Self> {
        let row_bytes = (0..block.row_groups()).map(|g| block.row_bytes(g).max(1)).collect();
        let mut i = Input { block, group: 0, row_bytes, ids: Vec::new(), offsets: Vec::new(), at: 0, keys: None, rows: None };
        i.read()?;
        Ok(i)
    }

    /// Reads the traces of the row group, or of the next that has any.
    fn read(&mut self) -> Result<()> {
        self.at = 0;
        while self.group < self.block.row_groups() {
            if self.block.is_remote() {
                self.block.prefetch_ranges(&[self.block.group_range(self.group)]);
            }
            (self.ids, self.offsets) = self.block.traces(self.group, None)?;
            if !self.ids.is_empty() {
                return Ok(());
            }
            self.group += 1;
        }
        Ok(())
    }

    fn peek(&self) -> Option<u128> {
        if self.group < self.block.row_groups() { self.ids.get(self.at).copied() } else { None }
    }

    /// The rows of the trace it stands at, which may fill more than one row group.
    fn take(&mut self, number: usize, out: &mut Vec<Stretch>) -> Result<()> {
        let trace = self.peek();
        while trace.is_some() && self.peek() == trace {
            let rows = self.offsets[self.at] as usize..self.offsets[self.at + 1] as usize;
            out.push(Stretch { input: number, group: self.group, rows });
            self.at += 1;
            if self.at == self.ids.len() {
                self.group += 1;
                self.read()?;
            }
        }
        Ok(())
    }

    fn key(&mut self, group: usize, row: usize) -> Result<(u64, u64)> {
        let (_, starts, ids) = match &mut self.keys {
            Some(k) if k.0 == group => k,
            keys => {
                let batch = BlockBatch::new(self.block.clone(), group, None)?;
                keys.insert((group, batch.starts()?, batch.ids()?))
            }
        };
        Ok((starts[row], ids.span[row]))
    }

    fn span(&mut self, group: usize, row: usize) -> Result<Span> {
        let first = row / WINDOW_ROWS * WINDOW_ROWS;
        let rows = match &mut self.rows {
            Some((g, f, rows)) if (*g, *f) == (group, first) => rows,
            known => {
                let to = (first + WINDOW_ROWS).min(self.block.rows(group));
                *known = None;
                &mut known.insert((group, first, Rows::read(&self.block, group, None, first..to)?)).2
            }
        };
        rows.span(row - first)
    }
}

/// The rows of all inputs by trace, then start; of identical spans one. Cut into row groups.
pub struct Order {
    inputs: Vec<Input>,
    options: WriteOptions,
    /// What has been read, and is not in a row group yet, of the trace read last.
    pending: VecDeque<Stretch>,
    traces: u64,
}

impl Order {
    /// Of blocks.
    pub fn new(blocks: Vec<Arc<OpenBlock>>, options: &WriteOptions) -> Result<Self> {
        let inputs = blocks.into_iter().map(Input::new).collect::<Result<_>>()?;
        Ok(Order { inputs, options: options.clone(), pending: VecDeque::new(), traces: 0 })
    }

    /// The next row group, and the number of traces that begin in it; none at the end. A trace lies in one row group,
    /// unless it alone fills it.
    pub fn next_group(&mut self) -> Result<Option<(Gathered, u64)>> {
        let (mut out, mut rows, mut bytes): (Vec<Stretch>, usize, usize) = (Vec::new(), 0, 0);
        let (most_rows, most_bytes) = (self.options.row_group_spans, self.options.row_group_bytes);
        self.traces = 0;
        loop {
            while let Some(mut s) = self.pending.pop_front() {
                let room =
                    (2 * most_rows - rows).min((2 * most_bytes).saturating_sub(bytes) / self.row_bytes(&s)).max(usize::from(rows == 0));
                if room == 0 {
                    self.pending.push_front(s);
                    return Ok(Some((self.gathered(&out), self.traces)));
                }
                if room < s.rows.len() {
                    self.pending.push_front(Stretch { rows: s.rows.start + room..s.rows.end, ..s.clone() });
                    s.rows.end = s.rows.start + room;
                }
                rows += s.rows.len();
                bytes += s.rows.len() * self.row_bytes(&s);
                match out.last_mut() {
                    Some(l) if (l.input, l.group, l.rows.end) == (s.input, s.group, s.rows.start) => l.rows.end = s.rows.end,
                    _ => out.push(s),
                }
            }
            if rows >= most_rows || bytes >= most_bytes || !self.next_trace()? {
                return Ok((rows > 0).then(|| (self.gathered(&out), self.traces)));
            }
        }
    }

    fn row_bytes(&self, s: &Stretch) -> usize {
        self.inputs[s.input].row_bytes[s.group]
    }

    /// Reads the next trace; false if there is none.
    fn next_trace(&mut self) -> Result<bool> {
        let Some(trace) = self.inputs.iter().filter_map(Input::peek).min() else { return Ok(false) };
        let (mut all, mut holders) = (Vec::new(), 0);
        for (i, input) in self.inputs.iter_mut().enumerate().filter(|(_, i)| i.peek() == Some(trace)) {
            holders += 1;
            input.take(i, &mut all)?;
        }
        self.traces += 1;
        if holders > 1 {
            all = self.interleaved(&all)?;
        }
        self.pending.extend(all);
        Ok(true)
    }

    /// The rows of one trace from several inputs, in the order of their spans.
    fn interleaved(&mut self, all: &[Stretch]) -> Result<Vec<Stretch>> {
        let mut rows = Vec::new();
        for s in all {
            for row in s.rows.clone() {
                rows.push((self.inputs[s.input].key(s.group, row)?, s.input, s.group, row));
            }
        }
        rows.sort_unstable();
        let mut out = Vec::with_capacity(rows.len());
        for same in rows.chunk_by(|a, b| a.0 == b.0) {
            let mut spans = Vec::new();
            for (_, input, group, row) in same {
                let at = Stretch { input: *input, group: *group, rows: *row..*row + 1 };
                match same.len() {
                    1 => out.push(at),
                    _ => spans.push((self.inputs[*input].span(*group, *row)?, at)),
                }
            }
            spans.sort_by(|a, b| a.0.cmp(&b.0));
            spans.dedup_by(|a, b| a.0 == b.0);
            out.extend(spans.into_iter().map(|s| s.1));
        }
        Ok(out)
    }

    fn gathered(&self, all: &[Stretch]) -> Gathered {
        let mut out = Gathered::default();
        let mut numbers = foldhash::HashMap::<(usize, usize), u32>::default();
        for s in all {
            let n = *numbers.entry((s.input, s.group)).or_insert_with(|| {
                out.origins.push(Origin { block: self.inputs[s.input].block.clone(), group: s.group, rows: s.rows.clone() });
                out.origins.len() as u32 - 1
            });
            let rows = &mut out.origins[n as usize].rows;
            *rows = rows.start.min(s.rows.start)..rows.end.max(s.rows.end);
        }
        for s in all {
            let origin = numbers[&(s.input, s.group)];
            let first = out.origins[origin as usize].rows.start;
            out.pieces.push(Piece { origin, from: (s.rows.start - first) as u32, to: (s.rows.end - first) as u32 });
        }
        out
    }
}
