//! Prometheus' text format and OpenMetrics' text format.

use std::collections::BTreeMap;

use strandline_storage::metrics::head::Value;
use strandline_storage::model::{Exemplar, Labels, METRIC_NAME, MetricKind, MetricMetadata};

use super::page::{Page, Sample, number_in_label};

/// Characters of a line that an error shows.
const MAX_SHOWN: usize = 200;

/// Parses a page; the error names the line.
pub fn parse(page: &str, open_metrics: bool) -> Result<Page, String> {
    let mut samples = Vec::new();
    let mut meta: BTreeMap<String, MetricMetadata> = BTreeMap::new();
    let (mut rest, mut number) = (page, 1);
    while !rest.is_empty() {
        let (whole, behind) = next_line(rest, open_metrics);
        let at = number;
        number += 1 + whole.matches('\n').count();
        rest = behind;
        let line = whole.trim_end_matches('\r');
        if open_metrics && line == "# EOF" {
            let all = rest.is_empty().then(|| Page { samples, meta: meta.into_iter().collect() });
            return all.ok_or_else(|| format!("line {number}: the page goes on behind its # EOF"));
        }
        if line.trim().is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            comment_line(comment, open_metrics, &mut meta);
            continue;
        }
        let what = || format!("line {at}: {:?} is no sample", line.chars().take(MAX_SHOWN).collect::<String>());
        samples.push(sample(line, open_metrics, &meta).ok_or_else(what)?);
    }
    if open_metrics {
        return Err("the page does not end with # EOF: it was cut off, or is no OpenMetrics page".into());
    }
    Ok(Page { samples, meta: meta.into_iter().collect() })
}

/// A line and what comes behind it. In the older format a label's value may hold line ends as they are.
fn next_line(page: &str, open_metrics: bool) -> (&str, &str) {
    let whole = !open_metrics && !page.starts_with('#');
    let (mut from, mut inside, mut escaped) = (0, false, false);
    loop {
        let Some(end) = page[from..].find('\n').map(|i| from + i) else { return (page, "") };
        for b in page[from..end].bytes().filter(|_| whole) {
            inside ^= b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
        }
        if !inside {
            return (&page[..end], &page[end + 1..]);
        }
        (from, escaped) = (end + 1, false);
    }
}

fn comment_line(comment: &str, open_metrics: bool, meta: &mut BTreeMap<String, MetricMetadata>) {
    let Some((what, rest)) = comment.trim_start().split_once([' ', '\t']) else { return };
    if !matches!(what, "HELP" | "TYPE" | "UNIT") {
        return;
    }
    let rest = rest.trim();
    // Names beyond the classic alphabet are quoted, and may have spaces in them.
    let (name, used) = quoted(rest).unwrap_or_else(|| {
        let end = rest.find([' ', '\t']).unwrap_or(rest.len());
        (rest[..end].to_owned(), end)
    });
    let m = meta.entry(name).or_default();
    let rest = rest[used..].trim();
    match what {
        "HELP" => m.help = unescaped(rest, open_metrics),
        "UNIT" => m.unit = rest.to_owned(),
        _ => {
            m.kind = match rest {
                "counter" => MetricKind::Counter,
                "gauge" => MetricKind::Gauge,
                "histogram" => MetricKind::Histogram,
                "gaugehistogram" => MetricKind::GaugeHistogram,
                "summary" => MetricKind::Summary,
                "info" => MetricKind::Info,
                "stateset" => MetricKind::StateSet,
                _ => MetricKind::Unknown,
            }
        }
    }
}

/// The labels that hold numbers, each in the families of its kind: pages write these numbers in several ways (`1`, `1.0`, `1e0`),
/// and one target's pages differ by format, so they are written in one.
fn number_label(pairs: &mut [(String, String)], meta: &BTreeMap<String, MetricMetadata>) {
    let Some(name) = pairs.iter().find(|p| p.0 == METRIC_NAME).map(|p| p.1.as_str()) else { return };
    let of = |family: &str, kind| meta.get(family).is_some_and(|m| m.kind == kind);
    let label = match name.strip_suffix("_bucket") {
        Some(family) if of(family, MetricKind::Histogram) => "le",
        _ if of(name, MetricKind::Summary) => "quantile",
        _ => return,
    };
    for (n, v) in pairs {
        if n == label
            && let Some(x) = number(v)
        {
            *v = number_in_label(x);
        }
    }
}

