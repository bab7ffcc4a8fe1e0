#!/bin/sh
# Runs the tests on this machine, with a host that answers what they tell it to.
set -eu
cd "$(dirname "$0")"
zig=$(command -v zig || echo "python3 -m ziglang")
$zig test policy.zig
