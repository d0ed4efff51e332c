//! Reading the file and naming every mistake at once, with its place and the likely key.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{KEYS, Key, Kind, PER_TENANT, Parsed};
use super::units::{parse_duration_ms, parse_size};
use super::{Config, DropRule, ScrapeJob, TenantRule};
use crate::suggest::did_you_mean;

/// A mistake in the file (or an environment variable).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line and column, counted from 1; 0 for the environment.
    pub at: (usize, usize),
    /// What is wrong and what may be meant.
    pub text: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.at.0 > 0 { write!(f, "{}:{}: {}", self.at.0, self.at.1, self.text) } else { f.write_str(&self.text) }
    }
}

/// Reads a configuration: the file's text if there is one, then the environment.
pub fn load(text: Option<&str>, env: impl Iterator<Item = (String, String)>) -> Result<Config, Vec<Mistake>> {
    let mut c = Config::default();
    let mut mistakes = Vec::new();
    if let Some(text) = text {
        file(text, &mut c, &mut mistakes);
    }
    let mut env: Vec<(String, String)> = env.collect();
    env.sort();
    for (name, value) in env {
        from_env(&name, &value, &mut c, &mut mistakes);
    }
    cross_checks(&c, &mut mistakes);
    if mistakes.is_empty() { Ok(c) } else { Err(mistakes) }
}

fn from_env(name: &str, value: &str, c: &mut Config, mistakes: &mut Vec<Mistake>) {
    let aws = [
        ("AWS_ACCESS_KEY_ID", "bucket.access_key_id"),
        ("AWS_SECRET_ACCESS_KEY", "bucket.secret_access_key"),
        ("AWS_SESSION_TOKEN", "bucket.session_token"),
    ];
    let aws_key = aws.iter().find(|(n, _)| *n == name).and_then(|(_, k)| KEYS.iter().find(|x| x.name == *k));
    if let Some(k) = aws_key {
        let unset = match k.name {
            "bucket.access_key_id" => c.bucket_access_key_id.is_empty(),
            "bucket.secret_access_key" => c.bucket_secret_access_key.is_empty(),
            _ => c.bucket_session_token.is_empty(),
        };
        if unset {
            let _ = k.apply_text(c, value);
        }
        return;
    }
    if !name.starts_with("STRANDLINE_") || name == "STRANDLINE_CONFIG" {
        return;
    }
    match KEYS.iter().find(|k| k.env() == name) {
        Some(k) => {
            if let Err(e) = k.apply_text(c, value) {
                mistakes.push(Mistake { at: (0, 0), text: format!("environment variable {name}: {e}") });
            }
        }
        None => {
            let near = did_you_mean(name, KEYS.iter().map(|k| k.env()));
            mistakes.push(Mistake { at: (0, 0), text: format!("environment variable {name} is no setting{near}") });
        }
    }
}

fn cross_checks(c: &Config, mistakes: &mut Vec<Mistake>) {
    let mut add = |text: &str| mistakes.push(Mistake { at: (0, 0), text: text.to_owned() });
    if c.start_timestamps && c.chunk_encoding != "xor2" {
        add("metrics.start_timestamps = true needs metrics.chunk_encoding = \"xor2\": xor chunks can't hold them");
    }
    if c.read_timeout_ms == 0 {
        add("server.read_timeout must be more than 0: a client that never ends its request would stay for ever");
    }
    if c.tls_cert.is_some() != c.tls_key.is_some() {
        add("server.tls_cert and server.tls_key go together: one of them is missing");
    }
    if c.memory_limit_bytes > 0 && c.memory_limit_bytes < 32 << 20 {
        add("memory_limit below 32MiB leaves no room to work in");
    }
    if !c.bucket_url.is_empty() && !c.bucket_url.starts_with("s3://") && !c.bucket_url.starts_with("file://") {
        add("bucket.url must be s3://bucket/prefix or file:///folder");
    }
    for (flag, a) in [("server.listen", &c.listen), ("server.otlp_grpc", &c.otlp_grpc), ("server.otlp_http", &c.otlp_http)] {
        if !c.insecure && c.auth_file.is_none() && !a.is_empty() && !is_loopback(a) {
            add(&format!(
                "{flag} = \"{a}\" listens beyond this machine without auth: set auth.file, or write insecure = true if that is meant"
            ));
        }
    }
    if let Err(e) = tracing_subscriber::EnvFilter::try_new(&c.log_level) {
        add(&format!("log.level = {:?} is neither a level (error, warn, info, debug, trace) nor a filter by module: {e}", c.log_level));
    }
    for o in c.otlp_cors_origins.iter().filter(|o| !is_origin(o)) {
        add(&format!("otlp.cors_origins: {o:?} is no origin: write http://host, https://host:port, or * for any"));
    }
    if !valid_tenant(&c.default_tenant) {
        add(&format!("tenants.default must be {TENANT_NAME}"));
    }
}

