//! `compare()`: how often each value of each attribute occurs among the selected spans and among the others.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::HashMap;
use strandline_storage::read::AttributeScope;

use super::{Series, Sink, Slots};
use crate::traceql::ast::{Attr, Comparison, Expr, Intrinsic};
use crate::traceql::error::{Result, TraceQlError};
use crate::traceql::eval::expr::{Data, Mattering, Rows};
use crate::traceql::lexer::Scope;
use crate::traceql::value::{Distinct, Val};

/// Distinct values of an attribute that are counted; one with more is reported as having too many.
const MAX_VALUES: usize = 10_000;

/// Bytes of an attribute's values that are counted apart.
const MAX_VALUE_BYTES: usize = 4 << 20;

const LABEL_TYPE: &str = "__meta_type";
const LABEL_ERROR: &str = "__meta_error";
const KINDS: [&str; 2] = ["baseline", "selection"];

/// Spans by cell, where there are any: most values occur in few slots. A cell is a slot of the baseline, or behind all
/// of those one of the selection.
type Sparse = HashMap<u32, u64>;

#[derive(Default)]
struct Counts {
    values: HashMap<Distinct, Sparse>,
    /// By cell.
    totals: Vec<u64>,
    too_many: bool,
    value_bytes: usize,
}

impl Counts {
    /// Adds a value's occurrences, sorted by cell.
    fn add(&mut self, v: &Val, occurrences: &[(u32, u32)]) {
        let known = self.values.len();
        let v = Distinct(v.clone());
        let sum = match self.values.entry(v) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => {
                let bytes = e.key().0.bytes();
                if known >= MAX_VALUES || self.value_bytes + bytes > MAX_VALUE_BYTES {
                    self.too_many = true;
                    return;
                }
                self.value_bytes += bytes;
                e.insert(Sparse::default())
            }
        };
        for of_cell in occurrences.chunk_by(|a, b| a.1 == b.1) {
            *sum.entry(of_cell[0].1).or_default() += of_cell.len() as u64;
        }
    }
}

/// Counts the spans of a `compare()`.
pub(super) struct Comparing {
    selection: Option<Expr>,
    top: usize,
    /// Selected spans start within, Unix nanoseconds, the end excluded; 0: anywhere.
    window: (u64, u64),
    attrs: Vec<Attr>,
    counts: BTreeMap<usize, Counts>,
    slots: Slots,
    max_cells: usize,
}

impl Comparing {
    pub(super) fn new(c: &Comparison, keys: Vec<(AttributeScope, Vec<String>)>, slots: Slots, max_cells: usize) -> Self {
        use Intrinsic::*;
        let mut attrs: Vec<Attr> = [Name, Kind, Status, StatusMessage, RootName, RootService].map(Attr::Intrinsic).to_vec();
        for (scope, keys) in keys {
            let scope = match scope {
                AttributeScope::Span => Scope::Span,
                AttributeScope::Resource => Scope::Resource,
                // Values of events and links are many to a span.
                _ => continue,
            };
            attrs.extend(keys.into_iter().map(|k| Attr::Attribute { parent: false, scope, key: k }));
        }
        Comparing {
            selection: c.selection.clone(),
            top: usize::try_from(c.top).unwrap_or(usize::MAX),
            window: (c.start_nano, c.end_nano),
            attrs,
            counts: BTreeMap::new(),
            slots,
            max_cells,
        }
    }
}

impl Sink for Comparing {
    fn add(&mut self, rows: &Rows<'_>, mask: &[bool]) -> Result<()> {
        let n = mask.len();
        let starts: Arc<Vec<u64>> = rows.batch.starts()?;
        let mut selected = match &self.selection {
            Some(e) => rows.eval(e, &Mattering::marked(mask))?.mask(n),
            None => vec![true; n],
        };
        let (from, to) = self.window;
        if to > 0 {
            selected.iter_mut().zip(starts.iter()).for_each(|(s, t)| *s &= *t >= from && *t < to);
        }
        let slots = self.slots.count;
        let counted: Vec<(u32, u32)> = (0..n)
            .filter(|r| mask[*r])
            .filter_map(|r| self.slots.of(starts[r]).map(|slot| (r as u32, (usize::from(selected[r]) * slots + slot) as u32)))
            .collect();
        if counted.is_empty() {
            return Ok(());
        }
        rows.read_ahead(&self.attrs)?;
        let mut occurrences = Vec::with_capacity(counted.len());
        for (i, a) in self.attrs.iter().enumerate() {
            let Data::Dict(values, idx) = rows.attr(a)? else { continue };
            let c = self.counts.entry(i).or_insert_with(|| Counts { totals: vec![0; 2 * slots], ..Counts::default() });
            let (nil, idx): (Vec<bool>, _) = (values.iter().map(|v| *v.shown() == Val::Nil).collect(), idx.all());
            occurrences.clear();
            occurrences.extend(counted.iter().map(|(r, cell)| (idx[*r as usize], *cell)).filter(|(v, _)| !nil[*v as usize]));
            occurrences.iter().for_each(|(_, cell)| c.totals[*cell as usize] += 1);
            occurrences.sort_unstable();
            for of_value in occurrences.chunk_by(|a, b| a.0 == b.0) {
                c.add(&values[of_value[0].0 as usize], of_value);
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Series>> {
        let mut out = Vec::new();
        let series = |labels: Vec<(String, Val)>, counts: &[u64]| Series {
            labels,
            values: counts.iter().map(|n| *n as f64).collect(),
            exemplars: Vec::new(),
        };
        let text = |s: &str| Val::Str(s.into());
        for (i, c) in self.counts {
            let name = self.attrs[i].to_string();
            for (side, kind) in KINDS.iter().enumerate() {
                let cells = side * self.slots.count..(side + 1) * self.slots.count;
                let totals = &c.totals[cells.clone()];
                if totals.iter().all(|n| *n == 0) {
                    continue;
                }
                let of_side = |counts: &Sparse| counts.iter().filter(|c| cells.contains(&(*c.0 as usize))).map(|c| *c.1).sum();
                let mut values: Vec<(&Val, &Sparse, u64)> =
                    c.values.iter().map(|(v, counts)| (&v.0, counts, of_side(counts))).filter(|v| v.2 > 0).collect();
                values.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.total_cmp(b.0)));
                // Those to come, and the two of the attribute itself.
                let more = values.len().min(self.top) + 2;
                if (out.len() + more).saturating_mul(self.slots.count) > self.max_cells {
                    return Err(too_many_values(self.max_cells));
                }
                for (v, counts, _) in values.iter().take(self.top) {
                    let dense: Vec<u64> = cells.clone().map(|cell| counts.get(&(cell as u32)).copied().unwrap_or(0)).collect();
                    out.push(series(vec![(LABEL_TYPE.into(), text(kind)), (name.clone(), (*v).clone())], &dense));
                }
                if c.too_many {
                    let labels = vec![(LABEL_ERROR.into(), text("__too_many_values__")), (name.clone(), Val::Nil)];
                    out.push(series(labels, &vec![0; self.slots.count]));
                }
                out.push(series(vec![(LABEL_TYPE.into(), text(&format!("{kind}_total"))), (name.clone(), Val::Nil)], totals));
            }
        }
        Ok(out)
    }
}

fn too_many_values(max_cells: usize) -> TraceQlError {
    TraceQlError::evaluation(format!("more than {max_cells} samples in all; take a larger step, or fewer values of each attribute"))
}
