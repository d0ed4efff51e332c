//! What blocks of one layout share: their columns by path. Blocks are many and layouts few, so that each is kept once.

use std::sync::{Arc, Weak};

use foldhash::HashMap;
use parking_lot::Mutex;
use parquet::basic::Type as Physical;
use parquet::schema::types::SchemaDescriptor;

use super::layout::{GROUPS, Layout, ShredKey, ShredType};
use super::reader::VARIANT_PATHS;

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
    /// That of a schema, shared with other open blocks.
    pub fn of(schema: &Arc<SchemaDescriptor>) -> Arc<Shape> {
        let mut known = SHAPES.lock();
        known.retain(|s| s.strong_count() > 0);
        let same = known.iter().filter_map(Weak::upgrade).find(|s| s.schema.root_schema() == schema.root_schema());
        same.unwrap_or_else(|| {
            let path = |i: usize| schema.column(i).path().parts().join("\0");
            let leaves = (0..schema.num_columns()).map(|i| (path(i), i)).collect();
            let new = Arc::new(Shape { schema: schema.clone(), leaves, layout: layout_of(schema) });
            known.push(Arc::downgrade(&new));
            new
        })
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
