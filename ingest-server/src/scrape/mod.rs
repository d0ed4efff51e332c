//! Scraping `[[scrape]]` targets, for who has exporters and no Prometheus.

mod page;
mod proto;
mod text;

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use strandline_storage::clock::{Clock, SystemClock};
use strandline_storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline_storage::model::{Exemplar, Labels, stale_nan};

use crate::app::App;
use crate::config::ScrapeJob;
use crate::counters::Counters;
use crate::families;
use page::{Page, Sample};

/// No page is read beyond this.
const MAX_PAGE: usize = 64 << 20;
const ACCEPT_TEXT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.75,\
    application/openmetrics-text;version=0.0.1;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.55,\
    text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
/// What comes before that where native histograms are wanted, which the texts can't say.
const ACCEPT_PROTO: &str =
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8,";

/// A target and how it is, as `/api/v1/targets` shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrapeTarget {
    /// Name of its job.
    pub job: String,
    /// host:port.
    pub address: String,
    /// `http`.
    pub scheme: String,
    /// Path of the page.
    pub path: String,
    /// What its series carry beside their own.
    pub labels: Vec<(String, String)>,
    /// Milliseconds between scrapes.
    pub interval_ms: i64,
    /// Milliseconds it may take.
    pub timeout_ms: i64,
    /// Unix milliseconds; 0: not yet.
    pub last_scrape_ms: i64,
    /// How long that took.
    pub last_duration_s: f64,
    /// Why it failed; empty: it did not.
    pub last_error: String,
}

impl ScrapeTarget {
    fn new(job: &ScrapeJob, address: &str) -> Self {
        let mut labels = vec![("instance".to_owned(), address.to_owned()), ("job".to_owned(), job.job.clone())];
        for (n, v) in &job.labels {
            labels.retain(|l| l.0 != *n);
            labels.push((n.clone(), v.clone()));
        }
        ScrapeTarget {
            job: job.job.clone(),
            address: address.to_owned(),
            scheme: job.scheme.clone(),
            path: job.path.clone(),
            labels,
            interval_ms: job.interval_ms,
            timeout_ms: job.timeout_ms,
            ..ScrapeTarget::default()
        }
    }
}

/// The form of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format.
    Text,
    /// OpenMetrics' text format.
    OpenMetrics,
    /// Prometheus' protobuf format; of histograms that are native and classic both are taken, or the native ones alone.
    Proto {
        /// Both.
        classic: bool,
    },
}

fn parse(page: &[u8], format: Format) -> Result<Page, String> {
    let open_metrics = match format {
        Format::Proto { classic } => return proto::parse(page, classic),
        other => other == Format::OpenMetrics,
    };
    text::parse(std::str::from_utf8(page).map_err(|_| "the page is not UTF-8")?, open_metrics)
}

/// What a page holds: the door of fuzz targets.
#[doc(hidden)]
pub fn decode(page: &[u8], format: Format) -> Result<Batch, String> {
    let page = parse(page, format)?;
    let mut b = BatchBuilder::default();
    for s in page.samples {
        let series = b.series(&s.labels);
        b.push(series, s.t_ms.unwrap_or(0), s.start_ms, s.value);
        s.exemplars.into_iter().for_each(|e| b.exemplar(series, e));
    }
    page.meta.into_iter().for_each(|(name, m)| b.metadata(name, m));
    Ok(b.finish())
}

/// Starts a task a target.
pub fn start(app: &Arc<App>) -> Vec<tokio::task::JoinHandle<()>> {
    let mut out = Vec::new();
    for job in &app.config.scrape {
        for target in &job.targets {
            let place = {
                let mut known = app.targets.write();
                known.push(ScrapeTarget::new(job, target));
                known.len() - 1
            };
            let t = Target { app: app.clone(), place, job: job.clone(), target: target.clone(), seen: Seen::default(), down: false };
            out.push(tokio::spawn(t.run()));
        }
    }
    out
}

struct Target {
    app: Arc<App>,
    /// Where among [`App::targets`].
    place: usize,
    job: ScrapeJob,
    target: String,
    seen: Seen,
    /// The last scrape failed.
    down: bool,
}

