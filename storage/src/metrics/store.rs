//! The metric store of one tenant: opens, appends, answers, closes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strandline_wal::fs::Fs;
use strandline_wal::sync::{Mutex, RwLock};
use strandline_wal::{RecoveryReport, Wal, WalOptions};

use super::block::BlockMeta;
use super::deletes::Delete;
use super::head::{Appended, Batch, Head, HeadMemory, HeadParts, HeadStats, Replay, SeriesHandle};
use super::manifest::Manifest;
use super::mend::is_damage;
use super::options::MetricOptions;
use super::remote::StoreOpener;
use super::selection::MetricSelection;
use super::version::{BlockEntry, Place, Version};
use super::writer::writer_id;
use crate::bucket::{CachedBucket, Lease, Ownership, RangeCache};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Labels, Matcher, MetricMetadata, TimeRange};
use crate::read::{ExemplarSeries, LabelQuery, SampleBuf, SelectRequest, SeriesSelection, SeriesSource, Warnings};

/// A metric store; clones share it.
#[derive(Clone)]
pub struct MetricStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub options: MetricOptions,
    pub head: Arc<Head>,
    pub version: RwLock<Arc<Version>>,
    pub manifest: Mutex<Manifest>,
    /// One compaction or upload at a time; calls to the bucket are made under it. Taken before the others, and never by a
    /// flush.
    pub work: Mutex<Work>,
    /// One flush at a time. Taken before the manifest.
    pub flushing: Mutex<()>,
    /// None until the first flush since the opening.
    pub last_flush: Mutex<Option<LastFlush>>,
    pub names: Mutex<Names>,
    pub opener: Arc<StoreOpener>,
    /// Pages of a remote bucket's objects.
    pub cache: Arc<RangeCache>,
    pub writer: String,
    pub ownership: Ownership,
    pub recovery: RecoveryReport,
    pub bucket_error: Mutex<Option<String>>,
    /// Names of the deletes that the bucket is known to have.
    pub deletes_in_bucket: Mutex<std::collections::HashSet<String>>,
    closed: AtomicBool,
}

/// What tells whether another flush would be of use.
#[derive(Clone, Copy, Debug)]
pub struct LastFlush {
    pub at_ms: i64,
    /// Heap that it could not give back: records of series, caches.
    pub left_bytes: usize,
}

/// What upkeep remembers from turn to turn.
#[derive(Default)]
pub(super) struct Work {
    pub last_sync_ms: i64,
    pub retry_at_ms: i64,
    pub backoff_ms: i64,
    /// When the lease is asked for again; 0: at once.
    pub lease_retry_at_ms: i64,
    /// Local blocks of which the bucket may hold a part.
    pub begun: std::collections::HashSet<String>,
    /// Folders of the bucket without a description.
    pub half: Vec<String>,
    pub halves: crate::bucket::Halves,
    /// When blocks that wait for their end in the bucket were marked, Unix seconds, as far as it was asked for.
    pub marked_s: std::collections::HashMap<String, i64>,
    /// Blocks of the bucket, ours and others', as last listed.
    pub bucket_blocks: Vec<BlockMeta>,
    /// Those that Thanos downsampled: they are neither read nor tended.
    pub downsampled: std::collections::HashSet<String>,
    pub listed: bool,
    /// Who has marked which blocks of the bucket for removal, as last listed.
    pub marks: std::collections::HashMap<String, String>,
    /// Blocks of the bucket that their writers are to remove, with their names.
    pub unwanted: Vec<(String, String)>,
    /// Deletes that are past and were forgotten: names that the bucket may show once more.
    pub forgotten: std::collections::HashSet<String>,
    /// Blocks of the bucket that nothing is known of, since they are damaged, with what is wrong.
    pub unknown: Vec<String>,
    /// Blocks that compaction could not read: left as they are, so that the others' turn comes.
    pub damaged: Vec<String>,
}

/// What new names are made of.
#[derive(Default)]
pub(super) struct Names {
    /// Names given so far.
    pub given: u64,
    /// Those of the bucket's blocks, as last listed.
    pub in_bucket: Vec<String>,
}

