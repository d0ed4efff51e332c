//! The strandline server: protocols in, query APIs out.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod auth;
pub mod body;
pub mod cli;
pub mod config;
pub mod connections;
pub mod counters;
pub mod drop_rules;
pub mod http_client;
pub mod limits;
pub mod load;
pub mod memory;
pub mod near;
pub mod otlp;
pub mod params;
pub mod prometheus;
pub mod query_apis;
pub mod refusal;
pub mod remote_write;
pub mod scrape;
pub mod seldom;
pub mod serve;
pub mod shed;
pub mod signpost;
pub mod status;
pub mod tempo;
pub mod tenants;
