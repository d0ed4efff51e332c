//! Where flushed blocks live: any object store, or a local folder.
//!
//! Keys are `/`-separated, relative to the bucket's root (or the prefix of its URL).

mod cache;
mod disk_cache;
mod halves;
mod lease;
mod local;
#[cfg(feature = "s3")]
mod object;
mod sim;

use std::path::Path;

use bytes::Bytes;
use strandline_wal::fs::Fs;

use crate::error::Result;

pub use cache::{CachedBucket, RangeCache};
pub(crate) use halves::Halves;
pub(crate) use lease::made_ms;
pub use lease::{Lease, Ownership};
pub use local::LocalBucket;
#[cfg(feature = "s3")]
pub use object::{ObjectBucket, S3Settings};
pub use sim::{BucketCall, SimBucket};

/// So much of an object is fetched at once when it is copied to a file.
const FETCHED_BYTES: u64 = 4 << 20;

/// An object's key and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Full key.
    pub key: String,
    /// Bytes.
    pub size_bytes: u64,
}

/// An object store. Calls block the calling thread (never a tokio worker of the caller: implementations own theirs).
/// `NotFound` and `Unavailable` are told apart; damaged content is the caller's to find.
pub trait Bucket: Send + Sync + 'static {
    /// A name for people, e.g. `s3://blocks/prefix`.
    fn name(&self) -> String;
    /// Stores an object whole, replacing what was there.
    fn put(&self, key: &str, content: Bytes) -> Result<()>;
    /// Stores a local file as an object. Large files go in parts; a local bucket links instead of copying.
    fn put_file(&self, key: &str, path: &Path) -> Result<()>;
    /// Stores an object unless the key is taken; false if it is.
    fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool>;
    /// Replaces an object if its tag is still `tag` (none: if there is no object). Gives the new tag, or `None` if
    /// another was faster. Buckets that can't do it answer with `Invalid`.
    fn put_if_match(&self, key: &str, content: Bytes, tag: Option<&str>) -> Result<Option<String>> {
        let _ = (content, tag);
        Err(crate::Error::invalid(format!("{} has no conditional puts", self.name())).at(key))
    }
    /// The whole object and the tag of its content.
    fn get_tagged(&self, key: &str) -> Result<(Bytes, String)> {
        Err(crate::Error::invalid(format!("{} has no tags", self.name())).at(key))
    }
    /// The whole object.
    fn get(&self, key: &str) -> Result<Bytes>;
    /// `len` bytes from `offset`.
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes>;
    /// Several ranges of one object; implementations overlap the waits.
    fn get_ranges(&self, key: &str, ranges: &[(u64, usize)]) -> Result<Vec<Bytes>> {
        ranges.iter().map(|(o, n)| self.get_range(key, *o, *n)).collect()
    }
    /// Writes an object to a local file, in pieces: what is held is a few MiB, however large it is.
    fn get_file(&self, key: &str, fs: &dyn Fs, path: &Path) -> Result<()> {
        let io = |e| crate::Error::io("writing what was fetched", path, e);
        let len = self.size(key)?;
        let mut file = fs.create(path).map_err(io)?;
        let mut at = 0;
        while at < len {
            let n = (len - at).min(FETCHED_BYTES);
            file.write_all(&self.get_range(key, at, n as usize)?).map_err(io)?;
            at += n;
        }
        file.sync().map_err(io)
    }
    /// The size of an object; `NotFound` if there is none.
    fn size(&self, key: &str) -> Result<u64>;
    /// All objects whose key starts with `prefix` (a whole folder name ending in `/`, or "").
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>>;
    /// Names of the folders right below `prefix`.
    fn list_folders(&self, prefix: &str) -> Result<Vec<String>>;
    /// Removes an object; fine if there is none.
    fn delete(&self, key: &str) -> Result<()>;
    /// A local folder that holds the objects as files, if there is one: then they can be mapped.
    fn local_path(&self, key: &str) -> Option<std::path::PathBuf> {
        let _ = key;
        None
    }
}