/// As browsers send it: scheme, host and port, nothing behind them.
fn is_origin(o: &str) -> bool {
    let host = o.strip_prefix("https://").or_else(|| o.strip_prefix("http://"));
    o == "*" || host.is_some_and(|h| !h.is_empty() && h.bytes().all(|b| b.is_ascii_graphic() && !b"/?#*@".contains(&b)))
}

const TENANT_NAME: &str = "1 to 128 of the characters a-z A-Z 0-9 - _ .";

/// Names that can be part of a path and a key.
pub(crate) fn valid_tenant(t: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !t.is_empty() && t.len() <= 128 && t.bytes().all(fine) && !t.starts_with('.')
}

fn is_loopback(a: &str) -> bool {
    a.starts_with("localhost:") || a.parse::<std::net::SocketAddr>().is_ok_and(|a| a.ip().is_loopback())
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rfind('\n').map_or(before.len(), |i| before.len() - i - 1) + 1;
    (line, column)
}

struct File<'a> {
    text: &'a str,
    mistakes: &'a mut Vec<Mistake>,
}

impl File<'_> {
    fn wrong(&mut self, offset: usize, text: String) {
        self.mistakes.push(Mistake { at: place(self.text, offset), text });
    }
}

fn file(text: &str, c: &mut Config, mistakes: &mut Vec<Mistake>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut f = File { text, mistakes };
    for e in errors {
        let at = e.span().map_or(0, |s| s.start);
        f.wrong(at, format!("not TOML: {}", e.message()));
    }
    let table = table.into_inner();
    let versioned = table.iter().any(|(k, _)| k.get_ref() == "version");
    if !versioned && !table.is_empty() {
        f.wrong(0, "the file must say which form it has: put version = 1 at the top".into());
    }
    for (k, v) in table {
        top(&mut f, c, k, v);
    }
    f.mistakes.sort_by_key(|m| m.at);
}

type Name<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

fn top(f: &mut File<'_>, c: &mut Config, k: Name<'_>, v: Value<'_>) {
    let at = k.span().start;
    let name = k.get_ref().to_string();
    match (name.as_str(), v.get_ref()) {
        ("version", DeValue::Integer(i)) if i.as_str() == "1" => {}
        ("version", _) => f.wrong(v.span().start, "version must be 1: this binary knows no other".into()),
        ("scrape", _) => each_table(f, "scrape", v, &mut |f, t, at| scrape(f, c, t, at)),
        ("drop", _) => each_table(f, "drop", v, &mut |f, t, _| drop_rule(f, c, t)),
        ("tenant", _) => each_table(f, "tenant", v, &mut |f, t, at| tenant(f, c, t, at)),
        (section, DeValue::Table(_)) if KEYS.iter().any(|x| x.name.split_once('.').is_some_and(|(s, _)| s == section)) => {
            if let DeValue::Table(t) = v.into_inner() {
                for (k, v) in t {
                    let full = format!("{name}.{}", k.get_ref());
                    set(f, c, &full, k.span().start, v);
                }
            }
        }
        (section, _) if KEYS.iter().any(|x| x.name.starts_with(&format!("{section}."))) => {
            f.wrong(at, format!("{section} is a section: write [{section}] and its keys below"));
        }
        _ => set(f, c, &name, at, v),
    }
}

fn set(f: &mut File<'_>, c: &mut Config, name: &str, at: usize, v: Value<'_>) {
    let Some(k) = KEYS.iter().find(|k| k.name == name) else {
        let sections: std::collections::BTreeSet<String> = KEYS
            .iter()
            .filter_map(|k| k.name.split_once('.').map(|(s, _)| s.to_owned()))
            .chain(["scrape".into(), "drop".into(), "tenant".into()])
            .collect();
        let all = KEYS.iter().map(|k| k.name.to_owned()).chain(sections);
        return f.wrong(at, format!("unknown key {name}{}", did_you_mean(name, all)));
    };
    let value_at = v.span().start;
    match read(k, v.into_inner()) {
        Ok(p) => (k.set)(c, p),
        Err(e) => f.wrong(value_at, format!("{name}: {e}")),
    }
}

