//! Tenants that nobody asks for. What they hold still has to go into the bucket, be merged and grow old: each is opened
//! for a moment, one at a time, and closed again.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use strandline_storage::{Engine, ErrorKind, Result};

use super::Tenants;
use crate::config::valid_tenant;

/// Who was visited, or open, is visited again after so long.
const EVERY: Duration = Duration::from_secs(3600);

/// Rounds are so far apart; one visits those whose time has come, and those that could not be looked after before.
pub const ROUND: Duration = Duration::from_secs(300);

/// When each tenant was last looked after.
#[derive(Default)]
pub struct Visits(HashMap<String, Instant>);

impl Tenants {
    /// Visits all whose time has come; `go_on` is asked before each.
    pub fn visit_round(&self, visits: &mut Visits, go_on: &dyn Fn() -> bool) {
        let known = self.closed_tenants();
        visits.0.retain(|n, _| known.contains(n));
        for n in known {
            if !go_on() {
                return;
            }
            if visits.0.get(&n).is_some_and(|at| at.elapsed() < EVERY) {
                continue;
            }
            match self.visit(&n) {
                Ok(()) => {
                    visits.0.insert(n, Instant::now());
                }
                Err(e) if e.kind == ErrorKind::Closed => return,
                Err(e) => {
                    tracing::warn!(tenant = n, error = %e, "a tenant that nobody uses could not be looked after; it will be tried again")
                }
            }
        }
    }

    /// All that have a folder here or in the bucket, but for the default one, which is always open. Those whose machine is
    /// gone have nothing but the bucket.
    fn closed_tenants(&self) -> BTreeSet<String> {
        let here = self.fs.read_dir(&self.config.data_dir.join("tenants")).unwrap_or_default();
        let mut all: BTreeSet<String> = here.iter().filter(|e| e.is_dir).map(|e| e.name().to_owned()).collect();
        for prefix in ["metrics/", "traces/"] {
            match self.bucket.list_folders(prefix) {
                Ok(names) => all.extend(names),
                Err(e) => tracing::debug!(error = %e, "tenants that only the bucket knows wait until it answers"),
            }
        }
        all.retain(|n| *n != self.config.default_tenant && valid_tenant(n));
        all
    }

    /// Opens one, does what is due, and closes it unless others came to use it meanwhile.
    fn visit(&self, tenant: &str) -> Result<()> {
        {
            let mut s = self.state.lock();
            if s.is_known(tenant) {
                return Ok(());
            }
            s.visiting = Some(tenant.to_owned());
        }
        let done = self.open(tenant, true, &mut |_| {}).and_then(|e| self.look_after(&e));
        self.close_if(tenant, |s| s.visiting.as_deref() == Some(tenant));
        self.state.lock().visiting = None;
        done
    }

    fn look_after(&self, engine: &Engine) -> Result<()> {
        // Where that fails everything stays on the disk, and goes at the next visit.
        let flushed = engine.flush();
        engine.catch_up().and(flushed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::config::Config;
    use crate::tenants::tests::{NOW_MS, Rig, append, config, restarted, rig};

    fn blocks_of(r: &Rig, tenant: &str) -> usize {
        let keys = r.bucket.inner().list(&format!("metrics/{tenant}/")).unwrap();
        keys.iter().filter(|o| o.key.ends_with("/meta.json")).count()
    }

    #[test]
    fn a_tenant_that_nobody_opens_after_a_restart_is_uploaded_and_grows_old() {
        let kept_a_day = Config { metrics_retention_ms: 86_400_000, ..config() };
        let r = rig();
        ["t1", "t2"].iter().for_each(|t| append(&r.tenants.get(t).unwrap(), NOW_MS));
        let (mut r, mut visits) = (restarted(r, kept_a_day.clone()), Visits::default());
        r.full.store(true, Ordering::SeqCst);
        r.tenants.visit_round(&mut visits, &|| true);
        assert_eq!((blocks_of(&r, "t1"), r.tenants.all().len()), (0, 0));
        r.full.store(false, Ordering::SeqCst);
        // The next round comes back to those that could not be looked after.
        r.tenants.visit_round(&mut visits, &|| true);
        assert_eq!((blocks_of(&r, "t1"), blocks_of(&r, "t2"), r.tenants.all().len()), (1, 1, 0));
        // Days later they go: marked by one visit, removed by a later one.
        for _ in 0..2 {
            r.clock.advance(3 * 86_400_000);
            r = restarted(r, kept_a_day.clone());
            r.tenants.visit_round(&mut Visits::default(), &|| true);
        }
        assert_eq!((blocks_of(&r, "t1"), blocks_of(&r, "t2"), r.tenants.all().len()), (0, 0, 0));
    }

    #[test]
    fn what_is_kept_may_be_set_for_one_tenant() {
        let text = "version = 1\n[metrics]\nretention = \"30d\"\n[[tenant]]\nname = \"t1\"\nmetrics.retention = \"1d\"";
        let tenant = crate::config::load(Some(text), std::iter::empty()).unwrap().tenant;
        let mine = Config { tenant, metrics_retention_ms: 30 * 86_400_000, ..config() };
        let r = rig();
        ["t1", "t2"].iter().for_each(|t| append(&r.tenants.get(t).unwrap(), NOW_MS));
        let mut r = restarted(r, mine.clone());
        r.tenants.visit_round(&mut Visits::default(), &|| true);
        assert_eq!((blocks_of(&r, "t1"), blocks_of(&r, "t2")), (1, 1));
        for _ in 0..2 {
            r.clock.advance(3 * 86_400_000);
            r = restarted(r, mine.clone());
            r.tenants.visit_round(&mut Visits::default(), &|| true);
        }
        assert_eq!((blocks_of(&r, "t1"), blocks_of(&r, "t2")), (0, 1));
    }

    #[test]
    fn what_a_lost_machine_left_in_the_bucket_grows_old_on_another() {
        let kept_a_day = Config { metrics_retention_ms: 86_400_000, ..config() };
        let r = rig();
        append(&r.tenants.get("t").unwrap(), NOW_MS);
        r.tenants.get("t").unwrap().flush().unwrap();
        let mut r = restarted(r, Config { data_dir: "/other".into(), ..kept_a_day.clone() });
        for _ in 0..2 {
            r.clock.advance(3 * 86_400_000);
            r.tenants.visit_round(&mut Visits::default(), &|| true);
            r = restarted(r, Config { data_dir: "/other".into(), ..kept_a_day.clone() });
        }
        assert_eq!(blocks_of(&r, "t"), 0);
    }

    #[test]
    fn a_visit_takes_nobodys_place_and_leaves_open_whom_others_use() {
        let r = rig();
        let r = restarted(r, Config { max_tenants: 1, ..config() });
        let visiting = {
            let tenants = r.tenants.clone();
            std::thread::spawn(move || tenants.visit("slow"))
        };
        r.reached.recv().unwrap();
        r.tenants.get("a").unwrap();
        assert!(r.tenants.get("b").is_err(), "one place, and it is taken");
        drop(r.go_on);
        visiting.join().unwrap().unwrap();
        let open = |r: &Tenants| r.all().into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(open(&r.tenants), ["a"]);
        // Whom somebody asks for while it is visited stays open.
        r.tenants.state.lock().visiting = Some("a".into());
        r.tenants.get("a").unwrap();
        r.tenants.close_if("a", |s| s.visiting.as_deref() == Some("a"));
        assert_eq!(open(&r.tenants), ["a"]);
    }
}
