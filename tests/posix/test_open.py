"""open(2) and creat(2): flags, modes, types."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.posix.support import GROUP, OTHER_GROUP, USER, Opened, as_user, fails, write_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0, 0o600, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1777])
def test_the_umask_clears_bits_of_new_files(place: Path, mask: int, mode: int) -> None:
    old = os.umask(mask)
    try:
        os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, mode))
        os.mkdir(place / "dir", mode)
        os.mkfifo(place / "fifo", mode)
    finally:
        os.umask(old)
    assert mode_of(place / "file") == mode & ~mask
    assert mode_of(place / "dir") == mode & ~mask & 0o1777
    assert mode_of(place / "fifo") == mode & ~mask


def test_exclusive_creation(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        pass
    fails(errno.EEXIST, os.open, place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("nowhere", place / "link")
    fails(errno.EEXIST, os.open, place / "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    (place / "dir").mkdir()
    fails(errno.EEXIST, os.open, place / "dir", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_creation_through_a_dangling_symlink(place: Path) -> None:
    os.symlink("target", place / "link")
    with Opened(place / "link", os.O_CREAT | os.O_WRONLY) as descriptor:
        os.write(descriptor, b"through")
    assert (place / "target").read_bytes() == b"through"
    assert os.readlink(place / "link") == "target"


def test_creating_an_existing_file_opens_it(place: Path) -> None:
    write_file(place / "file", b"old", 0o600)
    with Opened(place / "file", os.O_CREAT | os.O_RDWR, 0o777) as descriptor:
        assert os.read(descriptor, 10) == b"old"
    assert mode_of(place / "file") == 0o600


def test_directories_cannot_be_written(place: Path) -> None:
    (place / "dir").mkdir()
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC):
        fails(errno.EISDIR, os.open, place / "dir", flags)
    fails(errno.EISDIR, os.open, place / "dir", os.O_CREAT | os.O_WRONLY)
    with Opened(place / "dir", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        fails(errno.EISDIR, os.read, descriptor, 1)


def test_o_directory_refuses_files(place: Path) -> None:
    write_file(place / "file")
    fails(errno.ENOTDIR, os.open, place / "file", os.O_RDONLY | os.O_DIRECTORY)


def test_o_nofollow_refuses_symlinks(place: Path) -> None:
    write_file(place / "file")
    os.symlink("file", place / "link")
    fails(errno.ELOOP, os.open, place / "link", os.O_RDONLY | os.O_NOFOLLOW)
    with Opened(place / "link", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        assert stat.S_ISLNK(os.fstat(descriptor).st_mode)


def test_truncation_on_open(place: Path) -> None:
    write_file(place / "file", b"x" * 100_000)
    before = os.stat(place / "file")
    with Opened(place / "file", os.O_WRONLY | os.O_TRUNC) as descriptor:
        assert os.fstat(descriptor).st_size == 0
    after = os.stat(place / "file")
    assert (after.st_size, after.st_blocks) == (0, 0)
    assert after.st_mtime_ns >= before.st_mtime_ns
    assert (place / "file").read_bytes() == b""


def test_access_modes_are_kept(place: Path) -> None:
    write_file(place / "file")
    with Opened(place / "file", os.O_WRONLY) as descriptor:
        fails(errno.EBADF, os.read, descriptor, 1)
    with Opened(place / "file", os.O_RDONLY) as descriptor:
        fails(errno.EBADF, os.write, descriptor, b"x")
        fails(errno.EINVAL, os.ftruncate, descriptor, 1)


def test_a_file_opened_for_writing_may_have_no_permissions(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR, 0) as descriptor:
        os.write(descriptor, b"hello")
        assert os.pread(descriptor, 5, 0) == b"hello"
    assert mode_of(place / "file") == 0


def test_new_files_belong_to_their_maker(place: Path) -> None:
    place.chmod(0o777)

    def make() -> None:
        os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o640))
        os.mkdir(place / "dir")
        os.symlink("x", place / "link")
        os.mkfifo(place / "fifo")

    as_user(make)
    for name in ("file", "dir", "link", "fifo"):
        found = os.lstat(place / name)
        assert (found.st_uid, found.st_gid) == (USER, GROUP), name


def test_setgid_directories_hand_down_their_group(place: Path) -> None:
    os.chown(place, 0, OTHER_GROUP)
    place.chmod(0o2777)

    def make() -> None:
        os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o640))
        os.mkdir(place / "dir", 0o755)
        os.symlink("x", place / "link")

    as_user(make)
    assert {os.lstat(place / name).st_gid for name in ("file", "dir", "link")} == {OTHER_GROUP}
    assert os.lstat(place / "dir").st_mode & stat.S_ISGID
    assert not os.lstat(place / "file").st_mode & stat.S_ISGID


def test_special_files_keep_type_and_number(place: Path) -> None:
    os.mknod(place / "character", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(place / "block", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    os.mknod(place / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(place / "fifo", stat.S_IFIFO | 0o600)
    os.mknod(place / "regular", stat.S_IFREG | 0o600)
    assert os.stat(place / "character").st_rdev == os.makedev(1, 3)
    assert os.stat(place / "block").st_rdev == os.makedev(7, 300)
    assert stat.S_ISSOCK(os.stat(place / "socket").st_mode)
    assert stat.S_ISFIFO(os.stat(place / "fifo").st_mode)
    assert stat.S_ISREG(os.stat(place / "regular").st_mode)
    fails(errno.ENXIO, os.open, place / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    fails(errno.ENXIO, os.open, place / "socket", os.O_RDONLY)
    for name in ("character", "fifo"):
        fails(errno.EEXIST, os.mknod, place / name, stat.S_IFIFO | 0o600)


def test_fifos_carry_bytes(place: Path) -> None:
    os.mkfifo(place / "fifo")
    with Opened(place / "fifo", os.O_RDWR | os.O_NONBLOCK) as descriptor:
        os.write(descriptor, b"through the pipe")
        assert os.read(descriptor, 100) == b"through the pipe"


def test_creation_changes_the_directory(place: Path) -> None:
    before = os.stat(place)
    write_file(place / "file")
    after = os.stat(place)
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    made = os.stat(place / "file")
    assert made.st_mtime_ns >= before.st_mtime_ns


def test_failed_creation_changes_nothing(place: Path) -> None:
    write_file(place / "file")
    before = os.stat(place)
    fails(errno.EEXIST, os.mkdir, place / "file")
    fails(errno.EEXIST, os.symlink, "x", place / "file")
    fails(errno.EEXIST, os.mkfifo, place / "file")
    assert os.stat(place).st_mtime_ns == before.st_mtime_ns
