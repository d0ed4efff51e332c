//! Merging the blocks of a window, and letting old ones go: planned in pure functions, done elsewhere.

pub mod order;
pub mod pace;
pub mod plan;
mod run;
