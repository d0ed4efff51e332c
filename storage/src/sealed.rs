//! Small JSON files that decide what exists: each carries a checksum of what it says, and those that nothing else could
//! replace are kept twice.
//!
//! The checksum is the member `crc32`: CRC-32 of the object without it, members sorted, without white space, as eight hex
//! digits. A file without one was written by an earlier version, or rewritten by a tool that knows nothing of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use strandline_wal::fs::Fs;

use crate::error::{Error, Result};

const MEMBER: &str = "crc32";

fn sum(object: &Value) -> String {
    format!("{:08x}", crc32fast::hash(object.to_string().as_bytes()))
}

/// An object as JSON for people to read, with its checksum as the last member.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let failed = |e| Error::corrupt(format!("writing JSON: {e}"));
    let sum = sum(&serde_json::to_value(value).map_err(failed)?);
    let mut text = serde_json::to_string_pretty(value).map_err(failed)?;
    let body = text.trim_end_matches('}').trim_end().len();
    text.truncate(body);
    text.push_str(&format!(",\n  \"{MEMBER}\": \"{sum}\"\n}}"));
    Ok(text.into_bytes())
}

/// What an object says, if its checksum holds.
pub(crate) fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    let mut object: Value = serde_json::from_slice(json).map_err(|e| Error::corrupt(format!("no JSON: {e}")))?;
    if let Some(told) = object.as_object_mut().and_then(|o| o.remove(MEMBER))
        && told.as_str() != Some(&sum(&object))
    {
        return Err(Error::corrupt(format!(
            "its checksum does not hold: it is damaged, or was changed by hand without removing {MEMBER:?}"
        )));
    }
    serde_json::from_value(object).map_err(|e| Error::corrupt(e.to_string()))
}

/// `manifest.json` and `manifest-copy.json`.
fn copy_of(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-copy.json"))
}

/// Writes an object twice, each durably and in one step. It counts from the moment the first is in place.
pub(crate) fn save<T: Serialize>(fs: &Arc<dyn Fs>, path: &Path, value: &T) -> Result<()> {
    let json = to_json(value)?;
    fs.write_atomic(path, &json).map_err(|e| Error::io("writing", path, e))?;
    write_copy(fs, path, &json);
    Ok(())
}

/// An old copy is of use to nobody but where the first is damaged too: that it can't be written stops nothing.
fn write_copy(fs: &Arc<dyn Fs>, path: &Path, json: &[u8]) {
    if let Err(e) = fs.write_atomic(&copy_of(path), json) {
        tracing::warn!(error = %e, path = %path.display(), "its copy could not be written");
    }
}

fn read(fs: &Arc<dyn Fs>, path: &Path) -> Result<Option<bytes::Bytes>> {
    match fs.read(path) {
        Ok(b) => Ok(Some(b)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("reading", path, e)),
    }
}

/// Reads what [`save`] wrote; where one of the two is damaged, the other counts, and it is mended. `None` if there is
/// neither.
pub(crate) fn load<T: DeserializeOwned>(fs: &Arc<dyn Fs>, path: &Path) -> Result<Option<T>> {
    let twin = copy_of(path);
    let why = match &read(fs, path)? {
        None => None,
        Some(json) => match from_json(json) {
            Ok(value) => {
                if read(fs, &twin).ok().flatten().as_ref() != Some(json) {
                    write_copy(fs, path, json);
                }
                return Ok(Some(value));
            }
            Err(e) => Some(e.at(path)),
        },
    };
    match (why, read(fs, &twin)?) {
        (None, None) => Ok(None),
        (Some(e), None) => Err(e),
        (why, Some(json)) => {
            let value = from_json(&json).map_err(|e| why.unwrap_or(e).at(&twin))?;
            tracing::error!(path = %path.display(), "damaged or gone: its copy counts, and it is written anew");
            fs.write_atomic(path, &json).map_err(|e| Error::io("mending", path, e))?;
            Ok(Some(value))
        }
    }
}

/// Removes what [`save`] wrote. A crash in between may leave one of the two, and so all of it.
pub(crate) fn remove(fs: &Arc<dyn Fs>, path: &Path) -> Result<()> {
    for p in [path, &copy_of(path)] {
        match fs.remove_file(p) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", p, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Moves a folder, as far as it is there, into another that is made if need be.
pub(crate) fn put_aside(fs: &Arc<dyn Fs>, folder: &Path, into: &Path) -> Result<()> {
    let Some(name) = folder.file_name().filter(|_| fs.exists(folder)) else { return Ok(()) };
    let to = into.join(name);
    let moved = fs.create_dir_durably(into).and_then(|()| fs.rename(folder, &to)).and_then(|()| fs.sync_dir(into));
    moved.map_err(|e| Error::io("putting a folder aside", &to, e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde::Deserialize;
    use strandline_wal::fs::SimFs;

    #[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
    struct Thing {
        floor: u64,
        names: Vec<String>,
    }

    fn thing(floor: u64) -> Thing {
        Thing { floor, names: vec!["a}".into(), "b".into()] }
    }

    #[test]
    fn any_flipped_bit_is_found_or_means_nothing() {
        let json = to_json(&thing(70)).unwrap();
        assert_eq!(from_json::<Thing>(&json).unwrap(), thing(70));
        for at in 0..json.len() * 8 {
            let mut bad = json.clone();
            bad[at / 8] ^= 1 << (at % 8);
            if let Ok(t) = from_json::<Thing>(&bad) {
                assert_eq!(t, thing(70), "{}", String::from_utf8_lossy(&bad));
            }
        }
        assert_eq!(from_json::<Thing>(br#"{"floor": 3, "names": []}"#).unwrap().floor, 3, "of an earlier version");
    }

    #[test]
    fn one_of_two_is_enough_and_the_other_is_mended() {
        let sim = SimFs::new();
        let fs: Arc<dyn Fs> = Arc::new(sim.clone());
        let path = Path::new("/d/manifest.json");
        fs.create_dir_all(Path::new("/d")).unwrap();
        assert_eq!(load::<Thing>(&fs, path).unwrap(), None);
        save(&fs, path, &thing(1)).unwrap();
        save(&fs, path, &thing(2)).unwrap();
        for hurt in [path.to_owned(), copy_of(path)] {
            let sound = fs.read(&hurt).unwrap();
            sim.flip_bit(&hurt, 14, 1);
            assert_ne!(fs.read(&hurt).unwrap(), sound);
            assert_eq!(load::<Thing>(&fs, path).unwrap(), Some(thing(2)));
            assert_eq!(fs.read(&hurt).unwrap(), sound);
            fs.remove_file(&hurt).unwrap();
            assert_eq!(load::<Thing>(&fs, path).unwrap(), Some(thing(2)));
            assert_eq!(fs.read(&hurt).unwrap(), sound);
        }
        sim.flip_bit(path, 14, 1);
        sim.flip_bit(&copy_of(path), 14, 1);
        assert!(load::<Thing>(&fs, path).unwrap_err().to_string().contains("manifest.json"));
    }
}
