"""Extended attributes and POSIX access control lists."""

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.posix.support import GROUP, OTHER, OTHER_GROUP, USER, as_user, fails, write_file

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_set_get_list_remove(place: Path, kind: str) -> None:
    path = place / kind
    write_file(path) if kind == "file" else path.mkdir()
    assert os.listxattr(path) == []
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.two", b"")
    os.setxattr(path, "user.bytes", bytes(range(256)))
    assert sorted(os.listxattr(path)) == ["user.bytes", "user.one", "user.two"]
    assert os.getxattr(path, "user.one") == b"1"
    assert os.getxattr(path, "user.two") == b""
    assert os.getxattr(path, "user.bytes") == bytes(range(256))
    os.setxattr(path, "user.one", b"again")
    assert os.getxattr(path, "user.one") == b"again"
    os.removexattr(path, "user.one")
    fails(errno.ENODATA, os.getxattr, path, "user.one")
    fails(errno.ENODATA, os.removexattr, path, "user.one")


def test_flags(place: Path) -> None:
    path = write_file(place / "file")
    fails(errno.ENODATA, os.setxattr, path, "user.x", b"1", REPLACE)
    os.setxattr(path, "user.x", b"1", CREATE)
    fails(errno.EEXIST, os.setxattr, path, "user.x", b"2", CREATE)
    os.setxattr(path, "user.x", b"3", REPLACE)
    assert os.getxattr(path, "user.x") == b"3"


def test_limits(place: Path) -> None:
    path = write_file(place / "file")
    os.setxattr(path, "user." + "n" * 250, b"v")
    fails(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"v")
    fails(errno.E2BIG, os.setxattr, path, "user.x", bytes(65_537))
    fails(errno.EOPNOTSUPP, os.setxattr, path, "nonsense.x", b"v")


def test_values_of_a_page(place: Path) -> None:
    path = write_file(place / "file")
    value = os.urandom(3000)
    os.setxattr(path, "user.big", value)
    assert os.getxattr(path, "user.big") == value


def test_trusted_and_security_namespaces(place: Path) -> None:
    path = write_file(place / "file")
    os.setxattr(path, "trusted.x", b"1")
    os.setxattr(path, "security.x", b"1")
    assert os.getxattr(path, "trusted.x") == b"1"
    place.chmod(0o755)
    fails(errno.ENODATA, as_user, os.getxattr, path, "trusted.x")


def test_they_change_ctime_only(place: Path) -> None:
    path = write_file(place / "file")
    before = os.stat(path)
    os.setxattr(path, "user.x", b"1")
    after = os.stat(path)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_user_attributes_are_for_files_and_directories(place: Path) -> None:
    os.symlink("x", place / "link")
    fails(errno.EPERM, os.setxattr, place / "link", "user.x", b"1", follow_symlinks=False)
    os.mkfifo(place / "fifo")
    fails(errno.EPERM, os.setxattr, place / "fifo", "user.x", b"1")


def test_permissions(place: Path) -> None:
    place.chmod(0o755)
    path = write_file(place / "file", mode=0o644)
    os.setxattr(path, "user.x", b"1")
    fails(errno.EACCES, as_user, os.setxattr, path, "user.x", b"2")
    assert as_user(os.getxattr, path, "user.x") == b"1"
    path.chmod(0o600)
    fails(errno.EACCES, as_user, os.getxattr, path, "user.x")


def setfacl(*arguments: object) -> None:
    subprocess.run(["setfacl", *map(str, arguments)], check=True, capture_output=True)


def getfacl(path: Path) -> list[str]:
    listing = subprocess.run(
        ["getfacl", "--omit-header", "--numeric", "--absolute-names", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.split("\t")[0] for line in listing.stdout.split("\n") if line]


def test_an_access_list_grants_and_shows_in_the_mode(place: Path) -> None:
    place.chmod(0o755)
    path = write_file(place / "file", mode=0o600)
    fails(errno.EACCES, as_user, os.open, path, os.O_RDONLY)
    setfacl("-m", f"u:{USER}:rw", path)
    as_user(os.open, path, os.O_RDWR)
    fails(errno.EACCES, as_user, os.open, path, os.O_RDONLY, uid=OTHER, gid=OTHER_GROUP)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert getfacl(path) == ["user::rw-", f"user:{USER}:rw-", "group::---", "mask::rw-", "other::---"]
    os.chmod(path, 0o640)
    fails(errno.EACCES, as_user, os.open, path, os.O_RDWR)
    as_user(os.open, path, os.O_RDONLY)
    setfacl("-b", path)
    assert getfacl(path) == ["user::rw-", "group::---", "other::---"]
    assert os.listxattr(path) == []


def test_a_list_equal_to_a_mode_is_just_the_mode(place: Path) -> None:
    path = write_file(place / "file", mode=0o600)
    setfacl("--set", "u::rwx,g::r-x,o::---", path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o750
    assert os.listxattr(path) == []


def test_default_lists_are_inherited(place: Path) -> None:
    setfacl("-d", "-m", f"u:{USER}:rwx,g:{GROUP}:r-x,o::---", place)
    old = os.umask(0o077)
    try:
        descriptor = os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666)
        os.close(descriptor)
        os.mkdir(place / "dir", 0o777)
    finally:
        os.umask(old)
    assert f"user:{USER}:rwx" in getfacl(place / "file")
    assert "mask::rw-" in getfacl(place / "file")
    assert stat.S_IMODE(os.stat(place / "file").st_mode) & 0o007 == 0
    assert f"default:user:{USER}:rwx" in getfacl(place / "dir")
    os.mkdir(place / "dir" / "sub")
    assert f"default:group:{GROUP}:r-x" in getfacl(place / "dir" / "sub")
    setfacl("-k", place / "dir")
    assert not any(line.startswith("default") for line in getfacl(place / "dir"))


def test_files_have_no_default_list(place: Path) -> None:
    path = write_file(place / "file")
    answer = subprocess.run(["setfacl", "-d", "-m", f"u:{USER}:r", str(path)], capture_output=True)
    assert answer.returncode != 0
