//! Evaluating a pipeline over a batch of whole traces, column by column.

pub mod expr;
pub mod pipeline;
pub mod trace;
