//! What benches and counted-work tests share: data by seed, and an allocator that counts.

#![deny(missing_docs)]

pub mod alloc;
pub mod cpu;
pub mod metrics;
pub mod random;
pub mod requests;
pub mod spans;
pub mod wire;

pub use alloc::{Allocations, CountingAllocator};
pub use random::Random;
