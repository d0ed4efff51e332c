//! What readers see: the head as of the last flush, the blocks, and the deletes, under one reference.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use strandline_wal::sync::Mutex;

use super::block::{Block, BlockMeta, Ending, Endings};
use super::deletes::Delete;
use super::head::Pin;
use super::remote::Opener;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{LabelQuery, Warnings};

/// Where a block lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a folder.
    Local(PathBuf),
    /// In the bucket, under a key prefix.
    Bucket(String),
}

/// A block that can be opened. Opening costs a few reads; it is done once, at first use.
pub struct BlockEntry {
    /// Its description.
    pub meta: BlockMeta,
    /// Where it lies.
    pub place: Place,
    opener: Arc<dyn Opener>,
    opened: Mutex<Option<Arc<Block>>>,
    endings: Arc<Endings>,
}

impl BlockEntry {
    /// An entry that `opener` opens.
    pub fn new(meta: BlockMeta, place: Place, opener: Arc<dyn Opener>) -> Self {
        BlockEntry { meta, place, opener, opened: Mutex::new(None), endings: Arc::default() }
    }

    /// With what its writer knew of how its series end, in their order.
    pub(crate) fn ending(self, known: Vec<Ending>) -> Self {
        BlockEntry { endings: Arc::new(Endings::known(known)), ..self }
    }

    /// The same block at another place.
    pub(crate) fn moved(&self, meta: BlockMeta, place: Place) -> Self {
        BlockEntry { endings: self.endings.clone(), ..BlockEntry::new(meta, place, self.opener.clone()) }
    }

    /// The open block. A failure is not remembered: the next query tries again.
    pub fn open(&self) -> Result<Arc<Block>> {
        let mut opened = self.opened.lock();
        if let Some(b) = &*opened {
            return Ok(b.clone());
        }
        let b = Arc::new(self.opener.open(&self.meta, &self.place)?.share(self.endings.clone())?);
        *opened = Some(b.clone());
        Ok(b)
    }

    /// Bytes kept in memory for it.
    pub fn memory_bytes(&self) -> usize {
        self.opened.lock().as_ref().map_or(0, |b| b.memory_bytes())
    }
}

/// One state of the store.
#[derive(Clone)]
pub struct Version {
    /// Keeps what the head dropped since from being reused.
    pub pin: Pin,
    /// Chunks of the head cut at or before this epoch are in the blocks.
    pub flushed_epoch: u8,
    /// Blocks, by first time.
    pub blocks: Vec<Arc<BlockEntry>>,
    /// Why the list of blocks may miss some.
    pub incomplete: Option<String>,
    /// Deletes, applied while reading.
    pub deletes: Vec<Arc<Delete>>,
}

impl Version {
    /// Sorts the blocks and leaves out those that another one was made of.
    pub fn with_blocks(mut self, mut blocks: Vec<Arc<BlockEntry>>) -> Self {
        let replaced: std::collections::HashSet<String> =
            blocks.iter().flat_map(|b| b.meta.compaction.parents.iter().map(|p| p.ulid.clone())).collect();
        blocks.retain(|b| !replaced.contains(&b.meta.ulid));
        blocks.sort_by(|a, b| (a.meta.min_time, &a.meta.ulid).cmp(&(b.meta.min_time, &b.meta.ulid)));
        blocks.dedup_by(|a, b| a.meta.ulid == b.meta.ulid);
        self.blocks = blocks;
        self
    }
    /// Fails where an answer could miss data; tells it, if a partial one will do.
    pub fn complete(&self, partial: bool, warnings: &mut Warnings) -> Result<()> {
        match &self.incomplete {
            Some(why) if !partial => Err(Error::new(ErrorKind::Unavailable, format!("{why}: the answer could miss data"))),
            why => {
                warnings.extend(why.clone());
                Ok(())
            }
        }
    }

    /// What a listing finds in the blocks of its range; what can't be read fails it, or is told if a partial answer will do.
    pub fn list(
        &self,
        q: &LabelQuery,
        warnings: &mut Warnings,
        of_block: impl Fn(&Block) -> Result<Vec<String>>,
    ) -> Result<BTreeSet<String>> {
        self.complete(q.partial, warnings)?;
        let mut out = BTreeSet::new();
        for b in self.blocks.iter().filter(|b| b.meta.samples_range().overlaps(q.range)) {
            match b.open().and_then(|b| of_block(&b)) {
                Ok(found) => out.extend(found),
                Err(e) if q.partial => warnings.push(format!("block {} could not be read: {e}", b.meta.ulid)),
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }
}
