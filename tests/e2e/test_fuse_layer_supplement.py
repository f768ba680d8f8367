"""What the supplement below pyfuse3 adds, over a real mount: locks, fallocate, lseek, copies, ioctl."""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.shared import eventually
from tests.doubles.mounted import MountedMemory, mounted_memory

pytestmark = pytest.mark.fuse

F_OFD_SETLK = 37
PUNCH_HOLE, KEEP_SIZE, COLLAPSE_RANGE = 2, 1, 8


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedMemory]:
    with mounted_memory(tmp_path_factory.mktemp("fuse")) as mounted:
        yield mounted


@pytest.fixture
def file(mount: MountedMemory, request: pytest.FixtureRequest) -> Path:
    path: Path = mount.path / request.node.name
    path.write_bytes(b"0123456789" * 1000)
    return path


class Child:
    """A forked process that runs `action` and exits with its result; `Interrupted` by SIGUSR1."""

    def __init__(self, action: Callable[[], int]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                signal.signal(signal.SIGUSR1, _raise_interrupted)
                code = action()
            except _Interrupted:
                code = 55
            except OSError as error:
                code = error.errno or 98
            finally:
                os._exit(code)

    def result(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class _Interrupted(Exception):
    pass


def _raise_interrupted(*_: object) -> None:
    raise _Interrupted


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR)


def _try_lock(path: Path, start: int, length: int, kind: int = fcntl.LOCK_EX) -> int:
    fcntl.lockf(_opened(path), kind | fcntl.LOCK_NB, length, start)
    return 0


def test_range_locks_bind_between_processes(file: Path) -> None:
    mine = _opened(file)
    fcntl.lockf(mine, fcntl.LOCK_EX, 10, 100)
    assert Child(lambda: _try_lock(file, 105, 1)).result() == errno.EAGAIN
    assert Child(lambda: _try_lock(file, 110, 5)).result() == 0
    fcntl.lockf(mine, fcntl.LOCK_UN, 4, 104)
    assert Child(lambda: _try_lock(file, 105, 1)).result() == 0
    os.close(mine)
    assert Child(lambda: _try_lock(file, 0, 0)).result() == 0


def test_getlk_names_the_conflict(file: Path) -> None:
    mine = _opened(file)
    fcntl.lockf(mine, fcntl.LOCK_EX, 10, 100)

    def ask() -> int:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, pid = struct.unpack(
            "hhqqi4x", fcntl.fcntl(_opened(file), fcntl.F_GETLK, asked)
        )
        return 0 if (kind, start, length, pid) == (fcntl.F_WRLCK, 100, 10, os.getppid()) else 1

    assert Child(ask).result() == 0
    os.close(mine)
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    mine = _opened(file)
    assert struct.unpack("hhqqi4x", fcntl.fcntl(mine, fcntl.F_GETLK, asked))[0] == fcntl.F_UNLCK
    os.close(mine)


def test_range_locks_go_with_the_process(file: Path) -> None:
    holder = Child(lambda: _try_lock(file, 0, 0))
    assert holder.result() == 0
    assert Child(lambda: _try_lock(file, 0, 0)).result() == 0


def test_ofd_locks_go_with_the_description(file: Path) -> None:
    mine, other = _opened(file), _opened(file)
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
    fcntl.fcntl(mine, F_OFD_SETLK, lock)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(other, F_OFD_SETLK, lock)
    os.close(mine)
    eventually(lambda: _succeeds(lambda: fcntl.fcntl(other, F_OFD_SETLK, lock)), "the release of the lock")
    os.close(other)


def _succeeds(action: Callable[[], object]) -> bool:
    try:
        action()
    except BlockingIOError:
        return False
    return True


def test_bsd_locks_bind_and_go_with_the_last_descriptor(file: Path) -> None:
    mine, other = _opened(file), _opened(file)
    fcntl.flock(mine, fcntl.LOCK_SH)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    eventually(
        lambda: _succeeds(lambda: fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)), "the release of the lock"
    )
    copy = os.dup(mine)
    os.close(mine)
    assert Child(lambda: _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)).result() == errno.EAGAIN
    os.close(copy)


def _flock(path: Path, operation: int) -> int:
    fcntl.flock(_opened(path), operation)
    return 0


