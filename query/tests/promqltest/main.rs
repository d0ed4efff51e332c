//! Runs test scripts in the language of Prometheus' promqltest: the project's own in `tests/scripts`, and every
//! `.test` file of the folder that `PROMQLTEST_DIR` names. See `script.rs` for the language.
//!
//! Prints `NAME passed P failed F` for each file and a last line `promqltest: P passed, F failed`.

mod compare;
mod run;
mod script;
mod store;
mod values;

use std::path::{Path, PathBuf};

fn scripts(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        eprintln!("promqltest: cannot read the folder {}", dir.display());
        std::process::exit(2);
    };
    let mut out: Vec<PathBuf> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "test")).collect();
    out.sort();
    out
}

#[allow(clippy::print_stdout)]
fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Test runners ask for the list of tests before they run one.
    if args.iter().any(|a| a == "--list") {
        if !args.iter().any(|a| a == "--ignored") {
            println!("promqltest: test");
        }
        return;
    }
    let mut files = scripts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"));
    if let Some(dir) = std::env::var_os("PROMQLTEST_DIR") {
        files.extend(scripts(Path::new(&dir)));
    }
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let text = match std::fs::read_to_string(&file) {
            Ok(t) => t,
            Err(e) => {
                println!("{name}: {e}");
                failed += 1;
                continue;
            }
        };
        let outcome = run::run(&text);
        for f in &outcome.failures {
            println!("{name}:{}: {}\n    expected: {}\n    got: {}", f.line, f.expr, f.expected, f.got);
        }
        println!("{name} passed {} failed {}", outcome.passed, outcome.failures.len());
        passed += outcome.passed;
        failed += outcome.failures.len();
    }
    println!("promqltest: {passed} passed, {failed} failed");
    if failed > 0 {
        std::process::exit(1);
    }
}
