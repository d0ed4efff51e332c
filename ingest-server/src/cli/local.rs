//! Opening a data folder or a bucket from the command line, without a server.

use std::path::Path;
use std::sync::Arc;

use strandline_storage::Engine;
use strandline_storage::clock::SystemClock;
use strandline_storage::metrics::{MetricOptions, MetricStore};
use strandline_wal::fs::{Fs, RealFs};

use super::{ServeArgs, configure};
use crate::config::Config;
use crate::tenants::Tenants;

/// The real file system.
pub fn fs() -> Arc<dyn Fs> {
    Arc::new(RealFs::default())
}

/// Configuration with a folder and bucket given by flags.
pub fn config(data_dir: Option<&Path>, bucket: Option<&str>) -> Result<Config, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    configure(&ServeArgs { data_dir: data_dir.map(|d| d.display().to_string()), bucket: bucket.map(str::to_owned), ..ServeArgs::default() })
}

/// The default tenant's data as it is now; a running server is not disturbed.
pub fn open_read_only(c: Config) -> Result<Engine, String> {
    let tenant = c.default_tenant.clone();
    Tenants::open_read_only(c, &tenant).map_err(|e| e.to_string())
}

/// A tenant's engine for a command that changes things, without threads of its own; the folder must not be in use.
pub fn open_engine(c: Config, tenant: Option<&str>) -> Result<Engine, String> {
    let tenant = tenant.unwrap_or(&c.default_tenant).to_owned();
    Tenants::open_alone(c, &tenant).map_err(|e| e.to_string())
}

/// The store of the default tenant, for a command that changes things; the folder must not be in use.
pub fn open_store(c: &Config) -> Result<(MetricStore, Box<dyn Send + Sync>), String> {
    let fs = fs();
    fs.create_dir_all(&c.data_dir).map_err(|e| format!("{}: {e}", c.data_dir.display()))?;
    let lock = fs.lock(&c.data_dir.join("LOCK")).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => format!("{} is in use by a running strandline: stop it first", c.data_dir.display()),
        _ => format!("{}: {e}", c.data_dir.display()),
    })?;
    strandline_storage::engine::check_version(&fs, &c.data_dir).map_err(|e| e.to_string())?;
    let mut o = MetricOptions::new(fs.clone(), Arc::new(SystemClock), &c.data_dir);
    o.tenant = c.default_tenant.clone();
    o.bucket = Some(crate::tenants::open_bucket(c, &fs).map_err(|e| e.to_string())?);
    o.rules.xor2 = c.chunk_encoding == "xor2";
    o.external_labels = c.external_labels.clone();
    let store = MetricStore::open(o).map_err(|e| e.to_string())?;
    Ok((store, lock))
}
