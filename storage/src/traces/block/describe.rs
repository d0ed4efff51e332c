//! A description made anew from the data file, where `meta.json` is damaged. The file's checksums are those of what it
//! holds now; what it was merged from is not known any more, and spans that are read twice count once.

use std::sync::Arc;

use strandline_wal::fs::Fs;

use super::meta::{BlockMeta, SPANS_FILE, sums_to_text};
use super::reader::{Location, OpenBlock};
use super::schema::FORMAT_VERSION;
use crate::columnar::file::{SUM_BYTES, Sums};
use crate::error::{Error, Result};

/// Whose block it is, which the data does not tell.
pub(in crate::traces) struct Owner<'a> {
    pub ulid: &'a str,
    pub tenant: &'a str,
    pub writer_id: &'a str,
    pub window_ms: i64,
}

/// Reads the whole file once, its ids and times twice.
pub(in crate::traces) fn describe(owner: &Owner<'_>, location: &Location, fs: &Arc<dyn Fs>) -> Result<BlockMeta> {
    let (size_bytes, checksums) = sums(location)?;
    let mut meta = BlockMeta {
        version: FORMAT_VERSION,
        ulid: owner.ulid.to_owned(),
        tenant: owner.tenant.to_owned(),
        writer_id: owner.writer_id.to_owned(),
        window_start_ms: 0,
        window_ms: owner.window_ms,
        min_start_unix_nano: u64::MAX,
        max_start_unix_nano: 0,
        max_end_unix_nano: 0,
        spans: 0,
        traces: 0,
        size_bytes,
        tail_offset: 0,
        level: 0,
        sources: Vec::new(),
        checksums,
    };
    let block = OpenBlock::open(meta.clone(), location, fs)?;
    let leaf = |name| block.need_leaf(&[name]);
    let (start, duration) = (leaf("start_time_unix_nano")?, leaf("duration_nano")?);
    let mut last = None;
    for group in 0..block.row_groups() {
        let starts = block.read::<i64>(group, start, None)?.into_values();
        let durations = block.read::<i64>(group, duration, None)?.into_values();
        for (s, d) in starts.iter().zip(&durations) {
            meta.min_start_unix_nano = meta.min_start_unix_nano.min(*s as u64);
            meta.max_start_unix_nano = meta.max_start_unix_nano.max(*s as u64);
            meta.max_end_unix_nano = meta.max_end_unix_nano.max((*s as u64).saturating_add_signed(*d));
        }
        let (traces, _) = block.traces(group, None)?;
        meta.spans += starts.len() as u64;
        meta.traces += traces.len() as u64 - u64::from(last.is_some() && traces.first() == last.as_ref());
        last = traces.last().copied();
    }
    if meta.spans == 0 {
        return Err(Error::corrupt("it holds no span"));
    }
    let window_ms = owner.window_ms.max(1);
    meta.window_start_ms = (meta.min_start_unix_nano / 1_000_000) as i64 / window_ms * window_ms;
    meta.tail_offset = block.tail_offset();
    Ok(meta)
}

/// Length and checksums of the data file as it is.
fn sums(location: &Location) -> Result<(u64, String)> {
    let mut sums = Sums::default();
    let mut feed = |len: u64, read: &dyn Fn(u64, usize) -> Result<bytes::Bytes>| {
        let mut at = 0;
        while at < len {
            let piece = read(at, (len - at).min(16 * SUM_BYTES as u64) as usize)?;
            sums.update(&piece);
            at += piece.len() as u64;
        }
        Ok::<_, Error>(len)
    };
    let len = match location {
        Location::Folder(fs, dir) => {
            let path = dir.join(SPANS_FILE);
            let f = fs.open(&path).map_err(|e| Error::io("opening a block", &path, e))?;
            feed(f.len(), &|at, n| f.read_at(at, n).map_err(|e| Error::io("reading a block", &path, e)))?
        }
        Location::Bucket(b, prefix) => {
            let key = format!("{prefix}{SPANS_FILE}");
            feed(b.bucket.size(&key)?, &|at, n| b.bucket.get_range(&key, at, n))?
        }
    };
    Ok((len, sums_to_text(&sums.finish())))
}
