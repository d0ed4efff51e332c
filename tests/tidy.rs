//! What a reader may rely on: short files, links that lead somewhere, layers that look one way, no loose ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository with their text, without what is built, generated or binary.
fn files() -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut folders = vec![root().to_owned()];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let skipped =
                matches!(name, "target" | ".git" | "corpus" | "artifacts" | "golden" | "node_modules" | "__pycache__" | "Cargo.lock");
            if skipped || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                out.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
            }
        }
    }
    out
}

fn fail(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn ends_with(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.contains(&e))
}

#[test]
fn files_are_shorter_than_600_lines() {
    let long = files().into_iter().filter(|(p, text)| ends_with(p, &["rs", "py"]) && text.lines().count() >= 600);
    fail("split what is long", long.map(|(p, text)| format!("{}: {} lines", p.display(), text.lines().count())).collect());
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut dead = Vec::new();
    let files = files();
    for (path, text) in files.iter().filter(|(p, _)| ends_with(p, &["md"])) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let elsewhere = file.is_empty() || file.contains("://") || file.contains(' ') || file.starts_with("mailto:");
            let near = root().join(path.parent().unwrap()).join(file);
            if !elsewhere && !near.exists() {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
        // Methods named in backticks with their type.
        for name in text.split('`').skip(1).step_by(2) {
            let written = |method: &String| files.iter().any(|(p, t)| ends_with(p, &["rs"]) && t.contains(method.as_str()));
            if method(name).is_some_and(|m| !written(&m)) {
                dead.push(format!("{}: `{name}`", path.display()));
            }
        }
        // Files named in backticks with their path.
        for name in text.split('`').skip(1).step_by(2).filter(|n| is_path(n)) {
            if !files.keys().any(|p| p.ends_with(name)) {
                dead.push(format!("{}: `{name}`", path.display()));
            }
        }
    }
    fail("dead links", dead);
}

/// How the method is written that a name like `Head::may_hold` means.
fn method(name: &str) -> Option<String> {
    let (of, method) = name.split_once("::")?;
    let method = method.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().filter(|m| !m.is_empty())?;
    of.starts_with(char::is_uppercase).then(|| format!("fn {method}("))
}

/// Whether a name is meant as a source file or document of this repository; `tsdb/` is Prometheus'.
fn is_path(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.".contains(&b));
    plain && name.contains('/') && (name.ends_with(".rs") || name.ends_with(".md")) && !name.starts_with("tsdb/")
}

#[test]
fn layers_look_one_way() {
    let above = [
        ("wal/", &["strandline_storage", "strandline_query", "strandline_server", "strandline::"][..]),
        ("storage/", &["strandline_query", "strandline_server", "strandline::", "promql", "traceql", "axum", "tonic"][..]),
        ("query/", &["strandline_server", "strandline::", "axum", "tonic", "tokio", "std::fs"][..]),
        ("ingest-server/src", &["strandline::"][..]),
        ("benches/testkit", &["strandline_wal", "strandline_storage", "strandline_query", "strandline_server", "strandline::"][..]),
    ];
    let mut found = Vec::new();
    for (path, text) in files() {
        let name = path.to_str().unwrap();
        let production = name.ends_with(".rs") && name.contains("/src/") && !name.ends_with("tests.rs");
        for (layer, banned) in above.iter().filter(|_| production) {
            if !name.starts_with(layer) {
                continue;
            }
            for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
                if let Some(b) = banned.iter().find(|b| is_use(line, b)) {
                    found.push(format!("{name}:{}: {b}", i + 1));
                }
            }
        }
    }
    fail("a layer knows what stands above it", found);
}

/// A path into a crate or an import of it, not a word that happens to hold its name.
fn is_use(line: &str, name: &str) -> bool {
    let path = format!("{}::", name.trim_end_matches("::"));
    let mut before = line.split(&path).map(|part| part.chars().last());
    let starts = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !"_:\"/-".contains(c));
    let pieces = line.matches(&path).count();
    before.by_ref().take(pieces).any(starts)
}

