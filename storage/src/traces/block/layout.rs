//! Which attributes get columns of their own: decided at each flush by what the spans hold.

use foldhash::HashMap;

use crate::error::Result;
use crate::traces::otlp::{RawSpan, RawValue, WireError, attributes, events, links, text};

/// Attribute groups of a row whose keys are shredded.
///
/// Attributes of resource and scope are not: all of a resource's attributes come and go together, so that one
/// dictionary-encoded value column holds them in a fraction of what a column for each would take, and reading a key of
/// it costs one look per distinct resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The span's own.
    Span,
    /// An event's.
    Event,
    /// A link's.
    Link,
}

/// All groups, in the order of their columns.
pub const GROUPS: [Group; 3] = [Group::Span, Group::Event, Group::Link];

/// Type of a shredded column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShredType {
    /// Text.
    String,
    /// 64-bit integer.
    Int,
    /// Double.
    Double,
    /// Truth value.
    Bool,
}

impl ShredType {
    /// The type a value would be shredded as.
    pub fn of(v: &RawValue<'_>) -> Option<Self> {
        match v {
            RawValue::Str(_) => Some(ShredType::String),
            RawValue::Int(_) => Some(ShredType::Int),
            RawValue::Double(_) => Some(ShredType::Double),
            RawValue::Bool(_) => Some(ShredType::Bool),
            _ => None,
        }
    }
}

/// A key with a column of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShredKey {
    /// The attribute's key.
    pub name: String,
    /// Values of this type lie in the typed column; others beside it as VARIANT.
    pub ty: ShredType,
}

/// What a block shreds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Shredded keys of each group, sorted.
    pub keys: [Vec<ShredKey>; 3],
    /// Names that the VARIANT metadata shared by most rows lists, sorted: all shredded keys and the commoner others.
    pub names: Vec<String>,
}

/// Shredded keys per group at most: a schema of thousands of columns helps no reader.
const MAX_KEYS: usize = 128;
/// Shared names at most, in count and in bytes: rows with others bring their own metadata.
const MAX_NAMES: usize = 512;
const MAX_NAME_BYTES: usize = 16 << 10;
/// Distinct keys that the sampler counts in a group; further ones stay unshredded.
const MAX_TRACKED: usize = 4096;
/// Longer keys are not shredded.
const MAX_KEY_LEN: usize = 128;

#[derive(Default)]
struct KeyStats {
    types: [u64; 4],
    total: u64,
}

/// Counts keys and types over a sample of spans.
#[derive(Default)]
pub struct Sampler {
    keys: [HashMap<String, KeyStats>; 3],
    rows: [u64; 3],
    names: HashMap<String, u64>,
}

impl Sampler {
    /// Counts a name that stands in a value, so many times.
    pub fn name(&mut self, name: &str, times: u64) {
        if let Some(n) = self.names.get_mut(name) {
            *n += times;
        } else if self.names.len() < MAX_TRACKED {
            self.names.insert(name.to_owned(), times);
        }
    }

    /// Counts rows of a group: spans, events or links.
    pub fn rows(&mut self, group: Group, rows: u64) {
        self.rows[group as usize] += rows;
    }

    /// Counts values of a key; a type that is shredded, if it is one.
    pub fn key(&mut self, group: Group, key: &str, ty: Option<ShredType>, values: u64) {
        let keys = &mut self.keys[group as usize];
        if !keys.contains_key(key) && keys.len() < MAX_TRACKED {
            keys.insert(key.to_owned(), KeyStats::default());
        }
        if let Some(stats) = keys.get_mut(key) {
            stats.total += values;
            if let Some(t) = ty {
                stats.types[t as usize] += values;
            }
        }
    }

    fn nested(&mut self, v: &RawValue<'_>) -> std::result::Result<(), WireError> {
        match v {
            RawValue::Array(b) => crate::traces::otlp::array_values(b).try_for_each(|v| self.nested(&v?)),
            RawValue::Map(b) => attributes(b, 1).try_for_each(|kv| {
                let (k, v) = kv?;
                self.name(text(k)?, 1);
                self.nested(&v)
            }),
            _ => Ok(()),
        }
    }

    fn group<'a>(
        &mut self,
        group: Group,
        attributes: impl Iterator<Item = std::result::Result<(&'a [u8], RawValue<'a>), WireError>>,
    ) -> std::result::Result<(), WireError> {
        self.rows(group, 1);
        for kv in attributes {
            let (k, v) = kv?;
            self.key(group, text(k)?, ShredType::of(&v), 1);
            self.nested(&v)?;
        }
        Ok(())
    }

    /// Counts a span.
    pub fn span(&mut self, span: &RawSpan<'_>) -> std::result::Result<(), WireError> {
        self.group(Group::Span, span.attributes())?;
        for e in events(span.buf) {
            self.group(Group::Event, attributes(e?.buf, 3))?;
        }
        for l in links(span.buf) {
            self.group(Group::Link, attributes(l?.buf, 4))?;
        }
        Ok(())
    }

    /// Counts names of a resource's or scope's attributes.
    pub fn outer<'a>(
        &mut self,
        attributes: impl Iterator<Item = std::result::Result<(&'a [u8], RawValue<'a>), WireError>>,
    ) -> std::result::Result<(), WireError> {
        for kv in attributes {
            let (k, v) = kv?;
            self.name(text(k)?, 1);
            self.nested(&v)?;
        }
        Ok(())
    }

    /// The layout that fits what was counted: keys that one row in a hundred has, of a type that most of their values
    /// share. Of keys that differ only by case the commonest alone: readers of SQL don't tell them apart.
    pub fn layout(mut self) -> Result<Layout> {
        let types = [ShredType::String, ShredType::Int, ShredType::Double, ShredType::Bool];
        let mut layout = Layout::default();
        for g in GROUPS {
            let rows = self.rows[g as usize];
            let mut keys: Vec<(String, KeyStats)> = std::mem::take(&mut self.keys[g as usize]).into_iter().collect();
            keys.sort_by(|a, b| b.1.total.cmp(&a.1.total).then_with(|| a.0.cmp(&b.0)));
            let mut folded = std::collections::HashSet::new();
            for (name, stats) in keys {
                let best = (0..4).max_by_key(|t| (stats.types[*t], 4 - t)).unwrap_or(0);
                let frequent = stats.total * 100 >= rows && stats.types[best] * 2 > stats.total;
                let nameable = !name.is_empty() && name.len() <= MAX_KEY_LEN && !name.contains('\0');
                let out = &mut layout.keys[g as usize];
                if frequent && nameable && out.len() < MAX_KEYS && folded.insert(name.to_lowercase()) {
                    out.push(ShredKey { name: name.clone(), ty: types[best] });
                }
                *self.names.entry(name).or_default() += stats.total;
            }
            layout.keys[g as usize].sort_by(|a, b| a.name.cmp(&b.name));
        }
        let mut names: Vec<String> = layout.keys.iter().flatten().map(|k| k.name.clone()).collect();
        let mut others: Vec<(String, u64)> = self.names.into_iter().collect();
        others.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let mut bytes: usize = names.iter().map(String::len).sum();
        for (name, _) in others {
            bytes += name.len();
            if names.len() >= MAX_NAMES || bytes > MAX_NAME_BYTES {
                break;
            }
            names.push(name);
        }
        names.sort();
        names.dedup();
        layout.names = names;
        Ok(layout)
    }
}
