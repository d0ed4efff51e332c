//! Attributes as labels.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use strandline_storage::codec::protobuf::{Field, Fields, WireError};

use super::names::{Strategy, label_name};

/// Deeper values are cut off: nobody queries by them, and they must not exhaust the stack.
const MAX_DEPTH: usize = 16;

/// Calls `f` with each key and value of a message's attributes (field `number`).
pub fn each<'a>(message: &'a [u8], number: u32, f: &mut dyn FnMut(&'a str, Cow<'a, str>)) -> Result<(), WireError> {
    let mut r = Fields::new(message);
    while let Some((n, field)) = r.next()? {
        if n == number
            && let Some((k, v)) = key_value(field.bytes())?
        {
            f(k, v);
        }
    }
    Ok(())
}

/// One KeyValue; `None` if its key is not text.
pub fn key_value(kv: &[u8]) -> Result<Option<(&str, Cow<'_, str>)>, WireError> {
    let (mut key, mut value) = (Some(""), Cow::Borrowed(""));
    let mut r = Fields::new(kv);
    while let Some((n, field)) = r.next()? {
        match n {
            1 => key = field.text(),
            2 => value = text(field.bytes())?,
            _ => {}
        }
    }
    Ok(key.map(|k| (k, value)))
}

/// A value as a label's text: strings as they are, numbers as JSON has them, bytes in base64, the rest as JSON.
pub fn text(any: &[u8]) -> Result<Cow<'_, str>, WireError> {
    let mut r = Fields::new(any);
    let mut last = None;
    while let Some(f) = r.next()? {
        last = Some(f);
    }
    Ok(match last {
        Some((1, Field::Bytes(b))) => std::str::from_utf8(b).map_or_else(|_| String::from_utf8_lossy(b), Cow::Borrowed),
        Some((2, v)) => Cow::Borrowed(if v.uint() != 0 { "true" } else { "false" }),
        Some((3, v)) => Cow::Owned((v.uint() as i64).to_string()),
        Some((4, v)) => Cow::Owned(double(v.double())),
        Some((7, Field::Bytes(b))) => Cow::Owned(base64(b)),
        None => Cow::Borrowed(""),
        Some(_) => {
            let mut out = String::new();
            json(any, &mut out, 0)?;
            Cow::Owned(out)
        }
    })
}

/// Very large and very small numbers have an exponent.
fn double(v: f64) -> String {
    let size = v.abs();
    if v.is_infinite() {
        return if v > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    if v.is_nan() || size == 0.0 || (1e-6..1e21).contains(&size) {
        return v.to_string();
    }
    let s = format!("{v:e}");
    if s.contains("e-") { s } else { s.replace('e', "e+") }
}

fn json(any: &[u8], out: &mut String, depth: usize) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        out.push_str("null");
        return Ok(());
    }
    let mut r = Fields::new(any);
    let mut last = None;
    while let Some(f) = r.next()? {
        last = Some(f);
    }
    match last {
        Some((1, Field::Bytes(b))) => quoted(&String::from_utf8_lossy(b), out),
        Some((5, Field::Bytes(array))) => {
            out.push('[');
            let mut r = Fields::new(array);
            let mut first = true;
            while let Some((1, v)) = r.next()? {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                json(v.bytes(), out, depth + 1)?;
            }
            out.push(']');
        }
        Some((6, Field::Bytes(list))) => {
            out.push('{');
            for (i, (key, value)) in fields(list)?.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                quoted(key, out);
                out.push(':');
                json(value, out, depth + 1)?;
            }
            out.push('}');
        }
        Some((7, Field::Bytes(b))) => quoted(&base64(b), out),
        Some((4, v)) if !v.double().is_finite() => out.push_str("null"),
        Some((2..=4, _)) => out.push_str(&text(any)?),
        // Of a kind that is not known, or sent as another than it is.
        _ => out.push_str("null"),
    }
    Ok(())
}

