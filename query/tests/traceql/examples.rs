//! Queries that parse and those that do not.

use std::path::Path;

use strandline_query::traceql::{TraceQlErrorKind, parse};

use super::Report;

/// What should become of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Want {
    Valid,
    ParseFails,
    ValidateFails,
    Unsupported,
}

const WANTS: [(&str, Want); 4] = [
    ("valid", Want::Valid),
    ("parse_fails", Want::ParseFails),
    ("validate_fails", Want::ValidateFails),
    ("unsupported", Want::Unsupported),
];

fn outcome(query: &str, want: Want) -> Result<(), String> {
    let got = match parse(query) {
        Ok(_) => (Want::Valid, "it is valid".to_owned()),
        Err(e) => {
            let kind = match e.kind {
                TraceQlErrorKind::Parse => Want::ParseFails,
                TraceQlErrorKind::Unsupported => Want::Unsupported,
                _ => Want::ValidateFails,
            };
            if e.line == 0 || e.col == 0 {
                return Err(format!("an error without its place: {e}"));
            }
            (kind, e.to_string())
        }
    };
    if got.0 == want { Ok(()) } else { Err(format!("wanted {want:?}, got {:?}: {}", got.0, got.1)) }
}

fn lists(yaml: &str, report: &mut Report) {
    let doc: serde_yaml_ng::Value = match serde_yaml_ng::from_str(yaml) {
        Ok(d) => d,
        Err(e) => return report.check("reading examples", Err(e.to_string())),
    };
    for (name, want) in WANTS {
        for q in doc.get(name).and_then(|l| l.as_sequence()).into_iter().flatten() {
            match q.as_str() {
                Some(q) => report.check(&format!("{name}: {q}"), outcome(q, want)),
                None => report.check(name, Err(format!("not a text: {q:?}"))),
            }
        }
    }
}

/// The project's own list.
pub fn own(report: &mut Report) {
    lists(include_str!("examples.yaml"), report);
}

/// A list in a file.
pub fn file(path: &Path, report: &mut Report) {
    match std::fs::read_to_string(path) {
        Ok(text) => lists(&text, report),
        Err(e) => report.check(&path.display().to_string(), Err(e.to_string())),
    }
}
