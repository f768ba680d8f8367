"""rename(2) and renameat2(2)."""

import errno
import os
from pathlib import Path

from tests.posix.support import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Opened,
    fails,
    renameat2,
    write_file,
)


def test_rename_keeps_the_inode_and_changes_times(place: Path) -> None:
    write_file(place / "old", b"data")
    (place / "dir").mkdir()
    before, parent, target = os.stat(place / "old"), os.stat(place), os.stat(place / "dir")
    os.rename(place / "old", place / "dir" / "new")
    after = os.stat(place / "dir" / "new")
    assert after.st_ino == before.st_ino
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert os.stat(place).st_mtime_ns > parent.st_mtime_ns
    assert os.stat(place / "dir").st_mtime_ns > target.st_mtime_ns
    fails(errno.ENOENT, os.stat, place / "old")


def test_rename_over_a_file_replaces_it(place: Path) -> None:
    write_file(place / "old", b"old")
    write_file(place / "new", b"new")
    os.link(place / "new", place / "kept")
    ino = os.stat(place / "old").st_ino
    os.rename(place / "old", place / "new")
    assert os.stat(place / "new").st_ino == ino
    assert (place / "new").read_bytes() == b"old"
    assert os.stat(place / "kept").st_nlink == 1
    assert sorted(os.listdir(place)) == ["kept", "new"]


def test_rename_over_an_open_file(place: Path) -> None:
    write_file(place / "old", b"old")
    write_file(place / "new", b"new")
    with Opened(place / "new", os.O_RDONLY) as descriptor:
        os.rename(place / "old", place / "new")
        assert os.read(descriptor, 10) == b"new"
        assert os.fstat(descriptor).st_nlink == 0


def test_rename_between_links_of_one_inode_does_nothing(place: Path) -> None:
    write_file(place / "one")
    os.link(place / "one", place / "two")
    os.rename(place / "one", place / "two")
    assert sorted(os.listdir(place)) == ["one", "two"]
    os.rename(place / "one", place / "one")
    assert os.stat(place / "one").st_nlink == 2


def test_rename_types(place: Path) -> None:
    write_file(place / "file")
    (place / "dir").mkdir()
    (place / "full").mkdir()
    write_file(place / "full" / "child")
    (place / "empty").mkdir()
    fails(errno.EISDIR, os.rename, place / "file", place / "dir")
    fails(errno.ENOTDIR, os.rename, place / "dir", place / "file")
    fails(errno.ENOTEMPTY, os.rename, place / "dir", place / "full")
    os.rename(place / "full", place / "empty")
    assert os.listdir(place / "empty") == ["child"]
    fails(errno.ENOENT, os.rename, place / "missing", place / "x")


def test_a_directory_cannot_move_below_itself(place: Path) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    fails(errno.EINVAL, os.rename, place / "a", place / "a" / "b" / "c" / "d")
    fails(errno.EINVAL, os.rename, place / "a", place / "a" / "b")
    fails(errno.ENOTEMPTY, os.rename, place / "a" / "b", place / "a")


def test_moving_a_directory_moves_its_parent_and_link_counts(place: Path) -> None:
    (place / "from" / "dir").mkdir(parents=True)
    (place / "to").mkdir()
    assert (os.stat(place / "from").st_nlink, os.stat(place / "to").st_nlink) == (3, 2)
    os.rename(place / "from" / "dir", place / "to" / "dir")
    assert (os.stat(place / "from").st_nlink, os.stat(place / "to").st_nlink) == (2, 3)
    assert os.stat(place / "to" / "dir" / "..").st_ino == os.stat(place / "to").st_ino
    (place / "to" / "other").mkdir()
    os.rename(place / "to" / "dir", place / "to" / "other")
    assert os.stat(place / "to").st_nlink == 3


def test_rename_of_symlinks_moves_the_link(place: Path) -> None:
    write_file(place / "file")
    os.symlink("file", place / "link")
    os.rename(place / "link", place / "moved")
    assert os.readlink(place / "moved") == "file"
    write_file(place / "other", b"x")
    os.rename(place / "other", place / "moved")
    assert (place / "moved").read_bytes() == b"x"
    assert (place / "file").exists()


def test_noreplace(place: Path) -> None:
    write_file(place / "one", b"1")
    write_file(place / "two", b"2")
    fails(errno.EEXIST, renameat2, place / "one", place / "two", RENAME_NOREPLACE)
    fails(errno.EEXIST, renameat2, place / "one", place / "one", RENAME_NOREPLACE)
    renameat2(place / "one", place / "three", RENAME_NOREPLACE)
    assert (place / "three").read_bytes() == b"1"
    assert (place / "two").read_bytes() == b"2"


def test_exchange(place: Path) -> None:
    write_file(place / "file", b"f")
    (place / "dir" / "sub").mkdir(parents=True)
    (place / "far").mkdir()
    write_file(place / "far" / "other", b"o")
    renameat2(place / "file", place / "far" / "other", RENAME_EXCHANGE)
    assert (place / "file").read_bytes() == b"o"
    assert (place / "far" / "other").read_bytes() == b"f"
    renameat2(place / "file", place / "dir", RENAME_EXCHANGE)
    assert (place / "dir").read_bytes() == b"o"
    assert os.listdir(place / "file") == ["sub"]
    renameat2(place / "far" / "other", place / "file", RENAME_EXCHANGE)
    assert os.stat(place / "far").st_nlink == 3
    assert os.stat(place / "far" / "other" / "..").st_ino == os.stat(place / "far").st_ino
    fails(errno.ENOENT, renameat2, place / "dir", place / "missing", RENAME_EXCHANGE)
    fails(errno.EINVAL, renameat2, place / "dir", place / "x", RENAME_EXCHANGE | RENAME_NOREPLACE)
    (place / "p" / "q").mkdir(parents=True)
    fails(errno.EINVAL, renameat2, place / "p", place / "p" / "q", RENAME_EXCHANGE)


def test_rename_across_file_systems(place: Path) -> None:
    write_file(place / "file")
    fails(errno.EXDEV, os.rename, place / "file", "/dev/here")
    fails(errno.EXDEV, os.link, place / "file", "/dev/here")


def test_the_usual_replacement_of_a_file(place: Path) -> None:
    """Write a new version beside a file and rename it over: readers see one or the other."""
    write_file(place / "file", b"version 0")
    for version in range(1, 20):
        with Opened(place / "file.new", os.O_CREAT | os.O_EXCL | os.O_WRONLY) as descriptor:
            os.write(descriptor, f"version {version}".encode())
        os.rename(place / "file.new", place / "file")
        assert (place / "file").read_bytes() == f"version {version}".encode()
