#!/bin/sh
# Make .venv, with exactly the locked requirements and this checkout; nothing to do is quick.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/installed.txt
wanted() { cat requirements.txt pyproject.toml; }

if [ -f "$stamp" ] && wanted | cmp -s - "$stamp" && .venv/bin/python -c 'import cdimage' 2>/dev/null
then
    exit 0
fi

install_debian() {
    echo "installing Debian's $*"
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: this needs root once: apt-get install $*" >&2
        exit 1
    fi
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    || install_debian python3 ca-certificates
python3 -c 'import venv, ensurepip' 2>/dev/null || install_debian python3-venv

echo "making .venv with the locked requirements"
rm -rf .venv
python3 -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
wanted > "$stamp"
