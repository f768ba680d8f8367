"""Helpers of the POSIX cases: expected errnos, calls as another user, files with content."""

import ctypes
import errno
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

USER, OTHER = 65_533, 65_532
GROUP, OTHER_GROUP = 65_531, 65_530


def fails(number: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Assert that a call fails with this errno."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked below
        function(*args, **kwargs)
    got = caught.value.errno
    assert got == number, f"expected {errno.errorcode[number]}, got {errno.errorcode.get(got or 0, got)}"


def as_user(
    function: Callable[..., Any],
    *args: Any,
    uid: int = USER,
    gid: int = GROUP,
    groups: Sequence[int] = (),
) -> Any:
    """Run `function` in a child process of another user; returns its result or raises its OSError."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os.setgroups(list(groups))
            os.setgid(gid)
            os.setuid(uid)
            answer: Any = (True, function(*args))
        except OSError as error:
            answer = (False, error.errno)
        except BaseException:  # noqa: BLE001 - whatever it was, the parent reports it
            answer = (False, traceback.format_exc())
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        raw = stream.read()
    os.waitpid(child, 0)
    assert raw, "the child died"
    good, value = pickle.loads(raw)
    if good:
        return value
    assert isinstance(value, int), value
    raise OSError(value, os.strerror(value))


def write_file(path: Path, content: bytes = b"content", mode: int = 0o644) -> Path:
    """Make a file with this content and mode, whatever the umask."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Read with pread(2)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


class Opened:
    """A descriptor for a `with` block."""

    def __init__(self, path: Path | str | bytes, flags: int, mode: int = 0o644) -> None:
        self.number = os.open(path, flags, mode)

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        os.close(self.number)


libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16


def renameat2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2), which Python does not offer."""
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with a mode, which Python does not offer."""
    if libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