/// Figures of a store.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct StoreStats {
    pub head: HeadStats,
    pub blocks: usize,
    pub block_bytes: u64,
    pub blocks_to_upload: usize,
    pub wal_bytes: u64,
    pub wal: strandline_wal::WalStats,
    pub bucket_error: Option<String>,
}

/// How far a replay of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Samples replayed.
    pub samples: u64,
    /// Bytes of the log's files read.
    pub done_bytes: u64,
    /// Their bytes.
    pub all_bytes: u64,
}

impl MetricStore {
    /// Opens the store in its folder: replays the log, opens what the manifest names, removes what it does not.
    pub fn open(options: MetricOptions) -> Result<Self> {
        Self::open_with(options, &mut |_| {})
    }

    /// As [`MetricStore::open`], telling how far the replay is.
    pub fn open_with(options: MetricOptions, progress: &mut dyn FnMut(ReplayProgress)) -> Result<Self> {
        let fs = options.fs.clone();
        let dir = options.dir.join("metrics");
        // What is durable in a folder is lost with the folder's name: all of them are there before theirs are synced.
        for d in [options.dir.join("wal"), dir.join("deletes")] {
            fs.create_dir_all(&d).map_err(|e| Error::io("creating a folder of the metrics", &d, e))?;
        }
        fs.sync_dir(&options.dir).map_err(|e| Error::io("syncing the data folder", &options.dir, e))?;
        let manifest = Manifest::load(&fs, &dir)?;
        remove_strays(&fs, &dir.join("blocks"), &manifest)?;
        fs.sync_dir(&dir).map_err(|e| Error::io("syncing the metrics folder", &dir, e))?;
        let writer = writer_id(&fs, &dir, options.clock.now_ms())?;
        let mut replay = Replay::new(options.rules, &options.limits);
        replay.reserve_ids(manifest.next_series_id);
        let mut failed = None;
        let wal_options = WalOptions { hold_after_failure: true, ..options.wal.clone() };
        let wal_dir = options.dir.join("wal").join("metrics");
        let floor = manifest.wal_floor;
        let (wal, recovery) = Wal::open(fs.clone(), &wal_dir, wal_options, &mut |at, bytes| {
            if at.segment >= floor
                && let Err(e) = replay.record(bytes)
            {
                failed.get_or_insert(e);
            }
            progress(ReplayProgress { samples: replay.samples, done_bytes: at.done_bytes, all_bytes: at.all_bytes });
            Ok(())
        })
        .map_err(super::head::wal_error)?;
        if let Some(e) = failed {
            return Err(e.at(&wal_dir));
        }
        wal.truncate_before(floor).map_err(super::head::wal_error)?;
        for d in &recovery.damage {
            tracing::error!(path = %d.path.display(), offset = d.offset, len_bytes = d.len_bytes, "the log is damaged here; set aside, the rest is served");
        }
        let parts = HeadParts { fs: fs.clone(), wal, clock: options.clock.clone(), rules: options.rules, limits: options.limits };
        let head = Head::new(parts, &dir.join("head"), replay)?;
        if let Err(e) = head.spill(options.spill_bytes) {
            // Of a full disk, say: what is there can be read all the same, and upkeep tries again.
            tracing::warn!(error = %e, "finished chunks stay in memory for now");
        }
        let cache = options.cache.clone().map_or_else(|| open_cache(&options).map(Arc::new), Ok)?;
        let opener = Arc::new(StoreOpener {
            fs: fs.clone(),
            bucket: options.bucket.clone().map(|bucket| CachedBucket { bucket, cache: cache.clone() }),
            prefix: format!("metrics/{}", options.tenant),
        });
        let version = Version { pin: head.pin(), flushed_epoch: 0, blocks: Vec::new(), incomplete: None, deletes: Vec::new() };
        let given = manifest.names;
        let lease = options.bucket.clone().map(|b| Lease::new(b, options.clock.clone(), "metrics", &options.tenant, &writer));
        let ownership = Ownership::new(&writer, lease, options.adopt_after_ms);
        let store = MetricStore(Arc::new(Inner {
            options,
            head,
            version: RwLock::new(Arc::new(version)),
            manifest: Mutex::new(manifest),
            work: Mutex::default(),
            flushing: Mutex::default(),
            last_flush: Mutex::default(),
            names: Mutex::new(Names { given, ..Names::default() }),
            opener,
            cache,
            writer,
            ownership,
            recovery,
            bucket_error: Mutex::new(None),
            deletes_in_bucket: Mutex::default(),
            closed: AtomicBool::new(false),
        }));
        store.load_deletes()?;
        store.remove_copies();
        {
            let mut work = store.0.work.lock();
            // The process before may have been at any of them.
            work.begun = store.0.manifest.lock().blocks.iter().filter(|b| b.uploaded_ms.is_none()).map(|b| b.ulid.clone()).collect();
            if let Err(e) = store.sync_bucket(&mut work) {
                store.bucket_failed(&mut work, &e);
            }
            store.rebuild_version(&work)?;
        }
        Ok(store)
    }

