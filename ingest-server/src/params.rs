//! Request parameters: URL-encoded pairs, times.

/// Pairs of a query string or form, decoded.
pub fn pairs(raw: &str) -> impl Iterator<Item = (String, String)> + '_ {
    raw.split('&').filter(|p| !p.is_empty()).map(|p| {
        let (k, v) = p.split_once('=').unwrap_or((p, ""));
        (decode(k), decode(v))
    })
}

fn decode(s: &str) -> String {
    let b = s.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        match b[i] {
            b'+' => out.push(b' '),
            b'%' => match s.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok()) {
                Some(x) => {
                    out.push(x);
                    i += 2;
                }
                None => out.push(b'%'),
            },
            c => out.push(c),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Text as part of a URL's query.
pub fn encode(s: &str) -> String {
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
    rfc3339_ms(s).ok_or_else(|| format!("cannot parse {s:?} to a valid timestamp"))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn rfc3339_ms(s: &str) -> Option<i64> {
    let (date, rest) = s.split_once(['T', 't', ' '])?;
    let mut d = date.split('-').map(|x| x.parse::<i64>().ok());
    let (y, m, day) = (d.next()??, d.next()??, d.next()??);
    let zone_at = rest.find(['Z', 'z', '+']).or_else(|| rest.rfind('-'))?;
    let (clock, zone) = rest.split_at(zone_at);
    let mut c = clock.split(':');
    let (h, min): (i64, i64) = (c.next()?.parse().ok()?, c.next()?.parse().ok()?);
    let sec: f64 = c.next()?.parse().ok()?;
    let offset = match zone {
        "Z" | "z" => 0,
        z => {
            let (zh, zm) = z[1..].split_once(':')?;
            let (hours, minutes): (u8, u8) = (zh.parse().ok()?, zm.parse().ok()?);
            if hours > 24 || minutes > 59 {
                return None;
            }
            let east = i64::from(hours) * 60 + i64::from(minutes);
            if z.starts_with('-') { -east } else { east }
        }
    };
    if !(1..=12).contains(&m) || !(1..=days_in(y, m)).contains(&day) || !(0..24).contains(&h) || !(0..60).contains(&min) {
        return None;
    }
    if !(0..10_000).contains(&y) || !(0.0..60.0).contains(&sec) {
        return None;
    }
    // Days from the civil calendar, counted from March so that leap days come last.
    let (yy, mm) = if m > 2 { (y, m - 3) } else { (y - 1, m + 9) };
    let era = yy.div_euclid(400);
    let yoe = yy - era * 400;
    let doy = (153 * mm + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    Some(((days * 24 + h) * 60 + min - offset) * 60_000 + (sec * 1000.0).round() as i64)
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
        let p: Vec<_> = pairs("match%5B%5D=%7Ba%3D%22b+c%22%7D&x&y=%zz").collect();
        assert_eq!(p, [("match[]".into(), "{a=\"b c\"}".into()), ("x".into(), "".into()), ("y".into(), "%zz".into())]);
    }
}