/// What a map holds, sorted by keys, so that one that is sent in another order is the same label; the last of a key counts.
fn fields(list: &[u8]) -> Result<BTreeMap<&str, &[u8]>, WireError> {
    let mut out = BTreeMap::new();
    let mut r = Fields::new(list);
    while let Some((1, kv)) = r.next()? {
        let mut parts = Fields::new(kv.bytes());
        let (mut key, mut value): (&str, &[u8]) = ("", &[]);
        while let Some((n, f)) = parts.next()? {
            match n {
                1 => key = f.text().unwrap_or(""),
                2 => value = f.bytes(),
                _ => {}
            }
        }
        out.insert(key, value);
    }
    Ok(out)
}

/// A text as Go's JSON has it, which is safe within HTML.
fn quoted(s: &str, out: &mut String) {
    for c in serde_json::Value::from(s).to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
}

/// Standard base64 with padding.
pub fn base64(b: &[u8]) -> String {
    const ABC: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for c in b.chunks(3) {
        let n = (c[0] as u32) << 16 | (*c.get(1).unwrap_or(&0) as u32) << 8 | *c.get(2).unwrap_or(&0) as u32;
        for k in 0..4 {
            out.push(if k <= c.len() { ABC[(n >> (18 - 6 * k)) as usize & 63] as char } else { '=' });
        }
    }
    out
}

/// Labels under construction: sorted by name, names that collide after escaping joined by `;` in key order.
#[derive(Clone, Debug, Default)]
pub struct LabelSet {
    /// (name, original key, value)
    pairs: Vec<(String, String, String)>,
}

impl LabelSet {
    /// Adds an attribute under its escaped name.
    pub fn attribute(&mut self, key: &str, value: &str, s: Strategy) {
        if !key.is_empty() {
            self.pairs.push((label_name(key, s).into_owned(), key.to_owned(), value.to_owned()));
        }
    }

    /// Sets a label, replacing what attributes gave.
    pub fn set(&mut self, name: &str, value: &str) {
        self.pairs.retain(|p| p.0 != name);
        if !value.is_empty() {
            self.pairs.push((name.to_owned(), String::new(), value.to_owned()));
        }
    }

    /// Sorts and joins.
    pub fn settle(&mut self) {
        self.pairs.sort();
        let mut i = 1;
        while i < self.pairs.len() {
            if self.pairs[i].0 == self.pairs[i - 1].0 {
                let (_, key, v) = self.pairs.remove(i);
                let into = &mut self.pairs[i - 1];
                // One that is sent twice is one.
                if key != into.1 || v != into.2 {
                    into.2.push(';');
                    into.2.push_str(&v);
                    into.1 = key;
                }
            } else {
                i += 1;
            }
        }
        self.pairs.retain(|p| !p.2.is_empty());
    }

    /// Pairs, sorted once settled.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.pairs.iter().map(|(n, _, v)| (n.as_str(), v.as_str()))
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use strandline_storage::codec::protobuf::Writer;

    use super::*;

    /// As the collector writes attributes of other types, which is what Prometheus takes as a label.
    #[test]
    fn values_that_are_no_texts_become_one_in_one_way() {
        let number = |v: f64| {
            let mut w = Writer::default();
            w.fixed64_always(4, v.to_bits());
            text(&w.buf).unwrap().into_owned()
        };
        let got = [1.0, 0.1, -0.0, 1e20, 1e21, 1e-6, 1e-7, f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(number);
        assert_eq!(got, ["1", "0.1", "-0", "100000000000000000000", "1e+21", "0.000001", "1e-7", "+Inf", "-Inf", "NaN"]);
        let map = |keys: &[&str]| {
            let mut w = Writer::default();
            w.message(6, |w| {
                for (i, key) in keys.iter().enumerate() {
                    w.message(1, |w| {
                        w.bytes_always(1, key.as_bytes());
                        w.message(2, |w| match i {
                            0 => w.bytes(1, "<\u{2028}é\n>".as_bytes()),
                            1 => w.fixed64_always(4, f64::NAN.to_bits()),
                            _ => w.bytes(7, &[0, 255]),
                        });
                    });
                }
            });
            text(&w.buf).unwrap().into_owned()
        };
        assert_eq!(map(&["b", "a&", "c"]), r#"{"a\u0026":null,"b":"\u003c\u2028é\n\u003e","c":"AP8="}"#);
        assert_eq!(map(&["x", "y", "x"]), r#"{"x":"AP8=","y":null}"#, "the last of a key");
    }
}
