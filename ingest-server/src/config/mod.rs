//! Configuration: one TOML file, every key also by environment and the common ones by flag.
//!
//! One table of keys ([`schema::KEYS`]) drives parsing, checking, the environment and the documentation.

mod check;
mod schema;
mod units;
mod yaml;

use std::path::PathBuf;

pub use check::{Mistake, load};
pub(crate) use check::{read_file, valid_tenant};
pub use schema::{KEYS, Key, Kind, PER_TENANT, Parsed, reference};
pub(crate) use units::parse_sync;
pub use units::{format_size, parse_duration_ms, parse_size};
pub use yaml::yaml;

/// Everything that can be set. Plain data.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub data_dir: PathBuf,
    pub memory_limit_bytes: u64,
    pub insecure: bool,
    pub listen: String,
    pub otlp_grpc: String,
    pub otlp_http: String,
    pub max_body_bytes: u64,
    pub max_in_flight_bytes: u64,
    pub max_connections: u64,
    pub read_timeout_ms: i64,
    pub body_timeout_ms: i64,
    pub write_timeout_ms: i64,
    pub idle_timeout_ms: i64,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub auth_file: Option<PathBuf>,
    pub wal_sync: String,
    pub wal_segment_bytes: u64,
    pub io: String,
    pub bucket_url: String,
    pub bucket_endpoint: String,
    pub bucket_region: String,
    pub bucket_access_key_id: String,
    pub bucket_secret_access_key: String,
    pub bucket_session_token: String,
    pub bucket_instance_metadata: bool,
    pub bucket_ca_file: Option<PathBuf>,
    pub bucket_timeout_ms: i64,
    pub bucket_cache_bytes: u64,
    pub bucket_disk_cache_bytes: u64,
    pub metrics_retention_ms: i64,
    pub metrics_retention_bytes: u64,
    pub local_retention_ms: i64,
    pub out_of_order_window_ms: i64,
    pub max_sample_age_ms: i64,
    pub chunk_encoding: String,
    pub start_timestamps: bool,
    pub max_series: u64,
    pub max_labels: u64,
    pub max_label_value_bytes: u64,
    pub max_exemplars: u64,
    pub max_label_name_bytes: u64,
    pub samples_per_second: u64,
    pub spans_per_second: u64,
    pub total_samples_per_second: u64,
    pub total_spans_per_second: u64,
    pub max_span_bytes: u64,
    pub max_span_attributes: u64,
    pub max_span_attribute_bytes: u64,
    pub max_span_events: u64,
    pub external_labels: Vec<(String, String)>,
    pub traces_retention_ms: i64,
    pub traces_retention_bytes: u64,
    pub traces_flush_age_ms: i64,
    pub traces_max_live_bytes: u64,
    pub compaction: bool,
    pub min_free_bytes: u64,
    pub query_timeout_ms: i64,
    pub query_max_samples: u64,
    pub query_max_series: u64,
    pub query_concurrency: u64,
    pub query_lookback_ms: i64,
    pub otlp_strategy: String,
    pub otlp_promote: Vec<String>,
    pub otlp_promote_all: bool,
    pub otlp_cors_origins: Vec<String>,
    pub otlp_scope_labels: bool,
    pub otlp_histograms_as_nhcb: bool,
    pub otlp_target_info: bool,
    pub tenants_from_header: bool,
    pub default_tenant: String,
    pub max_tenants: u64,
    pub log_level: String,
    pub log_format: String,
    pub scrape: Vec<ScrapeJob>,
    pub drop: Vec<DropRule>,
    pub tenant: Vec<TenantRule>,
}

/// A `[[scrape]]` table.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct ScrapeJob {
    pub job: String,
    pub targets: Vec<String>,
    pub path: String,
    pub scheme: String,
    pub interval_ms: i64,
    pub timeout_ms: i64,
    pub labels: Vec<(String, String)>,
    pub honor_labels: bool,
    pub native_histograms: bool,
    pub classic_histograms: bool,
    pub username: String,
    pub password: String,
    pub password_file: Option<PathBuf>,
}

/// A `[[drop]]` table: series that pass all matchers are not stored.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct DropRule {
    pub matchers: String,
}

/// A `[[tenant]]` table: what is set otherwise for one tenant, by the keys of [`PER_TENANT`].
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct TenantRule {
    pub name: String,
    pub set: Vec<(&'static str, Parsed)>,
}

impl Config {
    /// As it holds for a tenant.
    pub fn of_tenant(&self, tenant: &str) -> Config {
        let mut c = self.clone();
        for (name, value) in self.tenant.iter().filter(|r| r.name == tenant).flat_map(|r| &r.set) {
            if let Some(k) = KEYS.iter().find(|k| k.name == *name) {
                (k.set)(&mut c, value.clone());
            }
        }
        c
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut c = schema::blank();
        for k in KEYS {
            // The defaults of the table are checked by a test.
            let _ = k.apply_text(&mut c, k.default);
        }
        c
    }
}
