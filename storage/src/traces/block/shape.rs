//! What blocks of one layout share: their columns by path. Blocks are many and layouts few, so that each is kept once.

use std::sync::{Arc, Weak};

use foldhash::HashMap;
use parking_lot::Mutex;
use parquet::basic::Type as Physical;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use super::layout::{GROUPS, Layout, ShredKey, ShredType};
use super::reader::VARIANT_PATHS;
use super::schema::schema as schema_of;
use crate::columnar::parquet_error;
use crate::error::{Error, Result};

/// The columns of a block.
pub struct Shape {
    /// As the file has them.
    pub schema: Arc<SchemaDescriptor>,
    /// Leaf numbers by path, its parts joined by NUL.
    pub leaves: HashMap<String, usize>,
    /// What is shredded.
    pub layout: Layout,
}

/// Those of open blocks.
static SHAPES: Mutex<Vec<Weak<Shape>>> = Mutex::new(Vec::new());

impl Shape {
    /// That of a schema, shared with other open blocks. Fails if it is not one that this store writes.
    pub fn of(schema: &Arc<SchemaDescriptor>) -> Result<Arc<Shape>> {
        let mut known = SHAPES.lock();
        known.retain(|s| s.strong_count() > 0);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|s| s.schema.root_schema() == schema.root_schema()) {
            return Ok(same);
        }
        let layout = layout_of(schema);
        check(schema, &layout)?;
        let path = |i: usize| schema.column(i).path().parts().join("\0");
        let leaves = (0..schema.num_columns()).map(|i| (path(i), i)).collect();
        let new = Arc::new(Shape { schema: schema.clone(), leaves, layout });
        known.push(Arc::downgrade(&new));
        Ok(new)
    }
}

/// Readers rely on types and levels: a column that is another than is written for the layout is damage.
fn check(schema: &SchemaDescriptor, layout: &Layout) -> Result<()> {
    let written = schema_of(layout).map_err(|e| parquet_error("making a schema", e))?;
    let written = SchemaDescriptor::new(written);
    let same = |a: &ColumnDescPtr, b: &ColumnDescPtr| {
        let levels = |c: &ColumnDescPtr| (c.max_def_level(), c.max_rep_level(), c.type_length());
        a.path() == b.path() && a.physical_type() == b.physical_type() && levels(a) == levels(b)
    };
    let mut pairs = schema.columns().iter().zip(written.columns());
    match pairs.find(|(a, b)| !same(a, b)) {
        Some((a, _)) => Err(Error::corrupt(format!("column {} is not as blocks have it", a.path().string()))),
        None if schema.num_columns() != written.num_columns() => Err(Error::corrupt("a block with columns too many or too few")),
        None => Ok(()),
    }
}

/// What the schema says is shredded.
fn layout_of(schema: &SchemaDescriptor) -> Layout {
    let mut layout = Layout::default();
    for c in schema.columns() {
        let parts: Vec<&str> = c.path().parts().iter().map(String::as_str).collect();
        for g in GROUPS {
            let prefix = VARIANT_PATHS[g as usize];
            let Some(["typed_value", name, "typed_value"]) = parts.strip_prefix(prefix) else { continue };
            let ty = match c.physical_type() {
                Physical::BYTE_ARRAY => ShredType::String,
                Physical::INT64 => ShredType::Int,
                Physical::DOUBLE => ShredType::Double,
                Physical::BOOLEAN => ShredType::Bool,
                _ => continue,
            };
            layout.keys[g as usize].push(ShredKey { name: (*name).to_owned(), ty });
        }
    }
    layout
}
