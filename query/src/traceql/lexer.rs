//! Text to tokens.

use super::error::{Result, TraceQlError, TraceQlErrorKind};

/// Scope of an attribute as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// `.x`: wherever it is found first.
    Any,
    /// `span.x`.
    Span,
    /// `resource.x`.
    Resource,
    /// `event.x`.
    Event,
    /// `link.x`.
    Link,
    /// `instrumentation.x`.
    Instrumentation,
}

impl Scope {
    const NAMED: [(Scope, &str); 5] = [
        (Scope::Span, "span"),
        (Scope::Resource, "resource"),
        (Scope::Event, "event"),
        (Scope::Link, "link"),
        (Scope::Instrumentation, "instrumentation"),
    ];

    /// By the word before the dot.
    pub fn parse(word: &str) -> Option<Self> {
        Self::NAMED.iter().find(|s| s.1 == word).map(|s| s.0)
    }

    /// The word before the dot; empty for [`Scope::Any`].
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|s| s.0 == self).map_or("", |s| s.1)
    }
}

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Tok {
    /// A keyword, function or intrinsic; scoped intrinsics with their colon.
    Ident(String),
    /// An attribute, of the span or of its parent.
    #[allow(missing_docs)]
    Attribute { parent: bool, scope: Scope, key: String },
    /// Text.
    Str(String),
    /// Integer.
    Int(i64),
    /// Decimal number.
    Float(f64),
    /// Nanoseconds.
    Duration(i64),
    /// Operator or punctuation.
    Op(&'static str),
    /// The end.
    End,
}

/// A token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What.
    pub tok: Tok,
    /// Byte offset.
    pub at: usize,
}

/// Queries longer than this are refused.
pub const MAX_QUERY_BYTES: usize = 128 << 10;

/// Longest first, so that each is read whole.
const OPS: [&str; 35] = [
    "!>>", "!<<", "&>>", "&<<", "!>", "!<", "!~", "!=", "&>", "&<", "&~", "&&", "||", ">>", "<<", ">=", "<=", "=~", "{", "}", "(", ")",
    ",", "|", "=", ">", "<", "~", "!", "+", "-", "*", "/", "%", "^",
];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

