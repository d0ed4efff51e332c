//! A bucket for tests: it lies far away, and what happens to a call is the test's to say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use strandline_wal::fs::Fs;

use super::{Bucket, ObjectInfo};
use crate::error::{Error, Result};

/// A call to a [`SimBucket`] that is about to be made, with its key or prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BucketCall<'a> {
    /// [`Bucket::put`].
    Put(&'a str),
    /// [`Bucket::put_file`], and the file.
    PutFile(&'a str, &'a Path),
    /// [`Bucket::put_if_absent`].
    PutIfAbsent(&'a str),
    /// [`Bucket::put_if_match`].
    PutIfMatch(&'a str),
    /// [`Bucket::get`] and [`Bucket::get_tagged`].
    Get(&'a str),
    /// [`Bucket::get_range`] and [`Bucket::get_ranges`], and how many.
    Ranges(&'a str, usize),
    /// [`Bucket::size`].
    Size(&'a str),
    /// [`Bucket::list`] and [`Bucket::list_folders`].
    List(&'a str),
    /// [`Bucket::delete`].
    Delete(&'a str),
}

impl BucketCall<'_> {
    /// Requests that it stands for.
    pub fn requests(&self) -> u64 {
        if let BucketCall::Ranges(_, n) = self { *n as u64 } else { 1 }
    }
}

type Before = dyn Fn(BucketCall<'_>) -> Result<()> + Send + Sync;
type OnTheWay = dyn Fn(Bytes) -> Bytes + Send + Sync;

/// Another bucket, without local paths. Before each call a hook is asked, which may count it, hold it up, do something
/// meanwhile, or fail it. Clones share bucket and hooks.
#[derive(Clone)]
pub struct SimBucket {
    inner: Arc<dyn Bucket>,
    before: Arc<Before>,
    on_the_way: Arc<OnTheWay>,
    disk: Option<Arc<dyn Fs>>,
    near: bool,
}

impl SimBucket {
    /// Calls go to `inner`.
    pub fn over(inner: impl Bucket) -> Self {
        SimBucket { inner: Arc::new(inner), before: Arc::new(|_| Ok(())), on_the_way: Arc::new(|b| b), disk: None, near: false }
    }
    /// Asked before each call; an error is the call's answer.
    #[must_use]
    pub fn before(self, hook: impl Fn(BucketCall<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        SimBucket { before: Arc::new(hook), ..self }
    }
    /// What becomes of the content of ranges on its way.
    #[must_use]
    pub fn on_the_way(self, hook: impl Fn(Bytes) -> Bytes + Send + Sync + 'static) -> Self {
        SimBucket { on_the_way: Arc::new(hook), ..self }
    }
    /// Files to upload lie on another disk than the bucket, so that nothing can be linked.
    #[must_use]
    pub fn uploading_from(self, disk: impl Fs) -> Self {
        SimBucket { disk: Some(Arc::new(disk)), ..self }
    }
    /// Gives the local paths that the other bucket has.
    #[must_use]
    pub fn near(self, near: bool) -> Self {
        SimBucket { near, ..self }
    }
    /// The other bucket, no hook being asked.
    pub fn inner(&self) -> &dyn Bucket {
        &*self.inner
    }

    fn call(&self, call: BucketCall<'_>) -> Result<&dyn Bucket> {
        (self.before)(call).map(|()| self.inner())
    }
}

impl Bucket for SimBucket {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn put(&self, key: &str, content: Bytes) -> Result<()> {
        self.call(BucketCall::Put(key))?.put(key, content)
    }
    fn put_file(&self, key: &str, path: &Path) -> Result<()> {
        let inner = self.call(BucketCall::PutFile(key, path))?;
        match &self.disk {
            Some(disk) => inner.put(key, disk.read(path).map_err(|e| Error::io("reading a file to upload", path, e))?),
            None => inner.put_file(key, path),
        }
    }
    fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
        self.call(BucketCall::PutIfAbsent(key))?.put_if_absent(key, content)
    }
    fn put_if_match(&self, key: &str, content: Bytes, tag: Option<&str>) -> Result<Option<String>> {
        self.call(BucketCall::PutIfMatch(key))?.put_if_match(key, content, tag)
    }
    fn get_tagged(&self, key: &str) -> Result<(Bytes, String)> {
        self.call(BucketCall::Get(key))?.get_tagged(key)
    }
    fn get(&self, key: &str) -> Result<Bytes> {
        self.call(BucketCall::Get(key))?.get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes> {
        self.call(BucketCall::Ranges(key, 1))?.get_range(key, offset, len).map(|b| (self.on_the_way)(b))
    }
    fn get_ranges(&self, key: &str, ranges: &[(u64, usize)]) -> Result<Vec<Bytes>> {
        let got = self.call(BucketCall::Ranges(key, ranges.len()))?.get_ranges(key, ranges)?;
        Ok(got.into_iter().map(|b| (self.on_the_way)(b)).collect())
    }
    fn size(&self, key: &str) -> Result<u64> {
        self.call(BucketCall::Size(key))?.size(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.call(BucketCall::List(prefix))?.list(prefix)
    }
    fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.call(BucketCall::List(prefix))?.list_folders(prefix)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.call(BucketCall::Delete(key))?.delete(key)
    }
    fn local_path(&self, key: &str) -> Option<PathBuf> {
        if self.near { self.inner.local_path(key) } else { None }
    }
}