    /// Appends a batch; wait for its commit before acknowledging.
    pub fn append(&self, batch: &Batch) -> Result<Appended> {
        self.check_open()?;
        self.0.head.append(batch)
    }

    /// An error for whatever would change a store that is only read.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.0.options.read_only { Err(Error::read_only()) } else { Ok(()) }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the metric store is closed"));
        }
        self.check_writable()
    }

    /// Makes a manifest the one that counts, unless the store is closed: then the folder may be another's already.
    pub(super) fn save(&self, manifest: &mut Manifest, mut next: Manifest) -> Result<()> {
        self.check_open()?;
        next.names = self.0.names.lock().given;
        next.save(&self.0.options.fs, &self.0.options.dir.join("metrics"))?;
        *manifest = next;
        Ok(())
    }

    /// After a save that failed: removes new blocks, unless the manifest on the disk names them all the same. They would lie
    /// there until the next start, and every further try on a full disk would add some.
    pub(super) fn discard_unnamed(&self, ulids: &[String]) {
        let manifest = self.0.manifest.lock();
        if self.check_open().is_err() {
            return;
        }
        let Ok(on_disk) = Manifest::load(&self.0.options.fs, &self.0.options.dir.join("metrics")) else { return };
        let named = |ulid: &str| [&on_disk, &*manifest].iter().any(|m| m.blocks.iter().any(|b| b.ulid == ulid));
        for ulid in ulids.iter().filter(|u| !named(u)) {
            let _ = self.0.options.fs.remove_dir_all(&self.local_dir().join(ulid));
        }
    }

    /// A handle for fast appends to one series.
    pub fn handle(&self, labels: &Labels) -> Result<SeriesHandle> {
        self.check_open()?;
        self.0.head.handle(labels)
    }

    /// The head, for status pages.
    pub fn head(&self) -> &Arc<Head> {
        &self.0.head
    }

    /// The options it was opened with.
    pub fn options(&self) -> &MetricOptions {
        &self.0.options
    }

    /// What recovery found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.0.recovery
    }

    /// The id under which this process writes blocks.
    pub fn writer_id(&self) -> &str {
        &self.0.writer
    }

    /// Pages of a remote bucket's objects, for whoever reads the same bucket to share.
    pub fn cache(&self) -> &Arc<RangeCache> {
        &self.0.cache
    }

    /// The blocks that queries see.
    pub fn blocks(&self) -> Vec<Arc<BlockEntry>> {
        self.version().blocks.clone()
    }

    pub(super) fn version(&self) -> Arc<Version> {
        self.0.version.read().clone()
    }

    /// Why answers may miss something: a bucket that was never reached, or blocks of which nothing can be read.
    pub fn incomplete(&self) -> Option<String> {
        self.version().incomplete.clone()
    }

    /// Figures.
    pub fn stats(&self) -> StoreStats {
        let v = self.version();
        StoreStats {
            head: self.0.head.stats(),
            blocks: v.blocks.len(),
            block_bytes: v.blocks.iter().map(|b| b.meta.size_bytes()).sum(),
            blocks_to_upload: self.0.manifest.lock().blocks.iter().filter(|b| b.uploaded_ms.is_none()).count(),
            wal_bytes: self.0.head.wal().size_bytes(),
            wal: self.0.head.wal().stats(),
            bucket_error: self.0.bucket_error.lock().clone(),
        }
    }

    /// Heap bytes by part; walks all series.
    pub fn memory(&self) -> HeadMemory {
        self.0.head.memory()
    }

    /// A rough count of heap bytes in use, cheap enough to ask often.
    pub fn heap_bytes_estimate(&self) -> usize {
        let head = &self.0.head;
        self.standing_bytes() + head.stats().chunks as usize * 160 + head.sealed_heap_bytes()
    }

    /// Those of them that no flush gives back: records of series, and a cache of its own.
    pub(super) fn standing_bytes(&self) -> usize {
        let cache = if self.0.options.cache.is_none() { self.0.cache.size_bytes() as usize } else { 0 };
        self.0.head.stats().series * 300 + cache
    }

    /// What a flush would give back of it, about: all, but for what the last one left (records of series stay until they are
    /// idle, caches until they are displaced).
    pub fn flushable_bytes(&self) -> usize {
        let held = self.heap_bytes_estimate();
        let mut last = self.0.last_flush.lock();
        let Some(f) = &mut *last else { return held };
        // Series end too.
        f.left_bytes = f.left_bytes.min(held);
        held - f.left_bytes
    }

    /// Makes all acknowledged data durable and ends the log. Further appends fail. Waits for a flush under way, which would else
    /// leave blocks that nobody names, but never for the bucket.
    pub fn close(&self) -> Result<()> {
        let _no_flush = self.0.flushing.lock();
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A save that is under way ends; none begins.
        drop(self.0.manifest.lock());
        self.0.head.apply_decided();
        self.0.head.wal().close().map_err(super::head::wal_error)
    }

    pub(super) fn local_dir(&self) -> PathBuf {
        self.0.options.dir.join("metrics").join("blocks")
    }

    pub(super) fn bucket_prefix(&self) -> String {
        format!("metrics/{}", self.0.options.tenant)
    }

    /// Puts together what is on the disk and in the bucket.
    pub(super) fn rebuild_version(&self, work: &Work) -> Result<()> {
        let mut entries = Vec::new();
        let manifest = self.0.manifest.lock();
        let gone: Vec<&str> = manifest.obsolete.iter().map(|o| o.ulid.as_str()).collect();
        let known: std::collections::HashMap<String, Arc<BlockEntry>> =
            self.version().blocks.iter().map(|b| (b.meta.ulid.clone(), b.clone())).collect();
        let entry = |meta: BlockMeta, place: Place| match known.get(&meta.ulid) {
            Some(e) if e.place == place => e.clone(),
            Some(e) => Arc::new(e.moved(meta, place)),
            _ => Arc::new(BlockEntry::new(meta, place, self.0.opener.clone())),
        };
        let mut local = std::collections::HashSet::new();
        let mut unknown = work.unknown.clone();
        for b in &manifest.blocks {
            let dir = self.local_dir().join(&b.ulid);
            local.insert(b.ulid.clone());
            match self.local_meta(&b.ulid) {
                Ok(meta) => entries.push(entry(meta, Place::Local(dir))),
                Err(e) if is_damage(&e) => unknown.push(e.to_string()),
                Err(e) => return Err(e),
            }
        }
        for meta in work.bucket_blocks.iter().filter(|m| !local.contains(&m.ulid) && !gone.contains(&m.ulid.as_str())) {
            let place = Place::Bucket(format!("{}/{}", self.bucket_prefix(), meta.ulid));
            entries.push(entry(meta.clone(), place));
        }
        let mut current = self.0.version.write();
        let incomplete = self.what_is_missing(work, &unknown);
        let next = Version { pin: self.0.head.pin(), flushed_epoch: self.0.head.flushed_epoch(), incomplete, ..(**current).clone() };
        *current = Arc::new(next.with_blocks(entries));
        Ok(())
    }
}

