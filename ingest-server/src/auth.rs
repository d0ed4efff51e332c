//! Who may come in: basic auth and bearer tokens out of a file, mapped to a tenant and rights.
//!
//! Secrets are stored as salted SHA-256 (`sha256$<salt hex>$<hash hex>`): tokens are long and random, so a slow hash
//! would add load and no safety. `strandline hash-secret` makes the line.

use std::path::Path;

use axum::http::HeaderMap;
use serde::Deserialize;

use crate::refusal::{Reason, Refusal};

/// What an entry of the file may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Query.
    Read,
    /// Send data.
    Write,
    /// Delete, flush, snapshot.
    Admin,
}

/// Who was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose data it is.
    pub tenant: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Basic auth: the user's name. Absent: a bearer token.
    #[serde(default)]
    user: Option<String>,
    /// Hash of the password or token.
    secret: String,
    tenant: String,
    rights: Vec<Right>,
    /// May name any tenant by X-Scope-OrgID.
    #[serde(default)]
    any_tenant: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    entry: Vec<Entry>,
}

/// The entries of an auth file.
pub struct Auth {
    entries: Vec<Entry>,
}

/// `sha256$<salt>$<hash>` of a secret.
pub fn hash_secret(secret: &str, salt: &[u8]) -> String {
    let salt_hex = strandline_storage::codec::hex(salt);
    format!("sha256${salt_hex}${}", digest(&salt_hex, secret))
}

fn digest(salt_hex: &str, secret: &str) -> String {
    let mut bytes = salt_hex.as_bytes().to_vec();
    bytes.extend_from_slice(secret.as_bytes());
    let provider = rustls::crypto::ring::default_provider();
    let hash = provider.cipher_suites.iter().find_map(|s| match s {
        rustls::SupportedCipherSuite::Tls13(s) if s.common.hash_provider.output_len() == 32 => Some(s.common.hash_provider.hash(&bytes)),
        _ => None,
    });
    hash.map(|h| strandline_storage::codec::hex(h.as_ref())).unwrap_or_default()
}

/// Compares in time that does not depend on where the texts differ: every byte is looked at.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0u8, |d, (x, y)| d | difference(x, y)) == 0
}

#[inline]
fn difference(x: u8, y: u8) -> u8 {
    #[cfg(test)]
    tests::LOOKED_AT.with(|n| n.set(n.get() + 1));
    x ^ y
}

fn matches(stored: &str, given: &str) -> bool {
    let mut parts = stored.splitn(3, '$');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("sha256"), Some(salt), Some(hash)) => !hash.is_empty() && equal(hash, &digest(salt, given)),
        _ => false,
    }
}

