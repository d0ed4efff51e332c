//! Label matchers with RE2's meaning.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::re2;

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// The operator as PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        }
    }
}

/// A regular expression that can't be used; the text says what is wrong and where.
#[derive(Debug, Clone, thiserror::Error)]
#[error("error parsing regexp: {reason}")]
pub struct MatcherError {
    /// The pattern as given.
    pub pattern: String,
    /// What the compiler said.
    pub reason: String,
}

/// A matcher on one label. An absent label counts as the empty string.
#[derive(Clone)]
pub struct Matcher {
    /// Label name.
    pub name: String,
    /// Comparison.
    pub op: MatchOp,
    /// Literal or pattern as written.
    pub value: String,
    regex: Option<Regex>,
}

impl Matcher {
    /// Builds a matcher, compiling the pattern of the regex forms.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, MatcherError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(Regex::anchored(&value)?),
            _ => None,
        };
        Ok(Matcher { name: name.into(), op, value, regex })
    }

    /// `name="value"`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Matcher { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// Whether a label value passes.
    pub fn matches(&self, v: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => v == self.value,
            (MatchOp::NotEqual, _) => v != self.value,
            (MatchOp::Regex, Some(r)) => r.is_match(v),
            (MatchOp::NotRegex, Some(r)) => !r.is_match(v),
            (MatchOp::Regex | MatchOp::NotRegex, None) => false,
        }
    }

    /// Whether a series without the label passes.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The finite set of values a (non-negated) regex stands for, e.g. of `a|b|c`.
    pub fn alternatives(&self) -> Option<&[String]> {
        self.regex.as_ref().and_then(|r| r.alternatives())
    }

    /// The literal every match of the regex starts with, "" where there is none.
    pub fn prefix(&self) -> &str {
        self.regex.as_ref().map_or("", |r| r.prefix())
    }
}

impl PartialEq for Matcher {
    fn eq(&self, o: &Self) -> bool {
        self.name == o.name && self.op == o.op && self.value == o.value
    }
}
impl Eq for Matcher {}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.as_str(), self.value)
    }
}

/// An RE2-like expression, anchored at both ends; `.` matches newline, classes `\d \w \s \b` are ASCII.
#[derive(Clone)]
pub struct Regex(Arc<Inner>);

struct Inner {
    /// `pattern` compiled, at first use: parsing and checking a query needs no automaton.
    regex: OnceLock<regex::Regex>,
    pattern: String,
    alternatives: Option<Vec<String>>,
    prefix: String,
}

/// Compiled programs above this are refused.
const MAX_PROGRAM_BYTES: usize = 4 << 20;
const MAX_ALTERNATIVES: usize = 256;

/// Patterns up to this length, without what multiplies, can't come near [`MAX_PROGRAM_BYTES`]: a byte of pattern makes
/// at most a class of all characters, which is some thirty states.
const SURELY_SMALL_BYTES: usize = 256;

impl Regex {
    /// Takes `pattern` anchored at both ends; a pattern that is wrong or too large fails here.
    pub fn anchored(pattern: &str) -> Result<Self, MatcherError> {
        let fail = |reason: String| MatcherError { pattern: pattern.to_owned(), reason };
        re2::check(pattern).map_err(fail)?;
        let ascii = ascii_classes(pattern);
        let hir = regex_syntax::ParserBuilder::new()
            .nest_limit(200)
            .dot_matches_new_line(true)
            .octal(true)
            .build()
            .parse(&ascii)
            .map_err(|e| fail(refusal(&e)))?;
        let (alternatives, prefix) = literals(&hir);
        let inner = Inner { regex: OnceLock::new(), pattern: format!("^(?s:{ascii})$"), alternatives, prefix };
        let small = ascii.len() <= SURELY_SMALL_BYTES && !["{", "\\p", "\\P", "(?"].iter().any(|s| ascii.contains(s));
        if !small {
            let regex = compile(&inner.pattern).map_err(fail)?;
            let _ = inner.regex.set(regex);
        }
        Ok(Regex(Arc::new(inner)))
    }

