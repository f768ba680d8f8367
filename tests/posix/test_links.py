"""link(2), symlink(2), readlink(2)."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.posix.support import Opened, fails, write_file


def test_hard_links_share_everything(place: Path) -> None:
    write_file(place / "one", b"data", 0o640)
    before = os.stat(place / "one")
    os.link(place / "one", place / "two")
    one, two = os.stat(place / "one"), os.stat(place / "two")
    assert one == two
    assert one.st_nlink == 2
    assert one.st_ctime_ns > before.st_ctime_ns
    (place / "two").chmod(0o600)
    os.truncate(place / "two", 2)
    assert stat.S_IMODE(os.stat(place / "one").st_mode) == 0o600
    assert (place / "one").read_bytes() == b"da"
    with Opened(place / "one", os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"!")
    assert (place / "two").read_bytes() == b"da!"
    os.unlink(place / "one")
    assert os.stat(place / "two").st_nlink == 1


def test_link_refusals(place: Path) -> None:
    write_file(place / "file")
    (place / "dir").mkdir()
    fails(errno.EEXIST, os.link, place / "file", place / "dir")
    fails(errno.EEXIST, os.link, place / "file", place / "file")
    fails(errno.EPERM, os.link, place / "dir", place / "again")
    fails(errno.ENOENT, os.link, place / "missing", place / "again")


def test_links_to_special_files_and_symlinks(place: Path) -> None:
    os.mkfifo(place / "fifo")
    os.link(place / "fifo", place / "fifo2")
    assert os.stat(place / "fifo").st_nlink == 2
    os.symlink("nowhere", place / "link")
    os.link(place / "link", place / "link2", follow_symlinks=False)
    assert os.readlink(place / "link2") == "nowhere"
    assert os.lstat(place / "link").st_nlink == 2


@pytest.mark.parametrize("target", ["x", "/absolute/path", "../..", "a" * 4095, "ünï", " "])
def test_symlinks_keep_their_target(place: Path, target: str) -> None:
    os.symlink(target, place / "link")
    assert os.readlink(place / "link") == target
    found = os.lstat(place / "link")
    assert stat.S_ISLNK(found.st_mode)
    assert found.st_size == len(os.fsencode(target))


def test_symlink_targets_beyond_the_limit_are_too_long(place: Path) -> None:
    fails(errno.ENAMETOOLONG, os.symlink, "a" * 4096, place / "link")


def test_symlinks_are_followed(place: Path) -> None:
    (place / "dir").mkdir()
    write_file(place / "dir" / "file", b"found")
    os.symlink("dir", place / "link")
    assert (place / "link" / "file").read_bytes() == b"found"
    os.symlink("../dir/file", place / "dir" / "up")
    assert (place / "dir" / "up").read_bytes() == b"found"
    fails(errno.ENOENT, os.stat, place / "link" / "missing")
    fails(errno.EINVAL, os.readlink, place / "dir")


def test_symlinks_have_times_and_owners_of_their_own(place: Path) -> None:
    write_file(place / "file")
    os.symlink("file", place / "link")
    before = os.stat(place / "file")
    os.chown(place / "link", 12, 34, follow_symlinks=False)
    os.utime(place / "link", ns=(5_000_000_001, 6_000_000_002), follow_symlinks=False)
    found = os.lstat(place / "link")
    assert (found.st_uid, found.st_gid) == (12, 34)
    assert (found.st_atime_ns, found.st_mtime_ns) == (5_000_000_001, 6_000_000_002)
    assert os.stat(place / "file") == before


def test_many_links(place: Path) -> None:
    write_file(place / "file")
    for index in range(300):
        os.link(place / "file", place / f"link-{index}")
    assert os.stat(place / "file").st_nlink == 301
    for index in range(300):
        os.unlink(place / f"link-{index}")
    assert os.stat(place / "file").st_nlink == 1