/// What the last page held.
#[derive(Default)]
struct Seen {
    /// Its series, and whether each gets a staleness marker once it is gone.
    series: HashMap<Labels, bool>,
    /// Exemplars without a time of their own: as long as one stays the same it is the one that was stored.
    exemplars: HashMap<Labels, Exemplar>,
}

impl Target {
    async fn run(mut self) {
        let client = match crate::http_client::builder("http:").timeout(Duration::from_millis(self.job.timeout_ms as u64)).build() {
            Ok(c) => c,
            Err(e) => {
                tracing::error!(job = self.job.job, error = %e, "the scrape client could not be made");
                return;
            }
        };
        // Targets are spread over the interval, each always at the same offset.
        let interval_ms = self.job.interval_ms as u64;
        let offset_ms = hash_of(&self.job.job, &self.target) % interval_ms;
        let now_ms = SystemClock.now_ms() as u64;
        let wait = (offset_ms + interval_ms - now_ms % interval_ms) % interval_ms;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let mut turn = tokio::time::interval(Duration::from_millis(interval_ms));
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            turn.tick().await;
            let t_ms = SystemClock.now_ms();
            let start = Instant::now();
            let scraped = self.fetch(&client).await;
            let took = start.elapsed().as_secs_f64();
            match &scraped {
                // Once until it is back: `up` tells the rest.
                Err(e) if !self.down => tracing::warn!(job = self.job.job, target = self.target, error = e, "the target can't be scraped"),
                Ok(_) if self.down => tracing::info!(job = self.job.job, target = self.target, "the target is scraped again"),
                _ => {}
            }
            self.down = scraped.is_err();
            if let Some(t) = self.app.targets.write().get_mut(self.place) {
                (t.last_scrape_ms, t.last_duration_s) = (t_ms, took);
                t.last_error = scraped.as_ref().err().cloned().unwrap_or_default();
            }
            if let Err(e) = self.store(scraped.ok(), t_ms, took).await {
                tracing::warn!(target = self.target, error = e, "scraped samples could not be stored");
            }
        }
    }

    async fn fetch(&self, client: &reqwest::Client) -> Result<Page, String> {
        let url = format!("{}://{}{}", self.job.scheme, self.target, self.job.path);
        let mut r = client
            .get(&url)
            .header("accept", if self.job.native_histograms { [ACCEPT_PROTO, ACCEPT_TEXT].concat() } else { ACCEPT_TEXT.to_owned() })
            .header("accept-encoding", "gzip")
            .header("user-agent", concat!("strandline/", env!("CARGO_PKG_VERSION")))
            .header("x-prometheus-scrape-timeout-seconds", (self.job.timeout_ms as f64 / 1000.0).to_string());
        if !self.job.username.is_empty() {
            let password = match &self.job.password_file {
                Some(p) => crate::config::read_file(p)?.trim().to_owned(),
                None => self.job.password.clone(),
            };
            let pair = crate::otlp::attributes::base64(format!("{}:{password}", self.job.username).as_bytes());
            r = r.header("authorization", format!("Basic {pair}"));
        }
        let mut answer = r.send().await.map_err(|e| with_causes(&e))?;
        if !answer.status().is_success() {
            return Err(format!("{url} answered {}", answer.status()));
        }
        let format = match answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("") {
            t if t.starts_with(families::MEDIA_TYPE) => Format::Proto { classic: self.job.classic_histograms },
            t if t.starts_with("application/openmetrics-text") => Format::OpenMetrics,
            _ => Format::Text,
        };
        let mut page = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| with_causes(&e))? {
            if page.len() + chunk.len() > MAX_PAGE {
                return Err(format!("the page is larger than {MAX_PAGE} bytes"));
            }
            page.extend_from_slice(&chunk);
        }
        let mut room = self.app.room();
        let page = crate::body::unpack(answer.headers(), page.into(), MAX_PAGE as u64, &mut room).map_err(|r| r.message)?;
        parse(&page, format)
    }

    /// The labels of a series: its own, and the target's. A page may also say of a label that it is empty.
    fn target_labels(&self, own: &Labels, emptied: &[String]) -> Labels {
        let mut b = own.to_builder();
        let mut set = |n: &str, v: &str| {
            if self.job.honor_labels && (own.get(n).is_some() || emptied.iter().any(|e| e == n)) {
                return;
            }
            if let Some(theirs) = own.get(n) {
                // What the exporter says under the same name is kept aside.
                let mut aside = format!("exported_{n}");
                while own.get(&aside).is_some() {
                    aside.insert_str(0, "exported_");
                }
                b.set(&aside, theirs);
            }
            b.set(n, v);
        };
        set("job", &self.job.job);
        set("instance", &self.target);
        for (n, v) in &self.job.labels {
            set(n, v);
        }
        b.build()
    }

    /// Puts a page's samples, and markers for what it no longer has; tells what was seen and how many series are new.
    fn page(&self, samples: Option<&[Sample]>, t_ms: i64, b: &mut BatchBuilder) -> (Seen, usize) {
        let mut seen = Seen::default();
        for s in samples.unwrap_or_default() {
            let labels = self.target_labels(&s.labels, &s.emptied);
            let series = b.series(&labels);
            b.push(series, s.t_ms.unwrap_or(t_ms), s.start_ms, s.value.clone());
            for e in &s.exemplars {
                if e.t != 0 || self.seen.exemplars.get(&labels) != Some(e) {
                    b.exemplar(series, Exemplar { t: if e.t == 0 { t_ms } else { e.t }, ..e.clone() });
                }
                if e.t == 0 {
                    seen.exemplars.insert(labels.clone(), e.clone());
                }
            }
            // Samples with times of their own do not go stale.
            *seen.series.entry(labels).or_insert(false) |= s.t_ms.is_none();
        }
        let added = seen.series.keys().filter(|labels| !self.seen.series.contains_key(*labels)).count();
        for (gone, _) in self.seen.series.iter().filter(|(labels, goes)| **goes && seen.series.get(*labels) != Some(&true)) {
            let series = b.series(gone);
            b.push(series, t_ms, 0, Value::Float(stale_nan()));
        }
        if samples.is_none() {
            // What the next page brings back is not new.
            seen.series = self.seen.series.keys().map(|labels| (labels.clone(), false)).collect();
            seen.exemplars = self.seen.exemplars.clone();
        }
        (seen, added)
    }

    async fn store(&mut self, scraped: Option<Page>, t_ms: i64, took_s: f64) -> Result<(), String> {
        if !self.app.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut b = BatchBuilder::default();
        let (up, count) = (scraped.is_some(), scraped.as_ref().map_or(0, |s| s.samples.len()));
        let (seen, added) = self.page(scraped.as_ref().map(|s| &s.samples[..]), t_ms, &mut b);
        let own = |name: &str| self.target_labels(&Labels::from_pairs([("__name__", name)]), &[]);
        for (name, v) in [
            ("up", up as u8 as f64),
            ("scrape_duration_seconds", took_s),
            ("scrape_samples_scraped", count as f64),
            ("scrape_samples_post_metric_relabeling", count as f64),
            ("scrape_series_added", added as f64),
        ] {
            let series = b.series(&own(name));
            b.push(series, t_ms, 0, Value::Float(v));
        }
        for (family, m) in scraped.into_iter().flat_map(|s| s.meta) {
            b.metadata(family, m);
        }
        let mut batch = b.finish();
        crate::drop_rules::apply(&self.app, &mut batch, None);
        let app = self.app.clone();
        app.admit_write().map_err(|r| r.message)?;
        let engine = app.tenants.get(&app.config.default_tenant).map_err(|e| e.to_string())?;
        let appended = engine.metrics().append(&batch).map_err(|e| e.to_string())?;
        for r in &appended.rejected {
            app.counters.refuse("scrape", r.why.as_str(), 1);
        }
        let n = appended.accepted;
        appended.commit.await.map_err(|e| e.to_string())?;
        Counters::add(&app.counters.samples, n);
        self.seen = seen;
        Ok(())
    }
}

