"""fallocate(2), SEEK_HOLE and SEEK_DATA, copy_file_range(2)."""

import ctypes
import errno
import os
import signal
from pathlib import Path

import pytest

from tests.posix.support import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    Opened,
    fails,
    fallocate,
    libc,
    write_file,
)

BLOCK = 4 << 20


def test_allocation_extends(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.write(descriptor, b"data")
        fallocate(descriptor, 0, 0, 10_000)
        assert os.fstat(descriptor).st_size == 10_000
        assert os.pread(descriptor, 10, 0) == b"data" + bytes(6)
        fallocate(descriptor, FALLOC_KEEP_SIZE, 0, 50_000)
        assert os.fstat(descriptor).st_size == 10_000
        os.posix_fallocate(descriptor, 15_000, 5_000)
        assert os.fstat(descriptor).st_size == 20_000


@pytest.mark.parametrize("settle", [False, True])
def test_punching_holes(place: Path, settle: bool) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.write(descriptor, b"x" * (BLOCK + 10_000))
        if settle:
            os.fsync(descriptor)
        fallocate(descriptor, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4096, BLOCK)
        assert os.fstat(descriptor).st_size == BLOCK + 10_000
        assert os.pread(descriptor, 4096, 0) == b"x" * 4096
        assert os.pread(descriptor, 8192, 4096) == bytes(8192)
        assert os.pread(descriptor, 10, BLOCK + 4096) == b"x" * 10
        assert os.pread(descriptor, 10, BLOCK + 4090) == bytes(6) + b"x" * 4
        os.fsync(descriptor)
        assert os.fstat(descriptor).st_blocks * 512 < BLOCK


def test_zeroing_ranges(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.write(descriptor, b"x" * 10_000)
        fallocate(descriptor, FALLOC_ZERO_RANGE, 5_000, 10_000)
        assert os.fstat(descriptor).st_size == 15_000
        assert os.pread(descriptor, 20_000, 4_990) == b"x" * 10 + bytes(10_000)
        fallocate(descriptor, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 0, 100_000)
        assert os.fstat(descriptor).st_size == 15_000
        assert os.pread(descriptor, 20_000, 0) == bytes(15_000)


def test_fallocate_refusals(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        fails(errno.EINVAL, fallocate, descriptor, 0, 0, 0)
        fails(errno.EINVAL, fallocate, descriptor, 0, -1, 10)
        fails(errno.EOPNOTSUPP, fallocate, descriptor, FALLOC_PUNCH_HOLE, 0, 10)
    with Opened(place / "file", os.O_RDONLY) as descriptor:
        fails(errno.EBADF, fallocate, descriptor, 0, 0, 10)


def test_holes_and_data_are_found(place: Path) -> None:
    with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, 5 * BLOCK)
        os.pwrite(descriptor, b"d" * 8192, 2 * BLOCK)
        os.fsync(descriptor)
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == 2 * BLOCK
        assert os.lseek(descriptor, 2 * BLOCK + 5, os.SEEK_DATA) == 2 * BLOCK + 5
        assert os.lseek(descriptor, 2 * BLOCK, os.SEEK_HOLE) == 2 * BLOCK + 8192
        assert os.lseek(descriptor, 7, os.SEEK_HOLE) == 7
        fails(errno.ENXIO, os.lseek, descriptor, 3 * BLOCK, os.SEEK_DATA)
        fails(errno.ENXIO, os.lseek, descriptor, 5 * BLOCK, os.SEEK_DATA)
        fails(errno.ENXIO, os.lseek, descriptor, 5 * BLOCK + 1, os.SEEK_HOLE)
        os.pwrite(descriptor, b"tail", 5 * BLOCK - 4)
        assert os.lseek(descriptor, 5 * BLOCK - 2, os.SEEK_HOLE) == 5 * BLOCK


def test_copying_ranges(place: Path) -> None:
    content = os.urandom(3 * BLOCK + 1234)
    write_file(place / "source", content)
    with (
        Opened(place / "source", os.O_RDONLY) as source,
        Opened(place / "target", os.O_CREAT | os.O_RDWR) as target,
    ):
        done = 0
        while done < len(content):
            copied = os.copy_file_range(source, target, len(content) - done, done, done)
            assert copied > 0
            done += copied
        assert os.copy_file_range(source, target, 100, len(content), len(content)) == 0
        assert os.fstat(target).st_size == len(content)
        assert os.copy_file_range(source, target, 1000, 5, BLOCK - 500) == 1000
    expected = bytearray(content)
    expected[BLOCK - 500 : BLOCK + 500] = content[5:1005]
    assert (place / "target").read_bytes() == bytes(expected)
    assert (place / "source").read_bytes() == content


def test_copies_are_independent(place: Path) -> None:
    write_file(place / "source", b"a" * 100_000)
    with (
        Opened(place / "source", os.O_RDWR) as source,
        Opened(place / "target", os.O_CREAT | os.O_RDWR) as target,
    ):
        os.copy_file_range(source, target, 100_000, 0, 0)
        os.pwrite(source, b"S", 10)
        os.pwrite(target, b"T", 20)
        assert os.pread(source, 30, 0) == b"a" * 10 + b"S" + b"a" * 19
        assert os.pread(target, 30, 0) == b"a" * 20 + b"T" + b"a" * 9
        os.unlink(place / "source")
        assert os.pread(target, 5, 99_990) == b"aaaaa"


def test_copying_within_a_file(place: Path) -> None:
    write_file(place / "file", b"0123456789" * 1000)
    with Opened(place / "file", os.O_RDWR) as descriptor:
        assert os.copy_file_range(descriptor, descriptor, 10, 0, 10_000) == 10
        fails(errno.EINVAL, os.copy_file_range, descriptor, descriptor, 100, 0, 50)
    assert (place / "file").read_bytes() == b"0123456789" * 1001


def test_searching_from_a_negative_offset_is_beyond_the_file(place: Path) -> None:
    write_file(place / "file")
    with Opened(place / "file", os.O_RDONLY) as descriptor:
        fails(errno.ENXIO, os.lseek, descriptor, -1, os.SEEK_DATA)
        fails(errno.ENXIO, os.lseek, descriptor, -1, os.SEEK_HOLE)


def test_signals_with_handlers_do_not_interrupt_work_on_ranges(place: Path) -> None:
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with Opened(place / "file", os.O_CREAT | os.O_RDWR) as descriptor:
            for index in range(30):
                os.pwrite(descriptor, b"x", index * 10_000)
                assert libc.lseek(descriptor, ctypes.c_int64(0), os.SEEK_HOLE) > 0
                fallocate(descriptor, 0, index * 20_000, 100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
