//! Numbers and strings as Go writes them, which is what Prometheus' API and label values show.

use std::fmt::Write;

/// Shortest digits that give back a finite `v`, and the decimal exponent of the first one. Of two that are as near, the
/// even one, as Go has it; `Display` takes the larger.
fn digits(v: f64) -> (String, i32) {
    let mut buffer = zmij::Buffer::new();
    let s = buffer.format_finite(v.abs());
    let (mantissa, exp) = s.split_once('e').unwrap_or((s, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{part}");
    let d = all.trim_start_matches('0');
    let exp = exp.parse::<i32>().unwrap_or(0) + whole.len() as i32 - 1 - (all.len() - d.len()) as i32;
    match d.trim_end_matches('0') {
        "" => ("0".into(), 0),
        d => (d.to_owned(), exp),
    }
}

fn special(v: f64) -> Option<&'static str> {
    if v.is_nan() {
        Some("NaN")
    } else if v == f64::INFINITY {
        Some("+Inf")
    } else if v == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// `%f` with the fewest digits that give the value back.
pub fn plain(v: f64) -> String {
    if let Some(s) = special(v) {
        return s.to_owned();
    }
    let (d, exp) = digits(v);
    let sign = if v.is_sign_negative() { "-" } else { "" };
    let before = (exp + 1).max(0) as usize;
    match d.len() {
        _ if exp < 0 => format!("{sign}0.{}{d}", "0".repeat((-exp - 1) as usize)),
        n if n <= before => format!("{sign}{d}{}", "0".repeat(before - n)),
        _ => format!("{sign}{}.{}", &d[..before], &d[before..]),
    }
}

/// `%f`: six digits behind the point.
pub(crate) fn fixed(v: f64) -> String {
    special(v).map_or_else(|| format!("{v:.6}"), str::to_owned)
}

/// `%e` with the fewest digits; the exponent has two digits at least.
pub fn exponent(v: f64) -> String {
    if let Some(s) = special(v) {
        return s.to_owned();
    }
    let (d, exp) = digits(v);
    let mut s = String::with_capacity(d.len() + 6);
    if v.is_sign_negative() {
        s.push('-');
    }
    s.push_str(&d[..1]);
    if d.len() > 1 {
        s.push('.');
        s.push_str(&d[1..]);
    }
    let _ = write!(s, "e{}{:02}", if exp < 0 { '-' } else { '+' }, exp.abs());
    s
}

/// `%g` with the fewest digits.
pub fn general(v: f64) -> String {
    if let Some(s) = special(v) {
        return s.to_owned();
    }
    let exp = digits(v).1;
    if v != 0.0 && !(-4..6).contains(&exp) {
        return exponent(v);
    }
    plain(v)
}

/// The form sample values have in JSON, without the quotes, appended to `out`.
pub fn write_json(out: &mut Vec<u8>, v: f64) {
    let a = v.abs();
    if a < 1e12 && (v != 0.0 || v.is_sign_positive()) {
        // Most values are whole or have few decimals. With fifteen digits no two decimals are the same float, so that
        // none is shorter either.
        let thousandths = (a * 1000.0 + 0.5) as i64;
        if thousandths as f64 / 1000.0 == a {
            return write_thousandths(out, v < 0.0, thousandths as u64);
        }
    }
    if (1e-4..1e15).contains(&a) {
        // In this range there is no exponent.
        let mut buffer = zmij::Buffer::new();
        let s = buffer.format_finite(v);
        out.extend_from_slice(s.strip_suffix(".0").unwrap_or(s).as_bytes());
    } else {
        out.extend_from_slice(json(v).as_bytes());
    }
}

/// All numbers of two digits.
const PAIRS: [[u8; 2]; 100] = {
    let mut all = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        all[i] = [b'0' + i as u8 / 10, b'0' + i as u8 % 10];
        i += 1;
    }
    all
};

/// `n` thousandths, `n` below 10^15.
#[inline]
fn write_thousandths(out: &mut Vec<u8>, negative: bool, n: u64) {
    // From the end: up to three decimals, the point, thirteen digits, the sign.
    let mut text = [b'0'; 24];
    let (mut whole, part) = (n / 1000, (n % 1000) as usize);
    let mut end = 20;
    if part > 0 {
        let digits = PAIRS[part / 10];
        text[20..24].copy_from_slice(&[b'.', digits[0], digits[1], b'0' + (part % 10) as u8]);
        end = if part % 10 > 0 {
            24
        } else if part % 100 > 0 {
            23
        } else {
            22
        };
    }
    let mut at = 20;
    while whole >= 100 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&PAIRS[(whole % 100) as usize]);
        whole /= 100;
    }
    at -= 2;
    text[at..at + 2].copy_from_slice(&PAIRS[whole as usize % 100]);
    at += usize::from(whole < 10);
    if negative {
        at -= 1;
        text[at] = b'-';
    }
    out.extend_from_slice(&text[at..end]);
}

