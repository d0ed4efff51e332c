//! The script language: lines are trimmed, `#` lines are blank, a blank line ends a command.

use super::values::{Described, describe, duration, items, labels, number, split_metric, start_offsets};

/// A command with the line it starts at.
#[derive(Debug)]
pub struct Command {
    pub line: usize,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Clear,
    Load(Load),
    Eval(Box<Eval>),
    /// What can't be understood; counts as a failure.
    Broken(String),
}

#[derive(Debug)]
pub struct Load {
    pub step: i64,
    pub with_nhcb: bool,
    /// Series, and the offsets of their start timestamps.
    pub series: Vec<(Described, Vec<Option<i64>>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Instant(i64),
    Range(i64, i64, i64),
}

/// A text to compare a message with.
#[derive(Debug, Clone)]
pub enum Pattern {
    Any,
    Exact(String),
    Regex(regex::Regex),
}

impl Pattern {
    pub fn matches(&self, s: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Exact(e) => e == s,
            Pattern::Regex(r) => r.is_match(s),
        }
    }
}

#[derive(Debug, Default)]
pub struct Expect {
    pub fail: Option<Vec<Pattern>>,
    pub warn: Vec<Pattern>,
    pub info: Vec<Pattern>,
    pub no_warn: bool,
    pub no_info: bool,
    pub ordered: bool,
    pub string: Option<String>,
    pub scalar: Option<f64>,
    /// A range vector's times.
    pub matrix: Option<(i64, i64, i64)>,
    pub series: Vec<Described>,
}

#[derive(Debug)]
pub struct Eval {
    pub when: When,
    pub expr: String,
    pub expect: Expect,
}

pub fn parse(text: &str) -> Vec<Command> {
    let lines: Vec<&str> = text.lines().map(|l| l.trim()).map(|l| if l.starts_with('#') { "" } else { l }).collect();
    let mut out = Vec::new();
    let mut i = 0;
    while i < lines.len() {
        if lines[i].is_empty() {
            i += 1;
            continue;
        }
        let start = i;
        i += 1;
        while i < lines.len() && !lines[i].is_empty() && !begins_command(lines[i]) {
            i += 1;
        }
        let kind = command(lines[start], &lines[start + 1..i]).unwrap_or_else(Kind::Broken);
        out.push(Command { line: start + 1, kind });
    }
    out
}

fn begins_command(l: &str) -> bool {
    let w = l.split_whitespace().next().unwrap_or("");
    w == "clear" || (w == "load" || w == "load_with_nhcb") || (w.starts_with("eval") && (l.contains(" instant ") || l.contains(" range ")))
}

fn command(first: &str, body: &[&str]) -> Result<Kind, String> {
    let word = first.split_whitespace().next().unwrap_or("");
    match word {
        "clear" => Ok(Kind::Clear),
        "load" | "load_with_nhcb" => {
            let step = duration(first[word.len()..].trim())?;
            let mut series = Vec::new();
            let mut starts: Option<(String, Vec<Option<i64>>)> = None;
            for l in body {
                let (metric, rest) = split_metric(l);
                if let Some(offsets) = rest.trim_start().strip_prefix("@st") {
                    starts = Some((labels(metric)?.to_string(), start_offsets(offsets)?));
                    continue;
                }
                let d = Described { labels: labels(metric)?, items: items(rest)? };
                let st = match starts.take() {
                    Some((l, st)) if l == d.labels.to_string() => st,
                    Some((l, _)) => return Err(format!("start timestamps of {l} stand before another series")),
                    None => Vec::new(),
                };
                series.push((d, st));
            }
            Ok(Kind::Load(Load { step, with_nhcb: word == "load_with_nhcb", series }))
        }
        _ if word.starts_with("eval") => eval(word, first[word.len()..].trim(), body).map(|e| Kind::Eval(Box::new(e))),
        _ => Err(format!("unknown command {first:?}")),
    }
}

