"""What a call promised to last is there for others although its mount is killed as soon as it has returned.

All calls are made through two mounts, each in a directory of its own. Then both mounts are killed, once, and
another one looks. A mount sends what it need not within a second or more, so calls are made without a pause.
"""

import mmap
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, Mount
from tests.cluster.shared import assert_sound
from tests.soak.writers import sync_directory

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

LEASE_S = "2"
PAGE_BYTES = mmap.PAGESIZE
FIRST, SECOND = b"first " * 1_000, b"second " * 10
BOTH = FIRST + SECOND  # two writes, as the FUSE layer may keep later ones to itself until it is asked

Work = Callable[[Path, ExitStack], None]


def opened(path: Path, stack: ExitStack, flags: int = 0) -> int:
    """A descriptor that stays open until after the kill, so that closing has no part in it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | flags, 0o644)
    stack.callback(_close, descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    with suppress(OSError):  # its mount is gone
        os.close(descriptor)


def write_with(flag: int) -> Work:
    """Two writes through a file opened with `flag`."""

    def work(place: Path, stack: ExitStack) -> None:
        descriptor = opened(place / "file", stack, flag)
        for content in (FIRST, SECOND):
            assert os.write(descriptor, content) == len(content)

    return work


def write_once_with(flag: int) -> Work:
    """Two writes that each say by themselves that they shall last."""

    def work(place: Path, stack: ExitStack) -> None:
        descriptor = opened(place / "file", stack)
        for content, offset in ((FIRST, 0), (SECOND, len(FIRST))):
            assert os.pwritev(descriptor, [content], offset, flag) == len(content)

    return work


def write_then(sync: Callable[[int], None]) -> Work:
    """Writes followed by a call for the whole file, twice."""

    def work(place: Path, stack: ExitStack) -> None:
        descriptor = opened(place / "file", stack)
        for content in (FIRST, SECOND):
            assert os.write(descriptor, content) == len(content)
            sync(descriptor)

    return work


def sync_through_another(place: Path, stack: ExitStack) -> None:
    """fsync concerns the file, whoever has written it."""
    writer = opened(place / "file", stack)
    reader = os.open(place / "file", os.O_RDONLY)
    stack.callback(_close, reader)
    assert os.write(writer, BOTH) == len(BOTH)
    os.fsync(reader)


def write_direct(place: Path, stack: ExitStack) -> None:
    """As databases write: around the page cache, and durably."""
    descriptor = opened(place / "file", stack, os.O_DIRECT | os.O_DSYNC)
    with mmap.mmap(-1, PAGE_BYTES) as buffer:
        for number in range(2):
            buffer[:] = bytes([number]) * PAGE_BYTES
            assert os.pwritev(descriptor, [buffer], number * PAGE_BYTES) == PAGE_BYTES


def write_mapped(place: Path, stack: ExitStack) -> None:
    """Through a mapping, then msync(MS_SYNC)."""
    descriptor = opened(place / "file", stack)
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    view = stack.enter_context(mmap.mmap(descriptor, 2 * PAGE_BYTES))
    for number in range(2):
        view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = bytes([number]) * PAGE_BYTES
        view.flush()


def replace(place: Path, stack: ExitStack) -> None:
    """A new version is synced and renamed over the old one, as editors and databases do."""
    for content in (FIRST, SECOND):
        descriptor = opened(place / "new", stack)
        assert os.write(descriptor, content) == len(content)
        os.fsync(descriptor)
        os.rename(place / "new", place / "file")
    sync_directory(place)


def change_names(place: Path, _stack: ExitStack) -> None:
    """Every kind of change of a directory."""
    for name in ("removed", "old"):
        (place / name).touch()
    (place / "emptied").mkdir()
    (place / "removed").unlink()
    (place / "emptied").rmdir()
    (place / "old").rename(place / "renamed")
    (place / "linked").hardlink_to(place / "renamed")
    (place / "symlink").symlink_to("target")
    (place / "directory").mkdir()
    os.mkfifo(place / "fifo")


def change_and_sync_names(place: Path, stack: ExitStack) -> None:
    change_names(place, stack)
    sync_directory(place)


def write_and_close(place: Path, _stack: ExitStack) -> None:
    (place / "file").write_bytes(BOTH)


# ---------------------------------------------------------------------- what others see


def has_both(place: Path) -> None:
    assert (place / "file").read_bytes() == BOTH


def has_pages(place: Path) -> None:
    assert (place / "file").read_bytes() == b"\0" * PAGE_BYTES + b"\1" * PAGE_BYTES


def has_second(place: Path) -> None:
    assert (place / "file").read_bytes() == SECOND
    assert os.listdir(place) == ["file"]


def has_names(place: Path) -> None:
    found = {
        entry.name: stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir(place)
    }
    assert found == {
        "renamed": stat.S_IFREG,
        "linked": stat.S_IFREG,
        "symlink": stat.S_IFLNK,
        "directory": stat.S_IFDIR,
        "fifo": stat.S_IFIFO,
    }
    assert (place / "symlink").readlink() == Path("target")
    assert (place / "linked").stat().st_nlink == 2


Look = Callable[[Path], None]
# Of each mount, what concerns names comes last: to commit them commits all earlier ones as well.
PLAIN: dict[str, tuple[Work, Look]] = {
    "O_SYNC": (write_with(os.O_SYNC), has_both),
    "O_DSYNC": (write_with(os.O_DSYNC), has_both),
    "O_SYNC-O_APPEND": (write_with(os.O_SYNC | os.O_APPEND), has_both),
    "RWF_SYNC": (write_once_with(os.RWF_SYNC), has_both),
    "RWF_DSYNC": (write_once_with(os.RWF_DSYNC), has_both),
    "fsync": (write_then(os.fsync), has_both),
    "fdatasync": (write_then(os.fdatasync), has_both),
    "fsync-by-reader": (sync_through_another, has_both),
    "O_DIRECT-O_DSYNC": (write_direct, has_pages),
    "msync": (write_mapped, has_pages),
    "replaced": (replace, has_second),
    "fsync-of-directory": (change_and_sync_names, has_names),
}
STRICT: dict[str, tuple[Work, Look]] = {
    "sync-close": (write_and_close, has_both),
    "sync-names": (change_names, has_names),
}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What another mount sees once those that did the work were killed."""
    cluster = Cluster(tmp_path_factory.mktemp("durability") / "cluster")
    try:
        cluster.start(datanodes=2, lease_s=LEASE_S)
        plain, strict, watcher = cluster.mount(), cluster.mount("sync"), cluster.mount()
        with killed_at_the_end(plain, strict) as stack:
            for mount, cases in ((plain, PLAIN), (strict, STRICT)):
                for name in cases:
                    (mount.path / name).mkdir()
            for mount, cases in ((plain, PLAIN), (strict, STRICT)):
                for name, (work, _look) in cases.items():
                    work(mount.path / name, stack)
        yield watcher.path
        assert_sound(cluster)
    finally:
        cluster.stop()


@contextmanager
def killed_at_the_end(*victims: Mount) -> Iterator[ExitStack]:
    """Kill -9 of these mounts; what the stack has to close is closed later."""
    with ExitStack() as stack:
        yield stack
        for victim in victims:
            victim.signal(signal.SIGKILL)
        for victim in victims:
            victim.discard()


@pytest.mark.parametrize("name", [*PLAIN, *STRICT])
def test_what_was_promised_is_there(left: Path, name: str) -> None:
    _work, look = {**PLAIN, **STRICT}[name]
    look(left / name)
