//! JSON as Prometheus writes it, straight into bytes.

use std::io::{self, Write};

use strandline_query::promql::{MatrixSeries, SampleRef, SampleValue, Value, histograms, write_sample_value};
use strandline_storage::model::{FloatHistogram, Labels};

use super::answer::Out;

/// A string with its quotes.
pub fn string(out: &mut Vec<u8>, s: &str) {
    out.push(b'"');
    if is_plain(s.as_bytes()) {
        out.extend_from_slice(s.as_bytes())
    } else {
        escaped(out, s)
    }
    out.push(b'"');
}

/// Whether nothing in it needs escaping, looked at eight bytes at a time.
fn is_plain(s: &[u8]) -> bool {
    const LOW: u64 = u64::MAX / 0xff;
    const HIGH: u64 = LOW << 7;
    const QUOTE: u64 = LOW * b'"' as u64;
    const BACKSLASH: u64 = LOW * b'\\' as u64;
    // The top bit of bytes below `than`; whether there is any at all is certain.
    let below = |w: u64, than: u64| w.wrapping_sub(LOW * than) & !w & HIGH;
    let special = |w: u64| below(w, 0x20) | below(w ^ QUOTE, 1) | below(w ^ BACKSLASH, 1);
    let (words, rest) = s.as_chunks::<8>();
    words.iter().all(|w| special(u64::from_le_bytes(*w)) == 0) && rest.iter().all(|b| *b >= 0x20 && *b != b'"' && *b != b'\\')
}

fn escaped(out: &mut Vec<u8>, s: &str) {
    let mut from = 0;
    for (i, b) in s.bytes().enumerate() {
        if b >= 0x20 && b != b'"' && b != b'\\' {
            continue;
        }
        out.extend_from_slice(&s.as_bytes()[from..i]);
        from = i + 1;
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b => {
                let _ = write!(out, "\\u{b:04x}");
            }
        }
    }
    out.extend_from_slice(&s.as_bytes()[from..]);
}

/// A list of strings.
pub fn strings(out: &mut Out, list: &[String]) -> io::Result<()> {
    out.buf.push(b'[');
    for (i, s) in list.iter().enumerate() {
        if i > 0 {
            out.buf.push(b',');
        }
        string(&mut out.buf, s);
        out.spill()?;
    }
    out.buf.push(b']');
    Ok(())
}

/// `{"name":"value",...}`
pub fn labels(out: &mut Vec<u8>, l: &Labels) {
    out.push(b'{');
    for (i, (n, v)) in l.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(out, n);
        out.push(b':');
        string(out, v);
    }
    out.push(b'}');
}

fn integer(out: &mut Vec<u8>, n: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Milliseconds as seconds.
pub fn time(out: &mut Vec<u8>, ms: i64) {
    if ms < 0 && ms > -1000 {
        out.push(b'-');
    }
    integer(out, ms / 1000);
    let part = (ms % 1000).unsigned_abs() as u16;
    if part > 0 {
        let digit = |n: u16| b'0' + (n % 10) as u8;
        out.extend_from_slice(&[b'.', digit(part / 100), digit(part / 10), digit(part)]);
    }
}

/// A number in quotes.
pub fn number(out: &mut Vec<u8>, v: f64) {
    out.push(b'"');
    write_sample_value(out, v);
    out.push(b'"');
}

fn float(out: &mut Vec<u8>, t: i64, v: f64) {
    out.push(b'[');
    time(out, t);
    out.push(b',');
    number(out, v);
    out.push(b']');
}

fn histogram(out: &mut Vec<u8>, t: i64, h: &FloatHistogram) {
    out.push(b'[');
    time(out, t);
    out.extend_from_slice(b",{\"count\":");
    number(out, h.count);
    out.extend_from_slice(b",\"sum\":");
    number(out, h.sum);
    let buckets = histograms::buckets(h);
    if !buckets.is_empty() {
        out.extend_from_slice(b",\"buckets\":[");
        for (i, b) in buckets.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.push(b'[');
            out.push(b'0' + b.rule);
            for v in [b.lower, b.upper, b.count] {
                out.push(b',');
                number(out, v);
            }
            out.push(b']');
        }
        out.push(b']');
    }
    out.extend_from_slice(b"}]");
}

/// What stands before a value, as text: the series of an answer mostly share their times.
#[derive(Default)]
struct Times {
    /// `,[TIME,"` each.
    text: Vec<u8>,
    /// Time and where its text ends, rising.
    known: Vec<(i64, usize)>,
    next: usize,
}

impl Times {
    /// Starts with the first time again.
    fn rewind(&mut self) {
        self.next = 0;
    }

