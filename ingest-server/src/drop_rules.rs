//! `[[drop]]`: series that are shed on arrival.

use strandline_storage::model::{MatchOp, Matcher};

/// Parses `{name="value", other=~"a|b"}`.
pub fn parse(s: &str) -> Result<Vec<Matcher>, String> {
    let bad = || format!("{s:?} is not a selector like {{__name__=~\"go_.*\"}}");
    let mut rest = s.trim().strip_prefix('{').and_then(|s| s.strip_suffix('}')).ok_or_else(bad)?.trim();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let name_len = rest.find(['=', '!']).ok_or_else(bad)?;
        let name = rest[..name_len].trim();
        rest = &rest[name_len..];
        let ops = [("=~", MatchOp::Regex), ("!~", MatchOp::NotRegex), ("!=", MatchOp::NotEqual), ("=", MatchOp::Equal)];
        let (token, op) = ops.into_iter().find(|(t, _)| rest.starts_with(t)).ok_or_else(bad)?;
        rest = rest[token.len()..].trim_start();
        let (value, used) = quoted(rest).ok_or_else(bad)?;
        rest = rest[used..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        out.push(Matcher::new(op, name, value).map_err(|e| e.to_string())?);
    }
    if out.iter().all(|m| m.matches_empty()) {
        return Err(format!("{s:?} would match every series"));
    }
    Ok(out)
}

fn quoted(s: &str) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = s.char_indices();
    if chars.next()?.1 != '"' {
        return None;
    }
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((out, i + 1)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn selectors() {
        let m = parse(r#"{__name__=~"go_.*", job!="a\"b"}"#).unwrap();
        assert_eq!(m.len(), 2);
        assert_eq!(m[1].value, "a\"b");
        for bad in ["", "{", "x", "{a}", "{a=b}", "{}", r#"{a=~".*"}"#, r#"{a=~"("}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
