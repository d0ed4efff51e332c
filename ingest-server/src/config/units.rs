//! Sizes, durations and the log's sync mode as people write them.

use std::time::Duration;

use strandline_wal::SyncMode;

/// `512`, `64KiB`, `1.5GB`, `auto` is not one. Bytes.
pub fn parse_size(s: &str) -> Result<u64, String> {
    let s = s.trim();
    let split = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (n, unit) = s.split_at(split);
    let n: f64 = n.parse().map_err(|_| format!("{s:?} is not a size like 64MiB"))?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1048576.0,
        "mb" => 1e6,
        "g" | "gib" => 1073741824.0,
        "gb" => 1e9,
        "t" | "tib" => 1099511627776.0,
        "tb" => 1e12,
        _ => return Err(format!("{s:?}: unknown unit {unit:?} (KiB, MiB, GiB, TiB, KB, MB, GB, TB)")),
    };
    Ok((n * factor) as u64)
}

/// `15s`, `1h30m`, `2d`, `500ms`, `1w`, `1y`; a bare 0. Milliseconds.
pub fn parse_duration_ms(s: &str) -> Result<i64, String> {
    let bad = || format!("{s:?} is not a duration like 15s, 2h or 90d");
    let mut rest = s.trim();
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let n: f64 = rest[..split].parse().map_err(|_| bad())?;
        rest = &rest[split..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match &rest[..end] {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            "d" => 86_400e3,
            "w" => 604_800e3,
            "y" => 31_536_000e3,
            _ => return Err(bad()),
        };
        total += n * factor;
        rest = &rest[end..];
    }
    Ok(total as i64)
}

/// `always`, `never`, `interval:<ms>`.
pub(crate) fn parse_sync(s: &str) -> Result<SyncMode, String> {
    match s {
        "always" => Ok(SyncMode::Always),
        "never" => Ok(SyncMode::Never),
        _ => {
            let interval = s.strip_prefix("interval:").ok_or_else(|| format!("{s:?} is not one of always, never, interval:<ms>"))?;
            let ms: u32 = interval
                .trim_end_matches("ms")
                .parse()
                .map_err(|_| format!("{s:?}: expected interval:<milliseconds>, like interval:200"))?;
            Ok(SyncMode::Interval(Duration::from_millis(ms.into())))
        }
    }
}

/// `96.0 MiB`.
pub fn format_size(bytes: u64) -> String {
    let mut n = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if n < 1024.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1024.0;
    }
    format!("{n:.1} TiB")
}