fn read(k: &Key, v: DeValue<'_>) -> Result<Parsed, String> {
    let expected = || format!("expected {}", k.kind.describe());
    let number = |i: &toml::de::DeInteger<'_>| u64::from_str_radix(i.as_str(), i.radix()).map_err(|_| expected());
    match (k.kind, v) {
        (Kind::Text | Kind::Path | Kind::Address | Kind::OneOf(_) | Kind::Sync, DeValue::String(s)) => k.check_text(s.into_owned()),
        (Kind::Switch, DeValue::Boolean(b)) => Ok(Parsed::Bool(b)),
        (Kind::Duration, DeValue::String(s)) => Ok(Parsed::Number(parse_duration_ms(&s)?.max(0) as u64)),
        (Kind::Duration, DeValue::Integer(i)) if i.as_str() == "0" => Ok(Parsed::Number(0)),
        (Kind::Size, DeValue::String(s)) => Ok(Parsed::Number(parse_size(&s)?)),
        (Kind::Size | Kind::Count, DeValue::Integer(i)) => Ok(Parsed::Number(number(&i)?)),
        (Kind::List, DeValue::Array(a)) => {
            let text = |v: Spanned<DeValue<'_>>| if let DeValue::String(s) = v.into_inner() { Some(s.into_owned()) } else { None };
            a.into_iter().map(text).collect::<Option<Vec<_>>>().map(Parsed::List).ok_or_else(expected)
        }
        (Kind::Labels, DeValue::Table(t)) => pairs(t).map(Parsed::Labels).ok_or_else(expected),
        _ => Err(expected()),
    }
}

fn pairs(t: DeTable<'_>) -> Option<Vec<(String, String)>> {
    t.into_iter()
        .map(|(k, v)| if let DeValue::String(s) = v.into_inner() { Some((k.into_inner().into_owned(), s.into_owned())) } else { None })
        .collect()
}

fn each_table(f: &mut File<'_>, name: &str, v: Value<'_>, each: &mut dyn FnMut(&mut File<'_>, DeTable<'_>, usize)) {
    let at = v.span().start;
    let DeValue::Array(a) = v.into_inner() else {
        return f.wrong(at, format!("{name} is a list of tables: write [[{name}]]"));
    };
    for t in a {
        let at = t.span().start;
        match t.into_inner() {
            DeValue::Table(t) => each(f, t, at),
            _ => f.wrong(at, format!("{name} is a list of tables: write [[{name}]]")),
        }
    }
}

fn text_of(f: &mut File<'_>, what: &str, v: Value<'_>) -> Option<String> {
    let at = v.span().start;
    match v.into_inner() {
        DeValue::String(s) => Some(s.into_owned()),
        _ => {
            f.wrong(at, format!("{what}: expected text"));
            None
        }
    }
}

const SCRAPE_KEYS: [&str; 13] = [
    "job",
    "targets",
    "path",
    "scheme",
    "interval",
    "timeout",
    "labels",
    "honor_labels",
    "native_histograms",
    "classic_histograms",
    "username",
    "password",
    "password_file",
];

