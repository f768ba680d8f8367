"""Listing directories while entries come and go."""

import ctypes
import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.posix.support import Opened, fails, libc, write_file


def test_listing_has_every_entry_once(place: Path) -> None:
    names = {f"entry-{index:05}-{'x' * (index % 200)}" for index in range(3000)}
    for name in names:
        os.mknod(place / name)
    listed = os.listdir(place)
    assert len(listed) == len(names)
    assert set(listed) == names


def test_types_in_listings(place: Path) -> None:
    write_file(place / "file")
    (place / "dir").mkdir()
    os.symlink("x", place / "link")
    os.mkfifo(place / "fifo")
    with os.scandir(place) as entries:
        kinds = {e.name: (e.is_file(follow_symlinks=False), e.is_dir(), e.is_symlink()) for e in entries}
    assert kinds == {
        "file": (True, False, False),
        "dir": (False, True, False),
        "link": (False, False, True),
        "fifo": (False, False, False),
    }


def test_listings_agree_with_stat(place: Path) -> None:
    for index in range(50):
        write_file(place / str(index), b"x" * index)
    with os.scandir(place) as entries:
        for entry in entries:
            found = os.stat(place / entry.name)
            assert entry.inode() == found.st_ino
            assert entry.stat().st_size == found.st_size == int(entry.name)


def test_entries_that_stay_are_listed_while_others_come_and_go(place: Path) -> None:
    stable = {f"stable-{index:04}" for index in range(1200)}
    for name in stable:
        os.mknod(place / name)
    for index in range(1200):
        os.mknod(place / f"gone-{index:04}")
    seen: list[str] = []
    with os.scandir(place) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 3 == 0 and count < 3600:
                os.mknod(place / f"new-{count:04}")
                if (place / f"gone-{count // 3:04}").exists():
                    os.unlink(place / f"gone-{count // 3:04}")
    assert len(seen) == len(set(seen))
    assert stable <= set(seen)


def test_rewinding_shows_the_present(place: Path) -> None:
    with Opened(place, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        assert os.listdir(descriptor) == []
        os.mknod(place / "later")
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert os.listdir(descriptor) == ["later"]
        os.unlink(place / "later")
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert os.listdir(descriptor) == []


def test_dots_have_the_right_numbers(place: Path) -> None:
    (place / "dir").mkdir()
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(place / "dir")))
    found = {}
    while entry := libc.readdir(stream):
        ino = ctypes.c_uint64.from_address(entry).value
        found[ctypes.string_at(entry + 19)] = ino
    libc.closedir(stream)
    assert found == {b".": os.stat(place / "dir").st_ino, b"..": os.stat(place).st_ino}


def test_listing_what_is_not_a_directory(place: Path) -> None:
    write_file(place / "file")
    fails(errno.ENOTDIR, os.listdir, place / "file")
    fails(errno.ENOENT, os.listdir, place / "missing")


@pytest.mark.parametrize("count", [0, 1, 20, 30, 31])
def test_removing_trees(place: Path, count: int) -> None:
    for index in range(count):
        (place / "tree" / str(index) / "sub").mkdir(parents=True)
        write_file(place / "tree" / str(index) / "sub" / "file")
    (place / "tree").mkdir(exist_ok=True)
    assert os.stat(place / "tree").st_nlink == 2 + count
    shutil.rmtree(place / "tree")
    assert os.listdir(place) == []