    fn compiled(&self) -> &regex::Regex {
        // It parsed, and only small programs are left for later (see `anchored`): nothing is left to fail.
        self.0.regex.get_or_init(|| compile(&self.0.pattern).expect("a parsed pattern of a small program compiles"))
    }

    /// Whether the whole of `s` matches.
    pub fn is_match(&self, s: &str) -> bool {
        match &self.0.alternatives {
            Some(a) => a.iter().any(|x| x == s),
            None => s.starts_with(self.0.prefix.as_str()) && self.compiled().is_match(s),
        }
    }

    /// Capture groups of a full match (for `label_replace`).
    pub fn captures<'h>(&self, s: &'h str) -> Option<regex::Captures<'h>> {
        self.compiled().captures(s)
    }

    /// The finite set of strings it stands for, if small.
    pub fn alternatives(&self) -> Option<&[String]> {
        self.0.alternatives.as_deref()
    }

    /// The literal that every match starts with.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }
}

/// RE2's Perl classes are ASCII; the regex crate's are Unicode. `\pN` classes mean the same in both.
fn ascii_classes(p: &str) -> String {
    let mut out = String::with_capacity(p.len() + 16);
    let mut chars = p.chars();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str(if in_class { "0-9" } else { "[0-9]" }),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str(if in_class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(if in_class { "\\t\\n\\f\\r " } else { "[\\t\\n\\f\\r ]" }),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some('b') if !in_class => out.push_str("(?-u:\\b)"),
                Some('B') if !in_class => out.push_str("\\B"),
                Some('Q') => quoted(&mut chars, &mut out),
                Some(x) => {
                    out.push('\\');
                    out.push(x);
                    if matches!(x, 'x' | 'p' | 'P') && chars.as_str().starts_with('{') {
                        // A name or number in braces.
                        named(&mut chars, &mut out, '}');
                    }
                }
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
            }
            // Inside a class RE2 takes `[` as itself unless it opens a named class, and && ~~ -- are plain.
            '[' => {
                if chars.as_str().starts_with(':') {
                    out.push('[');
                    named(&mut chars, &mut out, ']');
                } else {
                    out.push_str("\\[");
                }
            }
            // What can't be a count is a brace to RE2.
            '{' if !in_class && !opens_count(chars.as_str()) => out.push_str("\\{"),
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            c => out.push(c),
        }
    }
    out
}

/// Copies up to and with `end`.
fn named(chars: &mut std::str::Chars<'_>, out: &mut String, end: char) {
    for c in chars.by_ref() {
        out.push(c);
        if c == end {
            break;
        }
    }
}

/// Whether `n}`, `n,}` or `n,m}` follows.
fn opens_count(rest: &str) -> bool {
    let Some((count, _)) = rest.split_once('}') else { return false };
    let (low, high) = count.split_once(',').unwrap_or((count, "0"));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

fn quoted(chars: &mut std::str::Chars<'_>, out: &mut String) {
    let rest = chars.as_str();
    let (lit, used) = match rest.find("\\E") {
        Some(i) => (&rest[..i], i + 2),
        None => (rest, rest.len()),
    };
    out.push_str(&regex::escape(lit));
    *chars = rest[used..].chars();
}

/// What the library has against a pattern that RE2 would take, or whose class has a name unknown to both.
fn refusal(e: &regex_syntax::Error) -> String {
    let (kind, pattern, span) = match e {
        regex_syntax::Error::Parse(e) => (e.kind().to_string(), e.pattern(), e.span()),
        regex_syntax::Error::Translate(e) => match e.kind() {
            regex_syntax::hir::ErrorKind::UnicodePropertyNotFound | regex_syntax::hir::ErrorKind::UnicodePropertyValueNotFound => {
                ("invalid character class range".to_owned(), e.pattern(), e.span())
            }
            kind => (kind.to_string(), e.pattern(), e.span()),
        },
        other => return other.to_string(),
    };
    format!("{kind}: `{}`", pattern.get(span.start.offset..span.end.offset).unwrap_or(pattern))
}

fn compile(anchored: &str) -> Result<regex::Regex, String> {
    regex::RegexBuilder::new(anchored)
        .octal(true)
        .size_limit(MAX_PROGRAM_BYTES)
        .dfa_size_limit(MAX_PROGRAM_BYTES)
        .nest_limit(210)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(n) => format!("it compiles to more than {n} bytes"),
            other => other.to_string(),
        })
}