/// A bucket that is a local folder is read where it lies.
fn open_cache(o: &MetricOptions) -> Result<RangeCache> {
    let cache = RangeCache::new(o.cache_bytes);
    let remote = o.bucket.as_ref().is_some_and(|b| b.local_path("").is_none());
    if remote && o.disk_cache_bytes > 0 && !o.read_only {
        return cache.with_disk(o.fs.clone(), o.dir.join("cache"), o.disk_cache_bytes);
    }
    Ok(cache)
}

fn remove_strays(fs: &Arc<dyn Fs>, blocks: &std::path::Path, manifest: &Manifest) -> Result<()> {
    fs.create_dir_all(blocks).map_err(|e| Error::io("creating the block folder", blocks, e))?;
    let entries = fs.read_dir(blocks).map_err(|e| Error::io("listing the block folder", blocks, e))?;
    for e in entries.iter().filter(|e| e.is_dir && !manifest.blocks.iter().any(|b| b.ulid == e.name())) {
        fs.remove_dir_all(&e.path).map_err(|x| Error::io("removing an unfinished block", &e.path, x))?;
    }
    Ok(())
}

impl SeriesSource for MetricStore {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesSelection>> {
        Ok(Box::new(MetricSelection::new(&self.0.head, self.version(), request)?))
    }

