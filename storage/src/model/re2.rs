//! What RE2 refuses in a pattern, in its words: the regex library takes some of it, and says other things about the rest.

/// What the last thing read can do before a repetition.
#[derive(Clone, Copy)]
enum Operand {
    /// There is none to repeat.
    Missing,
    There,
    /// It is a repetition itself, which began here.
    Repeated(usize),
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

type Checked<T = ()> = Result<T, String>;

/// Fails with the first mistake RE2 would tell. Names of Unicode classes are left to the compiler.
pub(super) fn check(pattern: &str) -> Checked {
    let mut s = Scan { text: pattern, at: 0 };
    let (mut depth, mut operand) = (0usize, Operand::Missing);
    while let Some(c) = s.peek() {
        let start = s.at;
        match c {
            '(' => {
                if s.rest().starts_with("(?") {
                    if s.group()? {
                        (depth, operand) = (depth + 1, Operand::Missing);
                    } else if matches!(operand, Operand::Repeated(_)) {
                        operand = Operand::There;
                    }
                    continue;
                }
                s.at += 1;
                (depth, operand) = (depth + 1, Operand::Missing);
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or_else(|| told("unexpected )", pattern))?;
                s.at += 1;
                operand = Operand::There;
            }
            '|' => {
                s.at += 1;
                operand = Operand::Missing;
            }
            '*' | '+' | '?' => {
                s.at += 1;
                operand = s.repeat(start, operand)?;
            }
            '{' => match s.count()? {
                true => operand = s.repeat(start, operand)?,
                false => operand = Operand::There,
            },
            '[' => {
                s.class()?;
                operand = Operand::There;
            }
            '\\' => {
                s.outside_class()?;
                operand = Operand::There;
            }
            c => {
                s.at += c.len_utf8();
                operand = Operand::There;
            }
        }
    }
    if depth > 0 { Err(told("missing closing )", pattern)) } else { Ok(()) }
}

fn told(what: &str, part: &str) -> String {
    format!("{what}: `{part}`")
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, c: char) -> bool {
        let there = self.peek() == Some(c);
        self.at += if there { c.len_utf8() } else { 0 };
        there
    }

    fn wrong<T>(&self, what: &str, start: usize) -> Checked<T> {
        Err(told(what, &self.text[start..self.at]))
    }

    /// The end of a repetition that began at `start`.
    fn repeat(&mut self, start: usize, operand: Operand) -> Checked<Operand> {
        self.accept('?');
        match operand {
            Operand::Missing => self.wrong("missing argument to repetition operator", start),
            Operand::There => Ok(Operand::Repeated(start)),
            Operand::Repeated(first) => self.wrong("invalid nested repetition operator", first),
        }
    }

    /// Takes `{n}`, `{n,}` or `{n,m}`; other braces stand for themselves.
    fn count(&mut self) -> Checked<bool> {
        let start = self.at;
        let bounds = self.rest()[1..].split_once('}').map(|(inside, _)| inside);
        let Some(inside) = bounds else {
            self.at += 1;
            return Ok(false);
        };
        let (low, high) = inside.split_once(',').map_or((inside, None), |(low, high)| (low, Some(high)));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if low.is_empty() || !digits(low) || !high.is_none_or(digits) {
            self.at += 1;
            return Ok(false);
        }
        self.at += inside.len() + 2;
        let number = |s: &str| s.parse().unwrap_or(u32::MAX);
        let low = number(low);
        let high = high.filter(|h| !h.is_empty()).map_or(low, number);
        if low > 1000 || high > 1000 || high < low { self.wrong("invalid repeat count", start) } else { Ok(true) }
    }

    /// Takes what begins with `(?`; whether a group was opened.
    fn group(&mut self) -> Checked<bool> {
        let start = self.at;
        for opening in ["(?P<", "(?<"] {
            if self.rest().len() > opening.len() && self.rest().starts_with(opening) {
                let Some(end) = self.rest().find('>') else { return Err(told("invalid named capture", self.rest())) };
                let name = &self.rest()[opening.len()..end];
                let fine = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
                self.at += end + 1;
                return if fine { Ok(true) } else { self.wrong("invalid named capture", start) };
            }
        }
        self.at += 2;
        let (mut negated, mut flags) = (false, false);
        loop {
            let fine = match self.take() {
                Some('i' | 'm' | 's' | 'U') => {
                    flags = true;
                    true
                }
                Some('-') if !negated => {
                    (negated, flags) = (true, false);
                    true
                }
                Some(c @ (':' | ')')) if flags || !negated => return Ok(c == ':'),
                _ => false,
            };
            if !fine {
                return self.wrong("invalid or unsupported Perl syntax", start);
            }
        }
    }

