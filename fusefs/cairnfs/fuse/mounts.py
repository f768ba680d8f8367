"""What the kernel knows of mounts: is a path one of ours, taking a dead one away, tuning read-ahead."""

import ctypes
import errno
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cairnfs.base.limits import KIB

_MNT_FORCE, _MNT_DETACH = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo. `device` is MAJOR:MINOR."""

    device: str
    path: str
    fs_type: str

    @property
    def is_fuse(self) -> bool:
        """Whether a FUSE process serves it."""
        return self.fs_type == "fuse" or self.fs_type.startswith("fuse.")


def _mounts() -> list[MountEntry]:
    found: list[MountEntry] = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        found.append(MountEntry(fields[2], path, after.split()[0]))
    return found


def mount_at(path: Path) -> MountEntry | None:
    """The topmost mount whose mount point is exactly `path`; None if there is none.

    Never touches the mount itself, which may be dead or slow.
    """
    wanted = os.path.join(os.path.realpath(path.parent), path.name) if path.name else str(path)
    return next((entry for entry in reversed(_mounts()) if entry.path == wanted), None)


def is_mounted(path: Path) -> bool:
    """Whether a FUSE file system is mounted exactly there."""
    entry = mount_at(path)
    return entry is not None and entry.is_fuse


def abort(entry: MountEntry) -> None:
    """End the FUSE connection of a mount, if it still exists: pending and later calls fail with ENOTCONN."""
    if entry not in _mounts():
        return
    control = Path("/sys/fs/fuse/connections") / entry.device.partition(":")[2] / "abort"
    try:
        control.write_text("1")
    except OSError:  # the control file system is not mounted: a forced unmount aborts as well
        _libc.umount2(os.fsencode(entry.path), _MNT_FORCE)


def lazy_unmount(entry: MountEntry) -> bool:
    """Take a FUSE mount away at once, however busy or dead; False if it was not there or not ours to take."""
    if not entry.is_fuse or mount_at(Path(entry.path)) != entry:
        return False
    if _libc.umount2(os.fsencode(entry.path), _MNT_DETACH) == 0:
        return True
    if ctypes.get_errno() != errno.EPERM:
        return False
    helper = subprocess.run(["fusermount3", "-u", "-z", entry.path], capture_output=True, check=False)
    return helper.returncode == 0


def set_read_ahead(path: Path, size_bytes: int) -> bool:
    """Let the kernel read ahead up to `size_bytes` on the mount at `path`; False when not allowed to."""
    entry = mount_at(path)
    if entry is None:
        return False
    try:
        Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").write_text(str(size_bytes // KIB))
    except OSError:
        return False
    return True
