//! Series descriptions: `name{labels} 1 2+3x4 _ stale {{histogram}}`.

use std::sync::Arc;

use strandline_query::promql::{histograms, parse_duration_ms, parse_selector};
use strandline_storage::model::{BucketSpan, CounterReset, FloatHistogram, Labels, stale_nan};

/// A described value.
#[derive(Clone, Debug)]
pub enum Item {
    Blank,
    Float(f64),
    /// The histogram, and whether its reset hint was written.
    Histogram(Arc<FloatHistogram>, bool),
}

/// A described series.
#[derive(Clone, Debug)]
pub struct Described {
    pub labels: Labels,
    pub items: Vec<Item>,
}

type Res<T> = Result<T, String>;

/// Splits `metric rest` where the metric ends: behind its braces, or at the first blank.
pub fn split_metric(line: &str) -> (&str, &str) {
    let b = line.as_bytes();
    let (mut i, mut quote, mut depth) = (0, 0u8, 0);
    while i < b.len() {
        match b[i] {
            b'\\' if quote != 0 && quote != b'`' => i += 1,
            c if quote != 0 && c == quote => {
                quote = 0;
            }
            c @ (b'"' | b'\'' | b'`') => quote = c,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    i += 1;
                    break;
                }
            }
            b' ' | b'\t' | b'@' if depth == 0 => {
                // Blanks may stand before the braces.
                let rest = line[i..].trim_start();
                if rest.starts_with('{') && !rest.starts_with("{{") && b[i] != b'@' {
                    i = line.len() - rest.len();
                    continue;
                }
                break;
            }
            _ => {}
        }
        i += 1;
    }
    (&line[..i], &line[i..])
}

pub fn labels(metric: &str) -> Res<Labels> {
    let text = metric.trim();
    if text.is_empty() || text.trim_start_matches('{').trim_end_matches('}').trim().is_empty() {
        return Ok(Labels::empty());
    }
    // A description has the syntax of a selector, but may be all empty values.
    let (name, braces) = match text.find('{') {
        Some(i) => (text[..i].trim(), &text[i..]),
        None => (text, ""),
    };
    let with_guard = if braces.is_empty() {
        format!("{{promqltest_guard=\"x\",__name__={name:?}}}")
    } else {
        let inner = braces.trim_start_matches('{').trim_end_matches('}').trim();
        let inner = if inner.is_empty() { String::new() } else { format!(",{inner}") };
        let name = if name.is_empty() { String::new() } else { format!(",__name__={name:?}") };
        format!("{{promqltest_guard=\"x\"{name}{inner}}}")
    };
    let sel = parse_selector(&with_guard).map_err(|e| format!("series {metric:?}: {e}"))?;
    let mut pairs: Vec<(String, String)> =
        sel.matchers.into_iter().filter(|m| m.name != "promqltest_guard").map(|m| (m.name, m.value)).collect();
    if !sel.name.is_empty() {
        pairs.push(("__name__".into(), sel.name));
    }
    Ok(Labels::from_pairs(pairs))
}

/// A whole description.
pub fn describe(line: &str) -> Res<Described> {
    let (metric, rest) = split_metric(line);
    Ok(Described { labels: labels(metric)?, items: items(rest)? })
}

/// Offsets of start timestamps, `None` for unknown.
pub fn start_offsets(text: &str) -> Res<Vec<Option<i64>>> {
    let mut out = Vec::new();
    for tok in text.split_whitespace() {
        let mut s = Scan(tok);
        if s.eat("_") {
            let n = s.times()?.unwrap_or(1);
            out.extend(std::iter::repeat_n(None, n as usize));
            continue;
        }
        let mut v = s.signed_duration()?;
        let inc = if s.0.starts_with(['+', '-']) { s.signed_duration()? } else { 0 };
        let n = s.times()?.unwrap_or(0);
        s.end(tok)?;
        for _ in 0..=n {
            out.push(Some(v));
            v += inc;
        }
    }
    Ok(out)
}

/// The values behind the metric.
pub fn items(text: &str) -> Res<Vec<Item>> {
    let mut out = Vec::new();
    let mut s = Scan(text.trim());
    while !s.0.is_empty() {
        let at = s.0;
        if s.0.starts_with("{{") {
            let (base, hint) = s.histogram()?;
            let sign = s.0.chars().next().filter(|c| (*c == '+' || *c == '-') && s.0[1..].starts_with("{{"));
            let inc = match sign {
                Some(_) => {
                    s.0 = &s.0[1..];
                    Some(s.histogram()?.0)
                }
                None => None,
            };
            let n = s.times()?.unwrap_or(0);
            let mut cur = base;
            for i in 0..=n {
                if i > 0
                    && let Some(inc) = &inc
                {
                    let ok = if sign == Some('-') { histograms::subtract(&mut cur, inc) } else { histograms::add(&mut cur, inc) };
                    if !ok {
                        return Err(format!("histograms can't be combined in {at:?}"));
                    }
                }
                out.push(Item::Histogram(Arc::new(cur.clone()), hint));
            }
        } else if s.eat("_") {
            let n = s.times()?.unwrap_or(1);
            out.extend(std::iter::repeat_n(Item::Blank, n as usize));
        } else if s.eat("stale") {
            let n = s.times()?.unwrap_or(0);
            out.extend(std::iter::repeat_n(Item::Float(stale_nan()), n as usize + 1));
        } else {
            let mut v = s.number()?;
            let inc = if s.0.starts_with(['+', '-']) { s.number()? } else { 0.0 };
            let n = s.times()?.unwrap_or(0);
            for _ in 0..=n {
                out.push(Item::Float(v));
                v += inc;
            }
        }
        if !s.0.is_empty() && !s.0.starts_with(char::is_whitespace) {
            return Err(format!("unexpected {:?} in series values", s.0));
        }
        s.0 = s.0.trim_start();
    }
    Ok(out)
}

