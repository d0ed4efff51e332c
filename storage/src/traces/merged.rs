//! Traces that lie in several places, put together column by column; identical spans count once.

use std::sync::Arc;

use foldhash::HashMap;

use super::block::batch::BlockBatch;
use super::block::rows::Rows;
use crate::error::Result;
use crate::model::{Span, TraceId};
use crate::read::{Column, Field, RowBatch, SpanBatch, SpanIds, Value};

/// A place that holds some of the traces.
pub(super) enum Place {
    /// Live spans.
    Live(RowBatch, Vec<Span>),
    /// A row group, or some rows of one.
    Block(BlockBatch),
}

impl Place {
    pub(super) fn live(traces: Vec<crate::model::Trace>) -> Self {
        let spans = traces.iter().flat_map(|t| t.spans.clone()).collect();
        Place::Live(RowBatch::new(traces), spans)
    }
    fn batch(&self) -> &dyn SpanBatch {
        match self {
            Place::Live(b, _) => b,
            Place::Block(b) => b,
        }
    }
    fn span(&self, row: usize, rows: &mut Option<Rows>) -> Result<Span> {
        match self {
            Place::Live(_, spans) => Ok(spans[row].clone()),
            Place::Block(b) => {
                let (block, group, of) = b.place();
                let rows = match rows {
                    Some(r) => r,
                    None => rows.insert(Rows::read(block, group, None, of)?),
                };
                rows.span(row)
            }
        }
    }
}

/// Tells spans that start together apart: ids and whole spans are read only for such.
struct Same {
    ids: Option<Vec<Arc<SpanIds>>>,
    rows: Vec<Option<Rows>>,
}

impl Same {
    /// Appends spans of one trace and one start in the order of their ids, then content; identical ones once.
    fn of_one_start(&mut self, places: &[Place], at: &[(u32, u32)], order: &mut Vec<(u32, u32)>) -> Result<()> {
        let ids = match &self.ids {
            Some(ids) => ids,
            None => self.ids.insert(places.iter().map(|p| p.batch().ids()).collect::<Result<_>>()?),
        };
        let id = |a: &(u32, u32)| ids[a.0 as usize].span[a.1 as usize];
        let mut at = at.to_vec();
        at.sort_by_key(id);
        for at in at.chunk_by(|a, b| id(a) == id(b)) {
            if let [one] = at {
                order.push(*one);
                continue;
            }
            let of = |(p, r): &(u32, u32)| Ok((places[*p as usize].span(*r as usize, &mut self.rows[*p as usize])?, (*p, *r)));
            let mut spans = at.iter().map(of).collect::<Result<Vec<_>>>()?;
            spans.sort_by(|a, b| a.0.cmp(&b.0));
            spans.dedup_by(|a, b| a.0 == b.0);
            order.extend(spans.into_iter().map(|s| s.1));
        }
        Ok(())
    }
}

/// Some traces, gathered from all places.
pub(super) struct MergedBatch {
    places: Vec<Place>,
    ids: Vec<u128>,
    offsets: Vec<u32>,
    /// Place and row of each row.
    order: Vec<(u32, u32)>,
}

impl MergedBatch {
    /// Gathers the traces `ids` (rising) from the places.
    pub(super) fn new(places: Vec<Place>, ids: &[u128]) -> Result<Self> {
        let mut by_trace: HashMap<u128, Vec<(u32, u32)>> = HashMap::default();
        for (p, place) in places.iter().enumerate() {
            let b = place.batch();
            for t in 0..b.traces().len().saturating_sub(1) {
                let id = u128::from_be_bytes(b.trace_id(t).0);
                if ids.binary_search(&id).is_ok() {
                    by_trace.entry(id).or_default().extend((b.traces()[t]..b.traces()[t + 1]).map(|r| (p as u32, r)));
                }
            }
        }
        let starts = places.iter().map(|p| p.batch().starts()).collect::<Result<Vec<_>>>()?;
        let start = |a: &(u32, u32)| starts[a.0 as usize][a.1 as usize];
        let mut same = Same { ids: None, rows: places.iter().map(|_| None).collect() };
        let mut out = MergedBatch { places, ids: Vec::new(), offsets: vec![0], order: Vec::new() };
        for id in ids {
            let Some(mut at) = by_trace.remove(id) else { continue };
            at.sort_by_key(start);
            for at in at.chunk_by(|a, b| start(a) == start(b)) {
                match at {
                    [one] => out.order.push(*one),
                    several => same.of_one_start(&out.places, several, &mut out.order)?,
                }
            }
            out.ids.push(*id);
            out.offsets.push(out.order.len() as u32);
        }
        Ok(out)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.places.iter().map(|p| if let Place::Block(b) = p { b.bytes_read() } else { 0 }).sum()
    }

    fn gather(&self, of: impl Fn(&dyn SpanBatch) -> Result<Arc<Vec<u64>>>) -> Result<Arc<Vec<u64>>> {
        let parts = self.places.iter().map(|p| of(p.batch())).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(self.order.iter().map(|(p, r)| parts[*p as usize][*r as usize]).collect()))
    }
}

impl SpanBatch for MergedBatch {
    fn len(&self) -> usize {
        self.order.len()
    }
    fn traces(&self) -> &[u32] {
        &self.offsets
    }
    fn trace_id(&self, trace: usize) -> TraceId {
        TraceId(self.ids[trace].to_be_bytes())
    }
    fn excluded(&self) -> Option<&[bool]> {
        None
    }
    fn starts(&self) -> Result<Arc<Vec<u64>>> {
        self.gather(|b| b.starts())
    }
    fn durations(&self) -> Result<Arc<Vec<u64>>> {
        self.gather(|b| b.durations())
    }
    fn ids(&self) -> Result<Arc<SpanIds>> {
        let parts = self.places.iter().map(|p| p.batch().ids()).collect::<Result<Vec<_>>>()?;
        let pick = |f: fn(&SpanIds) -> &Vec<u64>| self.order.iter().map(|(p, r)| f(&parts[*p as usize])[*r as usize]).collect();
        Ok(Arc::new(SpanIds { span: pick(|i| &i.span), parent: pick(|i| &i.parent) }))
    }
    fn column(&self, field: &Field) -> Result<Arc<Column>> {
        let parts = self.places.iter().map(|p| p.batch().column(field)).collect::<Result<Vec<_>>>()?;
        let mut known: HashMap<(u32, u32), u32> = HashMap::default();
        let mut out = Column { values: vec![Value::Nil], idx: Vec::with_capacity(self.order.len()) };
        for (p, r) in &self.order {
            let part = &parts[*p as usize];
            let i = part.idx[*r as usize];
            let at = if i == 0 {
                0
            } else {
                *known.entry((*p, i)).or_insert_with(|| {
                    out.values.push(part.values[i as usize].clone());
                    out.values.len() as u32 - 1
                })
            };
            out.idx.push(at);
        }
        Ok(Arc::new(out))
    }
}
