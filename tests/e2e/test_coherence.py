"""Two mounts of one cluster: whatever changed on one is seen by the next call on the other."""

import fcntl
import itertools
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster.shared import Pair, eventually, pair

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

ROUNDS = 1000
RECORDS = 100
LEASE_S = 5.0


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory, "coherence", lease_s=LEASE_S) as made:
        yield made


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------ one change here, one look there
# Each gets a directory as two mounts show it and a number that no other round has. It looks there before,
# so that there is something stale to be seen.


def create(here: Path, there: Path, number: int) -> None:
    assert not (there / f"new{number}").exists()
    assert f"new{number}" not in os.listdir(there)
    (here / f"new{number}").write_bytes(b"%d" % number)
    assert (there / f"new{number}").read_bytes() == b"%d" % number
    assert f"new{number}" in os.listdir(there)


def write(here: Path, there: Path, number: int) -> None:
    (there / "file").read_bytes()
    (here / "file").write_bytes(b"<%d>" % number)
    assert (there / "file").read_bytes() == b"<%d>" % number


def append(here: Path, there: Path, number: int) -> None:
    before = (there / "file").read_bytes()
    with (here / "file").open("ab") as file:
        file.write(b"+%d" % number)
    assert (there / "file").stat().st_size == len(before) + len(b"+%d" % number)
    assert (there / "file").read_bytes() == before + b"+%d" % number


def truncate(here: Path, there: Path, number: int) -> None:
    before = (there / "file").read_bytes()
    os.truncate(here / "file", number)
    assert (there / "file").stat().st_size == number
    assert (there / "file").read_bytes() == before[:number].ljust(number, b"\0")


def chmod(here: Path, there: Path, number: int) -> None:
    (there / "file").stat()
    (here / "file").chmod(0o600 | number % 64)
    assert (there / "file").stat().st_mode & 0o777 == 0o600 | number % 64


def rename(here: Path, there: Path, number: int) -> None:
    (here / f"old{number}").touch()
    assert (there / f"old{number}").exists()
    assert not (there / f"renamed{number}").exists()
    (here / f"old{number}").rename(here / f"renamed{number}")
    assert not (there / f"old{number}").exists()
    assert (there / f"renamed{number}").exists()


def rename_over(here: Path, there: Path, number: int) -> None:
    (here / "fresh").write_bytes(b"fresh %d" % number)
    before = (there / "file").stat().st_ino
    (here / "fresh").rename(here / "file")
    assert (there / "file").stat().st_ino != before
    assert (there / "file").read_bytes() == b"fresh %d" % number


def unlink(here: Path, there: Path, number: int) -> None:
    (here / f"doomed{number}").touch()
    assert (there / f"doomed{number}").exists()
    (here / f"doomed{number}").unlink()
    assert not (there / f"doomed{number}").exists()
    assert f"doomed{number}" not in os.listdir(there)


def make_and_remove_directory(here: Path, there: Path, number: int) -> None:
    links = there.stat().st_nlink
    assert not (there / f"d{number}").is_dir()
    (here / f"d{number}").mkdir()
    assert (there / f"d{number}").is_dir()
    assert there.stat().st_nlink == links + 1
    (there / f"d{number}").rmdir()
    assert not (here / f"d{number}").exists()
    assert here.stat().st_nlink == links


def symlink(here: Path, there: Path, number: int) -> None:
    assert not os.path.lexists(there / f"s{number}")
    (here / f"s{number}").symlink_to(f"target {number}")
    assert os.readlink(there / f"s{number}") == f"target {number}"
    (here / f"s{number}").unlink()
    (here / f"s{number}").symlink_to("file")
    assert os.readlink(there / f"s{number}") == "file"


def link(here: Path, there: Path, number: int) -> None:
    links = (there / "file").stat().st_nlink
    os.link(here / "file", here / f"link{number}")
    assert (there / "file").stat().st_nlink == links + 1
    assert (there / f"link{number}").samefile(there / "file")
    (there / f"link{number}").unlink()
    assert (here / "file").stat().st_nlink == links


def xattr(here: Path, there: Path, number: int) -> None:
    assert "user.gone" not in os.listxattr(there / "file")
    os.setxattr(here / "file", "user.round", b"%d" % number)
    assert os.getxattr(there / "file", "user.round") == b"%d" % number
    os.setxattr(here / "file", "user.gone", b"")
    assert "user.gone" in os.listxattr(there / "file")
    os.removexattr(here / "file", "user.gone")


def utime(here: Path, there: Path, number: int) -> None:
    (there / "file").stat()
    os.utime(here / "file", ns=(number, number * 10**9 + 1))
    assert (there / "file").stat().st_mtime_ns == number * 10**9 + 1


def write_to_a_file_that_is_open_there(here: Path, there: Path, number: int) -> None:
    with opened(there / "file", os.O_RDONLY) as reader:
        os.pread(reader, 100, 0)
        (here / "file").write_bytes(b"open %d" % number)
        assert os.pread(reader, 100, 0) == b"open %d" % number
        assert os.fstat(reader).st_size == len(b"open %d" % number)


def write_to_an_open_file(here: Path, there: Path, number: int) -> None:
    with opened(here / "file", os.O_WRONLY) as writer:
        (there / "file").read_bytes()
        os.pwrite(writer, b"%06d" % number, 0)
        assert (there / "file").read_bytes()[:6] == b"%06d" % number


