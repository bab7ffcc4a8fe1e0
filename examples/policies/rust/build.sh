#!/bin/sh
# Builds my_policy.wasm. Needs cargo and the target: `rustup target add wasm32-unknown-unknown`.
set -eu
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}"
# 64 KiB of stack instead of a megabyte in each instance.
RUSTFLAGS="-Clink-arg=-zstack-size=65536" cargo build --quiet --release --target wasm32-unknown-unknown
"${WAYMARK:-waymark}" plugin component "$CARGO_TARGET_DIR/wasm32-unknown-unknown/release/my_policy.wasm" my_policy.wasm
