//! What simulations share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use strandline_storage::bucket::{Bucket, SimBucket};
use strandline_storage::{Error, ErrorKind};
use strandline_testkit::Random;

/// The bucket, and how many of a thousand calls it fails: none at first.
pub fn shaky(bucket: impl Bucket, seed: u64) -> (SimBucket, Arc<AtomicU64>) {
    let (failing, dice) = (Arc::<AtomicU64>::default(), Mutex::new(Random::new(seed ^ 77)));
    let per_mille = failing.clone();
    let bucket = SimBucket::over(bucket).before(move |_| {
        let p = per_mille.load(Ordering::SeqCst);
        let fails = p > 0 && dice.lock().unwrap().below(1000) < p;
        if fails { Err(Error::new(ErrorKind::Unavailable, "injected: bucket")) } else { Ok(()) }
    });
    (bucket, failing)
}
