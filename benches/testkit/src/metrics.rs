//! Metrics of a fleet: hosts with counters, gauges and latency buckets, eight to ten labels a series.

use crate::Random;

/// How a series moves from sample to sample.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Whole steps upward.
    Counter(f64),
    /// Steps of a hundredth.
    CpuCounter(f64),
    /// Multiples of a page, up and down.
    PageGauge,
    /// Never moves.
    Constant,
    /// Two decimals around a middle.
    TwoDecimal(f64),
    /// All bits move.
    Full,
}

/// A series: its labels sorted by name, and its value.
#[derive(Clone, Debug)]
pub struct Series {
    /// Sorted pairs.
    pub labels: Vec<(String, String)>,
    /// How it moves.
    pub kind: Kind,
    /// The value at the last step.
    pub value: f64,
}

impl Series {
    /// The next value.
    pub fn step(&mut self, r: &mut Random) -> f64 {
        match self.kind {
            Kind::Counter(n) => self.value += (n * r.between(0.5, 1.5)).round(),
            Kind::CpuCounter(n) => self.value = ((self.value + n * r.between(0.8, 1.2)) * 100.0).round() / 100.0,
            Kind::PageGauge if r.chance(0.7) => self.value = (self.value + 4096.0 * (r.below(1000) as f64 - 500.0)).max(0.0),
            Kind::TwoDecimal(mid) => self.value = (mid * r.between(0.5, 1.6) * 100.0).round() / 100.0,
            Kind::Full => self.value += r.between(0.1, 2.0),
            Kind::PageGauge | Kind::Constant => {}
        }
        self.value
    }
}

/// Series of one host.
pub const SERIES_A_HOST: usize = 100;

/// The series of host `n`: [`SERIES_A_HOST`] of them.
pub fn host(n: usize) -> Vec<Series> {
    let mut out = Vec::with_capacity(SERIES_A_HOST);
    let region = ["eu-west-1", "us-east-1", "ap-south-1"][n % 3];
    let instance = format!("10.{}.{}.{}:9100", n >> 16 & 255, n >> 8 & 255, n & 255);
    let mut add = |name: &str, job: &str, extra: &[(&str, String)], kind, value| {
        let mut labels: Vec<(String, String)> = [
            ("__name__", name.to_owned()),
            ("cluster", format!("c{}", n % 7)),
            ("env", if n.is_multiple_of(10) { "staging" } else { "prod" }.to_owned()),
            ("instance", instance.clone()),
            ("job", job.to_owned()),
            ("region", region.to_owned()),
            ("team", format!("team-{}", n % 20)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        labels.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        labels.sort();
        out.push(Series { labels, kind, value });
    };
    for cpu in 0..4 {
        for (mode, n) in [("idle", 12.0), ("user", 2.0), ("system", 0.7), ("iowait", 0.1), ("steal", 0.0)] {
            let extra = [("cpu", format!("{cpu}")), ("mode", mode.to_owned())];
            add("node_cpu_seconds_total", "node", &extra, Kind::CpuCounter(n), 1000.0 * n);
        }
    }
    for part in ["total", "free", "available", "buffers", "cached"] {
        let kind = if part == "total" { Kind::Constant } else { Kind::PageGauge };
        add("node_memory_bytes", "node", &[("part", part.to_owned())], kind, 4096.0 * 500_000.0);
    }
    for i in 0..5 {
        add("node_load", "node", &[("over", format!("{i}m"))], Kind::TwoDecimal(0.8), 0.8);
    }
    for handler in ["/api/v1/records", "/api/v1/tables", "/health"] {
        for (code, n) in [("200", 40.0), ("404", 0.5), ("500", 0.05)] {
            let extra = [("code", code.to_owned()), ("handler", handler.to_owned()), ("method", "GET".to_owned())];
            add("http_requests_total", "api", &extra, Kind::Counter(n), 0.0);
        }
        for (i, le) in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"].into_iter().enumerate() {
            let extra = [("handler", handler.to_owned()), ("le", le.to_owned())];
            add("http_request_duration_seconds_bucket", "api", &extra, Kind::Counter(4.0 * (i + 1) as f64), 0.0);
        }
        for i in 0..10 {
            let extra = [("handler", handler.to_owned()), ("pool", format!("p{i}"))];
            add("http_pool_wait_seconds_total", "api", &extra, Kind::Full, 0.0);
        }
    }
    add("up", "node", &[("exporter", "node".to_owned())], Kind::Constant, 1.0);
    out.truncate(SERIES_A_HOST);
    while out.len() < SERIES_A_HOST {
        let mut more = out[0].clone();
        more.labels.push(("zz".into(), out.len().to_string()));
        out.push(more);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_distinct_series_of_eight_to_ten_labels() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..20 {
            let h = host(n);
            assert_eq!(h.len(), SERIES_A_HOST);
            for s in h {
                assert!((8..=10).contains(&s.labels.len()), "{:?}", s.labels);
                assert!(s.labels.is_sorted());
                assert!(seen.insert(s.labels));
            }
        }
    }
}
