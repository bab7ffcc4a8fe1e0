#!/bin/sh
# Builds my_policy.wasm. Needs componentize-py: `pip install componentize-py==0.25.1`.
set -eu
cd "$(dirname "$0")"
source=policy
rm -rf __pycache__ bindings
componentize-py -d wit -w balancer-plugin componentize --stub-wasi $source -o my_policy.wasm