def test_a_waiting_lock_is_granted_when_the_holder_lets_go(mount: MountedMemory, file: Path) -> None:
    mine = _opened(file)
    fcntl.lockf(mine, fcntl.LOCK_EX)
    waits = mount.calls("lock waits")
    child = Child(lambda: fcntl.lockf(_opened(file), fcntl.LOCK_EX) or 0)
    mount.ask("wait_for_call", "lock waits", waits + 1)
    os.close(mine)
    assert child.result() == 0


@pytest.mark.parametrize("bsd", [False, True])
def test_a_signal_interrupts_a_waiting_lock(mount: MountedMemory, file: Path, bsd: bool) -> None:
    lock = fcntl.flock if bsd else fcntl.lockf
    mine = _opened(file)
    lock(mine, fcntl.LOCK_EX)
    waits = mount.calls("lock waits")
    child = Child(lambda: lock(_opened(file), fcntl.LOCK_EX) or 0)
    mount.ask("wait_for_call", "lock waits", waits + 1)
    os.kill(child.pid, signal.SIGUSR1)
    assert child.result() == 55
    os.close(mine)
    mine = _opened(file)
    eventually(
        lambda: _succeeds(lambda: lock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)), "the release of the lock"
    )
    os.close(mine)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_fallocate_extends_punches_and_refuses(file: Path) -> None:
    mine = _opened(file)
    os.posix_fallocate(mine, 0, 20_000)
    assert os.fstat(mine).st_size == 20_000
    _fallocate(mine, KEEP_SIZE, 0, 50_000)
    assert os.fstat(mine).st_size == 20_000
    _fallocate(mine, PUNCH_HOLE | KEEP_SIZE, 0, 8192)
    assert os.pread(mine, 8193, 0) == bytes(8192) + b"2"
    with pytest.raises(OSError, match="not supported"):
        _fallocate(mine, COLLAPSE_RANGE, 0, 4096)
    os.close(mine)


def test_holes_and_data_are_found(file: Path) -> None:
    mine = _opened(file)
    os.ftruncate(mine, 0)
    os.pwrite(mine, b"data", 64 * 4096)
    assert os.lseek(mine, 0, os.SEEK_DATA) == 64 * 4096
    assert os.lseek(mine, 0, os.SEEK_HOLE) == 0
    assert os.lseek(mine, 64 * 4096, os.SEEK_HOLE) == 64 * 4096 + 4
    with pytest.raises(OSError, match="No such device or address"):
        os.lseek(mine, 1 << 30, os.SEEK_DATA)
    os.close(mine)


def test_copy_file_range_is_done_by_the_file_system(mount: MountedMemory, file: Path) -> None:
    copies = mount.calls("copy_file_range")
    target = file.with_name("copied")
    source, sink = _opened(file), os.open(target, os.O_CREAT | os.O_RDWR)
    assert os.copy_file_range(source, sink, 5000, 10, 3) == 5000
    os.close(source)
    os.close(sink)
    assert mount.calls("copy_file_range") == copies + 1
    assert target.read_bytes() == bytes(3) + (b"0123456789" * 1000)[10:5010]


def test_an_unknown_ioctl_is_not_a_terminal(file: Path) -> None:
    mine = _opened(file)
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        fcntl.ioctl(mine, termios.TIOCGWINSZ, bytes(8))
    os.close(mine)


@pytest.mark.parametrize("method", ["fallocate", "copy_file_range", "setlk", "flock", "lseek"])
@pytest.mark.parametrize("number", [errno.ENOSPC, 0])
def test_failures_of_supplement_requests(mount: MountedMemory, file: Path, method: str, number: int) -> None:
    mine = _opened(file)
    os.ftruncate(mine, 1 << 20)
    actions: dict[str, Callable[[], object]] = {
        "fallocate": lambda: os.posix_fallocate(mine, 0, 100),
        "copy_file_range": lambda: os.copy_file_range(mine, mine, 10, 0, 1000),
        "setlk": lambda: fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "flock": lambda: fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "lseek": lambda: os.lseek(mine, 0, os.SEEK_DATA),
    }
    mount.ask("fault", method, number)
    with pytest.raises(OSError, match=os.strerror(number or errno.EIO)):
        actions[method]()
    actions[method]()
    os.close(mine)