    fn label_names(&self, q: &LabelQuery) -> Result<(Vec<String>, Warnings)> {
        let mut names = std::collections::BTreeSet::new();
        let mut warnings = Warnings::new();
        if q.matchers.is_empty() {
            let v = self.version();
            names = v.list(q, &mut warnings, |b| Ok(b.index().label_names().map(str::to_owned).collect()))?;
            if self.0.head.may_hold(q.range, v.flushed_epoch) {
                names.extend(self.0.head.with_registry(|r| r.label_names()));
            }
        } else {
            let request = SelectRequest { sorted: false, partial: q.partial, ..SelectRequest::new(q.matchers.clone(), q.range) };
            let sel = self.select(&request)?;
            warnings = sel.warnings();
            let (mut last, mut ids): (Vec<u32>, Vec<u32>) = Default::default();
            for i in 0..sel.len() {
                // Most series have the names of the one before.
                ids.clear();
                let numbered = sel.visit_symbols(i, &mut |n, _| ids.push(n));
                if numbered && i > 0 && ids == last {
                    continue;
                }
                std::mem::swap(&mut last, &mut ids);
                sel.visit_labels(i, &mut |n, _| {
                    if !names.contains(n) {
                        names.insert(n.to_owned());
                    }
                });
            }
        }
        Ok((limited(names, q.limit), warnings))
    }

    fn label_values(&self, name: &str, q: &LabelQuery) -> Result<(Vec<String>, Warnings)> {
        let v = self.version();
        let mut warnings = Warnings::new();
        let of_block = |b: &super::block::Block| {
            let among = if q.matchers.is_empty() { None } else { Some(b.index().select(&q.matchers)?) };
            b.index().label_values(name, among.as_ref())
        };
        let mut values = v.list(q, &mut warnings, of_block)?;
        if self.0.head.may_hold(q.range, v.flushed_epoch) {
            values.extend(self.0.head.with_registry(|r| {
                let among = (!q.matchers.is_empty()).then(|| r.select(&q.matchers));
                r.label_values(name, among.as_ref())
            }));
        }
        Ok((limited(values, q.limit), warnings))
    }

    fn exemplars(&self, sets: &[Vec<Matcher>], range: TimeRange) -> Result<Vec<ExemplarSeries>> {
        Ok(self.0.head.exemplars().lock().select(sets, range))
    }

    fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<MetricMetadata>)>> {
        let m = self.0.head.metadata().lock();
        Ok(match metric {
            Some(f) => m.get(f).map(|v| vec![(f.to_owned(), v.clone())]).unwrap_or_default(),
            None => m.iter().map(|(f, v)| (f.clone(), v.clone())).collect(),
        })
    }
}

