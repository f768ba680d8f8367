"""Record locks (fcntl) and BSD locks (flock) between processes."""

import errno
import fcntl
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.support import Opened, as_user, fails, write_file


def child(function: Callable[[], object]) -> object:
    """Run in another process of the same user."""
    return as_user(function, uid=0, gid=0)


def try_lock(path: Path, kind: int, start: int = 0, length: int = 0) -> None:
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, length, start)


def test_exclusive_record_locks_exclude(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fails(errno.EAGAIN, child, lambda: try_lock(path, fcntl.LOCK_EX))
        fails(errno.EAGAIN, child, lambda: try_lock(path, fcntl.LOCK_SH))
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
        child(lambda: try_lock(path, fcntl.LOCK_EX))


def test_shared_record_locks_share(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        child(lambda: try_lock(path, fcntl.LOCK_SH))
        fails(errno.EAGAIN, child, lambda: try_lock(path, fcntl.LOCK_EX))


def test_record_locks_are_ranges(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 100, 0)
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 20, 40)
        child(lambda: try_lock(path, fcntl.LOCK_EX, 40, 20))
        child(lambda: try_lock(path, fcntl.LOCK_EX, 100, 0))
        fails(errno.EAGAIN, child, lambda: try_lock(path, fcntl.LOCK_EX, 39, 1))
        fails(errno.EAGAIN, child, lambda: try_lock(path, fcntl.LOCK_EX, 60, 1))


def test_closing_any_descriptor_releases_record_locks(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.close(os.open(path, os.O_RDONLY))
        child(lambda: try_lock(path, fcntl.LOCK_EX))


def test_who_holds_a_record_lock(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 10, 5)

        def ask() -> tuple[int, int, int, int]:
            with Opened(path, os.O_RDWR) as other:
                asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
                kind, _, start, length, pid = struct.unpack(
                    "hhqqi4x", fcntl.fcntl(other, fcntl.F_GETLK, asked)
                )
                return kind, start, length, pid

        assert child(ask) == (fcntl.F_WRLCK, 5, 10, os.getpid())


def test_waiting_for_a_record_lock(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        waiter = os.fork()
        if waiter == 0:
            with Opened(path, os.O_RDWR) as other:
                fcntl.lockf(other, fcntl.LOCK_EX)
                os.pwrite(other, b"got it", 0)
            os._exit(0)
        time.sleep(0.3)
        assert os.waitpid(waiter, os.WNOHANG) == (0, 0)
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
        assert os.waitstatus_to_exitcode(os.waitpid(waiter, 0)[1]) == 0
        assert os.pread(descriptor, 6, 0) == b"got it"


def test_a_signal_ends_the_wait(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        waiter = os.fork()
        if waiter == 0:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            try:
                with Opened(path, os.O_RDWR) as other:
                    fcntl.lockf(other, fcntl.LOCK_EX)
            except KeyboardInterrupt:
                os._exit(42)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(waiter, 0)[1]) == 42


def test_the_lock_of_a_killed_process_goes(place: Path) -> None:
    path = write_file(place / "file")
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        descriptor = os.open(path, os.O_RDWR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        other = os.open(place / "flocked", os.O_CREAT | os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX)
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    fails(errno.EAGAIN, child, lambda: try_lock(path, fcntl.LOCK_EX))
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    with Opened(place / "flocked", os.O_RDWR) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def test_deadlocks_are_refused(place: Path) -> None:
    path = write_file(place / "file")
    with Opened(path, os.O_RDWR) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 0)
        reader, writer = os.pipe()
        other = os.fork()
        if other == 0:
            theirs = os.open(path, os.O_RDWR)
            fcntl.lockf(theirs, fcntl.LOCK_EX, 1, 1)
            os.write(writer, b"x")
            fcntl.lockf(theirs, fcntl.LOCK_EX, 1, 0)
            os._exit(0)
        os.read(reader, 1)
        os.close(reader)
        os.close(writer)
        time.sleep(0.3)
        fails(errno.EDEADLK, fcntl.lockf, descriptor, fcntl.LOCK_EX, 1, 1)
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0


def test_flock(place: Path) -> None:
    path = write_file(place / "file")

    def attempt(kind: int) -> None:
        with Opened(path, os.O_RDONLY) as other:
            fcntl.flock(other, kind | fcntl.LOCK_NB)

    with Opened(path, os.O_RDONLY) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        attempt(fcntl.LOCK_SH)
        fails(errno.EWOULDBLOCK, attempt, fcntl.LOCK_EX)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fails(errno.EWOULDBLOCK, attempt, fcntl.LOCK_SH)
        os.close(os.open(path, os.O_RDONLY))  # another description: does not release it
        fails(errno.EWOULDBLOCK, attempt, fcntl.LOCK_SH)
    attempt(fcntl.LOCK_EX)


def test_flock_belongs_to_the_open_file_description(place: Path) -> None:
    path = write_file(place / "file")
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    twin = os.dup(descriptor)
    os.close(descriptor)
    with Opened(path, os.O_RDONLY) as other:
        fails(errno.EWOULDBLOCK, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(twin)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY])
def test_record_locks_need_matching_access(place: Path, mode: int) -> None:
    path = write_file(place / "file")
    with Opened(path, mode) as descriptor:
        kind = fcntl.LOCK_EX if mode == os.O_RDONLY else fcntl.LOCK_SH
        fails(errno.EBADF, fcntl.lockf, descriptor, kind | fcntl.LOCK_NB)
