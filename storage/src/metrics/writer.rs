//! Who writes: a name that the blocks of a store bear.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strandline_wal::fs::Fs;

use crate::error::{Error, ErrorKind, Result};
use crate::sealed;

/// The store's writer.
#[derive(Serialize, Deserialize)]
struct Writer {
    id: String,
}

/// A name for this store's writer, made once. Blocks that bear another are left alone for hours, so it is kept twice.
pub(super) fn writer_id(fs: &Arc<dyn Fs>, dir: &Path, now_ms: i64) -> Result<String> {
    use std::hash::{BuildHasher, Hasher};
    let path = dir.join("writer.json");
    match sealed::load::<Writer>(fs, &path) {
        Ok(Some(w)) => return Ok(w.id),
        Ok(None) => {}
        Err(e) if e.kind == ErrorKind::Corrupt => {
            tracing::error!(error = %e, "the writer's name is lost, and another made: its older blocks are adopted in some hours");
        }
        Err(e) => return Err(e),
    }
    // As earlier versions kept it.
    let old = dir.join("writer-id");
    let id = match fs.read(&old) {
        Ok(b) => String::from_utf8_lossy(&b).trim().to_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let random = || std::collections::hash_map::RandomState::new().build_hasher().finish() as u128;
            ulid::Ulid::from_parts(now_ms.max(0) as u64, random() << 64 | random()).to_string()
        }
        Err(e) => return Err(Error::io("reading the writer id", &old, e)),
    };
    sealed::save(fs, &path, &Writer { id: id.clone() })?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use strandline_wal::fs::SimFs;

    #[test]
    fn a_writers_name_outlives_a_damaged_file_and_is_taken_over_from_earlier_versions() {
        let sim = SimFs::new();
        let (fs, dir): (Arc<dyn Fs>, _) = (Arc::new(sim.clone()), Path::new("/d"));
        fs.create_dir_all(dir).unwrap();
        fs.write_atomic(&dir.join("writer-id"), b"01HF7YAT00000000000000000Z\n").unwrap();
        let name = || writer_id(&fs, dir, 7).unwrap();
        assert_eq!(name(), "01HF7YAT00000000000000000Z");
        fs.remove_file(&dir.join("writer-id")).unwrap();
        for file in ["writer.json", "writer-copy.json", "writer.json"] {
            sim.flip_bit(&dir.join(file), 12, 2);
            assert_eq!(name(), "01HF7YAT00000000000000000Z", "{file}");
        }
        for file in ["writer.json", "writer-copy.json"] {
            sim.flip_bit(&dir.join(file), 12, 2);
        }
        let new = name();
        assert_ne!(new, "01HF7YAT00000000000000000Z");
        assert_eq!(name(), new);
    }
}
