"""A Debian base image made by debootstrap, and wheels made in it, for builds that can pull nothing."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.containers.engine import Engine
from tests.tidy.sources import ROOT

PACKAGES = (
    "ca-certificates,fuse3,gcc,libc6-dev,libfuse3-3,libfuse3-dev,libselinux1-dev,pkg-config,"
    "python3,python3-dev,python3-venv"
)
CACHE = ROOT / ".venv" / "containers"
BUILD_S = 1200.0


def import_base(engine: Engine, name: str) -> None:
    """Make the base image `name` from the cached tree."""
    engine.docker("import", _archive(), name)


def wheelhouse(target: Path) -> None:
    """Copy wheels of everything that the image installs besides CairnFS itself into `target`."""
    wheels = CACHE / f"wheels-{_key()}"
    if not wheels.is_dir():
        _archive(rebuild=True)
    shutil.copytree(wheels, target, dirs_exist_ok=True)


def _key() -> str:
    """Changes with what goes into the tree and the wheels."""
    stated = (ROOT / "pyproject.toml").read_bytes() + PACKAGES.encode()
    return f"{_suite()}-{hashlib.sha256(stated).hexdigest()[:16]}"


def _suite() -> str:
    release = platform.freedesktop_os_release()
    return release.get("VERSION_CODENAME", "bookworm") if release["ID"] == "debian" else "bookworm"


def _archive(*, rebuild: bool = False) -> Path:
    """The base image as a tar archive, made when it is not in the cache."""
    archive = CACHE / f"base-{_key()}.tar"
    if archive.exists() and not rebuild:
        return archive
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.skip("no base image: debootstrap is missing, or we are not root")
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    tree = Path(tempfile.mkdtemp(prefix="cairnfs-base-", dir="/var/tmp"))
    try:
        _check(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", _suite(), str(tree)])
        _check(["chroot", str(tree), "apt-get", "clean"])
        made = CACHE / "new.tar"
        _check(["tar", "--create", f"--file={made}", f"--directory={tree}", "--one-file-system", "."])
        _make_wheels(tree, CACHE / f"wheels-{_key()}")
        return made.rename(archive)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _make_wheels(tree: Path, target: Path) -> None:
    """Let pip inside the tree make the wheels, with the index and the certificates of this machine."""
    for file in ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(file).exists():
            shutil.copy(file, tree / file.lstrip("/"))
    (tree / "src").mkdir()
    copy_project(tree / "src")
    script = (
        "cd /src && python3 -m venv /tmp/venv && /tmp/venv/bin/pip wheel --quiet --wheel-dir /wheels "
        "hatchling cffi setuptools /src && rm /wheels/cairnfs-*"
    )
    _check(["chroot", str(tree), "env", "HOME=/tmp", "sh", "-ec", script])
    shutil.copytree(tree / "wheels", target)


def copy_project(target: Path) -> None:
    """Copy what git knows of the project, with changes that are not committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _check(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    tail = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
    assert result.returncode == 0, f"{' '.join(command)}:\n{tail}"
