//! The block's columns. `docs/format/span-block.md` describes them for readers.

use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};

use super::layout::{Group, Layout, ShredType};

type Result<T> = std::result::Result<T, ParquetError>;

/// Version of the layout of columns, written to `meta.json` and the file's own metadata.
pub const FORMAT_VERSION: u32 = 1;

fn leaf(name: &str, physical: Physical, repetition: Repetition, logical: Option<LogicalType>) -> Result<TypePtr> {
    Ok(Arc::new(Type::primitive_type_builder(name, physical).with_repetition(repetition).with_logical_type(logical).build()?))
}

fn text(name: &str, repetition: Repetition) -> Result<TypePtr> {
    leaf(name, Physical::BYTE_ARRAY, repetition, Some(LogicalType::String))
}

fn binary(name: &str, repetition: Repetition) -> Result<TypePtr> {
    leaf(name, Physical::BYTE_ARRAY, repetition, None)
}

fn id(name: &str, len: i32, repetition: Repetition) -> Result<TypePtr> {
    let t = Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY).with_length(len).with_repetition(repetition);
    Ok(Arc::new(t.build()?))
}

fn uint32(name: &str) -> Result<TypePtr> {
    leaf(name, Physical::INT32, Repetition::REQUIRED, Some(LogicalType::integer(32, false)))
}

fn int32(name: &str) -> Result<TypePtr> {
    leaf(name, Physical::INT32, Repetition::REQUIRED, None)
}

fn time(name: &str) -> Result<TypePtr> {
    leaf(name, Physical::INT64, Repetition::REQUIRED, Some(LogicalType::timestamp(true, TimeUnit::NANOS)))
}

fn group(name: &str, repetition: Repetition, logical: Option<LogicalType>, fields: Vec<TypePtr>) -> Result<TypePtr> {
    Ok(Arc::new(Type::group_type_builder(name).with_repetition(repetition).with_logical_type(logical).with_fields(fields).build()?))
}

fn variant(name: &str, layout: &Layout, shredded: Option<Group>) -> Result<TypePtr> {
    let mut fields = vec![binary("metadata", Repetition::REQUIRED)?, binary("value", Repetition::OPTIONAL)?];
    let keys = shredded.map(|g| layout.keys[g as usize].as_slice()).unwrap_or_default();
    if !keys.is_empty() {
        let mut typed = Vec::new();
        for k in keys {
            let t = match k.ty {
                ShredType::String => text("typed_value", Repetition::OPTIONAL)?,
                ShredType::Int => leaf("typed_value", Physical::INT64, Repetition::OPTIONAL, None)?,
                ShredType::Double => leaf("typed_value", Physical::DOUBLE, Repetition::OPTIONAL, None)?,
                ShredType::Bool => leaf("typed_value", Physical::BOOLEAN, Repetition::OPTIONAL, None)?,
            };
            typed.push(group(&k.name, Repetition::REQUIRED, None, vec![binary("value", Repetition::OPTIONAL)?, t])?);
        }
        fields.push(group("typed_value", Repetition::OPTIONAL, None, typed)?);
    }
    group(name, Repetition::REQUIRED, Some(LogicalType::variant(Some(1))), fields)
}

fn list(name: &str, fields: Vec<TypePtr>) -> Result<TypePtr> {
    let element = group("element", Repetition::REQUIRED, None, fields)?;
    let inner = group("list", Repetition::REPEATED, None, vec![element])?;
    group(name, Repetition::REQUIRED, Some(LogicalType::List), vec![inner])
}

/// The file's schema for a layout.
pub fn schema(layout: &Layout) -> Result<TypePtr> {
    const REQUIRED: Repetition = Repetition::REQUIRED;
    const OPTIONAL: Repetition = Repetition::OPTIONAL;
    let fields = vec![
        id("trace_id", 16, REQUIRED)?,
        id("span_id", 8, REQUIRED)?,
        id("parent_span_id", 8, OPTIONAL)?,
        text("trace_state", REQUIRED)?,
        uint32("flags")?,
        text("name", REQUIRED)?,
        int32("kind")?,
        time("start_time_unix_nano")?,
        leaf("duration_nano", Physical::INT64, REQUIRED, None)?,
        int32("status_code")?,
        text("status_message", REQUIRED)?,
        text("service_name", OPTIONAL)?,
        text("scope_name", REQUIRED)?,
        text("scope_version", REQUIRED)?,
        text("resource_schema_url", REQUIRED)?,
        text("scope_schema_url", REQUIRED)?,
        uint32("dropped_attributes_count")?,
        uint32("dropped_events_count")?,
        uint32("dropped_links_count")?,
        uint32("resource_dropped_attributes_count")?,
        uint32("scope_dropped_attributes_count")?,
        variant("span_attributes", layout, Some(Group::Span))?,
        variant("resource_attributes", layout, None)?,
        variant("scope_attributes", layout, None)?,
        list(
            "events",
            vec![
                time("time_unix_nano")?,
                text("name", REQUIRED)?,
                uint32("dropped_attributes_count")?,
                variant("attributes", layout, Some(Group::Event))?,
            ],
        )?,
        list(
            "links",
            vec![
                binary("trace_id", REQUIRED)?,
                binary("span_id", REQUIRED)?,
                text("trace_state", REQUIRED)?,
                uint32("flags")?,
                uint32("dropped_attributes_count")?,
                variant("attributes", layout, Some(Group::Link))?,
            ],
        )?,
    ];
    Ok(Arc::new(Type::group_type_builder("span").with_fields(fields).build()?))
}
