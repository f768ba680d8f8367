"""Permission bits as other users meet them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.support import GROUP, OTHER, OTHER_GROUP, USER, as_user, fails, write_file

PARENT_WRITES: dict[str, Callable[[Path], object]] = {
    "create": lambda d: os.open(d / "new", os.O_CREAT | os.O_WRONLY),
    "mkdir": lambda d: os.mkdir(d / "new"),
    "symlink": lambda d: os.symlink("x", d / "new"),
    "mkfifo": lambda d: os.mkfifo(d / "new"),
    "link": lambda d: os.link(d / "mine", d / "new"),
    "unlink": lambda d: os.unlink(d / "mine"),
    "rmdir": lambda d: os.rmdir(d / "sub"),
    "rename": lambda d: os.rename(d / "mine", d / "new"),
}


@pytest.fixture
def shared(place: Path) -> Path:
    place.chmod(0o755)
    directory = place / "shared"
    directory.mkdir()
    write_file(directory / "mine", mode=0o666)
    (directory / "sub").mkdir()
    os.chown(directory / "mine", USER, GROUP)
    os.chown(directory / "sub", USER, GROUP)
    return directory


@pytest.mark.parametrize("call", PARENT_WRITES)
def test_changing_a_directory_needs_write_permission(shared: Path, call: str) -> None:
    shared.chmod(0o755)
    fails(errno.EACCES, as_user, PARENT_WRITES[call], shared)
    shared.chmod(0o777)
    as_user(PARENT_WRITES[call], shared)


@pytest.mark.parametrize("call", PARENT_WRITES)
def test_reaching_into_a_directory_needs_search_permission(shared: Path, call: str) -> None:
    shared.chmod(0o766)
    fails(errno.EACCES, as_user, PARENT_WRITES[call], shared)
    fails(errno.EACCES, as_user, os.stat, shared / "mine")


@pytest.mark.parametrize(
    ("who", "shift"), [((USER, OTHER_GROUP), 6), ((OTHER, GROUP), 3), ((OTHER, OTHER_GROUP), 0)]
)
def test_owner_group_and_others_have_bits_of_their_own(place: Path, who: tuple[int, int], shift: int) -> None:
    place.chmod(0o755)
    write_file(place / "file")
    os.chown(place / "file", USER, GROUP)
    uid, gid = who
    for bit, flags in ((4, os.O_RDONLY), (2, os.O_WRONLY)):
        os.chmod(place / "file", bit << shift)
        as_user(os.open, place / "file", flags, uid=uid, gid=gid)
        os.chmod(place / "file", 0o777 & ~(bit << shift))
        fails(errno.EACCES, as_user, os.open, place / "file", flags, uid=uid, gid=gid)


def test_supplementary_groups_count(place: Path) -> None:
    place.chmod(0o755)
    write_file(place / "file", mode=0o640)
    os.chown(place / "file", 0, OTHER_GROUP)
    fails(errno.EACCES, as_user, os.open, place / "file", os.O_RDONLY)
    as_user(os.open, place / "file", os.O_RDONLY, groups=[1, OTHER_GROUP])


def test_listing_needs_read_permission(place: Path) -> None:
    place.chmod(0o711)
    fails(errno.EACCES, as_user, os.listdir, place)
    place.chmod(0o744)
    assert as_user(os.listdir, place) == []


def test_the_sticky_bit_protects_names(place: Path) -> None:
    directory = place / "tmp"
    directory.mkdir()
    place.chmod(0o755)
    directory.chmod(0o1777)
    write_file(directory / "theirs")
    os.chown(directory / "theirs", OTHER, OTHER_GROUP)
    write_file(directory / "mine")
    os.chown(directory / "mine", USER, GROUP)
    fails(errno.EPERM, as_user, os.unlink, directory / "theirs")
    fails(errno.EPERM, as_user, os.rename, directory / "theirs", directory / "x")
    fails(errno.EPERM, as_user, os.rename, directory / "mine", directory / "theirs")
    as_user(os.rename, directory / "mine", directory / "still-mine")
    as_user(os.unlink, directory / "still-mine")
    os.chown(directory, USER, GROUP)
    as_user(os.unlink, directory / "theirs")


def test_moving_a_directory_needs_write_permission_on_it(place: Path) -> None:
    place.chmod(0o777)
    for name in ("from", "to"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
    (place / "from" / "dir").mkdir(mode=0o755)
    fails(errno.EACCES, as_user, os.rename, place / "from" / "dir", place / "to" / "dir")


def test_access(place: Path) -> None:
    place.chmod(0o755)
    write_file(place / "file", mode=0o640)
    os.chown(place / "file", USER, OTHER_GROUP)
    assert as_user(os.access, place / "file", os.R_OK | os.W_OK)
    assert not as_user(os.access, place / "file", os.X_OK)
    assert not as_user(os.access, place / "file", os.R_OK, uid=OTHER)
    assert os.access(place / "file", os.R_OK | os.W_OK)
    assert not os.access(place / "file", os.X_OK)


def test_only_root_makes_devices(place: Path) -> None:
    place.chmod(0o777)
    fails(errno.EPERM, as_user, os.mknod, place / "device", 0o020600, os.makedev(1, 3))


def test_execution(place: Path) -> None:
    place.chmod(0o755)
    script = write_file(place / "script", b"#!/bin/sh\nexit 7\n", 0o755)
    assert os.waitstatus_to_exitcode(os.system(str(script))) == 7
    script.chmod(0o644)
    fails(errno.EACCES, as_user, os.execv, str(script), ["script"])
