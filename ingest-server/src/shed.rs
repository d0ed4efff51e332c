//! Applying `[[drop]]` rules to a batch: their samples vanish, counted and acknowledged.

use strandline_storage::index::RawLabels;
use strandline_storage::metrics::head::{Batch, SeriesKey};

use crate::app::App;
use crate::counters::Counters;

/// Takes out of the batch the items of series that a rule names.
pub fn apply(app: &App, batch: &mut Batch, mut beside: Option<&mut Vec<u32>>) {
    let Some(rules) = app.drops() else { return };
    let dropped: Vec<bool> = batch
        .series
        .iter()
        .map(|k| {
            let SeriesKey::Raw { start, len } = *k else { return false };
            let raw = batch.raw.get(start as usize..(start + len) as usize).unwrap_or(&[]);
            let pairs: Vec<(&[u8], &[u8])> = RawLabels(raw).flatten().collect();
            let value =
                |name: &str| pairs.iter().find(|(n, _)| *n == name.as_bytes()).and_then(|(_, v)| std::str::from_utf8(v).ok()).unwrap_or("");
            rules.iter().any(|r| r.iter().all(|m| m.matches(value(&m.name))))
        })
        .collect();
    if !dropped.contains(&true) {
        return;
    }
    let keep: Vec<bool> = batch.items.iter().map(|i| !dropped[i.series as usize]).collect();
    Counters::add(&app.counters.dropped_samples, keep.iter().filter(|k| !**k).count() as u64);
    let mut it = keep.iter();
    batch.items.retain(|_| *it.next().unwrap_or(&true));
    if let Some(beside) = beside.as_mut() {
        let mut it = keep.iter();
        beside.retain(|_| *it.next().unwrap_or(&true));
    }
    batch.exemplars.retain(|(s, _)| !dropped[*s as usize]);
}
