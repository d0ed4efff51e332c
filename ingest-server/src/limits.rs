//! Rates of a tenant and of all, and who made the series when there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strandline_storage::Engine;

use crate::config::{Config, format_size};
use crate::refusal::{Reason, Refusal};

/// Names told.
const TOP: usize = 5;
/// Counting series by name is work: not more often than this.
const COUNT_AGAIN: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Samples of metrics.
    Samples,
    /// Spans.
    Spans,
}

/// So many a second, saved up for one second. A request passes while anything is left, whatever its size, and what it took
/// too much is made up for by those after it: so no request is too large to ever pass.
#[derive(Debug)]
struct Rate {
    per_s: f64,
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    fn new(per_s: u64, now: Instant) -> Option<Self> {
        (per_s > 0).then(|| Rate { per_s: per_s as f64, state: Mutex::new((per_s as f64, now)) })
    }
    fn left(&self, now: Instant) -> f64 {
        let mut s = self.state.lock();
        let came = now.saturating_duration_since(s.1).as_secs_f64() * self.per_s;
        *s = ((s.0 + came).min(self.per_s), now);
        s.0
    }
    fn spend(&self, n: u64, now: Instant) {
        self.left(now);
        self.state.lock().0 -= n as f64;
    }
}

/// Both units of one owner.
#[derive(Debug)]
struct Pair {
    samples: Option<Rate>,
    spans: Option<Rate>,
}

impl Pair {
    fn of(&self, u: Unit) -> Option<&Rate> {
        match u {
            Unit::Samples => self.samples.as_ref(),
            Unit::Spans => self.spans.as_ref(),
        }
    }
}

struct Tenant {
    rates: Arc<Pair>,
    offenders: (Option<Instant>, String),
}

/// Rates and offenders of all tenants that were open; as many as `tenants.max` lets be.
pub struct Limits {
    config: Arc<Config>,
    /// What bounds the series, in words.
    series_bound: String,
    all: Pair,
    tenants: Mutex<HashMap<String, Tenant>>,
}

fn tenant_of(e: &Engine) -> &str {
    &e.traces().options().tenant
}

impl Limits {
    /// By the configuration and the memory there is.
    pub fn new(config: Arc<Config>, memory_limit: u64) -> Self {
        let room = crate::memory::max_series(memory_limit);
        let series_bound = match config.max_series <= room {
            true => format!("limits.max_series = {}", config.max_series),
            false => format!("memory_limit = {} (room for {room} series)", format_size(memory_limit)),
        };
        let now = Instant::now();
        let all = Pair { samples: Rate::new(config.total_samples_per_second, now), spans: Rate::new(config.total_spans_per_second, now) };
        Limits { config, series_bound, all, tenants: Mutex::default() }
    }

    fn tenant<R>(&self, name: &str, f: impl FnOnce(&mut Tenant) -> R) -> R {
        let fresh = || {
            let now = Instant::now();
            let rates =
                Pair { samples: Rate::new(self.config.samples_per_second, now), spans: Rate::new(self.config.spans_per_second, now) };
            Tenant { rates: Arc::new(rates), offenders: (None, String::new()) }
        };
        f(self.tenants.lock().entry(name.to_owned()).or_insert_with(fresh))
    }

    /// Whether a tenant may send now.
    pub fn admit(&self, e: &Engine, u: Unit) -> Result<(), Refusal> {
        self.admit_at(tenant_of(e), u, Instant::now())
    }

    fn admit_at(&self, tenant: &str, u: Unit, now: Instant) -> Result<(), Refusal> {
        let key = if u == Unit::Samples { "samples_per_second" } else { "spans_per_second" };
        let refuse = |who: String, key: String, r: &Rate| {
            let text = format!("{who} sends more than limits.{key} = {}: send again later", r.per_s);
            Err(Refusal::new(Reason::Overloaded, text))
        };
        let own = self.tenant(tenant, |t| t.rates.clone());
        match (own.of(u), self.all.of(u)) {
            (Some(r), _) if r.left(now) <= 0.0 => refuse(format!("tenant {tenant}"), key.to_owned(), r),
            (_, Some(r)) if r.left(now) <= 0.0 => refuse("everyone together".into(), format!("total_{key}"), r),
            _ => Ok(()),
        }
    }

    /// Counts what was taken.
    pub fn spend(&self, e: &Engine, u: Unit, n: u64) {
        self.spend_at(tenant_of(e), u, n, Instant::now());
    }

    fn spend_at(&self, tenant: &str, u: Unit, n: u64, now: Instant) {
        let own = self.tenant(tenant, |t| t.rates.clone());
        [own.of(u), self.all.of(u)].into_iter().flatten().for_each(|r| r.spend(n, now));
    }

    /// The metric names with most series of a tenant whose limit is reached, in words; logged when counted.
    pub fn offenders(&self, e: &Engine) -> String {
        let now = Instant::now();
        let name = tenant_of(e);
        let known = self.tenant(name, |t| {
            let due = t.offenders.0.is_none_or(|at| now.duration_since(at) >= COUNT_AGAIN);
            t.offenders.0 = if due { Some(now) } else { t.offenders.0 };
            (!due).then(|| t.offenders.1.clone())
        });
        if let Some(known) = known {
            return known;
        }
        let text = format!("{} is reached; {}", self.series_bound, top_metrics(e));
        tracing::warn!(tenant = name, "new series are refused: {text}");
        self.tenant(name, |t| t.offenders.1.clone_from(&text));
        text
    }
}

fn top_metrics(e: &Engine) -> String {
    let mut counts: Vec<(u64, String)> = Vec::new();
    e.metrics().head().with_registry(|r| {
        r.visit_pairs(&mut |label, value, n| {
            if label == "__name__" {
                counts.push((n, value.to_owned()));
            }
        });
    });
    counts.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let top: Vec<String> = counts.iter().take(TOP).map(|(n, name)| format!("{name} ({n})")).collect();
    format!("most series are of {}", top.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tenants_rate_and_that_of_all() {
        let config = Config { samples_per_second: 100, total_samples_per_second: 150, ..Config::default() };
        let l = Limits::new(Arc::new(config), 1 << 40);
        let t = Instant::now();
        assert!(l.admit_at("a", Unit::Samples, t).is_ok());
        // More than the rate at once passes, and is made up for.
        l.spend_at("a", Unit::Samples, 120, t);
        let said = l.admit_at("a", Unit::Samples, t).unwrap_err();
        assert!(said.is_retryable() && said.message.contains("tenant a") && said.message.contains("samples_per_second = 100"));
        assert!(l.admit_at("a", Unit::Spans, t).is_ok(), "spans have no limit here");
        // Another tenant has its own, until all together are at their limit.
        assert!(l.admit_at("b", Unit::Samples, t).is_ok());
        l.spend_at("b", Unit::Samples, 40, t);
        let said = l.admit_at("b", Unit::Samples, t).unwrap_err();
        assert!(said.message.contains("total_samples_per_second"), "{}", said.message);
        // Time brings it back.
        let later = t + Duration::from_millis(300);
        assert!(l.admit_at("a", Unit::Samples, later).is_ok() && l.admit_at("b", Unit::Samples, later).is_ok());
    }
}
