//! The table of keys.

use std::path::PathBuf;

use super::Config;
use super::units::{parse_duration_ms, parse_size, parse_sync};

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Text,
    Address,
    Path,
    Switch,
    Duration,
    Size,
    Count,
    OneOf(&'static [&'static str]),
    Sync,
    List,
    Labels,
}

impl Kind {
    /// In words, for messages and the documentation.
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Address => "address:port".into(),
            Kind::Path => "path".into(),
            Kind::Switch => "true or false".into(),
            Kind::Duration => "duration (15s, 2h, 90d; 0 for none)".into(),
            Kind::Size => "size (64MiB, 2GB; 0 for none)".into(),
            Kind::Count => "whole number".into(),
            Kind::OneOf(v) => format!("one of {}", v.join(", ")),
            Kind::Sync => "one of always, never, interval:<ms>".into(),
            Kind::List => "list of texts".into(),
            Kind::Labels => "table of texts".into(),
        }
    }
}

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// Text, address, path, choice.
    Text(String),
    /// A switch.
    Bool(bool),
    /// Milliseconds, bytes, count.
    Number(u64),
    /// A list.
    List(Vec<String>),
    /// Pairs.
    Labels(Vec<(String, String)>),
}

impl Parsed {
    fn text(self) -> String {
        if let Parsed::Text(t) = self { t } else { String::new() }
    }
    fn bool(self) -> bool {
        matches!(self, Parsed::Bool(true))
    }
    fn n(self) -> u64 {
        if let Parsed::Number(n) = self { n } else { 0 }
    }
    fn ms(self) -> i64 {
        self.n() as i64
    }
    fn list(self) -> Vec<String> {
        if let Parsed::List(l) = self { l } else { Vec::new() }
    }
    fn labels(self) -> Vec<(String, String)> {
        if let Parsed::Labels(l) = self { l } else { Vec::new() }
    }
    fn path(self) -> Option<PathBuf> {
        Some(PathBuf::from(self.text())).filter(|p| !p.as_os_str().is_empty())
    }
}

/// One key of the file.
pub struct Key {
    /// `section.key`, or a key at the top.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default, as text.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
    pub(super) set: fn(&mut Config, Parsed),
    pub(super) get: fn(&Config) -> Parsed,
}

impl Key {
    /// The environment variable: `STRANDLINE_SECTION_KEY`.
    pub fn env(&self) -> String {
        format!("STRANDLINE_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Sets it from text, as the environment and the table's defaults give it.
    pub fn apply_text(&self, c: &mut Config, text: &str) -> Result<(), String> {
        let v = match self.kind {
            Kind::Text | Kind::Path | Kind::Address | Kind::OneOf(_) | Kind::Sync => self.check_text(text.to_owned())?,
            Kind::Switch => match text {
                "true" => Parsed::Bool(true),
                "false" => Parsed::Bool(false),
                _ => return Err(format!("{text:?} is neither true nor false")),
            },
            Kind::Duration => Parsed::Number(parse_duration_ms(text)?.max(0) as u64),
            Kind::Size => Parsed::Number(parse_size(text)?),
            Kind::Count => Parsed::Number(text.parse().map_err(|_| format!("{text:?} is not a whole number"))?),
            Kind::List => Parsed::List(text.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()),
            Kind::Labels => {
                let pair = |p: &str| p.split_once('=').map(|(a, b)| (a.trim().to_owned(), b.trim().to_owned()));
                let parts: Option<Vec<_>> = text.split(',').filter(|s| !s.is_empty()).map(pair).collect();
                Parsed::Labels(parts.ok_or_else(|| format!("{text:?} is not name=value,name=value"))?)
            }
        };
        (self.set)(c, v);
        Ok(())
    }

    pub(super) fn check_text(&self, text: String) -> Result<Parsed, String> {
        match self.kind {
            Kind::Sync => {
                parse_sync(&text)?;
            }
            Kind::OneOf(all) if !all.contains(&text.as_str()) => {
                return Err(format!("{text:?} is not one of {}", all.join(", ")));
            }
            Kind::Address if !text.is_empty() && text.parse::<std::net::SocketAddr>().is_err() && !text.starts_with("localhost:") => {
                return Err(format!("{text:?} is not address:port, like 127.0.0.1:9090"));
            }
            _ => {}
        }
        Ok(Parsed::Text(text))
    }
}

macro_rules! keys {
    ($($name:literal $kind:expr, $default:literal, $doc:literal, $field:ident = $get:ident;)*) => {
        /// Every key, by section.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name, kind: $kind, default: $default, doc: $doc, set: |c, v| c.$field = v.$get(),
            get: |c| (&c.$field).into(),
        }),*];

