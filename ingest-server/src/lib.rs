//! x
pub mod tempo;
