#!/bin/sh
# Builds my_policy.wasm. Needs Node and AssemblyScript: `npm install` in this folder.
set -eu
cd "$(dirname "$0")"
node_modules/.bin/asc border.ts --optimize --use abort=waymark/abort -o core.wasm
"${WAYMARK:-waymark}" plugin component core.wasm my_policy.wasm
rm core.wasm
