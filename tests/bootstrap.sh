#!/bin/sh
# What `make setup` needs before there is a virtual environment: a Python of 3.11 or later that can make one.
# Installs it with apt where that is possible, otherwise says in one line what is missing.
set -eu
python=${1:-python3}

usable() {
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if ! usable && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends python3 python3-venv python3-pip
fi
usable || {
    echo "herder needs Python 3.11 or later with the venv module; try PYTHON=/path/to/python make setup" >&2
    exit 1
}