    /// The text for `ms`; times rise from one call to the next.
    fn before(&mut self, ms: i64) -> &[u8] {
        while self.known.get(self.next).is_some_and(|k| k.0 < ms) {
            self.next += 1;
        }
        let from = self.next.checked_sub(1).map_or(0, |i| self.known[i].1);
        let to = match self.known.get(self.next) {
            Some((t, to)) if *t == ms => *to,
            known => {
                // A time between those known is written behind them, and not kept.
                let (from, keep) = (self.known.last().map_or(0, |k| k.1), known.is_none());
                self.text.truncate(from);
                self.text.extend_from_slice(b",[");
                time(&mut self.text, ms);
                self.text.extend_from_slice(b",\"");
                if keep {
                    self.known.push((ms, self.text.len()));
                }
                return &self.text[from..];
            }
        };
        &self.text[from..to]
    }
}

fn series(out: &mut Out, s: &MatrixSeries, times: &mut Times) -> io::Result<()> {
    out.buf.extend_from_slice(b"{\"metric\":");
    labels(&mut out.buf, &s.labels);
    let mut any_histogram = false;
    let mut first = true;
    times.rewind();
    for (t, v) in s.samples() {
        let SampleRef::Float(v) = v else {
            any_histogram = true;
            continue;
        };
        let before = times.before(t);
        if first {
            out.buf.extend_from_slice(b",\"values\":[");
            out.buf.extend_from_slice(&before[1..]);
        } else {
            out.buf.extend_from_slice(before);
        }
        first = false;
        write_sample_value(&mut out.buf, v);
        out.buf.extend_from_slice(b"\"]");
        out.spill()?;
    }
    if !first {
        out.buf.push(b']');
    }
    if any_histogram {
        let mut first = true;
        for (t, v) in s.samples() {
            let SampleRef::Histogram(h) = v else { continue };
            out.buf.extend_from_slice(if first { b",\"histograms\":[" } else { b"," });
            first = false;
            histogram(&mut out.buf, t, h);
            out.spill()?;
        }
        out.buf.push(b']');
    }
    out.buf.push(b'}');
    Ok(())
}

/// `"resultType":...,"result":...`, the first `limit` series of it.
pub fn result(out: &mut Out, v: &Value, limit: usize) -> io::Result<()> {
    let kind = match v {
        Value::Scalar { .. } => "scalar",
        Value::String { .. } => "string",
        Value::Vector(_) => "vector",
        _ => "matrix",
    };
    write!(out.buf, "\"resultType\":\"{kind}\",\"result\":")?;
    match v {
        Value::Scalar { t, v } => float(&mut out.buf, *t, *v),
        Value::String { t, s } => {
            out.buf.push(b'[');
            time(&mut out.buf, *t);
            out.buf.push(b',');
            string(&mut out.buf, s);
            out.buf.push(b']');
        }
        Value::Vector(list) => {
            out.buf.push(b'[');
            for (i, s) in list.iter().take(limit).enumerate() {
                out.buf.extend_from_slice(if i > 0 { b",{\"metric\":" } else { b"{\"metric\":" });
                labels(&mut out.buf, &s.labels);
                match &s.value {
                    SampleValue::Float(v) => {
                        out.buf.extend_from_slice(b",\"value\":");
                        float(&mut out.buf, s.t, *v);
                    }
                    SampleValue::Histogram(h) => {
                        out.buf.extend_from_slice(b",\"histogram\":");
                        histogram(&mut out.buf, s.t, h);
                    }
                }
                out.buf.push(b'}');
                out.spill()?;
            }
            out.buf.push(b']');
        }
        Value::Matrix(list) => {
            out.buf.push(b'[');
            let mut times = Times::default();
            for (i, s) in list.iter().take(limit).enumerate() {
                if i > 0 {
                    out.buf.push(b',');
                }
                series(out, s, &mut times)?;
            }
            out.buf.push(b']');
        }
        _ => out.buf.extend_from_slice(b"null"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_wherever_it_is_needed() {
        for special in ["\"", "\\", "\n", "\u{1}", "\u{1f}", " ", "\u{7f}", "é", "\u{10ffff}"] {
            for before in 0..20 {
                let text = format!("{}{special}tail", "x".repeat(before));
                let mut out = Vec::new();
                string(&mut out, &text);
                assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
                let plain = !matches!(special, "\"" | "\\" | "\n" | "\u{1}" | "\u{1f}");
                assert_eq!(out.len() == text.len() + 2, plain, "{special:?} at {before}");
            }
        }
    }

    #[test]
    fn times_are_written_alike_whether_known_or_not() {
        let mut times = Times::default();
        for round in [vec![1_000, 2_000, 3_500], vec![1_000, 1_500, 3_500, 4_000], vec![500, 4_000, 5_000]] {
            times.rewind();
            for ms in round {
                let mut want = b",[".to_vec();
                time(&mut want, ms);
                want.extend_from_slice(b",\"");
                assert_eq!(times.before(ms), want);
            }
        }
    }
}
