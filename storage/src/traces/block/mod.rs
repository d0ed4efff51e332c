//! A block of spans: one Parquet file sorted by trace, and `meta.json` beside it.

pub mod batch;
pub mod builder;
mod cells;
mod column;
pub(in crate::traces) mod describe;
pub mod gather;
pub mod layout;
pub mod meta;
pub mod reader;
pub mod rows;
pub mod schema;
mod shape;
pub mod shred;
pub mod survey;
pub mod writer;

#[cfg(test)]
pub mod tests;