fn sample(line: &str, open_metrics: bool, meta: &BTreeMap<String, MetricMetadata>) -> Option<Sample> {
    let line = line.trim_start();
    let name_end = line.find(['{', ' ', '\t'])?;
    let mut pairs: Vec<(String, String)> = Vec::new();
    let name = &line[..name_end];
    if !name.is_empty() {
        pairs.push((METRIC_NAME.to_owned(), classic(name, ":")?.to_owned()));
    }
    let mut rest = &line[name_end..];
    if !open_metrics && rest.trim_start().starts_with('{') {
        rest = rest.trim_start();
    }
    if rest.starts_with('{') {
        let (inside, used) = label_pairs(rest)?;
        for (n, v) in inside {
            // A quoted name alone inside the braces is the metric's name.
            pairs.push(if n.is_empty() { (METRIC_NAME.to_owned(), v) } else { (n, v) });
        }
        rest = &rest[used..];
    }
    // No name, or two of one.
    if !pairs.iter().any(|p| p.0 == METRIC_NAME) || pairs.iter().enumerate().any(|(i, p)| pairs[..i].iter().any(|q| p.0 == q.0)) {
        return None;
    }
    number_label(&mut pairs, meta);
    let (body, exemplar) = match rest.find(" # ") {
        Some(i) => (&rest[..i], Some(&rest[i + 3..])),
        None => (rest, None),
    };
    let mut words = body.split_whitespace();
    let v = number(words.next()?)?;
    let t_ms = match words.next() {
        None => None,
        Some(t) if open_metrics => Some(seconds(t)?),
        Some(t) => Some(t.parse().ok()?),
    };
    if words.next().is_some() {
        return None;
    }
    let exemplars = match exemplar {
        Some(e) => vec![exemplar_of(e)?],
        None => Vec::new(),
    };
    let emptied = pairs.iter().filter(|p| p.1.is_empty()).map(|p| p.0.clone()).collect();
    Some(Sample { labels: Labels::from_pairs(pairs), value: Value::Float(v), t_ms, start_ms: 0, exemplars, emptied })
}

fn exemplar_of(s: &str) -> Option<Exemplar> {
    let (pairs, used) = label_pairs(s.trim_start())?;
    let mut words = s.trim_start()[used..].split_whitespace();
    let v = number(words.next()?)?;
    let t = match words.next() {
        Some(t) => seconds(t)?,
        None => 0,
    };
    Some(Exemplar { labels: Labels::from_pairs(pairs), v, t })
}

/// `{a="b", "quoted.name"="c", "metric.name"}`: pairs and how many bytes they took.
fn label_pairs(s: &str) -> Option<(Vec<(String, String)>, usize)> {
    if !s.starts_with('{') {
        return None;
    }
    let mut out = Vec::new();
    let mut at = 1;
    loop {
        at += s[at..].len() - s[at..].trim_start_matches([' ', '\t', ',']).len();
        if s[at..].starts_with('}') {
            return Some((out, at + 1));
        }
        let name = if s[at..].starts_with('"') {
            let (n, used) = quoted(&s[at..])?;
            at += used;
            n
        } else {
            let end = at + s[at..].find(['=', ' ', '}', ','])?;
            let n = classic(&s[at..end], "")?.to_owned();
            at = end;
            n
        };
        at += s[at..].len() - s[at..].trim_start().len();
        if !s[at..].starts_with('=') {
            out.push((String::new(), name));
            continue;
        }
        at += 1;
        at += s[at..].len() - s[at..].trim_start().len();
        let (v, used) = quoted(&s[at..])?;
        at += used;
        out.push((name, v));
    }
}

/// A help text: `\n`, `\\`, and in OpenMetrics `\"`.
fn unescaped(s: &str, open_metrics: bool) -> String {
    let mut out = String::with_capacity(s.len());
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('\\') => out.push('\\'),
            Some('"') if open_metrics => out.push('"'),
            other => {
                out.push('\\');
                out.extend(other);
            }
        }
    }
    out
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
                c @ ('"' | '\\') => out.push(c),
                c => {
                    out.push('\\');
                    out.push(c);
                }
            },
            c => out.push(c),
        }
    }
    None
}

/// A name without quotes has letters, digits and underscores, and a metric's colons (`more`); it does not begin with a digit.
fn classic<'s>(name: &'s str, more: &str) -> Option<&'s str> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || more.contains(c);
    (name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())).then_some(name)
}

/// OpenMetrics' time, in milliseconds.
fn seconds(s: &str) -> Option<i64> {
    number(s).filter(|t| t.is_finite()).map(|t| (t * 1000.0).round() as i64)
}