        /// Every field empty; `Config::default` fills them from the table.
        pub(super) fn blank() -> Config {
            Config { $($field: Default::default(),)* scrape: Vec::new(), drop: Vec::new(), tenant: Vec::new() }
        }
    };
}

keys! {
    "data_dir" Kind::Path, "strandline-data", "Where everything is kept that is not in the bucket.", data_dir = dir;
    "memory_limit" Kind::Size, "0", "Bounds heads, caches and queries together. 0: half of the cgroup's or the machine's memory.", memory_limit_bytes = n;
    "insecure" Kind::Switch, "false", "Allow listeners beyond loopback without auth.", insecure = bool;
    "server.listen" Kind::Address, "127.0.0.1:9090", "Prometheus and Tempo APIs, remote write, OTLP over HTTP. Flag: --listen.", listen = text;
    "server.otlp_grpc" Kind::Address, "127.0.0.1:4317", "OTLP over gRPC; empty: off. Flag: --otlp-grpc.", otlp_grpc = text;
    "server.otlp_http" Kind::Address, "127.0.0.1:4318", "OTLP over HTTP; empty: off. Flag: --otlp-http.", otlp_http = text;
    "server.max_body" Kind::Size, "64MiB", "The largest request, unpacked; never more than an eighth of memory_limit, or 4 MiB where that is less.", max_body_bytes = n;
    "server.max_in_flight" Kind::Size, "0", "Bytes of requests being worked on at once; above it senders are told to retry. 0: an eighth of memory_limit.", max_in_flight_bytes = n;
    "server.max_connections" Kind::Count, "512", "Connections at once, over all listeners. A new one takes the place of one without a request; if all are at work it is refused. Each needs a file (LimitNOFILE). 0: no limit.", max_connections = n;
    "server.read_timeout" Kind::Duration, "10s", "How long a client may take for a TLS handshake, for a request's head, and for the next part of its body.", read_timeout_ms = ms;
    "server.body_timeout" Kind::Duration, "1m", "How long a whole body may take.", body_timeout_ms = ms;
    "server.write_timeout" Kind::Duration, "30s", "A connection whose client takes nothing of its answer for so long is closed.", write_timeout_ms = ms;
    "server.idle_timeout" Kind::Duration, "5m", "A connection without requests is closed after this.", idle_timeout_ms = ms;
    "server.tls_cert" Kind::Path, "", "Certificate chain (PEM) for every listener.", tls_cert = path;
    "server.tls_key" Kind::Path, "", "Its private key (PEM).", tls_key = path;
    "auth.file" Kind::Path, "", "Users and tokens: see docs/operations.md. Without it there is no auth.", auth_file = path;
    "wal.sync" Kind::Sync, "always", "When an answer is given: after fsync (always), or after handing over to the system, with fsync each interval or never.", wal_sync = text;
    "wal.segment_size" Kind::Size, "64MiB", "A log segment is closed at this size.", wal_segment_bytes = n;
    "storage.io" Kind::OneOf(&["mmap", "pread"]), "mmap", "How files are read. mmap copies nothing, but an I/O error of the disk ends the process.", io = text;
    "storage.min_free" Kind::Size, "256MiB", "Refuse writes when the disk has less free.", min_free_bytes = n;
    "bucket.url" Kind::Text, "", "s3://bucket/prefix or file:///folder. Empty: a folder below data_dir. Flag: --bucket.", bucket_url = text;
    "bucket.endpoint" Kind::Text, "", "Where the S3 service listens, like http://127.0.0.1:9000; empty: AWS.", bucket_endpoint = text;
    "bucket.region" Kind::Text, "us-east-1", "Region.", bucket_region = text;
    "bucket.access_key_id" Kind::Text, "", "Access key; AWS_ACCESS_KEY_ID counts too.", bucket_access_key_id = text;
    "bucket.secret_access_key" Kind::Text, "", "Secret key; AWS_SECRET_ACCESS_KEY counts too.", bucket_secret_access_key = text;
    "bucket.session_token" Kind::Text, "", "Session token; AWS_SESSION_TOKEN counts too.", bucket_session_token = text;
    "bucket.instance_metadata" Kind::Switch, "false", "Ask the cloud's instance metadata service for keys.", bucket_instance_metadata = bool;
    "bucket.ca_file" Kind::Path, "", "CA certificates (PEM) to trust instead of the system's.", bucket_ca_file = path;
    "bucket.timeout" Kind::Duration, "30s", "Give up on a request to the bucket after this.", bucket_timeout_ms = ms;
    "bucket.cache" Kind::Size, "64MiB", "The bucket's bytes kept in memory.", bucket_cache_bytes = n;
    "bucket.disk_cache" Kind::Size, "1GiB", "A remote bucket's bytes kept on disk, in cache of the data folder; 0: none.", bucket_disk_cache_bytes = n;
    "metrics.retention" Kind::Duration, "90d", "Metric blocks older than this are removed.", metrics_retention_ms = ms;
    "metrics.retention_size" Kind::Size, "0", "The oldest metric blocks are removed above this.", metrics_retention_bytes = n;
    "metrics.local_retention" Kind::Duration, "24h", "How long a block stays on the local disk once it is in the bucket.", local_retention_ms = ms;
    "metrics.out_of_order_window" Kind::Duration, "2h", "How much older than its series' last a sample may be.", out_of_order_window_ms = ms;
    "metrics.max_sample_age" Kind::Duration, "24h", "How old a sample may be.", max_sample_age_ms = ms;
    "metrics.chunk_encoding" Kind::OneOf(&["xor", "xor2"]), "xor", "Encoding of floats in blocks; xor2 is read by Prometheus 3.11 and later.", chunk_encoding = text;
    "metrics.start_timestamps" Kind::Switch, "false", "Keep start timestamps; needs chunk_encoding = \"xor2\".", start_timestamps = bool;
    "metrics.external_labels" Kind::Labels, "", "Labels of the blocks for Thanos; empty: tenant.", external_labels = labels;
    "limits.max_series" Kind::Count, "5000000", "Active series of a tenant; new ones above it are refused, those there go on. Nor are there more, of all tenants together, than one for each 667 bytes of memory_limit.", max_series = n;
    "limits.max_labels" Kind::Count, "128", "Labels of a series.", max_labels = n;
    "limits.max_label_value" Kind::Size, "16KiB", "Length of a label value.", max_label_value_bytes = n;
    "limits.max_exemplars" Kind::Count, "20000", "Exemplars kept of a tenant.", max_exemplars = n;
    "limits.max_label_name" Kind::Size, "1KiB", "Length of a label name.", max_label_name_bytes = n;
    "limits.samples_per_second" Kind::Count, "0", "Samples a second of a tenant; above it senders are told to retry. 0: no limit.", samples_per_second = n;
    "limits.spans_per_second" Kind::Count, "0", "Spans a second of a tenant. 0: no limit.", spans_per_second = n;
    "limits.total_samples_per_second" Kind::Count, "0", "Samples a second of all tenants together. 0: no limit.", total_samples_per_second = n;
    "limits.total_spans_per_second" Kind::Count, "0", "Spans a second of all tenants together. 0: no limit.", total_spans_per_second = n;
    "limits.max_span" Kind::Size, "4MiB", "Length of a span as it is sent.", max_span_bytes = n;
    "limits.max_span_attributes" Kind::Count, "1024", "Attributes of a span, an event, a link, a resource or a scope.", max_span_attributes = n;
    "limits.max_span_attribute" Kind::Size, "1MiB", "Length of an attribute of a span.", max_span_attribute_bytes = n;
    "limits.max_span_events" Kind::Count, "4096", "Events of a span, and links of a span.", max_span_events = n;
    "traces.retention" Kind::Duration, "14d", "Span blocks are removed so long after the youngest of their spans started and came.", traces_retention_ms = ms;
    "traces.retention_size" Kind::Size, "0", "The oldest span blocks are removed above this.", traces_retention_bytes = n;
    "traces.flush_age" Kind::Duration, "10m", "Live spans are flushed once the oldest has waited so long.", traces_flush_age_ms = ms;
    "traces.max_live" Kind::Size, "0", "Live spans above this are flushed early, and above three times as much refused for now. 0: a twelfth of memory_limit.", traces_max_live_bytes = n;
    "compaction.enabled" Kind::Switch, "true", "Compact our own blocks; false for who lets Thanos or Mimir do it.", compaction = bool;
    "query.timeout" Kind::Duration, "2m", "A query is ended after this.", query_timeout_ms = ms;
    "query.max_samples" Kind::Count, "50000000", "Samples that a query may hold at once.", query_max_samples = n;
    "query.max_series" Kind::Count, "2000000", "Series that a query may select.", query_max_series = n;
    "query.concurrency" Kind::Count, "16", "Queries at once, of PromQL and of TraceQL each; more wait their turn. Of TraceQL no more run than memory_limit has 96 MiB.", query_concurrency = n;
    "query.lookback" Kind::Duration, "5m", "How far an instant selector looks back.", query_lookback_ms = ms;
    "otlp.translation" Kind::OneOf(&["UnderscoreEscapingWithSuffixes", "UnderscoreEscapingWithoutSuffixes", "NoUTF8EscapingWithSuffixes", "NoTranslation"]), "UnderscoreEscapingWithSuffixes", "How OTLP metric and attribute names become Prometheus'.", otlp_strategy = text;
    "otlp.promote_resource_attributes" Kind::List, "service.instance.id,service.name,service.namespace,service.version,deployment.environment.name,k8s.cluster.name,k8s.namespace.name,k8s.pod.name,k8s.container.name", "Resource attributes that become labels of every series.", otlp_promote = list;
    "otlp.promote_all_resource_attributes" Kind::Switch, "false", "All resource attributes become labels.", otlp_promote_all = bool;
    "otlp.scope_labels" Kind::Switch, "false", "Instrumentation scope as otel_scope_* labels.", otlp_scope_labels = bool;
    "otlp.histograms_as_nhcb" Kind::Switch, "false", "Explicit-bounds histograms become native ones with custom buckets.", otlp_histograms_as_nhcb = bool;
    "otlp.target_info" Kind::Switch, "true", "Write target_info with what else the resource says than its job and instance.", otlp_target_info = bool;
    "otlp.cors_origins" Kind::List, "", "Origins of web pages that may send OTLP over HTTP, as SDKs in browsers do: http://localhost:3000, or * for any.", otlp_cors_origins = list;
    "tenants.from_header" Kind::Switch, "false", "Without auth: take the tenant from X-Scope-OrgID. Otherwise the header is ignored and everything is the default tenant's.", tenants_from_header = bool;
    "tenants.default" Kind::Text, "anonymous", "The tenant of requests that name none.", default_tenant = text;
    "tenants.max" Kind::Count, "64", "Tenants open at once.", max_tenants = n;
    "log.level" Kind::Text, "info", "error, warn, info, debug, trace, or a filter by module.", log_level = text;
    "log.format" Kind::OneOf(&["text", "json"]), "text", "Format of the log on standard error.", log_format = text;
}

