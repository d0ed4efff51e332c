//! A block of spans: one Parquet file sorted by trace, and `meta.json` beside it.

pub mod batch;
pub mod builder;
pub(in crate::traces) mod describe;
pub mod layout;
pub mod meta;
pub mod reader;
pub mod rows;
pub mod schema;
pub mod shred;
pub mod writer;

#[cfg(test)]
pub mod tests;
