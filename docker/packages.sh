#!/bin/sh
# Install the Debian packages named that the base image lacks; does nothing, and needs no network, when it has all.
set -eu
missing=
for package in "$@"; do
    case $package in
    # An image of Python brings its own interpreter with headers and venv.
    python3*) python3 -c 'import ensurepip, os, sysconfig, sys
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null && continue ;;
    esac
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
apt-get update
# shellcheck disable=SC2086 # words on purpose
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
rm -rf /var/lib/apt/lists/*
