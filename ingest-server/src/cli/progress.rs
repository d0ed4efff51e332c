//! A line that tells how far long work is, where a terminal looks; nothing elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// Work under way.
pub(crate) struct Progress {
    what: &'static str,
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    /// Of something, like "verifying".
    pub(crate) fn new(what: &'static str) -> Self {
        Progress { what, shown: None, on: std::io::stderr().is_terminal() }
    }

    /// So much of so much is done; of work without a known end `all` is 0.
    pub(crate) fn at(&mut self, done: u64, all: u64) {
        if self.on && (self.shown.is_none_or(|t| t.elapsed() >= EVERY) || done == all) {
            self.shown = Some(Instant::now());
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", line(self.what, done, all));
        }
    }
}

impl Progress {
    /// Makes room for a line of the work's own.
    pub(crate) fn hide(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.hide();
    }
}

fn line(what: &str, done: u64, all: u64) -> String {
    if all == 0 {
        return format!("{what}: {done}");
    }
    let full = (done.min(all) * WIDTH as u64 / all) as usize;
    format!("{what} [{}{}] {done}/{all}", "#".repeat(full), " ".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(line("replaying", 12, 0), "replaying: 12");
        assert_eq!(line("x", 1, 2), format!("x [{}{}] 1/2", "#".repeat(15), " ".repeat(15)));
        assert_eq!(line("x", 9, 2), format!("x [{}] 9/2", "#".repeat(30)));
    }
}
