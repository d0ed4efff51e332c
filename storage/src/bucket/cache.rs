//! Pages of the bucket's objects, in memory up to a bound and on disk up to another. Objects are immutable, so a page
//! never gets stale.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use strandline_wal::fs::Fs;

use super::Bucket;
use super::disk_cache::DiskCache;
use crate::error::{Error, Result};

/// Objects are read in whole pages of this size.
const PAGE: u64 = 64 << 10;
/// Missing pages that lie no farther apart than this are fetched in one request.
const GAP_PAGES: u64 = 4;
/// No single request asks for more.
const MAX_REQUEST_PAGES: u64 = 64;

/// Fewer names are not worth a look.
const MIN_SWEEP: usize = 256;

type Key = (Arc<str>, u64);

#[derive(Default)]
struct State {
    pages: HashMap<Key, (Bytes, bool)>,
    order: VecDeque<Key>,
    bytes: u64,
    /// Names of objects, each once for all of its pages, in memory and on disk.
    names: HashSet<Arc<str>>,
    /// As many names are looked through for those that no page bears any more.
    sweep_at: usize,
}

impl State {
    fn name(&mut self, key: &str) -> Arc<str> {
        if let Some(name) = self.names.get(key) {
            return name.clone();
        }
        if self.names.len() >= self.sweep_at {
            self.names.retain(|n| Arc::strong_count(n) > 1);
            self.sweep_at = (2 * self.names.len()).max(MIN_SWEEP);
        }
        let name: Arc<str> = key.into();
        self.names.insert(name.clone());
        name
    }
}

/// A bucket whose objects are read in pages through a cache.
#[derive(Clone)]
pub struct CachedBucket {
    /// The bucket.
    pub bucket: Arc<dyn Bucket>,
    /// Its pages.
    pub cache: Arc<RangeCache>,
}

impl CachedBucket {
    /// `len` bytes of an object of `total` bytes from `offset`.
    pub fn read(&self, key: &str, total: u64, offset: u64, len: usize) -> Result<Bytes> {
        self.cache.read(&*self.bucket, key, total, offset, len)
    }
    /// The same, past what is kept of it; see [`RangeCache::read_anew`].
    pub fn read_anew(&self, key: &str, total: u64, offset: u64, len: usize) -> Result<Bytes> {
        self.cache.read_anew(&*self.bucket, key, total, offset, len)
    }
    /// Fetches what is missing of the ranges; see [`RangeCache::prefetch`].
    pub fn prefetch(&self, key: &str, total: u64, ranges: &[(u64, usize)]) {
        self.cache.prefetch(&*self.bucket, key, total, ranges);
    }
}

/// A bounded cache of pages with second-chance eviction, in front of one on disk.
pub struct RangeCache {
    state: Mutex<State>,
    max_bytes: u64,
    disk: Option<Mutex<DiskCache>>,
}

impl RangeCache {
    /// Holds at most `max_bytes` of pages.
    pub fn new(max_bytes: u64) -> Self {
        RangeCache { state: Mutex::default(), max_bytes: max_bytes.max(4 * PAGE), disk: None }
    }

    /// Keeps at most `max_bytes` of pages in a folder too. What an earlier run left there is used.
    pub fn with_disk(mut self, fs: Arc<dyn Fs>, dir: PathBuf, max_bytes: u64) -> Result<Self> {
        self.disk = Some(Mutex::new(DiskCache::open(fs, dir, max_bytes)?));
        Ok(self)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.as_ref().map_or(0, |d| d.lock().size_bytes())
    }

    /// Bytes held.
    pub fn size_bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// `len` bytes of an object of `total` bytes from `offset`.
    pub fn read(&self, bucket: &dyn Bucket, key: &str, total: u64, offset: u64, len: usize) -> Result<Bytes> {
        let Some((first, last)) = pages_of(key, total, offset, len)? else { return Ok(Bytes::new()) };
        let mut pages = self.held(key, first, last);
        let missing: Vec<u64> = (first..=last).filter(|p| !pages.contains_key(p)).collect();
        pages.extend(self.fetch(bucket, key, total, &missing)?);
        join(&pages, key, offset, len)
    }

