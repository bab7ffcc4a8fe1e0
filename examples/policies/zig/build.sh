#!/bin/sh
# Builds my_policy.wasm. Needs Zig: `pip install ziglang==0.17.1`, or a `zig` of that version on the PATH.
set -eu
cd "$(dirname "$0")"
zig=$(command -v zig || echo "python3 -m ziglang")
# Safe: a mistake traps, and the host logs what it was. `-O ReleaseSmall` takes a third less.
$zig build-exe policy.zig -target wasm32-freestanding -O ReleaseSafe -fstrip -fno-entry -rdynamic --stack 65536 -femit-bin=core.wasm
"${WAYMARK:-waymark}" plugin component core.wasm my_policy.wasm
rm core.wasm
