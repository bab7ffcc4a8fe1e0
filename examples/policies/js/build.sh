#!/bin/sh
# Builds my_policy.wasm. Needs Node and componentize-qjs: `npm install` in this folder.
set -eu
cd "$(dirname "$0")"
node_modules/.bin/componentize-qjs -w wit -n balancer-plugin -j policy.js --stub-wasi --sync -o my_policy.wasm
