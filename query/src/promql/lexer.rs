//! Query text to tokens.

use super::ast::Span;
use super::error::ParseError;

/// A token's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Tok {
    Eof,
    /// A word; `:` may be part of it.
    Ident,
    Number,
    Duration,
    String,
    LParen,
    RParen,
    LBrace,
    RBrace,
    LBracket,
    RBracket,
    Comma,
    Colon,
    At,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    /// `=`
    Assign,
    EqEq,
    Ne,
    Re,
    NotRe,
    Gt,
    Lt,
    Ge,
    Le,
    TrimUpper,
    TrimLower,
}

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its kind.
    pub tok: Tok,
    /// Its bytes.
    pub span: Span,
}

/// Cuts the text; comments and white space fall away. What can't be cut ends the tokens, and is told once the parser gets there: the
/// first mistake counts.
pub fn lex(text: &str) -> (Vec<Token>, Option<ParseError>) {
    let mut lx = Lexer { text, bytes: text.as_bytes(), pos: 0, brackets: 0, braces: 0 };
    let mut out = Vec::with_capacity(text.len() / 4 + 4);
    loop {
        let t = match lx.next() {
            Ok(t) => t,
            Err(e) => {
                out.push(Token { tok: Tok::Eof, span: e.span });
                return (out, Some(e));
            }
        };
        out.push(t);
        if t.tok == Tok::Eof {
            return (out, None);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pos: usize,
    brackets: usize,
    braces: usize,
}

fn is_word_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_'
}
fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

impl Lexer<'_> {
    fn peek(&self, n: usize) -> u8 {
        self.bytes.get(self.pos + n).copied().unwrap_or(0)
    }

    fn err<T>(&self, start: usize, msg: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.text, Span::new(start, self.pos.max(start + 1)), msg))
    }

    fn skip_blank(&mut self) {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' | b'\r' => self.pos += 1,
                b'#' => {
                    while self.pos < self.bytes.len() && self.peek(0) != b'\n' {
                        self.pos += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Result<Token, ParseError> {
        self.skip_blank();
        let start = self.pos;
        if start >= self.bytes.len() {
            if self.braces > 0 {
                return self.err(start, "unexpected end of input inside braces");
            }
            return Ok(Token { tok: Tok::Eof, span: Span::new(start, start) });
        }
        let b = self.peek(0);
        if self.braces > 0 && !(is_word_start(b) || b"{},=!\"'`".contains(&b)) {
            return self.unexpected_char(" inside braces");
        }
        match b {
            b'"' | b'\'' => self.string(b),
            b'`' => self.raw_string(),
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b':' if self.brackets > 0 => self.symbol(b),
            _ if is_word_start(b) || b == b':' && self.braces == 0 => {
                let in_brackets = self.brackets > 0;
                while is_word(self.peek(0)) || (self.peek(0) == b':' && !in_brackets && self.braces == 0) {
                    self.pos += 1;
                }
                Ok(Token { tok: Tok::Ident, span: Span::new(start, self.pos) })
            }
            _ => self.symbol(b),
        }
    }

    /// Brackets and operators.
    fn symbol(&mut self, b: u8) -> Result<Token, ParseError> {
        let start = self.pos;
        let (tok, len) = match b {
            b'(' => (Tok::LParen, 1),
            b')' => (Tok::RParen, 1),
            b'{' => {
                if self.braces > 0 {
                    return self.err(start, "unexpected left brace '{'");
                }
                self.braces += 1;
                (Tok::LBrace, 1)
            }
            b'}' => {
                if self.braces == 0 {
                    return self.unexpected_char("");
                }
                self.braces -= 1;
                (Tok::RBrace, 1)
            }
            b'[' => {
                self.brackets += 1;
                (Tok::LBracket, 1)
            }
            b']' => {
                if self.brackets == 0 {
                    return self.err(start, "unexpected right bracket ']'");
                }
                self.brackets -= 1;
                (Tok::RBracket, 1)
            }
            b',' => (Tok::Comma, 1),
            b':' => (Tok::Colon, 1),
            b'@' => (Tok::At, 1),
            b'+' => (Tok::Add, 1),
            b'-' => (Tok::Sub, 1),
            b'*' => (Tok::Mul, 1),
            b'/' => (Tok::Div, 1),
            b'%' => (Tok::Mod, 1),
            b'^' => (Tok::Pow, 1),
            b'=' => match self.peek(1) {
                b'=' if self.braces == 0 => (Tok::EqEq, 2),
                b'~' if self.braces > 0 => (Tok::Re, 2),
                b'~' => return self.unexpected_after("'='"),
                _ => (Tok::Assign, 1),
            },
            b'!' => match self.peek(1) {
                b'=' => (Tok::Ne, 2),
                b'~' if self.braces > 0 => (Tok::NotRe, 2),
                _ if self.braces > 0 => return self.unexpected_after("'!' inside braces"),
                _ => return self.unexpected_after("'!'"),
            },
            b'>' => match self.peek(1) {
                b'=' => (Tok::Ge, 2),
                b'/' => (Tok::TrimLower, 2),
                _ => (Tok::Gt, 1),
            },
            b'<' => match self.peek(1) {
                b'=' => (Tok::Le, 2),
                b'/' => (Tok::TrimUpper, 2),
                _ => (Tok::Lt, 1),
            },
            _ => return self.unexpected_char(""),
        };
        self.pos += len;
        Ok(Token { tok, span: Span::new(start, self.pos) })
    }

    fn unexpected_char(&mut self, place: &str) -> Result<Token, ParseError> {
        let start = self.pos;
        let c = self.text[start..].chars().next().unwrap_or('\u{fffd}');
        self.pos += c.len_utf8();
        self.err(start, format!("unexpected character{place}: {c:?}"))
    }

    fn unexpected_after(&mut self, what: &str) -> Result<Token, ParseError> {
        let c = self.text[self.pos + 1..].chars().next().unwrap_or('\u{fffd}');
        self.err(self.pos, format!("unexpected character after {what}: {c:?}"))
    }

    fn string(&mut self, quote: u8) -> Result<Token, ParseError> {
        let start = self.pos;
        self.pos += 1;
        loop {
            if self.pos >= self.bytes.len() {
                return self.err(start, "unterminated quoted string");
            }
            match self.peek(0) {
                b'\\' if self.pos + 1 >= self.bytes.len() => return self.err(start, "escape sequence not terminated"),
                b'\\' => self.pos += 2,
                b'\n' => return self.err(start, "unterminated quoted string"),
                c if c == quote => {
                    self.pos += 1;
                    return Ok(Token { tok: Tok::String, span: Span::new(start, self.pos) });
                }
                _ => self.pos += 1,
            }
        }
    }

    fn raw_string(&mut self) -> Result<Token, ParseError> {
        let start = self.pos;
        match self.bytes[start + 1..].iter().position(|b| *b == b'`') {
            Some(i) => {
                self.pos = start + i + 2;
                Ok(Token { tok: Tok::String, span: Span::new(start, self.pos) })
            }
            None => {
                self.pos = self.bytes.len();
                self.err(start, "unterminated raw string")
            }
        }
    }

    fn is(&self, set: &[u8]) -> bool {
        self.bytes.get(self.pos).is_some_and(|b| set.contains(b))
    }

    fn accept(&mut self, set: &[u8]) -> bool {
        let there = self.is(set);
        self.pos += usize::from(there);
        there
    }

    /// A number or a duration. What is neither is told up to the byte that showed it.
    fn number(&mut self) -> Result<Token, ParseError> {
        let start = self.pos;
        let tok = if self.scan_number() {
            Tok::Number
        } else if self.scan_units() {
            Tok::Duration
        } else {
            return self.err(start, format!("bad number or duration syntax: {:?}", &self.text[start..self.pos]));
        };
        Ok(Token { tok, span: Span::new(start, self.pos) })
    }

    fn scan_number(&mut self) -> bool {
        if self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X') {
            self.pos += 2;
            while self.is(b"0123456789abcdefABCDEF_") {
                self.pos += 1;
            }
            return !is_word(self.peek(0));
        }
        let (mut dot, mut exponent) = (false, false);
        while self.is(b"0123456789._eE") {
            let again = self.is(b".") && dot || self.is(b"eE") && exponent;
            let fine = if self.accept(b".") {
                dot = true;
                !again && !self.accept(b"_.")
            } else if self.accept(b"eE") {
                exponent = true;
                !again && {
                    self.accept(b"+-");
                    !self.accept(b"._eE") && self.pos < self.bytes.len()
                }
            } else if self.accept(b"_") {
                !self.accept(b"._eE") && self.pos < self.bytes.len()
            } else {
                self.accept(b"0123456789")
            };
            if !fine {
                return false;
            }
        }
        !is_word(self.peek(0))
    }

    /// Units and further numbers with units, after a number.
    fn scan_units(&mut self) -> bool {
        if !self.accept(b"smhdwy") {
            return false;
        }
        // For "ms"; whether units and their order make sense is seen where the duration is worked out.
        self.accept(b"s");
        while self.accept(b"0123456789") {
            while self.accept(b"0123456789") {}
            if !self.accept(b"smhdw") {
                return false;
            }
            self.accept(b"s");
        }
        let more = is_word(self.peek(0));
        self.pos += usize::from(more);
        !more
    }
}

/// Milliseconds of a duration such as `1h30m`; units must fall from large to small.
pub fn parse_duration_ms(s: &str) -> Result<i64, String> {
    const UNITS: [(&str, i64); 7] =
        [("y", 365 * 86_400_000), ("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    if s.is_empty() {
        return Err("empty duration string".into());
    }
    if s == "0" {
        return Ok(0);
    }
    let bad = || format!("not a valid duration string: {s:?}");
    let (mut rest, mut next_unit, mut total) = (s, 0usize, 0i64);
    while !rest.is_empty() {
        let n = rest.bytes().take_while(u8::is_ascii_digit).count();
        if n == 0 {
            return Err(bad());
        }
        let value: i64 = rest[..n].parse().map_err(|_| "duration out of range".to_owned())?;
        rest = &rest[n..];
        let len = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let name = &rest[..len];
        if name.is_empty() {
            return Err(bad());
        }
        let unit = UNITS.iter().position(|(u, _)| *u == name).ok_or_else(|| format!("unknown unit {name:?} in duration {s:?}"))?;
        if unit < next_unit {
            return Err(bad());
        }
        next_unit = unit + 1;
        rest = &rest[len..];
        total = value.checked_mul(UNITS[unit].1).and_then(|v| total.checked_add(v)).ok_or("duration out of range")?;
    }
    // Prometheus counts nanoseconds in an i64; what does not fit there is refused here too.
    if total > i64::MAX / 1_000_000 {
        return Err("duration out of range".into());
    }
    Ok(total)
}

/// The value of a number token.
pub fn parse_number(s: &str) -> Option<f64> {
    let clean: String = s.chars().filter(|c| *c != '_').collect();
    if let Some(hex) = clean.strip_prefix("0x").or_else(|| clean.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16).ok().map(|v| v as f64);
    }
    // Go reads a leading zero as octal where all digits allow it.
    if clean.len() > 1
        && clean.starts_with('0')
        && clean.bytes().all(|b| b.is_ascii_digit())
        && let Ok(v) = i64::from_str_radix(&clean, 8)
    {
        return Some(v as f64);
    }
    match clean.to_ascii_lowercase().as_str() {
        "inf" => Some(f64::INFINITY),
        "nan" => Some(f64::NAN),
        // A finite number beyond what a float holds is none.
        _ => clean.parse().ok().filter(|v: &f64| v.is_finite()),
    }
}

/// Resolves the escapes of a quoted string token.
pub fn unquote(s: &str) -> Result<String, String> {
    let quote = s.as_bytes()[0];
    let body = &s[1..s.len() - 1];
    if quote == b'`' || !body.contains('\\') {
        return Ok(body.to_owned());
    }
    let mut out: Vec<u8> = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            escape(&mut chars, quote, &mut out)?;
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(match String::from_utf8(out) {
        Ok(s) => s,
        Err(e) => e.as_bytes().utf8_chunks().fold(String::new(), |mut s, chunk| {
            s.push_str(chunk.valid());
            s.extend(chunk.invalid().iter().map(|b| raw_byte(*b)));
            s
        }),
    })
}

/// What follows a backslash.
fn escape(chars: &mut std::str::Chars<'_>, quote: u8, out: &mut Vec<u8>) -> Result<(), String> {
    let e = chars.next().unwrap_or(char::from(quote));
    let plain = match e {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' => Some(b'\\'),
        _ => (e == char::from(quote)).then_some(quote),
    };
    if let Some(byte) = plain {
        out.push(byte);
        return Ok(());
    }
    let (digits, base) = match e {
        '0'..='7' => (3, 8),
        'x' => (2, 16),
        'u' => (4, 16),
        'U' => (8, 16),
        _ => return Err(format!("unknown escape sequence {}", code_point(e))),
    };
    let mut value = if base == 8 { e.to_digit(8).unwrap_or(0) } else { 0 };
    for _ in usize::from(base == 8)..digits {
        // The closing quote is the first that is no digit where there are too few.
        let c = chars.next().unwrap_or(char::from(quote));
        let d = c.to_digit(base).ok_or_else(|| format!("illegal character {} in escape sequence", code_point(c)))?;
        value = value.wrapping_mul(base) + d;
    }
    if digits > 3 {
        let c = char::from_u32(value).ok_or("escape sequence is an invalid Unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        return Ok(());
    }
    out.push(u8::try_from(value).map_err(|_| "escape sequence is an invalid Unicode code point")?);
    Ok(())
}

/// `U+0071 'q'`.
fn code_point(c: char) -> String {
    if c.is_control() { format!("U+{:04X}", c as u32) } else { format!("U+{:04X} '{c}'", c as u32) }
}

/// A literal may hold bytes that are no UTF-8 (`"\xff"`). They stand as private characters, so that the text
/// survives printing; names that contain one are refused.
fn raw_byte(b: u8) -> char {
    char::from_u32(0x10_FF00 + u32::from(b)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A text to be shown, with U+FFFD for what is no UTF-8.
pub fn without_raw_bytes(s: &str) -> String {
    s.chars().map(|c| if raw_byte_of(c).is_some() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The byte that `c` stands for, if it is such a stand-in.
pub fn raw_byte_of(c: char) -> Option<u8> {
    (0x10_FF80..=0x10_FFFF).contains(&(c as u32)).then_some((c as u32 & 0xff) as u8)
}