    /// The same from the bucket, for whoever found damage in what was read: a page may have been damaged on its way here, or
    /// in memory before it got its checksum. What the bucket gives takes the place of what is kept, where it differs.
    pub fn read_anew(&self, bucket: &dyn Bucket, key: &str, total: u64, offset: u64, len: usize) -> Result<Bytes> {
        let Some((first, last)) = pages_of(key, total, offset, len)? else { return Ok(Bytes::new()) };
        let pages: Vec<u64> = (first..=last).collect();
        let fresh: HashMap<u64, Bytes> = self.read_bucket(bucket, key, total, &pages)?.into_iter().collect();
        self.replace(key, &fresh);
        join(&fresh, key, offset, len)
    }

    /// Pages that are the same stay as they are: of damage that lies in the bucket each read would write them once more.
    fn replace(&self, key: &str, fresh: &HashMap<u64, Bytes>) {
        let name = self.name(key);
        if let Some(d) = &self.disk {
            let mut d = d.lock();
            fresh.iter().for_each(|(p, b)| d.replace(&name, *p, b));
        }
        let mut s = self.state.lock();
        for (p, b) in fresh {
            if let Some((old, _)) = s.pages.get_mut(&(name.clone(), *p)) {
                let before = std::mem::replace(old, b.clone()).len() as u64;
                s.bytes = s.bytes - before + b.len() as u64;
            }
        }
    }

    fn name(&self, key: &str) -> Arc<str> {
        self.state.lock().name(key)
    }

    /// Fetches what is missing of the ranges, near ones together. Failures show when the data is read.
    pub fn prefetch(&self, bucket: &dyn Bucket, key: &str, total: u64, ranges: &[(u64, usize)]) {
        let mut wanted: Vec<u64> = Vec::new();
        for (o, n) in ranges.iter().filter(|(o, _)| *o < total) {
            let end = (o + *n as u64).min(total);
            wanted.extend(o / PAGE..=end.saturating_sub(1).max(*o) / PAGE);
        }
        wanted.sort_unstable();
        wanted.dedup();
        // No more than half of the cache at once, or the first pages go before they are read.
        wanted.truncate((self.max_bytes / 2 / PAGE) as usize);
        let missing: Vec<u64> = match (wanted.first(), wanted.last()) {
            (Some(a), Some(b)) => {
                let held = self.held(key, *a, *b);
                wanted.into_iter().filter(|p| !held.contains_key(p)).collect()
            }
            _ => return,
        };
        let _ = self.fetch(bucket, key, total, &missing);
    }

    fn held(&self, key: &str, first: u64, last: u64) -> HashMap<u64, Bytes> {
        let mut s = self.state.lock();
        let Some(name) = s.names.get(key).cloned() else { return HashMap::new() };
        let mut out = HashMap::new();
        for p in first..=last {
            if let Some((b, used)) = s.pages.get_mut(&(name.clone(), p)) {
                *used = true;
                out.insert(p, b.clone());
            }
        }
        out
    }

    fn fetch(&self, bucket: &dyn Bucket, key: &str, total: u64, missing: &[u64]) -> Result<Vec<(u64, Bytes)>> {
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let mut out = self.read_disk(key, missing);
        let found: Vec<u64> = out.iter().map(|(p, _)| *p).collect();
        let missing: Vec<u64> = missing.iter().copied().filter(|p| found.binary_search(p).is_err()).collect();
        let fetched = self.read_bucket(bucket, key, total, &missing)?;
        if let Some(d) = &self.disk
            && !fetched.is_empty()
        {
            let name = self.name(key);
            let mut d = d.lock();
            fetched.iter().for_each(|(p, b)| d.put(&name, *p, b));
        }
        out.extend(fetched);
        self.keep(key, &out);
        Ok(out)
    }

    /// The pages that lie on disk, of those asked for in rising order.
    fn read_disk(&self, key: &str, pages: &[u64]) -> Vec<(u64, Bytes)> {
        let Some(d) = &self.disk else { return Vec::new() };
        let name = self.name(key);
        let mut d = d.lock();
        pages.iter().filter_map(|p| d.get(&name, *p).map(|b| (*p, b))).collect()
    }