fn scrape(f: &mut File<'_>, c: &mut Config, t: DeTable<'_>, at: usize) {
    let mut j =
        ScrapeJob { path: "/metrics".into(), scheme: "http".into(), interval_ms: 15_000, timeout_ms: 10_000, ..ScrapeJob::default() };
    let before = f.mistakes.len();
    for (k, v) in t {
        let (key_at, at) = (k.span().start, v.span().start);
        let name = k.into_inner().into_owned();
        match name.as_str() {
            "targets" => match v.into_inner() {
                DeValue::Array(a) => j.targets = a.into_iter().filter_map(|x| text_of(f, "scrape.targets", x)).collect(),
                _ => f.wrong(at, "scrape.targets: expected a list of host:port".into()),
            },
            "labels" => match v.into_inner() {
                DeValue::Table(t) => match pairs(t) {
                    Some(p) => j.labels = p,
                    None => f.wrong(at, "scrape.labels: expected a table of texts".into()),
                },
                _ => f.wrong(at, "scrape.labels: expected a table of texts".into()),
            },
            "honor_labels" | "native_histograms" | "classic_histograms" => match (v.into_inner(), name.as_str()) {
                (DeValue::Boolean(b), "honor_labels") => j.honor_labels = b,
                (DeValue::Boolean(b), "native_histograms") => j.native_histograms = b,
                (DeValue::Boolean(b), _) => j.classic_histograms = b,
                _ => f.wrong(at, format!("scrape.{name}: expected true or false")),
            },
            n if SCRAPE_KEYS.contains(&n) => {
                let Some(s) = text_of(f, &format!("scrape.{n}"), v) else { continue };
                match n {
                    "job" => j.job = s,
                    "path" => j.path = s,
                    "scheme" if s != "http" => f.wrong(at, format!("scrape.scheme: {s:?} is not supported (http is)")),
                    "scheme" => j.scheme = s,
                    "username" => j.username = s,
                    "password" => j.password = s,
                    "password_file" => j.password_file = Some(s.into()),
                    _ => match parse_duration_ms(&s) {
                        Ok(ms) if ms > 0 && n == "interval" => j.interval_ms = ms,
                        Ok(ms) if ms > 0 => j.timeout_ms = ms,
                        Ok(_) => f.wrong(at, format!("scrape.{n} must be more than 0")),
                        Err(e) => f.wrong(at, format!("scrape.{n}: {e}")),
                    },
                }
            }
            other => {
                f.wrong(key_at, format!("unknown key scrape.{other}{}", did_you_mean(other, SCRAPE_KEYS.iter().map(|s| s.to_string()))))
            }
        }
    }
    if f.mistakes.len() == before {
        if j.job.is_empty() {
            f.wrong(at, "scrape: job is missing".into());
        }
        if j.targets.is_empty() {
            f.wrong(at, "scrape: targets is missing".into());
        }
        j.timeout_ms = j.timeout_ms.min(j.interval_ms);
    }
    c.scrape.push(j);
}

fn tenant(f: &mut File<'_>, c: &mut Config, t: DeTable<'_>, at: usize) {
    let mut rule = TenantRule::default();
    let mut values = Vec::new();
    for (k, v) in t {
        let section = k.get_ref().to_string();
        match v.get_ref() {
            DeValue::Table(_) => {
                let DeValue::Table(keys) = v.into_inner() else { continue };
                values.extend(keys.into_iter().map(|(k, v)| (format!("{section}.{}", k.get_ref()), k.span().start, v)));
            }
            _ => values.push((section, k.span().start, v)),
        }
    }
    let before = f.mistakes.len();
    for (name, key_at, v) in values {
        let value_at = v.span().start;
        match KEYS.iter().find(|k| k.name == name && PER_TENANT.contains(&k.name)) {
            _ if name == "name" => match text_of(f, "tenant.name", v) {
                Some(n) if !valid_tenant(&n) => f.wrong(value_at, format!("tenant.name must be {TENANT_NAME}")),
                Some(n) if c.tenant.iter().any(|r| r.name == n) => f.wrong(value_at, format!("tenant {n:?} has a table above")),
                Some(n) => rule.name = n,
                None => {}
            },
            Some(k) => match read(k, v.into_inner()) {
                Ok(p) => rule.set.push((k.name, p)),
                Err(e) => f.wrong(value_at, format!("tenant: {name}: {e}")),
            },
            None => {
                let near = did_you_mean(&name, PER_TENANT.iter().chain(&["name"]).map(|s| s.to_string()));
                f.wrong(key_at, format!("{name} can't be set for one tenant{near}"));
            }
        }
    }
    if rule.name.is_empty() && f.mistakes.len() == before {
        f.wrong(at, "tenant: name is missing".into());
    }
    c.tenant.push(rule);
}

fn drop_rule(f: &mut File<'_>, c: &mut Config, t: DeTable<'_>) {
    for (k, v) in t {
        let at = k.span().start;
        let value_at = v.span().start;
        match k.get_ref().as_ref() {
            "matchers" => {
                let Some(s) = text_of(f, "drop.matchers", v) else { continue };
                match crate::drop_rules::parse(&s) {
                    Ok(_) => c.drop.push(DropRule { matchers: s }),
                    Err(e) => f.wrong(value_at, format!("drop.matchers: {e}")),
                }
            }
            other => f.wrong(at, format!("unknown key drop.{other}; did you mean matchers?")),
        }
    }
}

/// Reads a file's text through the file system.
pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    use strandline_wal::fs::{Fs, RealFs};
    let bytes = RealFs::default().read(path).map_err(|e| format!("reading {}: {e}", path.display()))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests;
