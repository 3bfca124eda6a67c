#!/usr/bin/env bash
# Makes .venv with a Python of at least 3.11, and installs twisted_lb into it from this directory.
#   tools/setup.sh        what it needs to run
#   tools/setup.sh dev    what its tests and checks need as well
set -eu
cd "$(dirname "$0")/.."
extra="${1:-}"

suits() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "twisted_lb needs Python 3.11 or later: install it, or name it: make PYTHON=/path/to/python3" >&2
    exit 1
}

# Debian keeps what `python3 -m venv` needs in a package of its own.
have_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

if ! suits .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python="$(find_python)"
    if ! have_venv "$python"; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -q
            DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv
        fi
        if ! have_venv "$python"; then
            echo "$python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
            exit 1
        fi
    fi
    rm -rf .venv
    "$python" -m venv .venv
fi

.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
# Twisted keeps a list of its plugins: make it now, while we may surely write it.
.venv/bin/python -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'
touch ".venv/installed${extra:+-$extra}"
