//! The inverted label index of the head: interned label pairs, and for each the series that carry it.

mod label_hash;
mod pairs;
mod postings;
mod recent;
mod registry;
mod slab;
mod symbols;

#[cfg(feature = "traces")]
pub(crate) use label_hash::widen;
pub use label_hash::{LabelHasher, RawLabels, canonical, put_canonical};
pub use postings::Postings;
pub use registry::{IndexMemory, NO_SLOT, RawPair, Registry};
pub use slab::Slab;
pub use symbols::Symbols;
