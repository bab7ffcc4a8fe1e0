#!/bin/sh
# Builds my_policy.wasm. Needs Go 1.24 or later.
set -eu
cd "$(dirname "$0")"
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags="-s -w" -o core.wasm .
# What Go's runtime imports of WASI is answered inside the component, with nothing behind it.
"${WAYMARK:-waymark}" plugin component core.wasm my_policy.wasm
rm core.wasm
