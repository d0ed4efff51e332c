//! The configuration in force as YAML, for `/api/v1/status/config`: secrets are never shown.

use std::fmt::Write;
use std::path::PathBuf;

use super::schema::{KEYS, Kind, Parsed};
use super::{Config, ScrapeJob};

/// What stands for a secret, as Prometheus shows it.
const HIDDEN: &str = "<secret>";

impl From<&String> for Parsed {
    fn from(v: &String) -> Self {
        Parsed::Text(v.clone())
    }
}
impl From<&PathBuf> for Parsed {
    fn from(v: &PathBuf) -> Self {
        Parsed::Text(v.display().to_string())
    }
}
impl From<&Option<PathBuf>> for Parsed {
    fn from(v: &Option<PathBuf>) -> Self {
        Parsed::Text(v.as_ref().map(|p| p.display().to_string()).unwrap_or_default())
    }
}
impl From<&bool> for Parsed {
    fn from(v: &bool) -> Self {
        Parsed::Bool(*v)
    }
}
impl From<&u64> for Parsed {
    fn from(v: &u64) -> Self {
        Parsed::Number(*v)
    }
}
impl From<&i64> for Parsed {
    fn from(v: &i64) -> Self {
        Parsed::Number((*v).max(0) as u64)
    }
}
impl From<&Vec<String>> for Parsed {
    fn from(v: &Vec<String>) -> Self {
        Parsed::List(v.clone())
    }
}
impl From<&Vec<(String, String)>> for Parsed {
    fn from(v: &Vec<(String, String)>) -> Self {
        Parsed::Labels(v.clone())
    }
}

/// A text that YAML reads as text, whatever is in it.
fn quoted(s: &str) -> String {
    serde_json::Value::from(s).to_string()
}

fn is_secret(key: &str) -> bool {
    ["secret", "password", "token", "access_key"].iter().any(|w| key.contains(w))
}

fn value(name: &str, kind: Kind, v: &Parsed) -> String {
    match v {
        Parsed::Text(t) if !t.is_empty() && is_secret(name) => quoted(HIDDEN),
        Parsed::Text(t) => quoted(t),
        Parsed::Bool(b) => b.to_string(),
        Parsed::Number(n) if kind == Kind::Duration && *n > 0 => format!("{n}ms"),
        Parsed::Number(n) => n.to_string(),
        Parsed::List(l) => format!("[{}]", l.iter().map(|s| quoted(s)).collect::<Vec<_>>().join(", ")),
        Parsed::Labels(l) => labels(l),
    }
}

fn labels(l: &[(String, String)]) -> String {
    format!("{{{}}}", l.iter().map(|(n, v)| format!("{}: {}", quoted(n), quoted(v))).collect::<Vec<_>>().join(", "))
}

fn job(out: &mut String, j: &ScrapeJob) {
    let _ = write!(
        out,
        "- job_name: {}\n  scrape_interval: {}ms\n  scrape_timeout: {}ms\n  metrics_path: {}\n  scheme: {}\n",
        quoted(&j.job),
        j.interval_ms,
        j.timeout_ms,
        quoted(&j.path),
        quoted(&j.scheme),
    );
    if j.honor_labels {
        out.push_str("  honor_labels: true\n");
    }
    if j.native_histograms {
        out.push_str("  scrape_native_histograms: true\n");
    }
    if j.classic_histograms {
        out.push_str("  always_scrape_classic_histograms: true\n");
    }
    if !j.username.is_empty() {
        let _ = write!(out, "  basic_auth:\n    username: {}\n", quoted(&j.username));
        if let Some(f) = &j.password_file {
            let _ = writeln!(out, "    password_file: {}", quoted(&f.display().to_string()));
        } else if !j.password.is_empty() {
            let _ = writeln!(out, "    password: {HIDDEN}");
        }
    }
    let targets: Vec<_> = j.targets.iter().map(|t| quoted(t)).collect();
    let _ = write!(out, "  static_configs:\n  - targets: [{}]\n", targets.join(", "));
    if !j.labels.is_empty() {
        let _ = writeln!(out, "    labels: {}", labels(&j.labels));
    }
}

/// Every key with its value, by section.
pub fn yaml(c: &Config) -> String {
    let mut out = String::new();
    let mut section = "";
    for k in KEYS {
        let (s, name) = k.name.split_once('.').unwrap_or(("", k.name));
        if s != section {
            section = s;
            let _ = writeln!(out, "{s}:");
        }
        let indent = if s.is_empty() { "" } else { "  " };
        let _ = writeln!(out, "{indent}{name}: {}", value(name, k.kind, &(k.get)(c)));
    }
    if !c.scrape.is_empty() {
        out.push_str("scrape_configs:\n");
        c.scrape.iter().for_each(|j| job(&mut out, j));
    }
    if !c.drop.is_empty() {
        out.push_str("drop:\n");
        for d in &c.drop {
            let _ = writeln!(out, "- matchers: {}", quoted(&d.matchers));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::DropRule;
    use super::*;

    #[test]
    fn everything_is_shown_but_secrets() {
        let mut c = Config::default();
        c.bucket_secret_access_key = "s3cr3t-key".into();
        c.bucket_session_token = "s3cr3t-token".into();
        c.external_labels = vec![("region".into(), "eu \"1\"".into())];
        c.drop = vec![DropRule { matchers: "{__name__=~\"go_.*\"}".into() }];
        c.scrape = vec![ScrapeJob {
            job: "api".into(),
            targets: vec!["a:1".into()],
            username: "u".into(),
            password: "s3cr3t-word".into(),
            honor_labels: true,
            ..ScrapeJob::default()
        }];
        let y = yaml(&c);
        assert!(!y.contains("s3cr3t"), "{y}");
        for line in [
            "server:\n  listen: \"127.0.0.1:9090\"\n",
            "  lookback: 300000ms\n",
            "  max_samples: 50000000\n",
            "  secret_access_key: \"<secret>\"\n",
            "  external_labels: {\"region\": \"eu \\\"1\\\"\"}\n",
            "    password: <secret>\n",
            "  honor_labels: true\n",
            "- matchers: \"{__name__=~\\\"go_.*\\\"}\"\n",
        ] {
            assert!(y.contains(line), "{line} in\n{y}");
        }
        let keys = y.lines().filter(|l| !l.ends_with(':')).count();
        assert!(keys >= KEYS.len());
    }
}