CHANGES: tuple[Callable[[Path, Path, int], None], ...] = (
    create, write, append, truncate, chmod, rename, rename_over, unlink, make_and_remove_directory, symlink,
    link, xattr, utime, write_to_a_file_that_is_open_there, write_to_an_open_file,
)  # fmt: skip


def test_a_thousand_changes_are_seen_at_once(mounted: Pair) -> None:
    (mounted.one.path / "rounds").mkdir()
    (mounted.one.path / "rounds" / "file").write_bytes(b"start")
    places = (mounted.one.path / "rounds", mounted.two.path / "rounds")
    for number, change in zip(range(ROUNDS), itertools.cycle(CHANGES), strict=False):
        turn = number // len(CHANGES) % 2
        change(places[turn], places[1 - turn], number)


# ------------------------------------------------------------------ files that are open on both


def test_interleaved_writes_of_two_mounts_are_all_there(mounted: Pair) -> None:
    with ExitStack() as stack:
        ends = [
            stack.enter_context(opened(mount.path / "interleaved", os.O_RDWR | os.O_CREAT))
            for mount in (mounted.one, mounted.two)
        ]
        expected = b""
        for number in range(RECORDS):
            ours, theirs = ends if number % 2 else reversed(ends)
            record = b"%07d\n" % number
            os.pwrite(ours, record, len(expected))
            expected += record
            assert os.pread(theirs, 8, len(expected) - 8) == record
            assert os.fstat(theirs).st_size == len(expected)
    for mount in (mounted.one, mounted.two):
        assert (mount.path / "interleaved").read_bytes() == expected


APPEND = """
import os, sys
path, name, records = sys.argv[1:]
descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
print(flush=True)
sys.stdin.readline()
for number in range(int(records)):
    os.write(descriptor, f"{name} {number:05d}\\n".encode())
"""


def test_appends_of_two_mounts_lose_no_record(mounted: Pair) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND, str(mount.path / "log"), mount.name, str(RECORDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mount in (mounted.one, mounted.two)
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()  # it has the file open
    for writer in writers:
        writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
    lines = (mounted.one.path / "log").read_text().splitlines()
    assert (mounted.two.path / "log").read_text().splitlines() == lines
    for mount in (mounted.one, mounted.two):
        expected = [f"{mount.name} {number:05d}" for number in range(RECORDS)]
        assert [line for line in lines if line.startswith(mount.name)] == expected
    assert len(lines) == 2 * RECORDS


def test_a_mapped_file_shows_what_was_written_elsewhere(mounted: Pair) -> None:
    (mounted.one.path / "mapped").write_bytes(bytes(8192))
    with (
        opened(mounted.two.path / "mapped", os.O_RDONLY) as reader,
        mmap.mmap(reader, 8192, prot=mmap.PROT_READ) as mapped,
    ):
        for number in range(20):
            with (mounted.one.path / "mapped").open("r+b") as writer:
                writer.write(b"%04d" % number)
            assert mapped[:4] == b"%04d" % number


def test_an_unlinked_file_lives_on_where_it_is_open(mounted: Pair) -> None:
    path = mounted.one.path / "unlinked"
    path.write_bytes(b"content" * 100_000)
    with opened(mounted.two.path / "unlinked", os.O_RDWR) as descriptor:
        path.unlink()
        assert not (mounted.two.path / "unlinked").exists()
        assert os.fstat(descriptor).st_nlink == 0
        assert os.pread(descriptor, 7, 7 * 99_999) == b"content"
        os.pwrite(descriptor, b"CHANGED", 0)
        os.fsync(descriptor)
        assert os.pread(descriptor, 14, 0) == b"CHANGEDcontent"


# ------------------------------------------------------------------ locks


def flock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def record_lock(descriptor: int) -> None:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)


LOCKS = pytest.mark.parametrize("lock", [flock, record_lock])
HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == "flock":
    fcntl.flock(descriptor, fcntl.LOCK_EX)
else:
    fcntl.lockf(descriptor, fcntl.LOCK_EX, 10, 5)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path, lock: Callable[[int], None]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that holds the lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), lock.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def gets(lock: Callable[[int], None], descriptor: int) -> bool:
    try:
        lock(descriptor)
    except BlockingIOError:
        return False
    return True


@LOCKS
def test_a_lock_holds_across_mounts_until_its_owner_dies(mounted: Pair, lock: Callable[[int], None]) -> None:
    path = mounted.one.path / f"lock-{lock.__name__}"
    path.touch()
    with opened(mounted.two.path / path.name, os.O_RDWR) as descriptor, holder(path, lock) as process:
        assert not gets(lock, descriptor)
        process.kill()
        eventually(lambda: gets(lock, descriptor), "the lock of a dead process")


@LOCKS
def test_a_lock_of_a_killed_mount_is_released(mounted: Pair, lock: Callable[[int], None]) -> None:
    third = mounted.cluster.mount()
    path = third.path / f"orphaned-{lock.__name__}"
    path.touch()
    with opened(mounted.two.path / path.name, os.O_RDWR) as descriptor, holder(path, lock):
        assert not gets(lock, descriptor)
        third.signal(signal.SIGKILL)
        eventually(lambda: gets(lock, descriptor), "the lock of a dead mount")
    third.discard()
