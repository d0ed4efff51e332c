//! Which attributes there are: for completion in editors.

use std::collections::BTreeSet;

use bytes::Bytes;
use foldhash::HashSet;

use super::block::layout::GROUPS;
use super::block::reader::{OpenBlock, VARIANT_PATHS};
use super::live::LiveBody;
use super::otlp::{KeyValues, attributes, events, links, text, wire};
use super::store::TraceStore;
use crate::columnar::variant::{self, Metadata};
use crate::error::{Error, Result};
use crate::read::AttributeScope;

const SCOPES: [AttributeScope; 5] =
    [AttributeScope::Span, AttributeScope::Event, AttributeScope::Link, AttributeScope::Resource, AttributeScope::Instrumentation];

type Keys = [BTreeSet<String>; 5];

pub(super) fn attribute_keys(store: &TraceStore, min_nano: u64, max_nano: u64) -> Result<Vec<(AttributeScope, Vec<String>)>> {
    let mut keys: Keys = Default::default();
    let (bodies, blocks) = {
        let s = store.0.state.read();
        s.complete()?;
        let mut bodies = s.live.bodies().to_vec();
        bodies.extend(s.frozen.iter().flat_map(|l| l.bodies().iter().cloned()));
        (bodies, s.blocks.clone())
    };
    let mut live: [HashSet<&[u8]>; 5] = Default::default();
    for body in &bodies {
        live_keys(body, min_nano, max_nano, &mut live)?;
    }
    for (keys, live) in keys.iter_mut().zip(&live) {
        for k in live {
            keys.insert(text(k).map_err(wire)?.to_owned());
        }
    }
    for b in blocks.iter().filter(|b| b.meta.overlaps(min_nano, max_nano)) {
        block_keys(&*b.open()?, &mut keys)?;
    }
    Ok(SCOPES.into_iter().zip(keys).map(|(s, k)| (s, k.into_iter().collect())).collect())
}

fn live_keys<'a>(body: &'a LiveBody, min_nano: u64, max_nano: u64, into: &mut [HashSet<&'a [u8]>; 5]) -> Result<()> {
    let mut last = None;
    let mut add = |scope: usize, attributes: KeyValues<'a>| {
        let added = attributes.each_key(|k| {
            into[scope].insert(k);
        });
        added.map_err(wire)
    };
    for s in body.spans.iter().filter(|s| s.start >= min_nano && s.start <= max_nano) {
        let (g, number) = body.groups(s);
        if last != Some(number) {
            last = Some(number);
            add(3, attributes(g.resource.buf, 1))?;
            add(4, attributes(g.scope.buf, 3))?;
        }
        let raw = body.raw(s)?;
        add(0, raw.attributes())?;
        if raw.counts[1] > 0 {
            events(raw.buf).try_for_each(|e| add(1, attributes(e.map_err(wire)?.buf, 3)))?;
        }
        if raw.counts[2] > 0 {
            links(raw.buf).try_for_each(|l| add(2, attributes(l.map_err(wire)?.buf, 4)))?;
        }
    }
    Ok(())
}

fn block_keys(block: &OpenBlock, keys: &mut Keys) -> Result<()> {
    for g in 0..block.row_groups() {
        for group in GROUPS {
            let prefix = VARIANT_PATHS[group as usize];
            for k in &block.layout().keys[group as usize] {
                let there = ["typed_value", "value"].iter().any(|last| {
                    let path = [prefix, &["typed_value", k.name.as_str(), last]].concat();
                    block.leaf(&path).is_some_and(|l| !block.is_all_null(g, l))
                });
                if there && !keys[group as usize].contains(&k.name) {
                    keys[group as usize].insert(k.name.clone());
                }
            }
            rest_keys(block, g, prefix, &mut keys[group as usize])?;
        }
        rest_keys(block, g, &["resource_attributes"], &mut keys[3])?;
        rest_keys(block, g, &["scope_attributes"], &mut keys[4])?;
    }
    Ok(())
}

/// Keys that lie in VARIANT values, once for each distinct value.
fn rest_keys(block: &OpenBlock, g: usize, prefix: &[&str], into: &mut BTreeSet<String>) -> Result<()> {
    let path = |last| [prefix, &[last]].concat();
    let (Some(value), Some(metadata)) = (block.leaf(&path("value")), block.leaf(&path("metadata"))) else { return Ok(()) };
    if block.is_all_null(g, value) {
        return Ok(());
    }
    let value = block.read::<Bytes>(g, value, None)?;
    let metadata = block.read::<Bytes>(g, metadata, None)?;
    let mut pairs: Vec<(u32, u32)> = metadata.expand().into_iter().zip(value.expand()).filter(|p| p.1 != u32::MAX).collect();
    pairs.sort_unstable();
    pairs.dedup();
    for (m, v) in pairs {
        let m = metadata.dict.get(m as usize).ok_or_else(|| Error::corrupt("attributes without metadata"))?;
        let damaged = |e: variant::VariantError| Error::corrupt(e.to_string());
        let m = Metadata::new(m).map_err(damaged)?;
        variant::fields(&m, &value.dict[v as usize], |k, _| {
            if !into.contains(k) {
                into.insert(k.to_owned());
            }
            Ok(())
        })
        .map_err(damaged)?;
    }
    Ok(())
}