/// A number as scripts write it; nothing may follow.
pub fn number(text: &str) -> Option<f64> {
    let mut s = Scan(text);
    let v = s.number().ok()?;
    s.0.is_empty().then_some(v)
}

struct Scan<'a>(&'a str);

impl Scan<'_> {
    fn eat(&mut self, p: &str) -> bool {
        let ok = self.0.starts_with(p);
        if ok {
            self.0 = &self.0[p.len()..];
        }
        ok
    }

    fn end(&self, tok: &str) -> Res<()> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("unexpected {:?} in {tok:?}", self.0)) }
    }

    fn take(&mut self, f: impl Fn(char) -> bool) -> &str {
        let n = self.0.find(|c| !f(c)).unwrap_or(self.0.len());
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        a
    }

    /// `xN`.
    fn times(&mut self) -> Res<Option<u64>> {
        if !self.eat("x") {
            return Ok(None);
        }
        self.take(|c| c.is_ascii_digit()).parse().map(Some).map_err(|_| "bad repetition".to_owned())
    }

    fn sign(&mut self) -> f64 {
        if self.eat("-") {
            -1.0
        } else {
            self.eat("+");
            1.0
        }
    }

    fn number(&mut self) -> Res<f64> {
        let at = self.0;
        let sign = self.sign();
        for (word, v) in [("Inf", f64::INFINITY), ("NaN", f64::NAN)] {
            if self.0.len() >= 3 && self.0.is_char_boundary(3) && self.0[..3].eq_ignore_ascii_case(word) {
                self.0 = &self.0[3..];
                return Ok(sign * v);
            }
        }
        let body = self.0;
        self.take(|c| c.is_ascii_digit());
        if self.eat(".") {
            self.take(|c| c.is_ascii_digit());
        }
        let after = self.0.as_bytes();
        let exp_sign = usize::from(matches!(after.get(1), Some(b'+' | b'-')));
        if matches!(after.first(), Some(b'e' | b'E')) && after.get(1 + exp_sign).is_some_and(u8::is_ascii_digit) {
            self.0 = &self.0[1 + exp_sign..];
            self.take(|c| c.is_ascii_digit());
        }
        let text = &body[..body.len() - self.0.len()];
        text.parse::<f64>().map(|v| sign * v).map_err(|_| format!("bad number at {at:?}"))
    }

    fn signed_duration(&mut self) -> Res<i64> {
        let sign = self.sign() as i64;
        let mut rest = self.0;
        // Units end before an `x` that repeats.
        while !rest.is_empty() && !rest.starts_with(['+', '-', 'x']) {
            rest = &rest[1..];
        }
        let text = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Ok(sign * duration(text)?)
    }

    fn histogram(&mut self) -> Res<(FloatHistogram, bool)> {
        let end = self.0.find("}}").ok_or("unterminated histogram")?;
        let body = &self.0[2..end];
        let h = histogram(body)?;
        self.0 = &self.0[end + 2..];
        Ok(h)
    }
}

/// A duration, or a number of seconds.
pub fn duration(s: &str) -> Res<i64> {
    if let Some(rest) = s.strip_prefix('-') {
        return duration(rest).map(|v| -v);
    }
    match s.parse::<f64>() {
        Ok(v) => Ok((v * 1000.0).round() as i64),
        Err(_) => parse_duration_ms(s),
    }
}

fn histogram(body: &str) -> Res<(FloatHistogram, bool)> {
    let mut h = FloatHistogram::default();
    let mut hint = false;
    let (mut offset, mut n_offset) = (0i32, 0i32);
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').ok_or_else(|| format!("bad histogram {body:?}"))?;
        let after = after.trim_start();
        let (value, tail) = if let Some(list) = after.strip_prefix('[') {
            let end = list.find(']').ok_or("unterminated list")?;
            (&list[..end], &list[end + 1..])
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            after.split_at(end)
        };
        rest = tail.trim_start();
        let num = || number(value).ok_or_else(|| format!("bad number {value:?} in histogram"));
        let list = || value.split_whitespace().map(|v| number(v).ok_or_else(|| format!("bad number {v:?}"))).collect::<Res<Vec<f64>>>();
        match key.trim() {
            "schema" => h.schema = num()? as i32,
            "sum" => h.sum = num()?,
            "count" => h.count = num()?,
            "z_bucket" => h.zero_count = num()?,
            "z_bucket_w" => h.zero_threshold = num()?,
            "offset" => offset = num()? as i32,
            "n_offset" => n_offset = num()? as i32,
            "buckets" => h.positive_buckets = list()?,
            "n_buckets" => h.negative_buckets = list()?,
            "custom_values" => h.custom_values = list()?.into(),
            "counter_reset_hint" => {
                hint = true;
                h.counter_reset = match value {
                    "unknown" => CounterReset::Unknown,
                    "reset" => CounterReset::Reset,
                    "not_reset" => CounterReset::NotReset,
                    "gauge" => CounterReset::Gauge,
                    other => return Err(format!("unknown reset hint {other:?}")),
                };
            }
            other => return Err(format!("unknown histogram field {other:?}")),
        }
    }
    let spans = |n: usize, offset| if n == 0 { Vec::new() } else { vec![BucketSpan { offset, length: n as u32 }] };
    h.positive_spans = spans(h.positive_buckets.len(), offset);
    h.negative_spans = spans(h.negative_buckets.len(), n_offset);
    Ok((h, hint))
}