impl MetricStore {
    /// Records a delete: hidden at once, here and on every node that reads the bucket. It concerns what is there: samples that
    /// come later stay, whatever their time. Where the head holds any of it, it is flushed.
    pub fn delete(&self, range: TimeRange, matchers: Vec<Matcher>) -> Result<()> {
        if matchers.iter().all(|m| m.matches_empty()) {
            return Err(Error::invalid("a delete needs a matcher that does not match the empty string"));
        }
        self.check_open()?;
        let now_ms = self.0.options.clock.now_ms();
        let max_ms = if range.max_ms > now_ms { self.newest_beyond(now_ms, &matchers)?.min(range.max_ms) } else { range.max_ms };
        if range.min_ms > max_ms {
            return Ok(());
        }
        let range = TimeRange::new(range.min_ms, max_ms);
        let ulid = self.new_ulid();
        let d = Delete::new(ulid, range, matchers);
        {
            let _no_flush_between = self.0.flushing.lock();
            self.flush_deleted(&d)?;
            // A close waits for it: a delete that comes later would be written into another's folder, who does not know it.
            let _manifest = self.0.manifest.lock();
            self.check_open()?;
            let kept = self.keep_delete(&d.spec);
            // If it could not be kept it may be on the disk all the same, and what comes now must not be hidden by it then.
            let mut v = self.0.version.write();
            let mut next = (**v).clone();
            next.deletes.push(Arc::new(d));
            *v = Arc::new(next);
            kept?;
        }
        if let Err(e) = self.upload_deletes() {
            tracing::warn!(error = %e, "a delete could not be uploaded; it will be tried again");
        }
        Ok(())
    }

    /// The time of the newest sample that these match, or `now_ms` if none lies ahead of it: clocks differ.
    fn newest_beyond(&self, now_ms: i64, matchers: &[Matcher]) -> Result<i64> {
        let ahead = TimeRange::new(now_ms.saturating_add(1), i64::MAX);
        let sel = self.select(&SelectRequest { sorted: false, ..SelectRequest::new(matchers.to_vec(), ahead) })?;
        let (mut newest_ms, mut buf) = (now_ms, SampleBuf::default());
        for i in 0..sel.len() {
            newest_ms = sel.newest(i, ahead, &mut buf)?.map_or(newest_ms, |s| newest_ms.max(s.t));
        }
        Ok(newest_ms)
    }

    pub(super) fn keep_delete(&self, spec: &super::deletes::DeleteSpec) -> Result<()> {
        crate::sealed::save(&self.0.options.fs, &self.deletes_dir().join(format!("{}.json", spec.ulid)), spec)
    }

    pub(super) fn deletes_dir(&self) -> PathBuf {
        self.0.options.dir.join("metrics").join("deletes")
    }

    fn load_deletes(&self) -> Result<()> {
        let all = self.read_deletes(&self.deletes_dir())?.into_iter().map(Arc::new).collect();
        let mut v = self.0.version.write();
        let mut next = (**v).clone();
        next.deletes = all;
        *v = Arc::new(next);
        Ok(())
    }

    /// A name that no block or delete of this store bears. Time comes from the injected clock, which may stand where it
    /// stood before a restart; so uniqueness is looked for, not left to time, the writer's name and a counter.
    pub(super) fn new_ulid(&self) -> String {
        use std::hash::{BuildHasher, Hasher};
        let v = self.version();
        let obsolete: Vec<String> = self.0.manifest.lock().obsolete.iter().map(|o| o.ulid.clone()).collect();
        let mut names = self.0.names.lock();
        loop {
            let mut h = foldhash::quality::FixedState::with_seed(names.given).build_hasher();
            h.write(self.0.writer.as_bytes());
            let mix = h.finish() as u128;
            let now_ms = self.0.options.clock.now_ms().max(0);
            names.given += 1;
            let random = (mix << 16) ^ ((now_ms as u128) << 40) ^ u128::from(names.given);
            let name = ulid::Ulid::from_parts(now_ms as u64, random).to_string();
            let taken = v.blocks.iter().any(|b| b.meta.ulid == name)
                || names.in_bucket.contains(&name)
                || v.deletes.iter().any(|d| d.spec.ulid == name)
                || obsolete.contains(&name)
                || self.0.options.fs.exists(&self.local_dir().join(&name));
            if !taken {
                return name;
            }
        }
    }
}

fn limited(set: std::collections::BTreeSet<String>, limit: usize) -> Vec<String> {
    let most = if limit == 0 { usize::MAX } else { limit };
    set.into_iter().take(most).collect()
}