/// Keys that a `[[tenant]]` table may set.
pub const PER_TENANT: [&str; 4] = ["metrics.retention", "metrics.retention_size", "traces.retention", "traces.retention_size"];

impl Parsed {
    fn dir(self) -> PathBuf {
        PathBuf::from(self.text())
    }
}

/// The keys as Markdown: docs/configuration.md is this text, and a test keeps it so.
pub fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\nOne TOML file (`strandline serve --config FILE`), with `version = 1` at its top. Every key can also be set by the\n\
         environment variable beside it, which wins over the file; flags win over both. `strandline check-config FILE` names every mistake.\n\n\
         Keep secrets out of the file: give them by their environment variables.\n",
    );
    let mut section = None;
    for k in KEYS {
        let (s, name) = k.name.split_once('.').unwrap_or(("", k.name));
        if section != Some(s) {
            let title = if s.is_empty() { "At the top".to_owned() } else { format!("`[{s}]`") };
            out.push_str(&format!("\n## {title}\n\n| key | holds | default | does | environment |\n|---|---|---|---|---|\n"));
            section = Some(s);
        }
        let default = if k.default.is_empty() { "(empty)".to_owned() } else { format!("`{}`", k.default.replace(',', ", ")) };
        out.push_str(&format!("| `{name}` | {} | {default} | {} | `{}` |\n", k.kind.describe(), k.doc, k.env()));
    }
    out.push_str(
        "\n## `[[scrape]]`\n\nTargets to scrape, one table a job: `job`, `targets` (list of host:port), `path` (`/metrics`), `scheme` (`http`), `interval` (`15s`),\n\
         `timeout` (`10s`), `labels` (table), `honor_labels` (`false`; what a page says of `job` and `instance` counts: for a Pushgateway,\n\
         or another server's `/federate`), `native_histograms` (`false`; asks for protobuf, which alone can say them: such a histogram's\n\
         classic buckets are then left out unless `classic_histograms` is `true`), `username` and `password` or `password_file` for basic auth.\n\n\
         ## `[[drop]]`\n\nSeries that are not stored: `matchers = '{__name__=~\"go_.*\"}'`. The file is read again on SIGHUP, so that a metric can be shed\nwithout a restart.\n\n\
         ## `[[tenant]]`\n\nWhat is kept otherwise of one tenant: its `name`, and any of `metrics.retention`, `metrics.retention_size`, `traces.retention` and\n`traces.retention_size`, as in `metrics.retention = \"30d\"`.\n",
    );
    out
}
