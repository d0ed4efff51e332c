//! A segmented write-ahead log of opaque records, and the file-system seam it is tested through.
#![warn(missing_docs)]

pub mod fs;
