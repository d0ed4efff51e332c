//! `import`, `export`, `backup`, `restore`.

use std::path::{Path, PathBuf};

use clap::Args;
use strandline_storage::engine::UNFINISHED;
use strandline_storage::metrics::Imported;
use strandline_wal::fs::Fs;

use super::progress::Progress;
use super::{local, say};

/// Take over blocks.
#[derive(Args)]
pub struct ImportArgs {
    /// A folder with ULID folders in it, or `s3://bucket/prefix` of Thanos (its prefix) or Mimir (a tenant's folder).
    from: String,
    /// Where the S3 service listens, e.g. http://127.0.0.1:9000; keys are those of the environment, as for our own bucket.
    #[arg(long)]
    endpoint: Option<String>,
    /// An external label (Thanos' `replica`) that series don't get, so that replicas settle into one; may be given again.
    #[arg(long, value_name = "NAME")]
    drop_label: Vec<String>,
    /// Where to.
    #[arg(long, default_value = "strandline-data")]
    data_dir: PathBuf,
}

/// Write blocks.
#[derive(Args)]
pub struct ExportArgs {
    /// A new folder.
    dir: PathBuf,
    /// Where from.
    #[arg(long, default_value = "strandline-data")]
    data_dir: PathBuf,
}

/// Copy a stopped server's data folder.
#[derive(Args)]
pub struct BackupArgs {
    /// A new folder.
    dir: PathBuf,
    /// Where from.
    #[arg(long, default_value = "strandline-data")]
    data_dir: PathBuf,
}

/// Put a backup back.
#[derive(Args)]
pub struct RestoreArgs {
    /// The backup.
    dir: PathBuf,
    /// A folder without data.
    #[arg(long, default_value = "strandline-data")]
    data_dir: PathBuf,
}

/// Imports every block of a folder.
pub fn import(a: ImportArgs) -> Result<(), String> {
    let mut c = local::config(Some(&a.data_dir), None)?;
    let (store, _lock) = local::open_store(&c)?;
    let theirs = match a.from.starts_with("s3://") {
        true => {
            c.bucket_endpoint = a.endpoint.unwrap_or(c.bucket_endpoint);
            Some(crate::tenants::open_bucket_at(&c, &a.from, &local::fs()).map_err(|e| e.to_string())?)
        }
        false => None,
    };
    let folders = match &theirs {
        Some(bucket) => bucket.list_folders("").map_err(|e| e.to_string())?,
        None => {
            let all = local::fs().read_dir(Path::new(&a.from)).map_err(|e| format!("{}: {e}", a.from))?;
            all.iter().filter(|e| e.is_dir).map(|e| e.name().to_owned()).collect()
        }
    };
    let (blocks, others): (Vec<&String>, Vec<&String>) = folders.iter().partition(|n| n.parse::<ulid::Ulid>().is_ok());
    if blocks.is_empty() {
        let names: Vec<&str> = others.iter().take(5).map(|n| n.as_str()).collect();
        let below = if names.is_empty() { String::new() } else { format!("; below it are {}", names.join(", ")) };
        return Err(format!("{} holds no blocks (folders named by ULIDs): give the folder that holds them{below}", a.from));
    }
    let mut progress = Progress::new("importing");
    for (i, name) in blocks.iter().enumerate() {
        progress.at(i as u64, blocks.len() as u64);
        let done = match &theirs {
            Some(bucket) => store.import_from(&**bucket, &format!("{name}/"), &a.drop_label),
            None => store.import_block(&Path::new(&a.from).join(name), &a.drop_label),
        };
        let done = done.map_err(|e| format!("{name}: {e}"))?;
        progress.hide();
        say(&format!("{name}  {}", told(&done)));
    }
    store.upload().map_err(|e| e.to_string())?;
    store.close().map_err(|e| e.to_string())
}

fn told(done: &Imported) -> String {
    match done {
        Imported::Taken { external_labels } if external_labels.is_empty() => "imported".into(),
        Imported::Taken { external_labels } => {
            format!("imported; its series got its external labels {{{}}} (--drop-label leaves one off)", external_labels.join(", "))
        }
        Imported::Known => "is here already".into(),
        Imported::Skipped(why) => format!("left alone: {why}"),
    }
}

