"""unlink(2), rmdir(2), and files that live on while they are open."""

import errno
import os
import stat
from pathlib import Path

from tests.posix.support import Opened, fails, write_file


def test_unlink_removes_a_name(place: Path) -> None:
    write_file(place / "file")
    before = os.stat(place)
    os.unlink(place / "file")
    fails(errno.ENOENT, os.stat, place / "file")
    fails(errno.ENOENT, os.unlink, place / "file")
    assert os.stat(place).st_mtime_ns > before.st_mtime_ns


def test_unlink_of_any_type(place: Path) -> None:
    os.symlink("nowhere", place / "link")
    os.mkfifo(place / "fifo")
    os.mknod(place / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name in ("link", "fifo", "device"):
        os.unlink(place / name)
    assert os.listdir(place) == []


def test_unlink_refuses_directories(place: Path) -> None:
    (place / "dir").mkdir()
    fails(errno.EISDIR, os.unlink, place / "dir")


def test_unlink_of_a_symlink_leaves_its_target(place: Path) -> None:
    write_file(place / "file")
    os.symlink("file", place / "link")
    os.unlink(place / "link")
    assert (place / "file").exists()


def test_unlink_lowers_the_link_count_and_changes_ctime(place: Path) -> None:
    write_file(place / "file")
    os.link(place / "file", place / "other")
    before = os.stat(place / "other")
    os.unlink(place / "file")
    after = os.stat(place / "other")
    assert (before.st_nlink, after.st_nlink) == (2, 1)
    assert after.st_ctime_ns > before.st_ctime_ns


def test_rmdir(place: Path) -> None:
    (place / "dir").mkdir()
    assert os.stat(place).st_nlink == 3
    os.rmdir(place / "dir")
    assert os.stat(place).st_nlink == 2
    fails(errno.ENOENT, os.rmdir, place / "dir")


def test_rmdir_refuses_what_is_not_an_empty_directory(place: Path) -> None:
    (place / "dir").mkdir()
    write_file(place / "dir" / "file")
    fails(errno.ENOTEMPTY, os.rmdir, place / "dir")
    fails(errno.ENOTDIR, os.rmdir, place / "dir" / "file")
    os.symlink("dir", place / "link")
    fails(errno.ENOTDIR, os.rmdir, place / "link")


def test_an_unlinked_open_file_lives_until_its_last_close(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.write(descriptor, b"before")
        os.unlink(place / "file")
        assert os.fstat(descriptor).st_nlink == 0
        os.write(descriptor, b" and after")
        os.fsync(descriptor)
        assert os.pread(descriptor, 100, 0) == b"before and after"
        os.ftruncate(descriptor, 6)
        os.fchmod(descriptor, 0o600)
        assert os.fstat(descriptor).st_size == 6
        fails(errno.ENOENT, os.stat, place / "file")
        write_file(place / "file", b"another")
        assert os.pread(descriptor, 100, 0) == b"before"
    assert (place / "file").read_bytes() == b"another"


def test_an_unlinked_file_can_be_reached_by_its_descriptor_only(place: Path) -> None:
    write_file(place / "file", b"data")
    with Opened(place / "file", os.O_RDONLY) as descriptor:
        os.unlink(place / "file")
        assert Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"data"


def test_a_removed_directory_that_is_open(place: Path) -> None:
    (place / "dir").mkdir()
    descriptor = os.open(place / "dir", os.O_RDONLY)
    try:
        os.rmdir(place / "dir")
        assert os.fstat(descriptor).st_nlink == 0
        assert os.listdir(descriptor) == []
        fails(errno.ENOENT, os.open, "file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
        fails(errno.ENOENT, os.mkdir, "sub", dir_fd=descriptor)
    finally:
        os.close(descriptor)


def test_many_names_removed_while_listing(place: Path) -> None:
    names = {f"file-{index:04}" for index in range(1500)}
    for name in names:
        os.close(os.open(place / name, os.O_CREAT | os.O_WRONLY))
    seen = set()
    with os.scandir(place) as entries:
        for entry in entries:
            assert entry.name not in seen
            seen.add(entry.name)
            os.unlink(entry.path)
    assert seen == names
    assert os.listdir(place) == []
