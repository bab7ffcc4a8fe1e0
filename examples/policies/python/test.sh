#!/bin/sh
# Runs the tests in your own Python. The bindings it makes for that are the ones that the component is built with.
set -eu
cd "$(dirname "$0")"
rm -rf bindings
componentize-py -d wit -w balancer-plugin bindings bindings
PYTHONPATH=bindings python3 -m unittest -v ./*_test.py
rm -rf bindings
