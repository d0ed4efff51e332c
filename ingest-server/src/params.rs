//! Request parameters: URL-encoded pairs, times.

/// Pairs of a query string or form, decoded.
pub fn pairs(raw: &str) -> impl Iterator<Item = (String, String)> + '_ {
    raw.split('&').filter(|p| !p.is_empty()).map(|p| {
        let (k, v) = p.split_once('=').unwrap_or((p, ""));
        (percent_decode(k, Plus::IsSpace), percent_decode(v, Plus::IsSpace))
    })
}

/// What a plus stands for: in query strings and forms a space, in paths itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plus {
    /// A space.
    IsSpace,
    /// A plus.
    IsPlus,
}

/// Percent-decoding. What is no escape stays as it is; bytes that are no UTF-8 become U+FFFD.
pub fn percent_decode(s: &str, plus: Plus) -> String {
    let b = s.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(b.len()), 0);
    while i < b.len() {
        let escaped = b.get(i + 1).and_then(|h| hex_digit(*h)).zip(b.get(i + 2).and_then(|l| hex_digit(*l)));
        match (b[i], escaped) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                i += 2;
            }
            (b'+', _) if plus == Plus::IsSpace => out.push(b' '),
            (c, _) => out.push(c),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The value of a hexadecimal digit.
pub fn hex_digit(b: u8) -> Option<u8> {
    char::from(b).to_digit(16).map(|d| d as u8)
}

/// Pairs as a query string, without the question mark.
pub fn query_string(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(k, v)| format!("{k}={}", percent_encode(v))).collect::<Vec<_>>().join("&")
}

fn percent_encode(s: &str) -> String {
    s.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(b as char)
        } else {
            out.push_str(&format!("%{b:02X}"))
        }
        out
    })
}

/// Unix seconds (with a fraction) or RFC 3339, in milliseconds.
pub fn time_ms(s: &str) -> Result<i64, String> {
    if let Ok(f) = s.parse::<f64>()
        && f.is_finite()
    {
        return Ok((f * 1000.0).round() as i64);
    }
    rfc3339(s).map(|t| t.timestamp_millis()).ok_or_else(|| format!("cannot parse {s:?} to a valid timestamp"))
}

/// A time in words. Leap seconds are none, as in Go.
pub fn rfc3339(s: &str) -> Option<chrono::DateTime<chrono::FixedOffset>> {
    // They are read as a second that lasts for more than one.
    chrono::DateTime::parse_from_rfc3339(s).ok().filter(|t| t.timestamp_subsec_nanos() < 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time_ms("1700000000.5"), Ok(1_700_000_000_500));
        assert_eq!(time_ms("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert_eq!(time_ms("2023-11-15T00:13:20.250+02:00"), Ok(1_700_000_000_250));
        assert_eq!(time_ms("2024-02-29T00:00:00Z"), Ok(1_709_164_800_000));
        assert_eq!(time_ms("2024-12-31T23:59:59.999Z"), Ok(1_735_689_599_999));
        for wrong in [
            "yesterday",
            "2023-02-29T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:60Z",
            "9000000000000000000-01-01T00:00:00Z",
            "2024-01-01T00:00:00+9000000000000000000:00",
        ] {
            assert_eq!(time_ms(wrong), Err(format!("cannot parse {wrong:?} to a valid timestamp")));
        }
    }

    #[test]
    fn encoded_pairs() {
        let p: Vec<_> = pairs("match%5B%5D=%7Ba%3D%22b+c%22%7D&x&y=%zz%+1").collect();
        assert_eq!(p, [("match[]".into(), "{a=\"b c\"}".into()), ("x".into(), "".into()), ("y".into(), "%zz% 1".into())]);
        assert_eq!(percent_decode("a+b%2Bc", Plus::IsPlus), "a+b+c");
        assert_eq!(query_string(&[("q", "{ .a }".into()), ("start", "1".into())]), "q=%7B%20.a%20%7D&start=1");
    }
}
