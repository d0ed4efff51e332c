//! Halves of blocks: folders without a description. One that is being uploaded looks the same, and so does what a machine left
//! that was lost in the middle of it. The second stays as it is: only what is days old and has not changed for hours goes.

use std::collections::HashMap;

use super::{Bucket, ObjectInfo, Ownership, made_ms};
use crate::error::{ErrorKind, Result};

/// A younger block may wait for its bucket.
const OLD_MS: i64 = 48 * 3_600_000;
/// Whoever could go on with an upload has done so by then.
const UNCHANGED_MS: i64 = 6 * 3_600_000;

struct Seen {
    objects: Vec<ObjectInfo>,
    since_ms: i64,
}

/// The halves that were found, and since when each is as it is.
#[derive(Default)]
pub struct Halves(HashMap<String, Seen>);

impl Halves {
    /// Looks at the folders below `prefix` that have no `description`, and removes those that nobody will complete. That is for
    /// whoever holds the lease; the caller leaves out its own.
    pub fn tend(
        &mut self,
        bucket: &dyn Bucket,
        (prefix, description): (&str, &str),
        found: &[String],
        whose: &Ownership,
        past_ms: i64,
    ) -> Result<()> {
        let old: Vec<&String> = found.iter().filter(|u| made_ms(u).is_some_and(|m| past_ms.saturating_sub(m) >= OLD_MS)).collect();
        // Nobody is known to have written them. A bucket without leases keeps them, and everything else goes on.
        if whose.tend(old.iter().map(|u| (Some("?"), u.as_str())), past_ms).is_err() {
            return Ok(());
        }
        self.0.retain(|u, _| old.contains(&u));
        for ulid in old.into_iter().filter(|u| whose.owns(Some("?"), u, past_ms)) {
            let folder = format!("{prefix}/{ulid}/");
            let objects = bucket.list(&folder)?;
            let fresh = Seen { objects: objects.clone(), since_ms: past_ms };
            let seen = self.0.entry(ulid.clone()).or_insert(fresh);
            if seen.objects != objects {
                *seen = Seen { objects, since_ms: past_ms };
            } else if past_ms.saturating_sub(seen.since_ms) >= UNCHANGED_MS {
                match bucket.size(&format!("{folder}{description}")) {
                    Ok(_) => continue,
                    Err(e) if e.kind == ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
                tracing::warn!(folder, objects = objects.len(), "half a block that nobody goes on uploading is removed");
                objects.iter().try_for_each(|o| bucket.delete(&o.key))?;
                self.0.remove(ulid);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bucket::{Lease, LocalBucket};
    use crate::clock::ManualClock;
    use strandline_wal::fs::SimFs;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn half_an_upload_of_a_lost_machine_goes_and_one_that_goes_on_stays() {
        let bucket: Arc<dyn Bucket> = Arc::new(LocalBucket::open(Arc::new(SimFs::new()), "/b").unwrap());
        let clock = ManualClock::new(1_700_000_000_000);
        let of =
            |name: &str| Ownership::new(name, Some(Lease::new(bucket.clone(), Arc::new(clock.clone()), "traces", "t", name)), 6 * HOUR);
        let (ours, others) = (of("a"), of("b"));
        let names: Vec<String> = (0..3).map(|n| ulid::Ulid::from_parts(1_700_000_000_000, n).to_string()).collect();
        let put = |u: &str, file: &str| bucket.put(&format!("traces/t/{u}/{file}"), bytes::Bytes::from_static(b"x")).unwrap();
        names.iter().for_each(|u| put(u, "spans.parquet"));
        let there = |u: &str| !bucket.list(&format!("traces/t/{u}/")).unwrap().is_empty();
        let (mut halves, mut theirs) = (Halves::default(), Halves::default());
        let mut turn = |found: &[String]| {
            let past_ms = crate::clock::Clock::past_ms(&clock);
            halves.tend(&*bucket, ("traces/t", "meta.json"), found, &ours, past_ms).unwrap();
            theirs.tend(&*bucket, ("traces/t", "meta.json"), found, &others, past_ms).unwrap();
        };
        for hour in 0..60 {
            turn(&names);
            assert_eq!(there(&names[0]), hour < 54, "{hour}");
            clock.advance(HOUR);
            // One that is tried again every few hours, and one that was completed after the listing.
            if hour % 5 == 0 {
                bucket.put(&format!("traces/t/{}/part-{hour}", names[1]), bytes::Bytes::new()).unwrap();
            }
            if hour == 50 {
                put(&names[2], "meta.json");
            }
        }
        assert!(there(&names[1]) && there(&names[2]));
    }
}
