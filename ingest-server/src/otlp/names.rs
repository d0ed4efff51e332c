//! OTLP names as Prometheus has them: escaping, units, suffixes.

use std::borrow::Cow;

/// How names are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// Characters outside `[a-zA-Z0-9_:]` become underscores.
    pub escape: bool,
    /// Units and types become suffixes.
    pub suffixes: bool,
}

impl Strategy {
    /// From the name that Prometheus gives it.
    pub fn named(name: &str) -> Self {
        match name {
            "UnderscoreEscapingWithoutSuffixes" => Strategy { escape: true, suffixes: false },
            "NoUTF8EscapingWithSuffixes" => Strategy { escape: false, suffixes: true },
            "NoTranslation" => Strategy { escape: false, suffixes: false },
            _ => Strategy { escape: true, suffixes: true },
        }
    }
}

/// What kind of metric a name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NameKind {
    Counter,
    Gauge,
    Other,
}

const UNITS: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

const PER_UNITS: &[(&str, &str)] =
    &[("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

/// The word for a unit, itself where the table has none; units in braces are annotations.
fn word<'u>(table: &[(&str, &'static str)], unit: &'u str) -> &'u str {
    let unit = unit.trim();
    if unit.contains(['{', '}']) {
        return "";
    }
    table.iter().find(|(k, _)| *k == unit).map_or(unit, |(_, v)| v)
}

fn plain(unit: &str) -> String {
    unit.split(|c: char| !c.is_ascii_alphanumeric()).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("_")
}

/// A unit and what it is per, as they are said; "" where there is none.
fn said(unit: &str) -> (&str, &str) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    (word(UNITS, main), word(PER_UNITS, per))
}

/// As [`said`], without what a name can't have.
fn unit_words(unit: &str) -> (String, String) {
    let (main, per) = said(unit);
    (plain(main), plain(per))
}

/// The unit as metadata gives it: the words joined.
pub fn unit_name(unit: &str) -> String {
    let (main, per) = unit_words(unit);
    match (main.is_empty(), per.is_empty()) {
        (_, true) => main,
        (true, false) => format!("per_{per}"),
        (false, false) => format!("{main}_per_{per}"),
    }
}

/// The name of a metric family.
pub fn metric_name(name: &str, unit: &str, kind: NameKind, s: Strategy) -> String {
    if !s.escape {
        return if s.suffixes { with_suffixes(name, unit, kind) } else { name.to_owned() };
    }
    let joined = if s.suffixes { escaped_with_suffixes(name, unit, kind) } else { escaped(name) };
    if joined.starts_with(|c: char| c.is_ascii_digit()) { format!("_{joined}") } else { joined }
}

/// What a name can't have becomes one underscore, or none at its ends; its own underscores stay.
fn escaped(name: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == ':' || c == '_';
    let out = name.split(|c| !fine(c)).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("_");
    // Nothing but underscores that nobody gave is no name.
    if out != name && out.bytes().all(|b| b == b'_') { String::new() } else { out }
}

fn escaped_with_suffixes(name: &str, unit: &str, kind: NameKind) -> String {
    let mut tokens: Vec<String> =
        name.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').filter(|t| !t.is_empty()).map(str::to_owned).collect();
    let (main, per) = unit_words(unit);
    if !main.is_empty() && !tokens.contains(&main) {
        tokens.push(main);
    }
    if !per.is_empty() && !tokens.contains(&per) {
        tokens.push("per".into());
        tokens.push(per);
    }
    if kind == NameKind::Counter {
        tokens.retain(|t| t != "total");
        tokens.push("total".into());
    }
    if unit == "1" && kind == NameKind::Gauge {
        tokens.retain(|t| t != "ratio");
        tokens.push("ratio".into());
    }
    tokens.join("_")
}

