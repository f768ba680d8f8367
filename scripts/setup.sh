#!/bin/sh
# Install what CairnFS needs: system packages, .venv, the package itself. Fast when nothing is missing.
#   scripts/setup.sh              to run it
#   scripts/setup.sh dev          to test it as well
#   scripts/setup.sh containers   system packages of the container test only
set -eu
cd "$(dirname "$0")/.."

purpose=${1:-run}
case $purpose in
run) packages='gcc pkg-config fuse3 libfuse3-dev' ;;
dev) packages='gcc pkg-config fuse3 libfuse3-dev attr acl rsync git sqlite3 e2fsprogs iproute2 postgresql' ;;
containers) packages='docker.io docker-compose debootstrap iptables' ;;
*) echo "usage: $0 [run|dev|containers]" >&2; exit 2 ;;
esac

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# ---------------------------------------------------------------- system packages
is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
    missing=
    for package in "$@"; do
        is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=sudo
    else
        fail "these packages are missing; as root: apt-get install$missing"
    fi
    say "installing$missing"
    log=$(mktemp)
    # shellcheck disable=SC2086 # words on purpose
    if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "apt-get could not install$missing"
    fi
    rm -f "$log"
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # words on purpose
    install_packages $packages
    apt=yes
else
    apt=no
    for command in gcc pkg-config fusermount3; do
        command -v "$command" >/dev/null ||
            fail "$command is missing; this is no Debian, so install the equivalents of: $packages"
    done
    pkg-config --exists fuse3 || fail "the headers of libfuse 3 are missing (libfuse3-dev on Debian)"
fi
[ "$purpose" != containers ] || exit 0

# ---------------------------------------------------------------- Python
is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for python in python3 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null && is_new_enough "$python"; then
            command -v "$python"
            return 0
        fi
    done
    return 1
}

is_complete() { # can make environments, and compile extension modules
    "$1" - <<'PYTHON' 2>/dev/null
import ensurepip, os, sysconfig, venv
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
PYTHON
}

# Without pip, the making of it was interrupted.
if [ -x .venv/bin/python ] && is_new_enough .venv/bin/python && [ -x .venv/bin/pip ]; then
    python=.venv/bin/python
else
    if ! find_python >/dev/null && [ "$apt" = yes ]; then
        install_packages python3
        for candidate in python3.13 python3.12 python3.11; do # where python3 is an older one
            ! find_python >/dev/null || break
            ! apt-cache show "$candidate" >/dev/null 2>&1 || install_packages "$candidate"
        done
    fi
    python=$(find_python) || fail "Python 3.11 or newer is missing"
    if ! is_complete "$python"; then
        [ "$apt" = yes ] || fail "$python lacks venv or its headers (python3-venv, python3-dev on Debian)"
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install_packages "python$version-venv" "python$version-dev"
        is_complete "$python" || fail "$python lacks venv or its headers"
    fi
fi

# ---------------------------------------------------------------- .venv
group=
[ "$purpose" != dev ] || group='--group dev'
stamp=.venv/.cairnfs-$purpose
state=$({ cat pyproject.toml scripts/setup.sh; find . -maxdepth 1 -name 'hatch_build.py' -exec cat {} +
    find fusefs/cairnfs/fuse/lowlevel -type f ! -name '*.so' ! -name '*.pyc' -exec cat {} + | sort; pwd; } | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$state" ] || [ ! -x .venv/bin/cairnfs ]; then
    [ "$python" = .venv/bin/python ] || { say "making .venv with $python"; "$python" -m venv --clear .venv; }
    say "installing CairnFS into .venv"
    log=$(mktemp)
    # shellcheck disable=SC2086 # words on purpose
    if ! { .venv/bin/python -m pip install --disable-pip-version-check 'pip>=25.1' &&
        .venv/bin/python -m pip install --disable-pip-version-check --editable . $group; } >"$log" 2>&1; then
        tail -n 25 "$log" >&2
        fail "pip could not install CairnFS; its last lines are above"
    fi
    rm -f "$log"
    printf '%s\n' "$state" >"$stamp"
fi

# ---------------------------------------------------------------- /dev/fuse
if [ ! -e /dev/fuse ]; then
    if [ "$(id -u)" -eq 0 ]; then
        modprobe fuse 2>/dev/null || true
        [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229 || true
    fi
    [ -e /dev/fuse ] || fail "/dev/fuse is missing; as root: modprobe fuse, or let the container have the device"
fi
[ -r /dev/fuse ] && [ -w /dev/fuse ] || fail "/dev/fuse cannot be opened by $(id -un); as root: chmod 666 /dev/fuse"
