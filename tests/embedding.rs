//! The crate as a guest: outside tokio, inside both of its flavours, alone in its folder, gone from memory when asked.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
#![cfg(feature = "promql")]

use std::path::PathBuf;

use strandline::{Builder, Db, ErrorKind, Labels};

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("strandline-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn round_trip(dir: PathBuf) {
    let db = Db::open(&dir).unwrap();
    let now = db.now_ms();
    let l = Labels::from_pairs([("__name__", "m")]);
    let mut b = db.batch();
    b.sample(&l, now - 1000, 1.0).sample(&l, now, 2.0);
    assert_eq!(b.commit().unwrap().all().unwrap(), 2);
    db.flush().unwrap();
    let h = db.metrics().handle(&l).unwrap();
    let mut b = db.batch();
    b.by_handle(h, now + 1, 3.0);
    b.commit().unwrap().all().unwrap();
    assert_eq!(db.query("m", now + 1).unwrap().value.len(), 1);
    assert_eq!(db.query_range("sum(m)", now - 1000, now, 500).unwrap().value.len(), 1);
    db.close().unwrap();
    let again = Db::open(&dir).unwrap();
    assert_eq!(again.query("count_over_time(m[1m])", now + 1).unwrap().value.len(), 1);
    again.close().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn outside_any_runtime() {
    round_trip(folder("outside"));
}

#[tokio::test(flavor = "current_thread")]
async fn inside_a_current_thread_runtime() {
    round_trip(folder("current"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_a_multi_thread_runtime() {
    round_trip(folder("multi"));
}

#[test]
fn a_folder_in_use_says_so() {
    let dir = folder("lock");
    let db = Db::open(&dir).unwrap();
    let e = Db::open(&dir).err().unwrap();
    assert_eq!(e.kind, ErrorKind::Unavailable);
    assert!(e.to_string().contains("in use by another process"), "{e}");
    db.close().unwrap();
    Db::open(&dir).unwrap().close().unwrap();
    std::fs::write(dir.join("VERSION"), "99\n").unwrap();
    let e = Db::open(&dir).err().unwrap();
    assert!(e.to_string().contains("newer"), "{e}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn in_memory_and_without_threads() {
    let db = Builder::in_memory().without_background().open().unwrap();
    let now = db.now_ms();
    let mut b = db.batch();
    b.sample(&Labels::from_pairs([("__name__", "m")]), now, 7.0);
    b.commit().unwrap().all().unwrap();
    db.maintain().unwrap();
    assert_eq!(db.query("m", now).unwrap().value.len(), 1);
    assert!(!PathBuf::from("/memory").exists());
    db.close().unwrap();
}

/// Without default features the tree is pure Rust, without a runtime, HTTP or TLS.
#[test]
fn the_small_tree_stays_small() {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["tree", "-p", "strandline", "--no-default-features", "-e", "normal,build", "--prefix", "none", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let tree = String::from_utf8(out.stdout).unwrap();
    for banned in ["tokio", "reqwest", "ring", "hyper", "cc", "zstd-sys", "object_store", "openssl-sys", "cmake"] {
        let found = tree.lines().any(|l| l.split(' ').next() == Some(banned));
        assert!(!found, "{banned} is in the tree without default features");
    }
}

#[test]
fn reading_beside_a_live_writer() {
    let dir = folder("read-only");
    let db = Db::open(&dir).unwrap();
    let now = db.now_ms();
    let l = Labels::from_pairs([("__name__", "m")]);
    for i in 0..3 {
        let mut b = db.batch();
        b.sample(&l, now + i, i as f64);
        b.commit().unwrap().all().unwrap();
        if i == 1 {
            db.flush().unwrap();
        }
    }
    let reader = Db::builder(&dir).open_read_only().unwrap();
    assert_eq!(reader.query("count_over_time(m[1m])", now + 3).unwrap().value.len(), 1);
    let mut b = reader.batch();
    b.sample(&l, now + 10, 1.0);
    assert!(b.commit().err().unwrap().to_string().contains("read-only"));
    reader.close().unwrap();
    db.close().unwrap();
    assert!(Db::builder(dir.join("none")).open_read_only().is_err());
    assert!(!dir.join("none").exists());
    std::fs::remove_dir_all(&dir).unwrap();
}
