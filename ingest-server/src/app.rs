//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use strandline_storage::Engine;
use strandline_storage::metrics::ReplayProgress;

use crate::auth::{Auth, Identity, Right};
use crate::config::{Config, DropRule};
use crate::connections::{Bounds, Connections};
use crate::counters::Counters;
use crate::drop_rules::{self, Rule};
use crate::health::Health;
use crate::limits::Limits;
use crate::otlp::Translation;
use crate::otlp::names::Strategy;
use crate::otlp::writers::Writers;
use crate::refusal::{Reason, Refusal};
use crate::scrape::ScrapeTarget;
use crate::tenants::Tenants;
use crate::throttle::OncePerMinute;

/// The server's state; shared by all listeners.
pub struct App {
    /// As loaded.
    pub config: Arc<Config>,
    /// Engines.
    pub tenants: Tenants,
    /// Counts for `/metrics`.
    pub counters: Counters,
    /// Connections of all listeners.
    pub connections: Arc<Connections>,
    /// Rates, and who made too many series.
    pub limits: Limits,
    /// Jobs that more than one process writes.
    pub writers: Writers,
    /// How OTLP is translated.
    pub translation: Translation,
    /// Bytes that all together may hold.
    pub memory_limit: u64,
    /// Users and tokens, if there is auth.
    pub auth: Option<Auth>,
    drop_rules: RwLock<Arc<[Rule]>>,
    in_flight: AtomicU64,
    max_in_flight: u64,
    /// Memory is short: senders are told to wait.
    pub pressed: AtomicBool,
    /// The disk is nearly full.
    pub disk_short: AtomicBool,
    /// Why the disk refuses writes, if it does.
    pub bad_disk: Mutex<Option<String>>,
    /// Replay is done.
    pub ready: AtomicBool,
    /// The same for those who ask by gRPC.
    pub health: Health,
    /// How far replay is.
    pub replay: Mutex<ReplayProgress>,
    /// A log of OTLP logs refused was written once.
    pub logs_warned: AtomicBool,
    /// The `[[scrape]]` targets and how they are.
    pub targets: RwLock<Vec<ScrapeTarget>>,
    /// Paces the log's lines about refused spans.
    pub refused_spans_log: OncePerMinute,
    /// Paces the log's lines about refused points.
    pub refused_points_log: OncePerMinute,
    /// When the process began, Unix milliseconds.
    pub started_ms: i64,
}

/// Room taken by a request; it grows with what is read and unpacked, and is given back when dropped.
pub struct Room {
    app: Arc<App>,
    bytes: u64,
}

