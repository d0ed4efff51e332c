//! Parquet below the level of rows: VARIANT values, shredding, leaf columns read as dictionary and indices, files
//! whose every read is checked. Nothing here knows of spans.

pub mod check;
pub mod dict;
pub mod encode;
pub mod file;
pub mod footer;
pub mod hybrid;
pub mod leaf;
pub mod page;
pub mod variant;
pub mod write;

use crate::error::{Error, ErrorKind};

/// A Parquet error as one of this crate.
pub fn parquet_error(doing: &str, e: parquet::errors::ParquetError) -> Error {
    use parquet::errors::ParquetError;
    let kind = match &e {
        ParquetError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(own) => own.kind,
            None => match inner.downcast_ref::<std::io::Error>() {
                Some(io) if io.kind() != std::io::ErrorKind::UnexpectedEof => ErrorKind::Unavailable,
                _ => ErrorKind::Corrupt,
            },
        },
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, format!("{doing}: {e}"))
}
