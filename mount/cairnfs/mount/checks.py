"""What must be so before anything is mounted; each failure is one clear line."""

import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from cairnfs.fuse import mounts
from cairnfs.mount.errors import EXIT_SYSTEM, MountRefused


def check_mountpoint(path: Path, *, nonempty: bool) -> None:
    """Raises MountRefused unless `path` is an empty directory, or any directory with `nonempty`.

    A dead mount of ours that is still there is taken away first.
    """
    entry = mounts.mount_at(path)
    if entry is not None and entry.fs_type == "fuse.cairnfs":
        if not _is_dead(path):
            raise MountRefused(f"{path} is a mounted CairnFS already")
        mounts.lazy_unmount(entry)
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise MountRefused(f"{path} is not a directory")
        if not nonempty and any(path.iterdir()):
            raise MountRefused(f"{path} is not empty; the option nonempty mounts over its contents")
    except FileNotFoundError:
        raise MountRefused(f"{path} does not exist") from None
    except OSError as error:
        raise MountRefused(f"{path}: {error.strerror}") from None


def _is_dead(path: Path) -> bool:
    try:
        os.statvfs(path)
    except OSError:
        return True
    return False


def check_system(device: Path = Path("/dev/fuse")) -> None:
    """Raises MountRefused when this machine cannot mount with FUSE at all."""
    if not device.exists():
        raise MountRefused(
            f"{device} is missing: load the kernel module fuse (in a container: --device {device})",
            EXIT_SYSTEM,
        )
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountRefused("fusermount3 is missing: install the package fuse3, or mount as root", EXIT_SYSTEM)


def check_sharing(kernel_options: Collection[str], config: Path = Path("/etc/fuse.conf")) -> None:
    """Raises MountRefused when fusermount3 would refuse to let other users in."""
    shared = sorted({"allow_other", "allow_root"} & set(kernel_options))
    if not shared or os.geteuid() == 0:
        return
    try:
        allowed = "user_allow_other" in [line.strip() for line in config.read_text().splitlines()]
    except OSError:
        allowed = False
    if not allowed:
        raise MountRefused(f"{shared[0]} needs user_allow_other in {config}, or root", EXIT_SYSTEM)
