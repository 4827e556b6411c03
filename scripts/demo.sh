#!/usr/bin/env bash
# Builds the release binary and runs a whole pair on this machine. `--keep` leaves it running.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo >/dev/null; then
    echo "error: no Rust toolchain found" >&2
    echo "next: install Rust 1.95 or newer from rustup.rs (and a C compiler: apt-get install gcc)" >&2
    exit 1
fi
if ! command -v cc >/dev/null; then
    echo "error: no C compiler found (SQLite is built from source)" >&2
    echo "next: apt-get install gcc" >&2
    exit 1
fi
echo "Building the release binary (a few minutes the first time) ..."
cargo build --release --locked --package ipicsha
exec ./target/release/ipicsha demo "$@"
