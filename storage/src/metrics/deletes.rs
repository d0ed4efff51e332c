//! Deletes: hidden at once while reading, applied for good when blocks are rewritten.
//!
//! A delete concerns what is there, and nothing that comes later. So the head is flushed first where it holds any of it, and
//! a block says which deletes it has behind it: those that were applied to it, and those that its samples came after.
//!
//! One object a request, so that every node of the bucket sees it, and one local file, so that it counts before
//! the bucket has it.
//!
//! A delete is forgotten once retention has passed all that it concerns. That its blocks here are rewritten is not enough: a node
//! that is away, or a backup, may hold others that know nothing of it. Without retention it is kept for as long as the data.

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use super::block::BlockMeta;
use super::store::{MetricStore, Work};
use super::version::Version;
use crate::error::{Error, Result};
use crate::model::{Labels, MatchOp, Matcher, TimeRange};

/// What is stored of a delete request.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct DeleteSpec {
    /// Its name.
    pub ulid: String,
    /// First millisecond.
    pub min_ms: i64,
    /// Last millisecond.
    pub max_ms: i64,
    /// Matchers as (name, operator, value): all must pass.
    pub matchers: Vec<(String, String, String)>,
}

/// A delete, compiled.
#[derive(Clone, Debug)]
pub struct Delete {
    /// As stored.
    pub spec: DeleteSpec,
    matchers: Vec<Matcher>,
}

impl Delete {
    /// A new delete.
    pub fn new(ulid: String, range: TimeRange, matchers: Vec<Matcher>) -> Self {
        let stored = matchers.iter().map(|m| (m.name.clone(), m.op.as_str().to_owned(), m.value.clone())).collect();
        Delete { spec: DeleteSpec { ulid, min_ms: range.min_ms, max_ms: range.max_ms, matchers: stored }, matchers }
    }

    /// Parses the stored form.
    pub fn parse(json: &[u8]) -> Result<Self> {
        Self::of(crate::sealed::from_json(json)?)
    }

    /// Compiles what was stored.
    pub fn of(spec: DeleteSpec) -> Result<Self> {
        let mut matchers = Vec::new();
        for (name, op, value) in &spec.matchers {
            let op = match op.as_str() {
                "=" => MatchOp::Equal,
                "!=" => MatchOp::NotEqual,
                "=~" => MatchOp::Regex,
                "!~" => MatchOp::NotRegex,
                other => return Err(Error::corrupt(format!("a delete has the operator {other:?}"))),
            };
            matchers.push(Matcher::new(op, name, value).map_err(|e| Error::corrupt(e.to_string()))?);
        }
        Ok(Delete { spec, matchers })
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain strings and numbers can't fail.
        crate::sealed::to_json(&self.spec).unwrap_or_default()
    }

    /// Its range.
    pub fn range(&self) -> TimeRange {
        TimeRange::new(self.spec.min_ms, self.spec.max_ms)
    }

    /// Its matchers.
    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    /// Whether a block may hold anything of it.
    pub fn concerns(&self, block: &BlockMeta) -> bool {
        let applied = block.strandline.as_ref().map_or(&[][..], |s| &s.deletes_applied);
        self.range().overlaps(block.range()) && !applied.contains(&self.spec.ulid)
    }

    /// Whether it covers a series.
    pub fn covers(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|m| m.matches(labels.value(&m.name)))
    }
}

impl MetricStore {
    /// Whether retention has passed all that a delete concerns, wherever it lies: of the blocks that hold a part of its range none
    /// reaches further beyond it than blocks are wide.
    fn is_past(&self, d: &Delete) -> bool {
        let o = &self.0.options;
        let after_ms = o.retention_ms.saturating_add(o.max_block_range_ms);
        o.retention_ms > 0 && d.spec.max_ms.saturating_add(after_ms) < o.clock.past_ms()
    }

    /// Forgets the deletes that are past, here and in the bucket; not while a block is there, or may be, that one still concerns.
    pub(super) fn forget_deletes(&self, work: &mut Work) -> Result<()> {
        let v = self.version();
        let concerned = |d: &Delete| v.incomplete.is_some() || v.blocks.iter().any(|b| d.concerns(&b.meta));
        let past: Vec<String> = v.deletes.iter().filter(|d| self.is_past(d) && !concerned(d)).map(|d| d.spec.ulid.clone()).collect();
        if past.is_empty() {
            return Ok(());
        }
        self.check_open()?;
        for ulid in &past {
            if let Some(b) = &self.0.options.bucket {
                b.delete(&self.delete_key(ulid))?;
            }
            // A node whose retention is longer puts it there again; it is not taken on once more.
            work.forgotten.insert(ulid.clone());
        }
        let _manifest = self.0.manifest.lock();
        self.check_open()?;
        for ulid in &past {
            crate::sealed::remove(&self.0.options.fs, &self.deletes_dir().join(format!("{ulid}.json")))?;
        }
        let mut current = self.0.version.write();
        let deletes = current.deletes.iter().filter(|d| !past.contains(&d.spec.ulid)).cloned().collect();
        *current = Arc::new(Version { deletes, ..(**current).clone() });
        Ok(())
    }

    /// A delete's object in the bucket.
    pub(super) fn delete_key(&self, ulid: &str) -> String {
        format!("deletes/{}/{ulid}.json", self.0.options.tenant)
    }
}
