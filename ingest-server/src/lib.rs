//! The strandline server: protocols in, query APIs out.
//!
//! The door is [`cli::main`]. Decoders and the configuration are public for benches and fuzz targets.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod admin;
mod app;
mod auth;
mod body;
pub mod cli;
pub mod config;
mod connections;
mod counters;
mod drop_rules;
mod families;
mod gate;
mod health;
mod http_client;
mod landing;
mod limits;
mod load;
mod memory;
pub mod otlp;
mod params;
mod prometheus;
mod query_apis;
mod refusal;
pub mod remote_write;
#[doc(hidden)]
pub mod scrape;
mod serve;
mod status;
mod suggest;
mod tempo;
mod tenants;
mod throttle;
