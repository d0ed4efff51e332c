//! Two processes that write one series. It happens where `service.instance.id` is not set: each sends its own count under
//! the same labels, and the series jumps between them. It shows in start times that go back.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

use parking_lot::Mutex;

use super::metrics::Translated;
use strandline_storage::metrics::head::{SeriesKey, Value};

/// Jobs watched; beyond them nothing is remembered.
const MAX_JOBS: usize = 1000;
/// Series watched of a job: a few are enough to see it.
const MAX_SERIES: usize = 32;

#[derive(Default)]
struct Job {
    /// The latest start seen, by the hash of a series' labels.
    series: BTreeMap<u64, i64>,
    clashes: u64,
}

/// What was seen of jobs without instances.
#[derive(Default)]
pub struct Writers(Mutex<BTreeMap<String, Job>>);

/// A metric's name among label bytes, for the message.
fn metric_name(raw: &[u8]) -> String {
    let name = strandline_storage::index::RawLabels(raw).flatten().find(|(n, _)| *n == b"__name__");
    name.map(|(_, v)| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
}

impl Writers {
    /// Looks at the points of a request whose resources name no instance.
    pub fn look(&self, t: &Translated) {
        if t.without_instance.is_empty() {
            return;
        }
        let mut jobs = self.0.lock();
        for (name, items) in &t.without_instance {
            if !jobs.contains_key(name) && jobs.len() >= MAX_JOBS {
                continue;
            }
            let job = jobs.entry(name.clone()).or_default();
            for item in t.batch.items.get(items.clone()).unwrap_or(&[]) {
                let SeriesKey::Raw { start, len } = t.batch.series[item.series as usize] else { continue };
                if item.st <= 0 || matches!(item.value, Value::Delta(_) | Value::DeltaHistogram(_)) {
                    continue;
                }
                let raw = t.batch.raw.get(start as usize..(start + len) as usize).unwrap_or(&[]);
                if job.clash(raw, item.st, item.t) {
                    job.clashes += 1;
                    if job.clashes == 1 {
                        tracing::warn!(
                            job = name,
                            metric = metric_name(raw),
                            "two processes write the same series: give each a service.instance.id of its own (OTEL_RESOURCE_ATTRIBUTES=service.instance.id=…); said once a job"
                        );
                    }
                }
            }
        }
    }

    /// Points that came from a second process, by job.
    pub fn clashes(&self) -> Vec<(String, u64)> {
        self.0.lock().iter().filter(|(_, j)| j.clashes > 0).map(|(n, j)| (n.clone(), j.clashes)).collect()
    }
}

impl Job {
    /// A restart moves a series' start on, once; a start that goes back while time goes on is another process.
    fn clash(&mut self, raw: &[u8], start_ms: i64, t_ms: i64) -> bool {
        let mut h = DefaultHasher::new();
        h.write(raw);
        let key = h.finish();
        match self.series.get_mut(&key) {
            Some(latest) => {
                let back = start_ms < *latest && t_ms > *latest;
                *latest = (*latest).max(start_ms);
                back
            }
            None => {
                if self.series.len() < MAX_SERIES {
                    self.series.insert(key, start_ms);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_no_second_process() {
        let mut j = Job::default();
        let seen: Vec<bool> = [(10, 11), (10, 12), (20, 21), (20, 22), (5, 8)].map(|(st, t)| j.clash(b"a", st, t)).into();
        assert_eq!(seen, [false; 5], "a late export of before the restart is none either");
        let seen: Vec<bool> = [(10, 31), (20, 32), (10, 33)].map(|(st, t)| j.clash(b"a", st, t)).into();
        assert_eq!(seen, [true, false, true]);
        assert!(!j.clash(b"other", 1, 40));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut j = Job::default();
        (0..1000u32).for_each(|i| {
            j.clash(&i.to_le_bytes(), 1, 2);
        });
        assert_eq!(j.series.len(), MAX_SERIES);
    }
}
