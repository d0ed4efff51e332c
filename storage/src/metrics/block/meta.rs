//! meta.json: Prometheus' fields, the `thanos` section, and ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::TimeRange;

/// The description of a block. Unknown fields of others are kept where Prometheus has them (hints).
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BlockMeta {
    /// Name of the block's folder.
    pub ulid: String,
    /// First millisecond.
    pub min_time: i64,
    /// Behind the last millisecond: the range is `[min, max)`.
    pub max_time: i64,
    /// Counts.
    #[serde(default)]
    pub stats: BlockStats,
    /// Where it comes from.
    #[serde(default)]
    pub compaction: Compaction,
    /// Always 1.
    pub version: u32,
    /// What Thanos needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thanos: Option<ThanosMeta>,
    /// What we need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strandline: Option<StrandlineMeta>,
}

/// Counts of a block.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct BlockStats {
    pub num_samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_float_samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_histogram_samples: u64,
    pub num_series: u64,
    pub num_chunks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_tombstones: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Level and ancestry.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Compaction {
    pub level: u32,
    pub sources: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deletable: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentBlock>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// A block that went into another.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ParentBlock {
    pub ulid: String,
    pub min_time: i64,
    pub max_time: i64,
}

/// The `thanos` section.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ThanosMeta {
    pub version: u32,
    pub labels: BTreeMap<String, String>,
    pub downsample: Downsample,
    pub source: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ThanosFile>,
    pub index_stats: IndexStats,
}

impl ThanosMeta {
    /// `source` of blocks that we wrote.
    pub const OURS: &str = "strandline";
    /// The label of a block for which no external labels are set: Thanos wants one.
    pub const TENANT: &str = "tenant";
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct Downsample {
    pub resolution: i64,
}

/// A file with its size, so that readers need not ask.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[allow(missing_docs)]
pub struct ThanosFile {
    pub rel_path: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
#[allow(missing_docs)]
pub struct IndexStats {
    pub series_max_size: u64,
    pub chunk_max_size: u64,
}

/// Our own section.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct StrandlineMeta {
    /// Who wrote it; only the writer (or the holder of the tenant's lease) compacts and deletes it.
    pub writer: String,
    /// Deletes that were applied when it was written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deletes_applied: Vec<String>,
    /// Time of the first and the last sample: a block of a range often covers but a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_ms: Option<(i64, i64)>,
}

impl BlockMeta {
    /// The same, saying that it has these deletes behind it.
    pub(crate) fn behind(mut self, deletes: &[std::sync::Arc<crate::metrics::Delete>]) -> Self {
        let range = self.range();
        if let Some(s) = &mut self.strandline {
            s.deletes_applied = deletes.iter().filter(|d| d.range().overlaps(range)).map(|d| d.spec.ulid.clone()).collect();
        }
        self
    }

    /// Whether Thanos made it of a block of raw samples, which has all that it tells: nothing here reads such chunks.
    pub fn is_downsampled(&self) -> bool {
        self.thanos.as_ref().is_some_and(|t| t.downsample.resolution > 0)
    }

    /// Parses and checks a meta.json.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let m: BlockMeta = crate::sealed::from_json(json)?;
        if m.version != 1 {
            return Err(Error::invalid(format!("meta.json of version {} is not understood (1 is)", m.version)));
        }
        if m.ulid.parse::<ulid::Ulid>().is_err() {
            return Err(Error::corrupt(format!("meta.json: {:?} is not a ULID", m.ulid)));
        }
        if m.min_time > m.max_time {
            return Err(Error::corrupt("meta.json: minTime is behind maxTime"));
        }
        Ok(m)
    }

    /// As JSON, for people too.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain data with string keys: serde_json has no way to fail on it.
        crate::sealed::to_json(self).unwrap_or_default()
    }

    /// The range with both ends included.
    pub fn range(&self) -> TimeRange {
        TimeRange::new(self.min_time, self.max_time - 1)
    }

    /// The range that its samples lie in, as narrow as the meta tells.
    pub fn samples_range(&self) -> TimeRange {
        let known = self.strandline.as_ref().and_then(|s| s.samples_ms);
        known.map_or(self.range(), |(min_ms, max_ms)| TimeRange::new(min_ms, max_ms))
    }

    /// Who wrote it, if it was one of us.
    pub fn writer(&self) -> Option<&str> {
        self.strandline.as_ref().map(|s| s.writer.as_str())
    }

    /// Bytes of its files, as far as the meta tells.
    pub fn size_bytes(&self) -> u64 {
        self.thanos.as_ref().map_or(0, |t| t.files.iter().map(|f| f.size_bytes).sum())
    }
}
