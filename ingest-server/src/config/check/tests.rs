//! Wrong files, each with what must be said of it.
#![allow(clippy::unwrap_used)]

use super::*;

fn said(text: &str) -> Vec<String> {
    load(Some(text), std::iter::empty()).err().unwrap_or_default().iter().map(|m| m.to_string()).collect()
}

#[test]
fn wrong_files() {
    let table: &[(&str, &[&str])] = &[
        ("data_dir = \"x\"", &["1:1: the file must say which form it has"]),
        ("version = 2", &["1:11: version must be 1"]),
        ("version = \"1\"", &["1:11: version must be 1"]),
        ("version = 1\ndatadir = \"x\"", &["2:1: unknown key datadir; did you mean data_dir?"]),
        ("version = 1\ndata_dir = 3", &["2:12: data_dir: expected path"]),
        ("version = 1\nmemory_limit = \"lots\"", &["2:16: memory_limit: \"lots\" is not a size"]),
        ("version = 1\nmemory_limit = \"3XB\"", &["unknown unit \"XB\""]),
        ("version = 1\nmemory_limit = \"1MiB\"", &["memory_limit below 32MiB"]),
        ("version = 1\nmemory_limit = true", &["2:16: memory_limit: expected size"]),
        ("version = 1\ninsecure = \"yes\"", &["2:12: insecure: expected true or false"]),
        ("version = 1\n[sever]\nlisten = \"127.0.0.1:1\"", &["2:2: unknown key sever; did you mean server?"]),
        ("version = 1\n[server]\nlistn = \"127.0.0.1:1\"", &["3:1: unknown key server.listn; did you mean server.listen?"]),
        ("version = 1\n[server]\nlisten = \"nowhere\"", &["3:10: server.listen: \"nowhere\" is not address:port"]),
        ("version = 1\n[server]\nlisten = 9090", &["3:10: server.listen: expected address:port"]),
        (
            "version = 1\n[server]\nlisten = \"0.0.0.0:9090\"",
            &["server.listen = \"0.0.0.0:9090\" listens beyond this machine without auth"],
        ),
        ("version = 1\n[server]\notlp_grpc = \"[::]:4317\"", &["server.otlp_grpc"]),
        ("version = 1\n[server]\nmax_body = \"\"", &["server.max_body: \"\" is not a size"]),
        ("version = 1\n[server]\ntls_cert = \"c.pem\"", &["server.tls_cert and server.tls_key go together"]),
        ("version = 1\n[server]\nread_timeout = \"0\"", &["server.read_timeout must be more than 0"]),
        (
            "version = 1\n[limits]\nsamples_per_secnd = 5",
            &["3:1: unknown key limits.samples_per_secnd; did you mean limits.samples_per_second?"],
        ),
        ("version = 1\nserver = 3", &["2:1: server is a section: write [server]"]),
        ("version = 1\n[wal]\nsync = \"sometimes\"", &["3:8: wal.sync: \"sometimes\" is not one of always, never"]),
        ("version = 1\n[wal]\nsync = \"interval:x\"", &["expected interval:<milliseconds>"]),
        ("version = 1\n[wal]\nsinc = \"always\"", &["did you mean wal.sync?"]),
        ("version = 1\n[storage]\nio = \"direct\"", &["storage.io: \"direct\" is not one of mmap, pread"]),
        ("version = 1\n[bucket]\nurl = \"http://x\"", &["bucket.url must be s3://"]),
        ("version = 1\n[bucket]\ninstance_metadata = 1", &["expected true or false"]),
        ("version = 1\n[bucket]\nsecret = \"x\"", &["3:1: unknown key bucket.secret"]),
        ("version = 1\n[metrics]\nretention = \"90\"", &["metrics.retention: \"90\" is not a duration"]),
        ("version = 1\n[metrics]\nretention = 90", &["metrics.retention: expected duration"]),
        ("version = 1\n[metrics]\nretension = \"90d\"", &["did you mean metrics.retention?"]),
        ("version = 1\n[metrics]\nchunk_encoding = \"gorilla\"", &["not one of xor, xor2"]),
        ("version = 1\n[metrics]\nstart_timestamps = true", &["needs metrics.chunk_encoding = \"xor2\""]),
        ("version = 1\n[metrics]\nexternal_labels = [\"a\"]", &["expected table of texts"]),
        ("version = 1\n[limits]\nmax_series = -1", &["limits.max_series: expected whole number"]),
        ("version = 1\n[limits]\nmax_series = 1.5", &["limits.max_series: expected whole number"]),
        ("version = 1\n[query]\ntimeout = \"2 minutes\"", &["query.timeout"]),
        ("version = 1\n[otlp]\ntranslation = \"Underscores\"", &["otlp.translation"]),
        ("version = 1\n[otlp]\npromote_resource_attributes = \"a\"", &["expected list of texts"]),
        ("version = 1\n[otlp]\ncors_origins = [\"localhost:3000\"]", &["\"localhost:3000\" is no origin: write http://host"]),
        ("version = 1\n[otlp]\ncors_origins = [\"http://a/\"]", &["\"http://a/\" is no origin"]),
        ("version = 1\n[[tenant]]\nmetrics.retention = \"1d\"", &["2:1: tenant: name is missing"]),
        ("version = 1\n[[tenant]]\nname = \"a/b\"", &["3:8: tenant.name must be 1 to 128"]),
        ("version = 1\n[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"", &["5:8: tenant \"a\" has a table above"]),
        ("version = 1\n[[tenant]]\nname = \"a\"\nmetrics.retention = \"x\"", &["4:21: tenant: metrics.retention: \"x\" is not a duration"]),
        (
            "version = 1\n[[tenant]]\nname = \"a\"\nmetrics.retentoin = \"1d\"",
            &["4:9: metrics.retentoin can't be set for one tenant; did you mean metrics.retention?"],
        ),
        ("version = 1\n[[tenant]]\nname = \"a\"\nlimits.max_series = 5", &["limits.max_series can't be set for one tenant"]),
        ("version = 1\n[tenant]\nname = \"a\"", &["tenant is a list of tables: write [[tenant]]"]),
        ("version = 1\n[tenants]\ndefault = \"../x\"", &["tenants.default must be"]),
        ("version = 1\n[log]\nformat = \"xml\"", &["log.format: \"xml\" is not one of text, json"]),
        ("version = 1\n[scrape]\njob = \"x\"", &["scrape is a list of tables: write [[scrape]]"]),
        ("version = 1\n[[scrape]]\ntargets = [\"a:1\"]", &["scrape: job is missing"]),
        ("version = 1\n[[scrape]]\njob = \"x\"", &["scrape: targets is missing"]),
        ("version = 1\n[[scrape]]\njob = \"x\"\ntargets = \"a\"", &["4:11: scrape.targets: expected a list"]),
        (
            "version = 1\n[[scrape]]\njob = \"x\"\ntargets = [\"a\"]\nintervall = \"5s\"",
            &["5:1: unknown key scrape.intervall; did you mean interval?"],
        ),
        ("version = 1\n[[scrape]]\njob = \"x\"\ntargets = [\"a\"]\ninterval = \"0\"", &["scrape.interval must be more than 0"]),
        ("version = 1\n[[drop]]\nmatcher = \"x\"", &["unknown key drop.matcher; did you mean matchers?"]),
        ("version = 1\n[[drop]]\nmatchers = \"{}\"", &["at least one non-empty matcher"]),
        ("version = 1\n[[drop]]\nmatchers = \"up[5m]\"", &["is not a selector"]),
        ("version = 1\nx = [", &["not TOML"]),
        // Every mistake at once, in order.
        (
            "version = 1\ninsecure = 1\n[server]\nlistn = \"\"\n[wal]\nsync = 1\n",
            &["2:12: insecure", "4:1: unknown key server.listn", "6:8: wal.sync"],
        ),
    ];
    assert!(table.len() >= 40);
    for (text, want) in table {
        let got = said(text);
        for w in *want {
            assert!(got.iter().any(|g| g.contains(w)), "{text:?}\n  should say {w:?}\n  said {got:?}");
        }
        if want.len() > 1 {
            assert_eq!(got.len(), want.len(), "{got:?}");
        }
    }
}

