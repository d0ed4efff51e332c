//! Whose blocks a process may compact and remove: its own, and, while it holds the tenant's lease, those that other
//! writers have left lying for long. So blocks of a machine that is gone are still merged and still expire.
//!
//! The lease is an object that is only ever replaced by a conditional put. It is no lock that data depends on: two
//! processes that both believe to hold it write two merged blocks, which readers and later merges settle.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Bucket;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// A lease lasts so long without renewal.
const TTL_MS: i64 = 120_000;
/// Clocks of two machines may differ by so much.
const SKEW_MS: i64 = 30_000;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    holder: String,
    expires_ms: i64,
}

struct Held {
    tag: String,
    expires_ms: i64,
}

/// The right to tend other writers' blocks of a tenant.
pub struct Lease {
    bucket: Arc<dyn Bucket>,
    clock: Arc<dyn Clock>,
    key: String,
    holder: String,
    held: Mutex<Option<Held>>,
}

impl Lease {
    /// Not held yet. `signal` is `metrics` or `traces`.
    pub fn new(bucket: Arc<dyn Bucket>, clock: Arc<dyn Clock>, signal: &str, tenant: &str, holder: &str) -> Self {
        Lease { bucket, clock, key: format!("leases/{signal}/{tenant}.json"), holder: holder.to_owned(), held: Mutex::new(None) }
    }

    /// Whether it is held now, with time to act.
    pub fn is_held(&self) -> bool {
        self.held.lock().as_ref().is_some_and(|h| self.clock.now_ms() + SKEW_MS < h.expires_ms)
    }

    /// Takes or renews it. False if another process has it. Asks the bucket only when there is something to do.
    pub fn tend(&self) -> Result<bool> {
        let mut held = self.held.lock();
        let now_ms = self.clock.now_ms();
        if held.as_ref().is_some_and(|h| now_ms + TTL_MS / 2 < h.expires_ms && h.expires_ms <= now_ms + TTL_MS) {
            return Ok(true);
        }
        let tag = match held.take() {
            Some(h) => Some(h.tag),
            None => match self.bucket.get_tagged(&self.key) {
                Ok((json, tag)) => {
                    // One that can't be read, or ends later than any that is taken now, would be held for ever: nobody has it.
                    let taken = serde_json::from_slice::<Content>(&json).is_ok_and(|c| {
                        let left_ms = c.expires_ms.saturating_sub(now_ms);
                        c.holder != self.holder && (-SKEW_MS..=TTL_MS + SKEW_MS).contains(&left_ms)
                    });
                    if taken {
                        return Ok(false);
                    }
                    Some(tag)
                }
                Err(e) if e.kind == ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            },
        };
        let c = Content { version: 1, holder: self.holder.clone(), expires_ms: now_ms + TTL_MS };
        let json = serde_json::to_vec(&c).map_err(|e| Error::corrupt(format!("a lease: {e}")))?;
        let tag = self.bucket.put_if_match(&self.key, json.into(), tag.as_deref())?;
        *held = tag.map(|tag| Held { tag, expires_ms: c.expires_ms });
        Ok(held.is_some())
    }
}

/// Tells which blocks are ours to touch.
pub struct Ownership {
    writer: String,
    lease: Option<Lease>,
    adopt_after_ms: i64,
}

/// When a block was made, by its name; none if that is no ULID.
pub fn made_ms(ulid: &str) -> Option<i64> {
    ulid.parse::<ulid::Ulid>().ok().map(|u| u.timestamp_ms() as i64)
}

impl Ownership {
    /// Of a writer; blocks of others count as left lying once they are `adopt_after_ms` old (0: never).
    pub fn new(writer: &str, lease: Option<Lease>, adopt_after_ms: i64) -> Self {
        Ownership { writer: writer.to_owned(), lease, adopt_after_ms }
    }

    fn is_left(&self, writer: Option<&str>, ulid: &str, now_ms: i64) -> bool {
        let made_ms = made_ms(ulid).unwrap_or(i64::MAX);
        let strandline = writer.is_some_and(|w| !w.is_empty() && w != self.writer);
        strandline && self.adopt_after_ms > 0 && now_ms.saturating_sub(made_ms) >= self.adopt_after_ms
    }

