//! Every file of every fuzz corpus, through the function that its target runs.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

#[test]
fn every_corpus_passes() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut folders: Vec<String> = std::fs::read_dir(&all).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut targets: Vec<&str> = fuzz::TARGETS.iter().map(|t| t.0).collect();
    targets.sort();
    assert_eq!(folders, targets, "a folder for each target");
    for (name, run) in fuzz::TARGETS {
        let mut files: Vec<_> = std::fs::read_dir(all.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no seeds");
        for f in files {
            let bytes = std::fs::read(&f).unwrap();
            if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                panic!("{} fails", f.display());
            }
        }
    }
}
