#!/usr/bin/env bash
# Brings the programs that some tests need, where they are missing and this user may install them.
# Tests of what is missing are skipped, and pytest's summary says so.
set -eu

missing() {
    for program in redis-server curl faketime; do
        command -v "$program" >/dev/null || printf '%s ' "$program"
    done
    # A library, for those who have Node.
    if command -v node >/dev/null && ! NODE_PATH=/usr/share/nodejs node -e 'require("ws")' 2>/dev/null; then
        printf 'node-ws '
    fi
}

if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q || true
    # Debian's packages have the names of their programs.
    # shellcheck disable=SC2046
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(missing) || true
fi
if [ -n "$(missing)" ]; then
    echo "Some tests are skipped. To run them: apt-get install $(missing)"
fi