/// The form sample values have in JSON, without the quotes.
pub fn json(v: f64) -> String {
    let a = v.abs();
    if a != 0.0 && !(1e-6..1e21).contains(&a) && a.is_finite() { exponent(v) } else { plain(v) }
}

/// A label value of a float as OpenMetrics writes it: never without a fraction.
pub fn open_metrics(v: f64) -> String {
    if v == f64::INFINITY {
        return "+Inf".into();
    }
    if v == 1.0 || v == 0.0 || v == -1.0 {
        return format!("{v}.0");
    }
    let s = general(v);
    if s.contains(['e', '.']) || special(v).is_some() { s } else { s + ".0" }
}

/// A double-quoted Go string.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => match super::lexer::raw_byte_of(c) {
                Some(b) => {
                    let _ = write!(out, "\\x{b:02x}");
                }
                None => out.push(c),
            },
        }
    }
    out.push('"');
    out
}

/// A duration of milliseconds as Prometheus writes it, e.g. `1h30m`.
pub fn duration(ms: i64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut s = String::new();
    let mut rest = ms.unsigned_abs();
    if ms < 0 {
        s.push('-');
    }
    // Years and weeks only where nothing is left over, so that 90 days don't read as 12w6d.
    for (unit, len, exact) in [
        ("y", 365 * 86_400_000, true),
        ("w", 7 * 86_400_000, true),
        ("d", 86_400_000, false),
        ("h", 3_600_000, false),
        ("m", 60_000, false),
        ("s", 1000, false),
        ("ms", 1, false),
    ] {
        if exact && !rest.is_multiple_of(len) {
            continue;
        }
        let n = rest / len;
        if n > 0 {
            let _ = write!(s, "{n}{unit}");
            rest -= n * len;
        }
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_in_json_do_not_depend_on_the_way(bits in any::<u64>(), whole in -1_000_000_000i64..1_000_000_000, places in 0i32..12) {
            for v in [f64::from_bits(bits), whole as f64 / 10f64.powi(places), whole as f64 * 10f64.powi(places)] {
                let mut b = Vec::new();
                write_json(&mut b, v);
                prop_assert_eq!(String::from_utf8(b).unwrap(), json(v));
            }
        }
    }

    #[test]
    fn of_two_as_near_the_even_one() {
        for (v, s) in [
            (793658093474606.0 + 0.25, "793658093474606.2"),
            (793658093474606.0 + 0.75, "793658093474606.8"),
            (-562949953421312.0 - 0.25, "-562949953421312.2"),
        ] {
            assert_eq!([plain(v), json(v), general(v)], [s.to_owned(), s.to_owned(), exponent(v)]);
        }
        assert_eq!(exponent(793658093474606.0 + 0.25), "7.936580934746062e+14");
    }

    proptest! {
        #[test]
        fn plain_gives_the_value_back(bits in any::<u64>()) {
            let v = f64::from_bits(bits);
            if v.is_finite() {
                prop_assert_eq!(plain(v).parse::<f64>().unwrap().to_bits(), bits);
                prop_assert_eq!(exponent(v).parse::<f64>().unwrap().to_bits(), bits);
                prop_assert!(!plain(v).contains('e'));
            }
        }
    }

    #[test]
    fn values_in_json() {
        for v in [
            0.0,
            -0.0,
            1.0,
            -1.5,
            1e14,
            123456789012345.0,
            1e15,
            -1e15,
            1e20,
            1e21,
            1e-6,
            9.9e-7,
            -17.0,
            f64::NAN,
            f64::INFINITY,
            f64::MIN,
            5e-324,
        ] {
            let mut b = Vec::new();
            write_json(&mut b, v);
            assert_eq!(String::from_utf8(b).unwrap(), json(v));
        }
    }

    #[test]
    fn as_go_writes_floats() {
        assert_eq!(plain(12_340_000.0), "12340000");
        assert_eq!(plain(-0.0), "-0");
        assert_eq!(general(1_234_567.0), "1.234567e+06");
        assert_eq!(general(0.00001), "1e-05");
        assert_eq!(general(1.5), "1.5");
        assert_eq!(general(1e6), "1e+06");
        assert_eq!(general(100_000.0), "100000");
        assert_eq!(json(1e21), "1e+21");
        assert_eq!(json(0.0000001), "1e-07");
        assert_eq!(json(123456789012345680000.0), "123456789012345680000");
        assert_eq!(json(f64::INFINITY), "+Inf");
        assert_eq!(open_metrics(1.0), "1.0");
        assert_eq!(open_metrics(0.5), "0.5");
    }

    #[test]
    fn durations() {
        assert_eq!(duration(5_400_000), "1h30m");
        assert_eq!(duration(604_800_000), "1w");
        assert_eq!(duration(90 * 86_400_000), "90d");
        assert_eq!(duration(1), "1ms");
        assert_eq!(duration(-300_000), "-5m");
    }

    #[test]
    fn quoting() {
        assert_eq!(quote("a\"b\\\n\u{1}"), r#""a\"b\\\n\x01""#);
    }
}
