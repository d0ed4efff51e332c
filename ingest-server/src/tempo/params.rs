//! Query parameters: repeated, encoded, times and durations in the ways callers write them.

use super::TempoError;

/// Parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Parses a raw query string.
    pub fn parse(query: Option<&str>) -> Self {
        Params(crate::params::pairs(query.unwrap_or("")).collect())
    }

    /// The first value of a parameter, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|p| p.0 == name).map(|p| p.1.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether an answer from what can be read is wanted, with what is missing told.
    pub fn partial(&self) -> bool {
        self.get("partial_response").is_some_and(|v| v == "true" || v == "1")
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, TempoError> {
        self.get(name)
            .map(|v| v.parse().map_err(|_| TempoError::bad_request(format!("invalid {name}: {v:?} is no whole number"))))
            .transpose()
    }

    /// Seconds since 1970, which callers must not mistake for milliseconds.
    fn seconds(&self, name: &str) -> Result<u64, TempoError> {
        match self.number(name)?.unwrap_or(0) {
            s if s <= i32::MAX as u64 => Ok(s),
            s => Err(TempoError::bad_request(format!("invalid {name}: {s} is out of range; it is in seconds"))),
        }
    }

    /// `start` and `end` in seconds, as Unix nanoseconds; neither, or an end after the start.
    pub fn range(&self) -> Result<Option<(u64, u64)>, TempoError> {
        match (self.seconds("start")?, self.seconds("end")?) {
            (0, 0) => Ok(None),
            (s, e) if e > s => Ok(Some((s * 1_000_000_000, e * 1_000_000_000))),
            (s, e) => Err(TempoError::bad_request(format!("http parameter start must be before end. received start={s} end={e}"))),
        }
    }

    /// The same where either may stand alone.
    pub fn open_range(&self) -> Result<Option<(u64, u64)>, TempoError> {
        match (self.seconds("start")?, self.seconds("end")?) {
            (s, 0) if s > 0 => Ok(Some((s * 1_000_000_000, u64::MAX))),
            _ => self.range(),
        }
    }

    /// All that are not empty, except those of these names.
    pub fn others<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let own = |p: &&(String, String)| !names.contains(&p.0.as_str()) && !p.1.is_empty();
        self.0.iter().filter(own).map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// A time in seconds, nanoseconds, decimal seconds or RFC 3339, as Unix nanoseconds.
    pub fn time(&self, name: &str) -> Result<Option<u64>, TempoError> {
        let Some(v) = self.get(name) else { return Ok(None) };
        parse_time(v).map(Some).ok_or_else(|| TempoError::bad_request(format!("invalid {name}: {v:?} is no time")))
    }

    /// A duration in decimal seconds or with units, as nanoseconds.
    pub fn duration(&self, name: &str) -> Result<Option<u64>, TempoError> {
        let Some(v) = self.get(name) else { return Ok(None) };
        parse_duration(v).map(Some).ok_or_else(|| TempoError::bad_request(format!("invalid {name}: {v:?} is no duration")))
    }
}

fn parse_time(v: &str) -> Option<u64> {
    if let Ok(n) = v.parse::<u64>() {
        // Seconds have ten digits until the year 2286; nanoseconds have nineteen.
        return if n < 100_000_000_000 { n.checked_mul(1_000_000_000) } else { Some(n) };
    }
    if let Ok(f) = v.parse::<f64>() {
        return (f.is_finite() && (0.0..1.8e10).contains(&f)).then_some((f * 1e9) as u64);
    }
    crate::params::rfc3339(v)?.timestamp_nanos_opt()?.try_into().ok()
}

/// `15`, `0.5`, `15s`, `1h30m`: nanoseconds.
pub fn parse_duration(v: &str) -> Option<u64> {
    if let Ok(f) = v.parse::<f64>() {
        return (0.0..1e10).contains(&f).then_some((f * 1e9) as u64);
    }
    let (mut total, mut rest) = (0f64, v);
    while !rest.is_empty() {
        let n = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let u = rest[n..].len() - rest[n..].trim_start_matches(|c: char| c.is_alphabetic()).len();
        let unit = match &rest[n..n + u] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            "y" => 31_536_000e9,
            _ => return None,
        };
        total += rest[..n].parse::<f64>().ok()? * unit;
        rest = &rest[n + u..];
    }
    (!v.is_empty() && total < 9.2e18).then_some(total as u64)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn times_in_all_ways() {
        let t = 1_700_000_000_000_000_000;
        for v in ["1700000000", "1700000000000000000", "1700000000.0", "2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00"] {
            assert_eq!(parse_time(v), Some(t), "{v}");
        }
        assert_eq!(parse_time("2023-11-14T22:13:20.5Z"), Some(t + 500_000_000));
        for v in ["", "x", "2023-11-14", "-1", "NaN", "2023-13-14T22:13:20Z"] {
            assert_eq!(parse_time(v), None, "{v}");
        }
    }

    #[test]
    fn durations_in_all_ways() {
        assert_eq!(parse_duration("15"), Some(15_000_000_000));
        assert_eq!(parse_duration("0.5"), Some(500_000_000));
        assert_eq!(parse_duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse_duration("5x"), None);
        assert_eq!(parse_duration("-5"), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let p = Params::parse(Some("q=%7B%7D+%7C&empty=&x=1&x=2"));
        assert_eq!((p.get("q"), p.get("empty"), p.get("x")), (Some("{} |"), None, Some("1")));
        assert_eq!(p.others(&["q"]).collect::<Vec<_>>(), [("x", "1"), ("x", "2")]);
    }

    #[test]
    fn ranges_are_of_seconds() {
        let range = |q: &str| Params::parse(Some(q)).range().ok();
        let s = 1_000_000_000;
        assert_eq!(range("start=10&end=20"), Some(Some((10 * s, 20 * s))));
        assert_eq!([range(""), range("start=0&end=0")], [Some(None), Some(None)]);
        assert_eq!(range("end=20"), Some(Some((0, 20 * s))));
        for wrong in ["start=10", "start=20&end=20", "start=1700000000000&end=1700000001000", "start=-1&end=5", "start=a"] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
        assert_eq!(Params::parse(Some("start=10")).open_range().ok(), Some(Some((10 * s, u64::MAX))));
    }
}