    /// Whether a block is ours: written by us, or by another Strandline that has left it, while we hold the lease.
    /// Blocks of other programs never are.
    pub fn owns(&self, writer: Option<&str>, ulid: &str, now_ms: i64) -> bool {
        writer == Some(&*self.writer) || (self.lease.as_ref().is_some_and(|l| l.is_held()) && self.is_left(writer, ulid, now_ms))
    }

    /// Tries to hold the lease if one of these blocks (writer and name) asks for it.
    pub fn tend<'a>(&self, blocks: impl Iterator<Item = (Option<&'a str>, &'a str)>, now_ms: i64) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        for (writer, ulid) in blocks {
            if self.is_left(writer, ulid, now_ms) {
                return lease.tend().map(|_| ());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    use crate::bucket::LocalBucket;
    use crate::clock::ManualClock;
    use strandline_wal::fs::SimFs;

    #[test]
    fn one_holds_it_until_it_expires() {
        let clock = ManualClock::new(1_000_000);
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(Arc::new(SimFs::new()), "/b").unwrap());
        let of = |name: &str| Lease::new(bucket.clone(), Arc::new(clock.clone()), "metrics", "t", name);
        let (a, b) = (of("a"), of("b"));
        assert!(!a.is_held());
        assert!(a.tend().unwrap() && a.is_held());
        assert!(!b.tend().unwrap() && !b.is_held());
        // Renewed in time it stays; the same writer finds it again after a restart.
        clock.advance(TTL_MS * 3 / 4);
        assert!(a.tend().unwrap());
        clock.advance(TTL_MS * 3 / 4);
        assert!(!b.tend().unwrap(), "renewed since");
        assert!(of("a").tend().unwrap());
        // The first handle's tag is stale now: it has lost the lease and may ask anew.
        clock.advance(TTL_MS / 2);
        assert!(!a.tend().unwrap());
        // Time runs out: another takes it, and the old holder learns.
        clock.advance(TTL_MS + SKEW_MS + 1);
        assert!(!a.is_held());
        assert!(b.tend().unwrap());
        assert!(!a.tend().unwrap() && b.is_held());
    }

    #[test]
    fn a_lease_that_says_nothing_or_ends_never_is_nobodys() {
        let clock = ManualClock::new(1_000_000);
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(Arc::new(SimFs::new()), "/b").unwrap());
        // Cut short; of a machine whose clock was years ahead.
        let far = format!(r#"{{"version":1,"holder":"b","expires_ms":{}}}"#, i64::MAX);
        for content in ["", r#"{"version":1,"hol"#, &far] {
            bucket.put("leases/metrics/t.json", Bytes::copy_from_slice(content.as_bytes())).unwrap();
            let a = Lease::new(bucket.clone(), Arc::new(clock.clone()), "metrics", "t", "a");
            assert!(a.tend().unwrap() && a.is_held(), "{content}");
        }
    }

    #[test]
    fn only_blocks_left_by_other_strandlines_are_adopted() {
        let clock = ManualClock::new(100_000_000);
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(Arc::new(SimFs::new()), "/b").unwrap());
        let lease = Lease::new(bucket, Arc::new(clock.clone()), "metrics", "t", "me");
        let o = Ownership::new("me", Some(lease), 1000);
        let made = |ms: u64| ulid::Ulid::from_parts(ms, 7).to_string();
        let (old, fresh) = (made(99_000_000), made(99_999_500));
        let now = clock.now_ms();
        assert!(o.owns(Some("me"), &fresh, now));
        assert!(!o.owns(Some("other"), &old, now), "the lease is not held");
        o.tend([(Some("other"), fresh.as_str()), (None, old.as_str())].into_iter(), now).unwrap();
        assert!(!o.owns(Some("other"), &old, now), "nothing asked for the lease");
        o.tend([(Some("other"), old.as_str())].into_iter(), now).unwrap();
        assert!(o.owns(Some("other"), &old, now));
        assert!(!o.owns(Some("other"), &fresh, now) && !o.owns(None, &old, now));
    }
}