impl Auth {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = crate::config::read_file(path)?;
        let f: File = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        for e in &f.entry {
            if !e.secret.starts_with("sha256$") || e.secret.split('$').count() != 3 {
                return Err(format!(
                    "{}: a secret is not of the form sha256$salt$hash: make it by `strandline hash-secret`",
                    path.display()
                ));
            }
            if !crate::config::valid_tenant(&e.tenant) {
                return Err(format!("{}: tenant {:?} is not a valid name", path.display(), e.tenant));
            }
        }
        Ok(Auth { entries: f.entry })
    }

    /// Finds who asks and whether they may.
    pub fn check(&self, headers: &HeaderMap, named: Option<&str>, right: Right) -> Result<Identity, Refusal> {
        let unknown = || Refusal::new(Reason::Unauthenticated, "no valid credentials: send basic auth or a bearer token");
        let given = headers.get("authorization").and_then(|v| v.to_str().ok()).ok_or_else(unknown)?;
        let entry = match given.split_once(' ') {
            Some((s, token)) if s.eq_ignore_ascii_case("bearer") => {
                self.entries.iter().find(|e| e.user.is_none() && matches(&e.secret, token.trim()))
            }
            Some((s, b64)) if s.eq_ignore_ascii_case("basic") => {
                let decoded = crate::otlp::json::unbase64(b64.trim()).and_then(|b| String::from_utf8(b).ok());
                let decoded = decoded.ok_or_else(unknown)?;
                let (user, password) = decoded.split_once(':').ok_or_else(unknown)?;
                self.entries.iter().find(|e| e.user.as_deref().is_some_and(|u| equal(u, user)) && matches(&e.secret, password))
            }
            _ => None,
        };
        let entry = entry.ok_or_else(unknown)?;
        if !entry.rights.contains(&right) && !entry.rights.contains(&Right::Admin) {
            return Err(Refusal::new(Reason::Forbidden, format!("these credentials lack the right to {right:?}")));
        }
        match named {
            Some(t) if entry.any_tenant => Ok(Identity { tenant: t.to_owned() }),
            Some(t) if t != entry.tenant => Err(Refusal::new(Reason::Forbidden, format!("these credentials may not name the tenant {t}"))),
            _ => Ok(Identity { tenant: entry.tenant.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn auth() -> Auth {
        let entry = |user: Option<&str>, secret: &str, rights: Vec<Right>, any_tenant| Entry {
            user: user.map(str::to_owned),
            secret: hash_secret(secret, b"salt"),
            tenant: "a".into(),
            rights,
            any_tenant,
        };
        Auth {
            entries: vec![
                entry(Some("u"), "p", vec![Right::Read], false),
                entry(None, "token", vec![Right::Write], false),
                entry(None, "root", vec![Right::Admin], true),
            ],
        }
    }

    fn ask(header: &str, named: Option<&str>, right: Right) -> Result<String, Reason> {
        let mut h = HeaderMap::new();
        if !header.is_empty() {
            h.insert("authorization", header.parse().unwrap());
        }
        auth().check(&h, named, right).map(|i| i.tenant).map_err(|r| r.reason)
    }

    #[test]
    fn who_may_do_what() {
        let basic = |s: &str| format!("Basic {}", crate::otlp::attributes::base64(s.as_bytes()));
        assert_eq!(ask(&basic("u:p"), None, Right::Read), Ok("a".into()));
        assert_eq!(ask(&basic("u:p"), None, Right::Write), Err(Reason::Forbidden));
        assert_eq!(ask(&basic("u:x"), None, Right::Read), Err(Reason::Unauthenticated));
        assert_eq!(ask("Bearer token", None, Right::Write), Ok("a".into()));
        assert_eq!(ask("Bearer token", Some("b"), Right::Write), Err(Reason::Forbidden));
        assert_eq!(ask("Bearer root", Some("b"), Right::Read), Ok("b".into()));
        assert_eq!(ask("Bearer p", None, Right::Read), Err(Reason::Unauthenticated));
        assert_eq!(ask("", None, Right::Read), Err(Reason::Unauthenticated));
    }

    thread_local! {
        /// Bytes that were compared.
        pub(super) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    fn looked_at(header: &str) -> usize {
        LOOKED_AT.with(|n| n.set(0));
        let _ = ask(header, None, Right::Admin);
        LOOKED_AT.with(std::cell::Cell::get)
    }

    #[test]
    fn equal_is_equality() {
        for (a, b, same) in
            [("", "", true), ("a", "a", true), ("ab", "aa", false), ("ba", "aa", false), ("a", "ab", false), ("é", "è", false)]
        {
            assert_eq!(equal(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn what_is_wrong_about_a_secret_is_not_told_by_time() {
        // Each stored hash is looked at whole, whatever was sent; tokens are two of the entries.
        for wrong in ["x", "tokem", "uoken", "tokentoken", "roos", ""] {
            assert_eq!(looked_at(&format!("Bearer {wrong}")), 2 * 64, "{wrong}");
        }
        // Names are as long as they are; passwords behind a right name cost a hash each.
        let basic = |s: &str| looked_at(&format!("Basic {}", crate::otlp::attributes::base64(s.as_bytes())));
        for wrong in ["u:x", "u:q", "u:", "u:pppp"] {
            assert_eq!(basic(wrong), 1 + 64, "{wrong}");
        }
    }

    #[test]
    fn sha256_is_sha256() {
        assert_eq!(digest("", "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