/// Exports everything as Prometheus blocks.
pub fn export(a: ExportArgs) -> Result<(), String> {
    empty_target(&a.dir)?;
    let c = local::config(Some(&a.data_dir), None)?;
    let (store, _lock) = local::open_store(&c)?;
    store.flush().map_err(|e| e.to_string())?;
    for b in store.blocks() {
        store.copy_block(&b, &a.dir.join(&b.meta.ulid)).map_err(|e| e.to_string())?;
        say(&format!("{}  exported", b.meta.ulid));
    }
    // Prometheus' tools want a log folder beside the blocks.
    local::fs().create_dir_all(&a.dir.join("wal")).map_err(|e| e.to_string())?;
    store.close().map_err(|e| e.to_string())
}

fn empty_target(dir: &Path) -> Result<(), String> {
    let fs = local::fs();
    fs.create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let there = fs.read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if there.is_empty() { Ok(()) } else { Err(format!("{} is not empty: give a new folder", dir.display())) }
}

/// Copies a data folder. Until it is done a file says so, lest a copy that was cut short be taken for a whole one.
fn copy_data(fs: &dyn Fs, from: &Path, to: &Path, skip: &dyn Fn(&Path) -> bool) -> std::io::Result<u64> {
    let mark = to.join(UNFINISHED);
    if fs.exists(&mark) {
        // What was copied before may be another backup's: its log would be read behind this one's.
        for e in fs.read_dir(to)?.iter().filter(|e| e.path != mark) {
            if e.is_dir { fs.remove_dir_all(&e.path)? } else { fs.remove_file(&e.path)? }
        }
    }
    fs.create_dir_durably(to)?;
    fs.write_atomic(&mark, b"")?;
    let n = copy_tree(fs, from, to, skip)?;
    fs.remove_file(&mark)?;
    fs.sync_dir(to)?;
    Ok(n)
}

fn copy_tree(fs: &dyn Fs, from: &Path, to: &Path, skip: &dyn Fn(&Path) -> bool) -> std::io::Result<u64> {
    fs.create_dir_all(to)?;
    let mut n = 0;
    for e in fs.read_dir(from)? {
        if skip(&e.path) {
            continue;
        }
        let target = to.join(e.name());
        if e.is_dir {
            n += copy_tree(fs, &e.path, &target, skip)?;
        } else {
            fs.write_atomic(&target, &fs.read(&e.path)?)?;
            n += e.size_bytes;
        }
    }
    fs.sync_dir(to)?;
    Ok(n)
}

/// Whether a path below the data folder is left out: scratch, locks, and snapshots, of the folder itself and of each tenant's.
fn is_scratch(below: &Path) -> bool {
    let parts: Vec<_> = below.iter().filter_map(|p| p.to_str()).collect();
    let own = match &parts[..] {
        ["tenants", _, own @ ..] => own,
        own => own,
    };
    matches!(own, ["LOCK" | "snapshots" | "cache" | "import"] | ["metrics", "head"])
}

/// Copies the data folder without what can be rebuilt; a bucket that lies in it comes along, one elsewhere does not.
pub fn backup(a: BackupArgs) -> Result<(), String> {
    empty_target(&a.dir)?;
    let fs = local::fs();
    let _lock = fs.lock(&a.data_dir.join("LOCK")).map_err(|_| {
        format!(
            "{} is in use: POST /api/v1/admin/flush puts everything into the bucket of a running server; back that up",
            a.data_dir.display()
        )
    })?;
    let skip = |p: &Path| p.strip_prefix(&a.data_dir).is_ok_and(is_scratch);
    let n = copy_data(&*fs, &a.data_dir, &a.dir, &skip).map_err(|e| e.to_string())?;
    let bucket = if fs.exists(&a.dir.join("bucket")) { "the bucket in it too" } else { "a bucket elsewhere is backed up by its own means" };
    say(&format!("{n} bytes copied, {bucket}"));
    Ok(())
}

