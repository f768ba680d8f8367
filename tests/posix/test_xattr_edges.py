"""Corners of extended attributes and access lists: flags, name spaces, malformed and missing lists."""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.support import fails, libc, write_file

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
NOBODY = 0xFFFF_FFFF
USER_OBJ, NAMED_USER, GROUP_OBJ, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


MINIMAL = acl((USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY))
NAMED = acl(
    (USER_OBJ, 7, NOBODY),
    *[(NAMED_USER, number % 8, 2000 + number) for number in range(32)],
    (GROUP_OBJ, 5, NOBODY),
    (MASK, 6, NOBODY),
    (OTHERS, 1, NOBODY),
)
MALFORMED = {
    "short": b"\2\0\0",
    "odd": MINIMAL + b"x",
    "unsorted": acl((GROUP_OBJ, 5, NOBODY), (USER_OBJ, 7, NOBODY), (OTHERS, 1, NOBODY)),
    "no mask": acl((USER_OBJ, 7, NOBODY), (NAMED_USER, 3, 2000), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY)),
    "no others": acl((USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY)),
    "permissions": acl((USER_OBJ, 9, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY)),
    "tag": acl((USER_OBJ, 7, NOBODY), (3, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY)),
}


@pytest.mark.parametrize("name", ["bogus.name", "user", "system.unknown"])
def test_names_outside_the_name_spaces_are_not_supported(place: Path, name: str) -> None:
    path = write_file(place / "file")
    fails(errno.EOPNOTSUPP, os.setxattr, path, name, b"v")
    fails(errno.EOPNOTSUPP, os.getxattr, path, name)
    fails(errno.EOPNOTSUPP, os.removexattr, path, name)


def test_create_and_replace_together(place: Path) -> None:
    path = write_file(place / "file")
    both = os.XATTR_CREATE | os.XATTR_REPLACE
    fails(errno.ENODATA, os.setxattr, path, "user.x", b"v", both)
    os.setxattr(path, "user.x", b"v")
    fails(errno.EEXIST, os.setxattr, path, "user.x", b"w", both)
    fails(errno.EINVAL, os.setxattr, path, "user.x", b"w", 4)


def test_buffers_that_are_too_small(place: Path) -> None:
    path = os.fsencode(write_file(place / "file"))
    os.setxattr(path, "user.name", b"value")
    buffer = ctypes.create_string_buffer(100)
    calls: list[tuple[Callable[[int], int], int]] = [
        (lambda room: libc.listxattr(path, buffer, room), len(b"user.name\0")),
        (lambda room: libc.getxattr(path, b"user.name", buffer, room), len(b"value")),
    ]
    for call, size in calls:
        assert call(0) == call(size) == call(100) == size
        assert call(size - 1) == -1
        assert ctypes.get_errno() == errno.ERANGE


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
def test_malformed_lists_are_invalid(place: Path, case: str, name: str) -> None:
    (place / "dir").mkdir(mode=0o755)
    fails(errno.EINVAL, os.setxattr, place / "dir", name, MALFORMED[case])
    assert os.listxattr(place / "dir") == []


@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
def test_removing_a_list_that_is_not_there_succeeds(place: Path, name: str) -> None:
    (place / "dir").mkdir(mode=0o755)
    os.removexattr(place / "dir", name)
    os.setxattr(place / "dir", name, b"")
    os.setxattr(place / "dir", name, NAMED)
    os.removexattr(place / "dir", name)
    os.removexattr(place / "dir", name)
    fails(errno.ENODATA, os.getxattr, place / "dir", name)


def test_many_entries_and_chmod(place: Path) -> None:
    path = write_file(place / "file", mode=0o644)
    os.setxattr(path, ACCESS, NAMED)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o761
    assert os.getxattr(path, ACCESS) == NAMED
    path.chmod(0o640)
    changed = struct.unpack("<HHI", os.getxattr(path, ACCESS)[-16:-8])
    assert changed == (MASK, 4, NOBODY)
    path.chmod(0o761)
    os.setxattr(path, ACCESS, MINIMAL)
    assert os.listxattr(path) == []
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o751


def test_new_files_of_every_type_inherit(place: Path) -> None:
    parent = place / "parent"
    parent.mkdir()
    os.setxattr(parent, DEFAULT, NAMED)
    os.mkfifo(parent / "fifo", 0o666)
    os.mknod(parent / "socket", stat.S_IFSOCK | 0o600)
    os.symlink("x", parent / "link")
    (parent / "dir").mkdir(0o700)
    assert os.getxattr(parent / "dir", DEFAULT) == NAMED
    assert [stat.S_IMODE(os.lstat(parent / name).st_mode) for name in ("fifo", "socket", "dir")] == [
        0o660,
        0o600,
        0o700,
    ]
    assert ACCESS in os.listxattr(parent / "fifo")
    assert os.listxattr(parent / "link", follow_symlinks=False) == []
