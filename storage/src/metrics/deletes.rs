//! Deletes: hidden at once while reading, applied for good when blocks are rewritten.
//!
//! A delete concerns what is there, and nothing that comes later. So the head is flushed first where it holds any of it, and
//! a block says which deletes it has behind it: those that were applied to it, and those that its samples came after.
//!
//! One object a request, so that every node of the bucket sees it, and one local file, so that it counts before
//! the bucket has it.

use serde::{Deserialize, Serialize};

use super::block::BlockMeta;
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
