#!/bin/sh
# Runs the tests on this machine, with a host that answers what they tell it to.
set -eu
cd "$(dirname "$0")"
source=policy
zig=$(command -v zig || echo "python3 -m ziglang")
$zig cc -std=c17 -Wall -Wextra -Werror -I bindings -o test ${source}_test.c
./test
rm -rf test test.*
