#!/bin/sh
# Builds my_policy.wasm. Needs Zig's C compiler: `pip install ziglang==0.17.1`, or a `zig` on the PATH.
set -eu
cd "$(dirname "$0")"
source=policy kind=policy
zig=$(command -v zig || echo "python3 -m ziglang")
$zig cc -target wasm32-wasi -mexec-model=reactor -Oz -flto -s -std=c17 -Wall -Wextra -Werror -Wl,-z,stack-size=65536 \
  -I bindings -o core.wasm $source.c bindings/*.c
"${WAYMARK:-waymark}" plugin component --kind $kind core.wasm my_policy.wasm
rm core.wasm