    /// Takes `[...]`.
    fn class(&mut self) -> Checked {
        let start = self.at;
        self.at += 1;
        self.accept('^');
        let mut first = true;
        loop {
            let Some(c) = self.peek() else { return Err(told("missing closing ]", &self.text[start..])) };
            if c == ']' && !first {
                self.at += 1;
                return Ok(());
            }
            first = false;
            let from = self.at;
            if let Some(end) = self.rest().strip_prefix("[:").and_then(|r| r.find(":]")) {
                self.at += end + 4;
                let name = &self.text[from + 2..self.at - 2];
                if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return self.wrong("invalid character class range", from);
                }
                continue;
            }
            if c == '\\' && self.named_class()? {
                continue;
            }
            let low = self.class_char(start)?;
            let range = self.rest().starts_with('-') && !self.rest().starts_with("-]") && self.rest().len() > 1;
            if range {
                self.at += 1;
                if self.class_char(start)? < low {
                    return self.wrong("invalid character class range", from);
                }
            }
        }
    }

    fn class_char(&mut self, class: usize) -> Checked<char> {
        match self.peek() {
            Some('\\') => self.escape(),
            Some(_) => Ok(self.take().unwrap_or_default()),
            None => Err(told("missing closing ]", &self.text[class..])),
        }
    }

    /// Takes `\d`, `\pN` and their like, if one stands here.
    fn named_class(&mut self) -> Checked<bool> {
        let start = self.at;
        match self.rest()[1..].chars().next() {
            Some('d' | 'D' | 's' | 'S' | 'w' | 'W') => self.at += 2,
            Some('p' | 'P') => {
                self.at += 2;
                if self.take() == Some('{') && !self.through('}') {
                    return self.wrong("invalid character class range", start);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Goes behind the next `end`, or to the end of all.
    fn through(&mut self, end: char) -> bool {
        let found = self.rest().find(end);
        self.at = found.map_or(self.text.len(), |i| self.at + i + end.len_utf8());
        found.is_some()
    }

    fn outside_class(&mut self) -> Checked {
        match self.rest()[1..].chars().next() {
            Some('A' | 'z' | 'b' | 'B') => self.at += 2,
            Some('Q') => self.at = self.rest().find("\\E").map_or(self.text.len(), |i| self.at + i + 2),
            _ if self.named_class()? => {}
            _ => _ = self.escape()?,
        }
        Ok(())
    }

    /// Takes an escaped character.
    fn escape(&mut self) -> Checked<char> {
        let start = self.at;
        self.at += 1;
        let Some(c) = self.take() else { return Err(told("trailing backslash at end of expression", "")) };
        let octal = |s: &Self| s.peek().is_some_and(|c| c.is_digit(8));
        let value = match c {
            // A single digit would refer back to a group.
            '1'..='7' if !octal(self) => None,
            '0'..='7' => {
                let mut value = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(d) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + d;
                    self.at += 1;
                }
                char::from_u32(value)
            }
            'x' => self.hex(),
            'a' => Some('\u{7}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        };
        match value {
            Some(c) => Ok(c),
            None => self.wrong("invalid escape sequence", start),
        }
    }

    /// What follows `\x`: two digits, or any number of them in braces.
    fn hex(&mut self) -> Option<char> {
        let braces = self.accept('{');
        let mut value = 0u32;
        for n in 0.. {
            if !braces && n == 2 || braces && n > 0 && self.accept('}') {
                break;
            }
            let d = self.take()?.to_digit(16)?;
            value = value * 16 + d;
            if value > 0x10_FFFF {
                return None;
            }
        }
        char::from_u32(value)
    }
}

const POSIX: [&str; 14] =
    ["alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit"];

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn mistakes_are_told_as_re2_tells_them() {
        for (pattern, want) in [
            ("(", "missing closing ): `(`"),
            ("(?:a", "missing closing ): `(?:a`"),
            ("a)", "unexpected ): `a)`"),
            ("a[b", "missing closing ]: `[b`"),
            ("[]", "missing closing ]: `[]`"),
            ("[a-", "missing closing ]: `[a-`"),
            ("x[z-a]", "invalid character class range: `z-a`"),
            ("[a--b]", "invalid character class range: `a--`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            (r"[a-\d]", r"invalid escape sequence: `\d`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("(+?)", "missing argument to repetition operator: `+?`"),
            ("a|{1}", "missing argument to repetition operator: `{1}`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("ba*?*", "invalid nested repetition operator: `*?*`"),
            ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            ("x{1001}", "invalid repeat count: `{1001}`"),
            ("x{2,1}", "invalid repeat count: `{2,1}`"),
            ("(?", "invalid or unsupported Perl syntax: `(?`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?-)", "invalid or unsupported Perl syntax: `(?-)`"),
            ("(?P<a", "invalid named capture: `(?P<a`"),
            ("(?<=a)", "invalid named capture: `(?<=a)`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            (r"\C", r"invalid escape sequence: `\C`"),
            (r"\1", r"invalid escape sequence: `\1`"),
            (r"\u0041", r"invalid escape sequence: `\u`"),
            (r"\x{41", r"invalid escape sequence: `\x{41`"),
            (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
            (r"\p{N", r"invalid character class range: `\p{N`"),
            (r"[\b]", r"invalid escape sequence: `\b`"),
        ] {
            assert_eq!(check(pattern), Err(want.to_owned()), "{pattern}");
        }
    }

    #[test]
    fn what_re2_takes_passes() {
        for pattern in [
            "",
            "()",
            "(|a)",
            "a||b",
            "^*",
            "a??",
            "x{2}?",
            "x{,5}",
            "x{",
            "a{a}",
            "a(?i)b",
            "(?i-s:a)",
            "(?P<a>x)",
            "(?P<1>x)",
            "(?<a>x)",
            "[]a]",
            "[^]a]",
            "[a-]",
            "[-a]",
            "[[a]]",
            "[a&&b]",
            r"[\d-z]",
            "[[:^alpha:]]",
            r"\pN\PL\p{Greek}",
            r"\x4a\x{1F600}",
            r"\07\-\_\/",
            r"\Qa(*\E+",
            r"\Qopen",
            r"\A\bx\B\z",
            "é",
            "[é-ü]",
            "a{1000}",
            r"\d{1,3}",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }
}
