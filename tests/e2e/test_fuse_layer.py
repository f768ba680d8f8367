"""The FUSE layer over a real mount: trees, attributes, xattrs, failures."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.doubles.mounted import MountedMemory, mounted_memory

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedMemory]:
    with mounted_memory(tmp_path_factory.mktemp("fuse")) as mounted:
        yield mounted


@pytest.fixture
def here(mount: MountedMemory, request: pytest.FixtureRequest) -> Path:
    directory: Path = mount.path / request.node.name.replace("/", "_")
    directory.mkdir()
    return directory


def test_a_tree_is_made_listed_and_removed(here: Path) -> None:
    (here / "a").mkdir()
    (here / "a" / "file").write_bytes(b"content")
    os.symlink("a/file", here / "link")
    os.link(here / "a" / "file", here / "second")
    assert sorted(os.listdir(here)) == ["a", "link", "second"]
    assert (here / "link").read_bytes() == b"content"
    assert os.readlink(here / "link") == "a/file"
    assert (here / "second").stat().st_nlink == 2
    os.rename(here / "a" / "file", here / "moved")
    assert os.listdir(here / "a") == []
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(here)
    os.rmdir(here / "a")
    for name in ("link", "second", "moved"):
        os.unlink(here / name)
    assert os.listdir(here) == []


def test_a_large_directory_lists_each_name_once(here: Path) -> None:
    names = {f"{number:04d}-{'x' * (number % 200)}" for number in range(700)}
    for name in names:
        (here / name).touch()
    with os.scandir(here) as entries:
        listed = [(entry.name, entry.inode()) for entry in entries]
    assert sorted(name for name, _ in listed) == sorted(names)
    assert len({ino for _, ino in listed}) == len(names)


def test_dots_have_the_right_numbers(mount: MountedMemory, here: Path) -> None:
    (here / "sub").mkdir()
    inos = {".": here.stat().st_ino, "..": mount.path.stat().st_ino}
    assert os.stat(here / ".").st_ino == inos["."]
    assert os.stat(here / "..").st_ino == inos[".."]
    assert mount.path.stat().st_ino == 1
    assert dict(_raw_listing(here))[b"."] == inos["."]
    assert dict(_raw_listing(here))[b".."] == inos[".."]
    assert dict(_raw_listing(here / "sub"))[b".."] == inos["."]


def _raw_listing(directory: Path) -> list[tuple[bytes, int]]:
    """(name, d_ino) of every entry as getdents gives them, with the dots."""
    out = subprocess.run(["ls", "-fi1", directory], check=True, capture_output=True).stdout
    return [(line.split()[1], int(line.split()[0])) for line in out.splitlines()]


def test_names_may_be_any_bytes(here: Path) -> None:
    name = os.fsencode(here) + b"/\xff\xfe \n"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    assert os.listdir(os.fsencode(here)) == [b"\xff\xfe \n"]
    with pytest.raises(OSError, match="too long"):
        (here / ("n" * 256)).touch()


def test_attributes_come_back(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x" * 5000)
    os.utime(file, ns=(1_000_000_001, -5_000_000_007))
    os.chmod(file, 0o4751)
    os.chown(file, 12, 34)
    os.chmod(file, 0o4751)
    found = file.stat()
    assert (found.st_size, found.st_blocks, found.st_blksize) == (5000, 16, 4096)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, -5_000_000_007)
    assert stat.S_IMODE(found.st_mode) == 0o4751
    assert (found.st_uid, found.st_gid) == (12, 34)
    os.truncate(file, 100)
    assert file.stat().st_size == 100
    with file.open("rb+") as opened:
        os.ftruncate(opened.fileno(), 10)
        assert os.fstat(opened.fileno()).st_size == 10


def test_special_files(here: Path) -> None:
    os.mkfifo(here / "fifo")
    os.mknod(here / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert stat.S_ISFIFO((here / "fifo").stat().st_mode)
    assert (here / "device").stat().st_rdev == os.makedev(1, 3)


def test_an_unlinked_file_lives_while_open(here: Path) -> None:
    with (here / "file").open("wb+") as opened:
        opened.write(b"still here")
        opened.flush()
        os.unlink(here / "file")
        assert os.fstat(opened.fileno()).st_nlink == 0
        assert os.pread(opened.fileno(), 100, 0) == b"still here"


def test_space_is_reported(mount: MountedMemory) -> None:
    space = os.statvfs(mount.path)
    assert (space.f_frsize, space.f_namemax) == (4096, 255)
    assert space.f_blocks * space.f_frsize == 1 << 40
    assert space.f_bavail * space.f_frsize == 1 << 39


def test_umask_is_left_to_the_file_system(here: Path) -> None:
    """The kernel passes the full mode and the umask, so that default ACLs can replace the umask."""
    before = os.umask(0o027)
    try:
        os.close(os.open(here / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(here / "dir", 0o777)
        os.mkfifo(here / "fifo", 0o666)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((here / name).stat().st_mode) for name in ("file", "dir", "fifo")]
    assert modes == [0o640, 0o750, 0o640]


def test_a_write_clears_setuid(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"a")
    os.chmod(file, 0o6777)
    assert _as_user(99, here, lambda at: os.write(os.open("file", os.O_WRONLY, dir_fd=at), b"b"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o777


def test_xattr_flags_are_passed_on(mount: MountedMemory, here: Path) -> None:
    looked = mount.calls("getxattr")
    with pytest.raises(OSError, match="No data"):
        os.setxattr(here, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(here, "user.a", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(here, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(here, "user.a", b"3", os.XATTR_REPLACE)
    assert mount.calls("getxattr") == looked, "pyfuse3 looked before setting, which is a race"
    assert os.getxattr(here, "user.a") == b"3"
    os.setxattr(here, "user.b", b"")
    assert sorted(os.listxattr(here)) == ["user.a", "user.b"]
    os.removexattr(here, "user.a")
    assert os.listxattr(here) == ["user.b"]


def test_acls_reach_the_file_system_and_bind(here: Path) -> None:
    """A POSIX ACL entry for another user lets that user in: the kernel reads it from our xattr."""
    file = here / "file"
    file.write_text("secret")
    file.chmod(0o600)
    undefined = 0xFFFFFFFF
    entries = [(1, 6, undefined), (2, 4, 99), (4, 0, undefined), (16, 4, undefined), (32, 0, undefined)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, perm, who in entries
    )
    assert _readable_as(file, 99) is False
    os.setxattr(file, "system.posix_acl_access", acl)
    os.chmod(here, 0o755)
    assert _readable_as(file, 99) is True
    assert _readable_as(file, 98) is False


def _readable_as(file: Path, uid: int) -> bool:
    return _as_user(uid, file.parent, lambda at: os.open(file.name, os.O_RDONLY, dir_fd=at))


def _as_user(uid: int, directory: Path, action: Callable[[int], object]) -> bool:
    """Whether `action`, given a descriptor of the directory, is permitted to a process of this user."""
    at = os.open(directory, os.O_RDONLY)  # the way to the mount itself may be closed to others
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action(at)
            code = 0
        except PermissionError:
            code = 1
        finally:
            os._exit(code)
    os.close(at)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, 1}
    return code == 0


@pytest.mark.parametrize(
    ("number", "method"),
    [(errno.EDQUOT, "mkdir"), (errno.ENOSPC, "mkdir"), (errno.ETIMEDOUT, "mkdir")],
)
def test_errors_arrive_as_their_errno(mount: MountedMemory, here: Path, number: int, method: str) -> None:
    mount.ask("fault", method, number)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        (here / "dir").mkdir()
    assert raised.value.errno == number


def test_a_bug_in_a_handler_is_logged_and_leaves_the_mount_alive(mount: MountedMemory, here: Path) -> None:
    mount.ask("fault", "mkdir", 0)
    with pytest.raises(OSError, match="Input/output error"):
        (here / "dir").mkdir()
    (here / "dir").mkdir()
    assert "RuntimeError: a bug" in mount.log()


def test_the_kernel_agreed_to_what_we_want(mount: MountedMemory) -> None:
    agreed = mount.ask("connection")
    capabilities = agreed["capabilities"]
    assert agreed["max_write"] == 1 << 20
    for name, bit in {"POSIX_LOCKS": 1, "FLOCK": 10, "DONT_MASK": 6, "ACL": 19, "EXPLICIT_INVAL": 25}.items():
        assert capabilities >> bit & 1, name
    for name, bit in {"AUTO_INVAL": 12, "HANDLE_KILLPRIV": 20, "EXPORT": 4, "WRITEBACK": 16}.items():
        assert not capabilities >> bit & 1, name
