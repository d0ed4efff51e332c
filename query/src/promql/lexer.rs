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

/// Cuts the whole text; comments and white space fall away.
pub fn lex(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut lx = Lexer { text, bytes: text.as_bytes(), pos: 0, brackets: 0, braces: 0 };
    let mut out = Vec::with_capacity(text.len() / 4 + 4);
    loop {
        let t = lx.next()?;
        let end = t.tok == Tok::Eof;
        out.push(t);
        if end {
            return Ok(out);
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
                    return self.err(start, "unexpected right brace '}'");
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
            b':' if self.brackets > 0 => (Tok::Colon, 1),
            b'@' => (Tok::At, 1),
            b'+' => (Tok::Add, 1),
            b'-' => (Tok::Sub, 1),
            b'*' => (Tok::Mul, 1),
            b'/' => (Tok::Div, 1),
            b'%' => (Tok::Mod, 1),
            b'^' => (Tok::Pow, 1),
            b'=' => match self.peek(1) {
                b'=' if self.braces == 0 => (Tok::EqEq, 2),
                b'~' => (Tok::Re, 2),
                _ => (Tok::Assign, 1),
            },
            b'!' => match self.peek(1) {
                b'=' => (Tok::Ne, 2),
                b'~' => (Tok::NotRe, 2),
                _ => {
                    let after = self.text[start + 1..].chars().next();
                    return self.err(
                        start,
                        match after {
                            Some(c) => format!("unexpected character after '!': {c:?}"),
                            None => "unexpected end of input after '!'".to_owned(),
                        },
                    );
                }
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
            b'"' | b'\'' => return self.string(b),
            b'`' => return self.raw_string(),
            b'0'..=b'9' => return self.number(),
            b'.' if self.peek(1).is_ascii_digit() => return self.number(),
            _ if is_word_start(b) || b == b':' && self.braces == 0 => {
                let in_brackets = self.brackets > 0;
                while is_word(self.peek(0)) || (self.peek(0) == b':' && !in_brackets && self.braces == 0) {
                    self.pos += 1;
                }
                return Ok(Token { tok: Tok::Ident, span: Span::new(start, self.pos) });
            }
            _ => {
                let c = self.text[start..].chars().next().unwrap_or('\u{fffd}');
                self.pos += c.len_utf8();
                let place = if self.braces > 0 { " inside braces" } else { "" };
                return self.err(start, format!("unexpected character{place}: {c:?}"));
            }
        };
        self.pos += len;
        Ok(Token { tok, span: Span::new(start, self.pos) })
    }

    fn string(&mut self, quote: u8) -> Result<Token, ParseError> {
        let start = self.pos;
        self.pos += 1;
        loop {
            if self.pos >= self.bytes.len() {
                return self.err(start, "unterminated quoted string");
            }
            match self.peek(0) {
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

    fn digits(&mut self, hex: bool) {
        loop {
            let b = self.peek(0);
            let ok = if hex { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
            // An underscore stands only between digits.
            let under = b == b'_' && (if hex { self.peek(1).is_ascii_hexdigit() } else { self.peek(1).is_ascii_digit() });
            if !ok && !under {
                return;
            }
            self.pos += 1;
        }
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let start = self.pos;
        if self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X') {
            self.pos += 2;
            self.digits(true);
            return self.number_end(start, Tok::Number);
        }
        self.digits(false);
        if matches!(self.peek(0), b's' | b'm' | b'h' | b'd' | b'w' | b'y') {
            while self.peek(0).is_ascii_alphanumeric() {
                self.pos += 1;
            }
            return self.number_end(start, Tok::Duration);
        }
        if self.peek(0) == b'.' {
            self.pos += 1;
            self.digits(false);
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.pos += 1 + sign;
                self.digits(false);
            }
        }
        self.number_end(start, Tok::Number)
    }

    fn number_end(&mut self, start: usize, tok: Tok) -> Result<Token, ParseError> {
        if is_word(self.peek(0)) || self.peek(0) == b'.' && tok == Tok::Number && self.text[start..self.pos].contains('.') {
            while is_word(self.peek(0)) || self.peek(0) == b'.' {
                self.pos += 1;
            }
            let word = &self.text[start..self.pos];
            return self.err(start, format!("bad number or duration syntax: {word:?}"));
        }
        Ok(Token { tok, span: Span::new(start, self.pos) })
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
        let len = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = UNITS.iter().position(|(u, _)| *u == &rest[..len]).ok_or_else(bad)?;
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
        _ => clean.parse().ok(),
    }
}

/// Resolves the escapes of a quoted string token.
pub fn unquote(s: &str) -> Result<String, String> {
    let quote = s.as_bytes()[0];
    let body = &s[1..s.len() - 1];
    if quote == b'`' {
        return Ok(body.to_owned());
    }
    if !body.contains('\\') {
        return Ok(body.to_owned());
    }
    let mut out: Vec<u8> = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    let bad = || format!("error unquoting string {s:?}: invalid syntax");
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let e = chars.next().ok_or_else(bad)?;
        let byte = match e {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '\'' | '"' if e as u8 == quote => quote,
            'x' | 'u' | 'U' => {
                let n = match e {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let rest = chars.as_str();
                let hex = rest.get(..n).ok_or_else(bad)?;
                if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(bad());
                }
                let v = u32::from_str_radix(hex, 16).map_err(|_| bad())?;
                chars = rest[n..].chars();
                if e == 'x' {
                    out.push(v as u8);
                } else {
                    let c = char::from_u32(v).ok_or_else(bad)?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                continue;
            }
            '0'..='7' => {
                let mut v = e as u32 - '0' as u32;
                for _ in 0..2 {
                    let d = chars.next().and_then(|c| c.to_digit(8)).ok_or_else(bad)?;
                    v = v * 8 + d;
                }
                if v > 255 {
                    return Err(bad());
                }
                out.push(v as u8);
                continue;
            }
            _ => return Err(bad()),
        };
        out.push(byte);
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

/// A literal may hold bytes that are no UTF-8 (`"\xff"`). They stand as private characters, so that the text
/// survives printing; names that contain one are refused.
fn raw_byte(b: u8) -> char {
    char::from_u32(0x10_FF00 + u32::from(b)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that `c` stands for, if it is such a stand-in.
pub fn raw_byte_of(c: char) -> Option<u8> {
    (0x10_FF80..=0x10_FFFF).contains(&(c as u32)).then_some((c as u32 & 0xff) as u8)
}
