//! The calendar in UTC.

/// Days since 1970-01-01 to (year, month, day). Valid for any i64 of days that came from seconds.
pub(crate) fn civil(days: i64) -> (i64, u32, u32) {
    // Eras of 400 years starting on March 1st keep leap days at the end of a year.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(y: i64, m: u32, d: u32) -> i64 {
    let y = y - i64::from(m <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from((m + 9) % 12);
    let doy = (153 * mp + 2) / 5 + i64::from(d) - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// The part of a time a date function asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatePart {
    DaysInMonth,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hour,
    Minute,
    Month,
    Year,
}

impl DatePart {
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "days_in_month" => DatePart::DaysInMonth,
            "day_of_month" => DatePart::DayOfMonth,
            "day_of_week" => DatePart::DayOfWeek,
            "day_of_year" => DatePart::DayOfYear,
            "hour" => DatePart::Hour,
            "minute" => DatePart::Minute,
            "month" => DatePart::Month,
            "year" => DatePart::Year,
            _ => return None,
        })
    }

    /// Of a Unix time in seconds.
    pub fn of(self, seconds: f64) -> f64 {
        let t = whole(seconds);
        let (days, secs) = (t.div_euclid(86_400) as i64, t.rem_euclid(86_400));
        let (y, m, d) = civil(days);
        match self {
            DatePart::DaysInMonth => {
                let (ny, nm) = if m == 12 { (y + 1, 1) } else { (y, m + 1) };
                (days_from_civil(ny, nm, 1) - days_from_civil(y, m, 1)) as f64
            }
            DatePart::DayOfMonth => f64::from(d),
            DatePart::DayOfWeek => (days + 4).rem_euclid(7) as f64,
            DatePart::DayOfYear => (days - days_from_civil(y, 1, 1) + 1) as f64,
            DatePart::Hour => (secs / 3600) as f64,
            DatePart::Minute => (secs / 60 % 60) as f64,
            DatePart::Month => f64::from(m),
            DatePart::Year => y as f64,
        }
    }
}

/// Whole seconds. What no 64 bits hold is what upstream's processors and calendar make of it: the second after the last.
fn whole(seconds: f64) -> i128 {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if (-BEYOND..BEYOND).contains(&seconds) && seconds != -BEYOND { seconds as i128 } else { BEYOND as i128 }
}

/// `2006-01-02T15:04:05Z`.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let (y, m, d) = civil(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(DatePart::DayOfYear.of(1_483_191_420.0), 366.0);
        assert_eq!(DatePart::DaysInMonth.of(1_454_284_800.0), 29.0);
        assert_eq!(DatePart::DayOfWeek.of(0.0), 4.0);
        assert_eq!(rfc3339(1_136_239_445), "2006-01-02T22:04:05Z");
        for d in (-1_000_000..1_000_000).step_by(997) {
            let (y, m, dd) = civil(d);
            assert_eq!(days_from_civil(y, m, dd), d);
        }
    }
}
