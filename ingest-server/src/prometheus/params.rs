//! Parameters of a request, from its query string and its form.

use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

use strandline_query::promql::{parse_duration_ms, parse_matchers};
use strandline_storage::model::{Matcher, TimeRange};

use super::answer::ApiError;
use crate::params;

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

/// The least and the greatest time that Go's Prometheus client can write.
const MIN_TIME: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME: &str = "292277025-08-18T07:12:54.999999999Z";

impl Params {
    /// A form first, then the query string: a form's value wins.
    pub fn new(form: &str, query: &str) -> Self {
        Params(params::pairs(form).chain(params::pairs(query)).collect())
    }

    /// The first value of that name; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The text of a query.
    pub fn query(&self) -> &str {
        self.get("query").unwrap_or("")
    }

    /// A time, Unix milliseconds. Whoever may leave it out is told twice whose value is wrong, as by Prometheus.
    pub fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let wrong = |e| ApiError::parameter(name, format!("invalid time value for '{name}': {e}"));
        self.get(name).map(time).transpose().map_err(wrong)
    }

    /// A time that must be there.
    pub fn needed_time(&self, name: &str) -> Result<i64, ApiError> {
        time(self.get(name).unwrap_or("")).map_err(|e| ApiError::parameter(name, e))
    }

    /// A length of time in milliseconds: seconds, or a duration such as `5m`.
    pub fn duration_ms(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name).map(duration).transpose().map_err(|e| ApiError::parameter(name, e))
    }

    /// `lookback_delta`; what is not positive asks for nothing.
    pub fn lookback_ms(&self) -> Result<Option<i64>, ApiError> {
        let wrong = |e| ApiError::bad_data(format!("error parsing lookback delta duration: {e}"));
        Ok(self.get("lookback_delta").map(duration).transpose().map_err(wrong)?.filter(|ms| *ms > 0))
    }

    /// `timeout`.
    pub fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        Ok(self.duration_ms("timeout")?.map(|ms| Duration::from_millis(ms.max(0) as u64)))
    }

    /// Whether an answer from what can be read is wanted, with warnings of what can't: Thanos' name for it.
    pub fn partial(&self) -> bool {
        self.get("partial_response").is_some_and(|v| v == "true" || v == "1")
    }

    /// A number of things, `usize::MAX` if there is no bound.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let Some(s) = self.get("limit") else { return Ok(usize::MAX) };
        match s.parse::<i64>() {
            Ok(0) => Ok(usize::MAX),
            Ok(n) if n > 0 => Ok(n as usize),
            Ok(_) => Err(ApiError::parameter("limit", "limit must be non-negative")),
            Err(e) => Err(ApiError::parameter("limit", format!("strconv.Atoi: parsing {s:?}: {}", of_integer(&e)))),
        }
    }

    /// `start` and `end` as they are, all of time where they are missing.
    pub fn times(&self) -> Result<(i64, i64), ApiError> {
        Ok((self.time("start")?.unwrap_or(i64::MIN), self.time("end")?.unwrap_or(i64::MAX)))
    }

    /// `start` to `end`; none if the end lies before the start, between which Prometheus finds nothing.
    pub fn range(&self) -> Result<Option<TimeRange>, ApiError> {
        let (start, end) = self.times()?;
        Ok((start <= end).then(|| TimeRange::new(start, end)))
    }

    /// The selectors of `match[]`; each needs a matcher that the empty string fails.
    pub fn selectors(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let mut out = Vec::new();
        for s in self.all("match[]") {
            out.push(parse_matchers(s).map_err(|e| ApiError::parameter("match[]", e))?);
        }
        if out.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
            let text = "match[] must contain at least one non-empty matcher";
            return Err(ApiError::parameter("match[]", text));
        }
        Ok(out)
    }
}

fn time(s: &str) -> Result<i64, String> {
    match s.trim_start_matches('+') {
        MIN_TIME => Ok(i64::MIN),
        MAX_TIME => Ok(i64::MAX),
        _ => params::time_ms(s),
    }
}

fn duration(s: &str) -> Result<i64, String> {
    if let Ok(secs) = s.parse::<f64>() {
        let ms = secs * 1000.0;
        if ms.is_nan() || ms.abs() > i64::MAX as f64 / 1e6 {
            return Err(format!("cannot parse {s:?} to a valid duration. It overflows int64"));
        }
        return Ok(ms as i64);
    }
    parse_duration_ms(s).map_err(|_| format!("cannot parse {s:?} to a valid duration"))
}

/// In the words of Go's `strconv`.
fn of_integer(e: &ParseIntError) -> &'static str {
    match e.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// A label's name in a path: `U__` announces that other characters stand escaped in it.
pub fn unescape_name(name: &str) -> String {
    let Some(mut rest) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut out = String::new();
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(r) = rest.strip_prefix('_') {
            out.push('_');
            rest = r;
            continue;
        }
        let Some(end) = rest.find('_') else { return name.to_owned() };
        match u32::from_str_radix(&rest[..end], 16).ok().and_then(char::from_u32) {
            Some(c) if end <= 6 => out.push(c),
            _ => return name.to_owned(),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths() {
        for (escaped, name) in [
            ("job", "job"),
            ("U__http_2e_status", "http.status"),
            ("U__a__b", "a_b"),
            ("U__a_zz_b", "U__a_zz_b"),
            ("U__open_2e", "U__open_2e"),
            ("U___1f600_", "😀"),
        ] {
            assert_eq!(unescape_name(escaped), name);
        }
    }

    #[test]
    fn values() {
        let p = Params::new("query=up&step=15s", "query=down&limit=0&start=1.5&timeout=0.25&match[]=a&match[]=%7Bb%3D%22c%22,%7D");
        assert_eq!(p.query(), "up");
        assert_eq!(p.limit().unwrap(), usize::MAX);
        assert_eq!(p.duration_ms("step").unwrap(), Some(15_000));
        assert_eq!(p.timeout().unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(p.range().unwrap(), Some(TimeRange::new(1500, i64::MAX)));
        assert_eq!(p.selectors().unwrap().len(), 2);
        assert!(Params::new("match[]={}", "").selectors().is_err());
        assert_eq!(Params::new("", "start=2&end=1").range().unwrap(), None);
        assert!(Params::new("", "limit=-1").limit().is_err());
        assert_eq!(Params::new("", "lookback_delta=1m").lookback_ms().unwrap(), Some(60_000));
        assert_eq!(Params::new("", "lookback_delta=-1").lookback_ms().unwrap(), None);
    }
}