impl Room {
    /// Takes so many bytes more, or says that there is no room. A request that is alone always has room: its size is
    /// bounded by [`App::max_body_bytes`].
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        let before = self.app.in_flight.fetch_add(bytes, Ordering::AcqRel);
        let others = before - self.bytes;
        self.bytes += bytes;
        if others > 0 && before + bytes > self.app.max_in_flight {
            return Err(Refusal::new(Reason::Overloaded, "too many bytes of requests in flight (server.max_in_flight); send again later"));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.app.in_flight.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What does not parse was told when the configuration was read.
fn parsed_rules(rules: &[DropRule]) -> Arc<[Rule]> {
    rules.iter().filter_map(|r| drop_rules::parse(&r.matchers).ok()).collect()
}

impl App {
    /// State over a configuration.
    pub fn new(config: Config, memory_limit: u64, auth: Option<Auth>, started_ms: i64) -> strandline_storage::Result<Arc<Self>> {
        let config = Arc::new(config);
        let translation = Translation {
            strategy: Strategy::named(&config.otlp_strategy),
            promote: config.otlp_promote.clone(),
            promote_all: config.otlp_promote_all,
            scope_labels: config.otlp_scope_labels,
            nhcb: config.otlp_histograms_as_nhcb,
            target_info: config.otlp_target_info,
            target_info_every_ms: config.query_lookback_ms / 2,
        };
        let max_in_flight = if config.max_in_flight_bytes > 0 { config.max_in_flight_bytes } else { (memory_limit / 8).max(16 << 20) };
        let app = App {
            tenants: Tenants::new(config.clone(), memory_limit)?,
            counters: Counters::default(),
            connections: Connections::new(Bounds::new(&config)),
            limits: Limits::new(config.clone(), memory_limit),
            writers: Writers::default(),
            translation,
            memory_limit,
            auth,
            drop_rules: RwLock::new(parsed_rules(&config.drop)),
            in_flight: AtomicU64::new(0),
            max_in_flight,
            pressed: AtomicBool::new(false),
            disk_short: AtomicBool::new(false),
            bad_disk: Mutex::default(),
            ready: AtomicBool::new(false),
            health: Health::default(),
            replay: Mutex::default(),
            logs_warned: AtomicBool::new(false),
            targets: RwLock::default(),
            refused_spans_log: OncePerMinute::default(),
            refused_points_log: OncePerMinute::default(),
            started_ms,
            config,
        };
        Ok(Arc::new(app))
    }

    /// Replaces the `[[drop]]` rules.
    pub fn set_drop_rules(&self, rules: &[DropRule]) {
        *self.drop_rules.write() = parsed_rules(rules);
    }

    /// The `[[drop]]` rules in force.
    pub fn drop_rules(&self) -> Arc<[Rule]> {
        self.drop_rules.read().clone()
    }

    /// Room for a request of which nothing is known yet.
    pub fn room(self: &Arc<Self>) -> Room {
        Room { app: self.clone(), bytes: 0 }
    }

    /// The largest request, unpacked: `server.max_body`, or less where memory_limit is small.
    pub fn max_body_bytes(&self) -> u64 {
        self.config.max_body_bytes.min((self.memory_limit / 8).max(4 << 20))
    }

    /// Bytes of requests being worked on.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether writes are taken now.
    pub fn admit_write(&self) -> Result<(), Refusal> {
        if !self.ready.load(Ordering::Acquire) {
            return Err(Refusal::new(Reason::Unavailable, "starting: the log is being replayed"));
        }
        if self.pressed.load(Ordering::Relaxed) {
            return Err(Refusal::new(Reason::Overloaded, "memory_limit is reached: data is being flushed; send again later"));
        }
        if self.disk_short.load(Ordering::Relaxed) {
            return Err(Refusal::new(Reason::Unavailable, "the disk has less than storage.min_free left; make room"));
        }
        Ok(())
    }

    /// Who asks, by their headers.
    pub fn identify(&self, headers: &HeaderMap, right: Right) -> Result<Identity, Refusal> {
        let counts = self.auth.is_some() || self.config.tenants_from_header;
        let named = headers.get("x-scope-orgid").and_then(|v| v.to_str().ok()).filter(|s| counts && !s.is_empty());
        if named.is_some_and(|t| !crate::config::valid_tenant(t)) {
            return Err(Refusal::new(Reason::Invalid, "X-Scope-OrgID must be 1 to 128 of the characters a-z A-Z 0-9 - _ ."));
        }
        match &self.auth {
            Some(a) => a.check(headers, named, right),
            None => Ok(Identity { tenant: named.unwrap_or(&self.config.default_tenant).to_owned() }),
        }
    }

    /// The engine of whoever asks. Opening one may take a while: call it off the runtime's threads.
    pub fn engine(&self, headers: &HeaderMap, right: Right) -> Result<Engine, Refusal> {
        let who = self.identify(headers, right)?;
        // A folder that can't be opened is no fault of the sender, who would drop what is refused as invalid.
        self.tenants.get(&who.tenant).map_err(|e| match Refusal::from(e) {
            r if r.is_retryable() => r,
            r => Refusal { reason: Reason::Unavailable, ..r },
        })
    }

    /// Refuses what a web page of another origin (or a rebound name) would send to a mutating endpoint.
    pub fn same_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |n: &str| headers.get(n).and_then(|v| v.to_str().ok());
        let host = text("host").unwrap_or("");
        if let Some(origin) = text("origin") {
            let bare = origin.trim_start_matches("http://").trim_start_matches("https://");
            if bare != host {
                return Err(Refusal::new(Reason::Forbidden, format!("origin {origin} may not change data here")));
            }
        }
        let name = host.rsplit_once(':').map_or(host, |(h, p)| if p.bytes().all(|b| b.is_ascii_digit()) { h } else { host });
        let literal = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        if self.auth.is_none() && !self.config.insecure && !host.is_empty() && !literal && name != "localhost" {
            return Err(Refusal::new(Reason::Forbidden, format!("host {name} is not this machine's own name; set up auth to use names")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use strandline_storage::engine::UNFINISHED;
    use strandline_wal::fs::{Fs, RealFs};

    use super::*;

    #[test]
    fn a_folder_that_can_not_be_opened_is_no_fault_of_the_sender() {
        let data_dir = std::env::temp_dir().join(format!("strandline-app-{}", std::process::id()));
        let copied = data_dir.join("tenants/copied");
        RealFs::default().create_dir_all(&copied).unwrap();
        RealFs::default().write_atomic(&copied.join(UNFINISHED), b"").unwrap();
        let app =
            App::new(Config { data_dir: data_dir.clone(), tenants_from_header: true, ..Config::default() }, 64 << 20, None, 0).unwrap();
        let headers = HeaderMap::from_iter([("x-scope-orgid".parse().unwrap(), "copied".parse().unwrap())]);
        let refusal = app.engine(&headers, Right::Write).err().unwrap();
        assert!(refusal.is_retryable() && refusal.message.contains("data was being copied"), "{refusal:?}");
        RealFs::default().remove_file(&copied.join(UNFINISHED)).unwrap();
        app.engine(&headers, Right::Write).unwrap();
        app.tenants.close().unwrap();
        RealFs::default().remove_dir_all(&data_dir).unwrap();
    }
}