#[test]
fn manifests_look_one_way() {
    let mut found = Vec::new();
    for (layer, banned) in [
        ("allocator", &["strandline-"][..]),
        ("wal", &["strandline-storage", "strandline-query", "strandline-server"][..]),
        ("storage", &["strandline-query", "strandline-server"][..]),
        ("query", &["strandline-server", "tokio", "axum", "tonic"][..]),
        ("benches/testkit", &["strandline-"][..]),
    ] {
        let text = std::fs::read_to_string(root().join(layer).join("Cargo.toml")).unwrap();
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap();
        let wrong = dependencies.lines().filter(|l| banned.iter().any(|b| l.starts_with(b)));
        found.extend(wrong.map(|l| format!("{layer}/Cargo.toml: {l}")));
    }
    fail("a layer depends on what stands above it", found);
}

#[test]
fn loose_ends_have_an_issue_and_paths_are_the_readers_own() {
    // Put together here, so that this file does not find itself.
    let loose = ["TO", "FIX", "XX", "HA"].iter().zip(["DO", "ME", "X", "CK"]).map(|(a, b)| format!("{a}{b}")).collect::<Vec<_>>();
    let machine = ["/wo|rk/", "/ro|ot/", "/ho|me/"].map(|p| p.replace('|', ""));
    let mut found = Vec::new();
    for (path, text) in files() {
        for (i, line) in text.lines().enumerate() {
            let words = || line.split(|c: char| !c.is_alphanumeric());
            let at = format!("{}:{}", path.display(), i + 1);
            if words().any(|w| loose.iter().any(|l| l == w)) && !line.contains('#') {
                found.push(format!("{at}: no issue is named: {}", line.trim()));
            }
            if let Some(m) = machine.iter().find(|m| line.contains(m.as_str())) {
                found.push(format!("{at}: {m} is a path of one machine"));
            }
        }
    }
    fail("loose ends", found);
}

/// Unsafe code stands in these files alone.
#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let mut found = Vec::new();
    for (path, text) in files().iter().filter(|(p, _)| ends_with(p, &["rs"])) {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            let opens = code.contains("unsafe {") || code.contains("unsafe fn ") || code.contains("unsafe impl ");
            let said = lines[i.saturating_sub(6)..=i].iter().any(|l| l.contains("SAFETY:") || l.contains("unsafe impl"));
            if opens && !said && !path.starts_with("tests/tidy.rs") {
                found.push(format!("{}:{}: no SAFETY line", path.display(), i + 1));
            }
        }
    }
    fail("unsafe code must say why it is sound", found);
}

/// A promise in `docs/faults.md` names the test that keeps it.
#[test]
fn tests_named_by_the_faults_are_there() {
    let files = files();
    let text = &files[Path::new("docs/faults.md")];
    let seeds = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let mut known: Vec<String> = seeds(&root().join("fuzz/corpus")).iter().flat_map(|d| seeds(d)).map(|p| name_of(&p)).collect();
    known.extend(seeds(&root().join("fuzz/corpus")).iter().map(|p| name_of(p)));
    let is_test = |name: &str| {
        let (rust, python) = (format!("fn {name}("), format!("def {name}("));
        files.iter().any(|(p, t)| (ends_with(p, &["rs"]) && t.contains(&rust)) || (p.starts_with("tests/interop") && t.contains(&python)))
    };
    let named = text.split('`').skip(1).step_by(2).filter(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    let long = text.lines().filter(|l| l.split('|').skip(1).take(2).any(|cell| cell.chars().count() > 160));
    fail("say it shorter, or in two rows", long.map(str::to_owned).collect());
    fail("no such test", named.filter(|n| !known.iter().any(|k| k == n) && !is_test(n)).map(str::to_owned).collect());
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Pages are 4, 16 or 64 KiB: nothing here may ask for their size, or map a part of a file, which must begin at one.
#[test]
fn nothing_depends_on_the_size_of_a_page() {
    let words = ["page_size()", "PAGESIZE", "MmapOptions", "mremap", "O_DIRECT"];
    let mut found = Vec::new();
    for (path, text) in files().iter().filter(|(p, _)| ends_with(p, &["rs"]) && !p.starts_with("tests")) {
        let lines = text.lines().enumerate();
        found.extend(
            lines.filter(|(_, l)| words.iter().any(|w| l.contains(w))).map(|(i, l)| format!("{}:{}: {}", path.display(), i + 1, l.trim())),
        );
    }
    fail("the size of a page", found);
}