#[test]
fn right_files_environment_and_defaults() {
    let c = load(None, std::iter::empty()).unwrap();
    assert_eq!((c.listen.as_str(), c.max_body_bytes, c.metrics_retention_ms), ("127.0.0.1:9090", 64 << 20, 90 * 86_400_000));
    let text = "version = 1\nmemory_limit = \"96MiB\"\n[server]\nlisten = \"0.0.0.0:80\"\n[wal]\nsync = \"interval:100ms\"\n\
                [metrics]\nexternal_labels = { cluster = \"a\" }\n[[scrape]]\njob = \"n\"\ntargets = [\"h:1\", \"i:2\"]\ninterval = \"5s\"\n\
                labels = { x = \"y\" }\n[[drop]]\nmatchers = '{__name__=~\"go_.*\"}'\n";
    let env = [("STRANDLINE_INSECURE", "true"), ("STRANDLINE_BUCKET_REGION", "eu"), ("AWS_ACCESS_KEY_ID", "k"), ("HOME", "/")];
    let c = load(Some(text), env.iter().map(|(a, b)| (a.to_string(), b.to_string()))).unwrap();
    assert_eq!((c.memory_limit_bytes, c.bucket_region.as_str(), c.bucket_access_key_id.as_str()), (96 << 20, "eu", "k"));
    assert_eq!(c.external_labels, [("cluster".to_owned(), "a".to_owned())]);
    assert_eq!((c.scrape[0].targets.len(), c.scrape[0].interval_ms, c.scrape[0].timeout_ms), (2, 5000, 5000));
    let wrong = load(None, [("STRANDLINE_SERVER_LISTN".to_owned(), "x".to_owned())].into_iter()).unwrap_err();
    assert!(wrong[0].text.contains("did you mean STRANDLINE_SERVER_LISTEN?"), "{wrong:?}");
}

#[test]
fn the_defaults_of_the_table_are_valid() {
    let mut c = Config::default();
    for k in KEYS {
        k.apply_text(&mut c, k.default).unwrap_or_else(|e| panic!("{}: {e}", k.name));
    }
}

#[test]
fn the_reference_is_the_document() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let there = read_file(Path::new(path)).unwrap();
    assert!(
        there == crate::config::reference(),
        "docs/configuration.md is not what `strandline config-reference` prints: run `just config-reference`"
    );
}
