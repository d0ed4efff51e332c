//! The API over the server's tenants.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use strandline_query::promql::{Engine, EngineOptions};
use strandline_storage::clock::SystemClock;
use strandline_storage::model::METRIC_NAME;
use strandline_storage::read::SeriesSource;

use super::{PromOptions, PromState, StoreNumbers, Stores};
use crate::app::App;
use crate::auth::Right;
use crate::refusal::Refusal;
use crate::scrape::ScrapeTarget;

struct Tenants(Arc<App>);

impl Stores for Tenants {
    fn source(&self, headers: &HeaderMap) -> Result<Arc<dyn SeriesSource>, Refusal> {
        Ok(Arc::new(self.0.engine(headers, Right::Read)?.metrics().clone()))
    }

    fn numbers(&self, headers: &HeaderMap, top: usize) -> Result<StoreNumbers, Refusal> {
        let engine = self.0.engine(headers, Right::Read)?;
        let head = engine.metrics().head();
        let stats = head.stats();
        let mut n = StoreNumbers { series: stats.series as u64, chunks: stats.chunks, ..StoreNumbers::default() };
        if stats.min_t <= stats.max_t {
            (n.min_time_ms, n.max_time_ms) = (stats.min_t, stats.max_t);
        }
        let mut by_label: HashMap<String, (u64, u64)> = HashMap::new();
        let mut metrics = Top::new(top);
        let mut pairs = Top::new(top);
        head.with_registry(|r| {
            r.visit_pairs(&mut |name, value, series| {
                n.label_pairs += 1;
                if !by_label.contains_key(name) {
                    by_label.insert(name.to_owned(), (0, 0));
                }
                if let Some((values, bytes)) = by_label.get_mut(name) {
                    *values += 1;
                    *bytes += value.len() as u64 * series;
                }
                if name == METRIC_NAME {
                    metrics.offer(series, || value.to_owned());
                }
                pairs.offer(series, || format!("{name}={value}"));
            });
        });
        let list = |of: fn(&(u64, u64)) -> u64| {
            let mut t = Top::new(top);
            by_label.iter().for_each(|(name, v)| t.offer(of(v), || name.clone()));
            t.into_list()
        };
        n.values_by_label = list(|v| v.0);
        n.bytes_by_label = list(|v| v.1);
        n.series_by_metric = metrics.into_list();
        n.series_by_pair = pairs.into_list();
        Ok(n)
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.0.identify(headers, Right::Read).map(|_| ())
    }

    fn targets(&self) -> Vec<ScrapeTarget> {
        self.0.targets.read().clone()
    }
}

/// The `n` largest.
struct Top {
    n: usize,
    list: Vec<(u64, String)>,
}

impl Top {
    fn new(n: usize) -> Self {
        Top { n, list: Vec::new() }
    }

    fn offer(&mut self, v: u64, name: impl FnOnce() -> String) {
        if self.n == 0 || (self.list.len() >= self.n.saturating_mul(2) && self.list.get(self.n - 1).is_some_and(|least| v <= least.0)) {
            return;
        }
        self.list.push((v, name()));
        // Put in order now and then: between, the list holds a few more than asked for.
        if self.list.len() > self.n.saturating_mul(4) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        self.list.truncate(self.n);
    }

    fn into_list(mut self) -> Vec<(String, u64)> {
        self.cut();
        self.list.into_iter().map(|(v, n)| (n, v)).collect()
    }
}

/// The API's state over the server's.
pub fn state_of(app: &Arc<App>) -> PromState {
    let c = &app.config;
    let mut o = EngineOptions::default();
    o.lookback_ms = c.query_lookback_ms;
    o.max_samples = c.query_max_samples;
    o.max_series = c.query_max_series;
    o.max_bytes = (app.memory_limit / 4).max(64 << 20);
    o.max_bytes_together = (app.memory_limit / 8 * 3).max(96 << 20);
    o.timeout = Duration::from_millis(c.query_timeout_ms.max(1) as u64);
    PromState::new(PromOptions {
        stores: Arc::new(Tenants(app.clone())),
        engine: Engine::new(o),
        clock: Arc::new(SystemClock),
        concurrency: c.query_concurrency.max(1) as usize,
        started_ms: app.started_ms,
        config: crate::config::yaml(c),
        flags: vec![
            ("query.lookback-delta".to_owned(), format!("{}ms", c.query_lookback_ms)),
            ("query.max-concurrency".to_owned(), c.query_concurrency.to_string()),
            ("query.max-samples".to_owned(), c.query_max_samples.to_string()),
            ("query.timeout".to_owned(), format!("{}ms", c.query_timeout_ms)),
        ],
        retention: if c.metrics_retention_ms > 0 { format!("{}h", c.metrics_retention_ms / 3_600_000) } else { "forever".to_owned() },
        max_body_bytes: c.max_body_bytes,
    })
}

#[cfg(test)]
#[test]
fn the_largest_stay() {
    let mut t = Top::new(3);
    for v in 0..100u64 {
        t.offer(v * 37 % 100, || v.to_string());
    }
    assert_eq!(t.into_list().into_iter().map(|x| x.1).collect::<Vec<_>>(), [99, 98, 97]);
}
