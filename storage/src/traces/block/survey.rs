//! What a block's attributes are, told by its columns: to choose the layout of a merge.

use bytes::Bytes;
use foldhash::HashMap;

use super::cells::{Cells, Source, below};
use super::layout::{GROUPS, Group, Sampler, ShredType};
use super::reader::{OpenBlock, VARIANT_PATHS};
use crate::error::{Error, Result};
use crate::model::AttributeValue;

/// Counts all keys, types and names of a block. Typed columns are not read: the footer says how many values they have.
pub fn survey(block: &OpenBlock, sampler: &mut Sampler) -> Result<()> {
    for group in (0..block.row_groups()).filter(|g| block.rows(*g) > 0) {
        let s = Source { block, group, loaded: None, rows: 0..block.rows(group) };
        for g in GROUPS {
            shredded(&s, g, sampler)?;
        }
        for prefix in ["resource_attributes", "scope_attributes"] {
            whole(&s, prefix, sampler)?;
        }
    }
    Ok(())
}

fn type_of(v: &AttributeValue) -> Option<ShredType> {
    match v {
        AttributeValue::String(_) => Some(ShredType::String),
        AttributeValue::Int(_) => Some(ShredType::Int),
        AttributeValue::Double(_) => Some(ShredType::Double),
        AttributeValue::Bool(_) => Some(ShredType::Bool),
        AttributeValue::Empty | AttributeValue::Bytes(_) | AttributeValue::Array(_) | AttributeValue::Map(_) => None,
    }
}

/// Names below a value.
fn nested(v: &AttributeValue, times: u64, sampler: &mut Sampler) {
    match v {
        AttributeValue::Array(a) => a.iter().for_each(|v| nested(v, times, sampler)),
        AttributeValue::Map(m) => m.iter().for_each(|(k, v)| {
            sampler.name(k, times);
            nested(v, times, sampler);
        }),
        _ => {}
    }
}

fn shredded(s: &Source<'_>, g: Group, sampler: &mut Sampler) -> Result<()> {
    let prefix = VARIANT_PATHS[g as usize];
    let values = |path: &[&str]| {
        let leaf = s.block.leaf(&below(prefix, path));
        leaf.map(|leaf| s.block.values(s.group, leaf)).ok_or_else(|| Error::corrupt(format!("a block without {}", path.join("."))))
    };
    sampler.rows(g, values(&["metadata"])?);
    for k in &s.block.layout().keys[g as usize] {
        sampler.key(g, &k.name, Some(k.ty), values(&["typed_value", &k.name, "typed_value"])?);
    }
    let Some(odd) = s.leftovers(prefix, g, |_| true)? else { return Ok(()) };
    for e in (0..odd.metadata.idx.len()).filter(|e| odd.any(*e)) {
        for (k, v) in odd.attributes(e)? {
            sampler.key(g, &k, type_of(&v), 1);
            nested(&v, 1, sampler);
        }
    }
    Ok(())
}

fn whole(s: &Source<'_>, prefix: &str, sampler: &mut Sampler) -> Result<()> {
    let v = s.variants(&[prefix], None)?;
    // First entry and number of entries of each.
    let mut distinct: HashMap<(u32, u32), (usize, u64)> = HashMap::default();
    for e in 0..s.rows.len() {
        let at = |c: &Cells<Bytes>| c.idx.get(e).copied().unwrap_or(u32::MAX);
        distinct.entry((at(&v.metadata), v.value.as_ref().map_or(u32::MAX, at))).or_insert((e, 0)).1 += 1;
    }
    for (e, times) in distinct.into_values() {
        for (k, v) in v.attributes(e)? {
            sampler.name(&k, times);
            nested(&v, times, sampler);
        }
    }
    Ok(())
}
