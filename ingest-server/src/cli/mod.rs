//! The command line.

mod blocks;
mod doctor;
mod local;
pub(crate) mod progress;
mod query;
mod transfer;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::config::{Config, Mistake};

/// One engine for metrics and traces: OTLP and remote write in, PromQL and TraceQL out.
#[derive(Parser)]
#[command(name = "strandline", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Flags of `serve`, accepted without the word too.
#[derive(Args, Clone, Default)]
pub struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, env = "STRANDLINE_CONFIG")]
    config: Option<PathBuf>,
    /// Where everything is kept [default: ./strandline-data].
    #[arg(long)]
    data_dir: Option<String>,
    /// Address of the HTTP API [default: 127.0.0.1:9090].
    #[arg(long)]
    listen: Option<String>,
    /// Address of OTLP over gRPC [default: 127.0.0.1:4317].
    #[arg(long)]
    otlp_grpc: Option<String>,
    /// Address of OTLP over HTTP [default: 127.0.0.1:4318].
    #[arg(long)]
    otlp_http: Option<String>,
    /// s3://bucket/prefix or file:///folder [default: a folder below the data].
    #[arg(long)]
    bucket: Option<String>,
    /// Bound of memory, like 96MiB [default: half of the machine's].
    #[arg(long)]
    memory_limit: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default).
    Serve(ServeArgs),
    /// Name every mistake of a configuration file.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Print the reference of all configuration keys.
    ConfigReference,
    /// Ask a server or a data folder.
    Query(query::QueryArgs),
    /// Look after blocks.
    #[command(subcommand)]
    Blocks(blocks::BlocksCommand),
    /// Take over the blocks of a Prometheus data folder, or of a Thanos or Mimir bucket folder.
    Import(transfer::ImportArgs),
    /// Write all metrics as a Prometheus data folder.
    Export(transfer::ExportArgs),
    /// Copy a stopped server's data folder: what a bucket elsewhere does not hold yet, or everything.
    Backup(transfer::BackupArgs),
    /// Put a backup back into an empty data folder.
    Restore(transfer::RestoreArgs),
    /// Exit 0 if the server is ready: for HEALTHCHECK.
    Health {
        /// The server.
        #[arg(long, default_value = "http://127.0.0.1:9090")]
        url: String,
    },
    /// Say in plain words how things stand.
    Doctor(ServeArgs),
    Load(crate::load::LoadArgs),
    /// Hash a secret for the auth file; reads it from standard input.
    HashSecret,
}

/// Entry of the binary.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve(&cli.serve),
        Some(Command::Serve(a)) => serve(&a),
        Some(Command::CheckConfig { file }) => check_config(&file),
        Some(Command::ConfigReference) => {
            say(&crate::config::reference());
            Ok(())
        }
        Some(Command::Query(a)) => query::run(a),
        Some(Command::Blocks(a)) => blocks::run(a),
        Some(Command::Import(a)) => transfer::import(a),
        Some(Command::Export(a)) => transfer::export(a),
        Some(Command::Backup(a)) => transfer::backup(a),
        Some(Command::Restore(a)) => transfer::restore(a),
        Some(Command::Health { url }) => doctor::health(&url),
        Some(Command::Doctor(a)) => doctor::run(&a),
        Some(Command::Load(a)) => crate::load::run(a),
        Some(Command::HashSecret) => hash_secret(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&e);
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output; a closed pipe is no error.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
}

fn complain(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "strandline: {text}");
}

fn mistakes(source: &str, all: &[Mistake]) -> String {
    let lines: Vec<String> = all.iter().map(|m| format!("{source}:{m}")).collect();
    lines.join("\n            ")
}

/// The configuration: file, environment, flags.
pub(crate) fn configure(a: &ServeArgs) -> Result<Config, String> {
    let text = a.config.as_deref().map(crate::config::read_file).transpose()?;
    let source = a.config.as_ref().map_or("environment".to_owned(), |p| p.display().to_string());
    let mut env: Vec<(String, String)> = std::env::vars().collect();
    let flags = [
        ("data_dir", &a.data_dir),
        ("server.listen", &a.listen),
        ("server.otlp_grpc", &a.otlp_grpc),
        ("server.otlp_http", &a.otlp_http),
        ("bucket.url", &a.bucket),
        ("memory_limit", &a.memory_limit),
    ];
    for (name, value) in flags {
        if let (Some(v), Some(k)) = (value, crate::config::KEYS.iter().find(|k| k.name == name)) {
            env.retain(|(n, _)| *n != k.env());
            env.push((k.env(), v.clone()));
        }
    }
    crate::config::load(text.as_deref(), env.into_iter()).map_err(|m| mistakes(&source, &m))
}

fn serve(a: &ServeArgs) -> Result<(), String> {
    let config = configure(a)?;
    start_log(&config)?;
    crate::serve::run(config)
}

fn start_log(c: &Config) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&c.log_level).map_err(|e| format!("log.level = {:?}: {e}", c.log_level))?;
    let b = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Told on stderr too, and by a call that panics when that lies on a full disk: whoever logs would end with it.
    let b = b.log_internal_errors(false);
    if c.log_format == "json" {
        b.json().init();
    } else {
        b.with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}

fn check_config(file: &std::path::Path) -> Result<(), String> {
    let text = crate::config::read_file(file)?;
    match crate::config::load(Some(&text), std::iter::empty()) {
        Ok(_) => {
            say(&format!("{}: fine", file.display()));
            Ok(())
        }
        Err(m) => Err(format!("{} mistakes\n            {}", m.len(), mistakes(&file.display().to_string(), &m))),
    }
}

fn hash_secret() -> Result<(), String> {
    use std::hash::{BuildHasher, Hasher};
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| e.to_string())?;
    let salt = std::collections::hash_map::RandomState::new().build_hasher().finish().to_le_bytes();
    say(&crate::auth::hash_secret(line.trim_end_matches(['\n', '\r']), &salt));
    Ok(())
}

/// SIGHUP: the `[[drop]]` rules of the file count from now on.
pub(crate) fn reload_drops(app: &Arc<App>) {
    let cli = Cli::parse();
    let args = match cli.command {
        Some(Command::Serve(a)) => a,
        _ => cli.serve,
    };
    match configure(&args) {
        Ok(c) => {
            app.set_drop_rules(&c.drop);
            tracing::info!(rules = c.drop.len(), "drop rules were read again");
        }
        Err(e) => tracing::error!("the configuration was not read again: {e}"),
    }
}
