//! Making series. Those of a request are made in groups: a group waits for each lock once, and the index takes its slots as
//! runs. It is in the index whole before its samples are written, and the series are in their stripes before that.

use strandline_wal::sync::atomic::Ordering;

use super::batch::Batch;
use super::series::Series;
use super::stripe::Refusal;
use super::{Head, Slots};
use crate::index::{RawLabels, RawPair, Registry, canonical};
use crate::model::{Labels, METRIC_NAME};

/// So many series are put into the index together: it is locked for some ten microseconds.
const GROUP: usize = 32;

/// The slot of a series, or why there is none.
pub(super) type Made = std::result::Result<u32, (Refusal, String)>;

/// A series to be made, with its slot.
struct Fresh {
    slot: u32,
    hash: u32,
    canonical: Vec<u8>,
}

impl Head {
    /// Finds or makes the series of a batch at the places `wanted`; tells of each.
    pub(super) fn find_or_create(&self, slots: &mut Slots, batch: &Batch, wanted: &[usize], tell: &mut dyn FnMut(usize, Made)) {
        let mut fresh = Vec::with_capacity(GROUP);
        for group in wanted.chunks(GROUP) {
            let registry = self.registry.read();
            for i in group {
                let raw = batch.raw_of(&batch.series[*i]);
                tell(*i, self.find_or_plan(&registry, slots, raw, batch.require_name, &mut fresh));
            }
            drop(registry);
            self.create(&mut fresh);
        }
    }

    /// As [`Head::find_or_create`], of one series that needs no name.
    pub(super) fn find_or_create_one(&self, raw: &[u8]) -> Made {
        let mut slots = self.creation.lock();
        let mut fresh = Vec::new();
        let made = self.find_or_plan(&self.registry.read(), &mut slots, raw, false, &mut fresh);
        self.create(&mut fresh);
        made
    }

    /// The slot of a series that is there, or of one of `fresh`, to which it is added if need be.
    fn find_or_plan(&self, registry: &Registry, slots: &mut Slots, raw: &[u8], require_name: bool, fresh: &mut Vec<Fresh>) -> Made {
        let labels = self.check_labels(raw, require_name)?;
        let mut sorted = Vec::with_capacity(raw.len());
        canonical(labels.iter().copied(), &mut sorted);
        let hash = registry.hasher().hash(&sorted);
        let planned = || fresh.iter().find(|f| f.hash == hash && f.canonical == sorted).map(|f| f.slot);
        if let Some(slot) = registry.find(hash, &sorted).or_else(planned) {
            return Ok(slot);
        }
        let full = self.full.load(Ordering::Relaxed);
        if full || registry.len() + fresh.len() >= self.limits.max_series {
            let pairs = labels.iter().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v)));
            let labels = Labels::from_pairs(pairs);
            let text = match full {
                true => format!("there is no memory left for more series; {labels} is new"),
                false => format!("the limit of {} active series is reached; {labels} is new", self.limits.max_series),
            };
            return Err((Refusal::SeriesLimit, text));
        }
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        });
        fresh.push(Fresh { slot, hash, canonical: sorted });
        Ok(slot)
    }

    /// Makes what was planned.
    fn create(&self, fresh: &mut Vec<Fresh>) {
        if fresh.is_empty() {
            return;
        }
        for f in &*fresh {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let (stripe, index) = Self::stripe_of(f.slot);
            let mut s = self.stripes[stripe].lock();
            while s.series.len() <= index as usize {
                s.series.push(Series::default());
            }
            if let Some(x) = s.series.get_mut(index as usize) {
                *x = Series::new(id);
            }
        }
        let mut registry = self.registry.write();
        fresh.drain(..).for_each(|f| registry.insert(f.slot, f.hash, &f.canonical));
        registry.settle();
    }

    /// The pairs sorted by name, without empty values; all UTF-8.
    fn check_labels<'a>(&self, raw: &'a [u8], require_name: bool) -> std::result::Result<Vec<RawPair<'a>>, (Refusal, String)> {
        let invalid = |text: &str| Err((Refusal::InvalidLabels, text.to_owned()));
        let too_long = |text: String| Err((Refusal::LabelTooLong, text));
        let l = &self.limits;
        let ascii = raw.is_ascii();
        let mut pairs: Vec<RawPair<'a>> = Vec::with_capacity(16);
        for p in RawLabels(raw) {
            let Some((n, v)) = p else { return invalid("the labels are not decodable") };
            if !ascii && (std::str::from_utf8(n).is_err() || std::str::from_utf8(v).is_err()) {
                return invalid("a label is not UTF-8");
            }
            if n.is_empty() {
                return invalid("a label has no name");
            }
            if n.len() > l.max_label_name_bytes {
                return too_long(format!("label name of {} bytes is longer than {}", n.len(), l.max_label_name_bytes));
            }
            if v.len() > l.max_label_value_bytes {
                let n = String::from_utf8_lossy(n);
                return too_long(format!("value of label {n} has {} bytes, more than {}", v.len(), l.max_label_value_bytes));
            }
            if !v.is_empty() {
                pairs.push((n, v));
            }
        }
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            pairs.sort_by_key(|p| p.0);
        }
        if let Some(d) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err((Refusal::DuplicateLabel, format!("label {} stands twice", String::from_utf8_lossy(d[0].0))));
        }
        if pairs.len() > l.max_labels {
            return Err((Refusal::TooManyLabels, format!("{} labels are more than {}", pairs.len(), l.max_labels)));
        }
        if pairs.is_empty() {
            return invalid("the series has no labels");
        }
        let named = pairs.binary_search_by_key(&METRIC_NAME.as_bytes(), |p| p.0).is_ok();
        if require_name && !named {
            return invalid("the series has no metric name");
        }
        Ok(pairs)
    }
}