/// The finite set of strings a pattern stands for, or the literal its matches start with.
fn literals(hir: &regex_syntax::hir::Hir) -> (Option<Vec<String>>, String) {
    use regex_syntax::hir::literal::Extractor;
    if hir.properties().look_set().is_empty() {
        let mut e = Extractor::new();
        e.limit_total(MAX_ALTERNATIVES).limit_literal_len(1 << 12).limit_class(16);
        let seq = e.extract(hir);
        if seq.is_exact()
            && let Some(lits) = seq.literals()
        {
            let all: Option<Vec<String>> = lits.iter().map(|l| String::from_utf8(l.as_bytes().to_vec()).ok()).collect();
            if let Some(mut all) = all {
                all.sort_unstable();
                all.dedup();
                return (Some(all), String::new());
            }
        }
        if let Some(p) = seq.longest_common_prefix()
            && let Ok(p) = std::str::from_utf8(p)
        {
            return (None, p.to_owned());
        }
    }
    (None, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn re(p: &str) -> Matcher {
        Matcher::new(MatchOp::Regex, "x", p).unwrap()
    }

    #[test]
    fn regexes_mean_what_re2_means() {
        assert!(re("a.c").matches("a\nc"));
        assert!(!re("a").matches("ab"));
        assert!(!re(r"\d+").matches("٣"));
        assert!(re(r"[\d.]+").matches("1.5"));
        assert!(!re(r"\w").matches("é"));
        assert!(re(r"\Qa.b\E+").matches("a.bbb"));
        assert!(re("[a&&b]+").matches("a&b"));
        assert!(re("[[:alpha:]]+").matches("abc"));
        assert!(re("").matches_empty());
        assert!(re(".*").matches_empty() && !re(".+").matches_empty());
        assert!(re("a|b").matches("b") && !re("a|b").matches("ab"));
        assert!(re("(?i)ab").matches("AB"));
        assert!(re(r"\x{61}[\x{62}]").matches("ab") && re(r"\p{Greek}").matches("α"));
        assert!(re("a{2}b{1,}c{0,1}").matches("aabb"));
        assert!(re("a{b}{").matches("a{b}{") && re("a{,2}").matches("a{,2}"));
    }

    #[test]
    fn alternatives_and_prefixes() {
        assert_eq!(re("a|b|c").alternatives().unwrap(), ["a", "b", "c"]);
        assert_eq!(re("foo").alternatives().unwrap(), ["foo"]);
        assert!(re("foo.*").alternatives().is_none());
        assert_eq!(re("foo.+").prefix(), "foo");
        assert_eq!(re("(foo|fob).+").prefix(), "fo");
    }

    #[test]
    fn bad_patterns_say_so() {
        assert!(Matcher::new(MatchOp::Regex, "x", "(").is_err());
        assert!(Matcher::new(MatchOp::Regex, "x", "(".repeat(100_000)).is_err());
        assert!(Matcher::new(MatchOp::Regex, "x", "((a{100}){100}){100}").is_err());
        // Each would be fine inside the group that anchors it, but not by itself.
        assert!(Matcher::new(MatchOp::Regex, "x", "a)(b").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_compiles(p in "[]a\\[()|.*+?^$\\\\dDwWsSbBQE:&~é-]{0,80}", v in "[a-dé. ]{0,6}") {
            if let Ok(m) = Matcher::new(MatchOp::Regex, "x", p) {
                let _ = m.matches(&v);
            }
        }

        #[test]
        fn the_largest_that_waits_compiles(i in 0usize..7) {
            let piece = [".", "[^a]", "\\W", "\\S", "(a|.)", ".+", "[^é]*"][i];
            let mut p = piece.to_owned();
            while ascii_classes(&p).len() + ascii_classes(piece).len() <= SURELY_SMALL_BYTES {
                p.push_str(piece);
            }
            let r = Regex::anchored(&p).unwrap();
            assert!(r.0.regex.get().is_none());
            let _ = r.captures("abc");
        }
    }
}
