//! Golden folders are opened as copies.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;

use strandline_wal::fs::Fs;

/// Copies a folder, so that nothing that opens it changes the original.
pub fn copy(from: &Path, to: &Path, fs: &Arc<dyn Fs>) {
    fs.create_dir_all(to).unwrap();
    for e in std::fs::read_dir(from).unwrap() {
        let e = e.unwrap();
        let at = to.join(e.file_name());
        if e.file_type().unwrap().is_dir() {
            copy(&e.path(), &at, fs);
        } else {
            fs.write_atomic(&at, &std::fs::read(e.path()).unwrap()).unwrap();
        }
    }
}
