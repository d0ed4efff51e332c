# The usual errands; `just` lists them.

default:
    @just --list

# What CI runs.
ci:
    .ci/run

check:
    cargo clippy --workspace --all-targets

test:
    cargo nextest run

# Real SDKs, promtool, DuckDB and an S3 server against the binary.
interop *names:
    cargo build -p strandline-server
    tests/interop/run {{names}}

config-reference:
    cargo run -q -p strandline-server -- config-reference > docs/configuration.md