/// Suffixes that a name has already, behind whatever delimiter, are taken off and put on again.
fn with_suffixes(name: &str, unit: &str, kind: NameKind) -> String {
    let trimmed = |s: &str, suffix: &str| {
        let delimited = s.strip_suffix(suffix).map(|base| {
            let mut chars = base.chars();
            chars.next_back();
            chars.as_str().to_owned()
        });
        delimited.filter(|base| !base.is_empty()).unwrap_or_else(|| s.to_owned())
    };
    let (ratio, total) = (unit == "1" && kind == NameKind::Gauge, kind == NameKind::Counter);
    let (main, per) = said(unit);
    let mut out = name.to_owned();
    if ratio {
        out = trimmed(&out, "ratio");
    }
    if total {
        out = trimmed(&out, "total");
    }
    if !per.is_empty() {
        out = trimmed(&out, &format!("per_{per}"));
    }
    if !main.is_empty() && !out.ends_with(main) {
        out = format!("{out}_{main}");
    }
    if !per.is_empty() {
        out = format!("{out}_per_{per}");
    }
    if total {
        out.push_str("_total");
    }
    if ratio {
        out.push_str("_ratio");
    }
    out
}

/// The name of a label.
pub fn label_name(name: &str, s: Strategy) -> Cow<'_, str> {
    if !s.escape {
        return Cow::Borrowed(name);
    }
    let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let mut out = if fine {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect())
    };
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out = Cow::Owned(format!("key_{out}"));
    } else if out.starts_with('_') && !out.starts_with("__") {
        out = Cow::Owned(format!("key{out}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_name_table() {
        use NameKind::*;
        let full = Strategy::named("UnderscoreEscapingWithSuffixes");
        let bare = Strategy::named("UnderscoreEscapingWithoutSuffixes");
        let utf8 = Strategy::named("NoUTF8EscapingWithSuffixes");
        let none = Strategy::named("NoTranslation");
        for (name, unit, kind, s, want) in [
            ("http.server.request.duration", "s", Other, full, "http_server_request_duration_seconds"),
            ("http.server.requests", "{request}", Counter, full, "http_server_requests_total"),
            ("system.io", "By", Counter, full, "system_io_bytes_total"),
            ("system.io_bytes_total", "By", Counter, full, "system_io_bytes_total"),
            ("cpu.utilization", "1", Gauge, full, "cpu_utilization_ratio"),
            ("cpu.count", "1", Counter, full, "cpu_count_total"),
            ("speed", "m/s", Gauge, full, "speed_meters_per_second"),
            ("length", "m", Gauge, full, "length_meters"),
            ("_a__b..c", "", Gauge, bare, "_a__b_c"),
            ("9é", "", Gauge, bare, "_9"),
            ("é_", "", Gauge, bare, ""),
            ("cpu.ratio", "1", Gauge, utf8, "cpu_ratio"),
            ("ratio", "1", Gauge, utf8, "ratio_ratio"),
            ("orders.total", "{order}", Counter, utf8, "orders_total"),
            ("flow.per_second", "m³/s", Gauge, utf8, "flow_m³_per_second"),
            ("rate", "By/s", Gauge, full, "rate_bytes_per_second"),
            ("2fast", "", Gauge, full, "_2fast"),
            ("a..b--c", "", Gauge, full, "a_b_c"),
            ("disk.free", "%", Gauge, full, "disk_free_percent"),
            ("http.server.request.duration", "s", Other, bare, "http_server_request_duration"),
            ("http.server.requests", "1", Counter, utf8, "http.server.requests_total"),
            ("http.server.request.duration", "s", Other, utf8, "http.server.request.duration_seconds"),
            ("http.server.requests", "1", Counter, none, "http.server.requests"),
        ] {
            assert_eq!(metric_name(name, unit, kind, s), want, "{name} {unit}");
        }
    }

    #[test]
    fn label_name_table() {
        let full = Strategy::named("UnderscoreEscapingWithSuffixes");
        for (name, want) in
            [("http.route", "http_route"), ("1a", "key_1a"), ("_x", "key_x"), ("__x", "__x"), ("ok", "ok"), ("a..b", "a__b")]
        {
            assert_eq!(label_name(name, full), want);
        }
        assert_eq!(label_name("http.route", Strategy::named("NoTranslation")), "http.route");
    }
}
