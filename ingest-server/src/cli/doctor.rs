//! `strandline health` and `strandline doctor`.

use std::path::Path;
use std::time::Duration;

use strandline_wal::fs::{Fs, RealFs};

use super::{ServeArgs, configure, say};
use crate::config::format_size;

/// A GET, from outside any runtime.
pub fn get(base: &str, path: &str, params: &[(&str, String)]) -> Result<(u16, String), String> {
    let mut url = format!("{}{path}", base.trim_end_matches('/'));
    if !params.is_empty() {
        url = format!("{url}?{}", crate::params::query_string(params));
    }
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    rt.block_on(async {
        let client = crate::http_client::builder(base).timeout(Duration::from_secs(30)).build().map_err(|e| e.to_string())?;
        let r = client.get(&url).send().await.map_err(|e| format!("{base} can't be reached: {e}"))?;
        let status = r.status().as_u16();
        Ok((status, r.text().await.map_err(|e| e.to_string())?))
    })
}

/// Exit 0 if ready.
pub fn health(url: &str) -> Result<(), String> {
    match get(url, "/-/ready", &[])? {
        (200, _) => Ok(()),
        (code, text) => Err(format!("not ready ({code}): {}", text.trim())),
    }
}

/// A report in plain words; looks, and changes nothing.
pub fn run(a: &ServeArgs) -> Result<(), String> {
    let c = configure(a)?;
    let mut trouble = 0;
    let mut line = |fine: bool, text: String| {
        trouble += usize::from(!fine);
        say(&format!("{} {text}", if fine { "ok  " } else { "BAD " }));
    };
    let fs = RealFs::default();
    let dir: &Path = &c.data_dir;
    let there = fs.exists(dir);
    line(true, format!("data folder {} {}", dir.display(), if there { "is there" } else { "does not exist yet; serve makes it" }));
    if let Some(free) = fs.free_bytes(if there { dir } else { Path::new(".") }) {
        line(
            free > c.min_free_bytes,
            format!("{} free on its disk (storage.min_free is {})", format_size(free), format_size(c.min_free_bytes)),
        );
    }
    if let Some(m) = file_system(dir) {
        let network = ["nfs", "cifs", "fuse", "9p", "virtiofs"].iter().any(|n| m.starts_with(n));
        line(
            !network,
            format!(
                "its file system is {m}{}",
                if network { ": fsync may not mean what it says there; use a local disk or a named volume" } else { "" }
            ),
        );
    }
    match fs.lock(&dir.join("LOCK")) {
        Ok(_) => line(true, "no server uses the folder".into()),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => line(true, "a server uses the folder".into()),
        Err(_) => {}
    }
    let limit = if c.memory_limit_bytes > 0 { c.memory_limit_bytes } else { crate::memory::default_limit_bytes() };
    line(true, format!("memory limit {}", format_size(limit)));
    let checked =
        crate::tenants::open_bucket(&c, &super::local::fs()).and_then(|b| b.list_folders("metrics/").map(|f| (b.name(), f.len())));
    match checked {
        Ok((name, n)) => line(true, format!("bucket {name} answers; {n} tenants with metrics in it")),
        Err(e) => line(false, format!("bucket: {e}")),
    }
    let base = format!("http://{}", c.listen);
    match get(&base, "/-/ready", &[]) {
        Ok((200, text)) => {
            line(!text.contains("takes no writes"), format!("the server at {base} answers: {}", text.trim()));
            if let Ok((200, page)) = get(&base, "/metrics", &[]) {
                running(&page, &mut line);
            }
        }
        Ok((code, text)) => line(false, format!("the server at {base} is not ready ({code}): {}", text.trim())),
        Err(_) => line(true, format!("no server answers at {base}")),
    }
    if trouble == 0 { Ok(()) } else { Err(format!("{trouble} things need attention")) }
}

/// What the running server's own metrics tell.
fn running(page: &str, line: &mut dyn FnMut(bool, String)) {
    let value = |name: &str| {
        let find = |l: &&str| l.starts_with(name) && l[name.len()..].starts_with([' ', '{']);
        page.lines().filter(find).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    line(true, format!("{} series and {} live spans in memory", value("strandline_head_series"), value("strandline_live_spans")));
    line(true, format!("{} of anonymous memory in use", format_size(value("strandline_memory_anon_bytes") as u64)));
    if value("strandline_answers_incomplete") > 0.0 {
        line(
            false,
            "answers could miss data: `strandline blocks verify` tells what can't be read, `strandline blocks give-up` accepts a loss"
                .into(),
        );
    }
    if value("strandline_clock_in_doubt") > 0.0 {
        line(
            false,
            "the machine's clock leapt within the last day: set it right, or wait for the day to be over; nothing expires before".into(),
        );
    }
    for l in page.lines().filter_map(|l| l.strip_prefix("strandline_second_writer_points_total{job=")) {
        let job = l.rsplit_once('}').map_or(l, |(job, _)| job);
        let fix = "give each a service.instance.id of its own, like OTEL_RESOURCE_ATTRIBUTES=service.instance.id=$(uuidgen)";
        line(false, format!("several processes write the same series of job {job}: {fix}"));
    }
    for l in page.lines().filter(|l| l.starts_with("strandline_refused_total{")) {
        line(true, format!("refused since start: {}", l.trim_start_matches("strandline_refused_total")));
    }
    line(value("strandline_metric_wal_failures_total") == 0.0, format!("{} failed commits", value("strandline_metric_wal_failures_total")));
}

/// The type of the file system that holds a path, where the system tells.
fn file_system(dir: &Path) -> Option<String> {
    let text = crate::memory::read_proc("/proc/mounts")?;
    let full = dir.canonicalize().or_else(|_| Path::new(".").canonicalize()).ok()?;
    text.lines()
        .filter_map(|l| {
            let mut w = l.split(' ');
            let (_, point, kind) = (w.next()?, w.next()?, w.next()?);
            full.starts_with(point).then(|| (point.len(), kind.to_owned()))
        })
        .max()
        .map(|(_, k)| k)
}
