#!/bin/sh
# Builds my_policy.wasm. Needs Zig's C++ compiler: `pip install ziglang==0.17.1`, or a `zig` on the PATH.
set -eu
cd "$(dirname "$0")"
zig=$(command -v zig || echo "python3 -m ziglang")
for c in balancer_plugin world; do
  $zig cc -c -target wasm32-wasi -Oz -flto -Wall -Wextra -Werror -I bindings -o $c.o bindings/$c.c
done
$zig c++ -target wasm32-wasi -mexec-model=reactor -Oz -flto -s -std=c++23 -fno-exceptions -fno-rtti -Wall -Wextra -Werror \
  -Wl,-z,stack-size=65536 -I bindings -o core.wasm policy.cpp waymark.cpp ./*.o
"${WAYMARK:-waymark}" plugin component core.wasm my_policy.wasm
rm core.wasm ./*.o
