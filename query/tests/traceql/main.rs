//! TraceQL's own tests: what parses and what does not, what queries select, what metrics they make; then, if the variable
//! `TRACEQL_EXAMPLES` names a YAML file with lists under `valid`, `parse_fails`, `validate_fails` and `unsupported`,
//! each query of it. The last line is the count.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod cases;
mod differ;
mod examples;
mod fixture;
mod metric_cases;
mod naive;
mod random;

/// Outcomes so far.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// Counts a check, and prints it if it failed.
    pub fn check(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(e) => {
                self.failed += 1;
                println!("FAILED {name}\n    {e}");
            }
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // What test runners ask before they run a binary.
    if args.iter().any(|a| a == "--list") {
        println!("traceql: test");
        return;
    }
    let mut report = Report::default();
    examples::own(&mut report);
    cases::run(&mut report);
    metric_cases::run(&mut report);
    random::run(&mut report);
    differ::run(&mut report);
    if let Some(path) = std::env::var_os("TRACEQL_EXAMPLES") {
        examples::file(std::path::Path::new(&path), &mut report);
    }
    println!("traceql: {} passed, {} failed", report.passed, report.failed);
    if report.failed > 0 {
        std::process::exit(1);
    }
}