/// Copies a backup into a folder without data.
pub fn restore(a: RestoreArgs) -> Result<(), String> {
    let fs = local::fs();
    if fs.exists(&a.data_dir.join("VERSION")) && !fs.exists(&a.data_dir.join(UNFINISHED)) {
        return Err(format!("{} holds data: restore into an empty folder", a.data_dir.display()));
    }
    if !fs.exists(&a.dir.join("VERSION")) {
        return Err(format!("{} is not a backup", a.dir.display()));
    }
    if fs.exists(&a.dir.join(UNFINISHED)) {
        return Err(format!("{} is half a backup: the one that wrote it did not come to its end", a.dir.display()));
    }
    let n = copy_data(&*fs, &a.dir, &a.data_dir, &|_| false).map_err(|e| e.to_string())?;
    say(&format!("{n} bytes restored"));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use strandline_storage::engine::check_version;
    use strandline_wal::fs::{FaultKind, SimFs};

    use super::*;

    /// Copies until the call with this number, which fails, as the next ones do: what a kill leaves.
    fn copy_until(call: u64, from: &SimFs, to: &Path) -> std::io::Result<u64> {
        let fs = from.clone();
        (0..200).for_each(|n| fs.fail_call(fs.calls() + call + n, FaultKind::Eio));
        let done = copy_data(&fs, Path::new("/data"), to, &|_| false);
        fs.calm();
        done
    }

    #[test]
    fn a_copy_that_was_cut_short_is_not_taken_for_a_whole_one() {
        let sim = SimFs::new();
        let fs: Arc<dyn Fs> = Arc::new(sim.clone());
        fs.create_dir_all(Path::new("/data/metrics")).unwrap();
        check_version(&fs, Path::new("/data")).unwrap();
        fs.write_atomic(Path::new("/data/metrics/manifest.json"), b"{}").unwrap();
        let mut cuts = 0;
        for call in 1.. {
            let to = PathBuf::from(format!("/copy{call}"));
            match copy_until(call, &sim, &to) {
                Ok(_) => {
                    check_version(&fs, &to).unwrap();
                    break;
                }
                // Where hardly anything was done yet, nothing is there that could be taken for data.
                Err(_) if !fs.exists(&to.join("VERSION")) && !fs.exists(&to.join("metrics")) => {}
                Err(_) => {
                    cuts += 1;
                    let whole = fs.exists(&to.join("metrics/manifest.json")) && !fs.exists(&to.join(UNFINISHED));
                    assert!(whole || check_version(&fs, &to).is_err(), "{call}");
                }
            }
        }
        assert!(cuts > 5, "{cuts}");
    }

    #[test]
    fn nothing_of_half_a_restore_of_another_backup_stays() {
        let sim = SimFs::new();
        for (path, dir) in [("/data/wal/1.wal", "/data/wal"), ("/to/wal/2.wal", "/to/wal"), ("/to/own", "/to")] {
            sim.create_dir_all(Path::new(dir)).unwrap();
            sim.write_atomic(Path::new(path), b"x").unwrap();
        }
        let copied = |to: &str| {
            copy_data(&sim, Path::new("/data"), Path::new(to), &|_| false).unwrap();
            let all = sim.files().into_iter().filter(|(p, _)| p.starts_with(to)).map(|(p, _)| p.display().to_string());
            all.collect::<Vec<_>>()
        };
        // What was there before any copy is nobody's to remove.
        assert_eq!(copied("/to"), ["/to/own", "/to/wal/1.wal", "/to/wal/2.wal"]);
        sim.write_atomic(Path::new("/to").join(UNFINISHED).as_path(), b"").unwrap();
        assert_eq!(copied("/to"), ["/to/wal/1.wal"]);
    }

    #[test]
    fn only_scratch_is_left_out() {
        for (path, out) in [
            ("metrics/head", true),
            ("LOCK", true),
            ("cache", true),
            ("tenants/a/metrics/head", true),
            ("tenants/a/LOCK", true),
            ("tenants/cache", false),
            ("tenants/head/wal", false),
            ("metrics", false),
            ("bucket", false),
            ("bucket/metrics/head", false),
            ("wal", false),
        ] {
            assert_eq!(is_scratch(Path::new(path)), out, "{path}");
        }
    }
}
