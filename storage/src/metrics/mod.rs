//! The metric store: head, blocks, compaction.

pub mod block;
pub mod head;
mod record;
