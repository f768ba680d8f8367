"""chmod, chown, utimensat, and which calls change which times."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from tests.posix.support import GROUP, OTHER, OTHER_GROUP, USER, Opened, as_user, fails, write_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("mode", [0, 0o111, 0o644, 0o777, 0o1777, 0o4755, 0o2755, 0o7777])
def test_chmod(place: Path, mode: int) -> None:
    write_file(place / "file")
    (place / "dir").mkdir()
    before = os.stat(place / "file")
    os.chmod(place / "file", mode)
    os.chmod(place / "dir", mode)
    after = os.stat(place / "file")
    assert mode_of(place / "file") == mode_of(place / "dir") == mode
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_fchmod_and_fchown_work_on_descriptors(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.fchmod(descriptor, 0o4711)
        os.fchown(descriptor, 11, 22)
        found = os.fstat(descriptor)
    assert (found.st_uid, found.st_gid) == (11, 22)
    assert os.stat(place / "file").st_uid == 11


def test_chmod_by_others_is_refused(place: Path) -> None:
    place.chmod(0o777)
    write_file(place / "file")
    fails(errno.EPERM, as_user, os.chmod, place / "file", 0o777)
    os.chown(place / "file", USER, GROUP)
    as_user(os.chmod, place / "file", 0o4700)
    assert mode_of(place / "file") == 0o4700


def test_setgid_goes_when_the_owner_is_not_in_the_group(place: Path) -> None:
    place.chmod(0o777)
    write_file(place / "file")
    os.chown(place / "file", USER, OTHER_GROUP)
    as_user(os.chmod, place / "file", 0o2755)
    assert mode_of(place / "file") == 0o755
    as_user(os.chmod, place / "file", 0o2755, groups=[OTHER_GROUP])
    assert mode_of(place / "file") == 0o2755


def test_the_sticky_bit_of_files_is_for_root_or_nobody(place: Path) -> None:
    write_file(place / "file")
    os.chmod(place / "file", 0o1644)
    assert mode_of(place / "file") == 0o1644


def test_chown(place: Path) -> None:
    write_file(place / "file")
    before = os.stat(place / "file")
    os.chown(place / "file", 123, 456)
    found = os.stat(place / "file")
    assert (found.st_uid, found.st_gid) == (123, 456)
    assert found.st_ctime_ns > before.st_ctime_ns
    os.chown(place / "file", -1, 789)
    os.chown(place / "file", 321, -1)
    found = os.stat(place / "file")
    assert (found.st_uid, found.st_gid) == (321, 789)


def test_owners_may_give_files_to_their_groups_only(place: Path) -> None:
    place.chmod(0o777)
    write_file(place / "file")
    os.chown(place / "file", USER, GROUP)
    fails(errno.EPERM, as_user, os.chown, place / "file", OTHER, -1)
    fails(errno.EPERM, as_user, os.chown, place / "file", -1, OTHER_GROUP)
    as_user(os.chown, place / "file", -1, OTHER_GROUP, groups=[OTHER_GROUP])
    assert os.stat(place / "file").st_gid == OTHER_GROUP


def test_chown_by_a_user_clears_setuid_and_setgid(place: Path) -> None:
    place.chmod(0o777)
    write_file(place / "file")
    os.chown(place / "file", USER, GROUP)
    os.chmod(place / "file", 0o6755)
    as_user(os.chown, place / "file", -1, OTHER_GROUP, groups=[OTHER_GROUP])
    assert mode_of(place / "file") == 0o755


def test_writing_by_a_user_clears_setuid_and_setgid(place: Path) -> None:
    place.chmod(0o777)
    write_file(place / "file", b"x" * 100)
    os.chown(place / "file", OTHER, OTHER_GROUP)

    def write() -> None:
        with Opened(place / "file", os.O_WRONLY) as descriptor:
            os.write(descriptor, b"y")

    def truncate() -> None:
        os.truncate(place / "file", 5)

    for change in (write, truncate):
        os.chmod(place / "file", 0o6777)
        as_user(change)
        assert mode_of(place / "file") == 0o777, change.__name__
        os.chmod(place / "file", 0o6777)
        change()  # root keeps them
        if change is write:
            assert mode_of(place / "file") == 0o6777


@pytest.mark.parametrize(
    ("atime", "mtime"),
    [(0, 0), (1, 999_999_999), (1_700_000_000_123_456_789, 1_600_000_000_987_654_321), (2**32 * 10**9, 1)],
)
def test_times_keep_nanoseconds(place: Path, atime: int, mtime: int) -> None:
    write_file(place / "file")
    os.utime(place / "file", ns=(atime, mtime))
    found = os.stat(place / "file")
    assert (found.st_atime_ns, found.st_mtime_ns) == (atime, mtime)


def test_times_before_the_epoch(place: Path) -> None:
    write_file(place / "file")
    os.utime(place / "file", ns=(-1_000_000_000, -2_500_000_000))
    found = os.stat(place / "file")
    assert (found.st_atime_ns, found.st_mtime_ns) == (-1_000_000_000, -2_500_000_000)


def test_utime_now_and_permissions(place: Path) -> None:
    place.chmod(0o777)
    write_file(place / "file", mode=0o666)
    os.utime(place / "file", ns=(1, 1))
    started = time.time_ns() - 20_000_000
    as_user(os.utime, place / "file")
    found = os.stat(place / "file")
    assert found.st_mtime_ns >= started
    fails(errno.EPERM, as_user, os.utime, place / "file", (1, 1))
    os.chmod(place / "file", 0o644)
    fails(errno.EACCES, as_user, os.utime, place / "file")


def test_utime_changes_ctime(place: Path) -> None:
    write_file(place / "file")
    before = os.stat(place / "file")
    os.utime(place / "file", ns=(1, 2))
    assert os.stat(place / "file").st_ctime_ns > before.st_ctime_ns


def test_writing_changes_mtime_and_ctime(place: Path) -> None:
    write_file(place / "file")
    os.utime(place / "file", ns=(1, 2))
    before = os.stat(place / "file")
    with Opened(place / "file", os.O_WRONLY) as descriptor:
        os.write(descriptor, b"x")
        during = os.fstat(descriptor)
    after = os.stat(place / "file")
    assert during.st_mtime_ns > before.st_mtime_ns
    assert during.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == during.st_mtime_ns


def test_times_set_after_writing_stay(place: Path) -> None:
    """As cp -p and tar do: write, then set times, then close."""
    with Opened(place / "file", os.O_CREAT | os.O_WRONLY) as descriptor:
        os.write(descriptor, b"data")
        os.utime(descriptor, ns=(1_000_000_000, 2_000_000_000))
    with Opened(place / "file", os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
    assert os.stat(place / "file").st_mtime_ns == 2_000_000_000
    time.sleep(1.8)  # long enough for writing behind to have happened
    assert os.stat(place / "file").st_mtime_ns == 2_000_000_000


def test_stat_fields(place: Path) -> None:
    write_file(place / "file", b"x" * 5000)
    with Opened(place / "file", os.O_RDONLY) as descriptor:
        os.fsync(descriptor)
    found = os.stat(place / "file")
    assert found.st_size == 5000
    assert found.st_blocks * 512 >= 5000
    assert found.st_blocks * 512 <= 16384
    assert found.st_nlink == 1
    assert found.st_dev == os.stat(place).st_dev
    assert found.st_blksize >= 512


def test_inode_numbers_differ(place: Path) -> None:
    for index in range(50):
        write_file(place / str(index))
    assert len({os.stat(place / str(index)).st_ino for index in range(50)}) == 50


def test_statvfs(place: Path) -> None:
    found = os.statvfs(place)
    assert found.f_namemax == 255
    assert 0 < found.f_bfree <= found.f_blocks
    assert found.f_bavail <= found.f_bfree
    assert found.f_files > 0
