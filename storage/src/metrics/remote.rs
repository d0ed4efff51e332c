//! Opening blocks: from a folder, or from the bucket by ranges.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use strandline_wal::fs::Fs;

use super::block::{self, Block, BlockMeta, RangeRead, Tombstones};
use super::version::Place;
use crate::bucket::CachedBucket;
use crate::error::{Error, ErrorKind, Result};

/// Opens blocks.
pub trait Opener: Send + Sync {
    /// Opens the block that `meta` describes.
    fn open(&self, meta: &BlockMeta, place: &Place) -> Result<Block>;
}

/// The store's opener.
pub struct StoreOpener {
    /// Files.
    pub fs: Arc<dyn Fs>,
    /// The bucket.
    pub bucket: Option<CachedBucket>,
    /// Where the tenant's blocks lie in it.
    pub prefix: String,
}

impl Opener for StoreOpener {
    fn open(&self, meta: &BlockMeta, place: &Place) -> Result<Block> {
        match place {
            Place::Local(dir) => match Block::open_described(&self.fs, dir, meta.clone()) {
                // Dropped here since, because the bucket has it.
                Err(e) if e.kind == ErrorKind::NotFound && self.bucket.is_some() => {
                    self.open(meta, &Place::Bucket(format!("{}/{}", self.prefix, meta.ulid)))
                }
                other => other,
            },
            Place::Bucket(prefix) => {
                let bucket = self.bucket.as_ref().ok_or_else(|| Error::new(ErrorKind::Unavailable, "there is no bucket"))?;
                match bucket.bucket.local_path(prefix) {
                    Some(dir) => Block::open_described(&self.fs, &dir, meta.clone()),
                    None => self.open_remote(bucket, meta, prefix),
                }
            }
        }
        .map_err(|e| e.at(Path::new(&meta.ulid)))
    }
}

impl StoreOpener {
    fn open_remote(&self, cached: &CachedBucket, meta: &BlockMeta, prefix: &str) -> Result<Block> {
        let bucket = &cached.bucket;
        let known = |rel: &str| {
            let files = meta.thanos.as_ref().map_or(&[][..], |t| &t.files);
            files.iter().find(|f| f.rel_path == rel).map(|f| f.size_bytes).filter(|s| *s > 0)
        };
        let open = |rel: String| -> Result<Arc<dyn RangeRead>> {
            let key = format!("{prefix}/{rel}");
            let len = match known(&rel) {
                Some(n) => n,
                None => bucket.size(&key)?,
            };
            Ok(Arc::new(ObjectSource { bucket: cached.clone(), key, len }))
        };
        let mut segments = Vec::new();
        let listed = bucket.list(&format!("{prefix}/{}/", block::CHUNKS))?;
        for i in 0..listed.len() {
            segments.push(open(format!("{}/{}", block::CHUNKS, block::chunks::segment_name(i)))?);
        }
        let tombstones = match bucket.get(&format!("{prefix}/{}", block::TOMBSTONES)) {
            Ok(b) => block::decode_tombstones(&b)?,
            Err(e) if e.kind == ErrorKind::NotFound => Tombstones::new(),
            Err(e) => return Err(e),
        };
        Block::from_parts(meta.clone(), open(block::INDEX.into())?, segments, tombstones)
    }
}

/// An object read by ranges through the cache.
struct ObjectSource {
    bucket: CachedBucket,
    key: String,
    len: u64,
}

impl RangeRead for ObjectSource {
    fn len(&self) -> u64 {
        self.len
    }
    fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.bucket.read(&self.key, self.len, offset, len)
    }
    fn is_cached(&self) -> bool {
        true
    }
    fn read_anew(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.bucket.read_anew(&self.key, self.len, offset, len)
    }
    fn prefetch(&self, ranges: &[(u64, usize)]) {
        self.bucket.prefetch(&self.key, self.len, ranges);
    }
    fn name(&self) -> String {
        format!("{}/{}", self.bucket.bucket.name(), self.key)
    }
}
