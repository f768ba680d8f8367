"""What is mounted where, whether it answers, who holds it, and how it goes."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cairnfs.local.errors import LocalClusterError

ANSWER_S = 20.0


def is_mounted(mountpoint: Path) -> bool:
    """Whether a CairnFS is mounted on exactly this absolute directory; never touches the mount itself."""
    return any(place == str(mountpoint) and kind.startswith("fuse") for place, kind, _ in _mounts())


def source_at(mountpoint: Path) -> str | None:
    """The source of the mount at this absolute directory that is seen, None when nothing is mounted there."""
    found = [source for place, _, source in _mounts() if place == str(mountpoint)]
    return found[-1] if found else None


def source_above(path: Path) -> tuple[str, str] | None:
    """The source of the CairnFS mount that holds this absolute path, and where in it the path is."""
    above = [
        (Path(place), source)
        for place, kind, source in _mounts()
        if kind == "fuse.cairnfs" and path.is_relative_to(place)
    ]
    if not above:
        return None
    place, source = max(above, key=lambda one: len(one[0].parts))
    return source, str(path.relative_to(place))


def _mounts() -> Iterator[tuple[str, str, str]]:
    """Of every mount: where, its type, its source."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, place, kind = (_unescaped(field) for field in line.split()[:3])
        yield place, kind, source


def _unescaped(field: str) -> str:
    return field.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")


def answers(mountpoint: Path, patience_s: float = ANSWER_S) -> bool:
    """Whether statfs(2) succeeds there in time; asked in a process of its own, so that we never hang."""
    command = ["stat", "--file-system", "--format=%T", str(mountpoint)]
    try:
        return subprocess.run(command, capture_output=True, timeout=patience_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount; raises LocalClusterError when it is busy (naming who holds it) or refused.

    `lazy` detaches it at once; who holds it keeps what is open until it is closed.
    """
    result = subprocess.run(_command(mountpoint, lazy), capture_output=True, text=True, check=False)
    if result.returncode == 0 or not is_mounted(mountpoint):
        return
    said = " ".join(result.stderr.split())
    if "busy" in said:
        held = ", ".join(holders(mountpoint)) or "a process of another user"
        raise LocalClusterError(f"{mountpoint} is busy, held by {held} (--force detaches it all the same)")
    raise LocalClusterError(f"cannot unmount {mountpoint}: {said}")


def _command(mountpoint: Path, lazy: bool) -> list[str]:
    if os.geteuid() == 0:
        return ["umount", *(["--lazy"] if lazy else []), str(mountpoint)]
    fusermount = shutil.which("fusermount3")
    if fusermount is None:
        raise LocalClusterError("fusermount3 is missing; install the package fuse3")
    return [fusermount, "-uz" if lazy else "-u", str(mountpoint)]


def wait_unmounted(mountpoint: Path, patience_s: float) -> bool:
    """Wait until nothing is mounted there; False when it still is after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while is_mounted(mountpoint):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def holders(mountpoint: Path) -> list[str]:
    """The processes with an open file, directory or program below the mount, as `name (pid)`."""
    return sorted(
        f"{_name(process)} ({process.name})"
        for process in Path("/proc").glob("[0-9]*")
        if any(Path(target).is_relative_to(mountpoint) for target in _targets(process))
    )


def _targets(process: Path) -> Iterator[str]:
    links = [process / "cwd", process / "root", process / "exe"]
    with contextlib.suppress(OSError):  # gone, or another user's
        links += list((process / "fd").iterdir())
    for link in links:
        try:
            yield os.readlink(link)
        except OSError:
            continue


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"
