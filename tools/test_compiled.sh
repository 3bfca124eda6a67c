#!/usr/bin/env bash
# Runs every test on the compiled data path, in a copy of the checkout: the checkout itself stays as it is.
set -eu
cd "$(dirname "$0")/.."
copy="$(mktemp -d "${TMPDIR:-/tmp}/tokenlb-compiled-XXXXXX")"
trap 'rm -rf "$copy"' EXIT
tar --create --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./data --exclude='*.so' . \
    | tar --extract --directory="$copy"
cd "$copy"
PYTHON="${PYTHON:-python3}" make compiled
[ "$(.venv/bin/python -c 'import twisted_lb; print(twisted_lb.BUILD)')" = compiled ]
PYTHON="${PYTHON:-python3}" make test