/// As Go reads it: no sign before NaN, and nothing becomes infinite for its size.
fn number(s: &str) -> Option<f64> {
    let v: f64 = s.parse().ok()?;
    let letters = s.trim_start_matches(['+', '-']);
    let spelled = letters.starts_with(['i', 'I']) || (letters == s && letters.starts_with(['n', 'N']));
    (v.is_finite() || spelled).then_some(v)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    type Parsed = (Vec<Sample>, Vec<(String, MetricMetadata)>);

    fn parse(page: &str, open_metrics: bool) -> Result<Parsed, String> {
        super::parse(page, open_metrics).map(|p| (p.samples, p.meta))
    }

    fn float(s: &Sample) -> f64 {
        match &s.value {
            Value::Float(v) => *v,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_formats() {
        let page = "# TYPE \"c d\" gauge\n# HELP a_total Help\\nme.\n# TYPE a_total counter\na_total{x=\"1\",y=\"q\\\"\\n\"} 3 1700000000000\n\nb NaN\n{\"c.d\",e=\"f\"} +Inf\n";
        let (s, m) = parse(page, false).unwrap();
        assert_eq!(s.len(), 3);
        assert_eq!(s[0].labels.to_string(), r#"{__name__="a_total", x="1", y="q\"\n"}"#);
        assert_eq!((float(&s[0]), s[0].t_ms), (3.0, Some(1_700_000_000_000)));
        assert!(float(&s[1]).is_nan());
        assert_eq!(s[2].labels.metric_name(), "c.d");
        assert_eq!((m[0].1.kind, m[0].1.help.as_str()), (MetricKind::Counter, "Help\nme."));
        assert_eq!((m[1].0.as_str(), m[1].1.kind), ("c d", MetricKind::Gauge));
        let om = "a_bucket{le=\"1\"} 2 1700000000.5 # {trace_id=\"abc\"} 0.5 1700000000.1\n# EOF\n";
        let (s, _) = parse(om, true).unwrap();
        assert_eq!(s[0].t_ms, Some(1_700_000_000_500));
        let e = s[0].exemplars.first().unwrap();
        assert_eq!((e.v, e.t, e.labels.get("trace_id")), (0.5, 1_700_000_000_100, Some("abc")));
        assert!(parse("a{x=1} 2\n", false).unwrap_err().contains("line 1"));
        assert!(parse("a{x=\"1\n", false).is_err());
        assert!(parse("a 1 2 3\n", false).is_err());
    }

    #[test]
    fn numbers_in_labels_are_written_in_one_way() {
        let page = "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"1e6\"} 2\nh_bucket{le=\"0.250\"} 2\nh_bucket{le=\"+Inf\"} 2\n\
                    # TYPE s summary\ns{quantile=\"0\"} 1\n# TYPE g gauge\ng_bucket{le=\"1\"} 1\ng{quantile=\"1\"} 1\nu{le=\"1\"} 1\n";
        let (s, _) = parse(page, false).unwrap();
        let written: Vec<&str> = s.iter().filter_map(|s| s.labels.get("le").or(s.labels.get("quantile"))).collect();
        assert_eq!(written, ["1.0", "1e+06", "0.25", "+Inf", "0.0", "1", "1", "1"]);
    }

    #[test]
    fn what_is_missing_and_what_is_empty() {
        assert!(parse("a 1\n", true).unwrap_err().contains("# EOF"), "an OpenMetrics page that was cut off");
        let (s, m) = parse("# HELP a C:\\\\new \\\"x\\\"\\n\\q\na{instance=\"\",b=\"1\"} 1\n", false).unwrap();
        assert_eq!(s[0].emptied, ["instance"]);
        assert_eq!(s[0].labels.get("instance"), None);
        assert_eq!(m[0].1.help, "C:\\new \\\"x\\\"\n\\q");
        let (_, m) = parse("# HELP a \\\"x\\\"\n# EOF", true).unwrap();
        assert_eq!(m[0].1.help, "\"x\"", "as OpenMetrics has it");
    }

    /// Beside a Prometheus 3.5 (interop `scraped_beside_prometheus`).
    #[test]
    fn pages_taken_and_pages_refused() {
        let (s, _) = parse("a {x=\"1\"} 1\nb\t{ x = \"2\" , y=\"w\" }\t2\ne{a=\"x\ny\\\\\"} 3\nf 4", false).unwrap();
        let labels: Vec<String> = s.iter().map(|s| s.labels.to_string()).collect();
        let broken = "{__name__=\"e\", a=\"x\\ny\\\\\"}";
        assert_eq!(labels, ["{__name__=\"a\", x=\"1\"}", "{__name__=\"b\", x=\"2\", y=\"w\"}", broken, "{__name__=\"f\"}"]);
        assert!(parse("e{a=\"x\ny\"} 3\nf{ 4\n", false).unwrap_err().starts_with("line 3:"));
        for page in
            ["a-b 1", "a.b 1", "9a 1", "a{9x=\"1\"} 1", "a{x-y=\"1\"} 1", "a{x:y=\"1\"} 1", "a{x=\"1\",x=\"1\"} 1", "a{__name__=\"b\"} 1"]
        {
            assert!(parse(page, false).is_err(), "{page}");
        }
        for v in ["1e400", "-1e400", "+NaN", "-nan", "0x1p3", "1_0", "", "."] {
            assert!(parse(&format!("a {v}\n"), false).is_err(), "{v}");
        }
        for v in ["1e-400", "nan", "Infinity", "-inf", ".5", "5.", "+1e3"] {
            assert!(parse(&format!("a {v}\n"), false).is_ok(), "{v}");
        }
        assert!(parse("a 1\n# EOF\nb 2\n", true).unwrap_err().starts_with("line 3:"), "what stands there would be lost");
        assert!(parse("a 1 NaN\n# EOF\n", true).is_err());
    }
}
