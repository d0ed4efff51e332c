//! Prometheus' text format and OpenMetrics' text format.

use std::collections::BTreeMap;

use strandline_storage::model::{Exemplar, Labels, METRIC_NAME, MetricKind, MetricMetadata};

/// A sample of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name and labels.
    pub labels: Labels,
    /// Value.
    pub v: f64,
    /// A time of its own.
    pub t_ms: Option<i64>,
    /// An exemplar.
    pub exemplar: Option<Exemplar>,
}

type Parsed = (Vec<Sample>, Vec<(String, MetricMetadata)>);

/// Parses a page; the error names the line.
pub fn parse(page: &str, open_metrics: bool) -> Result<Parsed, String> {
    let mut samples = Vec::new();
    let mut meta: BTreeMap<String, MetricMetadata> = BTreeMap::new();
    for (i, line) in page.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if open_metrics && line == "# EOF" {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        if let Some(comment) = line.strip_prefix('#') {
            comment_line(comment, &mut meta);
            continue;
        }
        samples.push(sample(line, open_metrics).ok_or_else(|| format!("line {}: {line:?} is no sample", i + 1))?);
    }
    Ok((samples, meta.into_iter().collect()))
}

fn comment_line(comment: &str, meta: &mut BTreeMap<String, MetricMetadata>) {
    let mut words = comment.trim_start().splitn(3, [' ', '\t']);
    let (Some(what), Some(name)) = (words.next(), words.next()) else { return };
    let rest = words.next().unwrap_or("").trim();
    let m = match what {
        "HELP" | "TYPE" | "UNIT" => meta.entry(name.trim_matches('"').to_owned()).or_default(),
        _ => return,
    };
    match what {
        "HELP" => m.help = rest.replace("\\n", "\n").replace("\\\\", "\\"),
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

fn sample(line: &str, open_metrics: bool) -> Option<Sample> {
    let line = line.trim_start();
    let name_end = line.find(['{', ' ', '\t'])?;
    let mut pairs: Vec<(String, String)> = Vec::new();
    let name = &line[..name_end];
    if !name.is_empty() {
        pairs.push((METRIC_NAME.to_owned(), name.to_owned()));
    }
    let mut rest = &line[name_end..];
    if rest.starts_with('{') {
        let (inside, used) = label_pairs(rest)?;
        for (n, v) in inside {
            // A quoted name alone inside the braces is the metric's name.
            pairs.push(if n.is_empty() { (METRIC_NAME.to_owned(), v) } else { (n, v) });
        }
        rest = &rest[used..];
    }
    if !pairs.iter().any(|p| p.0 == METRIC_NAME) {
        return None;
    }
    let (body, exemplar) = match rest.find(" # ") {
        Some(i) => (&rest[..i], Some(&rest[i + 3..])),
        None => (rest, None),
    };
    let mut words = body.split_whitespace();
    let v = number(words.next()?)?;
    let t_ms = match words.next() {
        None => None,
        Some(t) if open_metrics => Some((number(t)? * 1000.0).round() as i64),
        Some(t) => Some(t.parse().ok()?),
    };
    if words.next().is_some() {
        return None;
    }
    let exemplar = match exemplar {
        Some(e) => Some(exemplar_of(e)?),
        None => None,
    };
    Some(Sample { labels: Labels::from_pairs(pairs), v, t_ms, exemplar })
}

fn exemplar_of(s: &str) -> Option<Exemplar> {
    let (pairs, used) = label_pairs(s.trim_start())?;
    let mut words = s.trim_start()[used..].split_whitespace();
    let v = number(words.next()?)?;
    let t = match words.next() {
        Some(t) => (number(t)? * 1000.0).round() as i64,
        None => 0,
    };
    Some(Exemplar { labels: Labels::from_pairs(pairs), v, t })
}

/// `{a="b", "quoted.name"="c", "metric.name"}`: pairs and how many bytes they took.
fn label_pairs(s: &str) -> Option<(Vec<(String, String)>, usize)> {
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
            let n = s[at..end].to_owned();
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

fn number(s: &str) -> Option<f64> {
    match s {
        "NaN" | "nan" => Some(f64::NAN),
        "+Inf" | "Inf" | "+inf" | "inf" => Some(f64::INFINITY),
        "-Inf" | "-inf" => Some(f64::NEG_INFINITY),
        s => s.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_formats() {
        let page = "# HELP a_total Help\\nme.\n# TYPE a_total counter\na_total{x=\"1\",y=\"q\\\"\\n\"} 3 1700000000000\n\nb NaN\n{\"c.d\",e=\"f\"} +Inf\n";
        let (s, m) = parse(page, false).unwrap();
        assert_eq!(s.len(), 3);
        assert_eq!(s[0].labels.to_string(), r#"{__name__="a_total", x="1", y="q\"\n"}"#);
        assert_eq!((s[0].v, s[0].t_ms), (3.0, Some(1_700_000_000_000)));
        assert!(s[1].v.is_nan());
        assert_eq!(s[2].labels.metric_name(), "c.d");
        assert_eq!((m[0].1.kind, m[0].1.help.as_str()), (MetricKind::Counter, "Help\nme."));
        let om = "a_bucket{le=\"1\"} 2 1700000000.5 # {trace_id=\"abc\"} 0.5 1700000000.1\n# EOF\nrubbish\n";
        let (s, _) = parse(om, true).unwrap();
        assert_eq!(s[0].t_ms, Some(1_700_000_000_500));
        let e = s[0].exemplar.as_ref().unwrap();
        assert_eq!((e.v, e.t, e.labels.get("trace_id")), (0.5, 1_700_000_000_100, Some("abc")));
        assert!(parse("a{x=1} 2\n", false).unwrap_err().contains("line 1"));
        assert!(parse("a{x=\"1\n", false).is_err());
        assert!(parse("a 1 2 3\n", false).is_err());
    }
}
