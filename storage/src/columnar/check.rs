//! A footer is bytes from outside: what it says of places in the file is checked before anything is read by it.

use parquet::file::metadata::ParquetMetaData;

use crate::error::{Error, Result};

/// Checks that columns and pages lie in a file of `file_len` bytes, pages in their columns, and rows in their groups.
pub fn places(metadata: &ParquetMetaData, file_len: u64) -> Result<()> {
    let outside = |what: &str, group: usize, column: usize| {
        Err(Error::corrupt(format!("the footer puts {what} of column {column} in row group {group} where it can't be")))
    };
    for (g, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows();
        for (c, column) in group.columns().iter().enumerate() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let sound = start >= 0 && column.compressed_size() >= 0 && column.data_page_offset() >= start && rows >= 0;
            let Some(end) = end.filter(|e| sound && u64::try_from(*e).is_ok_and(|e| e <= file_len)) else {
                return outside("the bytes", g, c);
            };
            let index = metadata.page_index_for_row_group(g);
            let Some(pages) = index.offset_index(c).map(|o| o.page_locations()) else { continue };
            let (mut at, mut row) = (start, 0);
            for page in pages {
                let after = page.offset.checked_add(i64::from(page.compressed_page_size));
                let sound = page.offset >= at && page.compressed_page_size >= 0 && (row..=rows).contains(&page.first_row_index);
                let Some(after) = after.filter(|a| sound && *a <= end) else { return outside("a page", g, c) };
                (at, row) = (after, page.first_row_index);
            }
        }
    }
    Ok(())
}