fn ends_name(c: char) -> bool {
    c.is_whitespace() || "{}()=~!<>&|^,".contains(c)
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }
    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T> {
        Err(TraceQlError::at(TraceQlErrorKind::Parse, self.text, at, message))
    }

    /// The name of an attribute, after its dot; parts may be quoted.
    fn name(&mut self) -> Result<String> {
        let start = self.at;
        let mut out = String::new();
        while let Some(c) = self.rest().chars().next() {
            if c == '"' {
                self.quoted_name(&mut out)?;
            } else if ends_name(c) {
                break;
            } else {
                out.push(c);
                self.at += c.len_utf8();
            }
        }
        if self.at == start {
            return self.fail(start, "an attribute name is missing after the dot");
        }
        Ok(out)
    }

    /// A quoted part of a name: only quotes and backslashes are escaped in it.
    fn quoted_name(&mut self, out: &mut String) -> Result<()> {
        let start = self.at;
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + i + 1;
                    return Ok(());
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('\\' | '"'))) => out.push(c),
                    _ => return self.fail(start + i, "an unknown escape sequence"),
                },
                c => out.push(c),
            }
        }
        self.fail(start, "a name without its closing quote")
    }

    /// A string in double quotes with escapes, or in backticks without.
    fn quoted(&mut self) -> Result<String> {
        let start = self.at;
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map_or('"', |c| c.1);
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at = start + i + 1;
                return Ok(out);
            }
            if c == '\n' && quote == '"' {
                return self.fail(start, "a string must end on its line; in backticks it may go on");
            }
            if c != '\\' || quote == '`' {
                out.push(c);
                continue;
            }
            let escaped = chars.next().map(|c| c.1);
            match escaped {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('a') => out.push('\x07'),
                Some('b') => out.push('\x08'),
                Some('f') => out.push('\x0c'),
                Some('v') => out.push('\x0b'),
                Some(c @ ('\\' | '"')) => out.push(c),
                Some(c @ '0'..='3') => {
                    let digits: String = std::iter::once(c).chain(chars.by_ref().take(2).map(|c| c.1)).collect();
                    match u32::from_str_radix(&digits, 8).ok().filter(|_| digits.len() == 3).and_then(char::from_u32) {
                        Some(c) => out.push(c),
                        None => return self.fail(start + i, "a wrong escape sequence"),
                    }
                }
                Some(c @ ('x' | 'u' | 'U')) => {
                    let n = if c == 'x' { 2 } else { if c == 'u' { 4 } else { 8 } };
                    let digits: String = chars.by_ref().take(n).map(|c| c.1).collect();
                    match u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == n).and_then(char::from_u32) {
                        Some(c) => out.push(c),
                        None => return self.fail(start + i, "a wrong escape sequence"),
                    }
                }
                _ => return self.fail(start + i, "an unknown escape sequence"),
            }
        }
        self.fail(start, "a string without its end")
    }

    fn number(&mut self) -> Result<Tok> {
        let start = self.at;
        let rest = self.rest();
        let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let mut n = digits(rest);
        let mut float = false;
        if rest[n..].starts_with('.') {
            n += 1 + digits(&rest[n + 1..]);
            float = true;
        }
        let exponent = rest[n..].strip_prefix(['e', 'E']).map(|e| e.len() - e.trim_start_matches(['+', '-']).len());
        if let Some(sign) = exponent.filter(|s| *s <= 1)
            && digits(&rest[n + 1 + sign..]) > 0
        {
            n += 1 + sign + digits(&rest[n + 1 + sign..]);
            float = true;
        }
        if rest[n..].starts_with(|c: char| c.is_alphabetic()) {
            return self.duration();
        }
        self.at += n;
        if float {
            return rest[..n].parse().map(Tok::Float).or_else(|_| self.fail(start, "a number that can't be read"));
        }
        if n > 1 && rest.starts_with('0') && rest[..n].contains(['8', '9']) {
            return self.fail(start, "an octal number with a digit above 7");
        }
        rest[..n].parse().map(Tok::Int).or_else(|_| self.fail(start, "a number out of range"))
    }

    /// `1h30m`, `1.5s`, `2d`. Days and what is longer are whole, and each unit stands once, longest first; without
    /// them, any number of decimal parts in any order do.
    fn duration(&mut self) -> Result<Tok> {
        const UNITS: [(&str, i64); 10] = [
            ("y", 31_536_000_000_000_000),
            ("w", 604_800_000_000_000),
            ("d", 86_400_000_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("µs", 1_000),
            ("ns", 1),
        ];
        let start = self.at;
        let mut total = 0f64;
        let mut exact: Option<i64> = Some(0);
        let (mut long, mut plain, mut last) = (false, true, i64::MAX);
        while self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            let rest = self.rest();
            let n = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
            let unit_len = rest[n..].len() - rest[n..].trim_start_matches(|c: char| c.is_alphabetic()).len();
            let Some((name, unit)) = UNITS.iter().find(|u| u.0 == &rest[n..n + unit_len]) else {
                return self.fail(start, "an unknown unit of duration (ns, us, ms, s, m, h, d, w, y)");
            };
            let Ok(v) = rest[..n].parse::<f64>() else { return self.fail(start, "a duration that can't be read") };
            let whole = rest[..n].parse::<i64>().ok();
            long |= ["y", "w", "d"].contains(name);
            plain &= whole.is_some() && *unit < last && *unit >= 1_000_000;
            last = *unit;
            total += v * *unit as f64;
            exact = exact.zip(whole).and_then(|(e, v)| v.checked_mul(*unit)?.checked_add(e));
            self.at += n + unit_len;
        }
        if long && !plain {
            return self.fail(start, "days, weeks and years must be whole, and stand once each and first");
        }
        if total > i64::MAX as f64 {
            return self.fail(start, "a duration out of range");
        }
        Ok(Tok::Duration(exact.unwrap_or(total as i64)))
    }

    fn word(&self) -> &'a str {
        let rest = self.rest();
        &rest[..rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len()]
    }

    fn ident(&mut self) -> Result<Tok> {
        let word = self.word();
        self.at += word.len();
        let mut parent = false;
        let mut scope = Scope::parse(word);
        if word == "parent" && self.rest().starts_with('.') {
            parent = true;
            self.at += 1;
            let next = self.word();
            scope = Scope::parse(next);
            if scope.is_some() && self.rest()[next.len()..].starts_with('.') {
                self.at += next.len();
            } else {
                return Ok(Tok::Attribute { parent: true, scope: Scope::Any, key: self.name()? });
            }
        }
        if let Some(scope) = scope.filter(|_| self.rest().starts_with('.')) {
            self.at += 1;
            return Ok(Tok::Attribute { parent, scope, key: self.name()? });
        }
        if self.rest().starts_with(':') {
            self.at += 1;
            self.at += self.rest().len() - self.rest().trim_start().len();
            let second = self.word();
            self.at += second.len();
            return Ok(Tok::Ident(format!("{word}:{second}")));
        }
        Ok(Tok::Ident(word.to_owned()))
    }

    /// White space, and comments: to the end of the line, or between `/*` and `*/`.
    fn skip(&mut self) -> Result<()> {
        loop {
            let rest = self.rest().trim_start();
            self.at = self.text.len() - rest.len();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                match rest.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return self.fail(self.at, "a comment without its end"),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Token> {
        self.skip()?;
        let (skipped, at) = (self.rest(), self.at);
        let Some(c) = skipped.chars().next() else { return Ok(Token { tok: Tok::End, at }) };
        // A dot and a digit begin a number: a name that begins with a digit needs its scope.
        let decimal = c == '.' && skipped[1..].starts_with(|c: char| c.is_ascii_digit());
        let tok = if c == '.' && !decimal {
            self.at += 1;
            Tok::Attribute { parent: false, scope: Scope::Any, key: self.name()? }
        } else if c == '"' || c == '`' {
            Tok::Str(self.quoted()?)
        } else if decimal || c.is_ascii_digit() {
            self.number()?
        } else if c.is_ascii_alphabetic() || c == '_' {
            self.ident()?
        } else {
            match OPS.iter().find(|o| skipped.starts_with(**o)) {
                Some(o) => {
                    self.at += o.len();
                    Tok::Op(o)
                }
                None => return self.fail(at, format!("unexpected character {c:?}")),
            }
        };
        Ok(Token { tok, at })
    }
}

/// All tokens, the end included.
pub fn tokens(text: &str) -> Result<Vec<Token>> {
    let (tokens, failed) = leading_tokens(text);
    match failed {
        Some(e) => Err(e),
        None => Ok(tokens),
    }
}

/// The tokens before the first mistake, or all of them, the end included.
pub fn leading_tokens(text: &str) -> (Vec<Token>, Option<TraceQlError>) {
    if text.len() > MAX_QUERY_BYTES {
        let too_long = TraceQlError::at(TraceQlErrorKind::Parse, text, 0, format!("a query of more than {MAX_QUERY_BYTES} bytes"));
        return (Vec::new(), Some(too_long));
    }
    let mut l = Lexer { text, at: 0 };
    let mut out = Vec::new();
    loop {
        match l.next() {
            Ok(t) => {
                let end = t.tok == Tok::End;
                out.push(t);
                if end {
                    return (out, None);
                }
            }
            Err(e) => return (out, Some(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(s: &str) -> Vec<Tok> {
        tokens(s).unwrap().into_iter().map(|t| t.tok).collect()
    }

    #[test]
    fn attribute_names_take_all_but_a_few_characters() {
        let any = |n: &str| Tok::Attribute { parent: false, scope: Scope::Any, key: n.into() };
        assert_eq!(lex(".a+1"), [any("a+1"), Tok::End]);
        assert_eq!(lex(".a +1")[..3], [any("a"), Tok::Op("+"), Tok::Int(1)]);
        assert_eq!(lex(r#"."foo bar"=1"#)[..2], [any("foo bar"), Tok::Op("=")]);
        assert_eq!(lex(r#"span.a."b c".d"#)[0], Tok::Attribute { parent: false, scope: Scope::Span, key: "a.b c.d".into() });
        assert_eq!(lex("parent.resource.a")[0], Tok::Attribute { parent: true, scope: Scope::Resource, key: "a".into() });
        assert_eq!(lex("parent.span")[0], Tok::Attribute { parent: true, scope: Scope::Any, key: "span".into() });
        assert_eq!(lex("trace:duration")[0], Tok::Ident("trace:duration".into()));
    }

    #[test]
    fn numbers_and_durations() {
        assert_eq!(
            lex("1 1.5 2e3 1h30m 1.5s 2d")[..6],
            [
                Tok::Int(1),
                Tok::Float(1.5),
                Tok::Float(2000.0),
                Tok::Duration(5_400_000_000_000),
                Tok::Duration(1_500_000_000),
                Tok::Duration(172_800_000_000_000)
            ]
        );
        assert_eq!(
            lex("1w2d 1m1m 2.5h 1d3h")[..3],
            [Tok::Duration(777_600_000_000_000), Tok::Duration(120_000_000_000), Tok::Duration(9_000_000_000_000)]
        );
        for wrong in ["5q", ".5xx", "1s.", "1.5d", "1h1d", "1d1d", "1d5us", "2M"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
        assert!(tokens("99999999999999999999").is_err());
        assert_eq!(lex("1. 08.5 007")[..3], [Tok::Float(1.0), Tok::Float(8.5), Tok::Int(7)]);
        assert_eq!(lex(".5 .5e1 .5s 1m.5s")[..3], [Tok::Float(0.5), Tok::Float(5.0), Tok::Duration(500_000_000)]);
        assert_eq!(lex("1m.5s .5-1")[..3], [Tok::Duration(60_500_000_000), Tok::Float(0.5), Tok::Op("-")]);
        assert_eq!(lex("span.5xx")[0], Tok::Attribute { parent: false, scope: Scope::Span, key: "5xx".into() });
        assert!(tokens("08").is_err());
    }

    #[test]
    fn strings_names_and_comments() {
        assert_eq!(lex(r#""a\n\t\"\\\x41\u00e9\101""#)[0], Tok::Str("a\n\t\"\\Aé A".replace(' ', "")));
        assert_eq!(lex("`a\n\\d`")[0], Tok::Str("a\n\\d".into()));
        for wrong in [r#""\q""#, r#""\'""#, "\"a\nb\"", r#"."a\n""#, r#"."a"#, "/* x"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
        assert_eq!(lex(r#"."a\"b\\c""#)[0], Tok::Attribute { parent: false, scope: Scope::Any, key: "a\"b\\c".into() });
        assert_eq!(lex("1 // one\n/* two\n*/ 3"), [Tok::Int(1), Tok::Int(3), Tok::End]);
        assert_eq!(lex("span: name")[0], Tok::Ident("span:name".into()));
    }

    #[test]
    fn errors_have_places() {
        let e = tokens("{ .a = 1 }\n  #").unwrap_err();
        assert_eq!((e.line, e.col), (2, 3));
        assert!(tokens("{ span. }").is_err());
        assert!(tokens("\"abc").is_err());
    }
}
