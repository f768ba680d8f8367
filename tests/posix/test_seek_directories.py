"""Positions in directory listings: small buffers, seeking back, rewinding, many entries."""

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest

from tests.posix.support import Opened, fails, libc

GETDENTS64 = 217  # x86-64
HEAD = struct.Struct("<QqHB")


def getdents(descriptor: int, size: int) -> list[tuple[str, int]]:
    """Names and the positions after them, as one getdents64(2) with `size` bytes of room gives them."""
    buffer = ctypes.create_string_buffer(size)
    got = libc.syscall(GETDENTS64, descriptor, buffer, size)
    if got < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    found: list[tuple[str, int]] = []
    at = 0
    while at < got:
        _, position, length, _ = HEAD.unpack_from(buffer, at)
        name = buffer.raw[at + HEAD.size : at + length].split(b"\0", 1)[0]
        found.append((os.fsdecode(name), position))
        at += length
    return found


def everything(descriptor: int, size: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    while step := getdents(descriptor, size):
        found += step
    return found


def fill(place: Path, count: int) -> set[str]:
    names = {f"{index:05}" for index in range(count)}
    for name in names:
        os.mknod(place / name)
    return names | {".", ".."}


@pytest.mark.parametrize("size", [24, 100, 333, 65_536])
def test_buffers_of_any_size_give_every_entry_once(place: Path, size: int) -> None:
    names = fill(place, 150)
    with Opened(place, os.O_RDONLY) as descriptor:
        if size < 32:
            fails(errno.EINVAL, everything, descriptor, size)
            return
        found = [name for name, _ in everything(descriptor, size)]
    assert len(found) == len(names)
    assert set(found) == names


def test_every_position_can_be_returned_to(place: Path) -> None:
    fill(place, 60)
    with Opened(place, os.O_RDONLY) as descriptor:
        entries = everything(descriptor, 4096)
        for index, (_, position) in enumerate(entries):
            os.lseek(descriptor, position, os.SEEK_SET)
            rest = [name for name, _ in everything(descriptor, 4096)]
            assert rest == [name for name, _ in entries[index + 1 :]]


def test_rewinding_shows_what_has_changed(place: Path) -> None:
    fill(place, 40)
    with Opened(place, os.O_RDONLY) as descriptor:
        everything(descriptor, 4096)
        os.mknod(place / "new")
        os.unlink(place / "00000")
        assert everything(descriptor, 4096) == []
        os.lseek(descriptor, 0, os.SEEK_SET)
        found = {name for name, _ in everything(descriptor, 4096)}
    assert "new" in found
    assert "00000" not in found
    assert len(found) == 42


def test_removing_each_entry_as_it_is_listed_empties_the_directory(place: Path) -> None:
    fill(place, 300)
    with Opened(place, os.O_RDONLY) as descriptor:
        while step := getdents(descriptor, 1024):
            for name, _ in step:
                if name not in (".", ".."):
                    os.unlink(place / name)
    assert os.listdir(place) == []


def test_a_deep_tree_of_three_hundred_levels(place: Path) -> None:
    path = place
    for _ in range(300):
        path = path / "d"
        path.mkdir()
    (path / "leaf").write_bytes(b"deep")
    assert (path / "leaf").read_bytes() == b"deep"
    assert os.stat(path / "..").st_nlink == 3
    os.rename(place / "d" / "d", place / "moved")
    assert os.stat(place).st_nlink == 4
    for found, directories, files in os.walk(place, topdown=False):
        for name in files:
            os.unlink(os.path.join(found, name))
        for name in directories:
            os.rmdir(os.path.join(found, name))
    assert os.stat(place).st_nlink == 2