    fn read_bucket(&self, bucket: &dyn Bucket, key: &str, total: u64, missing: &[u64]) -> Result<Vec<(u64, Bytes)>> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for p in missing {
            match runs.last_mut() {
                Some((a, b)) if p - *b <= GAP_PAGES && p - *a < MAX_REQUEST_PAGES => *b = *p,
                _ => runs.push((*p, *p)),
            }
        }
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let ranges: Vec<(u64, usize)> = runs.iter().map(|(a, b)| (a * PAGE, (((b + 1) * PAGE).min(total) - a * PAGE) as usize)).collect();
        let got = bucket.get_ranges(key, &ranges)?;
        let mut out = Vec::new();
        for ((a, b), bytes) in runs.into_iter().zip(got) {
            for p in a..=b {
                let from = ((p - a) * PAGE) as usize;
                let to = (from + PAGE as usize).min(bytes.len());
                if from >= to {
                    return Err(Error::corrupt("the bucket gave fewer bytes than asked").at(key));
                }
                // A copy of its own, so that evicting a page frees its memory.
                out.push((p, Bytes::copy_from_slice(&bytes[from..to])));
            }
        }
        Ok(out)
    }

    fn keep(&self, key: &str, pages: &[(u64, Bytes)]) {
        let mut s = self.state.lock();
        let name = s.name(key);
        for (p, b) in pages {
            let k = (name.clone(), *p);
            if s.pages.insert(k.clone(), (b.clone(), false)).is_none() {
                s.bytes += b.len() as u64;
                s.order.push_back(k);
            }
        }
        while s.bytes > self.max_bytes {
            let Some(k) = s.order.pop_front() else { break };
            match s.pages.get_mut(&k) {
                Some((_, used)) if *used => {
                    *used = false;
                    s.order.push_back(k);
                }
                Some((b, _)) => {
                    let n = b.len() as u64;
                    s.pages.remove(&k);
                    s.bytes -= n;
                }
                None => {}
            }
        }
    }
}

/// The first and the last page of a range; none of an empty one.
fn pages_of(key: &str, total: u64, offset: u64, len: usize) -> Result<Option<(u64, u64)>> {
    let end = offset.checked_add(len as u64).filter(|e| *e <= total);
    let end = end.ok_or_else(|| Error::corrupt(format!("{len} bytes asked of {total}")).at(key).offset(offset))?;
    Ok((len > 0).then(|| (offset / PAGE, (end - 1) / PAGE)))
}

/// A range that is not empty, out of its pages.
fn join(pages: &HashMap<u64, Bytes>, key: &str, offset: u64, len: usize) -> Result<Bytes> {
    let (end, mut at) = (offset + len as u64, offset);
    let mut out = BytesMut::new();
    while at < end {
        let to = end.min((at / PAGE + 1) * PAGE);
        let (from, n) = ((at % PAGE) as usize, (to - at) as usize);
        let page = pages.get(&(at / PAGE)).filter(|b| b.len() >= from + n);
        let page = page.ok_or_else(|| Error::corrupt("a page is missing or short").at(key).offset(at))?;
        if n == len {
            return Ok(page.slice(from..from + n));
        }
        if out.is_empty() {
            out.reserve(len);
        }
        out.extend_from_slice(&page[from..from + n]);
        at = to;
    }
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::LocalBucket;
    use strandline_wal::fs::SimFs;

    #[test]
    fn of_objects_that_come_and_go_no_names_pile_up() {
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
        let b = LocalBucket::open(fs.clone(), "/b").unwrap();
        let cache = RangeCache::new(0).with_disk(fs.clone(), "/c".into(), 0).unwrap();
        let mut most = 0;
        for n in 0..5000u32 {
            let key = format!("metrics/t/{n}/index");
            b.put(&key, vec![n as u8; 20_000].into()).unwrap();
            assert_eq!(cache.read(&b, &key, 20_000, 100, 50).unwrap(), vec![n as u8; 50]);
            b.delete(&key).unwrap();
            most = most.max(cache.state.lock().names.len());
            // The newest are there without the bucket.
            let old = format!("metrics/t/{}/index", n.saturating_sub(100));
            assert!(cache.read(&b, &old, 20_000, 0, 9).is_ok());
        }
        // The disk keeps four to eight MiB, two hundred pages a segment.
        assert!(most < 1500, "{most} names");
    }
}