/// An error of the client says least at its top.
fn with_causes(e: &(dyn std::error::Error + 'static)) -> String {
    let causes: Vec<String> = std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string).collect();
    causes.join(": ")
}

/// The same in every process, so that a restart keeps a target's offset.
fn hash_of(a: &str, b: &str) -> u64 {
    let mut h = std::collections::hash_map::DefaultHasher::new();
    h.write(a.as_bytes());
    h.write(b.as_bytes());
    h.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_new_what_is_gone_and_what_stays() {
        let data_dir = std::env::temp_dir().join(format!("strandline-scrape-seen-{}", std::process::id()));
        let app = App::new(Config { data_dir: data_dir.clone(), ..Config::default() }, 64 << 20, None, 0).unwrap();
        let job = ScrapeJob { job: "j".into(), ..ScrapeJob::default() };
        let mut target = Target { app, place: 0, job, target: "t:1".into(), seen: Seen::default(), down: false };
        let mut now_ms = 0;
        // Series that are new, markers, exemplars; no page is a scrape that failed.
        let mut turn = |page: Option<&str>| {
            now_ms += 1000;
            let samples = page.map(|p| text::parse(p, true).unwrap().samples);
            let mut b = BatchBuilder::default();
            let (seen, added) = target.page(samples.as_deref(), now_ms, &mut b);
            target.seen = seen;
            let batch = b.finish();
            let stale = |v: &Value| matches!(v, Value::Float(v) if strandline_storage::model::is_stale(*v));
            (added, batch.items.iter().filter(|i| stale(&i.value)).count(), batch.exemplars.iter().map(|e| e.1.t).collect::<Vec<_>>())
        };
        let page = "a 1\na 2\nb_total 1 # {x=\"1\"} 1\nc_total 1 # {x=\"1\"} 1 0.5\ntimed 1 1\n# EOF\n";
        assert_eq!(turn(Some(page)), (4, 0, vec![1000, 500]), "a series that a page has twice is one");
        assert_eq!(turn(Some(page)), (0, 0, vec![500]), "an exemplar without a time is new once; storage knows those with one");
        assert_eq!(turn(None), (0, 3, vec![]));
        assert_eq!(turn(None), (0, 0, vec![]));
        assert_eq!(turn(Some("b_total 1 # {x=\"1\"} 1\n# EOF\n")), (0, 0, vec![]), "it was known before the failures");
        assert_eq!(turn(Some("a 1\nb_total 1 # {x=\"2\"} 1\n# EOF\n")), (1, 0, vec![6000]));
        assert_eq!(turn(Some("# EOF\n")), (0, 2, vec![]));
        let _ = std::fs::remove_dir_all(data_dir);
    }

    #[test]
    fn whose_labels_count() {
        let data_dir = std::env::temp_dir().join(format!("strandline-scrape-{}", std::process::id()));
        let app = App::new(Config { data_dir: data_dir.clone(), ..Config::default() }, 64 << 20, None, 0).unwrap();
        let pushed = Labels::from_pairs([("__name__", "backups_total"), ("job", "backup")]);
        let target = |honor_labels: bool| {
            let job = ScrapeJob { job: "gateway".into(), honor_labels, ..ScrapeJob::default() };
            Target { app: app.clone(), place: 0, job, target: "g:9091".into(), seen: Seen::default(), down: false }
        };
        let labels = |honor_labels: bool| target(honor_labels).target_labels(&pushed, &[]);
        let aside = [("__name__", "backups_total"), ("exported_job", "backup"), ("instance", "g:9091"), ("job", "gateway")];
        assert_eq!(labels(false), Labels::from_pairs(aside));
        assert_eq!(labels(true), Labels::from_pairs([("__name__", "backups_total"), ("instance", "g:9091"), ("job", "backup")]));
        // As a Pushgateway says of groups without an instance that they have none.
        let none = ["instance".to_owned()];
        assert_eq!(target(true).target_labels(&pushed, &none), pushed);
        assert_eq!(target(false).target_labels(&pushed, &none), Labels::from_pairs(aside));
        let twice = Labels::from_pairs([("__name__", "up"), ("exported_job", "a"), ("job", "b")]);
        let kept = [("__name__", "up"), ("exported_exported_job", "b"), ("exported_job", "a"), ("instance", "g:9091"), ("job", "gateway")];
        assert_eq!(target(false).target_labels(&twice, &[]), Labels::from_pairs(kept));
        let _ = std::fs::remove_dir_all(data_dir);
    }
}
