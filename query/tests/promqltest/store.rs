//! Where a script's samples go: the metric store over a simulated disk, with start timestamps kept, and beside it the
//! source in memory. Every evaluation runs over both.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_query::promql::MemSource;
use strandline_storage::clock::ManualClock;
use strandline_storage::metrics::head::{AnyHistogram, BatchBuilder, Value};
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_storage::model::Labels;
use strandline_storage::read::SeriesSource;
use strandline_wal::WalOptions;
use strandline_wal::fs::{Fs, SimFs};

use super::run::custom_bucket_histograms;
use super::script::Load;
use super::values::Item;

pub struct Store {
    memory: MemSource,
    engine: Option<MetricStore>,
    /// Whether a histogram came with a start timestamp: no chunk encoding the store writes holds one, so from then on
    /// only the source in memory answers as the script wants.
    histogram_starts: bool,
}

const YEARS: i64 = 100 * 365 * 86_400_000;

impl Store {
    pub fn new() -> Self {
        Store { memory: MemSource::new(), engine: None, histogram_starts: false }
    }

    pub fn sources(&self) -> Vec<(&'static str, &dyn SeriesSource)> {
        let mut out: Vec<(&'static str, &dyn SeriesSource)> = Vec::new();
        if let Some(e) = &self.engine
            && !self.histogram_starts
        {
            out.push(("store", e));
        }
        out.push(("memory", &self.memory));
        out
    }

    fn engine(&mut self) -> Result<&MetricStore, String> {
        if self.engine.is_none() {
            let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
            let mut o = MetricOptions::new(fs, Arc::new(ManualClock::new(YEARS / 2)), "/data");
            o.wal = WalOptions { background: false, ..WalOptions::default() };
            o.rules.xor2 = true;
            o.rules.start_timestamps = true;
            o.rules.max_sample_age_ms = YEARS;
            o.rules.out_of_order_window_ms = YEARS;
            o.rules.range_ms = 1000 * 86_400_000;
            self.engine = Some(MetricStore::open(o).map_err(|e| e.to_string())?);
        }
        self.engine.as_ref().ok_or_else(|| "no store".to_owned())
    }

    pub fn load(&mut self, l: &Load) -> Result<(), String> {
        // A later line for a series and time takes the place of an earlier one.
        let mut loaded: BTreeMap<Labels, BTreeMap<i64, (i64, Value)>> = BTreeMap::new();
        for (d, starts) in &l.series {
            let series = loaded.entry(d.labels.clone()).or_default();
            for (i, item) in d.items.iter().enumerate() {
                let t = i as i64 * l.step;
                let st = starts.get(i).copied().flatten().map_or(0, |o| t + o);
                match item {
                    Item::Blank => {}
                    Item::Float(v) => {
                        self.memory.push_with_start(&d.labels, t, *v, st);
                        series.insert(t, (st, Value::Float(*v)));
                    }
                    Item::Histogram(h, _) => {
                        self.memory.push_histogram(&d.labels, t, (**h).clone(), st);
                        series.insert(t, (st, Value::Histogram(AnyHistogram::Float(h.clone()))));
                        self.histogram_starts |= st != 0;
                    }
                }
            }
        }
        if l.with_nhcb {
            for (labels, t, h) in custom_bucket_histograms(l) {
                self.memory.push_histogram(&labels, t, h.clone(), 0);
                loaded.entry(labels).or_default().insert(t, (0, Value::Histogram(AnyHistogram::Float(Arc::new(h)))));
            }
        }
        let mut batch = BatchBuilder::default();
        for (labels, samples) in &loaded {
            let key = batch.series(labels);
            for (t, (st, v)) in samples {
                batch.push(key, *t, *st, v.clone());
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let done = self.engine()?.append(&batch.finish()).map_err(|e| e.to_string())?;
        let refused: Vec<String> = done.rejected.iter().map(|r| format!("{:?}", r)).collect();
        done.commit.wait().map_err(|e| e.to_string())?;
        if refused.is_empty() { Ok(()) } else { Err(format!("{} samples refused, first: {}", refused.len(), refused[0])) }
    }
}