fn eval(word: &str, rest: &str, body: &[&str]) -> Result<Eval, String> {
    let mut expect = Expect::default();
    match word.strip_prefix("eval").unwrap_or("") {
        "" => {}
        "_fail" => expect.fail = Some(Vec::new()),
        "_warn" => expect.warn.push(Pattern::Any),
        "_info" => expect.info.push(Pattern::Any),
        "_ordered" => expect.ordered = true,
        other => return Err(format!("unknown command eval{other}")),
    }
    let mut words = rest.splitn(2, char::is_whitespace);
    let (kind, rest) = (words.next().unwrap_or(""), words.next().unwrap_or("").trim());
    let (when, expr) = match kind {
        "instant" => {
            let rest = rest.strip_prefix("at").ok_or("expected `at`")?.trim();
            let (t, expr) = rest.split_once(char::is_whitespace).ok_or("expected an expression")?;
            (When::Instant(duration(t)?), expr.trim())
        }
        "range" => {
            let rest = rest.strip_prefix("from").ok_or("expected `from`")?.trim();
            let (from, rest) = rest.split_once(char::is_whitespace).ok_or("expected `to`")?;
            let rest = rest.trim().strip_prefix("to").ok_or("expected `to`")?.trim();
            let (to, rest) = rest.split_once(char::is_whitespace).ok_or("expected `step`")?;
            let rest = rest.trim().strip_prefix("step").ok_or("expected `step`")?.trim();
            let (step, expr) = rest.split_once(char::is_whitespace).ok_or("expected an expression")?;
            (When::Range(duration(from)?, duration(to)?, duration(step)?), expr.trim())
        }
        _ => return Err(format!("unknown evaluation {kind:?}")),
    };
    for l in body {
        if let Some(e) = l.strip_prefix("expect ") {
            expectation(e.trim(), &mut expect)?;
        } else if let Some(m) = l.strip_prefix("expected_fail_message ") {
            expect.fail.get_or_insert_default().push(Pattern::Exact(m.trim().to_owned()));
        } else if let Some(m) = l.strip_prefix("expected_fail_regexp ") {
            expect.fail.get_or_insert_default().push(Pattern::Regex(regex::Regex::new(m.trim()).map_err(|e| e.to_string())?));
        } else if let Some(v) = number(l) {
            expect.scalar = Some(v);
        } else {
            expect.series.push(describe(l)?);
        }
    }
    Ok(Eval { when, expr: expr.to_owned(), expect })
}

fn expectation(text: &str, e: &mut Expect) -> Result<(), String> {
    if let Some(rest) = text.strip_prefix("range vector") {
        let w: Vec<&str> = rest.split_whitespace().collect();
        if let ["from", a, "to", b, "step", s] = w[..] {
            e.matrix = Some((duration(a)?, duration(b)?, duration(s)?));
            return Ok(());
        }
        return Err(format!("bad expectation {text:?}"));
    }
    if let Some(rest) = text.strip_prefix("string ") {
        let rest = rest.trim();
        let parsed = strandline_query::promql::parse(rest).map_err(|e| e.to_string())?;
        if let strandline_query::promql::ExprKind::String(s) = parsed.kind {
            e.string = Some(s);
            return Ok(());
        }
        return Err(format!("bad string {rest:?}"));
    }
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let pattern = if let Some(m) = rest.strip_prefix("msg:") {
        Pattern::Exact(m.trim().to_owned())
    } else if let Some(r) = rest.strip_prefix("regex:") {
        Pattern::Regex(regex::Regex::new(r.trim()).map_err(|e| e.to_string())?)
    } else {
        Pattern::Any
    };
    match word {
        "fail" => e.fail.get_or_insert_default().push(pattern),
        "warn" => e.warn.push(pattern),
        "info" => e.info.push(pattern),
        "no_warn" => e.no_warn = true,
        "no_info" => e.no_info = true,
        "ordered" => e.ordered = true,
        _ => return Err(format!("unknown expectation {text:?}")),
    }
    Ok(())
}
