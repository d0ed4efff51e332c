//! Taking over blocks of Prometheus, Thanos and Mimir, from a folder or from their bucket.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::fs::Fs;

use super::block::{Block, BlockMeta, ThanosMeta};
use super::store::MetricStore;
use crate::bucket::Bucket;
use crate::error::{Error, ErrorKind, Result};
use crate::model::TimeRange;

/// What became of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It is here now.
    Taken {
        /// The external labels of its description that its series got, `name="value"` each.
        external_labels: Vec<String>,
    },
    /// Its samples were here already, from it or from a block that it went into.
    Known,
    /// It is left alone, and why.
    Skipped(&'static str),
}

const META: &str = "meta.json";
const DELETION_MARK: &str = "deletion-mark.json";
/// Where blocks of a bucket are copied to, in the data folder.
const COPIES: &str = "import";

impl MetricStore {
    /// Takes over a block that lies in a folder, after every checksum was verified. It is written anew under a name of
    /// ours, which remembers its own. Its series get its external labels, as Thanos shows them, but for those named in
    /// `without` (what tells replicas apart: their samples then settle into one series) and those that begin with `__`.
    ///
    /// Memory: the labels of all its series, if it has external labels; else of a series at a time.
    pub fn import_block(&self, dir: &Path, without: &[String]) -> Result<Imported> {
        self.check_open()?;
        let fs = &self.0.options.fs;
        let path = dir.join(META);
        let json = match fs.read(&path) {
            Ok(j) => Some(j),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("reading a block's description", &path, e)),
        };
        let meta = match self.consider(json.as_deref(), fs.exists(&dir.join(DELETION_MARK))).map_err(|e| e.at(&path))? {
            Ok(meta) => meta,
            Err(not) => return Ok(not),
        };
        let theirs = Arc::new(Block::open(fs, dir)?);
        theirs.verify()?;
        let mut sources = meta.compaction.sources.clone();
        // Blocks that were split by series have the same sources: what tells them apart is their own name.
        if !sources.contains(&meta.ulid) {
            sources.push(meta.ulid.clone());
            sources.sort();
        }
        let mut work = self.0.work.lock();
        // Another import of it may have come to its end meanwhile.
        if self.knows(&meta.ulid) {
            return Ok(Imported::Known);
        }
        let range = TimeRange::new(meta.min_time, meta.max_time - 1);
        let ours = self.block_meta(self.new_ulid(), range, meta.compaction.level.max(1), sources);
        let added = meta.thanos.map(|t| external_labels(t, without)).unwrap_or_default();
        // What is imported came after all deletes that are known.
        let ours = ours.behind(&self.version().deletes);
        let written = self.merge(vec![super::compact::Source { block: theirs, deletes: Vec::new() }], &added, ours)?;
        self.swap(&[], written, "import", &mut work)?;
        Ok(Imported::Taken { external_labels: added.iter().map(|(n, v)| format!("{n}={v:?}")).collect() })
    }

    /// As [`MetricStore::import_block`], of a block whose objects in a bucket begin with `prefix`, which ends in `/`. Its
    /// files are copied first, into a folder of its own in `import` of the data folder.
    pub fn import_from(&self, bucket: &dyn Bucket, prefix: &str, without: &[String]) -> Result<Imported> {
        self.check_open()?;
        let get = |name: &str| match bucket.get(&format!("{prefix}{name}")) {
            Ok(b) => Ok(Some(b)),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let json = get(META)?;
        if let Err(not) = self.consider(json.as_deref(), get(DELETION_MARK)?.is_some()).map_err(|e| e.at(format!("{prefix}{META}")))? {
            return Ok(not);
        }
        let fs = &self.0.options.fs;
        let dir = self.0.options.dir.join(COPIES).join(self.new_ulid());
        let done = copy_block(bucket, prefix, &**fs, &dir).and_then(|()| self.import_block(&dir, without));
        let removed = match fs.remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing a copied block", &dir, e)),
            _ => Ok(()),
        };
        let done = done?;
        removed.map(|()| done)
    }

    /// Removes what a process that was killed had copied. For whoever opens the folder: nobody imports then.
    pub(super) fn remove_copies(&self) {
        let dir = self.0.options.dir.join(COPIES);
        if let Err(e) = self.0.options.fs.remove_dir_all(&dir)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %e, dir = %dir.display(), "blocks that were copied to be imported could not be removed; the next start will");
        }
    }

    /// Whether a block is to be imported, by its description.
    fn consider(&self, json: Option<&[u8]>, marked: bool) -> Result<std::result::Result<BlockMeta, Imported>> {
        if marked {
            return Ok(Err(Imported::Skipped("it is marked for deletion")));
        }
        let Some(json) = json else { return Ok(Err(Imported::Skipped("it has no meta.json: an upload that never ended"))) };
        let meta = BlockMeta::parse(json)?;
        if meta.is_downsampled() {
            return Ok(Err(Imported::Skipped("it is downsampled: the block of the raw samples has all that it tells")));
        }
        Ok(if self.knows(&meta.ulid) { Err(Imported::Known) } else { Ok(meta) })
    }

    /// Whether a block's samples are here, from it or from a block that it went into.
    fn knows(&self, ulid: &String) -> bool {
        self.version().blocks.iter().any(|b| b.meta.compaction.sources.contains(ulid))
    }
}

/// Copies a block's files into a folder.
fn copy_block(bucket: &dyn Bucket, prefix: &str, fs: &dyn Fs, dir: &Path) -> Result<()> {
    for object in bucket.list(prefix)? {
        let name = object.key.strip_prefix(prefix).unwrap_or_default();
        // A key is a path of another's making: nothing but a block's own files is written here.
        if name == META || name == "index" || name == "tombstones" || is_segment(name) {
            let to = dir.join(name);
            let io = |e| Error::io("copying a block", &to, e);
            fs.create_dir_all(to.parent().unwrap_or(&to)).map_err(io)?;
            bucket.get_file(&object.key, fs, &to)?;
        }
    }
    Ok(())
}

/// Those that say where samples come from. Names that begin with `__` are Mimir's own business, and `tenant` is what we
/// call a block that nobody named.
fn external_labels(theirs: ThanosMeta, without: &[String]) -> Vec<(String, String)> {
    let own = theirs.source == ThanosMeta::OURS;
    let kept = |n: &String| !n.starts_with("__") && !without.contains(n) && (!own || n != ThanosMeta::TENANT);
    theirs.labels.into_iter().filter(|(n, v)| !v.is_empty() && kept(n)).collect()
}

/// `chunks/000001` and so on.
fn is_segment(name: &str) -> bool {
    name.strip_prefix("chunks/").is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()))
}
