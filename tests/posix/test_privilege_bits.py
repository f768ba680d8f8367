"""Which calls take the set-user-ID and set-group-ID bits from a file, by whom they are made."""

import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.support import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    GROUP,
    OTHER,
    OTHER_GROUP,
    USER,
    Opened,
    as_user,
    fallocate,
    write_file,
)


def with_descriptor(path: Path, work: Callable[[int], object], flags: int = 0) -> None:
    with Opened(path, os.O_RDWR | flags) as descriptor:
        work(descriptor)


def copy_into(path: Path) -> None:
    with Opened(path.with_name("source"), os.O_RDONLY) as source, Opened(path, os.O_RDWR) as target:
        assert os.copy_file_range(source, target, 3, 0, 0) == 3


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda path: with_descriptor(path, lambda d: os.write(d, b"x")),
    "append": lambda path: with_descriptor(path, lambda d: os.write(d, b"x"), os.O_APPEND),
    "truncate": lambda path: os.truncate(path, 1),
    "truncate to its size": lambda path: os.truncate(path, 7),
    "ftruncate": lambda path: with_descriptor(path, lambda d: os.ftruncate(d, 100)),
    "open": lambda path: with_descriptor(path, lambda d: None, os.O_TRUNC),
    "allocate": lambda path: with_descriptor(path, lambda d: fallocate(d, 0, 0, 100)),
    "punch": lambda path: with_descriptor(
        path, lambda d: fallocate(d, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, 2)
    ),
    "copy": copy_into,
}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("uid", [0, USER, OTHER])
def test_changed_content_is_not_run_with_privileges(place: Path, change: str, uid: int) -> None:
    place.chmod(0o777)
    write_file(place / "source")
    path = write_file(place / "file")
    os.chown(path, USER, GROUP)
    path.chmod(0o6777)
    as_user(CHANGES[change], path, uid=uid, gid=0 if uid == 0 else GROUP if uid == USER else OTHER_GROUP)
    assert mode_of(path) == (0o6777 if uid == 0 else 0o777)


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_chown_by_root_takes_the_bits_from_files_only(place: Path, kind: str) -> None:
    path = place / kind
    path.mkdir() if kind == "dir" else write_file(path)
    path.chmod(0o6777)
    os.chown(path, USER, GROUP)
    assert mode_of(path) == (0o6777 if kind == "dir" else 0o777)


def test_reading_and_mapping_for_reading_keep_the_bits(place: Path) -> None:
    path = write_file(place / "file", mode=0o6755)
    with Opened(path, os.O_RDONLY) as descriptor:
        os.read(descriptor, 1)
        with mmap.mmap(descriptor, 7, prot=mmap.PROT_READ) as mapped:
            assert mapped[0]
    assert mode_of(path) == 0o6755
